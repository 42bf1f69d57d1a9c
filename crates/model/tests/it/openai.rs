//! The `openai` provider against the scripted server: what is sent, and what is made of every kind of
//! answer.

use std::time::{Duration, Instant};

use evalign_core::{
    FinishReason, GenerateParams, Hint, Message, Output, Prompt, Request, RequestKind, Response, Role,
    SampleKey,
};
use evalign_model::{
    Call, ErrorKind, Model, ModelError, ModelSettings, Needs, OpenAi, OpenAiOptions, Remote, RemoteProfile,
    ServerKind, TransportFailure,
};
use evalign_testkit::openai_server::{
    Behaviour, Capabilities, ErrorBody, Fault, Reasoning, RetryAfter, Route, ScriptedServer, What, When,
};

/// Waits for a future, as a caller that is not async.
pub(crate) fn wait<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

pub(crate) fn options(server: &ScriptedServer) -> OpenAiOptions {
    OpenAiOptions { base_url: Some(server.base_url()), ..OpenAiOptions::default() }
}

pub(crate) async fn connect(options: &OpenAiOptions, env: &[(&str, &str)]) -> Result<OpenAi, ModelError> {
    let env: Vec<(String, String)> = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let lookup = move |name: &str| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
    OpenAi::connect_with(&"openai/scripted".parse().unwrap(), options, &lookup).await
}

pub(crate) fn ask(kind: RequestKind) -> Request {
    Request { key: SampleKey { task: "t".to_owned(), doc: 0, repeat: 0 }, kind }
}

pub(crate) fn text(prompt: &str, params: GenerateParams) -> Request {
    ask(RequestKind::Generate { prompt: Prompt::Text(prompt.to_owned()), params })
}

pub(crate) fn chat(turns: &[(Role, &str)], params: GenerateParams) -> Request {
    let message = |(role, content): &(Role, &str)| Message { role: *role, content: (*content).to_owned() };
    ask(RequestKind::Generate { prompt: Prompt::Chat(turns.iter().map(message).collect()), params })
}

fn written(response: Response) -> (String, FinishReason, Option<String>) {
    match response.output {
        Output::Text { text, finish, reasoning, .. } => (text, finish, reasoning),
        other => panic!("{other:?}"),
    }
}

/// What the server got beside the probe's requests, as JSON.
pub(crate) fn sent(server: &ScriptedServer, part: &str) -> Vec<serde_json::Value> {
    server
        .requests()
        .only(|entry| entry.text.contains(part))
        .entries
        .iter()
        .map(|entry| entry.json())
        .collect()
}

#[test]
fn a_text_is_continued_and_a_chat_is_answered() {
    let server = ScriptedServer::start(Behaviour::default().rule("sky", " blue. And wide."));
    let params = GenerateParams {
        max_tokens: 32,
        temperature: 0.7,
        top_p: Some(0.9),
        stop: vec![" And".to_owned()],
        seed: 1 << 60,
        ..GenerateParams::default()
    };
    wait(async {
        let model = connect(&options(&server), &[("OPENAI_API_KEY", "k")]).await.unwrap();
        let answer = model.call(&text("The sky is", params.clone())).await.unwrap();
        assert!(answer.usage.is_some_and(|usage| usage.prompt_tokens > 0 && usage.generated_tokens > 0));
        let latency = answer.latency.unwrap();
        assert!(latency.total_ms > 0.0 && latency.attempts == 1 && latency.first_token_ms.is_none());
        assert_eq!(written(answer), (" blue.".to_owned(), FinishReason::Stop, None));
        let turns = [(Role::System, "Be brief."), (Role::User, "Which colour has the sky?")];
        let answer = model.call(&chat(&turns, params.clone())).await.unwrap();
        assert_eq!(written(answer).0, " blue.");
    });
    let sent = sent(&server, "sky");
    assert_eq!(sent.len(), 2);
    assert_eq!(sent[0]["prompt"], "The sky is");
    for body in &sent {
        assert_eq!(body["model"], "scripted");
        assert_eq!(
            (&body["temperature"], &body["top_p"], &body["seed"]),
            (&0.7.into(), &0.9.into(), &(1u64 << 60).into())
        );
        assert_eq!(body["stop"], serde_json::json!([" And"]));
        assert_eq!(body["max_tokens"], 32);
        assert!(body.get("stream").is_none() && body.get("logprobs").is_none());
    }
    assert_eq!(sent[1]["messages"][0], serde_json::json!({"role": "system", "content": "Be brief."}));
}

#[test]
fn streams_give_the_same_answers_and_the_time_to_the_first_token() {
    let slow = Fault { when: When::default(), what: What::Slow { pieces: 4, pause_ms: 10 } };
    let server = ScriptedServer::start(Behaviour::default().fault(slow));
    let mut options = options(&server);
    wait(async {
        let whole = connect(&options, &[]).await.unwrap();
        options.settings.stream = Some(true);
        let streamed = connect(&options, &[]).await.unwrap();
        let params =
            GenerateParams { max_tokens: 64, seed: 7, temperature: 1.0, ..GenerateParams::default() };
        for request in [text("2 and 2?", params.clone()), chat(&[(Role::User, "3 and 4?")], params.clone())] {
            let (one, other) = (whole.call(&request).await.unwrap(), streamed.call(&request).await.unwrap());
            assert_eq!(one.usage, other.usage);
            let latency = other.latency.unwrap();
            assert!(latency.first_token_ms.unwrap() < latency.total_ms, "{latency:?}");
            assert_eq!(written(one), written(other));
        }
    });
}

#[test]
fn thoughts_are_kept_apart_in_every_form() {
    for (reasoning, thoughts) in [
        (Reasoning::None, false),
        (Reasoning::ReasoningContent, true),
        (Reasoning::Reasoning, true),
        (Reasoning::Inline, true),
        (Reasoning::Hidden, false),
    ] {
        let capabilities = Capabilities { reasoning, ..Capabilities::default() };
        let server = ScriptedServer::start(Behaviour { capabilities, ..Behaviour::default() });
        for stream in [false, true] {
            let mut options = options(&server);
            options.settings.stream = Some(stream);
            wait(async {
                let model = connect(&options, &[]).await.unwrap();
                let ask = |max_tokens| {
                    let stop = vec!["words".to_owned()];
                    chat(
                        &[(Role::User, "How many?")],
                        GenerateParams { max_tokens, stop, ..GenerateParams::default() },
                    )
                };
                let (text, finish, reasoning_text) = written(model.call(&ask(200)).await.unwrap());
                assert_eq!(reasoning_text.is_some(), thoughts, "{reasoning:?}");
                assert!(text.contains("The answer is") && !text.contains("think"), "{reasoning:?}: {text}");
                assert_eq!(finish, FinishReason::Stop);
                // Truncated in the middle of its thoughts, it has said nothing.
                if reasoning != Reasoning::None {
                    let (text, finish, _) = written(model.call(&ask(3)).await.unwrap());
                    assert_eq!((text.as_str(), finish), ("", FinishReason::Length), "{reasoning:?}");
                }
            });
        }
    }
}

#[test]
fn likelihoods_are_sums_over_the_continuation() {
    let server = ScriptedServer::start(Behaviour::default().rule("capital", " Paris"));
    wait(async {
        let model = connect(&options(&server), &[]).await.unwrap();
        assert!(model.capabilities().log_likelihood);
        let continuations: Vec<String> = [" Rome", " Paris", " New York City"].map(str::to_owned).into();
        let context = Prompt::Text("Naïve question: the capital of France is".to_owned());
        let response = model
            .call(&ask(RequestKind::LogLikelihood { context: context.clone(), continuations }))
            .await
            .unwrap();
        let Output::LogLikelihood { choices } = response.output else { panic!() };
        assert_eq!(choices.iter().map(|c| c.tokens).collect::<Vec<_>>(), [1, 1, 3]);
        assert!((choices[1].sum + 0.001).abs() < 1e-12 && choices[1].greedy, "{choices:?}");
        assert!(choices[0].sum < -0.4 && choices[2].sum < choices[1].sum);
        // One request for all choices.
        assert_eq!(sent(&server, "Naïve").len(), 1);
        let chat = Prompt::Chat(vec![Message { role: Role::User, content: "x".to_owned() }]);
        let continuations = vec![" y".to_owned()];
        let refused =
            model.call(&ask(RequestKind::LogLikelihood { context: chat, continuations })).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Unavailable);
        let empty = RequestKind::LogLikelihood {
            context: Prompt::Text(String::new()),
            continuations: vec!["y z".to_owned()],
        };
        assert_eq!(model.call(&ask(empty)).await.unwrap_err().kind(), ErrorKind::Permanent);
    });
}

#[test]
fn texts_are_embedded() {
    let server = ScriptedServer::start(Behaviour::default());
    wait(async {
        let model = connect(&options(&server), &[]).await.unwrap();
        let texts = ["one", "two", "one"].map(str::to_owned);
        let found = model.embed(&texts, Some(16)).await.unwrap();
        assert_eq!(found.vectors.len(), 3);
        assert!(found.vectors.iter().all(|vector| vector.len() == 16));
        assert_eq!(found.vectors[0], found.vectors[2]);
        assert_ne!(found.vectors[0], found.vectors[1]);
        assert!(model.embed(&[], None).await.unwrap().vectors.is_empty());
    });
}

/// Faults that pass, and how they look: one request each, and the error says what happened.
#[test]
fn promise_9_failures_that_may_pass_are_retryable() {
    use TransportFailure::{Malformed, Reset, Timeout, Truncated};
    let status = |status| What::Status {
        status,
        retry_after: None,
        code: None,
        message: None,
        body: ErrorBody::default(),
    };
    let transport = |failure| Some(failure);
    for (what, stream, failure) in [
        (status(408), false, None),
        (status(409), false, None),
        (status(429), false, None),
        (status(500), false, None),
        (status(503), true, None),
        (What::StallBeforeHeaders, false, transport(Timeout)),
        (What::StallMidBody, false, transport(Timeout)),
        (What::StallMidBody, true, None),
        (What::TruncateBody, false, transport(Truncated)),
        (What::TruncateBody, true, transport(Truncated)),
        (What::EndStream { after_events: 2 }, true, transport(Truncated)),
        (What::NoDone, true, transport(Truncated)),
        (What::ErrorEvent, true, None),
        (What::Reset, false, transport(Reset)),
        (What::ResetMidBody, false, transport(Truncated)),
        (What::ResetMidBody, true, transport(Truncated)),
        (What::MalformedJson, false, None),
        (What::Html, false, transport(Malformed)),
        // The server may close before it has begun, or in the middle.
        (What::WrongLength { difference: 50 }, false, None),
        (What::WrongLength { difference: -50 }, false, None),
    ] {
        let name = format!("{what:?}, stream {stream}");
        let server =
            ScriptedServer::start(Behaviour::default().fault(Fault { when: When::text("hello"), what }));
        let mut options = options(&server);
        options.settings =
            ModelSettings { stream: Some(stream), idle_timeout_secs: Some(0.3), ..ModelSettings::default() };
        wait(async {
            let model = connect(&options, &[]).await.unwrap();
            let started = Instant::now();
            let error = model.call(&text("hello there", GenerateParams::default())).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Retryable, "{name}: {error}");
            assert!(started.elapsed() < Duration::from_secs(5), "{name}");
            if let (Some(expected), ModelError::Transport { failure, .. }) = (failure, &error) {
                assert_eq!(*failure, expected, "{name}: {error}");
            }
            assert!(error.to_string().starts_with("http://127.0.0.1"), "{name}: {error}");
            assert!(error.to_string().len() < 500, "{name}: {error}");
            // It was asked once, and the server answers others.
            assert_eq!(sent(&server, "hello").len(), 1, "{name}");
            model.call(&text("goodbye", GenerateParams::default())).await.unwrap();
        });
    }
}

#[test]
fn promise_9_waits_are_read_from_the_answer() {
    let what = What::Status {
        status: 429,
        retry_after: Some(RetryAfter::Seconds(7)),
        code: None,
        message: None,
        body: ErrorBody::default(),
    };
    let server = ScriptedServer::start(Behaviour::default().fault(Fault { when: When::text("hello"), what }));
    wait(async {
        let model = connect(&options(&server), &[]).await.unwrap();
        let error = model.call(&text("hello", GenerateParams::default())).await.unwrap_err();
        assert_eq!(error.retry_after(), Some(Duration::from_secs(7)));
        assert_eq!(error.status(), Some(429));
    });
}

#[test]
fn huge_answers_and_foreign_content_types_are_bounded_and_tolerated() {
    let huge = Fault { when: When::text("much"), what: What::HugeBody { bytes: 1 << 30 } };
    let plain = Fault {
        when: When::text("plain"),
        what: What::ContentType { content_type: "text/plain; charset=utf-8".to_owned() },
    };
    let server = ScriptedServer::start(Behaviour::default().fault(huge).fault(plain));
    for stream in [false, true] {
        let mut options = options(&server);
        options.settings.stream = Some(stream);
        wait(async {
            let model = connect(&options, &[]).await.unwrap();
            let error = model.call(&text("much", GenerateParams::default())).await.unwrap_err();
            assert!(matches!(error, ModelError::Transport { .. }), "{error}");
            // A whole document under the wrong name is still one.
            if !stream {
                model.call(&text("plain", GenerateParams::default())).await.unwrap();
            }
        });
    }
}

/// Promise 29: the key is nowhere but in the header.
#[test]
fn promise_29_the_key_is_in_no_message() {
    let key = "sk-canary-0123456789";
    let echo = What::Status {
        status: 400,
        retry_after: None,
        code: Some(format!("code-{key}")),
        message: Some(format!("Incorrect key {key} in header")),
        body: ErrorBody::default(),
    };
    let server = ScriptedServer::start(
        Behaviour { api_key: Some(key.to_owned()), ..Behaviour::default() }
            .fault(Fault { when: When::text("hello"), what: echo }),
    );
    wait(async {
        let model = connect(&options(&server), &[("OPENAI_API_KEY", key)]).await.unwrap();
        let error = model.call(&text("hello", GenerateParams::default())).await.unwrap_err();
        let all = format!(
            "{error} {error:?} {:?} {model:?} {:?} {:?}",
            error.hint(),
            model.identity(),
            model.account()
        );
        assert!(!all.contains("canary"), "{all}");
        assert!(error.to_string().contains("Incorrect key ***"), "{error}");
    });
    assert!(server.requests().identifying_headers.iter().any(|(_, value)| value.contains(key)));
}

#[test]
fn refused_content_is_a_refusal() {
    let filtered = What::Status {
        status: 400,
        retry_after: None,
        code: Some("content_filter".to_owned()),
        message: Some("The response was filtered.".to_owned()),
        body: ErrorBody::default(),
    };
    let server = ScriptedServer::start(
        Behaviour::default().fault(Fault { when: When::text("hello"), what: filtered }),
    );
    wait(async {
        let model = connect(&options(&server), &[]).await.unwrap();
        let answer = model.call(&text("hello", GenerateParams::default())).await.unwrap();
        assert_eq!(written(answer), (String::new(), FinishReason::ContentFilter, None));
    });
}

#[test]
fn fields_of_other_servers_are_sent_only_where_they_are_known() {
    let server = ScriptedServer::start(Behaviour::default());
    let params = GenerateParams {
        temperature: 1.0,
        top_k: Some(40),
        min_p: Some(0.1),
        repetition_penalty: Some(1.1),
        ..GenerateParams::default()
    };
    let begun = [(Role::User, "Say it."), (Role::Assistant, "The answer is")];
    wait(async {
        let unknown = connect(&options(&server), &[]).await.unwrap();
        let error = unknown.call(&text("penalty", params.clone())).await.unwrap_err();
        assert!(
            error.kind() == ErrorKind::Unavailable && error.hint().unwrap().contains("--server"),
            "{error}"
        );
        assert!(unknown.call(&chat(&begun, GenerateParams::default())).await.is_err());
        // Greedy decoding does not use them.
        let greedy = GenerateParams { temperature: 0.0, repetition_penalty: None, ..params.clone() };
        unknown.call(&text("greedy", greedy)).await.unwrap();

        let vllm = OpenAiOptions { server: Some(ServerKind::Vllm), ..options(&server) };
        let vllm = connect(&vllm, &[]).await.unwrap();
        vllm.call(&text("penalty vllm", params.clone())).await.unwrap();
        vllm.call(&chat(&begun, GenerateParams::default())).await.unwrap();
        let llama = OpenAiOptions { server: Some(ServerKind::LlamaCpp), ..options(&server) };
        let llama = connect(&llama, &[]).await.unwrap();
        llama.call(&text("penalty llama", params.clone())).await.unwrap();
        llama.call(&text("no penalty llama", GenerateParams::default())).await.unwrap();
    });
    let vllm = &sent(&server, "penalty vllm")[0];
    assert_eq!(
        (&vllm["top_k"], &vllm["min_p"], &vllm["repetition_penalty"]),
        (&40.into(), &0.1.into(), &1.1.into())
    );
    assert_eq!(sent(&server, "penalty llama")[0]["repeat_penalty"], 1.1);
    assert_eq!(sent(&server, "no penalty llama")[0]["repeat_penalty"], 1.0);
    assert!(sent(&server, "greedy")[0].get("repeat_penalty").is_none());
    assert_eq!(sent(&server, "Say it.")[0]["continue_final_message"], true);
    assert!(sent(&server, "greedy")[0].get("top_k").is_none());
}

#[test]
fn settings_add_headers_query_and_fields() {
    let server = ScriptedServer::start(Behaviour::default());
    let mut options = options(&server);
    options.settings.body.insert("reasoning_effort".to_owned(), "low".into());
    options.settings.query.insert("api-version".to_owned(), "v1".to_owned());
    options.settings.max_stop_strings = Some(1);
    let params = GenerateParams { stop: vec!["b".to_owned(), "The".to_owned()], ..GenerateParams::default() };
    wait(async {
        let model =
            connect(&options, &[("OPENAI_ORG_ID", "org-1"), ("OPENAI_PROJECT_ID", "p-1")]).await.unwrap();
        // What the server was not told, we cut ourselves.
        let (text, finish, _) = written(model.call(&text("hello", params)).await.unwrap());
        assert!(!text.contains("The") && finish == FinishReason::Stop, "{text}");
    });
    let body = &sent(&server, "hello")[0];
    assert_eq!((&body["reasoning_effort"], &body["stop"]), (&"low".into(), &serde_json::json!(["b"])));
    let headers = server.requests().identifying_headers;
    assert!(
        headers.iter().any(|(name, value)| name == "openai-organization" && value == "org-1"),
        "{headers:?}"
    );
}

/// Dropping the replies ends what is under way, at once.
#[test]
fn promise_12_cancelling_closes_the_connections() {
    let stall = Fault { when: When::text("hello"), what: What::StallBeforeHeaders };
    let server = ScriptedServer::start(Behaviour::default().fault(stall));
    wait(async {
        let call = connect(&options(&server), &[]).await.unwrap();
        let profile = RemoteProfile {
            identity: call.identity(),
            context_length: None,
            capabilities: call.capabilities(),
            notes: Vec::new(),
            started: 3,
        };
        let model = Remote::new(call, profile, std::sync::Arc::default());
        let requests = (0..20).map(|i| text(&format!("hello {i}"), GenerateParams::default())).collect();
        let replies = model.submit(requests);
        while server.requests().in_flight < 3 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        drop(replies);
        let started = Instant::now();
        while server.requests().in_flight > 0 {
            assert!(started.elapsed() < Duration::from_secs(5), "the server still waits");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        // No more than could be under way were started.
        assert_eq!(sent(&server, "hello").len(), 3);
    });
}

#[test]
fn sets_are_answered_completely_by_their_index() {
    let server =
        ScriptedServer::start(Behaviour { latency_ms: 2.0, latency_jitter: 0.9, ..Behaviour::default() });
    wait(async {
        let mut options = options(&server);
        options.needs = Needs { chat: false, log_likelihood: false, ..Needs::default() };
        let call = connect(&options, &[]).await.unwrap();
        let profile = RemoteProfile {
            identity: call.identity(),
            context_length: None,
            capabilities: call.capabilities(),
            notes: Vec::new(),
            started: 16,
        };
        let model = Remote::new(call, profile, std::sync::Arc::default());
        let request = |i: usize| text(&format!("hello {i}?"), GenerateParams::default());
        let mut replies = model.submit((0..200).map(request).collect());
        let mut seen = vec![None; 200];
        while let Some((index, result)) = replies.next().await {
            assert!(seen[index].replace(result.unwrap()).is_none(), "{index} twice");
        }
        let alone = model.submit(vec![request(77)]).next().await.unwrap().1.unwrap();
        assert_eq!(seen[77].as_ref().unwrap().output, alone.output);
        assert!(seen.iter().all(Option::is_some));
    });
    assert!(server.requests().max_in_flight <= 16);
    assert!(server.requests().entries.iter().all(|entry| entry.route != Route::Chat));
}
