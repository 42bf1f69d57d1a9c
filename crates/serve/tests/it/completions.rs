use evalign_serve::Layer;
use http::StatusCode;
use serde_json::{Value, json};

use crate::common::Service;

fn scripted() -> Service {
    let rules = json!([{"match": "capital of France", "text": "Paris"}]);
    Service::with(&json!({"seed": 1, "rules": rules}), Layer::default())
}

fn chat() -> Value {
    json!({"model": "small", "messages": [{"role": "user", "content": "The capital of France?"}]})
}

#[tokio::test]
async fn chat_and_text_completions_have_openais_shape() {
    let service = scripted();
    let answer = service.post("/v1/chat/completions", &chat()).await.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["choices"][0]["message"]["content"], "Paris");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let usage = &answer["usage"];
    assert_eq!(
        usage["total_tokens"].as_u64().unwrap(),
        usage["prompt_tokens"].as_u64().unwrap() + usage["completion_tokens"].as_u64().unwrap()
    );
    let body =
        json!({"model": "small", "prompt": ["capital of France", "x capital of France"], "n": 2, "seed": 1});
    let answer = service.post("/v1/completions", &body).await.json();
    let choices = answer["choices"].as_array().unwrap();
    let indices: Vec<u64> = choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect();
    assert_eq!(indices, [0, 1, 2, 3]);
    assert!(choices.iter().all(|choice| choice["text"] == "Paris"));
}

#[tokio::test]
async fn streams_are_chunks_and_done() {
    let service = scripted();
    let mut body = chat();
    body["stream"] = true.into();
    body["stream_options"] = json!({"include_usage": true});
    let answer = service.post("/v1/chat/completions", &body).await;
    assert!(answer.headers["content-type"].to_str().unwrap().starts_with("text/event-stream"));
    let text = answer.text();
    let data: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
    assert_eq!(data.last(), Some(&"[DONE]"));
    let chunks: Vec<Value> =
        data[..data.len() - 1].iter().map(|d| serde_json::from_str(d).unwrap()).collect();
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk"));
    let text: String = chunks.iter().filter_map(|c| c["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, "Paris");
    assert!(chunks.last().unwrap()["usage"]["total_tokens"].is_u64());
}

#[tokio::test]
async fn what_a_model_cannot_do_is_said() {
    let service = scripted();
    let echo = json!({"model": "small", "prompt": "a", "echo": true, "max_tokens": 0, "logprobs": 1});
    let refused = service.post("/v1/completions", &echo).await;
    assert_eq!(
        (refused.status, &refused.json()["error"]["param"]),
        (StatusCode::BAD_REQUEST, &json!("echo"))
    );
    let tokens = json!({"model": "small", "prompt": [1, 2, 3]});
    assert_eq!(service.post("/v1/completions", &tokens).await.json()["error"]["param"], "prompt");
    let unknown = service.post("/v1/embeddings", &json!({"model": "small", "input": "a"})).await;
    assert_eq!(unknown.code(), "model_not_found");
    let models = service.get("/v1/models").await.json();
    assert_eq!(models["data"][0]["id"], "small");
}
