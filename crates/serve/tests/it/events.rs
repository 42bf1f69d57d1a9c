use std::time::Duration;

use axum::body::Body;
use evalign_serve::Layer;
use http::Request;
use serde_json::json;

use crate::common::{Listening, Service, small_run};

/// `(id, name)` of every event of a stream that ends.
async fn events(service: &Service, run: &str, after: Option<u64>) -> Vec<(u64, String)> {
    let mut request = Request::builder()
        .uri(format!("/v1/runs/{run}/events"))
        .header("authorization", format!("Bearer {}", service.read));
    if let Some(after) = after {
        request = request.header("last-event-id", after.to_string());
    }
    let answer = service.send(request.body(Body::empty()).unwrap());
    let answer = tokio::time::timeout(Duration::from_secs(30), answer).await.unwrap();
    parse(&answer.text())
}

fn parse(text: &str) -> Vec<(u64, String)> {
    let field = |block: &str, name: &str| {
        block.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned))
    };
    let blocks = text.split("\n\n").filter(|block| block.contains("data:"));
    blocks
        .map(|block| (field(block, "id").unwrap().parse().unwrap(), field(block, "event").unwrap()))
        .collect()
}

async fn started(service: Service) -> (Listening, String) {
    let listening = service.listening().await;
    let run =
        listening.service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    (listening, run)
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_21_reconnecting_anywhere_misses_and_repeats_nothing() {
    let (listening, run) = started(Service::new()).await;
    listening.until(&run, "completed").await;
    let all = events(&listening.service, &run, None).await;
    let ids: Vec<u64> = all.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, (1..=ids.len() as u64).collect::<Vec<_>>(), "{all:?}");
    let names: Vec<&str> = all.iter().map(|(_, name)| name.as_str()).collect();
    assert_eq!(names[0], "run.created");
    assert!(names.contains(&"run.started") && names.contains(&"run.completed"), "{names:?}");
    assert_eq!(names.iter().filter(|name| **name == "sample.completed").count(), 3);
    for cut in 0..=ids.len() {
        let rest = events(&listening.service, &run, Some(cut as u64)).await;
        assert_eq!(rest, all[cut..], "cut after {cut}");
    }
    listening.end().await;
}

/// A stream that is open while the run goes on tells what one that comes later tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_live_stream_and_a_replay_are_the_same() {
    let service = Service::with(&json!({"seed": 1, "delay_ms": 100}), Layer::default());
    let (listening, run) = started(service).await;
    let live = events(&listening.service, &run, None).await;
    listening.until(&run, "completed").await;
    assert_eq!(live, events(&listening.service, &run, None).await);
    listening.end().await;
}

/// Promise 18: the server ends although a client holds a stream open, and the run goes on with the next server.
#[tokio::test(flavor = "multi_thread")]
async fn promise_18_an_open_stream_does_not_hold_up_the_end() {
    let service = Service::with(&json!({"seed": 1, "delay_ms": 300}), Layer::default());
    let mut body = small_run();
    body["limit"] = 40.into();
    let listening = service.listening().await;
    let run = listening.service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "running").await;
    let router = listening.service.router.clone();
    let request = Request::builder()
        .uri(format!("/v1/runs/{run}/events"))
        .header("authorization", format!("Bearer {}", listening.service.read))
        .body(Body::empty())
        .unwrap();
    let stream = tokio::spawn(async move {
        let response = tower::ServiceExt::oneshot(router, request).await.unwrap();
        http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes().len()
    });
    tokio::time::sleep(Duration::from_millis(700)).await;
    let store = listening.service.store.clone();
    let id = run.parse().unwrap();
    let started = std::time::Instant::now();
    listening.end().await;
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(stream.await.unwrap() > 0);
    let job = store.job_of(&id).unwrap().unwrap();
    assert_eq!(job.state, evalign_store::JobState::Queued, "it waits for the next server");
    let stored = store.run(&id).unwrap();
    assert!(stored.samples_done > 0 && stored.samples_done < stored.samples_total, "{stored:?}");
}

#[tokio::test]
async fn more_streams_than_allowed_are_refused() {
    let service = Service::with(&json!({"seed": 1}), Layer { max_streams: Some(1), ..Layer::default() });
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/runs/{run}/events");
    let open = || {
        let request = crate::common::request(http::Method::GET, &path, &service.read, None);
        tower::ServiceExt::oneshot(service.router.clone(), request)
    };
    let first = open().await.unwrap();
    let second = open().await.unwrap();
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 503));
    assert!(second.headers().contains_key("retry-after"));
    drop(first);
    assert_eq!(open().await.unwrap().status(), 200, "the place is free again");
}
