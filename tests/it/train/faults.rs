//! What goes wrong while training: weights that explode, results that would replace what they are made from, texts and
//! settings that do not fit. Nothing of the user's is lost, and what is left can be gone on with.

use evalign_testkit::Ran;
use serde_json::json;

use super::Golden;

impl Golden {
    /// Trains all weights of the tiny model, or of the one in `model`.
    fn train_all(&self, model: &str, out: &str, more: &[&str]) -> Ran {
        let data = self.root.join("data/sft_prompt_completion.jsonl").display().to_string();
        let settings = ["--use-peft", "false", "--max-length", "64", "--offline", "--out", out];
        self.sandbox
            .run(&[&["train", "sft", "--model", model, "--data", &data][..], &settings, more].concat())
    }

    /// With rows of one's own in the file that `option` names.
    fn train_rows(&self, option: &str, rows: &[serde_json::Value], more: &[&str]) -> Ran {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let file = self.sandbox.write("own_rows.jsonl", text).display().to_string();
        let mut arguments = self.arguments("out", more);
        match option {
            "--data" => arguments[5] = file,
            _ => arguments.extend([option.to_owned(), file]),
        }
        self.sandbox.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn checkpoints(&self, out: &str) -> Vec<String> {
        let entries = fs_err::read_dir(self.sandbox.path().join(out)).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| name.starts_with("checkpoint-")).collect()
    }
}

/// The first update has rate 0, the second ruins the weights: those after the first are left, whole.
#[test]
fn an_explosion_keeps_the_last_good_weights() {
    let Some(golden) = Golden::new("an_explosion_keeps_the_last_good_weights") else { return };
    let explosive = |rate: &'static str| {
        [
            "--learning-rate",
            rate,
            "--max-grad-norm",
            "0",
            "--max-steps",
            "50",
            "--warmup-steps",
            "2",
            "--save-steps",
            "1",
        ]
    };
    // 1e30: the weights are numbers still, but the next loss is none. 1e39: the weights are no numbers.
    for rate in ["1e30", "1e39"] {
        let out = format!("out-{rate}");
        // The second time it goes on from what was left, to the same end.
        for _ in 0..2 {
            let ran = golden.train(&out, &explosive(rate));
            assert_eq!(ran.status, 2, "{rate}: {ran:?}");
            assert!(ran.stderr.contains("--learning-rate") && ran.stderr.contains("checkpoint-1"), "{ran:?}");
            assert_eq!(golden.checkpoints(&out), ["checkpoint-1"]);
            assert!(!golden.sandbox.path().join(&out).join("adapter_model.safetensors").exists());
        }
        let (left, again) = (format!("{out}/checkpoint-1"), format!("again-{rate}"));
        let ran = golden.train(&again, &["--adapter", &left, "--max-steps", "2"]);
        assert_eq!(ran.status, 0, "{ran:?}");
    }
    // The very first update can ruin them too.
    let ran = golden.train("at-once", &["--learning-rate", "1e39", "--max-steps", "1"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("--learning-rate"), "{ran:?}");
    assert!(!golden.sandbox.path().join("at-once/adapter_model.safetensors").exists());
}

/// The same where all weights are trained; a checkpoint of these is a model.
#[test]
fn an_explosion_of_all_weights_leaves_a_model() {
    let Some(golden) = Golden::new("an_explosion_of_all_weights_leaves_a_model") else { return };
    let explosive =
        ["--learning-rate", "1e39", "--max-steps", "50", "--warmup-steps", "2", "--save-steps", "1"];
    for _ in 0..2 {
        let ran = golden.train_all(&golden.model(), "out", &explosive);
        assert_eq!(ran.status, 2, "{ran:?}");
        assert_eq!(golden.checkpoints("out"), ["checkpoint-1"]);
    }
    let ran = golden.train_all("local/out/checkpoint-1", "again", &["--max-steps", "1"]);
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[test]
fn results_do_not_replace_what_they_are_made_from() {
    let Some(golden) = Golden::new("results_do_not_replace_what_they_are_made_from") else { return };
    assert_eq!(golden.train_all(&golden.model(), "model", &["--max-steps", "1"]).status, 0);
    let before = ["model/tokenizer.json", "model/model.safetensors"].map(|name| golden.file(name));
    let ran = golden.train_all("local/model", "./model", &["--max-steps", "1", "--fresh"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("hint: give another directory"), "{ran:?}");
    assert_eq!(golden.train("adapter", &["--max-steps", "1"]).status, 0);
    let ran = golden.train("adapter", &["--max-steps", "1", "--adapter", "adapter"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert_eq!(["model/tokenizer.json", "model/model.safetensors"].map(|name| golden.file(name)), before);
}

/// The evaluation file is looked at as the training file is, before anything is trained.
#[test]
fn the_evaluation_file_is_checked_too() {
    let Some(golden) = Golden::new("the_evaluation_file_is_checked_too") else { return };
    let good = json!({"prompt": "Q:", "chosen": " a", "rejected": " b"});
    let long = json!({"prompt": "word ".repeat(80), "chosen": " a", "rejected": " b"});
    let ran = golden.train_rows("--eval-data", &[good.clone(), long], &["--dry-run"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    for words in ["1 of 2 rows", "own_rows", "left out", "(rows 2)"] {
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
    }
    let beyond = json!({"prompt": "Q:", "chosen": "word ".repeat(400), "rejected": " b"});
    let ran = golden.train_rows("--eval-data", &[good, beyond], &["--dry-run", "--max-length", "4096"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("row 2") && ran.stderr.contains("context"), "{ran:?}");
    let ran = golden.train_rows("--eval-data", &[], &["--dry-run"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("own_rows"), "{ran:?}");
}

/// KTO puts completions behind other prompts: together they may be longer than the model's context.
#[test]
fn mismatched_texts_fit_the_context() {
    let Some(golden) = Golden::new("mismatched_texts_fit_the_context") else { return };
    let long = "word ".repeat(150);
    let rows = [
        json!({"prompt": long, "completion": " a", "label": true}),
        json!({"prompt": "Q:", "completion": format!(" {long}"), "label": false}),
    ];
    let ran = golden.train_rows(
        "--data",
        &rows,
        &["--loss-type", "kto", "--max-length", "1024", "--max-steps", "1"],
    );
    assert_eq!(ran.status, 0, "{ran:?}");
}

#[test]
fn what_is_said_in_vain_is_named() {
    let Some(golden) = Golden::new("what_is_said_in_vain_is_named") else { return };
    let ran = golden.train("out", &["--label-smoothing", "0.1", "--dry-run"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("`label_smoothing` has no effect"), "{ran:?}");
    for more in [
        &["--load-best-model-at-end"][..],
        &["--early-stopping-patience", "2", "--eval-fraction", "0.2", "--eval-strategy", "no"],
        &["--early-stopping-patience", "2", "--eval-fraction", "0.2", "--metric-for-best-model", "accuracy"],
    ] {
        let ran = golden.train("out", &[more, &["--max-steps", "20"]].concat());
        assert_eq!(ran.status, 2, "{more:?}: {ran:?}");
        assert!(ran.stderr.contains("hint: "), "{more:?}: {ran:?}");
    }
    // It was named before the first update.
    assert!(golden.checkpoints("out").is_empty());
}

/// The plan with all that it counts stays within what is allowed.
#[test]
fn the_memory_plan_is_kept() {
    let Some(golden) = Golden::new("the_memory_plan_is_kept") else { return };
    let plan = |more: &[&str]| {
        let plan = golden.train("out", &[&["--dry-run", "--json"][..], more].concat());
        let memory = |part: &str| plan.json()["memory_bytes"][part].as_u64().unwrap();
        (plan.status == 0).then(|| memory("total") - memory("weights"))
    };
    let all = plan(&["--recompute", "never"]).unwrap();
    let least = plan(&["--recompute", "always"]).unwrap();
    assert!(least < all);
    for share in [0.99, 0.5, 0.1] {
        let allowed = least + ((all - least) as f64 * share) as u64;
        let needed = plan(&["--memory-gib", &(allowed as f64 / f64::from(1u32 << 30)).to_string()]).unwrap();
        assert!(needed <= allowed + 1, "{needed} of {allowed}");
    }
}

/// A finished run given again adds nothing to what it left.
#[test]
fn a_finished_run_stays_as_it_is() {
    let Some(golden) = Golden::new("a_finished_run_stays_as_it_is") else { return };
    let settings = ["--max-steps", "4", "--eval-fraction", "0.2", "--samples", "2"];
    assert_eq!(golden.train("out", &settings).status, 0);
    let before =
        ["metrics.jsonl", "adapter_model.safetensors"].map(|name| golden.file(&format!("out/{name}")));
    let again = golden.train("out", &settings);
    assert_eq!(again.status, 0, "{again:?}");
    let after =
        ["metrics.jsonl", "adapter_model.safetensors"].map(|name| golden.file(&format!("out/{name}")));
    assert_eq!(after, before);
}

/// Two processes in one directory would overwrite each other's checkpoints.
#[test]
fn a_directory_is_trained_into_by_one_process() {
    let Some(golden) = Golden::new("a_directory_is_trained_into_by_one_process") else { return };
    assert_eq!(golden.train("out", &["--max-steps", "1"]).status, 0);
    let other = std::fs::File::create(golden.sandbox.path().join("out/.lock")).unwrap();
    other.lock().unwrap();
    let adapter = golden.file("out/adapter_model.safetensors");
    let ran = golden.train("out", &["--max-steps", "1", "--fresh"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("another process trains into this directory"), "{ran:?}");
    assert_eq!(golden.file("out/adapter_model.safetensors"), adapter, "nothing is lost");
    assert!(!golden.checkpoints("out").is_empty(), "nothing is lost");
}

/// Mistakes of everyday: each is named with what helps, before anything is trained.
#[test]
fn everyday_mistakes_are_named() {
    let Some(golden) = Golden::new("everyday_mistakes_are_named") else { return };
    let (model, data) = (golden.model(), golden.data());
    let told = |arguments: &[&str], words: &[&str]| {
        let ran = golden.sandbox.run(arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{arguments:?}: {ran:?}");
    };
    let dpo = ["train", "dpo", "--offline", "--model", &model];
    let with = |more: &[&'static str]| [&dpo[..], &["--data", &data], more].concat();
    told(&[&dpo[..], &["--data", "nowhere.jsonl"]].concat(), &["--out"]);
    let nowhere = [&dpo[..], &["--data", "nowhere.jsonl", "--dry-run"]].concat();
    told(&nowhere, &["nowhere.jsonl: there is no such file", "hint: "]);
    told(&with(&["--beta", "-1", "--dry-run"]), &["`beta`: -1", "above 0"]);
    told(&with(&["--dtype", "int3", "--dry-run"]), &["`--dtype int3`", "bf16"]);
    assert_eq!(golden.train("tuned", &["--max-steps", "1"]).status, 0);
    let adapted = format!("{model}+adapter=tuned");
    let merge = ["train", "merge", "--offline", "--model", &adapted, "--out"];
    told(&[&merge[..], &["tuned"]].concat(), &["exists already", "hint: give another path"]);
    told(&[&merge[..], &["merged", "--form", "gguf"]].concat(), &["GGUF", "--form hf"]);
    let other = format!("local/{}+adapter=tuned", golden.root.join("models/tiny-llama-rm").display());
    told(
        &["train", "merge", "--offline", "--model", &other, "--out", "merged"],
        &["hint: use the adapter with"],
    );
}

/// Help shows what counts for the purpose.
#[test]
fn help_is_about_the_command() {
    let sandbox = evalign_testkit::Sandbox::new();
    let help = |command| sandbox.ok(&["train", command, "--help"]).stdout;
    let (sft, reward, dpo) = (help("sft"), help("reward"), help("dpo"));
    assert!(dpo.contains("--beta") && !sft.contains("--beta") && !reward.contains("--beta"));
    assert!(sft.contains("--assistant-only-loss") && !dpo.contains("--assistant-only-loss"));
    assert!(reward.contains("--center-rewards-coefficient") && !dpo.contains("--center-rewards-coefficient"));
    assert!([sft, reward, dpo].iter().all(|help| help.contains("--learning-rate")));
}

/// A rate that leaves numbers behind, but no gradient: the run ends, and says that it was in vain.
#[test]
fn a_ruined_model_is_told() {
    let Some(golden) = Golden::new("a_ruined_model_is_told") else { return };
    let rate = ["--learning-rate", "1e9", "--warmup-steps", "3"];
    let ran = golden.train("out", &[&rate[..], &["--max-steps", "6", "--samples", "0"]].concat());
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("the gradient is zero"), "{ran:?}");
}

/// A chat template of one's own goes with what was trained with it: into the adapter, its checkpoints, what training goes on
/// from, and what is merged.
#[test]
fn a_chat_template_stays_with_what_it_trained() {
    let Some(golden) = Golden::new("a_chat_template_stays_with_what_it_trained") else { return };
    let source = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
    golden.sandbox.write("own.jinja", source);
    let turn = |role: &str, text: &str| json!([{"role": role, "content": text}]);
    let (chosen, rejected) = (turn("assistant", "yes"), turn("assistant", "no"));
    let rows = [json!({"prompt": turn("user", "hi"), "chosen": chosen, "rejected": rejected})];
    let settings = ["--chat-template-path", "own.jinja", "--max-steps", "1", "--samples", "0"];
    assert_eq!(golden.train_rows("--data", &rows, &settings).status, 0);
    let mut arguments =
        golden.arguments("again", &["--adapter", "out", "--max-steps", "1", "--samples", "0"]);
    arguments[5] = golden.sandbox.path().join("own_rows.jsonl").display().to_string();
    let run = |more: &[&str]| {
        let all: Vec<&str> = arguments.iter().map(String::as_str).chain(more.iter().copied()).collect();
        golden.sandbox.ok(&all)
    };
    assert!(run(&["--preview"]).stdout.contains("[assistant] "));
    run(&[]);
    let adapted = format!("{}+adapter=again", golden.model());
    golden.sandbox.ok(&["train", "merge", "--offline", "--model", &adapted, "--out", "merged"]);
    for place in ["out", "out/checkpoint-1", "again", "merged"] {
        let kept = golden.file(&format!("{place}/chat_template.jinja"));
        assert_eq!(String::from_utf8(kept).unwrap(), source, "{place}");
    }
}
