//! Answers that are kept while nothing changes: nobody sees an old one, or another tenant's.

use std::time::Duration;

use evalign_core::{RunId, RunStatus};
use evalign_store::Store;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use crate::common::{Service, small_run};
use crate::stored::trained;

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

/// Promise 24 and what is kept: each change is in the next list, whoever made it, and each question has its own answer.
#[tokio::test]
async fn a_list_of_runs_is_the_one_of_now_and_of_its_tenant() {
    let service = Service::new();
    let list = async |query: &str, key: &str| {
        let answer = service.ask(Method::GET, &format!("/v1/runs{query}"), key, None).await.json();
        let runs = answer["data"].as_array().unwrap().iter();
        runs.map(|run| (run["id"].clone(), run["status"].clone())).collect::<Vec<_>>()
    };
    let post = async |key: &str, limit: u32| {
        let mut run = small_run();
        run["limit"] = limit.into();
        service.ask(Method::POST, "/v1/runs", key, Some(&run)).await.json()["id"].clone()
    };
    let (read, other) = (service.read.as_str(), service.other.as_str());
    let queued = |id: &Value| (id.clone(), "queued".into());
    assert!(list("", read).await.is_empty() && list("", other).await.is_empty());
    let first = post(&service.run, 1).await;
    assert_eq!(list("", read).await, [queued(&first)]);
    assert!(list("", other).await.is_empty(), "another tenant's question is another one");
    let (second, theirs) = (post(&service.run, 2).await, post(other, 1).await);
    for _ in 0..2 {
        assert_eq!(list("", read).await, [queued(&second), queued(&first)]);
        assert_eq!(list("?limit=1", read).await, [queued(&second)]);
        assert_eq!(list(&format!("?after={}", second.as_str().unwrap()), read).await, [queued(&first)]);
        assert!(list("?status=completed", read).await.is_empty());
        assert_eq!(list("", other).await, [queued(&theirs)]);
    }
    let elsewhere = Store::open(service.home.path()).unwrap();
    let id: RunId = first.as_str().unwrap().parse().unwrap();
    assert!(elsewhere.cancel_job(&id).unwrap().is_some());
    let lease = elsewhere.lease(&id, "another process", Duration::from_secs(60)).unwrap();
    elsewhere.set_status(&lease, RunStatus::Cancelled).unwrap();
    assert_eq!(list("", read).await, [queued(&second), (first.clone(), "cancelled".into())]);
    assert_eq!(list("?status=cancelled", read).await.len(), 1);
    let (before, old) = tag(&service, "/v1/runs", read).await;
    assert_eq!(tag(&service, "/v1/runs", read).await, (before, old.clone()));
    post(&service.run, 3).await;
    assert_ne!(tag(&service, "/v1/runs", read).await.1, old);
}

/// How far a run is stands in the list as soon as it is noted.
#[tokio::test]
async fn a_list_of_runs_follows_their_progress() {
    let service = Service::new();
    let row = json!({"prompt": "q", "answer": "a"}).to_string();
    let file = service.upload("rows.jsonl", "dataset", row).await;
    let judged = service.post("/v1/judgments", &json!({"judges": ["small"], "file": file})).await;
    let id: RunId = judged.json()["id"].as_str().unwrap().parse().unwrap();
    let elsewhere = Store::open(service.home.path()).unwrap();
    let lease = elsewhere.lease(&id, "another process", Duration::from_secs(60)).unwrap();
    for step in [1, 2] {
        elsewhere.note_progress(&lease, &json!({"step": step})).unwrap();
        let list = service.get("/v1/runs").await.json();
        assert_eq!(list["data"][0]["progress"]["step"], step, "{list}");
    }
}

/// Promise 24 and what is kept: a trained model is listed from its job's end to its removal, to its tenant alone.
#[tokio::test]
async fn a_trained_model_is_listed_while_it_is_there() {
    let service = Service::new();
    let list = async |key: &str| {
        let models = service.ask(Method::GET, "/v1/models", key, None).await.json();
        let ids = models["data"].as_array().unwrap().iter().map(|model| model["id"].clone());
        ids.collect::<Vec<_>>()
    };
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(list(&service.read).await, ["small"]);
    let job = trained(&service, &run);
    let model = format!("small+adapter={job}");
    for _ in 0..2 {
        assert_eq!(list(&service.read).await, ["small", &model]);
        assert_eq!(list(&service.other).await, ["small"]);
    }
    let one = format!("/v1/models/{model}");
    assert_eq!(service.get(&one).await.json()["id"], model.as_str());
    let removed = format!("/v1/training/jobs/{job}");
    assert_eq!(
        service.ask(Method::DELETE, &removed, &service.run, None).await.status,
        StatusCode::NO_CONTENT
    );
    assert_eq!(list(&service.read).await, ["small"]);
    assert_eq!(service.get(&one).await.status, StatusCode::NOT_FOUND);
}
