//! What no answer tells: where things lie on the server.

use evalign_serve::{Layer, openapi};
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::alignment::done;
use crate::common::{Listening, Service, small_run};
use crate::pages::{browse, log_in_with};
use crate::stored::training;

/// Completed runs of many kinds with models at places. The first measured the model, the second its adapter, the third
/// is an arena of both, and the last trained the adapter.
async fn stocked(listening: &Listening) -> Vec<String> {
    let service = &listening.service;
    let pair =
        |i: usize| json!({"prompt": format!("t{i} t2"), "chosen": format!("t{}", 3 + i), "rejected": "t9"});
    let pairs: String = (0..4).map(|i| pair(i).to_string() + "\n").collect();
    let pairs = service.upload("pairs.jsonl", "preferences", pairs).await;
    let settings = json!({"max_steps": 1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
                          "lora_r": 4, "logging_steps": 1, "samples": 0});
    let training = json!({"kind": "dpo", "model": "tiny", "file": pairs, "settings": settings});
    let job = done(listening, "/v1/training/jobs", &training).await;
    let adapted = format!("tiny+adapter={job}");
    let measure = |model: &str| json!({"model": model, "tasks": ["samples_knowledge"], "limit": 3});
    let prompts = "{\"prompt\": \"t1 t2 t3\"}\n{\"prompt\": \"t4 t5\"}\n";
    let prompts = service.upload("prompts.jsonl", "preferences", prompts).await;
    let texts = json!({"max_tokens": 24, "chat_template": false});
    let arena = json!({"models": ["tiny", adapted, "small"], "judges": ["small"], "prompts": prompts, "texts": texts});
    let built = json!({"models": ["tiny", adapted], "judge": "small", "prompts": prompts, "texts": texts});
    let rows = "{\"prompt\": \"t1\", \"answer\": \"t2\"}\n";
    let rows = service.upload("rows.jsonl", "dataset", rows).await;
    let mut runs = vec![
        done(listening, "/v1/runs", &measure("tiny")).await,
        done(listening, "/v1/runs", &measure(&adapted)).await,
        done(listening, "/v1/judgments", &arena).await,
        done(listening, "/v1/judgments", &json!({"judges": ["small"], "file": rows})).await,
        done(listening, "/v1/judgments/injections", &json!({"judge": "small", "limit": 1})).await,
        done(listening, "/v1/preferences", &built).await,
        done(listening, &format!("/v1/training/jobs/{job}/merge"), &json!({})).await,
    ];
    runs.push(job);
    runs
}

/// Every documented route and every page that is read, of each of the runs.
fn read(runs: &[String]) -> Vec<String> {
    let document = serde_json::to_value(openapi()).unwrap();
    let documented = document["paths"].as_object().unwrap().iter();
    let read = documented.filter(|(_, methods)| methods.get("get").is_some()).map(|(path, _)| path.as_str());
    let mut patterns: Vec<String> = read.map(str::to_owned).collect();
    for form in ["jsonl", "parquet", "lm-eval&task=samples_knowledge"] {
        patterns.push(format!("/v1/runs/{{id}}/export?format={form}"));
    }
    for name in ["adapter_config.json", "metrics.jsonl", "report.html"] {
        patterns.push(format!("/v1/training/jobs/{{id}}/content?name={name}"));
    }
    let pages = [
        "/",
        "/?all=on",
        "/runs",
        "/diff",
        "/indexes",
        "/training",
        "/docs",
        "/runs/{id}",
        "/runs/{id}/samples",
        "/runs/{id}/samples/samples_knowledge:0:0",
        "/runs/{id}/pairs",
        "/runs/{id}/vote",
        "/training/{id}",
    ];
    patterns.extend(pages.map(str::to_owned));
    let (by_id, whole): (Vec<_>, Vec<_>) = patterns.into_iter().partition(|path| path.contains("{id}"));
    let of_runs = by_id.iter().flat_map(|path| runs.iter().map(move |run| path.replace("{id}", run)));
    let (a, b) = (&runs[0], &runs[1]);
    let pairs = ["/v1/compare", "/diff"].map(|path| format!("{path}?a={a}&b={b}"));
    of_runs.chain(whole).chain(pairs).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn promise_26_no_answer_and_no_page_tells_where_things_lie() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let runs = stocked(&listening).await;
    // The home has the model in it: both are found by its path.
    let home = service.home.path().display().to_string();
    let cookie = log_in_with(service, &service.admin).await;
    let mut answered = 0;
    for path in read(&runs) {
        for answer in [service.get(&path).await, browse(service, Method::GET, &path, Some(&cookie), "").await]
        {
            let text = answer.text().replace("&#x2f;", "/");
            let at = text.find(&home).map(|at| &text[at.saturating_sub(200)..(at + 200).min(text.len())]);
            assert_eq!(at, None, "{path}");
            answered += usize::from(answer.status == StatusCode::OK);
        }
    }
    assert!(answered > 150, "{answered}");
    names_are_those_that_clients_use(service, &runs).await;
    listening.end().await;
}

/// A token may look like a place: files that others load are downloaded byte for byte.
#[tokio::test]
async fn only_what_names_places_is_changed_in_downloads() {
    let service = Service::new();
    let run = service.post("/v1/runs", &small_run()).await.json();
    let job = training(&service, run["id"].as_str().unwrap());
    let (home, directory) = (service.home.path().display(), service.home.path().join("training").join(&job));
    let text = json!({ "place": format!("{home}/training/x"), "token": format!("{home}/") }).to_string();
    for (name, is_changed) in [
        ("tokenizer.json", false),
        ("vocab.json", false),
        ("tokenizer_config.json", false),
        ("config.json", true),
        ("adapter_config.json", true),
        ("report.html", true),
    ] {
        fs_err::write(directory.join(name), &text).unwrap();
        let answer = service.get(&format!("/v1/training/jobs/{job}/content?name={name}")).await;
        assert_eq!((answer.status, answer.text() != text), (StatusCode::OK, is_changed), "{name}");
    }
}

async fn names_are_those_that_clients_use(service: &Service, runs: &[String]) {
    let job = runs.last().unwrap();
    let adapted = format!("tiny+adapter={job}");
    let board = service.get("/v1/leaderboard").await.json();
    let blocks = board["data"].as_array().unwrap();
    let rows = blocks.iter().flat_map(|block| block["rows"].as_array().unwrap());
    let models: Vec<&Value> = rows.map(|row| &row["model"]["ref"]).collect();
    assert!(models.contains(&&json!("tiny")) && models.contains(&&json!(adapted)), "{models:?}");
    let arena = service.get(&format!("/v1/runs/{}/results", runs[2])).await.json();
    let names: Vec<&Value> = arena["standings"].as_array().unwrap().iter().map(|one| &one["name"]).collect();
    assert!(names.contains(&&json!(adapted)) && names.contains(&&json!("small")), "{arena}");
}
