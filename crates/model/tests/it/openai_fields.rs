//! Fields that a server does not take, and answers whose bookkeeping is wrong: what the run will send is tried
//! before the first sample, and no answer is lost for what stands beside it.

use std::time::{Duration, Instant};

use evalign_core::{FinishReason, GenerateParams, Hint, Output, Role};
use evalign_model::{Call, ModelError, Needs, OpenAi, OpenAiOptions, TransportFailure};
use evalign_testkit::openai_server::{
    Behaviour, Capabilities, Fault, Reasoning, ScriptedServer, Support, What, When,
};
use serde_json::{Value, json};

use crate::openai::{chat, connect, options, text, wait};

fn with(change: impl FnOnce(&mut Capabilities)) -> ScriptedServer {
    let mut capabilities = Capabilities::default();
    change(&mut capabilities);
    ScriptedServer::start(Behaviour { capabilities, ..Behaviour::default() })
}

fn answering(when: When, what: What) -> ScriptedServer {
    ScriptedServer::start(Behaviour::default().fault(Fault { when, what }))
}

fn params() -> GenerateParams {
    GenerateParams {
        max_tokens: 64,
        temperature: 0.7,
        top_p: Some(0.9),
        stop: vec!["####".to_owned()],
        logprobs: true,
        ..GenerateParams::default()
    }
}

fn needing(server: &ScriptedServer, generate: &[GenerateParams]) -> OpenAiOptions {
    let needs = Needs { log_likelihood: false, generate: generate.to_vec(), ..Needs::default() };
    OpenAiOptions { needs, ..options(server) }
}

async fn answers(model: &OpenAi) -> Vec<(String, FinishReason)> {
    let mut answers = Vec::new();
    for request in [text("hello 1", params()), chat(&[(Role::User, "hello 2")], params())] {
        match model.call(&request).await.unwrap().output {
            Output::Text { text, finish, .. } => answers.push((text, finish)),
            other => panic!("{other:?}"),
        }
    }
    answers
}

#[test]
fn fields_that_are_refused_are_found_out_before_the_first_sample() {
    for (field, server) in [
        ("stop", with(|can| can.stop = Support::Refused)),
        ("top_p", with(|can| can.top_p = Support::Refused)),
        ("logprobs", with(|can| can.logprobs = Support::Refused)),
        ("stream", with(|can| can.stream = Support::Refused)),
        ("stream_options", with(|can| can.stream_options = Support::Refused)),
    ] {
        let mut options = needing(&server, &[params()]);
        options.settings.stream = Some(field.starts_with("stream"));
        wait(async {
            let model = connect(&options, &[]).await.unwrap();
            let notes = model.notes().join("\n");
            assert!(notes.contains(&format!("`{field}`")), "{field}: {notes}");
            let answers = answers(&model).await;
            // Where the server does not stop, the answer is cut here.
            assert!(answers.iter().all(|(text, _)| text.contains("The answer is") && !text.contains("####")));
            assert!(answers.iter().all(|(_, finish)| *finish == FinishReason::Stop), "{field}: {answers:?}");
        });
        let sent = server.requests().only(|entry| entry.text.contains("hello"));
        assert_eq!(sent.len(), 2, "{field}: nothing is refused any more");
        assert!(sent.entries.iter().all(|entry| entry.json().get(field).is_none()), "{field}");
    }
}

#[test]
fn each_kind_of_request_is_tried_once() {
    let server = with(|_| {});
    let greedy = GenerateParams { stop: vec!["\n".to_owned()], ..GenerateParams::default() };
    let longer = GenerateParams { stop: vec!["a".to_owned(), "b".to_owned()], ..greedy.clone() };
    let none = GenerateParams { stop: Vec::new(), seed: 9, ..greedy.clone() };
    wait(connect(&needing(&server, &[greedy, longer, none, params()]), &[])).unwrap();
    // Models; two kinds of texts; two kinds of chats.
    assert_eq!(server.requests().len(), 5);
    let bodies: Vec<Value> = server.requests().entries[1..].iter().map(|entry| entry.json()).collect();
    for (body, stops) in bodies.iter().zip([2, 1, 2, 1]) {
        assert_eq!(body["stop"].as_array().unwrap().len(), stops, "{body}");
        assert_eq!(body.get("top_p").is_some(), stops == 1, "{body}");
    }
}

#[test]
fn what_a_server_is_not_known_to_take_is_said_at_once() {
    let server = with(|_| {});
    let drawn = GenerateParams { top_k: Some(40), ..params() };
    let error = wait(connect(&needing(&server, &[drawn]), &[])).unwrap_err();
    assert!(error.to_string().contains("`top_k`") && error.hint().unwrap().contains("--server"), "{error}");
}

#[test]
fn thoughts_that_are_only_counted_are_noticed() {
    let server = with(|can| can.reasoning = Reasoning::Hidden);
    let stop = GenerateParams { stop: vec!["words".to_owned()], ..GenerateParams::default() };
    wait(async {
        let model = connect(&needing(&server, std::slice::from_ref(&stop)), &[]).await.unwrap();
        model.call(&chat(&[(Role::User, "hello")], stop)).await.unwrap();
    });
    let sent = server.requests().only(|entry| entry.text.contains("hello"));
    assert!(sent.entries[0].json().get("stop").is_none(), "a stop string would end the thoughts");
}

/// A stop string inside of what takes the place of an answer does not make it one.
#[test]
fn promise_15_a_refusal_stays_one_whatever_its_text_holds() {
    for what in [What::Declined, What::Filtered] {
        for stream in [false, true] {
            let behaviour = Behaviour::default().rule("hello", "No.\n\nAsk #### me else.");
            let fault = Fault { when: When::text("hello"), what: what.clone() };
            let server = ScriptedServer::start(behaviour.fault(fault));
            let mut options = options(&server);
            options.settings.stream = Some(stream);
            // Neither is the server told where to stop.
            options.settings.max_stop_strings = Some(0);
            let answers = wait(async { answers(&connect(&options, &[]).await.unwrap()).await });
            let chat = ("No.\n\nAsk #### me else.".to_owned(), FinishReason::ContentFilter);
            assert_eq!(answers[1], chat, "{what:?}, stream {stream}");
        }
    }
}

#[test]
fn usage_that_is_none_costs_no_answer() {
    for usage in [
        json!({"prompt_tokens": u64::MAX, "completion_tokens": 1}),
        json!({"prompt_tokens": -5, "completion_tokens": 1}),
        json!({"prompt_tokens": 1e300, "completion_tokens": 1}),
        json!("many"),
        json!(null),
    ] {
        let server = answering(When::default(), What::Usage { usage: usage.clone() });
        wait(async {
            let model = connect(&options(&server), &[]).await.unwrap();
            let answer = model.call(&text("hello", params())).await.unwrap();
            assert_eq!(answer.usage, None, "{usage}");
        });
    }
    let whole = json!({"prompt_tokens": 5.0, "completion_tokens": 3});
    let server = answering(When::default(), What::Usage { usage: whole });
    wait(async {
        let model = connect(&options(&server), &[]).await.unwrap();
        let usage = model.call(&text("hello", params())).await.unwrap().usage.unwrap();
        assert_eq!((usage.prompt_tokens, usage.generated_tokens), (5, 3));
    });
}

/// Never silent for long enough, and never done: in the probe as anywhere else.
#[test]
fn promise_12_finding_out_has_a_deadline_in_all() {
    let drip = || What::Slow { pieces: 1000, pause_ms: 50 };
    for stream in [false, true] {
        let server = answering(When::text("France"), drip());
        let mut options = needing(&server, &[params()]);
        options.settings.stream = Some(stream);
        options.settings.total_timeout_secs = Some(0.4);
        let started = Instant::now();
        let error = wait(connect(&options, &[])).unwrap_err();
        let timeout = ModelError::Transport {
            server: server.base_url(),
            failure: TransportFailure::Timeout,
            detail: "no complete answer within 0.4 s".to_owned(),
        };
        assert_eq!(error.to_string(), timeout.to_string());
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    }
    let server = answering(When::text("embedded"), drip());
    let mut options = options(&server);
    options.settings.total_timeout_secs = Some(0.4);
    wait(async {
        let model = connect(&options, &[]).await.unwrap();
        let started = Instant::now();
        assert!(model.embed(&["embedded".to_owned()], Some(512)).await.is_err());
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    });
}
