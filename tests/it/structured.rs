//! Answers held to a JSON Schema: the real model behind the service's own endpoint.

use evalign_testkit::{Sandbox, real_model};
use serde_json::{Value, json};

use crate::serve::Server;

#[test]
fn answers_of_the_real_model_are_documents_of_the_schema() {
    let Some(model) = real_model("answers_of_the_real_model_are_documents_of_the_schema") else { return };
    let sandbox = Sandbox::new();
    let model = format!("small=local/{}", model.display());
    let server =
        Server::spawn(&mut sandbox.command(&["serve", "--address", "127.0.0.1:0", "--model", &model]), None);
    let ask = |format: Value| {
        let message = json!([{"role": "user", "content": "Name two cities and how many people live there."}]);
        let body =
            json!({"model": "small", "messages": message, "response_format": format, "max_tokens": 150});
        server.ask("POST", "/v1/chat/completions", Some(&body))
    };
    let city = json!({"type": "object", "required": ["name", "people", "capital"], "additionalProperties": false,
        "properties": {"name": {"type": "string", "maxLength": 20}, "capital": {"type": "boolean"},
            "people": {"type": "integer", "minimum": 1000, "maximum": 40_000_000}}});
    let schema = json!({"type": "object", "required": ["cities"], "additionalProperties": false,
        "properties": {"cities": {"type": "array", "minItems": 2, "maxItems": 2, "items": city}}});
    let (status, answer) =
        ask(json!({"type": "json_schema", "json_schema": {"name": "cities", "schema": schema}}));
    assert_eq!((status, &answer["choices"][0]["finish_reason"]), (200, &json!("stop")), "{answer}");
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    let document: Value = serde_json::from_str(text).unwrap();
    let cities = document["cities"].as_array().unwrap();
    assert_eq!(cities.len(), 2, "{text}");
    for city in cities {
        assert!(city["name"].as_str().unwrap().chars().count() <= 20, "{text}");
        assert!((1000..=40_000_000).contains(&city["people"].as_u64().unwrap()), "{text}");
        assert!(city["capital"].is_boolean(), "{text}");
    }
    let (status, answer) = ask(json!({"type": "json_object"}));
    let choice = &answer["choices"][0];
    assert_eq!(status, 200, "{answer}");
    assert!(choice["message"]["content"].as_str().unwrap().starts_with('{'), "{answer}");
    // What no grammar can hold an answer to is the client's fault, and said before anything is written.
    let impossible = json!({"type": "array", "uniqueItems": true, "items": {"type": "integer"}});
    let (status, answer) =
        ask(json!({"type": "json_schema", "json_schema": {"name": "x", "schema": impossible}}));
    assert_eq!((status, &answer["error"]["type"]), (400, &json!("invalid_request_error")), "{answer}");
    assert!(answer["error"]["message"].as_str().unwrap().contains("uniqueItems"), "{answer}");
}
