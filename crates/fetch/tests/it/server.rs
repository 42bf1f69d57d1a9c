//! A hub on this machine: listing, `resolve`, and a storage server on another port that large files
//! redirect to. Faults are queued; every request is recorded.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::Response;
use evalign_core::Digest;
use evalign_fetch::{Deadlines, Hub, HubConfig, RetryPolicy};
use futures::StreamExt;

pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
pub(crate) const TOKEN: &str = "hf_canaryDoNotLeak0123456789";

/// What goes wrong with one request; each is used once.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Answer with this status and these headers.
    Status(u16, Vec<(&'static str, String)>),
    /// Close the connection after so many bytes of the body.
    Cut(usize),
    /// Send so many bytes, then nothing more.
    Stall(usize),
    /// Send the whole file whatever range was asked for.
    IgnoreRange,
    /// Send other bytes of the same length.
    Garble,
    /// Announce and send more than the file has.
    TooLong,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    /// `hub` or `storage`.
    pub(crate) server: &'static str,
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) range: Option<String>,
    pub(crate) authorized: bool,
}

#[derive(Default)]
struct World {
    /// `models/ORG/NAME` or `datasets/...`, then file name, to content and whether it is a large file.
    repos: BTreeMap<String, BTreeMap<String, (Vec<u8>, bool)>>,
    /// Part of `METHOD server path`, and what happens to the next request that contains it.
    faults: Vec<(String, Fault)>,
    seen: Vec<Seen>,
    storage: String,
    commit: String,
}

type Shared = Arc<Mutex<World>>;

/// A running test hub; its tasks end with the test's runtime.
#[derive(Clone)]
pub(crate) struct TestHub {
    world: Shared,
    pub(crate) endpoint: String,
}

impl TestHub {
    pub(crate) async fn start() -> Self {
        let world = Shared::default();
        world.lock().unwrap().commit = COMMIT.to_owned();
        let storage = serve(Router::new().fallback(storage_route).with_state(world.clone())).await;
        world.lock().unwrap().storage = storage;
        let endpoint = serve(Router::new().fallback(hub_route).with_state(world.clone())).await;
        Self { world, endpoint }
    }

    pub(crate) fn put(&self, repo: &str, file: &str, content: impl Into<Vec<u8>>, large: bool) {
        let mut world = self.world.lock().unwrap();
        world.repos.entry(repo.to_owned()).or_default().insert(file.to_owned(), (content.into(), large));
    }

    pub(crate) fn set_commit(&self, commit: &str) {
        self.world.lock().unwrap().commit = commit.to_owned();
    }

    /// The next request whose `METHOD server path` contains `on` fails in this way.
    pub(crate) fn fault(&self, on: &str, fault: Fault) {
        self.world.lock().unwrap().faults.push((on.to_owned(), fault));
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.world.lock().unwrap().seen.clone()
    }

    pub(crate) fn forget(&self) {
        self.world.lock().unwrap().seen.clear();
    }

    /// Requests for content, by server.
    pub(crate) fn gets(&self, server: &str) -> Vec<Seen> {
        self.seen().into_iter().filter(|s| s.server == server && s.method == "GET").collect()
    }

    /// A configuration that points here, with short waits.
    pub(crate) fn config(&self, cache: impl Into<PathBuf>) -> HubConfig {
        let endpoint = self.endpoint.clone();
        let cache = cache.into().display().to_string();
        let mut config = HubConfig::from_lookup(move |name| match name {
            "HF_ENDPOINT" => Some(endpoint.clone()),
            "HF_HUB_CACHE" => Some(cache.clone()),
            "HF_TOKEN" => Some(TOKEN.to_owned()),
            _ => None,
        })
        .unwrap();
        config.retry = RetryPolicy {
            attempts: 3,
            base: Duration::from_millis(5),
            cap: Duration::from_millis(20),
            ..RetryPolicy::default()
        };
        config.deadlines = Deadlines {
            idle: Duration::from_millis(400),
            headers: Duration::from_secs(2),
            ..Deadlines::default()
        };
        config
    }

    pub(crate) fn hub(&self, cache: impl Into<PathBuf>) -> Hub {
        Hub::new(self.config(cache))
    }
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    format!("http://{address}")
}

fn record(world: &mut World, server: &'static str, request: &Request) -> Option<Fault> {
    let headers = request.headers();
    let seen = Seen {
        server,
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        range: headers.get("range").map(|range| range.to_str().unwrap().to_owned()),
        authorized: headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}")),
    };
    let key = format!("{} {server} {}", seen.method, seen.path);
    world.seen.push(seen);
    let position = world.faults.iter().position(|(on, _)| key.contains(on))?;
    Some(world.faults.remove(position).1)
}

async fn hub_route(State(world): State<Shared>, request: Request) -> Response {
    let mut world = world.lock().unwrap();
    let fault = record(&mut world, "hub", &request);
    if let Some(Fault::Status(status, headers)) = &fault {
        return status_answer(*status, headers);
    }
    let path = request.uri().path().to_owned();
    if let Some(rest) = path.strip_prefix("/api/") {
        return listing(&world, rest);
    }
    let (repo, rest) = path.trim_start_matches('/').split_once("/resolve/").unwrap_or_default();
    let repo = if repo.starts_with("datasets/") { repo.to_owned() } else { format!("models/{repo}") };
    let Some(files) = world.repos.get(&repo) else { return not_found("RepoNotFound") };
    let (revision, name) = rest.split_once('/').unwrap_or_default();
    if revision != "main" && revision != world.commit {
        return not_found("RevisionNotFound");
    }
    let Some((content, large)) = files.get(name) else { return not_found("EntryNotFound") };
    let digest = Digest::of(content);
    let mut headers = vec![("x-repo-commit", world.commit.clone())];
    if *large {
        headers.push(("x-linked-etag", format!("\"{digest}\"")));
        headers.push(("x-linked-size", content.len().to_string()));
        headers
            .push(("location", format!("{}/blob/{digest}?X-Signature={}", world.storage, "secretsignature")));
        return status_answer(302, &headers);
    }
    headers.push(("etag", format!("\"{}\"", &digest.as_str()[..40])));
    send(content, request.method(), request.headers(), fault.as_ref(), &headers)
}

async fn storage_route(State(world): State<Shared>, request: Request) -> Response {
    let mut world = world.lock().unwrap();
    let fault = record(&mut world, "storage", &request);
    if let Some(Fault::Status(status, headers)) = &fault {
        return status_answer(*status, headers);
    }
    let wanted = request.uri().path().trim_start_matches("/blob/").to_owned();
    let all = world.repos.values().flat_map(BTreeMap::values);
    match all.map(|(content, _)| content).find(|content| Digest::of(content).as_str() == wanted) {
        Some(content) => {
            let headers = [("etag", "\"storage-tag\"".to_owned())];
            send(content, request.method(), request.headers(), fault.as_ref(), &headers)
        }
        None => status_answer(404, &[]),
    }
}

fn listing(world: &World, rest: &str) -> Response {
    let (repo, _revision) = rest.split_once("/revision/").unwrap_or_default();
    let Some(files) = world.repos.get(repo) else { return not_found("RepoNotFound") };
    let siblings: Vec<serde_json::Value> = files
        .iter()
        .map(|(name, (content, _))| serde_json::json!({"rfilename": name, "size": content.len()}))
        .collect();
    let body = serde_json::json!({"id": repo, "sha": world.commit, "siblings": siblings}).to_string();
    Response::new(Body::from(body))
}

fn not_found(code: &str) -> Response {
    status_answer(404, &[("x-error-code", code.to_owned()), ("x-error-message", "it is not here".to_owned())])
}

fn status_answer(status: u16, headers: &[(&'static str, String)]) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    insert(response.headers_mut(), headers);
    response
}

fn insert(target: &mut HeaderMap, headers: &[(&'static str, String)]) {
    for (name, value) in headers {
        target.insert(HeaderName::from_static(name), HeaderValue::from_str(value).unwrap());
    }
}

fn send(
    content: &[u8],
    method: &Method,
    asked: &HeaderMap,
    fault: Option<&Fault>,
    headers: &[(&'static str, String)],
) -> Response {
    let total = content.len();
    let range = asked.get("range").map(|range| range.to_str().unwrap().to_owned());
    let start =
        range.and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
    let start = start.filter(|_| !matches!(fault, Some(Fault::IgnoreRange)));
    let mut response = Response::new(Body::empty());
    insert(response.headers_mut(), headers);
    let mut body = content[start.unwrap_or(0).min(total)..].to_vec();
    if let Some(start) = start {
        insert(response.headers_mut(), &[("content-range", format!("bytes {start}-{}/{total}", total - 1))]);
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        if start >= total {
            insert(response.headers_mut(), &[("content-range", format!("bytes */{total}"))]);
            *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
        }
    }
    match fault {
        Some(Fault::Garble) => body.iter_mut().for_each(|byte| *byte ^= 0x55),
        Some(Fault::TooLong) => body.extend_from_slice(b"and more"),
        _ => {}
    }
    insert(response.headers_mut(), &[("content-length", body.len().to_string())]);
    if method == Method::GET {
        *response.body_mut() = faulty_body(body, fault);
    }
    response
}

fn faulty_body(body: Vec<u8>, fault: Option<&Fault>) -> Body {
    let pieces = |body: Vec<u8>| -> Vec<Result<Bytes, Infallible>> {
        body.chunks(16 << 10).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect()
    };
    match fault {
        Some(Fault::Cut(after)) => {
            let sent = pieces(body[..*after].to_vec())
                .into_iter()
                .map(|chunk| chunk.map_err(|never| match never {}));
            let end = async {
                // What was sent before must leave the machine first: an error drops unsent bytes.
                tokio::time::sleep(Duration::from_millis(50)).await;
                Err(std::io::Error::other("cut"))
            };
            Body::from_stream(futures::stream::iter(sent).chain(futures::stream::once(end)))
        }
        Some(Fault::Stall(after)) => {
            let sent = futures::stream::iter(pieces(body[..*after].to_vec()));
            Body::from_stream(sent.chain(futures::stream::pending()))
        }
        _ => Body::from_stream(futures::stream::iter(pieces(body))),
    }
}

/// Bytes that look random and differ by seed.
pub(crate) fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(length)
    .collect()
}
