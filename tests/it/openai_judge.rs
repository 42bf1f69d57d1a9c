//! Judges behind a server: asked for a form and for what the labels are worth, asked again where the answer has none,
//! and asked in words where the server does not take a form.

use evalign_testkit::openai_server::{Behaviour, Capabilities, ScriptedServer, Support};
use evalign_testkit::{Ran, Sandbox};
use serde_json::{Value, json};

use crate::judge::judged_task;

/// What a judge is told whose answer was no verdict.
const AGAIN: &str = "That was not in the form I asked for";

/// `judge score` of six answers by a model on the server.
fn score(sandbox: &Sandbox, server: &ScriptedServer, more: &[&str]) -> Ran {
    let rows: String =
        (0..6).map(|i| format!("{}\n", json!({"prompt": format!("Question {i}?"), "answer": "x"}))).collect();
    let file = sandbox.write("rows.jsonl", rows).display().to_string();
    let url = server.base_url();
    let mut arguments =
        vec!["judge", "score", &file, "--judge", "openai/scripted", "--base-url", &url, "--json"];
    arguments.extend(more);
    sandbox.command(&arguments).env("OPENAI_API_KEY", "sk-test").output().unwrap().into()
}

/// The bodies of the requests about the rows.
fn asked(server: &ScriptedServer) -> Vec<Value> {
    let about_rows = server.requests();
    about_rows
        .entries
        .iter()
        .map(|entry| entry.json())
        .filter(|body| body.to_string().contains("Question "))
        .collect()
}

#[test]
fn a_judge_on_a_server_is_held_to_the_form_and_scores_are_expected_values() {
    let (sandbox, server) = (Sandbox::new(), ScriptedServer::start(Behaviour::default()));
    let ran = score(&sandbox, &server, &[]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let report = &ran.json()["report"];
    assert_eq!(report["decided"].as_u64().unwrap() + unscored(report), 6, "{report}");
    let bodies = asked(&server);
    assert_eq!(bodies.len(), 6);
    for body in &bodies {
        let schema = &body["response_format"]["json_schema"];
        assert_eq!(
            (&body["response_format"]["type"], &schema["strict"]),
            (&json!("json_schema"), &json!(true))
        );
        assert!(schema["schema"]["properties"].as_object().unwrap().len() > 1, "{schema}");
        assert_eq!((&body["logprobs"], &body["top_logprobs"]), (&json!(true), &json!(20)));
    }
    // 0.7 on the level that was written and the rest on the others: no level is a whole number.
    let samples = sandbox.ok(&["show", "last", "--samples", "--json"]).json();
    let values =
        samples.as_array().unwrap().iter().filter_map(|sample| sample["scores"][0]["value"].as_f64());
    let values: Vec<f64> = values.collect();
    assert!(!values.is_empty() && values.iter().all(|value| value.fract() != 0.0), "{values:?}");
}

fn unscored(report: &Value) -> u64 {
    report["unscored"].as_object().unwrap().values().filter_map(Value::as_u64).sum()
}

#[test]
fn an_answer_that_is_no_verdict_is_asked_for_again() {
    let rubric = "rubric: plain\nversion: '1'\nsummary: Is it good.\nexplanation_tokens: 0\n\
                  scale: {lowest: 1, highest: 3}\ncriteria:\n  - {name: good, question: Is it?, levels: {1: a, 2: b, 3: c}}\n";
    let sandbox = Sandbox::new();
    sandbox.write("plain.yaml", rubric);
    let behaviour = Behaviour::default().rule(AGAIN, r#"{"good": "3"}"#).rule("Question ", "I like it.");
    let server = ScriptedServer::start(behaviour);
    let ran = score(&sandbox, &server, &["--rubric", "plain.yaml"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    let report = &ran.json()["report"];
    assert_eq!(report["decided"], 6);
    // 0.7 on level 3, and the rest in equal parts on 1 and 2.
    assert!((report["score"]["value"].as_f64().unwrap() - 2.55).abs() < 1e-9, "{report}");
    let bodies = asked(&server);
    assert_eq!(
        bodies.iter().filter(|body| body["messages"].as_array().unwrap().len() == 4).count(),
        6,
        "{bodies:?}"
    );
    assert_eq!(bodies.len(), 12);
}

/// Six answers of which each has to be asked for twice.
fn insisting(latency_ms: f64) -> (Sandbox, ScriptedServer) {
    let sandbox = Sandbox::new();
    sandbox.write(
        "plain.yaml",
        "rubric: plain\nversion: '1'\nsummary: Is it good.\nexplanation_tokens: 0\n\
         scale: {lowest: 1, highest: 3}\ncriteria:\n  - {name: good, question: Is it?, levels: {1: a, 2: b, 3: c}}\n",
    );
    let behaviour = Behaviour { latency_ms, ..Behaviour::default() };
    let behaviour = behaviour.rule(AGAIN, r#"{"good": "3"}"#).rule("Question ", "I like it.");
    (sandbox, ScriptedServer::start(behaviour))
}

/// What a run that stopped while it asked again comes to: no first answer stands, and none is asked for once more.
fn goes_on(sandbox: &Sandbox, server: &ScriptedServer, whole: &Value) {
    let kept = sandbox.ok(&["show", "last", "--samples", "--json"]).json();
    let kept = kept.as_array().unwrap();
    assert!(kept.len() < 6 && kept.iter().all(|sample| sample["scores"][0]["value"].is_number()), "{kept:?}");
    let resume = ["resume", "last", "--budget-requests", "1000", "--json"];
    let ended: Ran = sandbox.command(&resume).env("OPENAI_API_KEY", "sk-test").output().unwrap().into();
    assert_eq!(ended.status, 0, "{ended:?}");
    assert_eq!(&ended.json()["report"], whole);
    assert_eq!(asked(server).len(), 12);
}

#[test]
fn a_budget_that_ends_while_a_verdict_is_asked_for_again_settles_nothing() {
    let (sandbox, server) = insisting(0.0);
    let whole = score(&sandbox, &server, &["--rubric", "plain.yaml"]).json()["report"].clone();
    let most = (server.requests().entries.len() - 3).to_string();
    let (sandbox, server) = insisting(0.0);
    let stopped = score(&sandbox, &server, &["--rubric", "plain.yaml", "--budget-requests", &most]);
    assert!(stopped.status == 1 && stopped.stderr.contains("the budget is exhausted"), "{stopped:?}");
    goes_on(&sandbox, &server, &whole);
}

#[test]
fn a_server_that_takes_no_form_is_found_out_before_anything_is_asked() {
    let capabilities = Capabilities {
        response_format: Support::Refused,
        logprobs: Support::Refused,
        ..Capabilities::default()
    };
    let behaviour = Behaviour { capabilities, ..Behaviour::default() };
    let behaviour = behaviour.rule("Question 1?", "VERDICT: 2").rule("Question ", r#"{"good": "1"}"#);
    let (sandbox, server) = (Sandbox::new(), ScriptedServer::start(behaviour));
    let rubric = "rubric: plain\nversion: '1'\nsummary: Is it good.\nexplanation_tokens: 0\n\
                  scale: {lowest: 1, highest: 3}\ncriteria:\n  - {name: good, question: Is it?, levels: {1: a, 2: b, 3: c}}\n";
    sandbox.write("plain.yaml", rubric);
    let ran = score(&sandbox, &server, &["--rubric", "plain.yaml"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.stderr.contains("`response_format`") && ran.stderr.contains("`logprobs`"), "{}", ran.stderr);
    assert_eq!(ran.json()["report"]["decided"], 6);
    let bodies = asked(&server);
    assert_eq!(bodies.len(), 6);
    assert!(
        bodies.iter().all(|body| body.get("response_format").is_none() && body.get("top_logprobs").is_none())
    );
}

/// Answers from here, verdicts from a server that is paid: what the run cost is what its verdicts did, at the price of the
/// judge.
#[test]
fn a_judge_is_paid_at_its_own_price() {
    let (sandbox, server) = (Sandbox::new(), ScriptedServer::start(Behaviour::default()));
    let [answering, _] = judged_task(&sandbox);
    let url = server.base_url();
    let eval = |prices: &str| -> Ran {
        sandbox.write("prices.yaml", format!("models: {{{prices}: {{input: 100, output: 1000}}}}\n"));
        let arguments =
            ["eval", "sums", "--include-path", "tasks", "--model", &answering, "--fork", "--no-cache"];
        let more = ["--judge", "openai/scripted", "--base-url", &url, "--prices", "prices.yaml", "--json"];
        let mut command = sandbox.command(&[&arguments[..], &more].concat());
        command.env("OPENAI_API_KEY", "sk-test").output().unwrap().into()
    };
    let ran = eval("scripted");
    assert_eq!(ran.status, 0, "{ran:?}");
    let cost = ran.json()["cost_usd"].as_f64().unwrap();
    let verdicts = sandbox.ok(&["show", "last", "--samples", "--task", "sums/judge", "--json"]).json();
    let tokens = |name: &str| -> f64 {
        verdicts.as_array().unwrap().iter().map(|verdict| verdict["usage"][name].as_f64().unwrap()).sum()
    };
    let paid = (100.0 * tokens("prompt_tokens") + 1000.0 * tokens("generated_tokens")) / 1e6;
    assert!(
        verdicts.as_array().unwrap().len() == 6 && paid > 0.0 && (cost - paid).abs() < 1e-12,
        "{cost} {paid}"
    );
    assert!(sandbox.ok(&["show", "last"]).stdout.contains(" USD; "));
    // Nobody says what this judge costs: the run's cost is unknown, not that of its answers.
    let unknown = eval("other");
    assert!(unknown.stderr.contains("has no price for `scripted`"), "{unknown:?}");
    assert_eq!(unknown.json()["cost_usd"], Value::Null);
}
