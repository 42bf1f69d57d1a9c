use serde_json::Value;

use super::*;
use crate::adapter::{AdapterBase, AdapterConfig, BASE_FILE, CONFIG_FILE, PREFIX, Targets, WEIGHTS_FILE};
use crate::tests::tiny;

/// Writes an adapter of rank 2 for every module of the model.
fn write_adapter(directory: &Path, model: &LanguageModel, dora: bool) {
    let targets = Module::ALL.map(|module| module.name().to_owned()).to_vec();
    let config = AdapterConfig {
        r: 2,
        lora_alpha: 3.0,
        use_dora: dora,
        target_modules: Targets::Names(targets),
        ..AdapterConfig::default()
    };
    let mut tensors = Vec::new();
    for layer in 0..model.layers() {
        for module in Module::ALL {
            let [outputs, inputs] = model.module_shape(module);
            let mut add = |id: WeightId, shape: Vec<usize>, shift: f32| {
                let count = shape.iter().product::<usize>();
                let values = (0..count).map(|i| shift + ((i * 37 + layer * 11) % 17) as f32 / 100.0 - 0.08);
                tensors.push((format!("{PREFIX}{}", id.name()), shape, values.collect::<Vec<f32>>()));
            };
            add(WeightId::LowRankA(layer, module), vec![2, inputs], 0.0);
            add(WeightId::LowRankB(layer, module), vec![outputs, 2], 0.0);
            if dora {
                add(WeightId::Magnitude(layer, module), vec![outputs], 1.0);
            }
        }
    }
    fs_err::create_dir_all(directory).unwrap();
    tiny::write_tensors(&directory.join(WEIGHTS_FILE), tensors);
    fs_err::write(directory.join(CONFIG_FILE), config.to_json()).unwrap();
}

/// [`merge`] to its end.
fn whole(base: &Path, adapter: &Path, out: &Path, form: MergedForm) -> Result<Merged, LmError> {
    merge(base, adapter, out, form, &AtomicBool::new(false)).map(|merged| merged.expect("nobody stops it"))
}

#[test]
fn a_merge_that_is_stopped_leaves_nothing() {
    let base = tiny::directory(&tiny::llama());
    let place = tempfile::tempdir().unwrap();
    let model = LanguageModel::load(base.path(), &LoadOptions::default()).unwrap();
    let (adapter, out) = (place.path().join("adapter"), place.path().join("out"));
    write_adapter(&adapter, &model, false);
    let stop = AtomicBool::new(true);
    assert_eq!(merge(base.path(), &adapter, &out, MergedForm::HuggingFace, &stop).unwrap(), None);
    assert_eq!(fs_err::read_dir(place.path()).unwrap().count(), 1, "something was left behind");
    // What is wrong before anything is done is said also then.
    fs_err::create_dir(&out).unwrap();
    assert!(merge(base.path(), &adapter, &out, MergedForm::HuggingFace, &stop).is_err());
}

#[test]
fn a_merged_directory_computes_what_base_and_adapter_do() {
    let base = tiny::directory(&tiny::llama());
    let place = tempfile::tempdir().unwrap();
    let model = LanguageModel::load(base.path(), &LoadOptions::default()).unwrap();
    for dora in [false, true] {
        let (adapter, out) =
            (place.path().join(format!("adapter-{dora}")), place.path().join(format!("out-{dora}")));
        write_adapter(&adapter, &model, dora);
        let merged = whole(base.path(), &adapter, &out, MergedForm::HuggingFace).unwrap();
        assert_eq!(merged.merged, 7 * model.layers());
        assert!(merged.largest_difference < 1e-3, "{merged:?}");
        // The adapter does something, so agreement means something.
        let found = LanguageModel::load(&out, &LoadOptions::default()).unwrap();
        let tokens = [3, 5, 8];
        let far = found
            .logits(&tokens)
            .unwrap()
            .iter()
            .zip(model.logits(&tokens).unwrap())
            .any(|(a, b)| (a - b).abs() > 0.1);
        assert!(far, "the adapter changes nothing");
        let config: Value =
            serde_json::from_str(&fs_err::read_to_string(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["dtype"], "float32");
        let again = whole(base.path(), &adapter, &out, MergedForm::HuggingFace).unwrap_err();
        assert!(again.to_string().contains("exists already"), "{again}");
    }
}

#[test]
fn an_adapter_is_applied_as_it_is_loaded_and_belongs_to_its_base() {
    let base = tiny::directory(&tiny::llama());
    let place = tempfile::tempdir().unwrap();
    let adapter = place.path().join("adapter");
    let plain = LanguageModel::load(base.path(), &LoadOptions::default()).unwrap();
    write_adapter(&adapter, &plain, false);
    let options = LoadOptions { adapter: Some(adapter.clone()), ..LoadOptions::default() };
    let adapted = LanguageModel::load(base.path(), &options).unwrap();
    assert_eq!(adapted.identity().weights, plain.identity().weights);
    assert!(adapted.identity().adapter.is_some() && plain.identity().adapter.is_none());
    assert_ne!(adapted.logits(&[3, 5]).unwrap(), plain.logits(&[3, 5]).unwrap());
    let other = AdapterBase {
        weights: evalign_core::Digest::of("another"),
        name: "local/another".to_owned(),
        reward_pad: None,
        data: None,
    };
    fs_err::write(adapter.join(BASE_FILE), serde_json::to_vec(&other).unwrap()).unwrap();
    let refused = LanguageModel::load(base.path(), &options).unwrap_err().to_string();
    assert!(refused.contains("local/another"), "{refused}");
    let out = place.path().join("out");
    assert!(whole(base.path(), &adapter, &out, MergedForm::HuggingFace).is_err());
    assert!(fs_err::read_dir(place.path()).unwrap().count() == 1, "something was left behind");
}

#[test]
fn a_directory_does_not_become_a_gguf_file() {
    let base = tiny::directory(&tiny::llama());
    let place = tempfile::tempdir().unwrap();
    let model = LanguageModel::load(base.path(), &LoadOptions::default()).unwrap();
    write_adapter(&place.path().join("adapter"), &model, false);
    let out = place.path().join("model.gguf");
    let refused = whole(base.path(), &place.path().join("adapter"), &out, MergedForm::Gguf(GgmlDType::F16));
    assert!(refused.unwrap_err().to_string().contains("GGUF"));
    assert!(!out.exists());
}

/// The real model, a GGUF file: out as a directory and as a file, and in again.
#[test]
fn the_real_model_survives_both_forms() {
    let Some(base) = evalign_testkit::real_model("merging into the real model") else { return };
    let place = tempfile::tempdir().unwrap();
    let adapter = place.path().join("adapter");
    let model = LanguageModel::load(base, &LoadOptions::default()).unwrap();
    write_adapter(&adapter, &model, false);
    drop(model);
    for (name, form) in
        [("directory", MergedForm::HuggingFace), ("f32.gguf", MergedForm::Gguf(GgmlDType::F32))]
    {
        let merged = whole(base, &adapter, &place.path().join(name), form).unwrap();
        assert_eq!(merged.merged, 210);
        assert!(merged.largest_difference < 1e-3, "{merged:?}");
    }
}
