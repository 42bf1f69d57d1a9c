//! What every request passes, in this order: an id, who it is from, whether they may, how often, how many at
//! once; then its handler, a panic of which ends nothing but the request; then headers, metrics, the audit log.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use evalign_core::Digest;
use evalign_store::{AuditEntry, KeyScope};
use futures::FutureExt;
use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tracing::Instrument;

use crate::app::{App, now_ms};
use crate::credentials::{Caller, parse_key, proves};
use crate::error::{ApiError, ApiResult, Code};
use crate::pages;
use crate::quota::Allowance;
use crate::writes::changing;

/// Where a connection comes from; put there by whoever accepted it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Name of the cookie of a browser that is logged in.
pub(crate) const COOKIE: &str = "evalign_session";

/// Answered without a key: whether the process lives and can work.
fn is_open(path: &str) -> bool {
    matches!(path, "/healthz" | "/readyz")
}

/// Where a key or a link is shown in the first place, and what such a page looks like.
fn is_login(path: &str) -> bool {
    path == "/login" || path.starts_with("/login/") || path.starts_with("/static/")
}

/// A path as logs show it: a link to log in with is a secret.
fn shown_path(path: &str) -> String {
    if path.starts_with("/login/") { "/login/***".to_owned() } else { path.chars().take(200).collect() }
}

/// What a request needs. What is not listed is the strictest of its kind, not the laxest.
fn needed_scope(method: &Method, path: &str) -> KeyScope {
    let admin = ["/metrics", "/v1/audit"];
    if admin.iter().any(|prefix| path == *prefix || path.starts_with(&format!("{prefix}/"))) {
        KeyScope::Admin
    } else if is_safe(method) || path == "/logout" || is_login(path) {
        KeyScope::Read
    } else {
        KeyScope::Run
    }
}

fn is_safe(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request only reads. What is not listed changes something.
fn only_reads(method: &Method, path: &str) -> bool {
    let asked = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/preferences/check"];
    let is_asked =
        |under: &str, ends: &[&str]| path.starts_with(under) && ends.iter().any(|end| path.ends_with(end));
    is_safe(method)
        || asked.contains(&path)
        || is_asked("/v1/indexes/", &["/query", "/answer"])
        || is_asked("/v1/runs/", &["/verify"])
}

/// Whether a request may have something asked of a model. What is not listed may.
fn may_ask(method: &Method, path: &str) -> bool {
    if is_safe(method) {
        return path.starts_with("/indexes/") && path.ends_with("/ask");
    }
    let asks_nothing = ["/v1/files", "/v1/preferences/check", "/v1/preferences/import"];
    let ends_so = ["/cancel", "/votes", "/files"];
    path.starts_with("/v1/")
        && *method != Method::DELETE
        && !asks_nothing.contains(&path)
        && !ends_so.iter().any(|end| path.ends_with(end))
}

/// The middleware.
pub(crate) async fn gate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let started = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let path = shown_path(request.uri().path());
    let matched = request.extensions().get::<MatchedPath>().map(|matched| matched.as_str().to_owned());
    let address = request.extensions().get::<Peer>().map_or_else(String::new, |peer| peer.0.ip().to_string());
    let span = tracing::info_span!("request", %id, %method, path);
    let is_for_people = is_for_people(&request);
    let mut entry = AuditEntry { address, request_id: id.clone(), ..AuditEntry::default() };
    let answer = AssertUnwindSafe(admit(&app, request, next, &mut entry)).catch_unwind();
    let mut response = answer.instrument(span.clone()).await.unwrap_or_else(|_| {
        app.metrics.panics.fetch_add(1, Ordering::Relaxed);
        ApiError::internal("a handler panicked").into_response()
    });
    if is_for_people && let Some(error) = response.extensions_mut().remove::<ApiError>() {
        response = pages::error_page(response, &error);
    }
    let status = response.status();
    add_headers(response.headers_mut(), &id);
    let route = matched.as_deref().unwrap_or("none");
    app.metrics.request(method.as_str(), route, status.as_u16(), started.elapsed());
    let denied = matches!(status.as_u16(), 401 | 403);
    if (!is_safe(&method) || denied) && !is_open(&path) {
        entry.action = format!("{method} {route}");
        entry.target = path;
        entry.outcome = status.as_u16().to_string();
        app.store.audit(entry);
    }
    span.in_scope(|| {
        tracing::info!(status = status.as_u16(), ms = started.elapsed().as_millis() as u64, "answered");
    });
    response
}

async fn admit(app: &Arc<App>, mut request: Request, next: Next, entry: &mut AuditEntry) -> Response {
    let path = request.uri().path().to_owned();
    if is_open(&path) {
        return next.run(request).await;
    }
    let caller = match identify(app, request.headers()) {
        Ok(caller) => caller,
        Err(error) => return error.into_response(),
    };
    let Some(caller) = caller else {
        let allowance = app.refusals.take(&entry.address, Instant::now());
        if let Some(secs) = allowance.wait_secs {
            app.metrics.refused.fetch_add(1, Ordering::Relaxed);
            return too_often(secs);
        }
        return if is_login(&path) { next.run(request).await } else { unauthenticated(app, &request) };
    };
    entry.tenant = Some(caller.tenant.to_string());
    entry.key = Some(caller.key.clone());
    if let Err(error) = permit(&caller, request.method(), &path) {
        return error.into_response();
    }
    let allowance = app.quota.take(&caller.key, Instant::now());
    if let Some(secs) = allowance.wait_secs {
        app.metrics.refused.fetch_add(1, Ordering::Relaxed);
        return with_allowance(too_often(secs), allowance);
    }
    let asking = may_ask(request.method(), &path);
    if let Err(error) = app.daily.request((&caller.key, &caller.limits), asking, now_ms(), entry) {
        app.metrics.refused.fetch_add(1, Ordering::Relaxed);
        return with_allowance(error.into_response(), allowance);
    }
    request.extensions_mut().insert(caller);
    // A stream is bounded where it is opened: it lasts for hours and does nothing most of the time.
    let room = Counted::new(&app.metrics.in_flight);
    if room.count() > i64::from(app.settings.max_in_flight) && !path.ends_with("/events") {
        app.metrics.refused.fetch_add(1, Ordering::Relaxed);
        let error = ApiError::new(Code::Unavailable, "too many requests are being answered").retry_after(1);
        return error.into_response();
    }
    let only_reads = only_reads(request.method(), &path);
    let answer = next.run(request);
    let answer = if only_reads { answer.await } else { changing(answer).await };
    with_allowance(answer, allowance)
}

/// Counts for as long as it lives.
pub(crate) struct Counted<'a>(&'a AtomicI64, i64);

impl<'a> Counted<'a> {
    pub(crate) fn new(counter: &'a AtomicI64) -> Self {
        Self(counter, counter.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// How many there were when this one came, itself included.
    pub(crate) fn count(&self) -> i64 {
        self.1
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn permit(caller: &Caller, method: &Method, path: &str) -> ApiResult<()> {
    let needed = needed_scope(method, path);
    if caller.scope < needed {
        let has = caller.scope;
        let message = format!("this needs the scope `{needed}`, the key has `{has}`");
        return Err(ApiError::new(Code::Forbidden, message));
    }
    // A browser sends its cookie wherever a page asks it to: it can look, and change things only by the forms
    // of our pages, which carry a token that no other page can know.
    if caller.csrf.is_some() && !is_safe(method) && path.starts_with("/v1/") {
        return Err(ApiError::new(Code::CrossSite, "a session of a browser cannot do this; send a key"));
    }
    Ok(())
}

/// Whom the request is from: by its key, else by its cookie. A key that is given counts, and is wrong where
/// it is wrong.
fn identify(app: &App, headers: &HeaderMap) -> ApiResult<Option<Caller>> {
    let good = |key: evalign_store::StoredKey| key.is_good(now_ms()).then_some(key);
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let text = value.to_str().unwrap_or_default();
        let bearer = text.split_once(' ').filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        let Some((id, secret)) = bearer.and_then(|(_, key)| parse_key(key.trim())) else { return Ok(None) };
        let key = app.key(id)?;
        return Ok(if proves(secret, key.as_ref()) {
            key.and_then(good).map(|key| Caller::of(&key, None))
        } else {
            None
        });
    }
    let Some(secret) = cookie(headers) else { return Ok(None) };
    let Some(session) = app.store.session(&Digest::of(secret))? else { return Ok(None) };
    let key = app.key(&session.key)?.and_then(good);
    Ok(key.map(|key| Caller::of(&key, Some(session.csrf))))
}

/// The secret in our cookie.
pub(crate) fn cookie(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let found = pairs.find(|(name, _)| *name == COOKIE).map(|(_, secret)| secret);
    found.filter(|secret| secret.len() == 64 && secret.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Whether a browser asks for one of our pages.
fn is_for_people(request: &Request) -> bool {
    let accepts = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
    !request.uri().path().starts_with("/v1/") && accepts.is_some_and(|accepts| accepts.contains("text/html"))
}

fn unauthenticated(app: &App, request: &Request) -> Response {
    if request.method() == Method::GET && is_for_people(request) {
        return pages::login_page(app, http::StatusCode::UNAUTHORIZED, None);
    }
    let message = if request.headers().contains_key(header::AUTHORIZATION) {
        "this key is not good: it is mistyped, unknown, revoked or expired"
    } else {
        "send a key: `Authorization: Bearer evk_...`; `evalign keys create` makes one"
    };
    ApiError::new(Code::Unauthenticated, message).into_response()
}

fn too_often(secs: u64) -> Response {
    ApiError::new(Code::RateLimited, "too many requests").retry_after(secs).into_response()
}

fn with_allowance(mut response: Response, allowance: Allowance) -> Response {
    let headers = response.headers_mut();
    headers.insert("x-ratelimit-limit-requests", HeaderValue::from(allowance.limit));
    headers.insert("x-ratelimit-remaining-requests", HeaderValue::from(allowance.remaining));
    response
}

/// The client's, where it can stand in a log, else a new one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&REQUEST_ID).and_then(|value| value.to_str().ok());
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    match given {
        Some(id) if (1..=64).contains(&id.len()) && id.bytes().all(plain) => id.to_owned(),
        _ => format!("req_{}", uuid::Uuid::now_v7().simple()),
    }
}

fn add_headers(headers: &mut HeaderMap, id: &str) {
    const POLICY: &str = "default-src 'self'; base-uri 'none'; object-src 'none'; form-action 'self'; \
                          frame-ancestors 'none'";
    const ALWAYS: [(&str, &str); 7] = [
        ("content-security-policy", POLICY),
        ("x-content-type-options", "nosniff"),
        ("x-frame-options", "DENY"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ];
    for (name, value) in ALWAYS {
        headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID.clone(), id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_need_the_scope_of_their_method() {
        assert_eq!(needed_scope(&Method::GET, "/v1/nothing"), KeyScope::Read);
        assert_eq!(needed_scope(&Method::DELETE, "/v1/nothing"), KeyScope::Run);
        assert_eq!(needed_scope(&Method::GET, "/metrics"), KeyScope::Admin);
        assert_eq!(needed_scope(&Method::GET, "/v1/audit"), KeyScope::Admin);
        assert!(!is_open("/healthz/") && !is_open("/v1/healthz") && !is_login("/loginx"));
    }

    #[test]
    fn what_is_not_known_to_ask_nothing_of_models_needs_tokens() {
        for path in
            ["/v1/runs", "/v1/runs/run_0/resume", "/v1/chat/completions", "/v1/indexes/x/answer", "/v1/new"]
        {
            assert!(may_ask(&Method::POST, path) && !may_ask(&Method::GET, path), "{path}");
        }
        assert!(may_ask(&Method::GET, "/indexes/x/ask"));
        for path in ["/v1/files", "/v1/runs/run_0/cancel", "/v1/preferences/run_0/files", "/runs/run_0/vote"]
        {
            assert!(!may_ask(&Method::POST, path), "{path}");
        }
        assert!(!may_ask(&Method::DELETE, "/v1/indexes/x"));
    }

    #[test]
    fn what_is_not_known_to_read_changes_something() {
        for path in
            ["/v1/chat/completions", "/v1/indexes/x/query", "/v1/indexes/x/answer", "/v1/runs/run_0/verify"]
        {
            assert!(only_reads(&Method::POST, path), "{path}");
        }
        for path in
            ["/v1/indexes/x/documents", "/v1/indexes", "/v1/files", "/v1/runs/run_0/resume", "/v1/new/query"]
        {
            assert!(!only_reads(&Method::POST, path) && only_reads(&Method::GET, path), "{path}");
        }
    }

    async fn broken() -> &'static str {
        panic!("what only the log is to know")
    }

    /// A panic in a handler is a `500` with the request's id; the process and other requests go on.
    #[tokio::test]
    async fn promise_23_a_panic_ends_its_request_and_nothing_else() {
        let home = tempfile::tempdir().unwrap();
        let store = evalign_store::Store::open(home.path()).unwrap();
        let key = crate::mint_key(evalign_core::Tenant::default(), "", KeyScope::Read, None).unwrap();
        store.create_key(&key.record).unwrap();
        let settings = crate::settings(home.path(), None, &|_| None, crate::Layer::default()).unwrap().0;
        let app = App::new(home.path(), store, settings).unwrap();
        let router = axum::Router::new()
            .route("/broken", axum::routing::get(broken))
            .route("/whole", axum::routing::get(async || "fine"))
            .layer(axum::middleware::from_fn_with_state(app.clone(), gate));
        let ask = async |path: &str| {
            let bearer = format!("Bearer {}", key.expose());
            let request = http::Request::builder()
                .uri(path)
                .header("authorization", bearer)
                .header("x-request-id", "r1");
            let request = request.body(axum::body::Body::empty()).unwrap();
            tower::ServiceExt::oneshot(router.clone(), request).await.unwrap()
        };
        let answer = ask("/broken").await;
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["x-request-id"]),
            (500, &"r1".parse().unwrap())
        );
        let body = axum::body::to_bytes(answer.into_body(), 1 << 16).await.unwrap();
        let body = String::from_utf8(body.to_vec()).unwrap();
        assert!(body.contains("internal_error") && !body.contains("only the log"), "{body}");
        assert_eq!(ask("/whole").await.status().as_u16(), 200);
        assert_eq!(app.metrics.panics.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn promise_29_a_link_to_log_in_with_is_not_shown() {
        assert_eq!(shown_path("/login/0123456789abcdef"), "/login/***");
        assert_eq!(shown_path("/v1/runs"), "/v1/runs");
    }

    #[test]
    fn ids_of_requests_are_taken_only_where_a_log_can_hold_them() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(&REQUEST_ID, HeaderValue::from_static(value));
            request_id(&headers)
        };
        assert_eq!(with("abc-1"), "abc-1");
        for bad in ["", "a b", "a\tb"] {
            assert!(with(bad).starts_with("req_"), "{bad:?}");
        }
    }
}
