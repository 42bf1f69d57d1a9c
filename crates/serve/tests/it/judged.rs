//! Tasks that ask for a judge, over REST.

use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::Service;

fn judged_run(judges: &[&str]) -> Value {
    json!({"model": "small", "tasks": ["robustness_overrefusal"], "limit": 3, "judges": judges})
}

/// What the judge said is counted, kept and shown with the answers, and tokens of verdicts are the run's.
#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_asks_for_a_judge_is_judged() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = async |judges: &[&str]| {
        let posted = service.post("/v1/runs", &judged_run(judges)).await;
        assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
        let id = posted.json()["id"].as_str().unwrap().to_owned();
        listening.until(&id, "completed").await
    };
    let (plain, judged) = (run(&[]).await, run(&["small"]).await);
    assert_ne!(plain["id"], judged["id"], "another measurement");
    assert_eq!((&plain["samples_done"], &judged["samples_done"]), (&json!(3), &json!(6)));
    assert!(judged["prompt_tokens"].as_u64() > plain["prompt_tokens"].as_u64(), "{judged}");
    let id = judged["id"].as_str().unwrap();
    let results = service.get(&format!("/v1/runs/{id}/results")).await.json();
    let judging = &results["judging"]["robustness_overrefusal"];
    assert_eq!((&judging["rows"], judging["judges"].as_array().unwrap().len()), (&json!(3), 1), "{results}");
    let metrics = results["results"][0]["metrics"].as_array().unwrap();
    let names: Vec<&str> = metrics.iter().map(|metric| metric["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"complies") && names.contains(&"harmlessness"), "{names:?}");
    // The same again is that run.
    assert_eq!(service.post("/v1/runs", &judged_run(&["small"])).await.json()["id"], judged["id"]);
    listening.end().await;
}

#[tokio::test]
async fn a_judge_is_a_served_model_named_once_for_a_task_that_wants_one() {
    let service = Service::new();
    let nine: Vec<String> = (0..9).map(|i| format!("m{i}")).collect();
    for (judges, status) in [
        (vec!["nobody"], StatusCode::NOT_FOUND),
        (vec!["local//etc"], StatusCode::NOT_FOUND),
        (vec!["small+adapter=run_0"], StatusCode::NOT_FOUND),
        (vec!["small", "small"], StatusCode::BAD_REQUEST),
        (nine.iter().map(String::as_str).collect(), StatusCode::BAD_REQUEST),
    ] {
        let refused = service.post("/v1/runs", &judged_run(&judges)).await;
        assert_eq!(refused.status, status, "{judges:?}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], "judges", "{}", refused.text());
    }
    let mut body = judged_run(&["small"]);
    body["tasks"] = json!(["samples_knowledge"]);
    let refused = service.ask(Method::POST, "/v1/runs", &service.run, Some(&body)).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    assert!(refused.text().contains("no task of the run asks for a judge"), "{}", refused.text());
    assert_eq!(service.get("/v1/runs").await.json()["data"], json!([]));
}
