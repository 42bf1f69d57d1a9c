//! Who may what.

use axum::body::Body;
use evalign_core::Tenant;
use evalign_serve::{Layer, mint_key, openapi};
use evalign_store::KeyScope;
use http::{Method, Request, StatusCode};
use serde_json::{Value, json};

use crate::common::{Service, request, small_run};
use crate::pages::{browse, csrf_of, log_in_with};
use crate::stored::training;

/// Every method and path of the document, ids filled in.
fn documented(id: &str) -> Vec<(Method, String, String)> {
    let document = serde_json::to_value(openapi()).unwrap();
    let mut found = Vec::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for method in methods.as_object().unwrap().keys() {
            let method: Method = method.to_uppercase().parse().unwrap();
            found.push((method, path.replace("{id}", id), path.clone()));
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

#[tokio::test]
async fn promise_24_nothing_without_a_key_but_whether_it_lives() {
    let service = Service::new();
    let open = ["/healthz", "/readyz"];
    let pages = [
        "/",
        "/runs",
        "/diff",
        "/runs/run_0/pairs",
        "/runs/run_0/vote",
        "/indexes",
        "/indexes/x/ask",
        "/training",
        "/docs",
        "/openapi.json",
        "/nothing",
        "/v1",
        "/healthz/",
    ];
    let pages = pages.into_iter().map(|path| (Method::GET, path.to_owned(), path.to_owned()));
    for (method, path, _) in documented("run_0").into_iter().chain(pages) {
        let bare = Request::builder().method(method.clone()).uri(&path).body(Body::empty()).unwrap();
        let answer = service.send(bare).await;
        if open.contains(&path.as_str()) {
            assert_eq!(answer.status, StatusCode::OK, "{method} {path}");
            continue;
        }
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{method} {path}");
        assert_eq!(answer.code(), "invalid_api_key");
        assert!(answer.headers.contains_key("www-authenticate"));
    }
}

#[tokio::test]
async fn promise_24_a_key_that_is_not_good_is_none() {
    let service = Service::new();
    let (id, secret) = service.read.rsplit_once('_').unwrap();
    let expired = mint_key(Tenant::default(), "old", KeyScope::Admin, Some(1)).unwrap();
    service.store.create_key(&expired.record).unwrap();
    let revoked = mint_key(Tenant::default(), "gone", KeyScope::Admin, None).unwrap();
    service.store.create_key(&revoked.record).unwrap();
    service.store.revoke_key(&revoked.record.id).unwrap();
    let swapped = format!("{}_{secret}", service.admin.rsplit_once('_').unwrap().0);
    for wrong in [
        "",
        "evk_",
        id,
        &format!("{id}_{}", "0".repeat(64)),
        &swapped,
        expired.expose(),
        revoked.expose(),
        &service.read.to_uppercase(),
    ] {
        let answer = service.ask(Method::GET, "/v1/runs", wrong, None).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{wrong}");
    }
    let basic = Request::builder().uri("/v1/runs").header("authorization", format!("Basic {}", service.read));
    assert_eq!(service.send(basic.body(Body::empty()).unwrap()).await.status, StatusCode::UNAUTHORIZED);
    assert_eq!(service.ask(Method::GET, "/v1/runs", &service.read, None).await.status, StatusCode::OK);
}

#[tokio::test]
async fn promise_24_a_scope_covers_no_more_than_it_says() {
    let service = Service::new();
    for (method, path, _) in documented("run_0") {
        if path.ends_with("z") {
            continue;
        }
        let by = |key: &str| service.send(request(method.clone(), &path, key, None));
        let (read, run) = (by(&service.read).await.status, by(&service.run).await.status);
        let is_admin = path == "/metrics" || path == "/v1/audit";
        assert_eq!(read == StatusCode::FORBIDDEN, is_admin || method != Method::GET, "read: {method} {path}");
        assert_eq!(run == StatusCode::FORBIDDEN, is_admin, "run: {method} {path}");
        assert_ne!(by(&service.admin).await.status, StatusCode::FORBIDDEN, "admin: {method} {path}");
    }
}

/// A thing of tenant `default` of each kind that a route names by an id.
struct Owned {
    run: String,
    file: String,
    job: String,
    pairs: String,
    arena: String,
    index: &'static str,
}

impl Owned {
    async fn of(service: &Service) -> Self {
        let made = async |path: &str, body: Value| {
            let posted = service.post(path, &body).await;
            assert_eq!(posted.status, StatusCode::ACCEPTED, "{path}: {}", posted.text());
            posted.json()["id"].as_str().unwrap().to_owned()
        };
        let prompts = (0..2).map(|i| json!({"prompt": format!("Question {i}?")}).to_string() + "\n");
        let file = service.upload("prompts.jsonl", "preferences", prompts.collect::<String>()).await;
        let run = made("/v1/runs", small_run()).await;
        service.store.put_index("manuals1", &json!({})).unwrap();
        Self {
            job: training(service, &run),
            pairs: made(
                "/v1/preferences",
                json!({"models": ["tiny"], "judge": "small", "prompts": file, "samples": 3,
                       "texts": {"chat_template": false, "max_tokens": 500}}),
            )
            .await,
            arena: made(
                "/v1/judgments",
                json!({"models": ["small", "tiny"], "prompts": file, "texts": {"max_tokens": 24}}),
            )
            .await,
            index: "manuals1",
            run,
            file,
        }
    }

    /// What a route is asked for, and how; `None` where its id is nobody's.
    fn named_by(&self, method: &Method, pattern: &str) -> Option<(&str, Option<Value>)> {
        let begins = |prefix: &str| pattern.starts_with(prefix);
        let (id, body) = match pattern {
            "/v1/models/{id}" => return None,
            "/v1/indexes/{id}/documents" => (self.index, json!({"files": [self.file]})),
            "/v1/indexes/{id}/query" => (self.index, json!({"query": "x"})),
            "/v1/indexes/{id}/answer" => (self.index, json!({"question": "x"})),
            "/v1/indexes/{id}/tests" => (self.index, json!({"model": "small", "count": 1})),
            "/v1/indexes/{id}/evaluations" => (self.index, json!({"questions": self.file})),
            "/v1/indexes/{id}" => (self.index, Value::Null),
            "/v1/judgments/{id}/votes" => (self.arena.as_str(), json!({"question": "0-0", "vote": "tie"})),
            "/v1/preferences/{id}/files" => (self.pairs.as_str(), json!({})),
            "/v1/training/jobs/{id}/merge" => (self.job.as_str(), json!({})),
            _ if begins("/v1/training/jobs/") => (self.job.as_str(), Value::Null),
            "/v1/runs/{id}/verify" => (self.run.as_str(), json!({"files": [self.file]})),
            "/v1/runs/{id}/rescore" => (self.run.as_str(), json!({})),
            _ if begins("/v1/runs/") => (self.run.as_str(), Value::Null),
            _ if begins("/v1/files/") => (self.file.as_str(), Value::Null),
            _ => panic!("{method} {pattern}: whose is its id?"),
        };
        Some((id, (*method == Method::POST && !body.is_null()).then_some(body)))
    }
}

/// BOLA: what belongs to another tenant is not there.
#[tokio::test]
async fn promise_24_another_tenants_ids_are_not_there() {
    let service = Service::trainable(Layer::default());
    let owned = Owned::of(&service).await;
    let Owned { run, file, job, .. } = &owned;
    let mut checked = 0;
    for (method, _, pattern) in documented("") {
        if !pattern.contains('{') {
            continue;
        }
        let Some((id, body)) = owned.named_by(&method, &pattern) else { continue };
        let ask = async |id: &str| {
            let mut path = pattern.replace("{id}", id);
            if pattern == "/v1/training/jobs/{id}/content" {
                path += "?name=metrics.jsonl";
            } else if (&method, &*pattern) == (&Method::DELETE, "/v1/indexes/{id}/documents") {
                path += "?name=x";
            }
            let answer = service.ask(method.clone(), &path, &service.other, body.as_ref()).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.text());
            answer.json()["error"]["message"].as_str().unwrap().replace(id, "ID")
        };
        assert_eq!(ask(id).await, ask(&id.replace(|c: char| c.is_ascii_digit(), "f")).await);
        checked += 1;
    }
    assert!(checked >= 20, "{checked} routes by id");
    // Neither in lists, nor by comparison, nor as a cursor.
    for list in ["/v1/runs", "/v1/files", "/v1/training/jobs", "/v1/indexes"] {
        assert_eq!(
            service.ask(Method::GET, list, &service.other, None).await.json()["data"],
            Value::Array(Vec::new())
        );
    }
    for path in [
        format!("/v1/compare?a={run}&b=run_0"),
        format!("/v1/runs?after={run}"),
        format!("/v1/files?after={file}"),
        format!("/v1/training/jobs?after={job}"),
    ] {
        let answer = service.ask(Method::GET, &path, &service.other, None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    // The same request is a run of the other tenant's own.
    let own = service.ask(Method::POST, "/v1/runs", &service.other, Some(&small_run())).await;
    assert_ne!(own.json()["id"], run.as_str());
}

/// As over REST, so on pages.
#[tokio::test]
async fn promise_24_another_tenants_pages_are_not_there() {
    let service = Service::trainable(Layer::default());
    let Owned { run, job, pairs, arena, index, .. } = &Owned::of(&service).await;
    let cookie = log_in_with(&service, &service.other).await;
    let csrf = csrf_of(&browse(&service, Method::GET, "/runs", Some(&cookie), "").await.text());
    let vote = format!("csrf={csrf}&question=0-0&vote=tie");
    for (id, path, form) in [
        (run, format!("/runs/{run}"), None),
        (run, format!("/runs/{run}/samples"), None),
        (run, format!("/runs/{run}/samples/samples_knowledge:0:0"), None),
        (run, format!("/runs/{run}/cancel"), Some(format!("csrf={csrf}"))),
        (pairs, format!("/runs/{pairs}/pairs"), None),
        (arena, format!("/runs/{arena}/vote"), None),
        (arena, format!("/runs/{arena}/vote"), Some(vote)),
        (run, format!("/diff?a={run}&b={pairs}"), None),
        (job, format!("/training/{job}"), None),
        (&(*index).to_owned(), format!("/indexes/{index}"), None),
        (&(*index).to_owned(), format!("/indexes/{index}/document?name=x"), None),
        (&(*index).to_owned(), format!("/indexes/{index}/ask?question=x"), None),
    ] {
        let method = if form.is_some() { Method::POST } else { Method::GET };
        let form = form.unwrap_or_default();
        let page = browse(&service, method.clone(), &path, Some(&cookie), &form).await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{method} {path}: {}", page.text());
        // Not for want of such a page.
        let told = page.text();
        assert!(told.contains("there is no ") && told.contains(id.as_str()), "{method} {path}: {told}");
    }
    let stays = service.get(&format!("/v1/runs/{run}")).await.json();
    assert_eq!(stays["status"], "queued");
}

#[tokio::test]
async fn refusals_and_changes_are_in_the_audit_log_and_no_secret_is() {
    let service = Service::new();
    service.ask(Method::GET, "/v1/runs", "evk_0123456789abcdef_nonsense", None).await;
    service.post("/v1/runs", &small_run()).await;
    // Entries are written behind the answers.
    let mut log = service.get("/v1/audit").await;
    for _ in 0..100 {
        if log.json()["data"].as_array().unwrap().len() >= 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        log = service.get("/v1/audit").await;
    }
    let entries = log.json()["data"].as_array().unwrap().clone();
    let found = |action: &str, outcome: &str| {
        entries.iter().any(|e| e["action"] == action && e["outcome"] == outcome)
    };
    assert!(found("GET /v1/runs", "401") && found("POST /v1/runs", "202"), "{entries:?}");
    for key in [&service.run, &service.admin] {
        assert!(!log.text().contains(key.rsplit_once('_').unwrap().1));
    }
    let theirs = service.ask(Method::GET, "/v1/audit", &service.other, None).await.text();
    assert!(!theirs.contains("\"202\""), "another tenant's entries: {theirs}");
}

/// Promise 29: the secret of a key is nowhere in the home: only its digest is.
#[tokio::test]
async fn promise_29_no_secret_of_a_key_is_kept() {
    let service = Service::new();
    service.post("/v1/runs", &small_run()).await;
    let secret = service.run.rsplit_once('_').unwrap().1.as_bytes().to_vec();
    let files = std::fs::read_dir(service.home.path()).unwrap().map(|entry| entry.unwrap().path());
    for file in files.filter(|path| path.is_file()) {
        let bytes = fs_err::read(&file).unwrap();
        assert!(!bytes.windows(secret.len()).any(|window| window == secret), "{}", file.display());
    }
}
