use super::*;
use crate::tests::tiny;

fn write(directory: &Path, config: &str, tensors: &[(&str, Vec<usize>)]) {
    fs_err::write(directory.join(CONFIG_FILE), config).unwrap();
    let values = |shape: &[usize]| vec![0.5f32; shape.iter().product()];
    let tensors = tensors.iter().map(|(name, shape)| ((*name).to_owned(), shape.clone(), values(shape)));
    tiny::write_tensors(&directory.join(WEIGHTS_FILE), tensors.collect());
}

const A: &str = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight";
const B: &str = "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight";

#[test]
fn what_is_written_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let config = AdapterConfig {
        r: 4,
        lora_alpha: 8.0,
        use_rslora: true,
        target_modules: Targets::Names(vec!["q_proj".to_owned()]),
        task_type: Some(AdapterTask::SequenceClassification),
        modules_to_save: Some(vec!["score".to_owned()]),
        ..AdapterConfig::default()
    };
    let score = "base_model.model.score.weight";
    write(directory.path(), &config.to_json(), &[(A, vec![4, 16]), (B, vec![8, 4]), (score, vec![1, 16])]);
    let adapter = Adapter::read(directory.path()).unwrap();
    assert_eq!(AdapterConfig { rest: serde_json::Map::new(), ..adapter.config.clone() }, config);
    let module = adapter.module(1, Module::Query, 16).unwrap();
    assert_eq!((module.rank, module.scale, module.a.len(), module.b.len()), (4, 4.0, 64, 32));
    assert!(adapter.module(0, Module::Query, 16).is_none());
    assert_eq!(adapter.head.as_deref().map(<[f32]>::len), Some(16));
}

#[test]
fn what_is_not_understood_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let refused = |config: &str, tensors: &[(&str, Vec<usize>)]| {
        write(path, config, tensors);
        Adapter::read(path).unwrap_err().to_string()
    };
    let both = [(A, vec![4, 16]), (B, vec![8, 4])];
    let plain = r#"{"peft_type": "LORA", "r": 4}"#;
    assert!(refused(r#"{"peft_type": "IA3"}"#, &both).contains("`IA3`"));
    assert!(refused(r#"{"peft_type": "LORA", "bias": "all"}"#, &both).contains("`bias`"));
    assert!(refused(r#"{"peft_type": "LORA", "modules_to_save": ["lm_head"]}"#, &both).contains("lm_head"));
    assert!(refused(plain, &both[..1]).contains("lora_B.weight`: missing"));
    assert!(
        refused(r#"{"peft_type": "LORA", "r": 4, "use_dora": true}"#, &both)
            .contains("lora_magnitude_vector`: missing")
    );
    // These change the weights of the base.
    for start in ["pissa", "pissa_niter_4", "olora", "corda", "loftq"] {
        let config = format!(r#"{{"peft_type": "LORA", "r": 4, "init_lora_weights": "{start}"}}"#);
        assert!(refused(&config, &both).contains("init_lora_weights"), "{start}");
    }
    let magnitude = "base_model.model.model.layers.1.self_attn.q_proj.lora_magnitude_vector";
    let with_magnitude = [both[0].clone(), both[1].clone(), (magnitude, vec![8])];
    assert!(refused(plain, &with_magnitude).contains("use_dora"));
    for (a, b) in [
        (vec![16, 4], vec![8, 4]),
        (vec![4, 16], vec![8, 2]),
        (vec![8, 16], vec![8, 8]),
        (vec![4, 16], vec![32]),
    ] {
        assert!(
            refused(plain, &[(A, a.clone()), (B, b.clone())]).contains("has not the rank"),
            "{a:?} {b:?}"
        );
    }
    let other = "base_model.model.lm_head.lora_A.weight";
    assert!(refused(plain, &[(other, vec![4, 16])]).contains("lm_head"));
    let strange = "base_model.model.model.layers.1.mlp.q_proj.lora_A.weight";
    assert!(refused(plain, &[(strange, vec![4, 16])]).contains("mlp.q_proj"));
    fs_err::write(path.join(WEIGHTS_FILE), b"short").unwrap();
    assert!(Adapter::read(path).unwrap_err().to_string().contains(WEIGHTS_FILE));
}

/// What is read besides the numbers is written back, as it was.
#[test]
fn what_is_gone_on_with_keeps_its_structure() {
    let directory = tempfile::tempdir().unwrap();
    let said = serde_json::json!({
        "peft_type": "LORA", "r": 4, "lora_alpha": 2.5, "lora_dropout": 0.05, "target_modules": ["q_proj"],
        "rank_pattern": {"layers.1.self_attn.q_proj": 2}, "layers_to_transform": [1], "exclude_modules": ["k_proj"],
        "peft_version": "0.21.2"
    });
    write(directory.path(), &said.to_string(), &[(A, vec![2, 16]), (B, vec![8, 2])]);
    let config = Adapter::read(directory.path()).unwrap().config;
    let written: serde_json::Value = serde_json::from_str(&config.to_json()).unwrap();
    for (key, value) in said.as_object().unwrap() {
        assert_eq!(&written[key], value, "{key}");
    }
}

/// An adapter that lacks what its configuration names, or is of other shapes than the model, is no adapter of it.
#[test]
fn an_adapter_that_is_not_whole_is_refused() {
    let base = tiny::directory(&tiny::llama());
    let model = LanguageModel::load(base.path(), &crate::LoadOptions::default()).unwrap();
    let [outputs, inputs] = model.module_shape(Module::Query);
    let names = |layer: usize| {
        ["lora_A", "lora_B"]
            .map(|kind| format!("{PREFIX}model.layers.{layer}.self_attn.q_proj.{kind}.weight"))
    };
    let place = tempfile::tempdir().unwrap();
    let fits = |config: serde_json::Value, layers: &[usize], [outputs, inputs]: [usize; 2]| {
        let names: Vec<[String; 2]> = layers.iter().map(|layer| names(*layer)).collect();
        let tensors: Vec<(&str, Vec<usize>)> = names
            .iter()
            .flat_map(|[a, b]| [(a.as_str(), vec![2, inputs]), (b.as_str(), vec![outputs, 2])])
            .chain([("base_model.model.score.weight", vec![1, model.hidden_size()])])
            .collect();
        write(place.path(), &config.to_string(), &tensors);
        Adapter::read(place.path()).unwrap().fits(&model).map_err(|error| error.to_string())
    };
    let config = |more: serde_json::Value| {
        let mut config = serde_json::json!({"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"]});
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        config
    };
    let all: Vec<usize> = (0..model.layers()).collect();
    let shape = [outputs, inputs];
    let plain = || config(serde_json::json!({}));
    assert_eq!(fits(plain(), &all, shape), Ok(()));
    assert!(fits(plain(), &all[1..], shape).unwrap_err().contains("layers.0.self_attn.q_proj"));
    assert!(fits(plain(), &[], shape).is_err());
    assert!(fits(plain(), &all, [outputs, inputs + 1]).unwrap_err().contains("shape"));
    assert!(fits(plain(), &all, [outputs + 1, inputs]).unwrap_err().contains("shape"));
    let more = config(serde_json::json!({"target_modules": ["self_attn.q_proj", "v_proj"]}));
    assert!(fits(more, &all, shape).unwrap_err().contains("v_proj"));
    let some = config(serde_json::json!({"layers_to_transform": [1]}));
    assert_eq!(fits(some, &[1], shape), Ok(()));
    let without =
        config(serde_json::json!({"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]}));
    assert_eq!(fits(without, &all, shape), Ok(()));
    let nothing = config(serde_json::json!({"target_modules": "all-linear"}));
    assert!(fits(nothing, &[], shape).unwrap_err().contains("adapts no layer"));
}

/// The adapter that TRL trained and PEFT saved: base, base with adapter and merged model give the recorded logits.
#[test]
fn an_adapter_trained_by_trl_gives_its_logits() {
    let Some(root) = evalign_testkit::shared("an adapter trained by TRL").map(|root| root.join("golden/trl"))
    else {
        return;
    };
    let (base, case) = (root.join("models/tiny-llama"), root.join("cases/dpo_sigmoid"));
    let recorded: serde_json::Value =
        serde_json::from_str(&fs_err::read_to_string(case.join("final_outputs.json")).unwrap()).unwrap();
    let bytes = fs_err::read(case.join("final_outputs.safetensors")).unwrap();
    let outputs = SafeTensors::deserialize(&bytes).unwrap();
    let place = tempfile::tempdir().unwrap();
    let merged = place.path().join("merged");
    let form = crate::export::MergedForm::HuggingFace;
    let never = std::sync::atomic::AtomicBool::new(false);
    let report = crate::export::merge(&base, &case.join("adapter"), &merged, form, &never).unwrap().unwrap();
    assert_eq!((report.path.as_path(), report.merged), (merged.as_path(), 14));
    let load = |path: &Path, adapter: Option<PathBuf>| {
        LanguageModel::load(path, &crate::LoadOptions { adapter, ..crate::LoadOptions::default() }).unwrap()
    };
    let models = [
        ("base", load(&base, None)),
        ("adapted", load(&base, Some(case.join("adapter")))),
        ("merged", load(&merged, None)),
    ];
    for (kind, model) in models {
        for (index, ids) in recorded["input_ids"].as_array().unwrap().iter().enumerate() {
            let ids: Vec<u32> = serde_json::from_value(ids.clone()).unwrap();
            let name = format!("{kind}.{index}");
            let expected = floats(&case, &name, &outputs.tensor(&name).unwrap()).unwrap();
            let found = model.logits(&ids).unwrap();
            assert_eq!(found.len(), expected.len());
            let worst = found.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(worst <= 2e-5, "{name}: {worst}");
        }
    }
}

/// Every kind of adapter against PEFT; the fixture comes from `fixtures/adapters.py`.
#[test]
fn every_kind_gives_the_log_probabilities_of_peft() {
    let fixture: serde_json::Value = serde_json::from_str(include_str!("fixtures/adapters.json")).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(fixture["tokens"].clone()).unwrap();
    for case in fixture["cases"].as_array().unwrap() {
        let base = tiny::directory(&case["config"]);
        let place = tempfile::tempdir().unwrap();
        let mut config = case["adapter"].clone();
        config["peft_type"] = "LORA".into();
        fs_err::write(place.path().join(CONFIG_FILE), config.to_string()).unwrap();
        let tensors: Vec<(String, Vec<usize>, Vec<f32>)> = case["tensors"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, shape)| {
                let shape: Vec<usize> = serde_json::from_value(shape.clone()).unwrap();
                let count = shape.iter().product();
                let source = if name.contains("magnitude") { format!("norm {name}") } else { name.clone() };
                (name.clone(), shape, tiny::weights(&source, count))
            })
            .collect();
        tiny::write_tensors(&place.path().join(WEIGHTS_FILE), tensors);
        let options =
            crate::LoadOptions { adapter: Some(place.path().to_owned()), ..crate::LoadOptions::default() };
        let model = LanguageModel::load(base.path(), &options).unwrap();
        let vocabulary = model.identity().vocab_size;
        let logits = model.logits(&tokens).unwrap();
        let expected: Vec<f64> = serde_json::from_value(case["logprobs"].clone()).unwrap();
        for (place, (row, expected)) in logits.chunks_exact(vocabulary).zip(expected).enumerate() {
            let sum: f64 = row.iter().map(|logit| f64::from(*logit).exp()).sum();
            let found = f64::from(row[tokens[place + 1] as usize]) - sum.ln();
            assert!(
                (found - expected).abs() < 1e-4,
                "{}: token {place}: {found} against {expected}",
                case["name"]
            );
        }
    }
}

/// An adapter is used with the chat template that it was trained with.
#[test]
fn a_chat_template_comes_with_its_adapter() {
    let base = tiny::directory(&tiny::llama());
    let load = |adapter: Option<&Path>| {
        let adapter = adapter.map(Path::to_owned);
        LanguageModel::load(base.path(), &crate::LoadOptions { adapter, ..crate::LoadOptions::default() })
    };
    let place = tempfile::tempdir().unwrap();
    let plain = load(None).unwrap();
    let [outputs, inputs] = plain.module_shape(Module::Query);
    let config = AdapterConfig {
        r: 4,
        target_modules: Targets::Names(vec!["q_proj".to_owned()]),
        ..AdapterConfig::default()
    };
    let ids = (0..plain.layers()).flat_map(|layer| {
        let (a, b) = (WeightId::LowRankA(layer, Module::Query), WeightId::LowRankB(layer, Module::Query));
        [(a, vec![4, inputs]), (b, vec![outputs, 4])]
    });
    let named: Vec<(String, Vec<usize>)> =
        ids.map(|(id, shape)| (format!("{PREFIX}{}", id.name()), shape)).collect();
    let tensors: Vec<(&str, Vec<usize>)> =
        named.iter().map(|(name, shape)| (name.as_str(), shape.clone())).collect();
    write(place.path(), &config.to_json(), &tensors);
    assert!(load(Some(place.path())).unwrap().chat_template().is_none());
    fs_err::write(place.path().join(TEMPLATE_FILE), "{{ messages[0].content }}!").unwrap();
    let model = load(Some(place.path())).unwrap();
    let template = model.chat_template().unwrap();
    let hello = evalign_core::Message { role: evalign_core::Role::User, content: "hello".to_owned() };
    assert_eq!(template.render(&[hello], false).unwrap(), "hello!");
    assert_eq!(model.identity().chat_template.as_ref(), Some(template.digest()));
    fs_err::write(place.path().join(TEMPLATE_FILE), "{% for %}").unwrap();
    assert!(load(Some(place.path())).unwrap_err().to_string().contains(TEMPLATE_FILE));
}
