//! Servers, keys and files that are not what they should be: a clear error, nothing asked in vain.

use std::time::{Duration, Instant};

use evalign_testkit::Ran;
use evalign_testkit::openai_server::{Behaviour, ErrorBody, Fault, ScriptedServer, What, When};

use crate::openai::{Exam, KEY};

fn refused(ran: &Ran, said: &[&str]) {
    assert_eq!(ran.status, 2, "{ran:?}");
    for text in said {
        assert!(ran.stderr.contains(text), "`{text}` is not in {}", ran.stderr);
    }
    assert!(ran.stderr.contains("hint:"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(KEY) && !ran.stdout.contains(KEY), "{}", ran.stderr);
}

fn always(what: What) -> Behaviour {
    Behaviour::default().fault(Fault { when: When::default(), what })
}

#[test]
fn a_wrong_key_is_said_once_and_at_once() {
    let behaviour = Behaviour { api_key: Some("sk-another".to_owned()), ..Behaviour::default() };
    let exam = Exam::of(50, behaviour);
    let started = Instant::now();
    refused(&exam.eval(&[]), &["401", "OPENAI_API_KEY"]);
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let requests = exam.server.requests();
    assert!(requests.by_content().values().all(|count| *count == 1), "a wrong key is not tried again");
    assert!(requests.len() <= 3, "{} requests", requests.len());
}

#[test]
fn a_missing_key_is_named() {
    let behaviour = Behaviour { api_key: Some("sk-another".to_owned()), ..Behaviour::default() };
    let exam = Exam::of(5, behaviour);
    let ran: Ran = exam.command(&[]).env_remove("OPENAI_API_KEY").output().unwrap().into();
    refused(&ran, &["OPENAI_API_KEY"]);
}

#[test]
fn an_unknown_model_is_named() {
    let exam = Exam::of(50, Behaviour { models: vec!["llama".to_owned()], ..Behaviour::default() });
    refused(&exam.eval(&[]), &["scripted"]);
    assert!(exam.server.requests().len() <= 12, "{} requests", exam.server.requests().len());
}

#[test]
fn servers_that_do_not_speak_the_api() {
    let html =
        |status| What::Status { status, retry_after: None, code: None, message: None, body: ErrorBody::Html };
    for what in
        [What::Html, html(404), html(405), What::ContentType { content_type: "text/plain".to_owned() }]
    {
        let name = format!("{what:?}");
        let exam = Exam::of(50, always(what));
        let ran = exam.eval(&[]);
        // A plain-text label on a right answer may be taken; pages may not.
        if !name.starts_with("ContentType") {
            refused(&ran, &["127.0.0.1"]);
            let requests = exam.server.requests().len();
            assert!(requests <= 12, "{name}: {requests} requests");
        }
    }
    // Not even HTTP.
    let exam = Exam::of(3, always(What::NotHttp { bytes: "SSH-2.0-OpenSSH_9.6\r\n".to_owned() }));
    refused(&exam.eval(&[]), &["127.0.0.1"]);
}

#[test]
fn addresses_that_lead_nowhere() {
    let exam = Exam::of(3, Behaviour::default());
    let at = |base_url: &str| -> Ran { exam.command_at(base_url, &[]).output().unwrap().into() };
    refused(&at(&ScriptedServer::nobody()), &["127.0.0.1"]);
    refused(&at("http://no-such-host.invalid/v1"), &["no-such-host.invalid"]);
    for wrong in ["localhost:8000", "ftp://127.0.0.1/v1", "", "http://u:p@127.0.0.1/v1"] {
        let ran = at(wrong);
        refused(&ran, &["--base-url"]);
        assert!(!ran.stderr.contains("u:p@"), "{ran:?}");
    }
    assert!(exam.server.requests().is_empty());
    // The right server, and not the right path.
    let bare = exam.server.base_url().replace("/v1", "");
    for wrong in [bare.clone(), format!("{bare}/"), format!("{bare}/v2"), format!("{bare}/v1/completions")] {
        refused(&at(&wrong), &["404", &bare, "--base-url", "/v1"]);
    }
    assert!(exam.asked().is_empty(), "it is noticed before the first sample");
}

#[test]
fn a_key_is_carried_nowhere_else() {
    let other = ScriptedServer::start(Behaviour::default());
    let location = format!("{}/chat/completions", other.base_url());
    let exam = Exam::of(3, always(What::Redirect { location }));
    let ran = exam.eval(&[]);
    assert_ne!(ran.status, 0, "{ran:?}");
    assert!(other.requests().is_empty(), "{:?}", other.requests());
}

#[test]
fn files_with_mistakes() {
    let exam = Exam::of(3, Behaviour::default());
    for (text, said) in [
        ("models:\n  scripted: {input: -1, output: 1}\n", "models.scripted.input"),
        ("models:\n  scripted: {input: 1}\n", "output"),
        ("prices: 1\n", "prices"),
    ] {
        exam.sandbox.write("prices.yaml", text);
        refused(&exam.eval(&["--prices", "prices.yaml"]), &["prices.yaml", said]);
    }
    refused(&exam.eval(&["--prices", "missing.yaml"]), &["missing.yaml"]);
    for (text, said) in [("server: vvlm\n", "vvlm"), ("idle_timeout_secs: 0\n", "idle_timeout_secs")] {
        exam.sandbox.write("settings.yaml", text);
        refused(&exam.eval(&[]), &["settings.yaml", said]);
    }
    assert!(exam.asked().is_empty());
}

#[test]
fn a_price_table_without_the_model_leaves_the_cost_open() {
    let exam = Exam::of(3, Behaviour::default());
    exam.sandbox.write("prices.yaml", "models:\n  other: {input: 1, output: 1}\n");
    let ran = exam.eval(&["--prices", "prices.yaml"]);
    assert_eq!(ran.status, 0, "{ran:?}");
    assert!(ran.json()["cost_usd"].is_null(), "not known is not free: {ran:?}");
    assert!(ran.stderr.contains("scripted"), "the missing price is said: {}", ran.stderr);
}
