//! Requests that make no sense: every answer has the envelope and names the field.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use axum::body::Body;
use evalign_serve::Layer;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::common::{Service, request, small_run};

#[tokio::test]
async fn errors_of_every_kind_have_the_envelope() {
    let service = Service::new();
    let post = |path: &str, kind: &str, body: &str| {
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header("authorization", format!("Bearer {}", service.run))
            .header("content-type", kind)
            .body(Body::from(body.to_owned()))
            .unwrap()
    };
    let json = "application/json";
    let long = format!("{{\"model\": \"{}\"}}", "x".repeat(2 << 20));
    let deep = "[".repeat(10_000);
    for (request, status, code) in [
        (request(Method::GET, "/v1/nothing", &service.run, None), 404, "not_found"),
        (request(Method::DELETE, "/v1/runs", &service.run, None), 405, "method_not_allowed"),
        (post("/v1/runs", "text/plain", "{}"), 415, "unsupported_media_type"),
        (post("/v1/runs", json, &long), 413, "body_too_large"),
        (post("/v1/runs", json, "{"), 400, "invalid_request"),
        (post("/v1/runs", json, ""), 400, "invalid_request"),
        (post("/v1/runs", json, "\u{feff}{}"), 400, "invalid_request"),
        (post("/v1/runs", json, "{} {}"), 400, "invalid_request"),
        (post("/v1/runs", json, &deep), 400, "invalid_request"),
        (post("/v1/chat/completions", json, "[]"), 400, "invalid_request"),
        (request(Method::GET, "/v1/runs?limit=x", &service.run, None), 400, "invalid_request"),
        (request(Method::GET, "/v1/runs?frobnicate=1", &service.run, None), 400, "invalid_request"),
        (request(Method::GET, "/v1/runs/../../etc/passwd", &service.run, None), 404, "not_found"),
        (request(Method::GET, "/v1/runs/run_%00", &service.run, None), 404, "not_found"),
        (request(Method::GET, "/v1/models/gpt-4", &service.run, None), 404, "model_not_found"),
    ] {
        let what = format!("{} {}", request.method(), request.uri());
        let answer = service.send(request).await;
        assert_eq!(answer.status.as_u16(), status, "{what}: {}", answer.text());
        assert_eq!(answer.code(), code, "{what}");
        assert!(answer.headers.contains_key("x-request-id"), "{what}");
    }
}

#[tokio::test]
async fn a_field_that_is_wrong_is_named() {
    let service = Service::new();
    let param = async |path: &str, body: Value| {
        let answer = service.post(path, &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}: {}", answer.text());
        answer.json()["error"]["param"].as_str().unwrap_or_default().to_owned()
    };
    let with = |field: &str, value: Value| {
        let mut body = small_run();
        body[field] = value;
        body
    };
    let runs = "/v1/runs";
    for (field, value) in [
        ("limit", json!(-1)),
        ("limit", json!("many")),
        ("samples", json!("9..3")),
        ("compat", json!("bug-for-bug")),
        ("tasks", json!([])),
        ("tasks", json!(["no_such_task"])),
        ("limt", json!(3)),
    ] {
        assert_eq!(param(runs, with(field, value)).await, field);
    }
    let chat = "/v1/chat/completions";
    let message = json!([{"role": "user", "content": "hi"}]);
    let ask = |field: &str, value: Value| {
        let mut body = json!({"model": "small", "messages": message});
        body[field] = value;
        body
    };
    for (field, value) in [
        ("temperature", json!(3)),
        ("max_tokens", json!(0)),
        ("max_tokens", json!(1_000_000)),
        ("n", json!(1000)),
        ("messages", json!([])),
        ("tools", json!([])),
        ("top_logprobs", json!(5)),
        ("response_format", json!({"type": "json_schema", "json_schema": {"name": "x", "schema": "soup"}})),
        ("presence_penalty", json!(1.0)),
    ] {
        assert_eq!(param(chat, ask(field, value)).await, field);
    }
    // A model that tells of no other tokens, and more than OpenAI's API has: who asks is not given fewer in silence.
    for count in [2, 6] {
        let several = json!({"model": "small", "prompt": "a", "logprobs": count});
        assert_eq!(param("/v1/completions", several).await, "logprobs");
    }
    for count in [2, 21] {
        let mut several = ask("top_logprobs", json!(count));
        several["logprobs"] = true.into();
        assert_eq!(param(chat, several).await, "top_logprobs");
    }
}

/// Promise 25: there is no field through which a client could name an address, and none for a path: requests
/// that try are refused by the name of the field.
#[tokio::test]
async fn promise_25_and_26_no_address_and_no_path_comes_from_a_client() {
    let service = Service::new();
    for field in [
        "base_url",
        "webhook",
        "data_root",
        "include_path",
        "model_settings",
        "prices",
        "device",
        "server",
        "url",
    ] {
        let mut body = small_run();
        body[field] = json!("http://169.254.169.254/latest/meta-data");
        let answer = service.post("/v1/runs", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}");
        assert_eq!(answer.json()["error"]["param"], field);
    }
    for model in
        ["local//etc/passwd", "scripted/model.json", "openai/gpt-4o", "../small", "small+adapter=/tmp"]
    {
        let mut body = small_run();
        body["model"] = json!(model);
        assert_eq!(service.post("/v1/runs", &body).await.status, StatusCode::NOT_FOUND, "{model}");
    }
    for name in ["../evil", "/etc/passwd", "a/b", "", ".hidden", "UPPER", "a\u{202e}b", &"x".repeat(65)] {
        let name: String = name.bytes().map(|b| format!("%{b:02x}")).collect();
        let path = format!("/v1/files?name={name}&purpose=dataset");
        let answer = service.send(request(Method::POST, &path, &service.run, None)).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{path}");
        assert_eq!(answer.json()["error"]["param"], "name");
    }
}

/// Whoever opens a connection and says nothing, or says it a letter at a time, is cut off.
#[tokio::test(flavor = "multi_thread")]
async fn slow_clients_do_not_hold_a_connection() {
    let layer = Layer { read_timeout_secs: Some(1), ..Layer::default() };
    let service = Service::with(&json!({"seed": 1}), layer);
    let key = service.run.clone();
    let listening = service.listening().await;
    let address = listening.address;
    let ended = tokio::task::spawn_blocking(move || {
        let head = format!("POST /v1/runs HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\n");
        let body = format!("{head}content-type: application/json\r\ncontent-length: 100\r\n\r\n{{\"mod");
        ["", "GET /healthz HTT", &head, &body].map(|sent| {
            let mut stream = std::net::TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            stream.write_all(sent.as_bytes()).unwrap();
            let started = Instant::now();
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).map(|_| (started.elapsed(), String::from_utf8(answer).unwrap()))
        })
    })
    .await
    .unwrap();
    for outcome in &ended {
        let (took, _) = outcome.as_ref().unwrap();
        assert!(*took < Duration::from_secs(5), "{ended:?}");
    }
    let (_, slow_body) = ended[3].as_ref().unwrap();
    assert!(slow_body.starts_with("HTTP/1.1 408"), "{slow_body}");
    listening.end().await;
}
