//! Answers that are told claim by claim.

use std::sync::Arc;

use axum::response::Response;
use axum::response::sse::Event;
use evalign_rag::answer::{Answer, Claim};
use evalign_store::Store;
use futures::Stream;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::AnswerBody;
use super::asked::Question;
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::openai::stream::kept_alive;
use crate::routes::events::Place;

/// An event of an answer, as a stream writes it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct StreamedAnswer {
    /// `answer.claim`: one more was verified. `answer.withdrawn`: the claim of this `index`, and those after it, are no
    /// part of the answer. `answer`: all of it, as without `stream`; the last event. `error`: there is none; also the last.
    #[schema(pattern = "^(answer.claim|answer.withdrawn|answer|error)$")]
    event: String,
    /// Of a claim its `index` (from 0), `text` and `citations`; of an `error` what every failed request is answered.
    #[schema(content_media_type = "application/json")]
    data: String,
}

/// An answer as clients get it.
pub(crate) fn answer_object(answer: &Answer) -> Value {
    named("answer", json!(answer))
}

fn named(object: &str, fields: Value) -> Value {
    let mut named = json!({"object": object});
    if let (Some(named), Value::Object(fields)) = (named.as_object_mut(), fields) {
        named.extend(fields);
    }
    named
}

/// An answer that is being told, and who works on it.
struct Told {
    events: UnboundedReceiver<Event>,
    work: Option<JoinHandle<ApiResult<()>>>,
    _place: Place,
}

impl Told {
    fn stream(self) -> impl Stream<Item = Event> + Send {
        futures::stream::unfold(self, |mut told| async move { Some((told.next().await?, told)) })
    }

    async fn next(&mut self) -> Option<Event> {
        if let Some(event) = self.events.recv().await {
            return Some(event);
        }
        let ended = self.work.take()?.await.unwrap_or_else(|panicked| Err(panicked.into()));
        ended.err().map(|error| event("error", &error.body()))
    }
}

fn event(name: &str, data: &Value) -> Event {
    Event::default().event(name).data(data.to_string())
}

/// Who tells a client. What it does not take, as it has left, is nobody's loss.
struct Teller(UnboundedSender<Event>);

impl Teller {
    fn tell(&self, object: &str, fields: Value) {
        let _left = self.0.send(event(object, &named(object, fields)));
    }

    fn claim(&self, index: usize, claim: &Claim) {
        let Claim { text, citations, .. } = claim;
        self.tell("answer.claim", json!({"index": index, "text": text, "citations": citations}));
    }

    /// Tells claims as they are verified, then what stands in the answer otherwise, and the answer.
    async fn answer(&self, question: Question) -> ApiResult<()> {
        let mut told: Vec<Claim> = Vec::new();
        let mut hear = |claim: &Claim| {
            self.claim(told.len(), claim);
            told.push(claim.clone());
        };
        let answer = question.answered(Some(&mut hear)).await?;
        let stands: Vec<&Claim> = answer.claims.iter().filter(|claim| claim.supported).collect();
        let kept = told.iter().zip(&stands).take_while(|(told, stands)| told == *stands).count();
        if kept < told.len() {
            self.tell("answer.withdrawn", json!({"index": kept}));
        }
        for (index, claim) in stands.into_iter().enumerate().skip(kept) {
            self.claim(index, claim);
        }
        self.tell("answer", json!(answer));
        Ok(())
    }
}

/// Answers with the events of some work. Whoever leaves ends it.
fn telling<W>(app: &App, place: Place, work: impl FnOnce(Teller) -> W) -> Response
where
    W: Future<Output = ApiResult<()>> + Send + 'static,
{
    // Not bounded, as a model must not wait for a client that reads slowly; an answer is short.
    let (tell, events) = unbounded_channel();
    let (closing, left) = (app.closing.clone(), tell.clone());
    let work = work(Teller(tell));
    let work = tokio::spawn(async move {
        tokio::select! {
            told = work => told,
            () = left.closed() => Ok(()),
            () = closing.cancelled() => {
                Err(ApiError::new(Code::Unavailable, "the server is ending").retry_after(5))
            }
        }
    });
    kept_alive(Told { events, work: Some(work), _place: place }.stream())
}

impl App {
    /// An answer from an index as a stream of events.
    pub(crate) async fn tell_from_index(
        self: &Arc<Self>,
        store: &Store,
        id: &str,
        body: &AnswerBody,
    ) -> ApiResult<Response> {
        let place = Place::take(self)?;
        let question = self.question(store, id, body).await?;
        let app = self.clone();
        let answer = |teller: Teller| async move { app.placeless(teller.answer(question)).await };
        Ok(telling(self, place, answer))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::settings::{Layer, settings};

    fn app() -> (Arc<App>, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        let (settings, _) = settings(home.path(), None, &|_| None, Layer::default()).unwrap();
        let store = Store::open(home.path()).unwrap();
        (App::new(home.path(), store, settings).unwrap(), home)
    }

    async fn text(response: Response) -> String {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn who_leaves_ends_the_work() {
        let (app, _home) = app();
        let (held, let_go) = oneshot::channel::<()>();
        let endless = |_| async move {
            let _held = held;
            std::future::pending().await
        };
        let response = telling(&app, Place::take(&app).unwrap(), endless);
        drop(response);
        let_go.await.unwrap_err();
    }

    #[tokio::test]
    async fn promise_18_what_the_end_of_the_server_breaks_off_says_so() {
        let (app, _home) = app();
        let response = telling(&app, Place::take(&app).unwrap(), |_| std::future::pending());
        app.closing.cancel();
        let told = text(response).await;
        assert!(told.starts_with("event: error\n") && told.contains("the server is ending"), "{told}");
    }

    #[tokio::test]
    async fn work_that_panics_is_an_error_at_the_end_of_the_stream() {
        let (app, _home) = app();
        let panics = |teller: Teller| async move {
            teller.tell("answer.claim", json!({"index": 0}));
            panic!("for the test")
        };
        let told = text(telling(&app, Place::take(&app).unwrap(), panics)).await;
        let events: Vec<&str> = told.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
        assert_eq!(events, ["answer.claim", "error"], "{told}");
        assert!(told.contains("\"code\":\"internal_error\""), "{told}");
    }
}
