//! Answers that are stored: scored again, held against other logs, taken over from files.

use std::collections::BTreeSet;
use std::time::Duration;

use evalign_bench::{Catalog, ExportFormat, Scoreboard, export_run};
use evalign_serve::Layer;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Listening, Service, request, small_run};
use crate::pages::{browse, log_in};
use crate::stored::{rescore, trained, training};

async fn completed(listening: &Listening) -> String {
    let posted = listening.service.post("/v1/runs", &small_run()).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    run
}

/// `run.json` and `samples.jsonl` of a run, as the command line writes them.
fn exported(service: &Service, run: &str) -> (Value, String) {
    let stored = service.store.run(&run.parse().unwrap()).unwrap();
    let board = Scoreboard::of_run(&stored, &Catalog::load(&[]).unwrap(), true).unwrap();
    let out = tempfile::tempdir().unwrap();
    export_run(&service.store, &stored.id, &board, ExportFormat::Jsonl, out.path()).unwrap();
    let read = |name: &str| fs_err::read_to_string(out.path().join(name)).unwrap();
    (serde_json::from_str(&read("run.json")).unwrap(), read("samples.jsonl"))
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_answers_are_scored_again() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = completed(&listening).await;
    let before = service.get(&format!("/v1/runs/{run}/results")).await.json();
    rescore(&service.store, &run, |record| record.scores.clear());
    let path = format!("/v1/runs/{run}/rescore");
    let again = service.post(&path, &json!({})).await;
    assert_eq!(again.status, StatusCode::OK, "{}", again.text());
    let told = again.json();
    assert_eq!(
        (&told["samples"], &told["changed"], &told["other_rules"]),
        (&json!(3), &json!(3), &json!(false))
    );
    assert_eq!(told["results"]["results"], before["results"]);
    assert_eq!(service.post(&path, &json!({})).await.json()["changed"], 0);
    let unknown = service.post(&path, &json!({"extractor": "nice"})).await;
    assert_eq!(unknown.status, StatusCode::BAD_REQUEST);
    assert!(unknown.text().contains("no extractor `nice`"), "{}", unknown.text());
    let theirs = service.ask(Method::POST, &path, &service.other, Some(&json!({}))).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_is_held_against_a_log_item_by_item() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = completed(&listening).await;
    let log = service.get(&format!("/v1/runs/{run}/export?format=lm-eval&task=samples_knowledge")).await;
    assert_eq!(log.status, StatusCode::OK, "{}", log.text());
    assert_eq!(log.text().lines().count(), 3);
    let other = log.text().replacen("\"doc_id\":0,", "\"doc_id\":7,", 1);
    let same = service.upload("samples_samples_knowledge.jsonl", "dataset", log.text()).await;
    let path = format!("/v1/runs/{run}/verify");
    let found = service.post(&path, &json!({"files": [same]})).await;
    assert_eq!(found.status, StatusCode::OK, "{}", found.text());
    let one = &found.json()["data"][0];
    assert_eq!(
        (&one["items"], &one["equal"], &one["divergences"]),
        (&json!(3), &json!(3), &json!([])),
        "{one}"
    );
    assert_eq!(one["file"], "samples_samples_knowledge.jsonl", "no place of this machine");
    let body = json!({"files": [service.upload("other.jsonl", "dataset", other).await], "task": "samples_knowledge"});
    let outside = service.post(&path, &body).await.json()["data"][0]["outside"].clone();
    assert_eq!(outside, 1);
    let broken = service.upload("broken.jsonl", "dataset", "not json\n").await;
    let body = json!({"files": [broken], "task": "samples_knowledge"});
    let refused = service.post(&path, &body).await;
    assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
    let theirs = service.ask(Method::POST, &path, &service.other, Some(&json!({"files": [same]}))).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    for query in ["format=lm-eval", "format=lm-eval&task=none", "format=jsonl&task=samples_knowledge"] {
        let refused = service.get(&format!("/v1/runs/{run}/export?{query}")).await;
        assert_eq!(refused.json()["error"]["param"], "task", "{query}: {}", refused.text());
    }
    listening.end().await;
}

/// Promises 25 and 26: what a file says of places and addresses is not believed.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_comes_back_from_its_files_without_what_they_say_of_this_machine() {
    let listening = Service::new().listening().await;
    let run = completed(&listening).await;
    let (mut file, samples) = exported(&listening.service, &run);
    let elsewhere = Service::new();
    for (field, value) in [
        ("base_url", json!("http://169.254.169.254/v1")),
        ("data_root", json!("/etc")),
        ("include_path", json!(["/etc"])),
        ("model_settings", json!("/etc/passwd")),
        ("prices", json!("/etc/passwd")),
        ("server", json!("vllm")),
        ("judge", json!("local//etc/judge")),
        ("jury", json!(["local//etc/juror"])),
    ] {
        file["request"][field] = value;
    }
    let model = file["request"]["model"].as_str().unwrap();
    file["request"]["model"] = json!(format!("{model}+adapter=/etc/adapters/run_1"));
    let description = elsewhere.upload("run.json", "dataset", file.to_string()).await;
    let samples = elsewhere.upload("samples.jsonl", "dataset", samples).await;
    let body = json!({"files": [description, samples]});
    let imported = elsewhere.post("/v1/runs/import", &body).await;
    assert_eq!(imported.status, StatusCode::CREATED, "{}", imported.text());
    let told = imported.json();
    assert_eq!(
        (&told["samples"], &told["existed"], &told["no_results"]),
        (&json!(3), &json!(false), &Value::Null)
    );
    let id = told["run"]["id"].as_str().unwrap();
    assert_eq!(imported.headers["location"], format!("/v1/runs/{id}").as_str());
    let results = async |service: &Service, run: &str| {
        service.get(&format!("/v1/runs/{run}/results")).await.json()["results"].clone()
    };
    assert_eq!(results(&elsewhere, id).await, results(&listening.service, &run).await);
    let kept = elsewhere.store.run(&id.parse().unwrap()).unwrap().request;
    assert!(!kept.to_string().contains("/etc") && !kept.to_string().contains("169.254"), "{kept}");
    assert!(["server", "judge", "jury"].iter().all(|field| kept.get(field).is_none()), "{kept}");
    assert_eq!(elsewhere.post("/v1/runs/import", &body).await.json()["existed"], true);

    file["request"]["procedure"] = json!("pairs");
    let steps = elsewhere.upload("run.json", "dataset", file.to_string()).await;
    for files in [json!([steps, samples]), json!([samples]), json!([description, description]), json!([])] {
        let refused = elsewhere.post("/v1/runs/import", &json!({"files": files})).await;
        assert_eq!(refused.json()["error"]["param"], "files", "{}", refused.text());
        assert!(!refused.text().contains(elsewhere.home.path().to_str().unwrap()), "{}", refused.text());
    }
    let theirs = elsewhere.ask(Method::POST, "/v1/runs/import", &elsewhere.other, Some(&body)).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    listening.end().await;
}

/// Promise 25: a log names the model, and with it whatever place it likes.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_does_not_bring_an_adapter_along() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let run = completed(&listening).await;
    let log = service.get(&format!("/v1/runs/{run}/export?format=lm-eval&task=samples_knowledge")).await;
    let samples = service.upload("samples_samples_knowledge.jsonl", "dataset", log.text()).await;
    let (job, home) = (training(service, &run), service.home.path().display());
    for place in [format!("{home}/training/{job}"), format!("{home}/training/../training/{job}")] {
        let model = format!("scripted/{home}/model.json+adapter={place}");
        let summary = json!({
            "config": {"compat": "default", "model": model, "random_seed": place.len()},
            "n-samples": {"samples_knowledge": {"effective": 9}},
        });
        let summary = service.upload("results_1.json", "dataset", summary.to_string()).await;
        let imported = service.post("/v1/runs/import", &json!({"files": [samples, summary]})).await;
        assert_eq!(imported.status, StatusCode::CREATED, "{}", imported.text());
        let told = imported.json()["run"].clone();
        assert_eq!(told["status"], "cancelled", "{told}");
        let id = told["id"].as_str().unwrap();
        let kept = service.store.run(&id.parse().unwrap()).unwrap().request;
        assert!(!kept.to_string().contains("training"), "{kept}");
        let resumed = service.post(&format!("/v1/runs/{id}/resume"), &json!({})).await;
        assert_eq!(resumed.status, StatusCode::ACCEPTED, "{}", resumed.text());
        let failed = listening.until(id, "failed").await;
        assert!(failed["error"].as_str().unwrap().contains("not served"), "{failed}");
    }
    listening.end().await;
}

/// Promises 24 to 26: whatever files say of the adapter of another tenant's job, it is not opened, nothing is told of it, and
/// no run goes on with it. Its files are pipes: whoever opened one would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn another_tenants_adapter_is_not_reached_by_what_is_imported() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let mut asked = small_run();
    asked["model"] = json!("tiny");
    let posted = service.post("/v1/runs", &asked).await;
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let (mut file, samples) = exported(service, &run);
    let log = service.get(&format!("/v1/runs/{run}/export?format=lm-eval&task=samples_knowledge")).await;
    let home = service.home.path().display().to_string();
    let job = trained(service, &run);
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let pipe = service.home.path().join("training").join(&job).join(name);
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    }
    let theirs = async |method: Method, path: &str, body: &Value| {
        service.ask(method, path, &service.other, Some(body)).await
    };
    let upload = async |name: &str, text: &str| {
        let path = format!("/v1/files?name={name}&purpose=dataset");
        let mut request = request(Method::POST, &path, &service.other, None);
        *request.body_mut() = text.to_owned().into();
        json!(service.send(request).await.json()["id"])
    };
    // Each lacks a sample, so that it could go on.
    let (first, _) = samples.split_once('\n').unwrap();
    let samples = upload("samples.jsonl", first).await;
    let logged = upload("samples_samples_knowledge.jsonl", &log.text()).await;
    for place in [format!("{home}/training/{job}"), format!("{home}/training/../training/{job}")] {
        let model = format!("local/{home}/tiny+adapter={place}");
        file["request"]["model"] = json!(model);
        file["spec"]["seed"] = json!(place.len());
        let described = upload("run.json", &file.to_string()).await;
        let summary = json!({
            "config": {"compat": "default", "model": model, "random_seed": place.len()},
            "n-samples": {"samples_knowledge": {"effective": 9}},
        });
        let summary = upload("results_1.json", &summary.to_string()).await;
        for files in [json!([described, samples]), json!([logged, summary])] {
            let imported = theirs(Method::POST, "/v1/runs/import", &json!({"files": files})).await;
            assert_eq!(imported.status, StatusCode::CREATED, "{}", imported.text());
            let told = imported.json()["run"].clone();
            assert_eq!(told["status"], "cancelled", "{told}");
            let id = told["id"].as_str().unwrap();
            let view = service.store.for_tenant(&"other".parse().unwrap());
            let kept = view.run(&id.parse().unwrap()).unwrap().request;
            assert!(!kept.to_string().contains("training"), "{kept}");
            let resumed = theirs(Method::POST, &format!("/v1/runs/{id}/resume"), &json!({})).await;
            assert_eq!(resumed.status, StatusCode::ACCEPTED, "{}", resumed.text());
            let failed = until_theirs(service, id, "failed").await;
            assert!(failed["error"].as_str().unwrap().contains("not served"), "{failed}");
            assert!(!failed.to_string().contains(&home), "{failed}");
        }
    }
    asked["model"] = json!(format!("tiny+adapter={job}"));
    assert_eq!(theirs(Method::POST, "/v1/runs", &asked).await.status, StatusCode::NOT_FOUND);
    listening.end().await;
}

/// Waits until a run of the other tenant has this status.
async fn until_theirs(service: &Service, run: &str, status: &str) -> Value {
    for _ in 0..600 {
        let path = format!("/v1/runs/{run}");
        let told = service.ask(Method::GET, &path, &service.other, None).await.json();
        if told["status"] == status {
            return told;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{run} is not {status}");
}

/// The page of pairs has the bound that the route has.
#[tokio::test(flavor = "multi_thread")]
async fn pairs_of_a_large_run_are_not_made_while_a_page_waits() {
    let layer = Layer { max_pairs_answers: Some(2), ..Layer::default() };
    let listening = Service::with(&json!({"seed": 1}), layer).listening().await;
    let run = completed(&listening).await;
    let cookie = log_in(&listening.service).await;
    let path = format!("/runs/{run}/pairs");
    let refused = browse(&listening.service, Method::GET, &path, Some(&cookie), "").await;
    assert_eq!(refused.status, StatusCode::PAYLOAD_TOO_LARGE, "{}", refused.text());
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn questions_are_asked_in_other_ways_too() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let mut body = small_run();
    body["perturb"] = json!(["case", "typos", "case"]);
    let posted = service.post("/v1/runs", &body).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let results = service.get(&format!("/v1/runs/{run}/results")).await.json();
    let rows = results["perturbations"].as_array().unwrap();
    let ways: BTreeSet<&str> = rows.iter().map(|row| row["perturbation"].as_str().unwrap()).collect();
    assert_eq!(ways, BTreeSet::from(["case", "typos"]), "each way once, by every metric: {results}");
    // The same ways in another order are the same run.
    body["perturb"] = json!(["typos", "case"]);
    assert_eq!(service.post("/v1/runs", &body).await.json()["id"], run.as_str());
    // None of its items has letters.
    body["option_order"] = json!("cyclic");
    assert_eq!(service.post("/v1/runs", &body).await.status, StatusCode::BAD_REQUEST);
    body["perturb"] = json!(["shouting"]);
    assert_eq!(service.post("/v1/runs", &body).await.json()["error"]["param"], "perturb[0]");
    listening.end().await;
}
