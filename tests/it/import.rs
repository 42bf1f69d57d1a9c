//! What an import believes, and what a failed one leaves behind.

use std::path::Path;

use evalign_testkit::{Sandbox, Script};
use serde_json::{Value, json};

const TASK: &str = "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {file: rows.jsonl}\noutput: generate_until\n\
    prompt: \"{{q}}\"\ntarget: \"{{a}}\"\ngeneration: {until: [\"\\n\"], max_tokens: 8}\nmetrics: [{name: exact_match}]\n";

/// A run of four documents, two of them right, exported into `out`.
fn exported() -> Sandbox {
    let sandbox = Sandbox::new();
    let rows = (0..4).map(|i| format!("{{\"q\": \"{i}?\", \"a\": \"{}\"}}\n", i % 2)).collect::<String>();
    sandbox.write("tasks/rows.jsonl", rows);
    sandbox.write("tasks/mine.yaml", TASK);
    let model = sandbox.model(&Script::seeded(1).with("rules", json!([{"match": "?", "text": "1"}])));
    sandbox.ok(&["eval", "mine", "--model", &model, "--include-path", "tasks", "--json"]);
    sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "out"]);
    sandbox
}

fn change(path: &Path, change: impl FnOnce(&mut Vec<String>)) {
    let mut lines: Vec<String> = fs_err::read_to_string(path).unwrap().lines().map(str::to_owned).collect();
    change(&mut lines);
    fs_err::write(path, lines.join("\n") + "\n").unwrap();
}

#[test]
fn a_failed_import_leaves_no_run_behind() {
    let sandbox = exported();
    let samples = sandbox.path().join("out/samples.jsonl");
    let out = sandbox.path().join("out").display().to_string();
    let good = fs_err::read(&samples).unwrap();
    let failed = |said: &[&str]| {
        let other = Sandbox::new();
        let ran = other.run(&["import", &out]);
        assert_eq!(ran.status, 2, "{ran:?}");
        for text in said {
            assert!(ran.stderr.contains(text), "`{text}` is not in {}", ran.stderr);
        }
        assert_eq!(other.ok(&["runs", "--json"]).json(), json!([]));
        fs_err::write(&samples, &good).unwrap();
    };
    change(&samples, |lines| lines[2] = "{\"key\": 1}".to_owned());
    failed(&["samples.jsonl, line 3"]);
    change(&samples, |lines| lines.push(lines[0].clone()));
    failed(&["samples.jsonl, line 5", "is there already, in line 1"]);
    change(&samples, |lines| lines[3] = lines[3].replace("\"mine\"", "\"other\""));
    failed(&["samples.jsonl, line 4", "not of the run"]);
}

fn metric(results: &Value) -> (Value, Value) {
    let metric = &results["results"][0]["metrics"][0];
    (metric["value"].clone(), metric["n"].clone())
}

#[test]
fn results_are_those_of_the_samples() {
    let sandbox = exported();
    let out = sandbox.path().join("out").display().to_string();
    let tasks = sandbox.path().join("tasks").display().to_string();
    let run = sandbox.path().join("out/run.json");
    let mut document: Value = serde_json::from_slice(&fs_err::read(&run).unwrap()).unwrap();
    document["results"][0]["metrics"][0]["value"] = json!(1.0);
    fs_err::write(&run, document.to_string()).unwrap();
    let other = Sandbox::new();
    other.ok(&["import", &out, "--include-path", &tasks]);
    assert_eq!(metric(&other.ok(&["show", "last", "--json"]).json()), (json!(0.5), json!(4)));

    // Fewer samples than results.
    change(&sandbox.path().join("out/samples.jsonl"), |lines| drop(lines.pop()));
    let other = Sandbox::new();
    other.ok(&["import", &out, "--include-path", &tasks]);
    assert_eq!(other.ok(&["runs", "--json"]).json()[0]["status"], "cancelled");
    let other = Sandbox::new();
    let ran = other.ok(&["import", &out]);
    for said in ["could not be computed", "about 4 documents", "answers to 3"] {
        assert!(ran.stderr.contains(said), "{}", ran.stderr);
    }
    assert!(other.ok(&["leaderboard", "--format", "json"]).json() == json!([]));
}

#[test]
fn samples_scored_by_other_rules_are_refused_with_a_way_out() {
    let sandbox = exported();
    sandbox.write("other/rows.jsonl", fs_err::read(sandbox.path().join("tasks/rows.jsonl")).unwrap());
    sandbox.write("other/mine.yaml", TASK.replace("target: \"{{a}}\"", "target: \"1\""));
    sandbox.ok(&["rescore", "last", "--include-path", "other"]);
    let refused = sandbox.run(&["import", "out"]);
    assert_eq!(refused.status, 2, "{refused:?}");
    for said in ["evalign rescore run_", "the run was started with", "EVALIGN_HOME"] {
        assert!(refused.stderr.contains(said), "{}", refused.stderr);
    }
    // The way out is one.
    sandbox.ok(&["rescore", "last", "--include-path", "tasks"]);
    sandbox.ok(&["import", "out"]);
}

#[test]
fn a_copy_of_the_task_file_scores_again_and_eval_does_not_undo_it() {
    let sandbox = exported();
    sandbox.write("other/rows.jsonl", fs_err::read(sandbox.path().join("tasks/rows.jsonl")).unwrap());
    sandbox.write("other/mine.yaml", TASK.replace("target: \"{{a}}\"", "target: \"1\""));
    let again = sandbox.ok(&["rescore", "last", "--include-path", "other", "--json"]).json();
    assert_eq!(metric(&again), (json!(1.0), json!(4)));
    let model = sandbox.model(&Script::seeded(1).with("rules", json!([{"match": "?", "text": "1"}])));
    let arguments = ["eval", "mine", "--model", &model, "--include-path", "tasks", "--json"];
    for arguments in [arguments.to_vec(), vec!["resume", "last", "--json"]] {
        let ran = sandbox.ok(&arguments);
        assert!(ran.stderr.contains("scored again"), "{}", ran.stderr);
        assert_eq!(metric(&ran.json()), (json!(1.0), json!(4)), "{arguments:?}");
    }
    assert_eq!(metric(&sandbox.ok(&["show", "last", "--json"]).json()), (json!(1.0), json!(4)));
    // Also where the run's own directory is gone.
    fs_err::remove_dir_all(sandbox.path().join("tasks")).unwrap();
    sandbox.ok(&["rescore", "last", "--include-path", "other"]);
}
