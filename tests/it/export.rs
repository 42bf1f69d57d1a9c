//! Runs as files, and back.

use std::path::Path;

use evalign_testkit::{Sandbox, Script};
use serde_json::{Value, json};

fn lines(path: &Path) -> Vec<Value> {
    let text = fs_err::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn measured(sandbox: &Sandbox, seed: u64) -> Value {
    let model = sandbox.model(&Script::seeded(seed));
    sandbox.ok(&["eval", "samples", "--model", &model, "--limit", "6", "--json"]).json()
}

#[test]
fn jsonl_comes_back_as_the_same_run() {
    let sandbox = Sandbox::new();
    let document = measured(&sandbox, 3);
    let export = |sandbox: &Sandbox, dir: &str| {
        sandbox.ok(&["export", "last", "--format", "jsonl", "--out", dir]);
        let dir = sandbox.path().join(dir);
        (fs_err::read(dir.join("run.json")).unwrap(), fs_err::read(dir.join("samples.jsonl")).unwrap())
    };
    let first = export(&sandbox, "out");
    let text = String::from_utf8(first.0.clone()).unwrap() + std::str::from_utf8(&first.1).unwrap();
    for secret in [document["run_id"].as_str().unwrap(), "computed_prompt_tokens", "\"seconds\"", "created"] {
        assert!(!text.contains(secret), "{secret}");
    }
    let other = Sandbox::new();
    let out = sandbox.path().join("out").display().to_string();
    let imported = other.ok(&["import", &out]);
    assert!(imported.stdout.starts_with("run_"));
    let shown = other.ok(&["show", "last", "--json"]).json();
    assert_eq!(shown["results"], document["results"]);
    assert_eq!(export(&other, "again"), first);
    // Importing twice adds nothing.
    assert!(other.ok(&["import", &out]).stderr.contains("0 samples"));
}

#[test]
fn lm_eval_files_have_its_fields() {
    let sandbox = Sandbox::new();
    measured(&sandbox, 3);
    sandbox.ok(&["export", "last", "--format", "lm-eval", "--out", "out"]);
    let samples = lines(&sandbox.path().join("out/samples_samples_knowledge.jsonl"));
    assert_eq!(samples.len(), 6);
    let fields: Vec<&String> = samples[0].as_object().unwrap().keys().collect();
    let expected = [
        "doc_id",
        "doc",
        "target",
        "arguments",
        "resps",
        "filtered_resps",
        "filter",
        "metrics",
        "doc_hash",
        "prompt_hash",
        "target_hash",
    ];
    assert_eq!(fields[..expected.len()], expected);
    assert!(samples[0]["arguments"]["gen_args_0"]["arg_1"].is_string());
    assert!(samples[0]["resps"][0][0][0].is_string());
    let results: Value =
        serde_json::from_slice(&fs_err::read(sandbox.path().join("out/results.json")).unwrap()).unwrap();
    assert!(results["results"]["samples_knowledge"]["acc,none"].is_f64(), "{results:#}");
    // What we wrote is what we read: the run agrees with its own log.
    for task in ["knowledge", "arithmetic", "completion"] {
        let file = format!("out/samples_samples_{task}.jsonl");
        let ran = sandbox.ok(&["verify", "last", "--against", &file, "--json"]);
        let found = ran.json();
        assert_eq!(found[0]["divergences"], json!([]), "{found:#}");
        assert!(found[0]["items"].as_u64() >= Some(6));
    }
}

#[test]
fn verify_names_the_first_step_that_differs() {
    let sandbox = Sandbox::new();
    measured(&sandbox, 3);
    sandbox.ok(&["export", "last", "--format", "lm-eval", "--out", "out"]);
    let path = sandbox.path().join("out/samples_samples_knowledge.jsonl");
    let mut samples = lines(&path);
    samples[2]["resps"][0][0][0] = json!("-99.0");
    samples[4]["prompt_hash"] = json!("0".repeat(64));
    let text: Vec<String> = samples.iter().map(Value::to_string).collect();
    fs_err::write(&path, text.join("\n")).unwrap();
    let ran = sandbox.run(&["verify", "last", "--against", "out/samples_samples_knowledge.jsonl"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stdout.contains("4 of 6 items equal"), "{}", ran.stdout);
    assert!(ran.stdout.contains("first divergence: document 2, log-likelihood"), "{}", ran.stdout);
    assert!(ran.stdout.contains("document 4, prompt"), "{}", ran.stdout);
}

#[test]
fn rescoring_needs_no_model() {
    let sandbox = Sandbox::new();
    let document = measured(&sandbox, 3);
    fs_err::remove_file(sandbox.path().join("model.json")).unwrap();
    let again = sandbox.ok(&["rescore", "last", "--json"]).json();
    assert_eq!(again["results"], document["results"]);
    let ran = sandbox.run(&["rescore", "last", "--extractor", "nonsense"]);
    assert_eq!(ran.status, 2);
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
}

#[test]
fn a_rescored_run_has_a_protocol_of_its_own_and_can_be_exported() {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/rows.jsonl", "{\"q\": \"1+1?\", \"a\": \"2\"}\n{\"q\": \"2+2?\", \"a\": \"4\"}\n");
    let task = |target: &str| {
        format!(
            "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {{file: rows.jsonl}}\noutput: generate_until\n\
             prompt: \"{{{{q}}}}\"\ntarget: \"{target}\"\ngeneration: {{until: [\"\\n\"], max_tokens: 8}}\n\
             metrics: [{{name: exact_match}}]\n"
        )
    };
    sandbox.write("tasks/mine.yaml", task("{{a}}"));
    let model = sandbox.model(&Script::seeded(1).with("rules", json!([{"match": "?", "text": "2"}])));
    let asked = sandbox.ok(&["eval", "mine", "--model", &model, "--include-path", "tasks", "--json"]).json();
    sandbox.write("tasks/mine.yaml", task("2"));
    let refused = sandbox.run(&["export", "last", "--format", "jsonl", "--out", "out"]);
    assert_eq!(refused.status, 2, "{refused:?}");
    assert!(refused.stderr.contains("definition of `mine`"), "{}", refused.stderr);
    assert!(refused.stderr.contains("evalign rescore run_"), "{}", refused.stderr);

    let again = sandbox.ok(&["rescore", "last", "--json"]);
    assert!(again.stderr.contains("protocol of their own"), "{}", again.stderr);
    let again = again.json();
    assert_eq!(again["results"][0]["metrics"][0]["value"], 1.0, "{again:#}");
    let board = sandbox.ok(&["leaderboard", "--format", "json"]).json();
    assert_eq!(board[0]["protocol"], again["results"][0]["protocol"]);
    assert_ne!(board[0]["protocol"], asked["results"][0]["protocol"]);
    let exported = sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "out"]);
    assert!(exported.stderr.contains("scored again"), "{}", exported.stderr);
    let run: Value =
        serde_json::from_slice(&fs_err::read(sandbox.path().join("out/run.json")).unwrap()).unwrap();
    assert!(run["scored_by"]["definitions"]["mine"].is_string(), "{run:#}");
}

#[test]
fn parquet_is_written() {
    let sandbox = Sandbox::new();
    measured(&sandbox, 3);
    sandbox.ok(&["export", "last", "--format", "parquet", "--out", "out"]);
    let bytes = fs_err::read(sandbox.path().join("out/samples.parquet")).unwrap();
    assert!(bytes.starts_with(b"PAR1") && bytes.ends_with(b"PAR1"));
}

#[test]
fn a_log_of_the_reference_becomes_a_run() {
    let sandbox = Sandbox::new();
    let document = measured(&sandbox, 3);
    sandbox.ok(&["export", "last", "--format", "lm-eval", "--out", "out"]);
    let other = Sandbox::new();
    other.ok(&["import", &sandbox.path().join("out").display().to_string()]);
    let shown = other.ok(&["show", "last", "--json"]).json();
    let value = |document: &Value, task: &str, metric: &str| {
        let results = document["results"].as_array().unwrap().clone();
        let result = results.into_iter().find(|result| result["task"] == task).unwrap();
        let metrics = result["metrics"].as_array().unwrap().clone();
        let metric = metrics.into_iter().find(|found| found["name"] == metric).unwrap();
        (metric["value"].clone(), metric["stderr"].clone())
    };
    for (task, metric) in [("samples_knowledge", "acc"), ("samples_completion", "acc_norm")] {
        assert_eq!(value(&shown, task, metric), value(&document, task, metric), "{task} {metric}");
    }
    // evalign's own log says by which rule book, with which seed and model it was made.
    let spec = |shown: &Value| (shown["mode"].clone(), shown["seed"].clone(), shown["model"]["ref"].clone());
    assert_eq!(spec(&shown), spec(&document));
    assert_eq!(shown["mode"], "default");
    let wrong = other.ok(&["show", "last", "--samples", "--outcome", "wrong", "--json"]).json();
    assert!(wrong.as_array().is_some_and(|records| !records.is_empty()));
    // The reference says nothing of the kind.
    let results = sandbox.path().join("out/results.json");
    let mut log: Value = serde_json::from_slice(&fs_err::read(&results).unwrap()).unwrap();
    log["config"] =
        json!({"model": "hf", "model_args": {"pretrained": "a/b"}, "fewshot_seed": 7, "random_seed": 0});
    fs_err::write(&results, log.to_string()).unwrap();
    let other = Sandbox::new();
    other.ok(&["import", &sandbox.path().join("out").display().to_string()]);
    let shown = other.ok(&["show", "last", "--json"]).json();
    assert_eq!(spec(&shown), (json!("lm-eval"), json!(7), json!("local/a/b")));
}

#[test]
fn a_log_that_was_cut_off_is_no_finished_run() {
    let sandbox = Sandbox::new();
    measured(&sandbox, 3);
    sandbox.ok(&["export", "last", "--format", "lm-eval", "--out", "out"]);
    let out = sandbox.path().join("out").display().to_string();
    let log = sandbox.path().join("out/samples_samples_knowledge.jsonl");
    let text = fs_err::read_to_string(&log).unwrap();
    let half: Vec<&str> = text.lines().take(text.lines().count() / 2).collect();
    fs_err::write(&log, half.join("\n")).unwrap();
    let other = Sandbox::new();
    other.ok(&["import", &out]);
    let run = other.ok(&["runs", "--json"]).json()[0].clone();
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!(other.ok(&["leaderboard", "--format", "json"]).json(), serde_json::json!([]));
    fs_err::write(&log, "").unwrap();
    let other = Sandbox::new();
    let ran = other.run(&["import", &out]);
    assert!(ran.status == 2 && ran.stderr.contains("holds no samples"), "{ran:?}");
    assert_eq!(other.ok(&["runs", "--json"]).json(), serde_json::json!([]));
}
