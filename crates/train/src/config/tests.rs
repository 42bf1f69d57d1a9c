use std::path::Path;

use super::*;

fn read(text: &str) -> Result<(Settings, Vec<String>), TrainError> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("train.yaml");
    fs_err::write(&path, text).unwrap();
    Settings::read(&path)
}

#[test]
fn a_file_for_trl_is_understood() {
    let text = "model_name_or_path: m\ndataset_name: d\noutput_dir: o\nlearning_rate: 1e-3\nloss_type: [ipo, sft]\n\
                loss_weights: [1.0, 0.5]\nlora_target_modules: q_proj, v_proj\nbf16: false\nreport_to: none\n\
                optim: adamw_torch\nlr_scheduler_type: cosine\nwarmup_steps: 0.1\neval_steps: 0.3\n";
    let (said, notes) = read(text).unwrap();
    assert_eq!((said.model.as_deref(), said.out.as_deref()), (Some("m"), Some("o")));
    assert_eq!(notes.len(), 2);
    let config = TrainConfig::resolve(TrainKind::Dpo, &said).unwrap();
    assert_eq!(config.lora.as_ref().unwrap().target_modules, ["q_proj", "v_proj"]);
    assert_eq!(config.schedule_over(50).warmup, 5);
    assert_eq!(config.eval_steps.unwrap().updates(10, 50), 15);
    let Objective::Preference(preference) = config.objective else { panic!() };
    assert_eq!(preference.terms[1], PairTerm { loss: PairLoss::Sft, weight: 0.5 });
}

#[test]
fn flags_win_over_the_file() {
    #[derive(serde::Serialize)]
    struct Flags {
        learning_rate: Option<f64>,
        loss_type: Option<String>,
        seed: Option<u64>,
    }
    let (said, _) = read("learning_rate: 0.1\nseed: 7\n").unwrap();
    let flags = Flags { learning_rate: Some(0.5), loss_type: Some("sigmoid,sft".to_owned()), seed: None };
    let said = said.overridden(&flags).unwrap();
    assert_eq!((said.learning_rate, said.seed), (Some(0.5), Some(7)));
    assert_eq!(said.loss_type.unwrap().0, ["sigmoid", "sft"]);
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    for (text, setting, problem) in [
        ("seed: 1\nlearningrate: 1\n", "learningrate", "line 2: there is no such setting"),
        ("seed: 1\n\nmax_length: many\n", "max_length", "line 3: "),
        ("optim: lion\n", "optim", "lion"),
    ] {
        let error = read(text).unwrap_err();
        let TrainError::Config { setting: found, problem: what, path: Some(path), .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!((found.as_str(), path.file_name()), (setting, Some(Path::new("train.yaml").as_os_str())));
        assert!(what.contains(problem), "{what}");
    }
}

#[test]
fn what_changes_nothing_is_named() {
    let unread = |kind, text: &str, goes_on| -> Vec<String> {
        let (said, _) = read(text).unwrap();
        let notes = TrainConfig::resolve(kind, &said).unwrap().unread(&said, goes_on);
        notes.iter().map(|note| note.split('`').nth(1).unwrap().to_owned()).collect()
    };
    let dpo = |text| unread(TrainKind::Dpo, text, false);
    let nothing: [&str; 0] = [];
    assert_eq!(dpo("loss_type: sigmoid\nlabel_smoothing: 0.1\nbeta: 0.2\n"), ["label_smoothing"]);
    assert_eq!(dpo("loss_type: cdpo\nlabel_smoothing: 0.1\nf_divergence_type: js_divergence\n"), nothing);
    assert_eq!(dpo("loss_type: apo_zero\nf_divergence_type: js_divergence\n"), ["f_divergence_type"]);
    assert_eq!(dpo("loss_type: sigmoid,simpo\nsimpo_gamma: 1.0\nlabel_smoothing: 0.1\n"), nothing);
    assert_eq!(dpo("loss_type: sft\nbeta: 0.1\nld_alpha: 0.5\n"), ["beta", "ld_alpha"]);
    assert_eq!(dpo("loss_type: orpo\nref_model: x\nprecompute_ref_log_probs: true\n").len(), 2);
    assert_eq!(dpo("loss_type: kto\ndesirable_weight: 2.0\ndiscopop_tau: 0.1\n"), ["discopop_tau"]);
    assert_eq!(dpo("lora_r: 4\nuse_dora: true\n"), nothing);
    assert_eq!(unread(TrainKind::Dpo, "lora_r: 4\nuse_dora: true\n", true), ["lora_r", "use_dora"]);
    assert_eq!(unread(TrainKind::Reward, "truncation_mode: keep_start\n", false), ["truncation_mode"]);
    assert_eq!(unread(TrainKind::Sft, "beta: 0.1\nassistant_only_loss: true\n", false), ["beta"]);
}

#[test]
fn nonsense_is_refused() {
    let with = |change: &dyn Fn(&mut Settings)| {
        let mut said = Settings::default();
        change(&mut said);
        TrainConfig::resolve(TrainKind::Dpo, &said)
    };
    assert!(with(&|_| {}).is_ok());
    assert!(with(&|said| said.learning_rate = Some(f64::NAN)).is_err());
    assert!(with(&|said| said.learning_rate = Some(-1.0)).is_err());
    assert!(with(&|said| said.per_device_train_batch_size = Some(0)).is_err());
    assert!(with(&|said| said.loss_type = Some(Names(vec!["dpo".to_owned()]))).is_err());
    assert!(with(&|said| said.lora_dropout = Some(1.5)).is_err());
    assert!(with(&|said| said.lr_scheduler_type = Some("magic".to_owned())).is_err());
    assert!(with(&|said| said.max_length = Some(1)).is_err());
    assert!(with(&|said| (said.use_peft, said.use_dora) = (Some(false), Some(true))).is_err());
    assert!(with(&|said| (said.use_peft, said.adapter) = (Some(false), Some("x".to_owned()))).is_err());
    assert!(with(&|said| (said.warmup_steps, said.warmup_ratio) = (Some(3.0), Some(0.1))).is_err());
}

#[test]
fn what_a_number_may_be_is_said_in_words() {
    for (text, hint) in [
        ("beta: 0\n", "above 0"),
        ("num_train_epochs: -1\n", "above 0"),
        ("adam_beta1: 1.0\n", "below 1"),
        ("weight_decay: -0.1\n", "0 or a positive number"),
        ("eval_fraction: 2\n", "from 0 to 0.9"),
    ] {
        let (said, _) = read(text).unwrap();
        let TrainError::Config { hint: found, .. } = TrainConfig::resolve(TrainKind::Dpo, &said).unwrap_err()
        else {
            panic!("{text}")
        };
        assert!(found.contains(hint), "{text}: {found}");
    }
}

/// transformers: -1 (the default) and 0 leave it to the epochs.
#[test]
fn no_updates_at_most_are_no_limit() {
    let updates =
        |text: &str| TrainConfig::resolve(TrainKind::Sft, &read(text).unwrap().0).unwrap().updates(10);
    assert_eq!((updates("max_steps: 0\n"), updates("max_steps: -1\n")), (30, 30));
    assert_eq!(updates("max_steps: 7\n"), 7);
}

#[test]
fn names_of_trl_are_known_and_what_is_not_there_is_refused() {
    let defaults = "deepspeed: null\nfsdp: []\neval_delay: 0\nload_in_4bit: false\nlabel_smoothing_factor: 0.0\n\
                    model_init_kwargs: {}\npad_token: null\nlora_modules_to_save: [score]\noptim: adamw_torch_fused\n\
                    dataset_test_split: test\nresume_from_checkpoint: true\nevaluation_strategy: steps\n";
    let (said, notes) = read(defaults).unwrap();
    assert_eq!(said.eval_strategy.as_deref(), Some("steps"));
    assert_eq!(notes.len(), 4, "{notes:?}");
    for (text, name) in [
        ("eval_delay: 100\n", "eval_delay"),
        ("seed: 1\npacking: true\n", "packing"),
        ("lora_modules_to_save: [embed_tokens]\n", "lora_modules_to_save"),
        ("model_init_kwargs: {torch_dtype: bfloat16}\n", "model_init_kwargs"),
    ] {
        let TrainError::Config { setting, problem, .. } = read(text).unwrap_err() else { panic!("{text}") };
        assert_eq!(setting, name);
        assert!(problem.starts_with("line "), "{problem}");
    }
}
