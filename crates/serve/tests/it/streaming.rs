//! Completions while they are written.

use std::time::Duration;

use axum::body::Body;
use evalign_serve::Layer;
use futures::future::join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tower::ServiceExt;

use crate::common::{Service, request};

/// The documents of a stream that came whole.
fn documents(text: &str) -> Vec<Value> {
    let mut data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.pop(), Some("[DONE]"), "{text}");
    data.into_iter().map(|document| serde_json::from_str(document).unwrap()).collect()
}

fn completion(max_tokens: u32, change: &Value) -> Value {
    let mut body =
        json!({"model": "small", "prompt": "t1 t2 t3", "max_tokens": max_tokens, "temperature": 0});
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    body
}

/// The value of a metric without labels but the model's.
async fn metric(service: &Service, name: &str) -> u64 {
    let text = service.get("/metrics").await.text();
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}{{model=\"small\"}} ")));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

#[tokio::test]
async fn a_chat_comes_in_pieces() {
    let rules = json!([{"match": "poem", "text": "Roses are red, violets are blue"}]);
    let service = Service::with(&json!({"rules": rules}), Layer::default());
    let messages = json!([{"role": "user", "content": "a poem"}]);
    let body = json!({"model": "small", "messages": messages, "stream": true, "n": 2, "max_tokens": 50});
    let chunks = documents(&service.post("/v1/chat/completions", &body).await.text());
    for index in 0..2 {
        let own: Vec<&Value> = chunks
            .iter()
            .map(|chunk| &chunk["choices"][0])
            .filter(|choice| choice["index"] == index)
            .collect();
        let deltas: Vec<&str> = own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert!(deltas.len() > 3, "{chunks:?}");
        assert_eq!(deltas.concat(), "Roses are red, violets are blue");
        let roles: Vec<bool> = own.iter().map(|choice| choice["delta"]["role"] == "assistant").collect();
        assert!(roles[0] && roles[1..].iter().all(|role| !role), "{own:?}");
        assert_eq!(own.last().unwrap()["finish_reason"], "stop");
    }
}

/// Streamed or not, the same text, log-probabilities and offsets; of a stop string that comes in several
/// tokens nothing is shown.
#[tokio::test]
async fn a_stream_is_the_whole_answer_in_pieces() {
    let service = Service::local(Layer::default());
    let whole = service.post("/v1/completions", &completion(12, &json!({"logprobs": 1}))).await.json();
    let text = whole["choices"][0]["text"].as_str().unwrap();
    let words: Vec<&str> = text.split(' ').collect();
    let stop = format!("{} {} {}", &words[6][1..], words[7], &words[8][..1]);
    for stop in ["never", &stop] {
        for echo in [false, true] {
            let change = json!({"logprobs": 3, "echo": echo, "stop": [stop]});
            let whole = service.post("/v1/completions", &completion(12, &change)).await.json();
            let mut body = completion(12, &change);
            body["stream"] = true.into();
            let chunks = documents(&service.post("/v1/completions", &body).await.text());
            let whole = &whole["choices"][0];
            let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
            assert!(choices.len() > 4, "{choices:?}");
            let told: String = choices.iter().filter_map(|choice| choice["text"].as_str()).collect();
            assert_eq!((told.as_str(), told.contains(stop)), (whole["text"].as_str().unwrap(), false));
            assert_eq!(choices.last().unwrap()["finish_reason"], whole["finish_reason"]);
            for list in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
                let told: Vec<Value> = choices
                    .iter()
                    .filter_map(|choice| choice["logprobs"][list].as_array().cloned())
                    .flatten()
                    .collect();
                assert_eq!(Value::from(told), whole["logprobs"][list], "{list}");
            }
        }
    }
}

/// A text of hours is no reason to wait, nor is it written for nobody.
#[tokio::test]
async fn requests_join_what_is_written_and_who_goes_ends_it() {
    const HOURS: u32 = 190_000;
    let service = Service::local(Layer { max_tokens: Some(HOURS), ..Layer::default() });
    let mut endless = completion(HOURS, &json!({"stream": true}));
    endless["prompt"] = "t5".into();
    let first = request(Method::POST, "/v1/completions", &service.run, Some(&endless));
    let response = service.router.clone().oneshot(first).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body: Body = response.into_body();
    let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
    assert!(piece.starts_with(b"data: {"), "{piece:?}");
    let short = completion(5, &json!({}));
    let alone = service.post("/v1/completions", &short).await.json();
    let others = join_all((0..8).map(|_| service.post("/v1/completions", &short))).await;
    for other in others {
        assert_eq!(other.json()["choices"], alone["choices"]);
    }
    assert!(metric(&service, "evalign_engine_sequences").await >= 1, "the first is still being written");
    assert_eq!(metric(&service, "evalign_time_to_first_token_seconds_count").await, 10);
    drop(body);
    let noticed = async {
        while metric(&service, "evalign_engine_sequences").await > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), noticed)
        .await
        .expect("nobody noticed that the first is gone");
    // What was written for the one that left counts too.
    let text = service.get("/metrics").await.text();
    let generated = "evalign_tokens_total{model=\"small\",kind=\"generated\"} ";
    let generated = text.lines().find_map(|line| line.strip_prefix(generated)).unwrap();
    assert!(generated.parse::<u64>().unwrap() > 9 * 5, "{generated}");
    let steps = metric(&service, "evalign_engine_steps_total").await;
    assert!(steps < u64::from(HOURS), "it was written to its end: {steps} steps");
}

/// A text of hours does not keep a server from ending, nor does its reader see it broken off without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_the_end_of_the_server_breaks_off_says_so() {
    const HOURS: u32 = 190_000;
    let listening = Service::local(Layer { max_tokens: Some(HOURS), ..Layer::default() }).listening().await;
    let body = completion(HOURS, &json!({"stream": true, "prompt": "t5"}));
    let mut client = listening.post("/v1/completions", &body).await;
    let mut told = Vec::new();
    let read = async {
        while !told.windows(7).any(|bytes| bytes == b"data: {") {
            assert_ne!(client.read_buf(&mut told).await.unwrap(), 0, "no stream");
        }
        // Draining leaves it be; the second signal is at once.
        listening.shutdown.raise();
        listening.shutdown.raise();
        client.read_to_end(&mut told).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the stream does not end");
    let told = String::from_utf8(told).unwrap();
    let end = &told[told.len().saturating_sub(500)..];
    assert!(end.contains("the server is ending") && end.contains("data: [DONE]"), "{end}");
    assert!(end.ends_with("0\r\n\r\n"), "the body is whole: {end:?}");
    listening.task.await.unwrap();
}
