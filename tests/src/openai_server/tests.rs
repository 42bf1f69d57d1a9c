//! The server itself: that it answers, and that what it spoils arrives spoiled in just that way.

use std::time::Instant;

use serde_json::{Value, json};

use super::*;

struct Client {
    server: ScriptedServer,
    http: reqwest::Client,
}

impl Client {
    fn of(behaviour: Behaviour) -> Self {
        // As `evalign_fetch` does for the product; an error means that another test was first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build();
        Self { server: ScriptedServer::start(behaviour), http: http.unwrap() }
    }

    fn faulty(what: What) -> Self {
        Self::of(Behaviour::default().fault(Fault { when: When::default(), what }))
    }

    async fn post(&self, path: &str, body: &Value) -> reqwest::Result<reqwest::Response> {
        let url = format!("{}/{path}", self.server.base_url());
        self.http.post(url).header("content-type", "application/json").body(body.to_string()).send().await
    }

    async fn json(&self, path: &str, body: &Value) -> (u16, Value) {
        let response = self.post(path, body).await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_slice(&response.bytes().await.unwrap()).unwrap())
    }

    async fn chat(&self, text: &str) -> reqwest::Result<reqwest::Response> {
        self.post("chat/completions", &chat(text)).await
    }

    /// The body of an answer, or what went wrong on the way.
    async fn body(&self, stream: bool) -> Result<String, reqwest::Error> {
        let mut body = chat("x");
        body["stream"] = json!(stream);
        let bytes = self.post("chat/completions", &body).await?.bytes().await?;
        Ok(String::from_utf8(bytes.to_vec()).unwrap())
    }
}

fn chat(text: &str) -> Value {
    json!({"model": "scripted", "messages": [{"role": "user", "content": text}], "temperature": 0})
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

/// The deepest reason of an error, which is where the transport's is.
fn reason(error: &reqwest::Error) -> String {
    let mut error: &dyn std::error::Error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[tokio::test]
async fn answers_depend_on_the_content_only() {
    let client = Client::of(Behaviour::default().rule("capital of France", "Paris"));
    let (_, first) = client.json("chat/completions", &chat("1 + 1?")).await;
    let (_, again) = client.json("chat/completions", &chat("1 + 1?")).await;
    let (_, other) = client.json("chat/completions", &chat("2 + 2?")).await;
    assert_eq!(first, again);
    assert_ne!(content(&first), content(&other));
    assert!(content(&first).contains("The answer is "));
    let (_, paris) = client.json("chat/completions", &chat("The capital of France?")).await;
    assert_eq!(content(&paris), "Paris");
    let requests = client.server.requests();
    assert_eq!((requests.len(), requests.by_content().len()), (4, 3));
    assert_eq!(requests.entries[1].attempt, 2);
    assert_eq!(requests.with_outcome(Outcome::Answered), 4);
    assert_eq!(requests.in_flight, 0);
}

#[tokio::test]
async fn seeds_draw_and_stops_and_limits_cut() {
    let client = Client::of(Behaviour::default());
    let drawn = async |seed: u64| {
        let mut body = chat("draw");
        (body["temperature"], body["seed"]) = (json!(1.0), json!(seed));
        content(&client.json("chat/completions", &body).await.1).to_owned()
    };
    assert_eq!(drawn(1).await, drawn(1).await);
    assert_ne!(drawn(1).await, drawn(2).await);
    let mut body = chat("cut");
    body["stop"] = json!(["\n"]);
    let (_, stopped) = client.json("chat/completions", &body).await;
    assert!(!content(&stopped).contains('\n'));
    body["max_tokens"] = json!(3);
    let (_, limited) = client.json("chat/completions", &body).await;
    assert_eq!(limited["choices"][0]["finish_reason"], "length");
    assert_eq!(limited["usage"]["completion_tokens"], 3);
    (body["n"], body["max_tokens"], body["temperature"]) = (json!(2), json!(20), json!(1));
    let (_, two) = client.json("chat/completions", &body).await;
    assert_ne!(two["choices"][0]["message"], two["choices"][1]["message"]);
}

#[tokio::test]
async fn echoed_scores_add_up_however_the_text_is_cut() {
    let client = Client::of(Behaviour::default());
    let body = |prompt: &str| json!({"model": "scripted", "prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 0});
    let (_, whole) = client.json("completions", &body("Grüße: what? Answer: 42 apples")).await;
    let (_, less) = client.json("completions", &body("Grüße: what? Answer: 42")).await;
    let (whole, less) = (&whole["choices"][0], &less["choices"][0]);
    assert_eq!(whole["text"], "Grüße: what? Answer: 42 apples");
    assert!(whole["logprobs"]["token_logprobs"][0].is_null());
    let list = |choice: &Value, field: &str| choice["logprobs"][field].as_array().unwrap().clone();
    let (tokens, fewer) = (list(whole, "token_logprobs"), list(less, "token_logprobs"));
    assert_eq!(tokens[..fewer.len()], fewer[..]);
    assert_eq!(tokens.len(), fewer.len() + 1);
    // Offsets count characters, as at OpenAI.
    assert_eq!(list(whole, "text_offset")[..3], [json!(0), json!(5), json!(6)]);
    assert_eq!(list(whole, "tokens").last(), Some(&json!(" apples")));
}

#[tokio::test]
async fn a_stream_says_the_same_as_a_document() {
    let client = Client::of(Behaviour::default());
    let (_, whole) = client.json("chat/completions", &chat("x")).await;
    let stream = client.body(true).await.unwrap();
    let events: Vec<&str> = stream.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
    assert_eq!(events.last(), Some(&"[DONE]"));
    let pieces = events[..events.len() - 1].iter().map(|event| {
        let event: Value = serde_json::from_str(event).unwrap();
        event["choices"][0]["delta"]["content"].as_str().unwrap_or_default().to_owned()
    });
    assert_eq!(pieces.collect::<String>(), content(&whole));
}

#[tokio::test]
async fn what_it_cannot_do_is_refused_by_name() {
    let mut behaviour = Behaviour { api_key: Some("sk-right".to_owned()), ..Behaviour::default() };
    behaviour.capabilities.seed = Support::Refused;
    behaviour.capabilities.system_role = Support::Refused;
    behaviour.capabilities.max_tokens = MaxTokens::MaxCompletionTokens;
    behaviour.capabilities.completions = false;
    let client = Client::of(behaviour.clone());
    let (status, refused) = client.json("chat/completions", &chat("x")).await;
    assert_eq!((status, &refused["error"]["code"]), (401, &json!("invalid_api_key")));
    client.server.behave(Behaviour { api_key: None, ..behaviour });
    for (field, value) in [("seed", json!(1)), ("max_tokens", json!(1))] {
        let mut body = chat("x");
        body[field] = value;
        let (status, refused) = client.json("chat/completions", &body).await;
        assert_eq!((status, &refused["error"]["param"]), (400, &json!(field)));
    }
    let mut body = chat("x");
    body["messages"][0]["role"] = json!("system");
    assert_eq!(client.json("chat/completions", &body).await.0, 400);
    body["model"] = json!("gpt-0");
    let (status, refused) = client.json("chat/completions", &body).await;
    assert_eq!((status, &refused["error"]["code"]), (404, &json!("model_not_found")));
    assert_eq!(client.json("completions", &json!({"model": "scripted", "prompt": "x"})).await.0, 404);
}

#[tokio::test]
async fn reasoning_is_kept_apart_and_counts() {
    let mut behaviour = Behaviour::default();
    behaviour.capabilities.reasoning = Reasoning::ReasoningContent;
    let client = Client::of(behaviour);
    let (_, answer) = client.json("chat/completions", &chat("x")).await;
    assert!(answer["choices"][0]["message"]["reasoning_content"].is_string());
    assert!(answer["usage"]["completion_tokens_details"]["reasoning_tokens"].as_u64().unwrap() > 5);
    let mut body = chat("x");
    body["max_completion_tokens"] = json!(4);
    let (_, cut) = client.json("chat/completions", &body).await;
    assert_eq!((content(&cut), &cut["choices"][0]["finish_reason"]), ("", &json!("length")));
}

#[tokio::test]
async fn embeddings_and_models() {
    let client = Client::of(Behaviour::default());
    let (_, answer) = client.json("embeddings", &json!({"model": "scripted", "input": ["a", "b"]})).await;
    assert_eq!(answer["data"].as_array().unwrap().len(), 2);
    assert_ne!(answer["data"][0]["embedding"], answer["data"][1]["embedding"]);
    let models = client.http.get(format!("{}/models", client.server.base_url())).send().await.unwrap();
    let models: Value = serde_json::from_slice(&models.bytes().await.unwrap()).unwrap();
    assert_eq!(models["data"][0]["id"], "scripted");
}

#[tokio::test]
async fn refusals_carry_every_form_of_retry_after() {
    let forms = [
        (RetryAfter::Seconds(7), "retry-after", "7"),
        (RetryAfter::Milliseconds(70), "retry-after-ms", "70"),
        (RetryAfter::Literal("soon".to_owned()), "retry-after", "soon"),
        (RetryAfter::DateInSeconds(60), "retry-after", "GMT"),
    ];
    for (form, header, value) in forms {
        let client = Client::faulty(What::Status {
            status: 503,
            retry_after: Some(form),
            code: None,
            message: None,
            body: ErrorBody::Html,
        });
        let refused = client.chat("x").await.unwrap();
        assert_eq!(refused.status(), 503);
        assert!(refused.headers()[header].to_str().unwrap().ends_with(value));
        assert_eq!(refused.headers()["content-type"], "text/html");
        assert!(refused.text().await.unwrap().starts_with("<!DOCTYPE html>"));
    }
}

#[tokio::test]
async fn broken_transfers_break_where_they_should() {
    let whole = Client::of(Behaviour::default()).body(false).await.unwrap();
    for stream in [false, true] {
        for what in [What::TruncateBody, What::ResetMidBody] {
            let name = format!("{what:?}, stream: {stream}");
            let error = Client::faulty(what).body(stream).await.expect_err(&name);
            assert!(!error.is_timeout() && error.is_decode() | error.is_body(), "{name}: {error:?}");
        }
        let error = Client::faulty(What::Reset).body(stream).await.unwrap_err();
        assert!(reason(&error).to_lowercase().contains("reset"), "{error:?}");
    }
    let error = Client::faulty(What::WrongLength { difference: 10 }).body(false).await.unwrap_err();
    assert!(!error.is_timeout(), "{error:?}");
    let short = Client::faulty(What::WrongLength { difference: -10 }).body(false).await.unwrap();
    assert_eq!(short, whole[..whole.len() - 10]);
    let error = Client::faulty(What::NotHttp { bytes: "SSH-2.0-x\r\n".to_owned() }).body(false).await;
    assert!(error.is_err_and(|error| !error.is_timeout()));
}

#[test]
fn the_deaf_hear_nobody() {
    let deaf = ScriptedServer::deaf();
    let url = deaf.base_url();
    let address: SocketAddr = url["http://".len()..].trim_end_matches("/v1").parse().unwrap();
    let error = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::TimedOut);
}

#[tokio::test]
async fn streams_end_early_in_order() {
    let ended = Client::faulty(What::EndStream { after_events: 2 }).body(true).await.unwrap();
    assert_eq!(ended.matches("data: ").count(), 2);
    let undone = Client::faulty(What::NoDone).body(true).await.unwrap();
    assert!(undone.contains("\"stop\"") && !undone.contains("[DONE]"));
    let failed = Client::faulty(What::ErrorEvent).body(true).await.unwrap();
    assert!(failed.contains("engine died") && !failed.contains("[DONE]"));
}

#[tokio::test]
async fn stalls_stall_and_slow_is_slow() {
    for what in [What::StallBeforeHeaders, What::StallMidBody] {
        let client = Client::faulty(what);
        let waited = tokio::time::timeout(Duration::from_millis(200), client.body(false)).await;
        assert!(waited.is_err());
        // The client has gone, and that is what is written down.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let requests = client.server.requests();
        assert_eq!((requests.in_flight, requests.with_outcome(Outcome::Broken)), (0, 1));
    }
    let client = Client::faulty(What::Slow { pieces: 4, pause_ms: 30 });
    let started = Instant::now();
    let body = client.body(false).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(110));
    assert!(serde_json::from_str::<Value>(&body).is_ok());
}

#[tokio::test]
async fn contents_are_spoiled() {
    let body = Client::faulty(What::MalformedJson).body(false).await.unwrap();
    assert!(serde_json::from_str::<Value>(&body).is_err());
    let huge = Client::faulty(What::HugeBody { bytes: 3_000_000 }).body(false).await.unwrap();
    let huge: Value = serde_json::from_str(&huge).unwrap();
    assert_eq!(content(&huge).len(), 3_000_000);
    let parsed = async |what: What| -> Value {
        serde_json::from_str(&Client::faulty(what).body(false).await.unwrap()).unwrap()
    };
    assert_eq!(parsed(What::EmptyChoices).await["choices"], json!([]));
    let twice = parsed(What::DuplicateChoices).await;
    assert_eq!(twice["choices"][0], twice["choices"][1]);
    assert!(parsed(What::NullContent).await["choices"][0]["message"]["content"].is_null());
    let page = Client::faulty(What::Html).body(false).await.unwrap();
    assert!(page.starts_with("<!DOCTYPE"));
}

#[tokio::test]
async fn faults_choose_their_requests() {
    let fault = |when| Fault { when, what: What::Reset };
    let client = Client::of(
        Behaviour::default().fault(fault(When::first_attempts(1))).fault(fault(When::text("poison"))),
    );
    assert!(client.chat("x").await.is_err());
    assert!(client.chat("x").await.is_ok());
    assert!(client.chat("poison").await.is_err());
    assert!(client.chat("poison").await.is_err());
    let client = Client::of(Behaviour::default().fault(fault(When::probability(0.5))));
    let mut failed = 0;
    for index in 0..40 {
        failed += u32::from(client.chat(&index.to_string()).await.is_err());
    }
    assert!((8..=32).contains(&failed), "{failed} of 40");
}

#[tokio::test]
async fn above_the_cliff_there_is_429_at_once() {
    let behaviour = Behaviour { latency_ms: 200.0, cliff: Some(3), ..Behaviour::default() };
    let client = Client::of(behaviour);
    let calls = (0..5).map(|index| client.chat(if index == 0 { "zero" } else { "more" }));
    let answers = futures::future::join_all(calls).await;
    let refused = answers.iter().filter(|answer| answer.as_ref().unwrap().status() == 429).count();
    assert_eq!(refused, 2);
    let requests = client.server.requests();
    assert_eq!(requests.max_in_flight, 4, "a refused request is gone at once");
    assert_eq!(requests.bursts_of_429(Duration::from_millis(200)), 1);
}

#[test]
fn a_script_is_read_as_written() {
    let text = r#"{"latency_ms": 20, "cliff": 64, "cliff_retry_after": {"seconds": 1},
        "capabilities": {"logprobs": "refused", "max_tokens": "max_completion_tokens"},
        "rules": [{"match": "x", "text": "y"}],
        "faults": [{"when": {"first_attempts": 1, "route": "chat"}, "what": {"kind": "status", "status": 529}},
                   {"what": {"kind": "slow", "pieces": 2, "pause_ms": 1}}]}"#;
    let behaviour: Behaviour = serde_json::from_str(text).unwrap();
    assert_eq!(behaviour.faults.len(), 2);
    assert!(serde_json::from_str::<Behaviour>(r#"{"latencyms": 1}"#).is_err());
}
