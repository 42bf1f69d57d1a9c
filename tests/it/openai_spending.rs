//! What is spent is counted, whatever became of it: by request where an answer takes several (promises 10
//! and 13), over sessions, and not at all where a server does not say what it was.

use evalign_testkit::Ran;
use evalign_testkit::openai_server::{Behaviour, Capabilities, Fault, Requests, What, When};
use serde_json::{Value, json};

use crate::openai::{Exam, on, outcome, status};

/// A server that takes one prompt in a request, and questions with four options about each document.
fn quiz(documents: usize, change: impl FnOnce(Behaviour) -> Behaviour) -> Exam {
    let capabilities = Capabilities { many_prompts: false, ..Capabilities::default() };
    let exam =
        Exam::of(documents, change(Behaviour { capabilities, latency_ms: 5.0, ..Behaviour::default() }));
    exam.sandbox.write(
        "tasks/quiz.yaml",
        "task: quiz\nversion: \"1\"\nsummary: \"Quiz\"\ndataset: {file: rows.jsonl}\noutput: multiple_choice\n\
         prompt: \"Document {{n}}:\"\nchoices: [\"one\", \"two\", \"three\", \"four\"]\ntarget: \"0\"\n\
         metrics: [{name: acc}]\n",
    );
    exam
}

fn choose(exam: &Exam, more: &[&str]) -> Ran {
    let mut arguments = vec!["eval", "quiz", "--include-path", "tasks", "--model", "openai/scripted"];
    let base_url = exam.server.base_url();
    arguments.extend(["--base-url", &base_url, "--model-settings", "settings.yaml", "--json"]);
    arguments.extend(more);
    exam.run(&arguments)
}

fn options(requests: &Requests) -> usize {
    requests.by_content().len()
}

#[test]
fn promise_13_each_choice_is_a_request_of_the_budget() {
    let exam = quiz(6, |behaviour| behaviour);
    let ran = choose(&exam, &["--budget-requests", "9", "--max-concurrency", "2"]);
    assert_ne!(ran.status, 0, "{ran:?}");
    assert_eq!(exam.asked().len(), 9, "requests are not gone over at all");
    assert_eq!(exam.server.requests().max_in_flight, 2);
    exam.server.forget();
    let resumed = exam.run(&["resume", "last", "--budget-requests", "100", "--json"]);
    assert_eq!(resumed.status, 0, "{resumed:?}");
    // Two documents are stored; the ninth request answered a part of the third.
    assert_eq!((exam.asked().len(), options(&exam.asked())), (16, 16));
    assert_eq!(resumed.json()["results"][0]["metrics"][0]["n"], 6);
}

#[test]
fn promise_10_a_choice_is_asked_again_for_itself() {
    let failing = Fault { when: When::text("Document 1: three"), what: status(503) };
    let exam = quiz(3, |behaviour| behaviour.fault(failing));
    let ran = choose(&exam, &["--max-retries", "2"]);
    assert_eq!(ran.status, 1, "{ran:?}");
    let most = exam.asked().by_content().values().copied().max();
    assert_eq!((options(&exam.asked()), exam.asked().len(), most), (12, 14, Some(3)));
    let shown = exam.run(&["show", "last", "--samples", "--outcome", "error", "--json"]).json();
    assert_eq!((shown.as_array().unwrap().len(), &shown[0]["requests"]), (1, &json!(6)), "{shown:#}");
}

#[test]
fn promise_13_a_budget_is_kept_over_sessions_whatever_became_of_its_requests() {
    // Nothing is ever answered, so that no sample tells of these requests.
    let exam =
        Exam::of(20, Behaviour::default().fault(Fault { when: When::text("Document"), what: status(503) }));
    let more = ["--budget-requests", "6", "--max-retries", "4", "--max-concurrency", "4"];
    assert_ne!(exam.eval(&more).status, 0);
    assert_eq!(exam.asked().len(), 6);
    for _ in 0..2 {
        let ran = exam.run(&["resume", "last", "--json"]);
        assert!(ran.status != 0 && ran.stderr.contains("budget"), "{ran:?}");
        assert_eq!(exam.asked().len(), 6, "all sessions count");
    }
    let ran = exam.run(&["resume", "last", "--budget-requests", "10", "--json"]);
    assert_ne!(ran.status, 0, "{ran:?}");
    assert_eq!(exam.asked().len(), 10);
    // Without a budget it is counted all the same, for the session that has one.
    let exam = Exam::of(3, Behaviour::default().fault(on(1, None, status(503))));
    assert_eq!(exam.eval(&["--max-retries", "1"]).status, 1);
    assert_eq!(exam.asked().len(), 4);
    let ran = exam.run(&["resume", "last", "--retry-errors", "--budget-requests", "5", "--json"]);
    assert!(ran.stderr.contains("budget"), "{ran:?}");
    assert_eq!(exam.asked().len(), 5);
}

const PRICES: &str = "models:\n  scripted: {input: 1000, output: 1000}\n";

fn counted_as(usage: Value) -> Behaviour {
    let what = What::Usage { usage };
    Behaviour::default().fault(Fault { when: When::text("Document"), what })
}

#[test]
fn what_is_not_counted_has_no_price() {
    for behaviour in [
        Behaviour {
            capabilities: Capabilities { usage: false, ..Capabilities::default() },
            ..Behaviour::default()
        },
        counted_as(json!({"prompt_tokens": u64::MAX, "completion_tokens": 2})),
        counted_as(json!({"prompt_tokens": -5, "completion_tokens": 2})),
    ] {
        let exam = Exam::of(3, behaviour);
        exam.sandbox.write("prices.yaml", PRICES);
        let document = exam.ok(&["--prices", "prices.yaml"]);
        assert!(document["cost_usd"].is_null(), "not known is not free: {}", document["cost_usd"]);
        assert_eq!(document["usage"]["prompt_tokens"], 0);
        // And a budget that rests on it is refused, not ignored.
        let ran = exam.eval(&["--fork", "--temperature", "0.5", "--budget-tokens", "100000"]);
        assert!(ran.status == 2 && ran.stderr.contains("--budget-requests"), "{ran:?}");
    }
    let exam = Exam::of(3, counted_as(json!({"prompt_tokens": 7.0, "completion_tokens": 3})));
    exam.sandbox.write("prices.yaml", PRICES);
    let document = exam.ok(&["--prices", "prices.yaml"]);
    assert!((document["cost_usd"].as_f64().unwrap() - 0.03).abs() < 1e-9, "{document:#}");
}

#[test]
fn a_filtered_answer_does_not_end_a_budget() {
    let withheld = What::Status {
        status: 400,
        retry_after: None,
        code: Some("content_filter".to_owned()),
        message: Some("The response was filtered.".to_owned()),
        body: evalign_testkit::openai_server::ErrorBody::OpenAi,
    };
    let exam = Exam::of(8, Behaviour::default().fault(on(2, None, withheld)));
    exam.sandbox.write("prices.yaml", PRICES);
    let document = exam.ok(&["--prices", "prices.yaml", "--budget-usd", "100", "--budget-tokens", "100000"]);
    assert_eq!((outcome(&document, "refused"), outcome(&document, "error")), (1, 0), "{document:#}");
    assert!(document["cost_usd"].as_f64().is_some_and(|usd| usd > 0.0), "{document:#}");
}
