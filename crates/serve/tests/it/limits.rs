//! How much a key, and a tenant, may use (OWASP API6).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::Body;
use evalign_core::Tenant;
use evalign_serve::{Layer, mint_key};
use evalign_store::{KeyLimits, KeyScope};
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::common::{Answer, Service, request, small_run};
use crate::indexes::settings_of_nobody;
use crate::retrieval::collection;
use crate::stored::training;

/// A key of tenant `default` with limits, and its id.
pub(crate) fn limited(service: &Service, limits: KeyLimits) -> (String, String) {
    let mut key = mint_key(Tenant::default(), "limited", KeyScope::Run, None).unwrap();
    key.record.limits = limits;
    service.store.create_key(&key.record).unwrap();
    (key.expose().to_owned(), key.record.id)
}

/// Days end: a test that began just before the end of one would see two.
pub(crate) async fn long_before_midnight() -> u64 {
    let left = 86_400 - unix_seconds() % 86_400;
    if left < 60 {
        tokio::time::sleep(Duration::from_secs(left + 1)).await;
    }
    this_day()
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn this_day() -> u64 {
    unix_seconds() / 86_400
}

/// Waits until it is so. Each wait has as long as it takes on a busy machine.
async fn soon(waiting_for: &str, is_so: impl AsyncFn() -> bool) {
    let until = std::time::Instant::now() + Duration::from_secs(60);
    while !is_so().await {
        assert!(std::time::Instant::now() < until, "waited in vain for {waiting_for}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub(crate) fn check_used_up(answer: &Answer) {
    let told = (answer.status, answer.code());
    assert_eq!(told, (StatusCode::TOO_MANY_REQUESTS, "insufficient_quota".to_owned()), "{}", answer.text());
    assert_eq!(answer.json()["error"]["type"], "insufficient_quota");
    let wait: u64 = answer.headers["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=86_400).contains(&wait), "{wait}");
}

fn completion() -> Value {
    json!({"model": "small", "prompt": "one two three", "max_tokens": 5})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_makes_as_many_requests_a_day_as_it_may_also_after_a_restart() {
    let today = long_before_midnight().await;
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let limits = KeyLimits { requests_per_day: Some(3), ..KeyLimits::default() };
    let ((key, id), (other, _)) = (limited(service, limits), limited(service, limits));
    for _ in 0..2 {
        assert_eq!(service.ask(Method::GET, "/v1/runs", &key, None).await.status, StatusCode::OK);
    }
    let service = listening.restarted().await;
    assert_eq!(service.ask(Method::GET, "/v1/files", &key, None).await.status, StatusCode::OK);
    for (method, path) in [(Method::GET, "/v1/runs"), (Method::POST, "/v1/files"), (Method::GET, "/")] {
        check_used_up(&service.ask(method, path, &key, None).await);
    }
    let health = service.send(Request::builder().uri("/healthz").body(Body::empty()).unwrap()).await;
    assert_eq!(health.status, StatusCode::OK);
    assert_eq!(service.ask(Method::GET, "/v1/runs", &other, None).await.status, StatusCode::OK);
    // What is refused does not count.
    let listening = service.listening().await;
    let service = listening.restarted().await;
    assert_eq!(service.store.key_use(&id, today).unwrap().requests, 3);
    check_used_up(&service.ask(Method::GET, "/v1/runs", &key, None).await);
}

/// Without tokens a key can do what takes none: look, upload, stop.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_without_tokens_asks_models_nothing_more_today() {
    let today = long_before_midnight().await;
    let service = Service::new();
    let (key, id) = limited(&service, KeyLimits { tokens_per_day: Some(1), ..KeyLimits::default() });
    let ask = async |method, path: &str, body: Option<&Value>| service.ask(method, path, &key, body).await;
    // The answer that is being written when they are used up is written to its end, and counts whole.
    let first = ask(Method::POST, "/v1/completions", Some(&completion())).await;
    assert_eq!(first.status, StatusCode::OK, "{}", first.text());
    let used = first.json()["usage"]["total_tokens"].as_u64().unwrap();
    assert!(used > 3, "{}", first.text());
    let chat = json!({"model": "small", "messages": [{"role": "user", "content": "hello"}]});
    for (path, body) in [
        ("/v1/completions", &completion()),
        ("/v1/chat/completions", &chat),
        ("/v1/embeddings", &json!({"model": "small", "input": "x"})),
        ("/v1/runs", &small_run()),
        ("/v1/indexes/docs/answer", &json!({"question": "x"})),
    ] {
        check_used_up(&ask(Method::POST, path, Some(body)).await);
    }
    assert_eq!(ask(Method::GET, "/v1/runs", None).await.status, StatusCode::OK);
    let upload = request(Method::POST, "/v1/files?name=a.jsonl&purpose=dataset", &key, Some(&json!(1)));
    assert_eq!(service.send(upload).await.status, StatusCode::CREATED);
    assert_eq!(
        service.post("/v1/completions", &completion()).await.status,
        StatusCode::OK,
        "other keys go on"
    );
    let audit = service.get("/v1/audit?limit=100").await.json();
    let noted =
        audit["data"].as_array().unwrap().iter().filter(|entry| entry["action"] == "quota tokens_per_day");
    assert_eq!(noted.map(|entry| entry["target"].as_str().unwrap()).collect::<Vec<_>>(), [id.as_str()]);
    let service = service.listening().await.restarted().await;
    assert_eq!(service.store.key_use(&id, today).unwrap().tokens, used);
}

/// A client that leaves before the end of a stream has had tokens all the same.
#[tokio::test]
async fn a_stream_that_is_left_counts() {
    long_before_midnight().await;
    let service = Service::local(Layer::default());
    let (key, _) = limited(&service, KeyLimits { tokens_per_day: Some(3), ..KeyLimits::default() });
    let body = json!({"model": "small", "prompt": "t1 t2 t3", "max_tokens": 2000, "stream": true});
    let post = || request(Method::POST, "/v1/completions", &key, Some(&body));
    let mut stream = service.router.clone().oneshot(post()).await.unwrap().into_body();
    assert!(stream.frame().await.unwrap().is_ok());
    assert!(stream.frame().await.unwrap().is_ok());
    drop(stream);
    check_used_up(&service.send(post()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_ends_when_its_key_has_no_tokens_left_and_goes_on_another_day() {
    long_before_midnight().await;
    let listening = Service::with(&json!({"seed": 1, "delay_ms": 50}), Layer::default()).listening().await;
    let service = &listening.service;
    // A sample has about 200.
    let (key, _) = limited(service, KeyLimits { tokens_per_day: Some(300), ..KeyLimits::default() });
    let mut body = small_run();
    body["limit"] = 40.into();
    let posted = service.ask(Method::POST, "/v1/runs", &key, Some(&body)).await;
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    let ended = listening.until(&run, "budget_exhausted").await;
    assert!((2..40).contains(&ended["samples_done"].as_u64().unwrap()), "{ended}");
    let resume = format!("/v1/runs/{run}/resume");
    check_used_up(&service.ask(Method::POST, &resume, &key, None).await);
    // Nothing of it is lost.
    assert_eq!(service.post(&resume, &json!({})).await.status, StatusCode::ACCEPTED);
    assert_eq!(listening.until(&run, "completed").await["samples_done"], 40);
    listening.end().await;
}

/// What judges hits again is asked many times within one run, none of which is a sample.
#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_of_search_ends_when_its_key_has_no_tokens_left() {
    let today = long_before_midnight().await;
    let listening = Service::with(&json!({"seed": 1, "delay_ms": 50}), Layer::default()).listening().await;
    let service = &listening.service;
    let (key, id) = limited(service, KeyLimits { tokens_per_day: Some(1), ..KeyLimits::default() });
    let rerank = json!({"model": "small"});
    let body = json!({"collection": collection(service).await, "search": {"mode": "bm25"}, "rerank": rerank});
    let posted = service.ask(Method::POST, "/v1/retrieval/evaluations", &key, Some(&body)).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "budget_exhausted").await;
    let again = service.ask(Method::POST, "/v1/retrieval/evaluations", &key, Some(&body)).await;
    check_used_up(&again);
    let service = listening.restarted().await;
    assert!(service.store.key_use(&id, today).unwrap().tokens > 1);
}

#[tokio::test]
async fn a_key_has_as_many_active_runs_as_it_may() {
    let service = Service::new();
    let (key, _) = limited(&service, KeyLimits { max_active_runs: Some(1), ..KeyLimits::default() });
    let mut body = small_run();
    body["fork"] = true.into();
    let post = async |key: &str| service.ask(Method::POST, "/v1/runs", key, Some(&body)).await;
    let first = post(&key).await;
    assert_eq!(first.status, StatusCode::ACCEPTED);
    let second = post(&key).await;
    assert_eq!((second.status, second.code().as_str()), (StatusCode::TOO_MANY_REQUESTS, "queue_full"));
    assert!(
        second.headers.contains_key("retry-after") && second.text().contains("this key"),
        "{}",
        second.text()
    );
    assert_eq!(post(&service.run).await.status, StatusCode::ACCEPTED);
    let cancel = format!("/v1/runs/{}/cancel", first.json()["id"].as_str().unwrap());
    assert_eq!(service.ask(Method::POST, &cancel, &key, None).await.status, StatusCode::ACCEPTED);
    assert_eq!(post(&key).await.status, StatusCode::ACCEPTED);
}

/// What a training leaves counts among its tenant's files until the job is removed.
#[tokio::test]
async fn a_training_counts_in_the_tenants_bytes_until_it_is_removed() {
    let layer = Layer { max_files_mib: Some(1), ..Layer::default() };
    let service = Service::with(&json!({"seed": 1}), layer);
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    let job = training(&service, &run);
    let path = format!("/v1/training/jobs/{job}");
    service.store.keep_bytes(&job, 1 << 20).unwrap();
    let upload =
        || request(Method::POST, "/v1/files?name=a.jsonl&purpose=dataset", &service.run, Some(&json!(1)));
    let full = service.send(upload()).await;
    assert_eq!((full.status.as_u16(), full.code().as_str()), (413, "body_too_large"));
    let remove = async |key: &str| service.ask(Method::DELETE, &path, key, None).await;
    assert_eq!(remove(&service.read).await.status, StatusCode::FORBIDDEN);
    assert_eq!(remove(&service.other).await.status, StatusCode::NOT_FOUND);
    // One that waits or works is not removed under its worker's hands.
    service.store.enqueue(&job.parse().unwrap(), &json!({}), 10).unwrap();
    assert_eq!(remove(&service.run).await.code(), "run_active");
    service.post(&format!("/v1/runs/{job}/cancel"), &json!({})).await;
    assert_eq!(remove(&service.run).await.status, StatusCode::NO_CONTENT);
    assert!(!service.home.path().join("training").join(&job).exists());
    for gone in [path.clone(), format!("/v1/runs/{job}"), format!("{path}/content?name=metrics.jsonl")] {
        assert_eq!(service.get(&gone).await.status, StatusCode::NOT_FOUND, "{gone}");
    }
    assert_eq!(remove(&service.run).await.status, StatusCode::NOT_FOUND);
    assert_eq!(service.send(upload()).await.status, StatusCode::CREATED);
}

/// Files of pairs are read while their request waits: only so large ones, packed or not.
#[tokio::test]
async fn promise_28_large_files_of_pairs_are_not_read_while_a_request_waits() {
    let layer = Layer { max_pairs_mib: Some(1), ..Layer::default() };
    let service = Service::with(&json!({"seed": 1}), layer);
    let row = json!({"prompt": "a", "chosen": "b".repeat(1000), "rejected": "c"}).to_string() + "\n";
    let large = service.upload("large.jsonl", "preferences", row.repeat(2000)).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    std::io::Write::write_all(&mut packed, row.repeat(2000).as_bytes()).unwrap();
    let packed = service.upload("packed.jsonl.gz", "preferences", packed.finish().unwrap()).await;
    for path in ["/v1/preferences/check", "/v1/preferences/import"] {
        for file in [&large, &packed] {
            let refused = service.post(path, &json!({"file": file})).await;
            assert_eq!((refused.status.as_u16(), refused.code().as_str()), (413, "body_too_large"), "{path}");
            assert_eq!(refused.json()["error"]["param"], "file", "{path}");
        }
    }
    assert_eq!(
        service.get("/v1/files").await.json()["data"].as_array().unwrap().len(),
        2,
        "nothing was made"
    );
}

fn ids(page: &Value) -> Vec<String> {
    let data = page["data"].as_array().unwrap_or_else(|| panic!("{page}"));
    data.iter().map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

/// Every list comes in pages, and its pages are the whole of it.
#[tokio::test]
async fn lists_come_in_pages() {
    let service = Service::new();
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    for _ in 0..2 {
        assert_eq!(service.post("/v1/runs/none/cancel", &json!({})).await.status, StatusCode::NOT_FOUND);
    }
    // What is written after them is there when they are: the log's entries go through the same writer.
    for index in ["a", "b", "c"] {
        service.store.put_index(index, &json!(settings_of_nobody())).unwrap();
    }
    let job = training(&service, &run);
    for (list, expected) in [
        ("/v1/indexes".to_owned(), Some(vec!["a", "b", "c"])),
        ("/v1/training/jobs".to_owned(), Some(vec![job.as_str()])),
        ("/v1/audit".to_owned(), None),
    ] {
        // Looking is not audited: the list stays as it is.
        let whole = ids(&service.get(&format!("{list}?limit=100")).await.json());
        match expected {
            Some(expected) => assert_eq!(whole, expected, "{list}"),
            None => assert!(whole.len() >= 3, "{list}: {whole:?}"),
        }
        let (mut seen, mut after) = (Vec::new(), String::new());
        loop {
            let page = service.get(&format!("{list}?limit=1{after}")).await.json();
            let more = ids(&page);
            assert!(more.len() <= 1 && seen.len() < whole.len(), "{list}: {page}");
            seen.extend(more);
            if page["has_more"] == false {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
        assert_eq!(seen, whole, "{list}");
        let wrong = service.get(&format!("{list}?limit=0")).await;
        assert_eq!(wrong.json()["error"]["param"], "limit", "{list}");
    }
    let lines = format!("/v1/training/jobs/{job}/metrics");
    let all = service.get(&lines).await.json();
    assert_eq!((all["data"].as_array().unwrap().len(), &all["last_id"]), (41, &json!("41")));
    let rest = service.get(&format!("{lines}?after=40")).await.json();
    assert_eq!((&rest["data"][0], &rest["first_id"]), (&all["data"][40], &json!("41")));
}

/// What a training and a reward model read counts as what other runs read does: the run ends, and goes on another day.
#[tokio::test(flavor = "multi_thread")]
async fn a_training_ends_when_its_key_has_no_tokens_left_and_goes_on_when_it_has() {
    let today = long_before_midnight().await;
    let listening = Service::trainable(Layer::default()).listening().await;
    let service = &listening.service;
    let (key, id) = limited(service, KeyLimits { tokens_per_day: Some(1), ..KeyLimits::default() });
    let pair = |i: usize| json!({"prompt": "t1 t2", "chosen": format!("t{}", 3 + i), "rejected": "t9"});
    let pairs: String = (0..4).map(|i| pair(i).to_string() + "\n").collect();
    let file = service.upload("pairs.jsonl", "preferences", pairs).await;
    let train = async |settings: Value, key: &str| {
        let body = json!({"kind": "reward", "model": "tiny", "file": file, "settings": settings});
        let posted = service.ask(Method::POST, "/v1/training/jobs", key, Some(&body)).await;
        assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
        posted.json()["id"].as_str().unwrap().to_owned()
    };
    let settings = |steps: u32| {
        json!({"max_steps": steps, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
               "lora_r": 4, "samples": 0})
    };
    // Far more than is done before it hears of it.
    let job = train(settings(1_000_000), &key).await;
    listening.until(&job, "budget_exhausted").await;
    let updates = async || {
        let told = service.get(&format!("/v1/training/jobs/{job}")).await.json();
        told["progress"]["update"].as_u64().unwrap()
    };
    let before = updates().await;
    let resume = format!("/v1/runs/{job}/resume");
    check_used_up(&service.ask(Method::POST, &resume, &key, None).await);
    service.store.limit_key(&id, KeyLimits::default()).unwrap();
    // Over all days that the test may see: requests and tokens.
    let used = |id: &str| {
        let days = (today..=this_day()).map(|day| service.store.key_use(id, day).unwrap());
        days.fold((0, 0), |(requests, tokens), day| (requests + day.requests, tokens + day.tokens))
    };
    // What is counted is stored within a second or so.
    let uses_more_than = async |id: &str, tokens: u64| {
        soon("tokens to be counted", async || used(id).1 > tokens).await;
    };
    // All that it has read is stored when a later request is: both are written together.
    assert_eq!(service.ask(Method::GET, "/v1/runs", &key, None).await.status, StatusCode::OK);
    soon("its requests to be counted", async || used(&id).0 == 2).await;
    let read_before = used(&id).1;
    assert!(read_before > 1);
    // The key is read anew within a second.
    soon("the quota to be another", async || {
        let answer = service.ask(Method::POST, &resume, &key, None).await;
        let is_taken = answer.status == StatusCode::ACCEPTED;
        assert!(is_taken || answer.status == StatusCode::TOO_MANY_REQUESTS, "{}", answer.text());
        is_taken
    })
    .await;
    soon("an update", async || updates().await > before).await;
    service.post(&format!("/v1/runs/{job}/cancel"), &json!({})).await;
    listening.until(&job, "cancelled").await;
    uses_more_than(&id, read_before).await;

    let judge = train(settings(1), &service.run).await;
    listening.until(&judge, "completed").await;
    let judge = format!("tiny+adapter={judge}");
    let (key, id) = limited(service, KeyLimits::default());
    let score = json!({"model": judge, "file": file});
    let posted = service.ask(Method::POST, "/v1/training/scores", &key, Some(&score)).await.json();
    listening.until(posted["id"].as_str().unwrap(), "completed").await;
    uses_more_than(&id, 0).await;
    // As the judge of a run: what it reads is no sample's.
    let (key, id) = limited(service, KeyLimits::default());
    let body = json!({"model": "small", "tasks": ["samples_arithmetic"], "limit": 3, "judges": [judge]});
    let posted = service.ask(Method::POST, "/v1/runs", &key, Some(&body)).await.json();
    let run = listening.until(posted["id"].as_str().unwrap(), "completed").await;
    let of_samples = ["prompt_tokens", "generated_tokens"].map(|name| run[name].as_u64().unwrap());
    uses_more_than(&id, of_samples.iter().sum()).await;
    listening.end().await;
}
