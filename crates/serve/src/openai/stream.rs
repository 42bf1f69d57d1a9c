//! Answers as OpenAI streams them.

use std::convert::Infallible;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::{Stream, StreamExt};
use serde_json::Value;

use crate::error::ApiResult;

/// How often a stream without news says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Streams the chunks that `answer` comes to, and `[DONE]`. An error is an event like any other: whatever is
/// not JSON behind `data:`, clients do not see.
pub(crate) fn streamed(answer: impl Future<Output = ApiResult<Vec<Value>>> + Send + 'static) -> Response {
    let alive = KeepAlive::new().interval(KEEP_ALIVE).text("alive");
    Sse::new(events(answer)).keep_alive(alive).into_response()
}

fn events(
    answer: impl Future<Output = ApiResult<Vec<Value>>> + Send + 'static,
) -> impl Stream<Item = Result<Event, Infallible>> {
    let chunks = async {
        let chunks = answer.await.unwrap_or_else(|error| vec![error.body()]);
        let data = chunks.into_iter().map(|chunk| chunk.to_string()).chain(["[DONE]".to_owned()]);
        futures::stream::iter(data.map(|data| Ok(Event::default().data(data))))
    };
    futures::stream::once(chunks).flatten()
}
