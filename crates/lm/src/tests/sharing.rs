//! Models of the same files, each with an adapter of its own, over one copy of the weights.

use std::path::Path;
use std::sync::Arc;

use candle_core::quantized::GgmlDType;
use evalign_core::{Dtype, GenerateParams};
use serde_json::json;
use tempfile::TempDir;

use super::tiny;
use crate::adapter::{Adapter, AdapterConfig, CONFIG_FILE, PREFIX, Targets, WEIGHTS_FILE};
use crate::language_model::Engine;
use crate::training::{Module, WeightId};
use crate::{GenerateItem, LanguageModel, LoadOptions};

const RANK: usize = 4;
const TOKENS: [u32; 6] = [3, 17, 44, 5, 90, 21];

/// Files that no other test has: models of these would share with its.
fn directory(eps: f64) -> TempDir {
    let mut config = tiny::llama();
    config["rms_norm_eps"] = json!(eps);
    tiny::directory(&config)
}

/// An adapter of all linear layers, another one for each name.
fn adapter(model: &LanguageModel, name: &str) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    let targets = Module::ALL.map(|module| module.name().to_owned()).to_vec();
    let config =
        AdapterConfig { r: RANK, target_modules: Targets::Names(targets), ..AdapterConfig::default() };
    fs_err::write(place.path().join(CONFIG_FILE), config.to_json()).unwrap();
    let mut tensors = Vec::new();
    for layer in 0..model.layers() {
        for module in Module::ALL {
            let [outputs, inputs] = model.module_shape(module);
            let a = (WeightId::LowRankA(layer, module), vec![RANK, inputs]);
            let b = (WeightId::LowRankB(layer, module), vec![outputs, RANK]);
            for (id, shape) in [a, b] {
                let values = tiny::weights(&format!("{name} {}", id.name()), shape.iter().product());
                tensors.push((format!("{PREFIX}{}", id.name()), shape, values));
            }
        }
    }
    tiny::write_tensors(&place.path().join(WEIGHTS_FILE), tensors);
    place
}

fn load(path: &Path, dtype: Dtype, adapter: Option<&TempDir>) -> LanguageModel {
    let adapter = adapter.map(|place| place.path().to_owned());
    let options = LoadOptions { dtype: Some(dtype), adapter, threads: Some(2), ..LoadOptions::default() };
    LanguageModel::load(path, &options).unwrap()
}

fn shared(one: &LanguageModel, other: &LanguageModel) -> bool {
    match (&one.engine, &other.engine) {
        (Engine::Cpu(one), Engine::Cpu(other)) => Arc::ptr_eq(&one.base, &other.base),
        _ => false,
    }
}

fn bits(model: &LanguageModel) -> Vec<u32> {
    model.logits(&TOKENS).unwrap().iter().map(|logit| logit.to_bits()).collect()
}

/// Ids of greedy texts.
fn texts(model: &LanguageModel) -> Vec<Vec<u32>> {
    let params = GenerateParams { max_tokens: 24, ..GenerateParams::default() };
    let item = |first: u32| {
        let prompt = TOKENS.iter().map(|token| (token + first) % 96).collect();
        GenerateItem { prompt, params: params.clone(), stop_ids: Vec::new() }
    };
    let items: Vec<GenerateItem> = (0..6).map(item).collect();
    let outputs = tiny::results(items.len(), |on_event| model.generate(&items, on_event));
    outputs.into_iter().map(|output| output.unwrap().ids).collect()
}

#[test]
fn adapters_compute_with_one_copy_what_they_do_with_their_own() {
    let directory = directory(1.1e-5);
    let base = load(directory.path(), Dtype::F32, None);
    let alone = bits(&base);
    let [one, two] = ["one", "two"].map(|name| adapter(&base, name));
    let [first, second] = [&one, &two].map(|place| load(directory.path(), Dtype::F32, Some(place)));
    assert!(shared(&base, &first) && shared(&base, &second));
    for (model, place) in [(&first, &one), (&second, &two)] {
        let engine = Engine::Cpu(tiny::cpu(directory.path()));
        let mut own = LanguageModel::of_engine(engine, tiny::tokenizer(directory.path()));
        assert!(!shared(&own, &base));
        own.apply(&Adapter::read(place.path()).unwrap()).unwrap();
        assert_eq!(bits(model), bits(&own));
        assert_ne!(bits(model), alone);
    }
    assert_ne!(bits(&first), bits(&second));
    assert_eq!(bits(&base), alone);

    // Whoever goes takes nothing from the others, the model without adapter included.
    let expected = bits(&second);
    drop((first, base));
    assert_eq!(bits(&second), expected);
    let again = load(directory.path(), Dtype::F32, None);
    assert!(shared(&again, &second));
    assert_eq!(bits(&again), alone);
}

#[test]
fn quantised_weights_are_shared_too() {
    let place = tempfile::tempdir().unwrap();
    let path = place.path().join("model.gguf");
    tiny::write_gguf(&path, GgmlDType::Q8_0, &[]);
    let engine = Engine::Cpu(tiny::cpu_gguf(&path, Dtype::Q));
    let held = tiny::cpu_gguf(&path, Dtype::Q);
    let words = tiny::directory(&tiny::llama());
    let mut own = LanguageModel::of_engine(engine, tiny::tokenizer(words.path()));
    let adapter = Adapter::read(adapter(&own, "quantised").path()).unwrap();
    own.apply(&adapter).unwrap();
    let over = |decoder| {
        let mut model = LanguageModel::of_engine(Engine::Cpu(decoder), tiny::tokenizer(words.path()));
        model.apply(&adapter).unwrap();
        model
    };
    let share = || {
        let fresh = tiny::cpu_gguf(&path, Dtype::Q);
        crate::decoder::Decoder::new(fresh.backend, fresh.config, held.base.clone())
    };
    let (one, two) = (over(share()), over(share()));
    assert!(shared(&one, &two) && !shared(&one, &own));
    assert_eq!((bits(&one), bits(&two)), (bits(&own), bits(&own)));
}

#[test]
fn two_that_answer_at_the_same_time_do_not_disturb_each_other() {
    let directory = directory(1.2e-5);
    let base = load(directory.path(), Dtype::F32, None);
    let [one, two] = ["one", "two"].map(|name| adapter(&base, name));
    let models = [None, Some(&one), Some(&two)].map(|place| load(directory.path(), Dtype::F32, place));
    let expected: Vec<_> = models.iter().map(texts).collect();
    assert!(expected[0] != expected[1] && expected[1] != expected[2]);
    std::thread::scope(|scope| {
        for (model, expected) in models.iter().zip(&expected) {
            scope.spawn(move || (0..4).for_each(|_| assert_eq!(texts(model), *expected)));
        }
    });
}

#[test]
fn weights_that_are_trained_are_one_s_own() {
    let directory = directory(1.3e-5);
    let (base, mut trained) =
        (load(directory.path(), Dtype::F32, None), load(directory.path(), Dtype::F32, None));
    assert!(shared(&base, &trained));
    let expected = bits(&base);
    let id = WeightId::Weight(1, Module::Value);
    let values: Vec<f32> = trained.weight_values(id).unwrap().iter().map(|value| value * 1.5).collect();
    trained.set_weights(&|wanted| (wanted == id).then_some(values.as_slice())).unwrap();
    assert!(!shared(&base, &trained));
    assert_ne!(bits(&trained), expected);
    assert_eq!(bits(&base), expected);
    // What is held is what the files have, also where nobody shared it when it was changed.
    drop(base);
    let again = load(directory.path(), Dtype::F32, None);
    assert_eq!(bits(&again), expected);
    drop(trained);
    let mut only = again;
    only.set_weights(&|wanted| (wanted == id).then_some(values.as_slice())).unwrap();
    assert_eq!(bits(&load(directory.path(), Dtype::F32, None)), expected);
    assert_ne!(bits(&only), expected);
}
