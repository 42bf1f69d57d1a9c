//! How much is asked at once and in all (promises 11 and 13), and that neither changes a result (14).

use std::time::Duration;

use evalign_testkit::openai_server::{Behaviour, Fault, Outcome, When};
use serde_json::Value;

use crate::openai::{Exam, metric, status};

fn slow() -> Behaviour {
    Behaviour { latency_ms: 20.0, latency_jitter: 0.25, ..Behaviour::default() }
}

#[test]
fn promise_11_no_more_are_in_flight_than_was_said() {
    let exam = Exam::of(150, slow());
    exam.ok(&["--max-concurrency", "7"]);
    assert_eq!(exam.server.requests().max_in_flight, 7, "the limit is kept, and used");
}

#[test]
fn promise_11_retries_are_in_flight_too() {
    let often = Fault { when: When::probability(0.3), what: status(503) };
    let exam = Exam::of(100, slow().fault(often));
    let ran = exam.eval(&["--max-concurrency", "5"]);
    assert!(matches!(ran.status, 0 | 1), "{ran:?}");
    assert!(exam.server.requests().max_in_flight <= 5);
}

#[test]
fn promise_11_the_adaptive_limit_settles_below_the_cliff() {
    // More cliffs and seeds: `cargo bench -p evalign --bench requests -- cliffs`.
    // The latency is long enough for a machine that has other things to do.
    for (cliff, latency_ms, documents) in [(8, 20.0, 800), (64, 80.0, 3000)] {
        let round_trip = Duration::from_secs_f64(latency_ms / 1000.0);
        for seed in [1, 2] {
            let exam = Exam::of(documents, Behaviour { seed, latency_ms, cliff: Some(cliff), ..slow() });
            exam.ok(&["--max-concurrency", "auto"]);
            let requests = exam.asked();
            let settled = requests.settled_in_flight(0.7);
            // Within a tenth, and no finer than one request.
            assert!(
                settled.abs_diff(cliff) <= (cliff / 10).max(1),
                "cliff {cliff}, seed {seed}: settled at {settled}"
            );
            let bursts = requests.bursts_of_429(round_trip);
            assert!(bursts <= 2, "cliff {cliff}, seed {seed}: {bursts} bursts of 429");
        }
    }
}

/// Tokens of all answers, as the server counts them.
fn tokens(document: &Value) -> u64 {
    let usage = &document["usage"];
    usage["prompt_tokens"].as_u64().unwrap() + usage["generated_tokens"].as_u64().unwrap()
}

fn run_status(exam: &Exam) -> String {
    exam.run(&["runs", "--json"]).json()[0]["status"].as_str().unwrap().to_owned()
}

#[test]
fn promise_13_a_budget_of_requests_is_hard_and_the_run_goes_on_with_a_larger_one() {
    let exam = Exam::of(60, slow());
    let ran = exam.eval(&["--budget-requests", "25", "--max-concurrency", "8"]);
    assert_ne!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("budget"), "{ran:?}");
    assert_eq!(run_status(&exam), "budget_exhausted");
    assert_eq!(exam.asked().len(), 25, "requests are counted before they are sent");
    assert_eq!(exam.asked().with_outcome(Outcome::Answered), 25, "what is paid for is waited for");
    exam.server.forget();
    let resumed = exam.run(&["resume", "last", "--budget-requests", "100", "--json"]);
    assert_eq!(resumed.status, 0, "{resumed:?}");
    assert_eq!(exam.asked().len(), 35, "what was answered is not paid for twice");
    assert_eq!(metric(&resumed.json())["n"], 60);
}

#[test]
fn promise_13_a_budget_of_tokens_is_overshot_by_no_more_than_is_in_flight() {
    let exam = Exam::of(60, slow());
    let whole = Exam::of(60, slow());
    let per_request = tokens(&whole.ok(&[])).div_ceil(60) + 1;
    let ran = exam.eval(&["--budget-tokens", "500", "--max-concurrency", "4"]);
    assert_ne!(ran.status, 0, "{ran:?}");
    assert_eq!(run_status(&exam), "budget_exhausted");
    let shown = exam.run(&["show", "last", "--json"]).json();
    let spent = tokens(&shown);
    assert!((500..500 + 4 * 2 * per_request).contains(&spent), "spent {spent}, {per_request} a request");
}

#[test]
fn promise_13_a_budget_in_usd_needs_a_price_and_is_kept() {
    let exam = Exam::of(60, slow());
    let ran = exam.eval(&["--budget-usd", "0.01"]);
    assert_eq!(ran.status, 2, "{ran:?}");
    assert!(ran.stderr.contains("scripted") && ran.stderr.contains("--prices"), "{ran:?}");
    exam.sandbox.write("prices.yaml", "models:\n  other: {input: 1, output: 2}\n");
    let ran = exam.eval(&["--budget-usd", "0.01", "--prices", "prices.yaml"]);
    assert_eq!(ran.status, 2, "a table without the model: {ran:?}");
    assert!(ran.stderr.contains("scripted"), "{ran:?}");
    assert!(exam.asked().is_empty(), "nothing is asked that cannot be paid for");
    exam.sandbox.write("prices.yaml", "models:\n  scripted: {input: 100, output: 1000}\n");
    let ran = exam.eval(&["--budget-usd", "0.1", "--prices", "prices.yaml", "--max-concurrency", "4"]);
    assert_eq!(run_status(&exam), "budget_exhausted", "{ran:?}");
    let shown = exam.run(&["show", "last", "--json"]).json();
    let cost = shown["cost_usd"].as_f64().unwrap();
    let usage = &shown["usage"];
    let paid = usage["prompt_tokens"].as_f64().unwrap() * 100.0
        + usage["generated_tokens"].as_f64().unwrap() * 1000.0;
    assert!((cost - paid / 1e6).abs() < 1e-9, "{cost} USD for {usage}");
    assert!((0.1..0.2).contains(&cost), "{cost}");
}

#[test]
fn promise_13_a_budget_of_nothing_asks_nothing() {
    for budget in [["--budget-requests", "0"], ["--budget-tokens", "0"], ["--budget-usd", "0"]] {
        let exam = Exam::of(5, Behaviour::default());
        exam.sandbox.write("prices.yaml", "models:\n  scripted: {input: 1, output: 1}\n");
        let ran = exam.eval(&[&budget[..], &["--prices", "prices.yaml"]].concat());
        assert_ne!(ran.status, 0, "{budget:?}: {ran:?}");
        assert!(ran.stderr.contains("budget"), "{budget:?}: {ran:?}");
        assert!(exam.asked().is_empty(), "{budget:?}: {} requests", exam.asked().len());
    }
}

/// The exported run from a home of its own, byte for byte: what was run and all samples.
fn exported(exam: &Exam, more: &[&str], home: &str) -> [Vec<u8>; 2] {
    let home = exam.sandbox.path().join(home);
    let ended = exam.command(more).env("EVALIGN_HOME", &home).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let out = home.join("export");
    let mut command = exam.evalign(&["export", "last", "--format", "jsonl", "--out"]);
    let ended = command.arg(&out).env("EVALIGN_HOME", &home).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    ["run.json", "samples.jsonl"].map(|file| fs_err::read(out.join(file)).unwrap())
}

#[test]
fn promise_14_concurrency_and_order_change_nothing() {
    let behaviour = Behaviour { latency_ms: 4.0, latency_jitter: 0.9, ..Behaviour::default() };
    let passing = Fault {
        when: When { first_attempts: Some(1), every: 7.try_into().ok(), ..When::default() },
        what: status(500),
    };
    let exam = Exam::of(60, behaviour.fault(passing));
    for more in [&[][..], &["--temperature", "0.8", "--repeats", "3"]] {
        let run = |concurrency: &str| {
            let arguments = [more, &["--max-concurrency", concurrency]].concat();
            exported(&exam, &arguments, &format!("home-{}-{concurrency}", more.len()))
        };
        let (one, many) = (run("1"), run("64"));
        assert!(one == many, "results differ between one request at a time and 64, {more:?}");
    }
}

#[test]
fn promise_14_repeats_are_drawn_apart_and_the_same_again() {
    let exam = Exam::of(5, Behaviour::default());
    exam.ok(&["--temperature", "1", "--repeats", "4"]);
    let seeds: std::collections::BTreeSet<i64> =
        exam.asked().entries.iter().map(|entry| entry.json()["seed"].as_i64().unwrap()).collect();
    assert_eq!(seeds.len(), 20, "no two draws share a seed");
    exam.server.forget();
    exam.ok(&["--temperature", "1", "--repeats", "4", "--fork"]);
    assert!(exam.asked().is_empty(), "the same draws are answered from the cache");
}
