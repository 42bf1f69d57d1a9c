//! Answers that are kept while nothing changes: nobody sees an old one, or another tenant's.

use std::time::Duration;

use evalign_core::{RunId, RunStatus};
use evalign_store::Store;
use http::{Method, Request, StatusCode, header};

use crate::common::{Service, small_run};

async fn tag(service: &Service, path: &str, key: &str) -> (Vec<u8>, String) {
    let answer = service.ask(Method::GET, path, key, None).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    (answer.body, answer.headers[header::ETAG].to_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaderboard_is_new_as_soon_as_a_run_ends_and_the_same_until_then() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let (empty, empty_tag) = tag(service, "/v1/leaderboard", &service.read).await;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let (board, board_tag) = tag(service, "/v1/leaderboard", &service.read).await;
    assert!(board != empty && board_tag != empty_tag);
    assert!(String::from_utf8_lossy(&board).contains(&run));
    assert_eq!(tag(service, "/v1/leaderboard", &service.read).await.0, board);
    let none = tag(service, "/v1/leaderboard?task=samples_arithmetic", &service.read).await.0;
    assert!(!String::from_utf8_lossy(&none).contains(&run), "another question has another answer");
    let others = tag(service, "/v1/leaderboard", &service.other).await.0;
    assert_eq!(others, empty, "another tenant has none");
    let request = Request::builder()
        .uri("/v1/leaderboard")
        .header("authorization", format!("Bearer {}", service.read))
        .header("if-none-match", board_tag)
        .body(axum::body::Body::empty())
        .unwrap();
    let unchanged = service.send(request).await;
    assert_eq!((unchanged.status, unchanged.body.len()), (StatusCode::NOT_MODIFIED, 0));
    listening.end().await;
}

#[tokio::test]
async fn the_status_of_a_run_is_the_one_of_now_also_where_another_process_changed_it() {
    let service = Service::new();
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/runs/{run}");
    let status = async || service.get(&path).await.json()["status"].clone();
    assert_eq!(status().await, "queued");
    assert_eq!(status().await, "queued");
    let elsewhere = Store::open(service.home.path()).unwrap();
    let id: RunId = run.parse().unwrap();
    assert!(elsewhere.cancel_job(&id).unwrap().is_some());
    let lease = elsewhere.lease(&id, "another process", Duration::from_secs(60)).unwrap();
    elsewhere.set_status(&lease, RunStatus::Cancelled).unwrap();
    elsewhere.release(lease).unwrap();
    assert_eq!(status().await, "cancelled");
    let others = service.ask(Method::GET, &path, &service.other, None).await;
    assert_eq!(others.status, StatusCode::NOT_FOUND);
}
