use std::collections::VecDeque;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use futures::stream;
use serde_json::json;

use super::fault::{ErrorBody, RetryAfter, What, usual_words};
use super::ledger::{Outcome, Ticket};
use super::wire::Hold;

/// Long enough for what was written to reach the peer before the connection is torn down.
const UNTIL_ARRIVED: Duration = Duration::from_millis(20);

/// What a stalled server waits for: longer than any test.
const FOREVER: Duration = Duration::from_secs(24 * 3600);

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";

/// A page as proxies and captive portals show it.
const PAGE: &str =
    "<!DOCTYPE html>\n<html><head><title>Welcome</title></head>\n<body><h1>It works!</h1></body></html>\n";

/// How an answer goes over the wire: a status line, headers, and a body in steps. Faults edit it.
#[derive(Debug)]
pub(super) struct Delivery {
    status: u16,
    content_type: String,
    headers: Vec<(&'static str, String)>,
    /// `Content-Length`; without it the body is chunked.
    length: Option<u64>,
    steps: VecDeque<Step>,
    /// What the ledger says once the last step is done.
    outcome: Outcome,
}

#[derive(Clone, Debug)]
enum Step {
    Send(Bytes),
    Wait(Duration),
    /// The connection is closed in order, although the body is not at its end.
    Close,
    Reset,
}

impl Delivery {
    fn new(status: u16, content_type: &str, body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let outcome = if status == 200 { Outcome::Answered } else { Outcome::Status(status) };
        Self {
            status,
            content_type: content_type.to_owned(),
            headers: Vec::new(),
            length: Some(body.len() as u64),
            steps: VecDeque::from([Step::Send(body)]),
            outcome,
        }
    }

    pub(super) fn json(body: impl Into<Bytes>) -> Self {
        Self::new(200, JSON, body)
    }

    /// A stream with its `[DONE]`.
    pub(super) fn events(events: &[String]) -> Self {
        let done = "[DONE]".to_owned();
        let steps = events.iter().chain([&done]);
        let steps = steps.map(|event| Step::Send(Bytes::from(format!("data: {event}\n\n")))).collect();
        Self { length: None, steps, ..Self::new(200, EVENTS, "") }
    }

    /// An error as its server writes it.
    pub(super) fn error(
        status: u16,
        code: Option<&str>,
        param: Option<&str>,
        message: Option<&str>,
        body: ErrorBody,
    ) -> Self {
        let (kind, usual_code, usual_message) = usual_words(status);
        let (code, message) = (code.unwrap_or(usual_code), message.unwrap_or(usual_message));
        let kind = if code == "insufficient_quota" { code } else { kind };
        match body {
            ErrorBody::OpenAi => {
                let error = json!({"message": message, "type": kind, "param": param, "code": code});
                Self::new(status, JSON, json!({"error": error}).to_string())
            }
            ErrorBody::Flat => {
                let error = json!({"object": "error", "message": message, "type": kind, "param": param, "code": status});
                Self::new(status, JSON, error.to_string())
            }
            ErrorBody::Detail => Self::new(status, JSON, json!({"detail": message}).to_string()),
            ErrorBody::Html => Self::new(status, "text/html", format!("{PAGE}<!-- {status} {message} -->\n")),
            ErrorBody::Empty => Self::new(status, "text/plain", ""),
        }
    }

    pub(super) fn retry_after(mut self, retry_after: Option<&RetryAfter>) -> Self {
        self.headers.extend(retry_after.map(RetryAfter::header));
        self
    }

    fn is_stream(&self) -> bool {
        self.content_type == EVENTS
    }

    /// Spoils what goes over the wire. What concerns the answer's content has been done before.
    pub(super) fn spoil(mut self, what: &What, hold: &Hold) -> Self {
        self.outcome = Outcome::Spoiled;
        match what {
            What::Status { status, retry_after, code, message, body } => {
                let refused = Self::error(*status, code.as_deref(), None, message.as_deref(), *body);
                return refused.retry_after(retry_after.as_ref());
            }
            What::Redirect { location } => {
                let mut away = Self::new(307, "text/plain", "");
                away.headers.push(("location", location.clone()));
                return away;
            }
            What::StallMidBody => self.break_off(&[Step::Wait(FOREVER)]),
            What::TruncateBody => self.break_off(&[Step::Wait(UNTIL_ARRIVED), Step::Close]),
            What::ResetMidBody => self.break_off(&[Step::Wait(UNTIL_ARRIVED), Step::Reset]),
            What::EndStream { after_events } if self.is_stream() => self.steps.truncate(*after_events),
            What::EndStream { .. } => self.break_off(&[Step::Wait(UNTIL_ARRIVED), Step::Close]),
            What::NoDone if self.is_stream() => drop(self.steps.pop_back()),
            What::ErrorEvent => {
                let error = json!({"message": "The engine died.", "type": "server_error", "code": 500});
                let event = format!("data: {}\n\n", json!({"error": error}));
                self.break_off(&[Step::Send(Bytes::from(event))]);
            }
            What::Reset => hold.reset(),
            What::NotHttp { bytes } => hold.write_instead(bytes),
            What::Slow { pieces, pause_ms } => {
                self.outcome = Outcome::Answered;
                self.slow_down(*pieces, Duration::from_millis(*pause_ms));
            }
            What::MalformedJson => self.malform(),
            What::ContentType { content_type } => content_type.clone_into(&mut self.content_type),
            What::Html => {
                self = Self { outcome: Outcome::Spoiled, ..Self::new(200, "text/html", PAGE) };
            }
            What::HugeBody { bytes } => self.blow_up(*bytes),
            What::WrongLength { difference } => {
                let said = self.length.unwrap_or_else(|| self.bytes()).saturating_add_signed(*difference);
                self.length = Some(said);
            }
            // Done before the answer was written, or nothing to do on an answer that is no stream.
            What::NoDone
            | What::StallBeforeHeaders
            | What::DuplicateChoices
            | What::EmptyChoices
            | What::NullContent => {}
            // Whole answers that say something else.
            What::Declined | What::Filtered | What::Usage { .. } => self.outcome = Outcome::Answered,
            What::Delay { .. } => self.outcome = Outcome::Answered,
        }
        self
    }

    fn bytes(&self) -> u64 {
        self.sent().map(|bytes| bytes.len() as u64).sum()
    }

    fn sent(&self) -> impl Iterator<Item = &Bytes> {
        self.steps.iter().filter_map(|step| match step {
            Step::Send(bytes) => Some(bytes),
            Step::Wait(_) | Step::Close | Step::Reset => None,
        })
    }

    /// Half of the body, then something else.
    fn break_off(&mut self, then: &[Step]) {
        let whole: Vec<u8> = self.sent().flatten().copied().collect();
        let half = whole.get(..whole.len() / 2).unwrap_or_default();
        self.steps = VecDeque::from([Step::Send(Bytes::copy_from_slice(half))]);
        self.steps.extend(then.iter().cloned());
    }

    fn slow_down(&mut self, pieces: usize, pause: Duration) {
        let whole: Bytes = self.sent().flatten().copied().collect::<Vec<u8>>().into();
        let size = whole.len().div_ceil(pieces.max(1)).max(1);
        self.steps.clear();
        for start in (0..whole.len()).step_by(size) {
            self.steps.push_back(Step::Wait(pause));
            self.steps.push_back(Step::Send(whole.slice(start..whole.len().min(start + size))));
        }
    }

    /// Cuts the document (or every event but the last) short; the transfer is in order.
    fn malform(&mut self) {
        for step in &mut self.steps {
            if let Step::Send(bytes) = step
                && !bytes.starts_with(b"data: [DONE]")
            {
                let kept = bytes.slice(..bytes.len() * 2 / 3);
                let end: &[u8] = if kept.starts_with(b"data:") { b"\n\n" } else { b"" };
                *bytes = [&kept, end].concat().into();
            }
        }
        self.length = self.length.map(|_| self.bytes());
    }

    /// A document with one very long text, written from one small block.
    fn blow_up(&mut self, bytes: u64) {
        const BLOCK: usize = 64 << 10;
        let [before, after] = if self.is_stream() {
            ["data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"", "\"}}]}\n\ndata: [DONE]\n\n"]
        } else {
            [
                "{\"id\":\"huge\",\"object\":\"chat.completion\",\"created\":0,\"model\":\"scripted\",\"choices\":[{\"index\":0,\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"",
                "\"}}]}",
            ]
        };
        let block = Bytes::from(vec![b'a'; BLOCK]);
        let whole = usize::try_from(bytes / BLOCK as u64).unwrap_or(usize::MAX);
        let rest = usize::try_from(bytes % BLOCK as u64).unwrap_or(0);
        self.steps = VecDeque::from([Step::Send(Bytes::from(before))]);
        self.steps.extend(std::iter::repeat_n(Step::Send(block.clone()), whole));
        self.steps.extend([Step::Send(block.slice(..rest)), Step::Send(Bytes::from(after))]);
        self.length = self.length.map(|_| bytes + (before.len() + after.len()) as u64);
    }

    /// The response, whose body holds the ticket until its end.
    pub(super) fn into_response(self, ticket: Ticket, hold: Hold) -> Response<Body> {
        let mut builder = Response::builder()
            .status(StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
            .header(header::CONTENT_TYPE, self.content_type);
        for (name, value) in self.headers {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                builder = builder.header(name, value);
            }
        }
        if let Some(length) = self.length {
            builder = builder.header(header::CONTENT_LENGTH, length);
        }
        let state = Sending { steps: self.steps, outcome: self.outcome, ticket, hold };
        let body = Body::from_stream(stream::unfold(state, Sending::next));
        builder.body(body).unwrap_or_default()
    }
}

struct Sending {
    steps: VecDeque<Step>,
    outcome: Outcome,
    ticket: Ticket,
    hold: Hold,
}

impl Sending {
    async fn next(mut self) -> Option<(std::io::Result<Bytes>, Self)> {
        loop {
            // With the last byte: a client that has read `Content-Length` of them does not wait for more,
            // and may ask again before the end of the body is seen here.
            if self.steps.len() <= 1 && matches!(self.steps.front(), Some(Step::Send(_)) | None) {
                self.ticket.end(self.outcome);
            }
            match self.steps.pop_front()? {
                Step::Send(bytes) if bytes.is_empty() => {}
                Step::Send(bytes) => return Some((Ok(bytes), self)),
                Step::Wait(time) => tokio::time::sleep(time).await,
                Step::Close => {
                    self.ticket.end(self.outcome);
                    let error = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
                    return Some((Err(error), self));
                }
                Step::Reset => {
                    self.ticket.end(self.outcome);
                    self.hold.reset();
                    let error = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    return Some((Err(error), self));
                }
            }
        }
    }
}
