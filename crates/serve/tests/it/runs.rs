use evalign_core::Outcome;
use evalign_serve::Layer;
use http::{Method, Request, StatusCode};
use serde_json::json;

use crate::common::{Service, request, small_run};
use crate::stored::{rescore, training};

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

/// As `evalign show` tells them beside the results.
#[tokio::test(flavor = "multi_thread")]
async fn results_are_told_by_column_with_calibration_and_of_one_task() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let body = json!({"model": "small", "tasks": ["samples"], "limit": 6});
    let run = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let path = format!("/v1/runs/{run}/results");
    let kept = service.get(&path).await.json();
    let whole = service.get(&format!("{path}?calibration=equal-mass:2&by=subject")).await;
    assert_eq!(whole.status, StatusCode::OK, "{}", whole.text());
    let tag = whole.headers["etag"].clone();
    let measured = whole.json();
    assert_eq!(measured["results"], kept["results"]);
    assert!(!measured["calibration"].as_array().unwrap().is_empty(), "{measured}");
    assert!(!measured["breakdown"]["results"].as_array().unwrap().is_empty(), "{measured}");
    let task = service.get(&format!("{path}?task=samples_knowledge")).await.json();
    let of = task["results"].as_array().unwrap();
    assert!(!of.is_empty() && of.iter().all(|result| result["task"] == "samples_knowledge"), "{task}");
    let mut again =
        request(Method::GET, &format!("{path}?calibration=equal-mass:2&by=subject"), &service.read, None);
    again.headers_mut().insert("if-none-match", tag);
    assert_eq!(service.send(again).await.status, StatusCode::NOT_MODIFIED);
    // Results of another procedure are of another form.
    let training = training(service, &run);
    let id = training.parse().unwrap();
    let lease = service.store.lease(&id, "test", std::time::Duration::from_secs(60)).unwrap();
    service.store.save_results(&lease, &json!({"updates": 4})).unwrap();
    service.store.release(lease).unwrap();
    let refused = service.get(&format!("/v1/runs/{training}/results?task=samples")).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    for (query, status, param) in [
        ("task=mmlu", 404, "task"),
        ("by=nothing", 400, ""),
        ("cluster=subject", 400, "cluster"),
        ("calibration=none", 400, "calibration"),
        ("corpus=/etc", 400, "corpus"),
    ] {
        let refused = service.get(&format!("{path}?{query}")).await;
        assert_eq!(refused.status.as_u16(), status, "{query}: {}", refused.text());
        let named = refused.json()["error"]["param"].clone();
        assert!(param.is_empty() || named == param, "{query}: {}", refused.text());
    }
    let other = service.ask(Method::GET, &format!("{path}?swaps=true"), &service.other, None).await;
    assert_eq!(other.status, StatusCode::NOT_FOUND);
    listening.end().await;
}

#[tokio::test]
async fn rubrics_are_listed_with_what_they_say() {
    let service = Service::new();
    let list = service.get("/v1/rubrics").await.json();
    let rubrics = list["data"].as_array().unwrap();
    let found = rubrics.iter().find(|rubric| rubric["id"] == "helpfulness").unwrap();
    assert!(!found["rubric"]["criteria"].as_array().unwrap().is_empty(), "{found}");
    assert_eq!((list["has_more"].clone(), found["digest"].as_str().unwrap().len()), (json!(false), 64));
}

/// As `evalign resume --retry-errors`: also of a run that is completed, and only where something failed.
#[tokio::test(flavor = "multi_thread")]
async fn samples_without_an_answer_are_asked_again_where_that_is_wanted() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let resume = async |query: &str| service.post(&format!("/v1/runs/{run}/resume{query}"), &json!({})).await;
    assert_eq!(resume("?retry_errors=true").await.code(), "run_finished", "nothing failed");
    rescore(&service.store, &run, |record| {
        if record.key.doc == 1 {
            record.scores.iter_mut().for_each(|score| score.outcome = Outcome::Error);
        }
    });
    assert_eq!(resume("").await.code(), "run_finished", "it is not asked for");
    assert_eq!(resume("?retry=true").await.status, StatusCode::BAD_REQUEST);
    let answer = resume("?retry_errors=true").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED, "{}", answer.text());
    listening.until(&run, "completed").await;
    let samples = service.get(&format!("/v1/runs/{run}/samples?outcome=error")).await.json();
    assert_eq!(samples["data"].as_array().unwrap().len(), 0, "{samples}");
    let done = service.get(&format!("/v1/runs/{run}")).await.json();
    assert_eq!((&done["samples_done"], &done["has_results"]), (&json!(3), &json!(true)));
    listening.end().await;
}

/// Samples and results are there until it is certain that the run can go on: while it waits, and when its model is another.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_cannot_be_asked_again_loses_nothing() {
    let script = json!({"seed": 1, "fault": {"every": 3, "kind": "permanent"}});
    let listening = Service::with(&script, Layer::default()).listening().await;
    let mut body = small_run();
    body["limit"] = 30.into();
    let run = listening.service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    let before = listening.until(&run, "completed").await;
    let service = listening.restarted().await;
    let path = format!("/v1/runs/{run}");
    let resume = async || service.post(&format!("{path}/resume?retry_errors=true"), &json!({})).await;
    let answer = resume().await;
    assert_eq!((answer.status, &answer.json()["status"]), (StatusCode::ACCEPTED, &json!("queued")));
    assert_eq!(resume().await.code(), "run_active");
    assert_eq!(service.post(&format!("{path}/cancel"), &json!({})).await.status, StatusCode::ACCEPTED);
    let is_as_before = |now: &serde_json::Value| {
        for field in ["status", "samples_done", "has_results"] {
            assert_eq!(now[field], before[field], "{field}: {now}");
        }
    };
    is_as_before(&service.get(&path).await.json());
    assert_eq!(resume().await.status, StatusCode::ACCEPTED);
    let listening = service.listening().await;
    let refused = listening.until(&run, "completed").await;
    is_as_before(&refused);
    assert!(refused["error"].is_string(), "{refused}");
    listening.end().await;
}
