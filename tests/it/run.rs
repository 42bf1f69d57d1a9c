//! Measuring a model: results, repeats, resuming, failures.

use evalign_testkit::{Sandbox, Script};
use serde_json::{Value, json};

/// The suite that ships with evalign, scripted answers.
fn eval<'a>(model: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["eval", "samples", "--model", model, "--json"];
    arguments.extend(more);
    arguments
}

fn result<'a>(document: &'a Value, task: &str) -> &'a Value {
    let results = document["results"].as_array().unwrap();
    results.iter().find(|result| result["task"] == task).unwrap_or_else(|| panic!("no {task}: {document:#}"))
}

#[test]
fn the_json_document_has_the_promised_shape() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7));
    let document = sandbox.ok(&eval(&model, &["--limit", "10"])).json();
    assert!(document["run_id"].as_str().unwrap().starts_with("run_"));
    for field in ["ref", "digest", "dtype", "device"] {
        assert!(document["model"][field].is_string(), "model.{field}");
    }
    assert!(document["seed"].is_u64());
    for field in ["prompt_tokens", "computed_prompt_tokens", "generated_tokens"] {
        assert!(document["usage"][field].is_u64(), "usage.{field}");
    }
    for field in ["load", "prefill", "decode", "total"] {
        assert!(document["seconds"][field].is_f64(), "seconds.{field}");
    }
    let knowledge = result(&document, "samples_knowledge");
    for field in ["task", "version", "protocol"] {
        assert!(knowledge[field].is_string(), "{field}");
    }
    assert!(knowledge["shots"].is_u64());
    let metric = &knowledge["metrics"][0];
    assert_eq!(metric["n"], 10);
    let (value, stderr) = (metric["value"].as_f64().unwrap(), metric["stderr"].as_f64().unwrap());
    // For zeros and ones the sample standard error has a closed form.
    assert!((stderr - (value * (1.0 - value) / 9.0).sqrt()).abs() < 1e-12);
    let [low, high] = [metric["ci95"][0].as_f64().unwrap(), metric["ci95"][1].as_f64().unwrap()];
    assert!(low <= value && value <= high);
    assert_eq!(
        metric["outcomes"]["correct"].as_u64().unwrap() + metric["outcomes"]["wrong"].as_u64().unwrap(),
        10
    );
    // The group is there too.
    assert!(result(&document, "samples")["metrics"].as_array().is_some_and(|m| !m.is_empty()));
}

#[test]
fn the_same_evaluation_is_the_same_run() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7).with("count_file", json!("asked")));
    let first = sandbox.ok(&eval(&model, &["--limit", "4"])).json();
    let again = sandbox.ok(&eval(&model, &["--limit", "4"])).json();
    assert_eq!(first["run_id"], again["run_id"]);
    assert_eq!(first["results"], again["results"]);
    let other = sandbox.ok(&eval(&model, &["--limit", "4", "--seed", "5"])).json();
    assert_ne!(first["run_id"], other["run_id"]);
    let fork = sandbox.ok(&eval(&model, &["--limit", "4", "--fork"])).json();
    assert_ne!(first["run_id"], fork["run_id"]);
    assert_eq!(first["results"], fork["results"]);
}

#[test]
fn calls_that_fail_are_neither_right_nor_wrong() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7).with("fault", json!({"every": 5, "kind": "permanent"})));
    let ran = sandbox.run(&eval(&model, &["--limit", "20"]));
    assert_eq!(ran.status, 1, "{ran:?}");
    assert!(ran.stderr.contains("--outcome error"), "{}", ran.stderr);
    let document = ran.json();
    let metric = &result(&document, "samples_knowledge")["metrics"][0];
    let errors = metric["outcomes"]["error"].as_u64().unwrap();
    assert!(errors > 0, "{metric}");
    assert_eq!(metric["n"].as_u64().unwrap(), 20 - errors);
    assert!(metric["bounds"][0].as_f64() < metric["bounds"][1].as_f64());
    // Where failures are tolerated the exit status is 0; the run is the same and asks nothing again.
    sandbox.ok(&eval(&model, &["--limit", "20", "--fail-on-error", "0.9"]));
    let shown = sandbox.ok(&["show", "last", "--samples", "--outcome", "error", "--json"]).json();
    assert!(shown[0]["error"].is_string());
}

#[test]
fn passing_failures_are_asked_again() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7).with("fault", json!({"every": 7, "kind": "temporary"})));
    let document = sandbox.ok(&eval(&model, &["--limit", "10", "--fail-on-error", "0.9"])).json();
    assert_eq!(document["status"], "completed");
}

#[test]
fn a_table_says_what_a_number_is() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7));
    let ran = sandbox.ok(&["eval", "samples_knowledge", "--model", &model, "--limit", "5"]);
    for text in ["samples_knowledge", "± stderr", "95 % interval", "run_", "rule book: default"] {
        assert!(ran.stdout.contains(text), "{text}: {}", ran.stdout);
    }
    assert!(ran.stderr.contains("evalign.db"), "{}", ran.stderr);
}

#[test]
fn dry_runs_cost_nothing_and_leave_nothing() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7).with("count_file", json!("asked")));
    let ran = sandbox.ok(&["eval", "samples", "--model", &model, "--limit", "3", "--dry-run"]);
    assert!(ran.stdout.contains("first prompt:"), "{}", ran.stdout);
    let document =
        sandbox.ok(&["eval", "samples", "--model", &model, "--limit", "3", "--dry-run", "--json"]).json();
    assert!(document["first_prompt"].as_str().is_some_and(|prompt| !prompt.is_empty()));
    assert_eq!(document["samples"], 9);
    assert_eq!(sandbox.ok(&["runs", "--json"]).json(), json!([]));
}

#[test]
fn promise_4_a_changed_task_file_refuses_to_resume_and_says_what_changed() {
    let sandbox = Sandbox::new();
    sandbox.write("tasks/rows.jsonl", "{\"q\": \"1+1?\", \"a\": \"2\"}\n{\"q\": \"2+2?\", \"a\": \"4\"}\n");
    let task = |prompt: &str| {
        format!(
            "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {{file: rows.jsonl}}\noutput: generate_until\n\
             prompt: \"{prompt}\"\ntarget: \"{{{{a}}}}\"\ngeneration: {{until: [\"\\n\"], max_tokens: 8}}\n\
             metrics: [{{name: exact_match}}]\n"
        )
    };
    sandbox.write("tasks/mine.yaml", task("{{q}}"));
    let model = sandbox.model(&Script::seeded(1));
    let arguments = ["eval", "mine", "--model", &model, "--include-path", "tasks", "--json"];
    let first = sandbox.ok(&arguments).json();
    sandbox.write("tasks/mine.yaml", task("Question: {{q}}"));
    let ran = sandbox.run(&["resume", "last"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("/tasks/mine/definition"), "{}", ran.stderr);
    assert!(ran.stderr.contains("--fork"), "{}", ran.stderr);
    let forked = sandbox.ok(&["resume", "last", "--fork", "--json"]).json();
    assert_ne!(first["run_id"], forked["run_id"]);
    sandbox.write("tasks/rows.jsonl", "{\"q\": \"1+1?\", \"a\": \"2\"}\n");
    let ran = sandbox.run(&["resume", "last"]);
    assert!(ran.stderr.contains("/tasks/mine/dataset"), "{}", ran.stderr);
}

#[test]
fn the_leaderboard_never_mixes_protocols() {
    let sandbox = Sandbox::new();
    for seed in [1, 2] {
        let model = sandbox.write(&format!("m{seed}.json"), json!({"seed": seed}).to_string());
        let model = format!("scripted/{}", model.display());
        for shots in ["0", "2"] {
            sandbox.ok(&["eval", "samples_knowledge", "--model", &model, "--limit", "6", "--shots", shots]);
        }
    }
    let board = sandbox.ok(&["leaderboard", "--format", "json"]).json();
    let blocks = board.as_array().unwrap();
    let accuracy: Vec<_> = blocks.iter().filter(|block| block["metric"] == "acc").collect();
    assert_eq!(accuracy.len(), 2, "{board:#}");
    for block in accuracy {
        assert_eq!(block["rows"].as_array().unwrap().len(), 2);
        let shots: Vec<_> = block["rows"].as_array().unwrap().iter().map(|row| &row["shots"]).collect();
        assert_eq!(shots[0], shots[1]);
    }
    let markdown = sandbox.ok(&["leaderboard", "--format", "markdown"]).stdout;
    assert!(markdown.starts_with("| task |"), "{markdown}");
    let csv = sandbox.ok(&["leaderboard", "--format", "csv"]).stdout;
    assert!(csv.starts_with("task,protocol,"), "{csv}");
}

#[test]
fn votes_are_counted_over_the_first_answers_and_no_two_share_a_seed() {
    let Some(shared) = evalign_testkit::shared("votes") else { return };
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(7));
    let data = shared.join("data").display().to_string();
    let arguments = ["eval", "gsm8k_cot_self_consistency", "--model", &model, "--data-root", &data, "--json"];
    let more = ["--repeats", "8", "--limit", "5"];
    let document = sandbox.ok(&[&arguments[..], &more[..]].concat()).json();
    let metrics = result(&document, "gsm8k_cot_self_consistency")["metrics"].as_array().unwrap().clone();
    let filters: Vec<&str> = metrics.iter().map(|metric| metric["filter"].as_str().unwrap()).collect();
    assert_eq!(filters, ["maj@1", "maj@4", "maj@8"]);
    for metric in &metrics {
        let outcomes = metric["outcomes"].as_object().unwrap();
        assert_eq!(outcomes.values().map(|count| count.as_u64().unwrap()).sum::<u64>(), 5, "{metric}");
    }
    let records = sandbox.ok(&["show", "last", "--samples", "--limit", "100", "--json"]).json();
    let seeds: std::collections::BTreeSet<u64> = records
        .as_array()
        .unwrap()
        .iter()
        .map(|record| record["request"]["kind"]["generate"]["params"]["seed"].as_u64().unwrap())
        .collect();
    assert_eq!(seeds.len(), 40);
}
