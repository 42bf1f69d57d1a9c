//! The habits of the command line.

use std::process::Stdio;
use std::time::{Duration, Instant};

use evalign_testkit::{Sandbox, Script};

#[test]
fn errors_end_in_a_hint() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(1));
    for (arguments, hint) in [
        (vec!["eval", "gsm9k", "--model", &model], "gsm8k"),
        (vec!["eval", "samples"], "--model"),
        (vec!["eval", "samples", "--model", "local/nowhere.gguf"], "hint:"),
        (vec!["show", "run_00"], "evalign runs"),
        (vec!["resume", "last"], "evalign runs"),
        (vec!["leaderboard", "--format", "sheet"], "possible values"),
    ] {
        let ran = sandbox.run(&arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("error:"), "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains(hint), "{arguments:?}: {ran:?}");
        assert!(ran.stdout.is_empty(), "{arguments:?}: {ran:?}");
    }
}

#[test]
fn what_was_typed_wrong_is_said_with_a_hint_or_the_help() {
    let sandbox = Sandbox::new();
    for arguments in [
        vec!["frobnicate"],
        vec!["eval", "--frobnicate"],
        vec!["eval", "samples", "--limit", "0"],
        vec!["eval", "samples", "--limit", "9..3"],
        vec!["completions", "tcsh"],
        vec!["export", "last"],
        vec!["tasks", "validate"],
    ] {
        let ran = sandbox.run(&arguments);
        assert_eq!(ran.status, 2, "{arguments:?}: {ran:?}");
        assert!(ran.stderr.contains("error:") && ran.stderr.contains("hint:"), "{arguments:?}: {ran:?}");
        assert!(ran.stdout.is_empty(), "{arguments:?}: {ran:?}");
    }
    // A command that has commands of its own shows them.
    for command in ["config", "tasks", "models", "bench"] {
        let ran = sandbox.run(&[command]);
        assert_eq!(ran.status, 2, "{command}: {ran:?}");
        assert!(ran.stderr.contains("Commands:") && ran.stdout.is_empty(), "{command}: {ran:?}");
    }
}

#[test]
fn a_limit_may_be_a_range() {
    let sandbox = Sandbox::new();
    let model = sandbox.model(&Script::seeded(1));
    sandbox.ok(&["eval", "samples_completion", "--model", &model, "--limit", "3..5", "--json"]);
    let records = sandbox.ok(&["show", "last", "--samples", "--json"]).json();
    let docs: Vec<_> = records.as_array().unwrap().iter().map(|r| r["key"]["doc"].clone()).collect();
    assert_eq!(docs, [3, 4]);
}

#[test]
fn manual_pages_are_generated() {
    let sandbox = Sandbox::new();
    let page = sandbox.ok(&["man"]).stdout;
    assert!(page.contains(".TH evalign 1") && page.contains("quickstart"), "{page}");
    let written = sandbox.ok(&["man", "--out", "man"]).stdout;
    for page in ["evalign.1", "evalign-eval.1", "evalign-tasks-validate.1", "evalign-models-pull.1"] {
        assert!(written.contains(page), "{page} is not in {written}");
    }
    let eval = fs_err::read_to_string(sandbox.path().join("man/evalign-eval.1")).unwrap();
    assert!(eval.contains("compat") && !eval.contains("kwargs"), "hidden flags stay hidden: {eval}");
}

#[test]
fn listing_tasks_starts_fast() {
    let sandbox = Sandbox::new();
    let names = sandbox.ok(&["tasks", "list"]).stdout;
    for task in ["mmlu", "hellaswag", "gsm8k_cot_self_consistency", "triviaqa", "samples"] {
        assert!(names.contains(task), "{task}");
    }
    let all = sandbox.ok(&["tasks", "list", "--all", "--json"]).json();
    assert!(
        all.as_array().unwrap().iter().filter(|t| t["name"].as_str().unwrap().starts_with("mmlu_")).count()
            >= 57
    );
    // Best of several: others use this machine as well. Debug builds are several times slower.
    let best = (0..5)
        .map(|_| {
            let started = Instant::now();
            sandbox.ok(&["tasks", "list"]);
            started.elapsed()
        })
        .min()
        .unwrap();
    let allowed = if cfg!(debug_assertions) { 500 } else { 50 };
    assert!(best < Duration::from_millis(allowed), "{best:?}");
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    let mut child = sandbox
        .command(&["tasks", "list", "--all"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success(), "{ended:?}");
}

#[test]
fn hostile_text_does_not_reach_the_terminal() {
    let sandbox = Sandbox::new();
    let hostile = "\\u001b]52;c;ZXZpbA==\\u0007 \\u202egnp.exe\\r\\u009b31m";
    sandbox.write("tasks/rows.jsonl", format!("{{\"q\": \"{hostile}\", \"a\": \"2\"}}\n"));
    sandbox.write(
        "tasks/mine.yaml",
        "task: mine\nversion: \"1\"\nsummary: \"Mine\"\ndataset: {file: rows.jsonl}\noutput: generate_until\n\
         prompt: \"{{q}}\"\ntarget: \"{{a}}\"\ngeneration: {until: [\"\\n\"], max_tokens: 8}\nmetrics: [{name: exact_match}]\n",
    );
    let model = sandbox.model(&Script::seeded(1));
    sandbox.ok(&["eval", "mine", "--model", &model, "--include-path", "tasks", "--no-progress"]);
    for arguments in [
        vec!["show", "last", "--samples"],
        vec!["show", "last", "--samples", "--json"],
        vec!["eval", "mine", "--model", &model, "--include-path", "tasks", "--dry-run"],
    ] {
        let ran = sandbox.ok(&arguments);
        for text in [&ran.stdout, &ran.stderr] {
            let bad =
                text.chars().find(|c| (c.is_control() && !matches!(c, '\n' | '\t')) || *c == '\u{202e}');
            assert_eq!(bad, None, "{arguments:?}: {text:?}");
        }
    }
    let records = sandbox.ok(&["show", "last", "--samples", "--json"]).json();
    assert!(records[0]["doc"]["q"].as_str().unwrap().contains('\u{1b}'), "the data itself is kept");
}

#[test]
fn completions_and_settings_print() {
    let sandbox = Sandbox::new();
    assert!(sandbox.ok(&["completions", "bash"]).stdout.contains("evalign"));
    let home = sandbox.home().display().to_string();
    assert_eq!(sandbox.ok(&["config", "show", "--json"]).json()["home"], home.as_str());
    let mut command = sandbox.command(&["config", "show"]);
    let shown = command.env("HF_TOKEN", "hf_canary123").output().unwrap();
    assert!(!String::from_utf8_lossy(&shown.stdout).contains("canary"));
    assert!(sandbox.ok(&["--version"]).stdout.starts_with("evalign "));
    assert!(sandbox.ok(&["--help"]).stdout.contains("quickstart"));
}
