//! From prompts to a trained model that is measured, all of it over REST.

use evalign_serve::Layer;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Listening, Service, request};

fn prompts(count: usize) -> String {
    let prompt = |i| json!({"prompt": format!("What is the {i}th thing that comes to mind about gardens?")});
    (0..count).map(|i| prompt(i).to_string() + "\n").collect()
}

/// Posts what becomes a run and waits until it is completed.
pub(crate) async fn done(listening: &Listening, path: &str, body: &Value) -> String {
    let posted = listening.service.post(path, body).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{path}: {}", posted.text());
    let id = posted.json()["id"].as_str().unwrap().to_owned();
    listening.until(&id, "completed").await;
    id
}

/// Answers of the model of made-up weights, judged by the scripted one, as pairs of plain text.
async fn built(listening: &Listening) -> String {
    let service = &listening.service;
    // In the words that it knows.
    let prompt =
        |i: usize| json!({"prompt": format!("t{} t{} t{} t{}", 2 + i, 20 + 7 * i, 90 - 3 * i, 40 + i)});
    let rows: String = (0..8).map(|i| prompt(i).to_string() + "\n").collect();
    let file = service.upload("prompts.jsonl", "preferences", rows).await;
    let body = json!({"models": ["tiny"], "judge": "small", "prompts": file, "samples": 3,
                      "texts": {"chat_template": false, "max_tokens": 500}});
    done(listening, "/v1/preferences", &body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pairs_built_over_rest_train_an_adapter_that_is_then_measured() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let pairs = built(&listening).await;
    let body = json!({"style": "standard", "held_out": 0.2, "decontaminate": false});
    let written = service.post(&format!("/v1/preferences/{pairs}/files"), &body).await;
    assert_eq!(written.status, StatusCode::CREATED, "{}", written.text());
    let train = &written.json()["files"][0];
    assert!(train["rows"].as_u64().unwrap() >= 2, "{train}");
    let file = train["file"]["id"].as_str().unwrap();
    let content = service.get(&format!("/v1/files/{file}/content")).await.text();
    assert_eq!(content.lines().count() as u64, train["rows"].as_u64().unwrap());
    assert_eq!(service.post("/v1/preferences/check", &json!({"file": file})).await.json()["errors"], 0);

    let settings = json!({"max_steps": 3, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
                          "learning_rate": 0.05, "lora_r": 4, "logging_steps": 1, "samples": 0, "save_steps": 1});
    let training = json!({"kind": "dpo", "model": "tiny", "file": file, "settings": settings});
    let job = done(&listening, "/v1/training/jobs", &training).await;
    let told = service.get(&format!("/v1/training/jobs/{job}")).await.json();
    assert_eq!((&told["progress"]["update"], &told["progress"]["updates"]), (&json!(3), &json!(3)), "{told}");
    assert_eq!(told["trained_model"], format!("tiny+adapter={job}"));
    let lines = service.get(&format!("/v1/training/jobs/{job}/metrics")).await.json();
    assert!(lines["data"].as_array().unwrap().iter().any(|line| line["loss"].is_number()), "{lines}");
    let events = service.get(&format!("/v1/runs/{job}/events")).await.text();
    assert!(events.contains("event: run.progress") && events.contains("rewards/margins"), "{events}");
    let weights = format!("/v1/training/jobs/{job}/content?name=adapter_model.safetensors");
    assert!(service.get(&weights).await.body.len() > 1000);
    let left = fs_err::read_dir(service.home.path().join("training").join(&job)).unwrap();
    let left: Vec<String> = left.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!left.iter().any(|name| name.starts_with("checkpoint-")), "{left:?}");

    let run = |model: &str| json!({"model": model, "tasks": ["samples_knowledge"], "limit": 3});
    let (base, tuned) = (
        done(&listening, "/v1/runs", &run("tiny")).await,
        done(&listening, "/v1/runs", &run(&format!("tiny+adapter={job}"))).await,
    );
    assert_eq!(
        service.get(&format!("/v1/runs/{tuned}")).await.json()["model"],
        format!("tiny+adapter={job}")
    );
    let outputs = async |run: &str| {
        let samples = service.get(&format!("/v1/runs/{run}/samples")).await.json();
        samples["data"].as_array().unwrap().iter().map(|sample| sample["output"].clone()).collect::<Vec<_>>()
    };
    assert_ne!(outputs(&base).await, outputs(&tuned).await, "the adapter changes what the model says");
    talks_with_its_adapter(service, &job).await;
    is_merged(&listening, &job).await;
    // Nobody else's, and not another model's.
    let theirs = run(&format!("tiny+adapter={job}"));
    let theirs = service.ask(Method::POST, "/v1/runs", &service.other, Some(&theirs)).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    for (method, path, body) in [
        (Method::GET, format!("/v1/training/jobs/{job}"), None),
        (Method::GET, format!("/v1/training/jobs/{job}/metrics"), None),
        (Method::GET, weights, None),
        (Method::POST, format!("/v1/training/jobs/{job}/merge"), Some(json!({}))),
        (Method::POST, format!("/v1/preferences/{pairs}/files"), Some(json!({}))),
        (Method::GET, format!("/v1/judgments/{pairs}/votes"), None),
        (
            Method::POST,
            format!("/v1/judgments/{pairs}/votes"),
            Some(json!({"question": "0-0", "vote": "tie"})),
        ),
    ] {
        let answer = service.ask(method, &path, &service.other, body.as_ref()).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text());
    }
    let listed = service.ask(Method::GET, "/v1/training/jobs", &service.other, None).await.json();
    assert_eq!(listed["data"], json!([]));
    let wrong = service.post("/v1/runs", &run(&format!("small+adapter={job}"))).await;
    assert_eq!(
        (wrong.status, wrong.json()["error"]["param"].as_str()),
        (StatusCode::BAD_REQUEST, Some("model"))
    );
    listening.end().await;
}

/// Base and adapter become one model, whose files are the tenant's.
async fn is_merged(listening: &Listening, job: &str) {
    let service = &listening.service;
    let merge = format!("/v1/training/jobs/{job}/merge");
    let merged = done(listening, &merge, &json!({})).await;
    let merged = service.get(&format!("/v1/runs/{merged}/results")).await.json();
    let names: Vec<&str> =
        merged["files"].as_array().unwrap().iter().map(|file| file["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"model.safetensors") && names.contains(&"config.json"), "{merged}");
    let weights_of =
        merged["files"][names.iter().position(|name| *name == "model.safetensors").unwrap()]["id"].clone();
    let content = service.get(&format!("/v1/files/{}/content", weights_of.as_str().unwrap())).await;
    assert_eq!(content.status, StatusCode::OK);
    let refused = service.post(&merge, &json!({"form": "gguf", "type": "q9"})).await;
    assert_eq!(refused.json()["error"]["param"], "type", "{}", refused.text());
}

/// `NAME+adapter=JOB` writes, other than the model does, and is listed; for its tenant alone.
async fn talks_with_its_adapter(service: &Service, job: &str) {
    let name = format!("tiny+adapter={job}");
    let body = |model: &str| json!({"model": model, "prompt": "t1 t2 t3", "max_tokens": 0, "echo": true, "logprobs": 1});
    let scored = async |model: &str| {
        let answer = service.post("/v1/completions", &body(model)).await;
        assert_eq!(answer.status, StatusCode::OK, "{model}: {}", answer.text());
        assert_eq!(answer.json()["model"], model);
        answer.json()["choices"][0]["logprobs"]["token_logprobs"].clone()
    };
    let (plain, adapted) = (scored("tiny").await, scored(&name).await);
    assert_ne!(plain, adapted);
    assert_eq!(adapted, scored(&name).await);
    let written = json!({"model": name, "prompt": "t1 t2 t3", "max_tokens": 8});
    let written = service.post("/v1/completions", &written).await;
    assert_eq!(written.status, StatusCode::OK, "{}", written.text());
    let listed = async |key: &str| {
        let models = service.ask(Method::GET, "/v1/models", key, None).await.json();
        models["data"].as_array().unwrap().iter().any(|model| model["id"] == name.as_str())
    };
    assert!(listed(&service.run).await && !listed(&service.other).await);
    let one = format!("/v1/models/{name}");
    assert_eq!(service.get(&one).await.json()["id"], name.as_str());
    assert_eq!(service.ask(Method::GET, &one, &service.other, None).await.code(), "model_not_found");
    let chat = json!({"model": name, "messages": [{"role": "user", "content": "t1"}]});
    for (path, body) in [("/v1/completions", body(&name)), ("/v1/chat/completions", chat)] {
        let theirs = service.ask(Method::POST, path, &service.other, Some(&body)).await;
        assert_eq!(theirs.status, StatusCode::NOT_FOUND, "{path}: {}", theirs.text());
    }
    // Metrics know models, not what clients make of them.
    let metrics = service.get("/metrics").await.text();
    assert!(metrics.contains("model=\"tiny\"") && !metrics.contains(job), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reward_model_is_scored_on_pairs_and_writes_no_texts() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let row = |i: u32, category: &str| {
        let (chosen, rejected) = (format!(" t{} t7", 3 + i), format!(" t{} t9", 3 + i));
        json!({"prompt": "t1 t2", "chosen": chosen, "rejected": rejected, "category": category})
    };
    let rows: String = (0..4).map(|i| row(i, if i < 2 { "a" } else { "b" }).to_string() + "\n").collect();
    let file = service.upload("pairs.jsonl", "preferences", rows).await;
    let settings = json!({"max_steps": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
                          "lora_r": 2, "samples": 0});
    let body = json!({"kind": "reward", "model": "tiny", "file": file, "settings": settings});
    let job = done(&listening, "/v1/training/jobs", &body).await;
    let name = format!("tiny+adapter={job}");
    let body = json!({"model": name, "file": file});
    let scored = done(&listening, "/v1/training/scores", &body).await;
    let results = service.get(&format!("/v1/runs/{scored}/results")).await.json();
    let of = |place: usize| {
        (results["results"][place]["category"].clone(), results["results"][place]["pairs"].clone())
    };
    assert_eq!(of(0), (Value::Null, json!(4)), "{results}");
    assert_eq!((of(1), of(2)), ((json!("a"), json!(2)), (json!("b"), json!(2))), "{results}");
    let talk = json!({"model": name, "prompt": "t1", "max_tokens": 4});
    let refused = service.post("/v1/completions", &talk).await;
    assert_eq!(refused.json()["error"]["param"], "model", "{}", refused.text());
    let theirs = service.ask(Method::POST, "/v1/training/scores", &service.other, Some(&body)).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    listening.end().await;
}

/// Waits until a training is beyond this update.
async fn beyond(listening: &Listening, job: &str, update: u64) {
    let mut told = Value::Null;
    for _ in 0..1500 {
        told = listening.service.get(&format!("/v1/training/jobs/{job}")).await.json();
        if told["status"] == "failed" || told["progress"]["update"].as_u64().unwrap_or(0) > update {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert!(told["progress"]["update"].as_u64().unwrap_or(0) > update, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_training_that_is_cancelled_goes_on_where_it_was() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let row = json!({"prompt": "t1 t2 t3", "completion": " t4 t5 t6"}).to_string() + "\n";
    let file = service.upload("rows.jsonl", "dataset", row.repeat(4)).await;
    // More than any machine does while the test looks away.
    let settings = json!({"max_steps": 1_000_000, "save_steps": 500, "save_total_limit": 1, "samples": 0,
                          "per_device_train_batch_size": 1, "gradient_accumulation_steps": 1, "lora_r": 2});
    let body = json!({"kind": "sft", "model": "tiny", "file": file, "settings": settings});
    let posted = service.post("/v1/training/jobs", &body).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let job = posted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(posted.headers["location"], format!("/v1/training/jobs/{job}").as_str());
    beyond(&listening, &job, 0).await;
    let cancel = format!("/v1/runs/{job}/cancel");
    assert_eq!(service.post(&cancel, &json!({})).await.status, StatusCode::ACCEPTED);
    listening.until(&job, "cancelled").await;
    let told = service.get(&format!("/v1/training/jobs/{job}")).await.json();
    let stopped_at = told["progress"]["update"].as_u64().unwrap_or(0);
    assert!((1..1_000_000).contains(&stopped_at), "{stopped_at}");
    // An adapter that is not trained to its end is none.
    let run = json!({"model": format!("tiny+adapter={job}"), "tasks": ["samples_knowledge"]});
    assert_eq!(service.post("/v1/runs", &run).await.status, StatusCode::BAD_REQUEST);
    let resumed = service.post(&format!("/v1/runs/{job}/resume"), &json!({})).await;
    assert_eq!(resumed.status, StatusCode::ACCEPTED, "{}", resumed.text());
    beyond(&listening, &job, stopped_at).await;
    assert_eq!(service.post(&cancel, &json!({})).await.status, StatusCode::ACCEPTED);
    listening.until(&job, "cancelled").await;
    let events = service.get(&format!("/v1/runs/{job}/events")).await.text();
    let updates: Vec<u64> = events
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line.strip_prefix("data: ")?).ok())
        .filter_map(|event| event["data"]["update"].as_u64())
        .collect();
    assert!(updates.is_sorted() && updates.len() >= 2, "it began anew: {updates:?}");
    listening.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_judged_criticised_and_voted_on_is_a_run_with_a_report() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let rows = "{\"prompt\": \"Name a colour.\", \"answer\": \"Red.\"}\n".repeat(2);
    let file = service.upload("rows.jsonl", "dataset", rows).await;
    let judged = done(&listening, "/v1/judgments", &json!({"judges": ["small"], "file": file})).await;
    let results = service.get(&format!("/v1/runs/{judged}/results")).await.json();
    assert_eq!(results["rows"], 2, "{results}");
    assert_eq!(service.get(&format!("/v1/runs/{judged}")).await.json()["procedure"], "judge");

    let attacked = done(&listening, "/v1/judgments/injections", &json!({"judge": "small", "limit": 2})).await;
    let results = service.get(&format!("/v1/runs/{attacked}/results")).await.json();
    assert_eq!((&results["all"]["verdicts"], &results["judge"]), (&json!(4), &json!("small")), "{results}");
    let attacked = service.get(&format!("/v1/runs/{attacked}")).await.json();
    assert_eq!((&attacked["procedure"], &attacked["samples_done"]), (&json!("injections"), &json!(8)));

    let export = service.get(&format!("/v1/runs/{judged}/export?format=jsonl")).await;
    assert_eq!(export.text().lines().count(), 2, "{}", export.text());

    let file = service.upload("prompts.jsonl", "preferences", prompts(2)).await;
    let body = json!({"model": "small", "prompts": file, "rounds": 1, "texts": {"max_tokens": 24}});
    let critique = done(&listening, "/v1/critiques", &body).await;
    assert_eq!(service.get(&format!("/v1/runs/{critique}/results")).await.json()["prompts"], 2);
    let written = service.post(&format!("/v1/preferences/{critique}/files"), &json!({})).await;
    assert_eq!(written.status, StatusCode::CREATED, "{}", written.text());

    let body = json!({"models": ["small", "tiny"], "prompts": file, "texts": {"max_tokens": 24}});
    let arena = done(&listening, "/v1/judgments", &body).await;
    let votes = format!("/v1/judgments/{arena}/votes");
    let ballot = service.get(&votes).await.json();
    assert!(ballot["total"].as_u64().unwrap() > 0, "{ballot}");
    let question = ballot["open"][0]["id"].as_str().unwrap();
    assert!(!ballot.to_string().contains("scripted/"), "blind: {ballot}");
    let vote = json!({"question": question, "vote": "first"});
    let cast = service.ask(Method::POST, &votes, &service.admin, Some(&vote)).await;
    assert_eq!(cast.status, StatusCode::OK, "{}", cast.text());
    assert_eq!(cast.json()["open"].as_u64().unwrap() + 1, ballot["total"].as_u64().unwrap());
    let again = service.ask(Method::POST, &votes, &service.admin, Some(&vote)).await;
    assert_eq!(again.json()["error"]["param"], "question");
    listening.end().await;
}

/// Texts to be learnt, in the words that the model of made-up weights knows.
async fn whole_training(service: &Service) -> Value {
    let row = |i: usize| json!({"prompt": format!("t{} t{}", 2 + i, 30 + i), "completion": format!(" t{}", 50 + i)});
    let rows: String = (0..6).map(|i| row(i).to_string() + "\n").collect();
    let file = service.upload("texts.jsonl", "dataset", rows).await;
    let settings = json!({"use_peft": false, "max_steps": 2, "per_device_train_batch_size": 2, "samples": 0,
                          "gradient_accumulation_steps": 1, "learning_rate": 0.05, "save_steps": 1});
    json!({"kind": "sft", "model": "tiny", "file": file, "settings": settings})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_all_of_whose_weights_were_trained_is_named_by_its_job() {
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let training = whole_training(service).await;
    let job = done(&listening, "/v1/training/jobs", &training).await;
    let told = service.get(&format!("/v1/training/jobs/{job}")).await.json();
    assert_eq!(told["trained_model"], job.as_str(), "{told}");
    let weights = format!("/v1/training/jobs/{job}/content?name=model.safetensors");
    assert!(service.get(&weights).await.body.len() > 1000);
    let body = json!({"model": job, "tasks": ["samples_knowledge"], "limit": 3});
    let run = done(&listening, "/v1/runs", &body).await;
    assert_eq!(service.get(&format!("/v1/runs/{run}")).await.json()["model"], job.as_str());
    let asked = json!({"model": job, "prompt": "t1 t2", "max_tokens": 3});
    assert_eq!(service.post("/v1/completions", &asked).await.status, StatusCode::OK);
    assert!(service.get("/v1/models").await.text().contains(&job));
    // Nobody else's; and it is no adapter, nor is there one to be merged.
    for (path, theirs) in [("/v1/runs", &body), ("/v1/completions", &asked)] {
        let answer = service.ask(Method::POST, path, &service.other, Some(theirs)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text());
    }
    let with = |field: &str, value: Value| {
        let mut body = training.clone();
        body[field] = value;
        body
    };
    let adapted = json!({"model": format!("tiny+adapter={job}"), "tasks": ["samples_knowledge"]});
    for (path, body, param) in [
        ("/v1/runs".to_owned(), adapted, "model"),
        (format!("/v1/training/jobs/{job}/merge"), json!({}), "model"),
        ("/v1/training/jobs".to_owned(), with("model", json!(job)), "model"),
        (
            "/v1/training/jobs".to_owned(),
            with("settings", json!({"use_peft": false, "lora_r": 4})),
            "settings.use_peft",
        ),
    ] {
        let refused = service.post(&path, &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{path}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text());
    }
    let removed = service.ask(Method::DELETE, &format!("/v1/training/jobs/{job}"), &service.run, None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    assert_eq!(service.post("/v1/completions", &asked).await.status, StatusCode::NOT_FOUND);
    listening.end().await;
}

/// Whole models and their checkpoints are large: a job for which the tenant has no room is not begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_training_has_room_or_is_not_begun() {
    let layer = Layer { max_files_mib: Some(2), ..Layer::default() };
    let listening = Service::trainable(layer).listening().await;
    let service = &listening.service;
    let training = whole_training(service).await;
    service.store.keep_bytes("run_0", (2 << 20) - 20_000).unwrap();
    let posted = service.post("/v1/training/jobs", &training).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let failed = listening.until(posted.json()["id"].as_str().unwrap(), "failed").await;
    assert!(failed["error"].as_str().unwrap().contains("all your files together"), "{failed}");
    listening.end().await;
}

/// What cannot be done is said at once, by the field, and names no place of the server.
#[tokio::test]
async fn what_is_wrong_with_a_request_is_said_by_its_field() {
    let service = Service::trainable(Layer::default());
    let good = service.upload("prompts.jsonl", "preferences", prompts(2)).await;
    let broken = service.upload("broken.jsonl", "preferences", "{\"prompt\": \"a\"}\nnot json\n").await;
    let train = |change: Value| {
        let mut body = json!({"kind": "dpo", "model": "tiny", "file": good});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        ("/v1/training/jobs", body)
    };
    let pairs = |change: Value| {
        let mut body = json!({"models": ["small"], "judge": "small", "prompts": good});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        ("/v1/preferences", body)
    };
    let cases = [
        (train(json!({"settings": {"out": "/tmp/x"}})), "settings.out"),
        (train(json!({"settings": {"save_total_limit": 3}})), "settings.save_total_limit"),
        (train(json!({"settings": {"learning_rat": 1}})), "settings.learning_rat"),
        (train(json!({"settings": {"learning_rate": -1.0}})), "settings.learning_rate"),
        (train(json!({"model": "small"})), "model"),
        (train(json!({"model": "tiny+adapter=run_0"})), "model"),
        (train(json!({"file": "file_0"})), "file"),
        (train(json!({"file": "../../etc/passwd"})), "file"),
        (pairs(json!({"rubric": "../../etc/passwd"})), "rubric"),
        (pairs(json!({"constitution": "/etc/passwd"})), "constitution"),
        (pairs(json!({"prompts": "/etc/passwd"})), "prompts"),
        (pairs(json!({"judge": "local//etc"})), "model"),
        (("/v1/judgments", json!({"judges": ["small"]})), "file"),
        (("/v1/judgments", json!({"judges": ["small"], "run": "run_0"})), "run"),
        (("/v1/preferences/import", json!({"file": good, "layout": "none"})), "layout"),
    ];
    for ((path, body), param) in cases {
        let answer = service.post(path, &body).await;
        assert!(answer.status.is_client_error(), "{path} {body}: {}", answer.text());
        assert_eq!(answer.json()["error"]["param"], param, "{path} {body}: {}", answer.text());
    }
    let answer = service.post("/v1/preferences", &pairs(json!({"prompts": broken})).1).await;
    let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
    assert!(message.contains("broken.jsonl, line 2"), "{message}");
    assert!(!message.contains(service.home.path().to_str().unwrap()), "{message}");
    assert!(service.store.runs(100).unwrap().is_empty(), "nothing was stored");
    let body = json!({"file": good});
    let theirs = request(Method::POST, "/v1/preferences/check", &service.other, Some(&body));
    assert_eq!(service.send(theirs).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn faulty_rows_are_left_out_of_what_is_imported() {
    let service = Service::new();
    let row = |chosen: &str| json!({"prompt": "q", "chosen": chosen, "rejected": "b"}).to_string() + "\n";
    let file = service.upload("pairs.jsonl", "preferences", row("a") + &row("b")).await;
    let checked = service.post("/v1/preferences/check", &json!({"file": file})).await.json();
    assert_eq!((&checked["errors"], &checked["report"]["rows"]), (&json!(1), &json!(2)), "{checked}");
    let body = json!({"file": file, "style": "standard"});
    let imported = service.post("/v1/preferences/import", &body).await.json();
    assert_eq!((&imported["files"][0]["rows"], &imported["report"]["faulty"]), (&json!(1), &json!(1)));
    let id = imported["files"][0]["file"]["id"].as_str().unwrap();
    assert_eq!(service.get(&format!("/v1/files/{id}/content")).await.text().lines().count(), 1);
}
