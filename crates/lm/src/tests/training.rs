//! Gradients of whole models, of every family and on both backends, against candle's autograd over plain operations
//! (`oracle`), and the properties that training rests on.

mod oracle;

use std::collections::BTreeMap;

use candle_core::quantized::GgmlDType;
use evalign_core::Dtype;
use serde_json::{Value, json};

use super::tiny;
use crate::language_model::Engine;
use crate::training::{
    AdapterWeights, Dropout, GradientBuffers, Label, Lesson, Module, Reading, Readout, Recompute, TokenTree,
    TrainingSpace, WeightId,
};
use crate::{LanguageModel, LmError, LoadOptions};
use oracle::Oracle;

const RANK: usize = 3;
const SCALE: f32 = 1.5;

/// Trained weights by their ids, with their shapes.
type Trained = BTreeMap<WeightId, (Vec<usize>, Vec<f32>)>;

fn tokens(seed: u32, count: u32) -> Vec<u32> {
    (0..count).map(|i| (i * 29 + seed * 31 + 3) % 96).collect()
}

fn noise(seed: u64, count: usize) -> Vec<f32> {
    let next = |i: usize| {
        let bits = (seed * 7919 + i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((bits ^ (bits >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 40) as f32 / 16_777_216.0 - 0.5
    };
    (0..count).map(next).collect()
}

/// A prompt with two answers, one text alone, and a text without a common beginning.
fn trees() -> Vec<TokenTree> {
    vec![
        TokenTree { trunk: tokens(1, 9), branches: vec![tokens(2, 5), tokens(3, 7)] },
        TokenTree { trunk: tokens(4, 6), branches: Vec::new() },
        TokenTree { trunk: Vec::new(), branches: vec![tokens(5, 4)] },
    ]
}

/// Labels of the trees: of the last prompt token for both answers, of answers, of the single texts.
fn labels() -> Vec<Label> {
    [8, 8, 10, 13, 18, 20, 22, 26, 29]
        .iter()
        .map(|row| Label { row: *row, token: (*row as u32 * 7) % 96 })
        .collect()
}

fn load(directory: &std::path::Path, candle: bool) -> LanguageModel {
    let engine = match candle {
        true => Engine::Candle(tiny::candle(directory)),
        false => Engine::Cpu(tiny::cpu(directory)),
    };
    let mut model = LanguageModel::of_engine(engine, tiny::tokenizer(directory));
    model.prepare_training().unwrap();
    model
}

fn adapters(model: &LanguageModel, dora: bool) -> Trained {
    let mut trained = Trained::new();
    for layer in 0..model.layers() {
        for (index, module) in Module::ALL.into_iter().enumerate() {
            let [outputs, inputs] = model.module_shape(module);
            let seed = (layer * 10 + index) as u64;
            let mut add = |id, shape: Vec<usize>, shift: f32, factor: f32| {
                let values = noise(seed, shape.iter().product()).iter().map(|v| shift + factor * v).collect();
                trained.insert(id, (shape, values));
            };
            add(WeightId::LowRankA(layer, module), vec![RANK, inputs], 0.0, 0.3);
            add(WeightId::LowRankB(layer, module), vec![outputs, RANK], 0.0, 0.2);
            if dora {
                add(WeightId::Magnitude(layer, module), vec![outputs], 1.2, 0.5);
            }
        }
    }
    trained
}

fn all_weights(model: &LanguageModel) -> Trained {
    model.weights().into_iter().map(|(id, shape)| (id, (shape, model.weight_values(id).unwrap()))).collect()
}

fn install(model: &mut LanguageModel, trained: &Trained) {
    let values = |id| trained.get(&id).map(|(_, values)| values.as_slice());
    let adapter = |layer, module| {
        Some(AdapterWeights {
            rank: RANK,
            scale: SCALE,
            a: values(WeightId::LowRankA(layer, module))?,
            b: values(WeightId::LowRankB(layer, module))?,
            magnitude: values(WeightId::Magnitude(layer, module)),
        })
    };
    model.adapt(&adapter).unwrap();
    model.set_weights(&values).unwrap();
}

/// Gradients of `sum coefficient * log-probability`, and the log-probabilities.
fn learn(
    model: &LanguageModel,
    trained: &Trained,
    lesson: &Lesson<'_>,
) -> (Vec<f32>, BTreeMap<WeightId, Vec<f32>>) {
    let places: BTreeMap<WeightId, usize> =
        trained.keys().enumerate().map(|(place, id)| (*id, place)).collect();
    let mut buffers: Vec<Vec<f32>> = trained.values().map(|(_, values)| vec![0.0; values.len()]).collect();
    let mut logps = Vec::new();
    let mut respond = |reading: &Reading| match reading {
        Reading::Labels(labels) => {
            logps = labels.iter().map(|label| label.logprob).collect();
            noise(99, labels.len())
        }
        Reading::Hidden(values) | Reading::Logits(values) => noise(99, values.len()),
    };
    let mut gradients = GradientBuffers::new(&places, &mut buffers);
    model.learn(lesson, &mut TrainingSpace::default(), &mut respond, &mut gradients).unwrap();
    (logps, trained.keys().copied().zip(buffers).collect())
}

fn families() -> Vec<(String, Value)> {
    let fixture: Value = serde_json::from_str(include_str!("families.json")).unwrap();
    let families = fixture["families"].as_array().unwrap();
    families
        .iter()
        .map(|family| (family["name"].as_str().unwrap().to_owned(), family["config"].clone()))
        .collect()
}

fn close(found: &[f32], expected: &[f32], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let length = expected.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>().sqrt();
    let off = found.iter().zip(expected).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt();
    assert!(off <= 2e-4 * length + 1e-5, "{what}: off by {off}, length {length}");
}

#[test]
fn promise_16_every_family_has_the_gradients_of_autograd() {
    let (trees, labels) = (trees(), labels());
    for (name, config) in families() {
        let directory = tiny::directory(&config);
        for candle in [false, true] {
            let mut model = load(directory.path(), candle);
            for kind in ["all weights", "LoRA", "DoRA"] {
                let trained = match kind {
                    "all weights" => all_weights(&model),
                    other => adapters(&model, other == "DoRA"),
                };
                let oracle = Oracle::new(&config, &all_weights(&model), &trained, SCALE);
                install(&mut model, &trained);
                let lesson = Lesson::new(&trees, Readout::Labels(&labels));
                let (logps, gradients) = learn(&model, &trained, &lesson);
                let (expected_logps, expected) = oracle.gradients(&trees, &labels, &noise(99, labels.len()));
                let what = format!("{name}, {kind}, candle {candle}");
                close(&logps, &expected_logps, &what);
                for (id, gradient) in &gradients {
                    close(gradient, &expected[id], &format!("{what}: {id:?}"));
                }
                install(&mut model, &Trained::new());
            }
        }
    }
}

#[test]
fn an_adapter_may_be_there_before_the_model_is_prepared() {
    let directory = tiny::directory(&tiny::llama());
    let (trees, labels) = (trees(), labels());
    let lesson = Lesson::new(&trees, Readout::Labels(&labels));
    for dora in [false, true] {
        let mut prepared = load(directory.path(), false);
        let trained = adapters(&prepared, dora);
        install(&mut prepared, &trained);
        let engine = Engine::Cpu(tiny::cpu(directory.path()));
        let mut adapted = LanguageModel::of_engine(engine, tiny::tokenizer(directory.path()));
        install(&mut adapted, &trained);
        adapted.prepare_training().unwrap();
        assert_eq!(learn(&adapted, &trained, &lesson), learn(&prepared, &trained, &lesson), "DoRA {dora}");
    }
}

/// What is frozen costs nothing and what is computed again is the same, bit for bit, with dropout too.
#[test]
fn recomputation_and_threads_change_no_bit() {
    let config =
        families().into_iter().find(|(name, _)| name.contains("qwen3")).map_or_else(tiny::llama, |(_, c)| c);
    let directory = tiny::directory(&config);
    let (trees, labels) = (trees(), labels());
    let row_keys: Vec<u64> = (0..31).collect();
    let run = |threads, recompute, rate| {
        let options = LoadOptions { threads: Some(threads), ..LoadOptions::default() };
        let mut model = LanguageModel::load(directory.path(), &options).unwrap();
        model.prepare_training().unwrap();
        let trained = adapters(&model, false);
        install(&mut model, &trained);
        let dropout = Some(Dropout { rate, key: 5, row_keys: &row_keys });
        let lesson = Lesson { dropout, recompute, ..Lesson::new(&trees, Readout::Labels(&labels)) };
        learn(&model, &trained, &lesson)
    };
    for rate in [0.0, 0.3] {
        let plain = run(1, Recompute::Never, rate);
        for (threads, recompute) in
            [(3, Recompute::Never), (2, Recompute::Always), (1, Recompute::Within { bytes: 40_000 })]
        {
            assert_eq!(
                run(threads, recompute, rate),
                plain,
                "{threads} threads, {recompute:?}, dropout {rate}"
            );
        }
    }
    assert_ne!(run(1, Recompute::Never, 0.0).0, run(1, Recompute::Never, 0.3).0);
}

/// A step against the slope that it was computed from: dropout's gradient is that of the function with dropout.
#[test]
fn dropout_has_the_gradient_of_what_it_computes() {
    let directory = tiny::directory(&tiny::llama());
    let (trees, labels) = (trees(), labels());
    let row_keys: Vec<u64> = (100..131).collect();
    let dropout = Some(Dropout { rate: 0.25, key: 9, row_keys: &row_keys });
    let mut model = load(directory.path(), false);
    let trained = adapters(&model, false);
    install(&mut model, &trained);
    let lesson = Lesson { dropout, ..Lesson::new(&trees, Readout::Labels(&labels)) };
    let (_, gradients) = learn(&model, &trained, &lesson);
    let value = |model: &mut LanguageModel, moved: &Trained| -> f64 {
        install(model, moved);
        let (logps, _) = learn(model, moved, &lesson);
        logps.iter().zip(noise(99, labels.len())).map(|(logp, c)| f64::from(*logp) * f64::from(c)).sum()
    };
    let direction: BTreeMap<WeightId, Vec<f32>> =
        trained.iter().enumerate().map(|(i, (id, (_, v)))| (*id, noise(i as u64 + 500, v.len()))).collect();
    let step = 2e-3f32;
    let moved = |sign: f32| -> Trained {
        let move_one = |id: &WeightId, values: &[f32]| {
            values.iter().zip(&direction[id]).map(|(v, d)| v + sign * step * d).collect()
        };
        trained.iter().map(|(id, (shape, values))| (*id, (shape.clone(), move_one(id, values)))).collect()
    };
    let numeric = (value(&mut model, &moved(1.0)) - value(&mut model, &moved(-1.0))) / f64::from(2.0 * step);
    let dot = |id: &WeightId| {
        gradients[id].iter().zip(&direction[id]).map(|(g, d)| f64::from(*g) * f64::from(*d)).sum::<f64>()
    };
    let analytic: f64 = trained.keys().map(dot).sum();
    assert!((numeric - analytic).abs() < 5e-3 * (1.0 + analytic.abs()), "{numeric} against {analytic}");
}

#[test]
fn hidden_states_have_gradients_too() {
    let directory = tiny::directory(&tiny::llama());
    let trees = trees();
    let rows = [13, 20, 26];
    let mut model = load(directory.path(), false);
    let trained = adapters(&model, false);
    install(&mut model, &trained);
    let lesson = Lesson::new(&trees, Readout::Hidden(&rows));
    let (_, kernels) = learn(&model, &trained, &lesson);
    let mut other = load(directory.path(), true);
    install(&mut other, &trained);
    let (_, candle) = learn(&other, &trained, &lesson);
    for (id, gradient) in &kernels {
        assert!(gradient.iter().any(|value| *value != 0.0), "{id:?} has no gradient");
        close(gradient, &candle[id], &format!("{id:?}"));
    }
}

#[test]
fn what_cannot_be_learned_is_refused() {
    let directory = tiny::directory(&tiny::llama());
    let trees = trees();
    let model = LanguageModel::load(directory.path(), &LoadOptions::default()).unwrap();
    let read = |trees: &[TokenTree], label: Label| {
        let lesson = Lesson::new(trees, Readout::Labels(std::slice::from_ref(&label)));
        model.read(&lesson, &mut TrainingSpace::default()).unwrap_err()
    };
    assert!(matches!(read(&trees, Label { row: 31, token: 1 }), LmError::Request(_)));
    assert!(matches!(read(&trees, Label { row: 3, token: 96 }), LmError::Request(_)));
    let long = [TokenTree { trunk: tokens(1, 129), branches: Vec::new() }];
    assert!(matches!(read(&long, Label { row: 3, token: 1 }), LmError::Request(_)));
    let mut respond = |_: &Reading| vec![0.0; 9];
    let labels = labels();
    let lesson = Lesson::new(&trees, Readout::Labels(&labels));
    let places = BTreeMap::new();
    let mut none = GradientBuffers::new(&places, &mut []);
    let unprepared = model.learn(&lesson, &mut TrainingSpace::default(), &mut respond, &mut none);
    assert!(unprepared.unwrap_err().to_string().contains("prepared"));
    let mut prepared = LanguageModel::load(directory.path(), &LoadOptions::default()).unwrap();
    let a = vec![0.0; 10];
    let wrong = AdapterWeights { rank: 2, scale: 1.0, a: &a, b: &a, magnitude: None };
    assert!(prepared.adapt(&|_, _| Some(wrong)).unwrap_err().to_string().contains("q_proj"));
}

/// Files of the Llama family in GGUF hold queries and keys in another order: gradients and values are Hugging Face's.
#[test]
fn neighbouring_pairs_are_put_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    tiny::write_gguf(&path, GgmlDType::F32, &[]);
    tiny::write_directory(directory.path(), &tiny::llama(), false);
    let engine = Engine::Cpu(tiny::cpu_gguf(&path, Dtype::F32));
    let mut model = LanguageModel::of_engine(engine, tiny::tokenizer(directory.path()));
    model.prepare_training().unwrap();
    let before = all_weights(&model);
    install(&mut model, &before);
    assert_eq!(all_weights(&model), before);
    let trained = adapters(&model, false);
    let config = json!({
        "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-5, "rope_theta": 1e4,
        "max_position_embeddings": 128, "tie_word_embeddings": true
    });
    let (trees, labels) = (trees(), labels());
    let oracle = Oracle::new(&config, &before, &trained, SCALE);
    install(&mut model, &trained);
    let (logps, gradients) = learn(&model, &trained, &Lesson::new(&trees, Readout::Labels(&labels)));
    let (expected_logps, expected) = oracle.gradients(&trees, &labels, &noise(99, labels.len()));
    close(&logps, &expected_logps, "log-probabilities");
    for (id, gradient) in &gradients {
        close(gradient, &expected[id], &format!("{id:?}"));
    }
}

/// QLoRA: quantised weights train as their dequantised values do (sums are rounded in another order).
#[test]
fn quantised_weights_train_as_what_they_stand_for() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    tiny::write_directory(directory.path(), &tiny::llama(), false);
    let (trees, labels) = (trees(), labels());
    for kind in [GgmlDType::Q4_0, GgmlDType::Q4_1, GgmlDType::Q5_1, GgmlDType::Q8_0] {
        tiny::write_gguf(&path, kind, &[]);
        let run = |engine| {
            let mut model = LanguageModel::of_engine(engine, tiny::tokenizer(directory.path()));
            model.prepare_training().unwrap();
            let trained = adapters(&model, false);
            install(&mut model, &trained);
            learn(&model, &trained, &Lesson::new(&trees, Readout::Labels(&labels)))
        };
        let floats = run(Engine::Cpu(tiny::cpu_gguf(&path, Dtype::F32)));
        let engines = [
            ("kernels", Engine::Cpu(tiny::cpu_gguf(&path, Dtype::Q))),
            ("candle", Engine::Candle(tiny::candle_gguf(&path, Dtype::Q))),
        ];
        for (name, engine) in engines {
            let (logps, gradients) = run(engine);
            close(&logps, &floats.0, &format!("{name}, {kind:?}"));
            for (id, gradient) in &gradients {
                close(gradient, &floats.1[id], &format!("{name}, {kind:?}: {id:?}"));
            }
        }
    }
}
