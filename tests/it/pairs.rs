//! `evalign pairs` and `evalign critique` end to end: what is wrong with a file is said with its line, runs go on after
//! a kill, and what they write is what TRL reads.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;

use evalign_testkit::{Sandbox, Script};
use serde_json::{Value, json};

use crate::kill::{Moments, finished, kill_after_requests};

fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Without the id of the run, which no two runs share.
fn anonymous(path: &Path) -> Vec<Value> {
    let mut rows = rows(path);
    rows.iter_mut().filter_map(Value::as_object_mut).for_each(|row| drop(row.remove("run")));
    rows
}

fn prompts(sandbox: &Sandbox, count: usize) -> String {
    let lines: String = (0..count)
        .map(|i| {
            json!({"prompt": format!("What is the {i}th thing that comes to mind about gardens?")})
                .to_string()
                + "\n"
        })
        .collect();
    sandbox.write("prompts.jsonl", lines).display().to_string()
}

const FAULTY: &str = r#"{"prompt": [{"role": "user", "content": "q"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}], "margin": 0.5}
{"prompt": [{"role": "user", "content": "r"}], "chosen": [{"role": "assistant", "content": "same"}], "rejected": [{"role": "assistant", "content": "same"}]}
{"prompt": [{"role": "user", "content": "s"}], "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": ""}]}
not json
{"prompt": [{"role": "user", "content": "t"}], "chosen": [{"role": "user", "content": "a"}], "rejected": [{"role": "assistant", "content": "c"}], "margin": -0.5}
"#;

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("faulty.jsonl", FAULTY);
    let path = path.to_str().unwrap();
    let ran = sandbox.run(&["pairs", "check", path]);
    assert_eq!(ran.status, 1, "{ran:?}");
    for (line, said) in
        [(2, "[identical]"), (3, "[empty]"), (4, "[unreadable]"), (5, "[wrong-role]"), (5, "[reversed]")]
    {
        let found =
            ran.stdout.lines().any(|l| l.contains(&format!("faulty.jsonl, line {line}")) && l.contains(said));
        assert!(found, "line {line} {said}: {}", ran.stdout);
    }
    assert!(!ran.stdout.contains("line 1,") && !ran.stdout.contains("line 1:"), "{}", ran.stdout);
    let json = sandbox.run(&["pairs", "check", path, "--json", "-n", "1"]).json();
    assert_eq!(json["report"]["rows"], 5);
    assert_eq!(json["findings"].as_array().unwrap().len(), 5);
    let good = sandbox.write("good.jsonl", FAULTY.lines().next().unwrap());
    assert_eq!(sandbox.run(&["pairs", "check", good.to_str().unwrap()]).status, 0);
    for (name, content, said) in [("none.csv", "a,b\n", "jsonl"), ("empty.jsonl", "", "no rows")] {
        let path = sandbox.write(name, content);
        let ran = sandbox.run(&["pairs", "check", path.to_str().unwrap()]);
        assert!(ran.status == 2 && ran.stderr.contains(said) && ran.stderr.contains("hint: "), "{ran:?}");
    }
}

#[test]
fn rows_are_written_in_every_layout_and_back() {
    let sandbox = Sandbox::new();
    let path = sandbox.write("pairs.jsonl", FAULTY.lines().next().unwrap());
    let path = path.to_str().unwrap();
    sandbox.ok(&["pairs", "export", path, "--out", "parquet", "--format", "parquet"]);
    sandbox.ok(&["pairs", "export", "parquet/pairs.parquet", "--out", "back"]);
    let back = rows(&sandbox.path().join("back/pairs.jsonl"));
    let first: Value = serde_json::from_str(FAULTY.lines().next().unwrap()).unwrap();
    for column in ["prompt", "chosen", "rejected", "margin"] {
        assert_eq!(back[0][column], first[column], "{column}");
    }
    sandbox.ok(&["pairs", "export", path, "--out", "kto", "--layout", "unpaired", "--style", "standard"]);
    let kto = rows(&sandbox.path().join("kto/pairs.jsonl"));
    assert_eq!(kto.len(), 2);
    assert_eq!((&kto[0]["completion"], &kto[0]["label"]), (&json!("a"), &json!(true)));
    assert_eq!((&kto[1]["completion"], &kto[1]["label"]), (&json!("b"), &json!(false)));
    let ran = sandbox.run(&["pairs", "export", "kto/pairs.jsonl", "--out", "x"]);
    assert!(ran.status == 2 && ran.stderr.contains("hint: "), "{ran:?}");
    assert_eq!(
        std::fs::read_dir(sandbox.path().join("x")).unwrap().count(),
        0,
        "nothing half written is left"
    );
    let faults = "{\"prompt\": \"q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n\
                  {\"prompt\": \"r\", \"chosen\": \"same\", \"rejected\": \"same\"}\n";
    let foreign = sandbox.write("foreign.jsonl", faults).display().to_string();
    let ran = sandbox.run(&["pairs", "export", &foreign, "--out", "imported"]);
    assert!(ran.status == 1 && ran.stderr.contains("line 2: left out"), "{ran:?}");
    assert_eq!(rows(&sandbox.path().join("imported/foreign.jsonl")).len(), 1);
    let ran = sandbox.run(&["pairs", "export", path, "--out", "."]);
    assert!(ran.status == 2 && ran.stderr.contains("over itself"), "{ran:?}");
}

#[test]
fn right_and_wrong_answers_of_training_rows_become_pairs() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(5));
    let arguments = [
        "pairs",
        "build",
        "--task",
        "one_step_arithmetic",
        "--model",
        &model,
        "--samples",
        "16",
        "--shots",
        "2",
        "--limit",
        "120",
        "--out",
        "out",
        "--held-out",
        "0.3",
        "--no-decontamination",
        "--json",
    ];
    let report = sandbox.ok(&arguments).json()["report"].clone();
    let train = rows(&sandbox.path().join("out/train.jsonl"));
    let held_out = rows(&sandbox.path().join("out/held_out.jsonl"));
    assert_eq!(
        (train.len() as u64, held_out.len() as u64),
        (report["train"].as_u64().unwrap(), report["held_out"].as_u64().unwrap())
    );
    assert!(train.len() > 3 && !held_out.is_empty(), "{report}");
    assert_eq!(report["answers"], 16 * 120);
    for row in train.iter().chain(&held_out) {
        let last_number = |text: &serde_json::Value| {
            let text = text.as_str().unwrap();
            text.rsplit(|c: char| !c.is_ascii_digit()).find(|part| !part.is_empty()).unwrap().to_owned()
        };
        let right = last_number(&row["reference"]);
        assert_eq!(last_number(&row["chosen"][0]["content"]), right);
        assert_ne!(last_number(&row["rejected"][0]["content"]), right);
        let prompt = row["prompt"].as_array().unwrap();
        assert!(prompt.len() == 1 && prompt[0]["role"] == "user", "the question alone: {prompt:?}");
        assert!(row["logprob_chosen"].as_f64().unwrap() < 0.0, "on-policy log-probabilities are kept");
        assert_eq!(row["strategy"], "right-vs-wrong");
    }
    // Prompts are on one side only, and the same command asks nothing again.
    assert!(train.iter().all(|row| held_out.iter().all(|other| other["prompt"] != row["prompt"])));
    let again = sandbox.ok(&arguments).json();
    assert_eq!(again["report"], report);
    let run = again["run_id"].as_str().unwrap();
    let samples = sandbox.ok(&["show", run, "--samples", "--limit", "1", "--json"]).json();
    let asked = samples[0]["request"]["kind"]["generate"]["prompt"]["chat"].as_array().unwrap();
    assert_eq!(asked.len(), 5, "two examples of two turns and the question: {asked:?}");
    sandbox.ok(&["pairs", "export", run, "--out", "again", "--held-out", "0.3", "--no-decontamination"]);
    assert_eq!(rows(&sandbox.path().join("again/train.jsonl")), train);
    assert_eq!(sandbox.ok(&["pairs", "check", "out/train.jsonl"]).status, 0);
}

#[test]
fn requests_that_make_no_sense_are_refused_with_a_hint() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(1));
    let file = prompts(&sandbox, 2);
    let build = |more: &[&str]| {
        let mut arguments = vec!["pairs", "build", "--model", &model, "--out", "out"];
        arguments.extend(more);
        sandbox.run(&arguments)
    };
    for (more, said) in [
        (&["--prompts", &file][..], "needs a judge"),
        (&["--prompts", &file, "--strategy", "right-vs-wrong"], "known of tasks only"),
        (&["--task", "one_step_arithmetic", "--samples", "1"], "makes no pair"),
        (&["--task", "robustness_attacks"], "names no training rows"),
        (&["--task", "no_such_task"], "unknown task"),
        (&["--task", "one_step_arithmetic", "--shots", "2", "--no-chat-template"], "no chat template"),
        (&["--task", "one_step_arithmetic", "--held-out", "2"], "`--held-out` is 2"),
        (&["--prompts", "no.jsonl", "--judge", &model], "no.jsonl"),
        (&["--task", "one_step_arithmetic", "--strategy", "revision-vs-original"], "evalign critique"),
    ] {
        let ran = build(more);
        assert!(
            ran.status == 2 && ran.stderr.contains(said) && ran.stderr.contains("hint: "),
            "{more:?}: {ran:?}"
        );
    }
    let constitution = "constitution: c\nversion: '1'\nsummary: s\nsource: x\nprinciples:\n  - {id: a, principle: p, critique: c}\n";
    let constitution = sandbox.write("c.yaml", constitution).display().to_string();
    let ran =
        sandbox.run(&["critique", "--prompts", &file, "--model", &model, "--constitution", &constitution]);
    assert!(ran.status == 2 && ran.stderr.contains("c.yaml:6") && ran.stderr.contains("revision"), "{ran:?}");
}

const KILLS: usize = 10;

/// A command that is killed at ten moments and then left to finish writes what an undisturbed one writes, and asks no
/// finished question again.
fn kill_and_finish(name: &str, arguments: &[&str], files: &[&str]) {
    let sandbox = Sandbox::new();
    let mut moments = Moments(17);
    let script = Script::seeded(21)
        .with("delay_ms", json!(10))
        .with("concurrency", json!(4))
        .with("count_file", json!("asked.txt"));
    let model = sandbox.model(&script);
    // Work for twice as many kills: on a busy machine they come late.
    let file = prompts(&sandbox, 40);
    let command = |home: &str, out: &str| {
        let mut all = arguments.to_vec();
        all.extend(["--prompts", &file, "--model", &model, "--judge", &model, "--out", out]);
        let mut command = sandbox.command(&all);
        command.env("EVALIGN_HOME", sandbox.path().join(home));
        command
    };
    let asked =
        || std::fs::read_to_string(sandbox.path().join("asked.txt")).unwrap_or_default().lines().count();
    let whole = command("undisturbed", "whole").output().unwrap();
    assert!(whole.status.success(), "{name}: {}", String::from_utf8_lossy(&whole.stderr));
    let home = sandbox.path().join("killed");
    let (mut alive, mut kept) = (0, BTreeSet::new());
    for _ in 0..KILLS {
        let child = command("killed", "parts").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let asked = sandbox.path().join("asked.txt");
        alive += usize::from(kill_after_requests(child, &asked, &mut moments, 16));
        let now = if home.exists() { finished(&home) } else { BTreeSet::new() };
        assert!(now.is_superset(&kept), "{name}: lost {:?}", kept.difference(&now).collect::<Vec<_>>());
        kept = now;
    }
    assert!(!kept.is_empty(), "{name}: nothing was ever finished before a kill");
    let before = asked();
    assert_eq!(alive, KILLS, "{name}: kills that met a running process");
    let ended = command("killed", "parts").output().unwrap();
    assert!(ended.status.success(), "{name}: {}", String::from_utf8_lossy(&ended.stderr));
    let again = asked() - before;
    let all = finished(&home);
    assert!(again <= all.len() - kept.len(), "{name}: {again} asked, {} kept of {}", kept.len(), all.len());
    let mut written = 0;
    for file in files {
        let [whole, parts] = ["whole", "parts"].map(|out| anonymous(&sandbox.path().join(out).join(file)));
        assert!(whole == parts, "{name}: {file} differs from the undisturbed run");
        written += whole.len();
    }
    assert!(written > 0, "{name}: no rows to compare");
}

#[test]
fn pairs_go_on_after_kills() {
    let build = [
        "pairs",
        "build",
        "--samples",
        "3",
        "--min-probability",
        "0",
        "--no-decontamination",
        "--held-out",
        "0",
    ];
    kill_and_finish("pairs", &build, &["train.jsonl"]);
}

#[test]
fn critiques_go_on_after_kills() {
    let critique = ["critique", "--rounds", "2"];
    kill_and_finish("critique", &critique, &["pairs.jsonl", "hard_negatives.jsonl", "imitated.jsonl"]);
}

/// Nobody knows whether what was not judged is bad: nothing is written, and the exit status says so.
#[test]
fn a_judge_without_verdicts_makes_no_rows() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(3));
    let silent =
        sandbox.write("silent.json", json!({"rules": [{"match": "", "text": "I like both."}]}).to_string());
    let (silent, file) = (format!("scripted/{}", silent.display()), prompts(&sandbox, 4));
    let common = ["--prompts", &file, "--model", &model, "--judge", &silent, "--out", "out", "--json"];
    let run = |command: &[&str]| sandbox.run(&[command, &common].concat());
    let critique = run(&["critique", "--rounds", "2"]);
    assert_eq!(critique.status, 1, "{critique:?}");
    let report = &critique.json()["report"];
    assert!(report["revisions"].as_u64() > Some(0) && report["verified"] == 0, "{report}");
    for name in ["pairs", "hard_negatives", "imitated"] {
        assert_eq!(rows(&sandbox.path().join(format!("out/{name}.jsonl"))), Vec::<Value>::new(), "{name}");
    }
    let built = run(&["pairs", "build", "--samples", "2"]);
    assert_eq!(built.status, 1, "{built:?}");
    assert!(built.stderr.contains("no comparison has a verdict"), "{}", built.stderr);
    assert_eq!(
        built.json()["report"]["judged"]["undecided"],
        built.json()["report"]["judged"]["comparisons"]
    );
}

/// A critique is a means: what met the token limit still leads to a revision, and is counted.
#[test]
fn critiques_that_met_the_token_limit_are_used_and_counted() {
    let sandbox = Sandbox::new();
    let long = "This names no source, it never says how sure it is, and nobody who reads it learns why.";
    let rules = json!([
        {"match": "Write the critique that is asked for", "text": long},
        {"match": "", "text": "A short text."},
    ]);
    let model = sandbox.model(&Script::seeded(1).with("rules", rules));
    let judge = format!("scripted/{}", sandbox.write("judge.json", json!({"seed": 2}).to_string()).display());
    let file = prompts(&sandbox, 3);
    let common = ["--prompts", &file, "--model", &model, "--judge", &judge, "--out", "out", "--json"];
    let ran = sandbox.run(&[&["critique", "--rounds", "1", "--max-tokens", "8"], &common[..]].concat());
    let report = &ran.json()["report"];
    assert_eq!(report["cut"], json!({"answers": 0, "critiques": 3, "revisions": 0}), "{report}");
    assert_eq!((&report["answered"], &report["revisions"]), (&json!(3), &json!(3)), "{report}");
}

/// A question that a task is measured on becomes no training row, short as it is.
#[test]
fn questions_of_tasks_are_kept_out_of_training_files() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(3));
    let known = include_str!("../../benchmarks/samples/knowledge.jsonl").lines().nth(2).unwrap();
    let known: Value = serde_json::from_str(known).unwrap();
    let asked = [
        known["question"].as_str().unwrap(),
        "Which of these two gardens would you rather sit in on a Sunday?",
    ];
    let lines: String = asked.iter().map(|prompt| format!("{}\n", json!({"prompt": prompt}))).collect();
    let file = sandbox.write("asked.jsonl", lines).display().to_string();
    let common = ["--prompts", &file, "--model", &model, "--judge", &model, "--json"];
    let build =
        ["pairs", "build", "--samples", "3", "--min-probability", "0", "--held-out", "0", "--out", "built"];
    let built = sandbox.ok(&[&build[..], &common].concat()).json()["report"].clone();
    assert!(built["dropped"]["contaminated"].as_u64() > Some(0), "{built}");
    let critique = ["critique", "--rounds", "4", "--out", "revised"];
    sandbox.ok(&[&critique[..], &common].concat());
    for name in ["built/train", "revised/pairs", "revised/hard_negatives", "revised/imitated"] {
        for row in rows(&sandbox.path().join(format!("{name}.jsonl"))) {
            assert_eq!(row["prompt"][0]["content"], asked[1], "{name}");
        }
    }
    let ran = sandbox.run(&["pairs", "export", "built/train.jsonl", "--out", "x", "--held-out", "0.5"]);
    assert!(ran.status == 2 && ran.stderr.contains("filters apply to runs"), "{ran:?}");
}
