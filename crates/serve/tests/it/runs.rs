use evalign_serve::Layer;
use http::{Method, Request, StatusCode};
use serde_json::json;

use crate::common::{Service, request, small_run};

#[tokio::test(flavor = "multi_thread")]
async fn a_posted_run_ends_on_the_leaderboard() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let posted = service.post("/v1/runs", &small_run()).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(posted.headers["location"], format!("/v1/runs/{run}").as_str());
    assert_eq!(posted.json()["model"], "small");
    let done = listening.until(&run, "completed").await;
    assert_eq!((&done["samples_done"], &done["samples_total"]), (&json!(3), &json!(3)));
    let results = service.get(&format!("/v1/runs/{run}/results")).await;
    assert_eq!(results.json()["results"][0]["metrics"][0]["n"], 3);
    let tag = results.headers["etag"].to_str().unwrap().to_owned();
    let again = Request::builder()
        .uri(format!("/v1/runs/{run}/results"))
        .header("authorization", format!("Bearer {}", service.read))
        .header("if-none-match", &tag);
    let again = service.send(again.body(axum::body::Body::empty()).unwrap()).await;
    assert_eq!((again.status, again.body.len()), (StatusCode::NOT_MODIFIED, 0));
    let board = service.get("/v1/leaderboard").await.json();
    assert_eq!(board["data"][0]["rows"][0]["run_id"], run.as_str());
    // The same request is the same run, finished as it is.
    let same = service.post("/v1/runs", &small_run()).await.json();
    assert_eq!((&same["id"], &same["status"]), (&json!(run), &json!("completed")));
    assert_eq!(service.post(&format!("/v1/runs/{run}/resume"), &json!({})).await.code(), "run_finished");
    assert_eq!(service.post(&format!("/v1/runs/{run}/cancel"), &json!({})).await.code(), "run_finished");
    let export = async |query: &str| service.get(&format!("/v1/runs/{run}/export?format={query}")).await;
    assert_eq!(export("jsonl").await.text().lines().count(), 3);
    assert!(export("parquet").await.body.starts_with(b"PAR1"));
    let document = serde_json::to_value(evalign_serve::openapi()).unwrap();
    let documented = &document["paths"]["/v1/runs/{id}/export"]["get"]["responses"]["200"]["content"];
    for query in ["jsonl", "parquet", "lm-eval&task=samples_knowledge"] {
        let kind = export(query).await.headers["content-type"].to_str().unwrap().to_owned();
        assert!(documented.get(&kind).is_some(), "promise 22: {query} is {kind}");
    }
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn samples_come_in_pages_that_fit_together() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = service.get(&format!("/v1/runs/{run}/samples?limit=2{after}")).await.json();
        seen.extend(
            page["data"].as_array().unwrap().iter().map(|sample| sample["id"].as_str().unwrap().to_owned()),
        );
        if page["has_more"] == false {
            break;
        }
        after = format!("&after={}", page["last_id"].as_str().unwrap());
    }
    assert_eq!(seen, ["samples_knowledge:0:0", "samples_knowledge:1:0", "samples_knowledge:2:0"]);
    let mut decided = 0;
    for outcome in ["correct", "wrong"] {
        let page = service.get(&format!("/v1/runs/{run}/samples?outcome={outcome}")).await.json();
        decided += page["data"].as_array().unwrap().len();
    }
    assert_eq!(decided, 3);
    let unknown = service.get(&format!("/v1/runs/{run}/samples?outcome=nice")).await;
    assert_eq!(unknown.json()["error"]["param"], "outcome");
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_run_keeps_what_it_has_and_goes_on() {
    let listening = Service::with(&json!({"seed": 1, "delay_ms": 100}), Layer::default()).listening().await;
    let service = &listening.service;
    let mut body = small_run();
    body["limit"] = 40.into();
    let run = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    while listening.until(&run, "running").await["samples_done"] == 0 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(service.post(&format!("/v1/runs/{run}/resume"), &json!({})).await.code(), "run_active");
    let cancelled = service.post(&format!("/v1/runs/{run}/cancel"), &json!({})).await;
    assert_eq!(cancelled.status, StatusCode::ACCEPTED);
    let done = listening.until(&run, "cancelled").await["samples_done"].as_u64().unwrap();
    assert!((1..40).contains(&done), "{done}");
    assert_eq!(
        service.post(&format!("/v1/runs/{run}/resume"), &json!({})).await.status,
        StatusCode::ACCEPTED
    );
    assert_eq!(listening.until(&run, "completed").await["samples_done"], 40);
    listening.end().await;
}

/// Without workers everything waits: what is queued is listed, cancelled at once, and bounded.
#[tokio::test]
async fn queued_runs_are_listed_cancelled_and_bounded() {
    let service = Service::with(&json!({"seed": 1}), Layer { max_active_runs: Some(3), ..Layer::default() });
    let mut ids = Vec::new();
    for seed in 0..3 {
        let mut body = small_run();
        body["seed"] = seed.into();
        ids.push(service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned());
    }
    let mut more = small_run();
    more["seed"] = 9.into();
    let full = service.post("/v1/runs", &more).await;
    assert_eq!((full.status, full.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "queue_full"));
    assert!(full.headers.contains_key("retry-after"));
    let page = service.get("/v1/runs?limit=2").await.json();
    // Newest first; the one that was too much left nothing.
    assert_eq!(page["has_more"], true);
    let rest = service.get(&format!("/v1/runs?after={}", page["last_id"].as_str().unwrap())).await.json();
    assert_eq!(rest["data"].as_array().unwrap().len(), 1);
    let path = format!("/v1/runs/{}/cancel", ids[0]);
    assert_eq!(service.post(&path, &json!({})).await.json()["status"], "cancelled");
    assert_eq!(service.send(request(Method::GET, "/v1/runs?status=cancelled", &service.read, None)).await.json()["data"]
        .as_array().unwrap().len(), 1);
    assert_eq!(service.post("/v1/runs", &more).await.status, StatusCode::ACCEPTED);
}

/// Promise 23: a model whose call fails is a sample with an error; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn promise_23_a_failed_call_is_a_failed_sample() {
    let script = json!({"seed": 1, "fault": {"every": 3, "kind": "permanent"}});
    let listening = Service::with(&script, Layer::default()).listening().await;
    let mut body = small_run();
    body["limit"] = 30.into();
    let run = listening.service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let failed =
        listening.service.get(&format!("/v1/runs/{run}/samples?outcome=error&limit=100")).await.json();
    let failed = failed["data"].as_array().unwrap().len();
    assert!((1..30).contains(&failed), "{failed}");
    listening.end().await;
}
