use evalign_serve::Layer;
use http::StatusCode;
use serde_json::{Map, Value, json};

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

/// A place of a completion: the token that is there, and the map of the likeliest ones.
fn places(answer: &Value) -> Vec<(String, f64, Map<String, Value>)> {
    let table = &answer["choices"][0]["logprobs"];
    let list = |name: &str| table[name].as_array().unwrap().clone();
    let place = |((token, logprob), top): ((Value, Value), Value)| {
        let top = top.as_object().cloned().unwrap_or_default();
        (token.as_str().unwrap().to_owned(), logprob.as_f64().unwrap_or_default(), top)
    };
    list("tokens").into_iter().zip(list("token_logprobs")).zip(list("top_logprobs")).map(place).collect()
}

#[tokio::test]
async fn the_likeliest_tokens_stand_beside_each_token_of_answer_and_prompt() {
    let service = Service::local(Layer::default());
    let ask = async |change: Value| {
        let mut body = json!({"model": "small", "prompt": "t1 t2 t3", "max_tokens": 4, "temperature": 0});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        service.post("/v1/completions", &body).await.json()
    };
    let five = ask(json!({"logprobs": 5})).await;
    for (count, whole) in [(0, 1), (1, 1), (5, 5)] {
        let answer = ask(json!({"logprobs": count})).await;
        assert_eq!(answer["choices"][0]["text"], five["choices"][0]["text"]);
        for ((token, logprob, top), (same, equal, likeliest)) in places(&answer).iter().zip(places(&five)) {
            assert_eq!((token, *logprob, top.len()), (&same, equal, whole), "{answer}");
            assert_eq!(top[token], likeliest[token]);
            let values: Vec<f64> = likeliest.values().map(|value| value.as_f64().unwrap()).collect();
            // Greedy: the token itself is the first, and the others follow in order.
            assert!(values[0] == equal && values.is_sorted_by(|a, b| a >= b), "{values:?}");
            assert!(values.iter().map(|value| value.exp()).sum::<f64>() <= 1.0, "{values:?}");
        }
    }
    // The model's own distribution: neither temperature nor what was drawn changes it.
    let drawn = ask(json!({"logprobs": 5, "temperature": 1.5, "seed": 11, "n": 2})).await;
    let (token, logprob, top) = places(&drawn).remove(0);
    assert!(places(&five)[0].2.iter().all(|(token, logprob)| top[token] == *logprob), "{drawn}");
    assert_eq!(top[&token], logprob);
    assert!(drawn["choices"][1]["logprobs"]["top_logprobs"][0].as_object().unwrap().len() >= 5);
    // Of a prompt they are what they are of an answer.
    let echoed = json!({"prompt": format!("t1 t2 t3 {}", five["choices"][0]["text"].as_str().unwrap().trim()),
        "echo": true, "max_tokens": 0, "logprobs": 5});
    let echoed = ask(echoed).await;
    assert_eq!(echoed["choices"][0]["logprobs"]["top_logprobs"][0], Value::Null);
    assert_eq!(places(&echoed)[3..], places(&five)[..]);
    let mut decided = json!({"echo": true, "max_tokens": 1, "logprobs": 5});
    assert_eq!(places(&ask(decided.clone()).await)[3], places(&five)[0]);
    decided["temperature"] = json!(1);
    assert_eq!(places(&ask(decided).await)[..3], places(&echoed)[..3]);
}

#[tokio::test]
async fn the_likeliest_tokens_of_a_chat_have_openais_shape() {
    let service = Service::local(Layer::default());
    let template =
        json!({"chat_template": "{% for message in messages %}{{ message.content }} {% endfor %}"});
    fs_err::write(service.home.path().join("tiny/tokenizer_config.json"), template.to_string()).unwrap();
    let ask = |top: u32, stream: bool| {
        json!({"model": "small", "messages": [{"role": "user", "content": "t1 t2"}], "max_tokens": 5,
            "temperature": 0, "logprobs": true, "top_logprobs": top, "stream": stream})
    };
    let answer = service.post("/v1/chat/completions", &ask(20, false)).await.json();
    let content = answer["choices"][0]["logprobs"]["content"].clone();
    assert_eq!(content.as_array().unwrap().len(), 5, "{answer}");
    for place in content.as_array().unwrap() {
        let top = place["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 20);
        for field in ["token", "logprob", "bytes"] {
            assert_eq!(top[0][field], place[field], "greedy comes first");
        }
        assert_eq!(place["bytes"], json!(place["token"].as_str().unwrap().as_bytes()));
    }
    let none = service.post("/v1/chat/completions", &ask(0, false)).await.json();
    assert_eq!(none["choices"][0]["logprobs"]["content"][0]["top_logprobs"], json!([]));
    let streamed = service.post("/v1/chat/completions", &ask(20, true)).await.text();
    let chunks =
        streamed.lines().filter_map(|line| line.strip_prefix("data: ")).filter(|data| *data != "[DONE]");
    let told: Vec<Value> = chunks
        .map(|chunk| serde_json::from_str::<Value>(chunk).unwrap())
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(Value::from(told), content);
}
