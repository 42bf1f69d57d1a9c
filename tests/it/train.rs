//! `evalign train` end to end on the tiny models of the TRL records: certificates, kill -9 and going on, bad input.

mod faults;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use evalign_testkit::{Ran, Sandbox, shared};
use serde_json::{Value, json};

struct Golden {
    sandbox: Sandbox,
    root: PathBuf,
}

impl Golden {
    fn new(test: &str) -> Option<Self> {
        Some(Self { root: shared(test)?.join("golden/trl"), sandbox: Sandbox::new() })
    }

    fn model(&self) -> String {
        format!("local/{}", self.root.join("models/tiny-llama").display())
    }

    fn data(&self) -> String {
        self.root.join("data/preference_standard.jsonl").display().to_string()
    }

    /// `train dpo` on the tiny model; small enough to be over in a moment. What `more` says is not said twice.
    fn arguments(&self, out: &str, more: &[&str]) -> Vec<String> {
        let mut arguments: Vec<String> =
            ["train", "dpo", "--model", &self.model(), "--data", &self.data(), "--out", out, "--offline"]
                .map(str::to_owned)
                .into();
        let settings = [
            ["--max-length", "64"],
            ["--batch-size", "2"],
            ["--gradient-accumulation-steps", "2"],
            ["--learning_rate", "1e-3"],
            ["--lora-r", "4"],
        ];
        let is_said = |name: &str| more.contains(&name.replace('_', "-").as_str());
        let unsaid = settings.into_iter().filter(|setting| !is_said(setting[0]));
        arguments.extend(unsaid.flatten().map(str::to_owned));
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        arguments
    }

    fn train(&self, out: &str, more: &[&str]) -> Ran {
        let arguments = self.arguments(out, more);
        self.sandbox.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn file(&self, name: &str) -> Vec<u8> {
        fs_err::read(self.sandbox.path().join(name)).unwrap()
    }
}

#[test]
fn every_recorded_case_is_certified() {
    let Some(golden) = Golden::new("every_recorded_case_is_certified") else { return };
    let mut arguments = vec!["train".to_owned(), "verify".to_owned(), "--json".to_owned()];
    for entry in fs_err::read_dir(golden.root.join("cases")).unwrap() {
        arguments.extend(["--case".to_owned(), entry.unwrap().path().display().to_string()]);
    }
    let ran = golden.sandbox.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let certificates = ran.json();
    assert!(certificates.as_array().unwrap().len() >= 7);
    for certificate in certificates.as_array().unwrap() {
        for check in certificate["checks"].as_array().unwrap() {
            assert_eq!(check["failures"], 0, "{}: {check}", certificate["case"]);
            assert!(check["compared"].as_u64().unwrap() > 0, "{}: {check}", certificate["case"]);
        }
        assert!(certificate["checks"].as_array().unwrap().len() > 20, "{certificate}");
        assert_eq!(certificate["arguments_not_read"], json!([]), "{}", certificate["case"]);
    }
}

/// The same on a GPU in f32, in a build that has one to compute on.
#[test]
fn every_recorded_case_is_certified_on_a_gpu() {
    let test = "every_recorded_case_is_certified_on_a_gpu";
    let Some(golden) = Golden::new(test) else { return };
    let mut arguments = ["train", "verify", "--json", "--device", "cuda:0"].map(str::to_owned).to_vec();
    for entry in fs_err::read_dir(golden.root.join("cases")).unwrap() {
        arguments.extend(["--case".to_owned(), entry.unwrap().path().display().to_string()]);
    }
    let ran = golden.sandbox.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    if ran.stderr.contains("`cuda:0` is not available") {
        return evalign_testkit::skipped(test, "no CUDA device, or a build without `--features cuda`");
    }
    assert_eq!(ran.status, 0, "{ran:?}");
}

/// Forty updates at once, and forty that were killed again and again, each time after a checkpoint: the same bytes.
#[test]
fn promise_17_a_killed_run_goes_on_and_ends_with_the_same_bytes() {
    let Some(golden) = Golden::new("promise_17_a_killed_run_goes_on_and_ends_with_the_same_bytes") else {
        return;
    };
    let settings = [
        "--max-steps",
        "40",
        "--save-steps",
        "3",
        "--eval-fraction",
        "0.2",
        "--eval-steps",
        "5",
        "--samples",
        "2",
    ];
    let whole = golden.train("whole", &settings);
    assert_eq!(whole.status, 0, "{whole:?}");
    let arguments = golden.arguments("parts", &settings);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let parts = golden.sandbox.path().join("parts");
    for (update, moment_ms) in [(3, 0), (6, 9), (15, 25)] {
        let mut child =
            golden.sandbox.command(&arguments).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while !parts.join(format!("checkpoint-{update}")).exists() {
            assert!(started.elapsed() < Duration::from_secs(120), "there is no checkpoint-{update}");
            assert!(child.try_wait().unwrap().is_none(), "it ended before checkpoint-{update}");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(Duration::from_millis(moment_ms));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!parts.join("adapter_model.safetensors").exists(), "it was over before it was killed");
    }
    let last = golden.train("parts", &settings);
    assert_eq!(last.status, 0, "{last:?}");
    assert!(last.stderr.contains("going on after update"), "{last:?}");
    for name in [
        "adapter_model.safetensors",
        "metrics.jsonl",
        "checkpoint-40/optimizer.safetensors",
        "checkpoint-40/trainer_state.json",
    ] {
        assert_eq!(golden.file(&format!("parts/{name}")), golden.file(&format!("whole/{name}")), "{name}");
    }
    let report = String::from_utf8(golden.file("parts/report.html")).unwrap();
    assert!(report.contains("rewards/chosen") && report.contains("Answers before and after"));
}

#[cfg(unix)]
#[test]
fn an_interrupted_run_says_how_to_go_on() {
    let Some(golden) = Golden::new("an_interrupted_run_says_how_to_go_on") else { return };
    let arguments =
        golden.arguments("out", &["--max-steps", "100000", "--save-strategy", "no", "--samples", "0"]);
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let child =
        golden.sandbox.command(&arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let log = golden.sandbox.path().join("out/metrics.jsonl");
    let started = Instant::now();
    while fs_err::metadata(&log).map_or(0, |metadata| metadata.len()) == 0 {
        assert!(started.elapsed() < Duration::from_secs(60), "nothing was trained");
        std::thread::sleep(Duration::from_millis(20));
    }
    let interrupted =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupted.success());
    let ran: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ran.status, 130, "{ran:?}");
    assert!(ran.stderr.contains("hint: give the same command again"), "{ran:?}");
    let checkpoints = fs_err::read_dir(golden.sandbox.path().join("out")).unwrap();
    let is_checkpoint =
        |entry: &fs_err::DirEntry| entry.file_name().to_string_lossy().starts_with("checkpoint-");
    assert_eq!(checkpoints.map(Result::unwrap).filter(is_checkpoint).count(), 1);
}

#[test]
fn another_runs_directory_is_not_gone_on_with() {
    let Some(golden) = Golden::new("another_runs_directory_is_not_gone_on_with") else { return };
    assert_eq!(golden.train("out", &["--max-steps", "2"]).status, 0);
    let other = golden.train("out", &["--max-steps", "3"]);
    assert_eq!(other.status, 2, "{other:?}");
    assert!(other.stderr.contains("--fresh"), "{other:?}");
    assert_eq!(golden.train("out", &["--max-steps", "3", "--fresh"]).status, 0);
}

#[test]
fn what_cannot_be_trained_on_is_said_with_its_row() {
    let Some(golden) = Golden::new("what_cannot_be_trained_on_is_said_with_its_row") else { return };
    let good = json!({"prompt": "Q:", "chosen": " a", "rejected": " b"});
    let cases: [(Value, &[&str]); 6] = [
        (json!({"prompt": "Q:", "chosen": " a"}), &["row 2", "`rejected`"]),
        (json!({"prompt": "Q:", "chosen": 5, "rejected": " b"}), &["row 2", "`chosen`"]),
        (
            json!({"prompt": [{"role": "user", "content": "x"}], "chosen": [], "rejected": []}),
            &["row 2", "`chosen`"],
        ),
        (json!({"prompt": "Q:", "chosen": " a", "rejected": " b", "margin": "big"}), &["row 2", "`margin`"]),
        (json!({"text": "a"}), &["row 2", "`chosen`"]),
        (
            json!({"prompt": [{"role": "bot", "content": "x"}], "chosen": [{"role": "assistant", "content": "y"}], "rejected": [{"role": "assistant", "content": "z"}]}),
            &["row 2", "`prompt[0]`", "bot"],
        ),
    ];
    for (row, words) in cases {
        let file = golden.sandbox.write("bad.jsonl", format!("{good}\n{row}\n"));
        let mut arguments = golden.arguments("out", &[]);
        arguments[5] = file.display().to_string();
        let ran = golden.sandbox.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
        assert_eq!(ran.status, 2, "{ran:?}");
        assert!(
            words.iter().all(|word| ran.stderr.contains(word)) && ran.stderr.contains("hint: "),
            "{row}: {ran:?}"
        );
    }
}

#[test]
fn nothing_is_dropped_in_silence() {
    let Some(golden) = Golden::new("nothing_is_dropped_in_silence") else { return };
    let long = "word ".repeat(80);
    let rows = [
        json!({"prompt": "Q:", "chosen": " a", "rejected": ""}),
        json!({"prompt": long, "chosen": " a", "rejected": " b"}),
        json!({"prompt": "Q:", "chosen": " a", "rejected": " a"}),
    ];
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    let file = golden.sandbox.write("rows.jsonl", text);
    let mut arguments = golden.arguments("out", &["--preview"]);
    arguments[5] = file.display().to_string();
    let ran = golden.sandbox.ok(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    for words in ["1 of 3 rows", "left out", "(rows 2)", "empty text", "same text on both sides"] {
        assert!(ran.stderr.contains(words), "{words}: {ran:?}");
    }
    assert!(ran.stdout.contains("⟦"), "{ran:?}");
}

#[test]
fn settings_that_make_no_sense_are_named() {
    let Some(golden) = Golden::new("settings_that_make_no_sense_are_named") else { return };
    let config = golden.sandbox.write("train.yaml", "learning_rate: 0.001\nlearning_rat: 2\n");
    for (more, words) in [
        (vec!["--loss-type", "dpoo"], vec!["`loss_type`", "sigmoid"]),
        (vec!["--lora-target-modules", "w_proj"], vec!["w_proj", "q_proj"]),
        (vec!["--config", config.to_str().unwrap()], vec!["line 2", "learning_rate"]),
        (vec!["--adapter", "/nowhere"], vec!["/nowhere"]),
        (vec!["--memory-gib", "0.0001"], vec!["bytes of memory", "hint: "]),
        (vec!["--lr-scheduler-type", "magic"], vec!["linear"]),
    ] {
        let ran = golden.train("out", &more);
        assert_eq!(ran.status, 2, "{more:?}: {ran:?}");
        assert!(words.iter().all(|word| ran.stderr.contains(word)), "{more:?}: {ran:?}");
    }
}

#[test]
fn a_dry_run_trains_nothing_and_says_what_it_would() {
    let Some(golden) = Golden::new("a_dry_run_trains_nothing_and_says_what_it_would") else { return };
    let plan = golden.train("out", &["--dry-run", "--json"]).json();
    assert_eq!(plan["items"], 12);
    assert_eq!(plan["updates"], 9);
    assert_eq!((&plan["report"]["cut"], &plan["report"]["empty"]), (&json!([3, 8]), &json!([7])));
    assert!(plan["memory_bytes"]["total"].as_u64().unwrap() > 0);
    assert!(!Path::new(&golden.sandbox.path().join("out")).exists());
}

/// A reward model judges a task's answers, and of several answers picks the best.
#[test]
fn a_reward_model_judges_a_task() {
    let Some(golden) = Golden::new("a_reward_model_judges_a_task") else { return };
    let sandbox = &golden.sandbox;
    let (model, data) = (golden.model(), golden.data());
    let settings =
        ["--max-length", "128", "--max-steps", "3", "--lora-r", "4", "--offline", "--out", "rewards"];
    sandbox.ok(&[&["train", "reward", "--model", &model, "--data", &data], &settings[..]].concat());
    let rows: String = (0..4).map(|n| format!("{}\n", json!({"n": n}))).collect();
    sandbox.write("tasks/rows.jsonl", rows);
    sandbox.write(
        "tasks/sums.yaml",
        "task: sums\nversion: \"1\"\nsummary: \"Sums\"\ndataset: {file: rows.jsonl}\noutput: generate_until\n\
         prompt: \"What is {{n}} + 1?\"\ntarget: \"{{n + 1}}\"\ngeneration: {until: [\"\\n\"], max_tokens: 8}\n\
         metrics: [{name: exact_match}]\n",
    );
    let judge = format!("{model}+adapter=rewards");
    let eval = ["eval", "sums", "--include-path", "tasks", "--model", &model, "--offline", "--json"];
    let ask = |more: &[&str]| sandbox.run(&[&eval[..], more].concat());
    let metric = |document: &Value, name: &str, filter: &str| -> Option<f64> {
        let metrics = document["results"][0]["metrics"].as_array()?;
        let found = metrics.iter().find(|metric| metric["name"] == name && metric["filter"] == filter)?;
        found["value"].as_f64()
    };
    let once = ask(&["--judge", &judge]);
    assert_eq!(once.status, 0, "{once:?}");
    assert!(metric(&once.json(), "reward", "judge").is_some_and(f64::is_finite), "{once:?}");
    let several = ["--judge", &judge, "--repeats", "3", "--temperature", "1"];
    let best = ask(&several);
    assert_eq!(best.status, 0, "{best:?}");
    assert!(metric(&best.json(), "exact_match", "best_of_n").is_some(), "{best:?}");
    // What was rewarded is not rewarded again, and means the same.
    assert_eq!(ask(&several).json()["results"], best.json()["results"]);
    let none = ask(&["--judge", &model]);
    assert_eq!(none.status, 2, "{none:?}");
    assert!(none.stderr.contains("reward model"), "{none:?}");
}

/// All weights of a model trained: the output directory is a model.
#[test]
fn full_fine_tuning_leaves_a_model() {
    let Some(golden) = Golden::new("full_fine_tuning_leaves_a_model") else { return };
    let (model, data) = (golden.model(), golden.root.join("data/sft_prompt_completion.jsonl"));
    let settings =
        ["--use-peft", "false", "--max-length", "64", "--max-steps", "2", "--offline", "--out", "tuned"];
    let data = data.display().to_string();
    golden.sandbox.ok(&[&["train", "sft", "--model", &model, "--data", &data], &settings[..]].concat());
    let preview = ["train", "sft", "--model", "local/tuned", "--data", &data, "--offline", "--preview", "1"];
    assert!(golden.sandbox.ok(&preview).stdout.contains("⟦"));
}

/// What belongs to other weights, or is no number, is not trained on.
#[test]
fn weights_that_do_not_fit_are_refused() {
    let Some(golden) = Golden::new("weights_that_do_not_fit_are_refused") else { return };
    assert_eq!(golden.train("out", &["--max-steps", "1"]).status, 0);
    let copy = golden.sandbox.path().join("other");
    fs_err::create_dir(&copy).unwrap();
    for entry in fs_err::read_dir(golden.root.join("models/tiny-llama")).unwrap() {
        let entry = entry.unwrap();
        fs_err::copy(entry.path(), copy.join(entry.file_name())).unwrap();
    }
    let weights = copy.join("model.safetensors");
    let mut bytes = fs_err::read(&weights).unwrap();
    let last = bytes.len() - 4;
    bytes[last..].copy_from_slice(&0.5f32.to_le_bytes());
    fs_err::write(&weights, &bytes).unwrap();
    let mut arguments = golden.arguments("again", &["--adapter", "out", "--max-steps", "1"]);
    arguments[3] = format!("local/{}", copy.display());
    let run =
        |arguments: &[String]| golden.sandbox.run(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    let other = run(&arguments);
    assert_eq!(other.status, 2, "{other:?}");
    assert!(other.stderr.contains("hint: "), "{other:?}");
    bytes[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs_err::write(&weights, bytes).unwrap();
    for more in [&["--use-peft", "false", "--loss-type", "sft"][..], &["--lora-r", "2"]] {
        let mut arguments = golden.arguments("again", &["--max-steps", "1"]);
        arguments[3] = format!("local/{}", copy.display());
        arguments.retain(|argument| argument != "--lora-r" && argument != "4");
        arguments.extend(more.iter().map(|argument| (*argument).to_owned()));
        let broken = run(&arguments);
        assert_eq!(broken.status, 2, "{more:?}: {broken:?}");
        assert!(
            broken.stderr.contains("`model.") && broken.stderr.contains("values that are not numbers"),
            "{more:?}: {broken:?}"
        );
    }
}
