use axum::body::Body;
use evalign_core::Digest;
use evalign_serve::{Layer, begin};
use evalign_store::Repetition;
use futures::future::join_all;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::common::{Answer, Service, settings_with, small_run};

async fn post(service: &Service, key: &str, body: &Value) -> Answer {
    let request = Request::builder()
        .method(Method::POST)
        .uri("/v1/runs")
        .header("authorization", format!("Bearer {}", service.run))
        .header("content-type", "application/json")
        .header("idempotency-key", key);
    service.send(request.body(Body::from(body.to_string())).unwrap()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_20_fifty_equal_requests_at_once_make_one_run() {
    let service = Service::new();
    let mut body = small_run();
    // Without the key each of these would be a run of its own.
    body["fork"] = true.into();
    let answers = join_all((0..50).map(|_| post(&service, "once", &body))).await;
    let (done, waiting): (Vec<_>, Vec<_>) = answers.iter().partition(|a| a.status == StatusCode::ACCEPTED);
    assert!(!done.is_empty());
    for answer in waiting {
        assert_eq!((answer.status, answer.code().as_str()), (StatusCode::CONFLICT, "idempotency_key_in_use"));
        assert!(answer.headers.contains_key("retry-after"));
    }
    let mut ids: Vec<String> = done.iter().map(|a| a.json()["id"].as_str().unwrap().to_owned()).collect();
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(service.store.runs(100).unwrap().len(), 1);
    let again = post(&service, "once", &body).await;
    assert_eq!((again.status, again.json()["id"].as_str()), (StatusCode::ACCEPTED, Some(ids[0].as_str())));
    assert_eq!(again.headers["location"], format!("/v1/runs/{}", ids[0]).as_str());
    assert_eq!(again.headers["idempotent-replayed"], "true");
}

#[tokio::test]
async fn promise_20_another_body_under_the_same_key_is_refused() {
    let service = Service::new();
    assert_eq!(post(&service, "k", &small_run()).await.status, StatusCode::ACCEPTED);
    let mut other = small_run();
    other["limit"] = 2.into();
    let refused = post(&service, "k", &other).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "idempotency_key_reused"));
    assert_eq!(post(&service, &"x".repeat(256), &other).await.status, StatusCode::BAD_REQUEST);
}

/// A key means something where something is made, and is looked at nowhere else.
#[tokio::test]
async fn a_malformed_key_is_refused_only_where_keys_are_taken() {
    let service = Service::new();
    let with = async |method: Method, path: &str, body: &str| {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {}", service.run))
            .header("content-type", "application/json")
            .header("idempotency-key", "not visible");
        service.send(request.body(Body::from(body.to_owned())).unwrap()).await
    };
    for path in ["/v1/runs", "/v1/models", "/runs", "/"] {
        assert_eq!(with(Method::GET, path, "").await.status, StatusCode::OK, "{path}");
    }
    for path in ["/v1/runs", "/v1/judgments", "/v1/training/jobs", "/v1/runs/import", "/v1/indexes"] {
        let refused = with(Method::POST, path, "{}").await;
        assert_eq!(refused.json()["error"]["param"], "Idempotency-Key", "{path}");
    }
}

#[tokio::test]
async fn a_request_that_failed_does_not_use_its_key_up() {
    let service = Service::new();
    let mut wrong = small_run();
    wrong["tasks"] = serde_json::json!(["no_such_task"]);
    assert_eq!(post(&service, "k", &wrong).await.status, StatusCode::BAD_REQUEST);
    assert_eq!(post(&service, "k", &small_run()).await.status, StatusCode::ACCEPTED);
}

/// Promise 20: an answer is repeated by the next server too, and what a server was answering when it died is tried again.
#[tokio::test(flavor = "multi_thread")]
async fn promise_20_a_restart_neither_repeats_nor_blocks_a_request() {
    let listening = Service::new().listening().await;
    let mut body = small_run();
    body["fork"] = true.into();
    let first = post(&listening.service, "once", &body).await.json();
    let service = listening.restarted().await;
    let again = post(&service, "once", &body).await;
    assert_eq!((again.status, &again.json()["id"]), (StatusCode::ACCEPTED, &first["id"]));
    assert_eq!(again.headers["idempotent-replayed"], "true");
    assert_eq!(service.store.runs(100).unwrap().len(), 1);

    let digest = Digest::of(body.to_string());
    let asked = Digest::of(format!("POST /v1/runs\n{digest}"));
    assert_eq!(service.store.begin_request("cut", &asked).unwrap(), Repetition::First);
    assert_eq!(post(&service, "cut", &body).await.code(), "idempotency_key_in_use");
    let settings = settings_with(service.home.path(), &json!({"seed": 1}), Layer::default());
    let _next = begin(service.home.path(), &service.store, &settings).unwrap();
    assert_eq!(post(&service, "cut", &body).await.status, StatusCode::ACCEPTED);
}
