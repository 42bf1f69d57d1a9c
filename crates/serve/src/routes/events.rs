use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use axum::response::sse::Event as SseEvent;
use evalign_core::{RunId, RunStatus};
use evalign_store::{Event, Store};
use futures::Stream;
use http::HeaderMap;
use serde_json::json;
use tokio::sync::watch;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{RunPath, Tenanted};
use crate::openai::stream::kept_alive;
use crate::openapi::{ErrorAnswers, Overload};

/// Events read at a time.
const PAGE: u32 = 500;

/// A stream looks at most so often: who watches gets what has happened since, in one piece.
const NOT_SOONER: Duration = Duration::from_millis(250);

/// How often a stream looks for what another process did.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// An event, as a stream writes it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct StreamedEvent {
    /// One higher than that of the event before; `Last-Event-ID` names it. An `error` has none.
    id: Option<String>,
    /// What has happened.
    event: String,
    /// With `id`, `type` (the same as `event`), `created_ms` and `data`; of an `error` what every failed request is answered.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// What happens to a run, as server-sent events, from the first one or from the one after `Last-Event-ID`. Each
/// has an id, one higher than the one before. The stream ends when the run does.
#[utoipa::path(get, path = "/v1/runs/{id}/events", tag = "runs",
    params(("id" = String, Path, description = "The run"),
        ("Last-Event-ID" = Option<u64>, Header, description = "The last event that was seen")),
    responses((status = 200, description = "`run.created`, `run.started`, `sample.completed`, `run.results`, `run.completed`, ...",
        content_type = "text/event-stream", body = StreamedEvent), ErrorAnswers, Overload))]
pub(crate) async fn events(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(run): RunPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let after = last_event_id(&headers)?;
    let place = Place::take(&app)?;
    let (store, id) = (tenanted.store, run.clone());
    let store = app.blocking(move |_| store.run(&id).map(|_| store).map_err(Into::into)).await?;
    let changes = app.active.watch(&run);
    let tail = Tail {
        app,
        store,
        run,
        after,
        changes,
        ready: Arc::default(),
        told: 0,
        is_over: false,
        _place: place,
    };
    Ok(kept_alive(tail.stream()))
}

fn last_event_id(headers: &HeaderMap) -> ApiResult<u64> {
    let Some(value) = headers.get("last-event-id") else { return Ok(0) };
    let id = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    id.ok_or_else(|| {
        ApiError::new(Code::InvalidRequest, "`Last-Event-ID` is the number of an event")
            .about("Last-Event-ID")
    })
}

/// One of the streams that may be open at once.
pub(crate) struct Place(Arc<App>);

impl Place {
    pub(crate) fn take(app: &Arc<App>) -> ApiResult<Self> {
        let place = Self(app.clone());
        let open = app.metrics.streams.fetch_add(1, Ordering::Relaxed) + 1;
        if open > i64::from(app.settings.max_streams) {
            app.metrics.refused.fetch_add(1, Ordering::Relaxed);
            return Err(ApiError::new(Code::Unavailable, "too many streams are open").retry_after(10));
        }
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.metrics.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Follows the events of a run in the store: what is told is what is committed, whoever did it.
struct Tail {
    app: Arc<App>,
    store: Store,
    run: RunId,
    /// The last event that was told.
    after: u64,
    changes: watch::Receiver<u64>,
    /// What was read, and how much of it was told.
    ready: Arc<Happened>,
    told: usize,
    is_over: bool,
    _place: Place,
}

/// What has happened to a run since an event.
#[derive(Debug, Default)]
pub(crate) struct Happened {
    events: Vec<Event>,
    /// Nothing more will.
    is_over: bool,
}

impl Tail {
    fn stream(self) -> impl Stream<Item = SseEvent> {
        futures::stream::unfold(self, |mut tail| async move { Some((tail.next().await?, tail)) })
    }

    async fn next(&mut self) -> Option<SseEvent> {
        loop {
            if let Some(event) = self.ready.events.get(self.told) {
                self.told += 1;
                self.after = event.id;
                return Some(told(event));
            }
            if self.is_over {
                return None;
            }
            match self.read().await {
                Ok(happened) => {
                    self.is_over = happened.is_over && happened.events.len() < PAGE as usize;
                    let idle = happened.events.is_empty();
                    (self.ready, self.told) = (happened, 0);
                    if idle && !self.is_over && !self.wait().await {
                        return None;
                    }
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(SseEvent::default().event("error").data(error.body().to_string()));
                }
            }
        }
    }

    /// What has happened since; read once for all who follow the run and are as far.
    async fn read(&mut self) -> ApiResult<Arc<Happened>> {
        self.changes.mark_unchanged();
        let (store, run, after) = (self.store.clone(), self.run.clone(), self.after);
        let question = (store.tenant().clone(), format!("{run} {after}"));
        // Asked in this order: an event that is committed between the two is read the next time.
        let read = self.app.blocking(move |_| {
            let is_active = store.job_of(&run)?.is_some_and(|job| job.state.is_active());
            let status = store.run(&run)?.status;
            let events = store.events(&run, after, PAGE)?;
            let is_over = !is_active && !matches!(status, RunStatus::Queued | RunStatus::Running);
            Ok(Happened { events, is_over })
        });
        self.app.known_events.get(question, || self.app.version(), read).await
    }

    /// Until there may be news; `false` when the server ends.
    async fn wait(&mut self) -> bool {
        let ending = self.app.ending.clone();
        tokio::select! {
            () = ending.cancelled() => return false,
            () = tokio::time::sleep(NOT_SOONER) => {}
        }
        tokio::select! {
            () = ending.cancelled() => false,
            _ = self.changes.changed() => true,
            () = tokio::time::sleep(LOOK_EVERY) => true,
        }
    }
}

fn told(event: &Event) -> SseEvent {
    let status = event.body.get("status").and_then(|status| status.as_str());
    let name = match (event.kind.as_str(), status) {
        ("run.status", Some("running")) => "run.started",
        ("run.status", Some("completed")) => "run.completed",
        (kind, _) => kind,
    };
    let body = json!({"id": event.id, "type": name, "created_ms": event.created_ms, "data": event.body});
    SseEvent::default().id(event.id.to_string()).event(name).data(body.to_string())
}
