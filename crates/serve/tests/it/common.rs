use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use evalign_core::Tenant;
use evalign_serve::{App, Layer, Settings, Shutdown, listen, mint_key, service, settings};
use evalign_store::{KeyScope, Store};
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tower::ServiceExt;

/// A service on a store of its own, with a scripted model called `small`, and keys.
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) app: Arc<App>,
    pub(crate) router: Router,
    /// Of tenant `default`.
    pub(crate) admin: String,
    pub(crate) run: String,
    pub(crate) read: String,
    /// Of tenant `other`.
    pub(crate) other: String,
    /// Goes last: what the others have open lies in it.
    pub(crate) home: TempDir,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The error's code, of an answer that has OpenAI's shape.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        let error = body["error"].as_object().unwrap_or_else(|| panic!("no envelope: {body}"));
        assert_eq!(error.keys().collect::<Vec<_>>(), ["message", "type", "param", "code"], "{body}");
        error["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn key(store: &Store, tenant: &str, scope: KeyScope) -> String {
    let tenant: Tenant = tenant.parse().unwrap();
    let key = mint_key(tenant, "test", scope, None).unwrap();
    store.create_key(&key.record).unwrap();
    key.expose().to_owned()
}

pub(crate) fn settings_with(home: &Path, script: &Value, layer: Layer) -> Settings {
    fs_err::write(home.join("model.json"), script.to_string()).unwrap();
    settings_of(home, &format!("scripted/{}", home.join("model.json").display()), layer)
}

fn settings_of(home: &Path, reference: &str, layer: Layer) -> Settings {
    let models = format!("small={reference}");
    let lookup = |name: &str| match name {
        "EVALIGN_SERVE__MODELS" => Some(models.clone()),
        "EVALIGN_SERVE__OFFLINE" => Some("true".to_owned()),
        _ => None,
    };
    settings(home, None, &lookup, layer).unwrap().0
}

impl Service {
    pub(crate) fn new() -> Self {
        Self::with(&json!({"seed": 1}), Layer::default())
    }

    pub(crate) fn with(script: &Value, layer: Layer) -> Self {
        let home = tempfile::tempdir().unwrap();
        let settings = settings_with(home.path(), script, layer);
        Self::of(home, settings)
    }

    /// With a model of made-up weights in place of the scripted one, which is written to the end of a context of
    /// 200,000 tokens if it is let.
    pub(crate) fn local(layer: Layer) -> Self {
        let home = tempfile::tempdir().unwrap();
        let model = home.path().join("tiny");
        evalign_testkit::write_tiny_model(&model, 200_000).unwrap();
        let settings = settings_of(home.path(), &format!("local/{}", model.display()), layer);
        Self::of(home, settings)
    }

    /// With a model of made-up weights beside the scripted one: `tiny`, which can be trained.
    pub(crate) fn trainable(layer: Layer) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (model, script) = (home.path().join("tiny"), home.path().join("model.json"));
        evalign_testkit::write_tiny_model(&model, 4096).unwrap();
        fs_err::write(model.join("tokenizer_config.json"), json!({"eos_token": "t1"}).to_string()).unwrap();
        fs_err::write(&script, json!({"seed": 1}).to_string()).unwrap();
        let models = format!("scripted/{},tiny=local/{}", script.display(), model.display());
        let settings = settings_of(home.path(), &models, layer);
        Self::of(home, settings)
    }

    fn of(home: TempDir, settings: Settings) -> Self {
        let store = Store::open(home.path()).unwrap();
        let app = App::new(home.path(), store.clone(), settings).unwrap();
        Self {
            admin: key(&store, "default", KeyScope::Admin),
            run: key(&store, "default", KeyScope::Run),
            read: key(&store, "default", KeyScope::Read),
            other: key(&store, "other", KeyScope::Admin),
            router: service(app.clone()),
            home,
            store,
            app,
        }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> Answer {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = body.collect().await.unwrap().to_bytes().to_vec();
        Answer { status: parts.status, headers: parts.headers, body }
    }

    pub(crate) async fn ask(&self, method: Method, path: &str, key: &str, body: Option<&Value>) -> Answer {
        self.send(request(method, path, key, body)).await
    }

    /// Uploads a file and returns its id.
    pub(crate) async fn upload(&self, name: &str, purpose: &str, bytes: impl Into<Body>) -> String {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("/v1/files?name={name}&purpose={purpose}"))
            .header("authorization", format!("Bearer {}", self.run));
        let answer = self.send(request.body(bytes.into()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.text());
        answer.json()["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(Method::GET, path, &self.admin, None).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask(Method::POST, path, &self.run, Some(body)).await
    }

    /// The service on a port of this machine, with its workers.
    pub(crate) async fn listening(self) -> Listening {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = Shutdown::default();
        let (app, router, until) = (self.app.clone(), self.router.clone(), shutdown.clone());
        let task = tokio::spawn(async move { listen(app, router, listener, &until).await });
        Listening { service: self, address, shutdown, task }
    }
}

/// A service that listens and works.
pub(crate) struct Listening {
    pub(crate) service: Service,
    pub(crate) address: std::net::SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) task: JoinHandle<()>,
}

impl Listening {
    /// Posts over the network: the answer, head and all, comes as it is written.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> TcpStream {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            self.service.run,
            body.len()
        );
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all((head + &body).as_bytes()).await.unwrap();
        client
    }

    /// Waits until a run has this status.
    pub(crate) async fn until(&self, run: &str, status: &str) -> Value {
        for _ in 0..600 {
            let answer = self.service.get(&format!("/v1/runs/{run}")).await.json();
            if answer["status"] == status {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{run} is not {status}: {}", self.service.get(&format!("/v1/runs/{run}")).await.text());
    }

    /// Ends, and begins again on the same store, with a scripted model.
    pub(crate) async fn restarted(self) -> Service {
        let Self { service, shutdown, task, .. } = self;
        shutdown.raise();
        tokio::time::timeout(Duration::from_secs(30), task).await.unwrap().unwrap();
        let Service { home, store, app, router, .. } = service;
        drop((store, app, router));
        let settings = settings_with(home.path(), &json!({"seed": 1}), Layer::default());
        Service::of(home, settings)
    }

    pub(crate) async fn end(self) {
        self.shutdown.raise();
        tokio::time::timeout(Duration::from_secs(30), self.task).await.unwrap().unwrap();
    }
}

pub(crate) fn request(method: Method, path: &str, key: &str, body: Option<&Value>) -> Request<Body> {
    let request =
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {key}"));
    match body {
        None => request.body(Body::empty()).unwrap(),
        Some(body) => {
            let request = request.header("content-type", "application/json");
            request.body(Body::from(body.to_string())).unwrap()
        }
    }
}

/// A run that takes a moment: a few samples of the suite that ships with evalign.
pub(crate) fn small_run() -> Value {
    json!({"model": "small", "tasks": ["samples_knowledge"], "limit": 3})
}
