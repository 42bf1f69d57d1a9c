use axum::body::Body;
use evalign_serve::login_link;
use http::{Method, Request, StatusCode, header};
use serde_json::json;

use crate::common::{Answer, Service, small_run};

/// A browser that is logged in, by its cookie.
pub(crate) async fn log_in(service: &Service) -> String {
    log_in_with(service, &service.run).await
}

/// A browser that is logged in with this key.
pub(crate) async fn log_in_with(service: &Service, key: &str) -> String {
    let id = key.split('_').nth(1).unwrap();
    let link = login_link(&service.store, id).unwrap();
    let looked = browse(service, Method::GET, &link, None, "").await;
    assert_eq!(looked.status, StatusCode::OK, "looking does not use it up");
    let entered = browse(service, Method::POST, &link, None, "").await;
    assert_eq!(entered.status, StatusCode::SEE_OTHER, "{}", entered.text());
    let again = browse(service, Method::POST, &link, None, "").await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED, "a link is good once");
    let cookie = entered.headers[header::SET_COOKIE].to_str().unwrap().to_owned();
    for attribute in ["HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(cookie.contains(attribute), "{cookie}");
    }
    cookie.split(';').next().unwrap().to_owned()
}

pub(crate) async fn browse(
    service: &Service,
    method: Method,
    path: &str,
    cookie: Option<&str>,
    form: &str,
) -> Answer {
    let mut request = Request::builder().method(method).uri(path).header("accept", "text/html");
    if let Some(cookie) = cookie {
        request = request.header("cookie", cookie);
    }
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    service.send(request.body(Body::from(form.to_owned())).unwrap()).await
}

/// The token that a page's forms carry.
pub(crate) fn csrf_of(page: &str) -> String {
    page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_shows_itself_to_who_is_logged_in_and_to_nobody_else() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let cookie = log_in(service).await;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    for (path, shows) in [
        ("/".to_owned(), "samples_knowledge"),
        ("/".to_owned(), ">small</a>"),
        ("/runs".to_owned(), run.as_str()),
        (format!("/runs/{run}"), "completed"),
        (format!("/runs/{run}/samples"), "expected"),
        (format!("/runs/{run}/samples/samples_knowledge:1:0"), "samples_knowledge 1"),
        ("/diff".to_owned(), "choose a run"),
        (format!("/runs/{run}/samples?task=samples_knowledge&outcome="), "samples_knowledge 0"),
        ("/docs".to_owned(), "Goes on with a conversation"),
    ] {
        let page = browse(service, Method::GET, &path, Some(&cookie), "").await;
        assert_eq!(page.status, StatusCode::OK, "{path}: {}", page.text());
        assert!(page.text().contains(shows), "{path}");
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'self'") && !policy.contains("unsafe"), "{policy}");
        let nobody = browse(service, Method::GET, &path, None, "").await;
        assert_eq!(nobody.status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(nobody.text().contains("name=\"key\"") && !nobody.text().contains(shows), "{path}");
    }
    let none = format!("/runs/{run}/samples/samples_knowledge:99:0");
    for path in ["/runs/run_0", "/runs/x", &none, "/runs/x/samples/a:0:0", "/runs/run_0/vote", "/nothing"] {
        let page = browse(service, Method::GET, path, Some(&cookie), "").await;
        assert_eq!(page.status, StatusCode::NOT_FOUND, "{path}");
        assert!(page.text().contains("role=\"alert\">404: there is no"), "{path}: {}", page.text());
    }
    listening.end().await;
}

/// Whatever refuses it, who looks at pages is told so by a page, and who asks otherwise as over REST.
#[tokio::test]
async fn a_browser_is_shown_errors_as_pages_wherever_they_come_from() {
    let service = Service::new();
    let cookie = log_in(&service).await;
    for (method, path, form, status) in [
        (Method::GET, "/runs/x", "", 404),
        (Method::GET, "/runs?unknown=1", "", 400),
        (Method::GET, "/runs?after=x", "", 404),
        (Method::DELETE, "/runs", "", 405),
        (Method::POST, "/runs/x/cancel", "csrf=no", 404),
        (Method::POST, "/logout", "csrf=no", 403),
    ] {
        let page = browse(&service, method.clone(), path, Some(&cookie), form).await;
        assert_eq!(page.status.as_u16(), status, "{path}: {}", page.text());
        let [kind, length] = ["content-type", "content-length"].map(|name| page.headers.get(name));
        assert_eq!(kind.unwrap(), "text/html; charset=utf-8", "{path}");
        assert!(length.is_none_or(|length| *length == page.body.len().to_string().as_str()), "{path}");
        assert!(page.headers.contains_key("x-ratelimit-limit-requests"), "{path}: its headers stay");
        assert!(page.text().contains(&format!("role=\"alert\">{status}: ")), "{path}: {}", page.text());
        let plain = service.ask(method, path, &service.admin, None).await;
        assert!(plain.status.is_redirection() || !plain.code().is_empty(), "{path}: {}", plain.text());
    }
    let api = browse(&service, Method::GET, "/v1/runs/x", Some(&cookie), "").await;
    assert_eq!(api.code(), "not_found", "REST has one form of errors");
}

#[tokio::test]
async fn a_session_changes_things_only_by_forms_that_carry_its_token() {
    let service = Service::new();
    let cookie = log_in(&service).await;
    let run = service.post("/v1/runs", &small_run()).await.json()["id"].as_str().unwrap().to_owned();
    let cancel = format!("/runs/{run}/cancel");
    for form in ["", "csrf=", &format!("csrf={}", "0".repeat(64))] {
        let answer = browse(&service, Method::POST, &cancel, Some(&cookie), form).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{form}");
    }
    let api = browse(&service, Method::POST, &format!("/v1/runs/{run}/cancel"), Some(&cookie), "").await;
    assert_eq!((api.status, api.code().as_str()), (StatusCode::FORBIDDEN, "csrf_token_invalid"));
    let page = browse(&service, Method::GET, &format!("/runs/{run}"), Some(&cookie), "").await.text();
    let csrf = csrf_of(&page);
    let done = browse(&service, Method::POST, &cancel, Some(&cookie), &format!("csrf={csrf}")).await;
    assert_eq!(done.status, StatusCode::SEE_OTHER, "{}", done.text());
    assert_eq!(service.get(&format!("/v1/runs/{run}")).await.json()["status"], "cancelled");
    let out = browse(&service, Method::POST, "/logout", Some(&cookie), &format!("csrf={csrf}")).await;
    assert_eq!(out.status, StatusCode::SEE_OTHER);
    let gone = browse(&service, Method::GET, "/runs", Some(&cookie), "").await;
    assert_eq!(gone.status, StatusCode::UNAUTHORIZED, "the session is over");
}

/// Promise 32: what a model says is shown as text.
#[tokio::test(flavor = "multi_thread")]
async fn promise_32_what_a_model_says_is_text() {
    let hostile = "</pre><script>alert(1)</script>\u{202e}";
    let script = json!({"seed": 1, "rules": [{"match": "", "text": hostile, "log_likelihoods": [-1.0, -2.0, -3.0, -4.0]}]});
    let listening = Service::with(&script, evalign_serve::Layer::default()).listening().await;
    let service = &listening.service;
    let cookie = log_in(service).await;
    let body = json!({"model": "small", "tasks": ["samples_arithmetic"], "limit": 2});
    let run = service.post("/v1/runs", &body).await.json()["id"].as_str().unwrap().to_owned();
    listening.until(&run, "completed").await;
    let page = browse(service, Method::GET, &format!("/runs/{run}/samples"), Some(&cookie), "").await.text();
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(!page.contains("<script>alert"));
    assert!(!page.contains('\u{202e}') && page.contains("\\u{202e}"), "nothing turns the direction of text");
    listening.end().await;
}
