//! Answers as OpenAI streams them.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde_json::Value;

use crate::error::ApiResult;
use crate::openai::writing::{Part, Writing};

/// How often a stream without news says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// A piece of an answer, as a stream writes it.
#[derive(utoipa::ToSchema)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct StreamedChunk {
    /// A chunk as JSON, or what every failed request is answered; `[DONE]` comes last.
    data: String,
}

/// Streams chunks as they come, and `[DONE]`. An error is an event like any other, and the last: whatever is not
/// JSON behind `data:`, clients do not see.
pub(crate) fn streamed(chunks: impl Stream<Item = ApiResult<Value>> + Send + 'static) -> Response {
    let data = chunks.map(|chunk| chunk.unwrap_or_else(|error| error.body()).to_string());
    let data = data.chain(futures::stream::once(std::future::ready("[DONE]".to_owned())));
    kept_alive(data.map(|data| Event::default().data(data)))
}

/// A stream of events that says that it lives while there are none.
pub(crate) fn kept_alive(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let alive = KeepAlive::new().interval(KEEP_ALIVE).text("alive");
    Sse::new(events.map(Ok::<_, Infallible>)).keep_alive(alive).into_response()
}

/// How the parts of an answer are written down.
pub(crate) trait Chunks: Send + 'static {
    fn chunk(&mut self, part: Part) -> Value;

    /// What comes last, if anything.
    fn last(&mut self, usage: Value) -> Option<Value>;
}

/// The chunks of answers that are being written. Ends with the first error.
pub(crate) fn chunks(form: impl Chunks, writing: Writing) -> impl Stream<Item = ApiResult<Value>> + Send {
    futures::stream::try_unfold(Some((form, writing)), |state| async move {
        let Some((mut form, mut writing)) = state else { return Ok(None) };
        match writing.next().await? {
            Some(part) => {
                let chunk = form.chunk(part);
                Ok(Some((chunk, Some((form, writing)))))
            }
            None => Ok(form.last(writing.used()).map(|last| (last, None))),
        }
    })
}
