//! What is wrong with a request is said with the field's name, wherever it was found.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Service, small_run};

fn refused(answer: &crate::common::Answer, field: &str) {
    assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{field}: {}", answer.text());
    assert_eq!(answer.json()["error"]["param"], field, "{}", answer.text());
}

#[tokio::test]
async fn a_value_that_only_a_plan_refuses_has_its_field_too() {
    let service = Service::new();
    for (field, value) in [
        ("temperature", json!(-1)),
        ("samples", json!("5000..6000")),
        ("budget_tokens", json!(1)),
        // So many answers would fill a disk by one request.
        ("repeats", json!(1001)),
        ("repeats", json!(u32::MAX)),
    ] {
        let mut body = small_run();
        body.as_object_mut().unwrap().remove("limit");
        body[field] = value;
        let answer = service.post("/v1/runs", &body).await;
        refused(&answer, field);
        let home = service.home.path().display().to_string();
        assert!(!answer.text().contains(&home), "a place of the operator's: {}", answer.text());
    }
    assert_eq!(service.get("/v1/runs").await.json()["data"], Value::Array(Vec::new()));
}

#[tokio::test]
async fn a_query_that_is_wrong_has_its_field() {
    let service = Service::new();
    for (path, field) in [
        ("/v1/runs?limit=99999999999", "limit"),
        ("/v1/runs?limt=3", "limt"),
        ("/v1/leaderboard?all=maybe", "all"),
        ("/v1/compare?a=run_0", "b"),
    ] {
        refused(&service.ask(Method::GET, path, &service.read, None).await, field);
    }
}
