use std::num::NonZeroU64;

use serde::{Deserialize, Serialize};

use super::answer::{hash, unit};
use super::ledger::Ticket;
use super::route::Route;

/// Something that goes wrong with the requests it applies to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    #[serde(default)]
    pub when: When,
    pub what: What,
}

/// Which requests: all conditions that are given must hold.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// The prompt contains this.
    pub text: Option<String>,
    pub route: Option<Route>,
    /// The request is one of the first so many with its content: a retry passes.
    pub first_attempts: Option<u32>,
    /// About one content in so many, the same ones in every run.
    pub every: Option<NonZeroU64>,
    /// By chance, drawn for each attempt from the server's seed, the content and the attempt.
    pub probability: Option<f64>,
    /// Position among all requests the server got, from 0: the first affected, and the first after
    /// those that is not.
    pub ordinals: Option<[u64; 2]>,
}

impl When {
    /// Every request.
    #[must_use]
    pub fn always() -> Self {
        Self::default()
    }

    /// The first so many requests with the same content.
    #[must_use]
    pub fn first_attempts(attempts: u32) -> Self {
        Self { first_attempts: Some(attempts), ..Self::default() }
    }

    /// Prompts that contain a text.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { text: Some(text.to_owned()), ..Self::default() }
    }

    /// Each attempt with this probability.
    #[must_use]
    pub fn probability(probability: f64) -> Self {
        Self { probability: Some(probability), ..Self::default() }
    }

    pub(super) fn holds(&self, seed: u64, ticket: &Ticket) -> bool {
        let content = ticket.content.as_str();
        self.text.as_ref().is_none_or(|text| ticket.text.contains(text))
            && self.route.is_none_or(|route| route == ticket.route)
            && self.first_attempts.is_none_or(|attempts| ticket.attempt <= attempts)
            && self.every.is_none_or(|every| hash(&["every", content]).is_multiple_of(every.get()))
            && self.probability.is_none_or(|probability| {
                let attempt = ticket.attempt.to_string();
                unit(&["chance", &seed.to_string(), content, &attempt]) < probability
            })
            && self.ordinals.is_none_or(|[first, end]| (first..end).contains(&ticket.ordinal))
    }
}

/// What happens.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum What {
    /// Another status than 200. `code` and `message` default to what OpenAI says with that status.
    Status {
        status: u16,
        #[serde(default)]
        retry_after: Option<RetryAfter>,
        #[serde(default)]
        code: Option<String>,
        #[serde(default)]
        message: Option<String>,
        #[serde(default)]
        body: ErrorBody,
    },
    /// 307 to another address, to which a request with a key must not be carried on its own.
    Redirect {
        location: String,
    },
    /// Nothing at all comes, and the connection stays.
    StallBeforeHeaders,
    /// Half of the body comes, and the connection stays.
    StallMidBody,
    /// Half of the body comes, and the connection is closed in order.
    TruncateBody,
    /// A stream ends in order after so many events, without finish reason and `[DONE]`. On an answer
    /// that is no stream: [`What::TruncateBody`].
    EndStream {
        after_events: usize,
    },
    /// A stream that is whole but for `[DONE]`.
    NoDone,
    /// An error object as an event in the middle of a stream.
    ErrorEvent,
    /// RST before any answer.
    Reset,
    /// RST after half of the body.
    ResetMidBody,
    /// The body comes in so many pieces with a pause before each.
    Slow {
        pieces: usize,
        pause_ms: u64,
    },
    /// So much longer until the first byte.
    Delay {
        ms: u64,
    },
    /// The body is cut JSON, in a response that is otherwise in order.
    MalformedJson,
    /// The right body under another content type.
    ContentType {
        content_type: String,
    },
    /// 200 with an HTML page, as behind a captive portal or on a wrong base URL.
    Html,
    /// An answer whose text is this long (the server holds no more than 64 KiB of it).
    HugeBody {
        bytes: u64,
    },
    /// `Content-Length` says so many bytes more (or fewer) than there are.
    WrongLength {
        difference: i64,
    },
    /// Every choice twice, with the same index.
    DuplicateChoices,
    EmptyChoices,
    /// `content` (or `text`) is null.
    NullContent,
    /// The model declines: the text is its `message.refusal`, and its content is null.
    Declined,
    /// A filter ends the answer: its finish reason is `content_filter`.
    Filtered,
    /// The answer's `usage` is this, whatever it is.
    Usage {
        usage: serde_json::Value,
    },
    /// These bytes instead of HTTP.
    NotHttp {
        bytes: String,
    },
}

/// How an error is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorBody {
    /// `{"error": {"message", "type", "param", "code"}}`
    #[default]
    OpenAi,
    /// `{"object": "error", "message", "type", "code": 400}`, as older vLLM.
    Flat,
    /// `{"detail": "..."}`, as FastAPI.
    Detail,
    /// A proxy's page.
    Html,
    Empty,
}

/// The forms of `Retry-After`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RetryAfter {
    Seconds(u64),
    /// An HTTP date so many seconds from now (RFC 9110, section 5.6.7).
    DateInSeconds(i64),
    /// `retry-after-ms`, as Azure and OpenAI send beside the other.
    Milliseconds(u64),
    /// Anything: garbage, negative, huge.
    Literal(String),
}

impl RetryAfter {
    /// Name and value of the header.
    pub(super) fn header(&self) -> (&'static str, String) {
        match self {
            Self::Seconds(seconds) => ("retry-after", seconds.to_string()),
            Self::DateInSeconds(seconds) => {
                let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(*seconds);
                let date = jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at);
                ("retry-after", date.unwrap_or_default())
            }
            Self::Milliseconds(milliseconds) => ("retry-after-ms", milliseconds.to_string()),
            Self::Literal(text) => ("retry-after", text.clone()),
        }
    }
}

/// What OpenAI says with a status: type, code and message.
pub(super) fn usual_words(status: u16) -> (&'static str, &'static str, &'static str) {
    match status {
        400 => ("invalid_request_error", "invalid_value", "The request is not valid."),
        401 => ("invalid_request_error", "invalid_api_key", "Incorrect API key provided."),
        403 => ("permission_error", "permission_denied", "You may not use this model."),
        404 => ("invalid_request_error", "model_not_found", "The model does not exist."),
        408 => ("timeout", "timeout", "The request took too long."),
        409 => ("conflict", "conflict", "The resource was changed by another request."),
        422 => ("invalid_request_error", "unprocessable", "The request could not be processed."),
        429 => ("requests", "rate_limit_exceeded", "Rate limit reached. Please try again later."),
        529 => ("overloaded_error", "overloaded", "The model is overloaded."),
        _ => ("server_error", "internal_error", "The server had an error while processing your request."),
    }
}
