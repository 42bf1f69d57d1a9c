use std::time::{Duration, Instant};

use evalign_serve::{Layer, begin};
use evalign_store::{KeyScope, Store};
use http::{Method, StatusCode};
use serde_json::json;

use crate::common::{Service, key, request, settings_with};

#[tokio::test]
async fn metrics_count_by_route_and_never_by_what_clients_choose() {
    let service = Service::new();
    service.get("/v1/runs/run_0123").await;
    service.get("/v1/made_up_by_a_client").await;
    let text = service.get("/metrics").await.text();
    assert!(text.contains("route=\"/v1/runs/{id}\",status=\"404\""), "{text}");
    assert!(!text.contains("made_up") && !text.contains("run_0123"), "{text}");
    assert!(text.contains("evalign_jobs_queued 0"));
}

#[tokio::test]
async fn promise_19_too_many_requests_wait_and_are_told_how_long() {
    let layer = Layer { requests_per_minute: Some(60), ..Layer::default() };
    let service = Service::with(&json!({"seed": 1}), layer);
    let mut refused = None;
    for _ in 0..62 {
        let answer = service.send(request(Method::GET, "/v1/models", &service.read, None)).await;
        assert!(answer.headers.contains_key("x-ratelimit-remaining-requests"));
        if answer.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(answer);
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.code(), "rate_limit_exceeded");
    assert!(refused.headers.contains_key("retry-after"));
    assert_eq!(service.get("/v1/models").await.status, StatusCode::OK, "another key has its own");
    assert_eq!(service.get("/healthz").await.status, StatusCode::OK);
}

/// Guessing keys is slow: an address that is refused again and again is not listened to.
#[tokio::test]
async fn guesses_are_bounded() {
    let service = Service::new();
    let mut last = StatusCode::OK;
    for guess in 0..130 {
        let key = format!("evk_{guess:016x}_{}", "0".repeat(64));
        last = service.ask(Method::GET, "/v1/runs", &key, None).await.status;
    }
    assert_eq!(last, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(service.get("/v1/runs").await.status, StatusCode::OK, "who has a key is not held up");
}

#[test]
fn the_first_start_makes_a_key_and_never_for_an_open_address() {
    let home = tempfile::tempdir().unwrap();
    let store = Store::open(home.path()).unwrap();
    let open = Layer { address: Some("0.0.0.0:0".parse().unwrap()), ..Layer::default() };
    let open = settings_with(home.path(), &json!({}), open);
    let refused = begin(home.path(), &store, &open).unwrap_err();
    assert!(refused.to_string().contains("no key exists"), "{refused}");
    assert!(store.keys().unwrap().is_empty());
    let settings = settings_with(home.path(), &json!({}), Layer::default());
    let begun = begin(home.path(), &store, &settings).unwrap();
    let first = begun.first_key.as_ref().unwrap();
    assert_eq!(store.key(&first.record.id).unwrap().unwrap().scope, KeyScope::Admin);
    let second = begin(home.path(), &store, &settings).unwrap_err();
    assert!(second.to_string().contains("another evalign server"), "{second}");
    drop(begun);
    let again = begin(home.path(), &store, &settings).unwrap();
    assert!(again.first_key.is_none());
    drop(again);
    assert!(begin(home.path(), &store, &open).is_ok(), "now there is a key");
}

/// While an evaluation is being worked on, whether the server lives is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn promise_19_healthz_answers_while_work_is_done() {
    let service = Service::with(&json!({"seed": 1, "concurrency": 4}), Layer::default());
    let other = key(&service.store, "default", KeyScope::Run);
    let listening = service.listening().await;
    for seed in 0..5 {
        let body = json!({"model": "small", "tasks": ["samples"], "seed": seed});
        listening.service.ask(Method::POST, "/v1/runs", &other, Some(&body)).await;
    }
    let mut times: Vec<Duration> = Vec::new();
    for _ in 0..200 {
        let started = Instant::now();
        assert_eq!(listening.service.get("/healthz").await.status, StatusCode::OK);
        times.push(started.elapsed());
    }
    times.sort_unstable();
    assert!(times[197] < Duration::from_millis(50), "p99 {:?}", times[197]);
    listening.shutdown.raise();
    listening.end().await;
}
