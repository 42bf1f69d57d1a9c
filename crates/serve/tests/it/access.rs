//! Who may what.

use axum::body::Body;
use evalign_core::Tenant;
use evalign_serve::{mint_key, openapi};
use evalign_store::KeyScope;
use http::{Method, Request, StatusCode};
use serde_json::Value;

use crate::common::{Service, request, small_run};

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
    let pages = ["/", "/runs", "/docs", "/openapi.json", "/nothing", "/v1", "/healthz/"];
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

/// BOLA: what belongs to another tenant is not there.
#[tokio::test]
async fn promise_24_another_tenants_ids_are_not_there() {
    let service = Service::new();
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    let upload = Request::builder()
        .method(Method::POST)
        .uri("/v1/files?name=a.jsonl&purpose=dataset")
        .header("authorization", format!("Bearer {}", service.run));
    let file =
        service.send(upload.body(Body::from("{}")).unwrap()).await.json()["id"].as_str().unwrap().to_owned();
    let mut checked = 0;
    for (id, own) in [(run.as_str(), "/v1/runs/"), (file.as_str(), "/v1/files/")] {
        for (method, path, pattern) in documented(id) {
            if !pattern.contains("{id}") || !path.starts_with(own) {
                continue;
            }
            let answer = service.ask(method.clone(), &path, &service.other, None).await;
            assert_eq!(answer.status, StatusCode::NOT_FOUND, "{method} {path}: {}", answer.text());
            let message = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            let nowhere = path.replace(id, &id.replace(|c: char| c.is_ascii_digit(), "f"));
            let unknown = service.ask(method, &nowhere, &service.other, None).await;
            let same = message.replace(id, "ID");
            let shown = unknown.json()["error"]["message"].as_str().unwrap().to_owned();
            assert_eq!(shown.replace(&id.replace(|c: char| c.is_ascii_digit(), "f"), "ID"), same);
            checked += 1;
        }
    }
    assert!(checked >= 10, "{checked} routes by id");
    // Neither in lists, nor by comparison, nor as a cursor.
    for list in ["/v1/runs", "/v1/files"] {
        assert_eq!(
            service.ask(Method::GET, list, &service.other, None).await.json()["data"],
            Value::Array(Vec::new())
        );
    }
    for path in [
        format!("/v1/compare?a={run}&b=run_0"),
        format!("/v1/runs?after={run}"),
        format!("/v1/files?after={file}"),
    ] {
        let answer = service.ask(Method::GET, &path, &service.other, None).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}");
    }
    // The same request is a run of the other tenant's own.
    let own = service.ask(Method::POST, "/v1/runs", &service.other, Some(&small_run())).await;
    assert_ne!(own.json()["id"], run.as_str());
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
