use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use async_openai::error::OpenAIError;
use async_openai::middleware::HttpRequestFactory;
use bytes::{Bytes, BytesMut};
use evalign_fetch::network_error;
use futures::future::BoxFuture;
use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap};
use reqwest::{Body, Request, Response, ResponseBuilderExt, Url};
use serde_json::value::RawValue;

use crate::error::{ModelError, TransportFailure};
use crate::openai::endpoint::Endpoint;
use crate::openai::events::{EventDecoder, event};
use crate::openai::refusal::{not_a_model_server, refusal};

pub(super) const EVENTS: &str = "text/event-stream";

/// Most bytes of an answer: a scored prompt of 100,000 tokens, four times over, with the 80 bytes or so
/// that servers write about each token.
const MOST_BYTES: usize = 32 << 20;

/// Most bytes of a refusal that are read; the rest stays where it is.
const MOST_REFUSAL_BYTES: usize = 64 << 10;

/// In front of errors that travel through the library's streams, which keep an error's text only.
const OURS: &str = "evalign: ";

/// Our HTTP service: sends a request once, reads the answer within bounds, and lets only whole JSON
/// documents and clean events through to the library.
#[derive(Clone)]
pub(super) struct Transport(Arc<Inner>);

struct Inner {
    endpoint: Arc<Endpoint>,
    http: reqwest::Client,
    proven: AtomicBool,
}

impl Transport {
    pub(super) fn new(endpoint: Arc<Endpoint>, http: reqwest::Client) -> Self {
        Self(Arc::new(Inner { endpoint, http, proven: AtomicBool::new(false) }))
    }

    pub(super) fn is_proven(&self) -> bool {
        self.0.proven.load(Ordering::Relaxed)
    }

    pub(super) fn prove(&self) {
        self.0.proven.store(true, Ordering::Relaxed);
    }
}

impl tower_service::Service<HttpRequestFactory> for Transport {
    type Response = Response;
    type Error = OpenAIError;
    type Future = BoxFuture<'static, Result<Response, OpenAIError>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), OpenAIError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, factory: HttpRequestFactory) -> Self::Future {
        let inner = self.0.clone();
        Box::pin(async move {
            let request = factory.build().await?;
            inner.exchange(request).await.map_err(|error| OpenAIError::Boxed(Box::new(error)))
        })
    }
}

impl Inner {
    async fn exchange(&self, request: Request) -> Result<Response, ModelError> {
        let wants_events = request.headers().get(ACCEPT).is_some_and(|accepted| accepted == EVENTS);
        let response = self.http.execute(request).await;
        let mut response =
            response.map_err(|error| broken(&self.endpoint, error, TransportFailure::Reset))?;
        let (status, headers) = (response.status(), std::mem::take(response.headers_mut()));
        let proven = self.proven.load(Ordering::Relaxed);
        if !status.is_success() {
            let body = self.read(response, MOST_REFUSAL_BYTES, true).await?;
            return Err(refusal(&self.endpoint, proven, status, &headers, &body));
        }
        if wants_events && content_type(&headers).starts_with(EVENTS) {
            return Ok(cleaned(response));
        }
        let url = response.url().clone();
        let body = self.read(response, MOST_BYTES, false).await?;
        if let Err(error) = serde_json::from_slice::<&RawValue>(&body) {
            return Err(self.no_json(proven, &headers, status.as_u16(), &body, &error));
        }
        // A server that does not stream has sent everything as one document: one event.
        let body = if wants_events { Bytes::from([event(&body), event(b"[DONE]")].concat()) } else { body };
        Ok(answer(url, body))
    }

    /// A body of at most `most` bytes. What is beyond them is an error, or with `cut` left out.
    async fn read(&self, mut response: Response, most: usize, cut: bool) -> Result<Bytes, ModelError> {
        let too_large =
            || self.failure(TransportFailure::TooLarge, &format!("the answer is longer than {most} bytes"));
        if !cut && response.content_length().is_some_and(|length| length > most as u64) {
            return Err(too_large());
        }
        let mut first: Option<Bytes> = None;
        let mut whole = BytesMut::new();
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) if whole.is_empty() && first.is_none() => first = Some(chunk),
                Ok(Some(chunk)) => {
                    if let Some(first) = first.take() {
                        whole.extend_from_slice(&first);
                    }
                    whole.extend_from_slice(&chunk);
                }
                Ok(None) => break,
                // A refusal is one even where its text is incomplete.
                Err(_) if cut => break,
                Err(error) => return Err(broken(&self.endpoint, error, TransportFailure::Truncated)),
            }
            let length = first.as_ref().map_or(whole.len(), Bytes::len);
            if length > most && cut {
                break;
            } else if length > most {
                return Err(too_large());
            }
        }
        let body = first.unwrap_or_else(|| whole.freeze());
        Ok(body.slice(..body.len().min(most)))
    }

    /// An answer with a good status that is no JSON: an accident of a server that is known, otherwise the
    /// wrong address.
    fn no_json(
        &self,
        proven: bool,
        headers: &HeaderMap,
        status: u16,
        body: &[u8],
        error: &serde_json::Error,
    ) -> ModelError {
        let kind = content_type(headers);
        let begins = body.iter().copied().find(|byte| !byte.is_ascii_whitespace());
        if !proven && !matches!(begins, Some(b'{' | b'[')) {
            let what = match (kind.as_str(), begins) {
                (_, None) => "its answer is empty".to_owned(),
                ("", _) => "its answer is not JSON".to_owned(),
                (kind, _) => format!("its answer is not JSON but {kind}"),
            };
            return not_a_model_server(&self.endpoint, status, &what);
        }
        let position = format!("line {} column {}", error.line(), error.column());
        let failure = if error.is_eof() { TransportFailure::Truncated } else { TransportFailure::Malformed };
        self.failure(
            failure,
            &format!("the answer ({} bytes of `{kind}`) is not JSON: wrong at {position}", body.len()),
        )
    }

    fn failure(&self, failure: TransportFailure, detail: &str) -> ModelError {
        ModelError::Transport {
            server: self.endpoint.place.clone(),
            failure,
            detail: self.endpoint.shown(detail),
        }
    }
}

/// A response as the library takes it. Without its address, reqwest would parse one made up for it.
fn answer(url: Url, body: impl Into<Body>) -> Response {
    let mut response = http::Response::new(body);
    if let Ok(addressed) = http::Response::builder().url(url).body(()) {
        *response.extensions_mut() = addressed.into_parts().0.extensions;
    }
    response.into()
}

fn content_type(headers: &HeaderMap) -> String {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The event stream of a response, with bounds, checked, and each event on one line.
fn cleaned(response: Response) -> Response {
    let url = response.url().clone();
    struct Cleaning {
        response: Option<Response>,
        decoder: EventDecoder,
        ready: VecDeque<Vec<u8>>,
        bytes: usize,
    }
    let state = Cleaning {
        response: Some(response),
        decoder: EventDecoder::default(),
        ready: VecDeque::new(),
        bytes: 0,
    };
    let stream = futures::stream::unfold(state, |mut state| async move {
        loop {
            if let Some(data) = state.ready.pop_front() {
                if data != b"[DONE]" && serde_json::from_slice::<&RawValue>(&data).is_err() {
                    state.ready.clear();
                    state.response = None;
                    return Some((Err(said("an event is not JSON")), state));
                }
                return Some((Ok(event(&data)), state));
            }
            let chunk = match state.response.as_mut()?.chunk().await {
                Ok(Some(chunk)) => chunk,
                // The library stops reading at `[DONE]`, so nobody asks for more after it.
                Ok(None) => {
                    state.response = None;
                    return Some((Err(said("it ended without [DONE]")), state));
                }
                Err(error) => {
                    state.response = None;
                    let why =
                        if error.is_timeout() { "nothing came for too long" } else { "the connection broke" };
                    return Some((Err(said(why)), state));
                }
            };
            state.bytes += chunk.len();
            let mut events = Vec::new();
            let fits =
                state.decoder.feed(&chunk, MOST_BYTES, &mut events).is_ok() && state.bytes <= MOST_BYTES;
            state.ready.extend(events);
            if !fits {
                state.ready.clear();
                state.response = None;
                return Some((Err(said("the answer is too long")), state));
            }
        }
    });
    answer(url, Body::wrap_stream(stream))
}

fn said(what: &str) -> std::io::Error {
    std::io::Error::other(format!("{OURS}{what}"))
}

/// What a stream's error says, without the library's words around ours.
pub(super) fn stream_error(text: &str) -> String {
    let ours = text.split(OURS).nth(1).map(|ours| ours.trim_end_matches([')', '"']));
    format!("the stream broke off: {}", ours.unwrap_or(text))
}

/// An error of the HTTP client. `otherwise` is what it is when it is neither of connecting nor of time.
pub(super) fn broken(endpoint: &Endpoint, error: reqwest::Error, otherwise: TransportFailure) -> ModelError {
    let failure = match (error.is_connect(), error.is_timeout()) {
        (true, _) => TransportFailure::Connect,
        (false, true) => TransportFailure::Timeout,
        (false, false) => otherwise,
    };
    let detail = match failure {
        TransportFailure::Connect if error.is_timeout() => {
            format!("no connection within {} s", endpoint.deadlines.connect.as_secs_f64())
        }
        TransportFailure::Timeout => format!("no answer for {} s", endpoint.deadlines.idle.as_secs_f64()),
        TransportFailure::Truncated => format!("the answer ended early: {}", network_error(error)),
        _ => network_error(error),
    };
    let detail = endpoint.shown(&detail);
    ModelError::Transport { server: endpoint.place.clone(), failure, detail }
}
