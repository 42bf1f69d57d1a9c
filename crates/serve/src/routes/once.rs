//! Requests that are done once however often they are sent.

use std::sync::Arc;

use axum::Json;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use evalign_core::Digest;
use evalign_store::{Repetition, Store, StoredRun};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::Mutex;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{JsonBody, Tenanted};
use crate::routes::runs::queued;

/// What a request made, and where it is to be looked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) status: u16,
    pub(crate) place: String,
    pub(crate) body: Value,
}

impl Made {
    pub(crate) fn new(status: StatusCode, place: String, body: &impl Serialize) -> ApiResult<Self> {
        let body = serde_json::to_value(body).map_err(ApiError::internal)?;
        Ok(Self { status: status.as_u16(), place, body })
    }

    pub(crate) fn answer(&self) -> ApiResult<Response> {
        let status = StatusCode::from_u16(self.status).map_err(ApiError::internal)?;
        let mut response = (status, Json(&self.body)).into_response();
        if let Ok(place) = HeaderValue::from_str(&self.place) {
            response.headers_mut().insert(header::LOCATION, place);
        }
        Ok(response)
    }
}

/// The header that tells repetitions of a request, as routes describe it.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct IdempotencyKey {
    /// 1 to 255 visible ASCII characters; kept for 24 hours
    #[param(rename = "Idempotency-Key", min_length = 1, max_length = 255, pattern = "^[!-~]*$")]
    key: Option<String>,
}

/// Where the work of a request is done.
#[derive(Clone, Copy)]
pub(crate) enum Lane {
    /// On any thread that may block.
    Free,
    /// With what reads datasets and loads models before it answers: a few at a time.
    Planning,
    /// Alone among those that take this lock.
    Alone(fn(&App) -> &Arc<Mutex<()>>),
}

/// A request that makes something: whose view of the store it has, its body, and what tells its repetitions.
pub(crate) struct Order<B> {
    app: Arc<App>,
    store: Store,
    body: B,
    repeatable: Repeatable,
}

impl<B: DeserializeOwned> FromRequest<Arc<App>> for Order<B> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        let (mut parts, body) = request.into_parts();
        let Tenanted { store, .. } = Tenanted::from_request_parts(&mut parts, app).await?;
        let key = idempotency_key(&parts.headers)?;
        let target = format!("{} {}", parts.method, parts.uri.path());
        let body = JsonBody::from_request(Request::from_parts(parts, body), app).await?;
        Ok(Self {
            app: app.clone(),
            // What it makes it makes once, also when a server dies over it.
            store: key.as_ref().map_or_else(|| store.clone(), |key| store.for_request(key)),
            repeatable: Repeatable { key, digest: Digest::of(format!("{target}\n{}", body.digest)) },
            body: body.value,
        })
    }
}

impl<B: Send + 'static> Order<B> {
    /// Makes what is asked for.
    pub(crate) async fn makes(
        self,
        lane: Lane,
        make: impl FnOnce(&App, &Store, &B) -> ApiResult<Made> + Send + 'static,
    ) -> ApiResult<Response> {
        let Self { app, store, body, repeatable } = self;
        let work = move |app: &App| repeatable.once(&store, || make(app, &store, &body));
        match lane {
            Lane::Free => app.blocking(work).await,
            Lane::Planning => app.plan(work).await,
            Lane::Alone(lock) => app.blocking_alone(lock(&app), work).await,
        }
    }

    /// Starts a run: `202`, with where to look.
    pub(crate) async fn starts(
        self,
        lane: Lane,
        start: impl FnOnce(&App, &Store, &B) -> ApiResult<StoredRun> + Send + 'static,
    ) -> ApiResult<Response> {
        self.makes(lane, |app, store, body| queued(app, store, &start(app, store, body)?)).await
    }
}

/// The `Idempotency-Key` of a request, if it has one, and what was asked: method, path and body.
#[derive(Debug)]
struct Repeatable {
    key: Option<String>,
    digest: Digest,
}

impl Repeatable {
    /// Does it, unless it was done: then it is answered as it was. One that failed is to be tried again.
    fn once(&self, store: &Store, make: impl FnOnce() -> ApiResult<Made>) -> ApiResult<Response> {
        let Some(key) = &self.key else { return make()?.answer() };
        match store.begin_request(key, &self.digest)? {
            Repetition::Answered { response, .. } => {
                let made: Made = serde_json::from_str(&response).map_err(ApiError::internal)?;
                let mut answer = made.answer()?;
                answer.headers_mut().insert("idempotent-replayed", HeaderValue::from_static("true"));
                Ok(answer)
            }
            Repetition::Running => {
                let message = "the first request with this Idempotency-Key is still being answered";
                Err(ApiError::new(Code::IdempotencyRunning, message).retry_after(1))
            }
            Repetition::Differs => {
                let message = "this Idempotency-Key was used for another request";
                Err(ApiError::new(Code::IdempotencyDiffers, message))
            }
            Repetition::First => {
                // Whatever happens in between, a panic included, the key must not stay blocked.
                let guard = Begun { store, key };
                let made = make()?;
                let kept = serde_json::to_string(&made).map_err(ApiError::internal)?;
                store.finish_request(key, made.status, &kept)?;
                std::mem::forget(guard);
                made.answer()
            }
        }
    }
}

struct Begun<'a> {
    store: &'a Store,
    key: &'a str,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.store.abandon_request(self.key) {
            tracing::warn!(%error, "an Idempotency-Key stays blocked until the server begins again");
        }
    }
}

fn idempotency_key(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default().trim().trim_matches('"');
    if (1..=255).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(Some(text.to_owned()));
    }
    let message = "an Idempotency-Key has 1 to 255 visible ASCII characters";
    Err(ApiError::new(Code::InvalidRequest, message).about("Idempotency-Key"))
}
