//! What refusals say: in the words of REST, and each its own.

use evalign_serve::Layer;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Answer, Service, small_run};

fn message(answer: &Answer) -> String {
    answer.json()["error"]["message"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_key_that_is_wrong_is_told_apart_from_none() {
    let service = Service::new();
    let wrong = service.ask(Method::GET, "/v1/runs", "evk_0_0", None).await;
    let bare = http::Request::builder().uri("/v1/runs").body(axum::body::Body::empty()).unwrap();
    let none = service.send(bare).await;
    for (answer, says) in [(wrong, "this key is not good"), (none, "send a key")] {
        assert_eq!(answer.code(), "invalid_api_key");
        assert!(message(&answer).contains(says), "{}", answer.text());
    }
}

#[tokio::test]
async fn hints_name_fields_and_routes_instead_of_flags_and_commands() {
    let service = Service::new();
    let unknown = service.post("/v1/runs", &json!({"model": "small", "tasks": ["nothing-like-it"]})).await;
    assert_eq!(unknown.code(), "unknown_task");
    assert!(message(&unknown).contains("`GET /v1/tasks` lists all"), "{}", unknown.text());
    let mut missing = small_run();
    missing["tasks"] = json!(["arc_easy"]);
    let missing = service.post("/v1/runs", &missing).await;
    assert_eq!(missing.code(), "dataset_unavailable", "{}", missing.text());
    assert_eq!(missing.json()["error"]["param"], "tasks");
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_differ_in_how_they_were_measured_are_compared_where_that_is_asked_for() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let mut runs = Vec::new();
    for chat in [false, true] {
        let mut body = small_run();
        body["chat_template"] = json!(chat);
        let run = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
        listening.until(&run, "completed").await;
        runs.push(run);
    }
    let path = format!("/v1/compare?a={}&b={}", runs[0], runs[1]);
    let refused = service.get(&path).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    assert!(message(&refused).contains("with `allow_different_protocols`"), "{}", refused.text());
    let compared = service.get(&format!("{path}&allow_different_protocols=true")).await;
    assert_eq!(compared.status, StatusCode::OK, "{}", compared.text());
    assert_eq!(compared.json()["a"]["model"]["ref"], "small", "{}", compared.text());
    let one = service.get(&format!("{path}&allow_different_protocols=true&metric=none-such")).await;
    assert_eq!(one.status, StatusCode::BAD_REQUEST, "{}", one.text());
    listening.end().await;
}

/// Nothing is asked of a comparison that cannot be voted on.
#[tokio::test]
async fn a_comparison_has_two_models_and_is_voted_on_when_it_is_done() {
    let service = Service::trainable(Layer::default());
    let file = service.upload("prompts.jsonl", "preferences", "{\"prompt\": \"t1 t2\"}\n").await;
    let arena = |models: Value| json!({"models": models, "prompts": file});
    for models in [json!(["small", "small"]), json!(["small"])] {
        let refused = service.post("/v1/judgments", &arena(models)).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
        assert_eq!(refused.json()["error"]["param"], "models");
    }
    let queued = service.post("/v1/judgments", &arena(json!(["small", "tiny"]))).await;
    assert_eq!(queued.status, StatusCode::ACCEPTED, "{}", queued.text());
    let votes = format!("/v1/judgments/{}/votes", queued.json()["id"].as_str().unwrap());
    let vote = json!({"question": "0-0", "vote": "tie"});
    for answer in [service.get(&votes).await, service.post(&votes, &vote).await] {
        assert_eq!(
            (answer.status, &*answer.code()),
            (StatusCode::CONFLICT, "run_active"),
            "{}",
            answer.text()
        );
    }
}
