//! Ctrl-C, and two processes on one run.

#![cfg(unix)]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use evalign_testkit::{Ran, Sandbox, Script};
use serde_json::json;

/// Starts a slow evaluation and waits until it works on its samples.
fn start(sandbox: &Sandbox, model: &str) -> Child {
    let mut child = sandbox
        .command(&["eval", "samples", "--model", model, "--json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = child.stderr.take().unwrap();
    let mut lines = BufReader::new(stderr);
    let mut line = String::new();
    while !line.contains("run_") {
        line.clear();
        assert!(lines.read_line(&mut line).unwrap() > 0, "ended before it began");
    }
    child.stderr = Some(lines.into_inner());
    std::thread::sleep(Duration::from_millis(300));
    child
}

fn send(signal: &str, child: &Child) {
    assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
}

fn slow(sandbox: &Sandbox) -> String {
    sandbox.model(&Script::seeded(9).with("delay_ms", json!(20)).with("concurrency", json!(1)))
}

#[test]
fn ctrl_c_keeps_what_is_finished_and_says_how_to_go_on() {
    let sandbox = Sandbox::new();
    let model = slow(&sandbox);
    let child = start(&sandbox, &model);
    send("-INT", &child);
    let ended: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ended.status, 130, "{ended:?}");
    assert!(ended.stderr.contains("evalign resume run_"), "{ended:?}");
    let runs = sandbox.ok(&["runs", "--json"]).json();
    let done = runs[0]["samples_done"].as_u64().unwrap();
    assert!(done > 0 && done < runs[0]["samples_total"].as_u64().unwrap(), "{runs}");
    assert_eq!(runs[0]["status"], "cancelled");

    // Resumed, it is byte for byte the run that was not interrupted.
    sandbox.ok(&["resume", "last"]);
    sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "resumed"]);
    sandbox.ok(&["eval", "samples", "--model", &model, "--fork"]);
    sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "whole"]);
    for file in ["run.json", "samples.jsonl"] {
        let read = |dir: &str| fs_err::read(sandbox.path().join(dir).join(file)).unwrap();
        assert!(read("resumed") == read("whole"), "{file} differs");
    }
}

#[test]
fn an_interrupted_run_is_not_ranked_until_an_import_completes_it() {
    let sandbox = Sandbox::new();
    let model = slow(&sandbox);
    let child = start(&sandbox, &model);
    send("-INT", &child);
    let ended: Ran = child.wait_with_output().unwrap().into();
    assert_eq!(ended.status, 130, "{ended:?}");
    let part = ended.json();
    let run = part["run_id"].as_str().unwrap().to_owned();
    assert_eq!(sandbox.ok(&["leaderboard", "--format", "json"]).json(), json!([]));

    let whole = sandbox.ok(&["eval", "samples", "--model", &model, "--fork", "--json"]).json();
    sandbox.ok(&["export", "last", "--format", "jsonl", "--out", "whole"]);
    let imported = sandbox.ok(&["import", "whole"]);
    assert_eq!(imported.stdout.trim(), run, "the run of that specification, not the fork");
    let shown = sandbox.ok(&["show", &run, "--json"]).json();
    assert_eq!(shown["status"], "completed");
    assert_ne!(shown["results"], part["results"]);
    assert_eq!(shown["results"], whole["results"]);
}

#[test]
fn a_second_process_is_refused_and_told_who_works_on_it() {
    let sandbox = Sandbox::new();
    let model = slow(&sandbox);
    let child = start(&sandbox, &model);
    let second = sandbox.run(&["eval", "samples", "--model", &model]);
    assert_eq!(second.status, 2, "{second:?}");
    assert!(second.stderr.contains(&format!("process {}", child.id())), "{second:?}");
    assert!(second.stderr.contains("hint:"), "{second:?}");
    send("-KILL", &child);
    child.wait_with_output().unwrap();
    // After a crash the lease is free at once.
    sandbox.ok(&["resume", "last"]);
}
