use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use evalign_core::Hint;
use evalign_fetch::FetchError;
use evalign_lm::LmError;

/// Who or what is at fault, and so what a caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request: it will never be answered. Record it and go on.
    Permanent,
    /// The moment: the same request may succeed later.
    Retryable,
    /// The model: no request can be answered. Stop; what is unanswered can be asked again another time.
    Unavailable,
}

/// Why a model could not be had or a request not be answered. Cloneable, because one failure may answer
/// many requests.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ModelError {
    #[error(transparent)]
    Fetch(Arc<FetchError>),
    #[error(transparent)]
    Engine(Arc<LmError>),
    /// The model or this build cannot do what is asked of it.
    #[error("{model}: {what}")]
    Unsupported { model: String, what: String, hint: Option<String> },
    /// The prompt leaves no room in the context, and nothing may be cut from it.
    #[error("the request needs {tokens} tokens, the model's context holds {context}")]
    TooLong { tokens: usize, context: usize },
    /// A request that cannot be answered as it is.
    #[error("{0}")]
    Request(String),
    /// A passing failure.
    #[error("{0}")]
    Temporary(String),
    /// The file of a scripted model.
    #[error("{}: {detail}", path.display())]
    Script { path: PathBuf, detail: String },
    /// A server answered, and not with what it was asked for.
    #[error(transparent)]
    Server(Arc<ServerError>),
    /// No whole answer came from a server.
    #[error("{server}: {detail}")]
    Transport { server: String, failure: TransportFailure, detail: String },
    /// A file of settings for a model, with the line and the field where they are known.
    #[error("{}: {detail}", path.display())]
    Settings { path: PathBuf, detail: String },
    /// A passing failure that did not pass.
    #[error("{last} ({attempts} attempts)")]
    GaveUp {
        attempts: u32,
        last: Arc<Self>,
        /// No other request was answered meanwhile either.
        gone: bool,
    },
    /// Of the requests that one answer takes, one failed.
    #[error("{why} (one of {parts} requests that make this answer)")]
    Part {
        parts: usize,
        /// Made for all of them, those that failed or were asked again included.
        requests: u32,
        why: Arc<Self>,
    },
    /// What may be spent is spent. Holds what was reached.
    #[error("the budget is exhausted: {0}")]
    BudgetExhausted(String),
}

/// What a server said instead of an answer. Its text is on one line, cut, and without the key.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{server} answered HTTP {status}{}: {message}", code.as_deref().map(|code| format!(" ({code})")).unwrap_or_default())]
pub struct ServerError {
    /// The address that was asked, without credentials.
    pub server: String,
    pub status: u16,
    /// `error.code` or `error.type` of the answer, where it has one.
    pub code: Option<String>,
    pub message: String,
    /// `Retry-After`, as time from when the answer came. Not capped.
    pub retry_after: Option<Duration>,
    pub kind: ErrorKind,
    /// It has no model of this name.
    pub unknown_model: bool,
    pub hint: Option<String>,
}

/// How an answer failed to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransportFailure {
    /// Name lookup, TCP or TLS, or none of it in time.
    Connect,
    /// A deadline passed: between two pieces of an answer, or for the whole call.
    Timeout,
    /// The connection broke before an answer began.
    Reset,
    /// The answer ended before it was complete.
    Truncated,
    /// The answer is not what its protocol says, or not JSON.
    Malformed,
    /// The answer is longer than any answer can be.
    TooLarge,
}

impl ModelError {
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLong { .. } | Self::Request(_) => ErrorKind::Permanent,
            Self::Temporary(_) => ErrorKind::Retryable,
            // Of a model that is loaded, these concern one prompt: its ids, its text, its conversation.
            Self::Engine(error)
                if matches!(
                    **error,
                    LmError::Request(_) | LmError::Tokenizer(_) | LmError::ChatTemplate(_)
                ) =>
            {
                ErrorKind::Permanent
            }
            Self::Server(error) => error.kind,
            Self::Transport { failure: TransportFailure::TooLarge, .. } => ErrorKind::Permanent,
            Self::Transport { .. } => ErrorKind::Retryable,
            Self::GaveUp { last, gone: false, .. } => last.kind(),
            Self::Part { why, .. } => why.kind(),
            Self::GaveUp { gone: true, .. }
            | Self::Fetch(_)
            | Self::BudgetExhausted(_)
            | Self::Engine(_)
            | Self::Unsupported { .. }
            | Self::Script { .. }
            | Self::Settings { .. } => ErrorKind::Unavailable,
        }
    }

    pub(crate) fn is_no_connection(&self) -> bool {
        matches!(self, Self::Transport { failure: TransportFailure::Connect, .. })
    }

    /// How long the server asks to be left alone, from when its answer came. Not capped.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Server(error) => error.retry_after,
            _ => None,
        }
    }

    /// Requests to a server that were made before this was the outcome.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        match self {
            Self::GaveUp { attempts, .. } => *attempts,
            Self::Part { requests, .. } => *requests,
            Self::Server(_) | Self::Transport { .. } => 1,
            _ => 0,
        }
    }

    /// The HTTP status, where a server answered.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Server(error) => Some(error.status),
            _ => None,
        }
    }
}

impl Hint for ModelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fetch(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Server(error) => error.hint.clone(),
            Self::GaveUp { last, .. } => last.hint(),
            Self::Part { why, .. } => why.hint(),
            Self::BudgetExhausted(_) => Some("go on with `evalign resume RUN` and a larger budget; it counts all sessions of the run".to_owned()),
            Self::Unsupported { hint, .. } => hint.clone(),
            Self::TooLong { .. } => Some(
                "use fewer shots or a model with a longer context; `--compat lm-eval` cuts prompts from the left"
                    .to_owned(),
            ),
            Self::Script { .. } => {
                Some("a scripted model is one JSON object, for example {\"seed\": 1, \"rules\": []}".to_owned())
            }
            Self::Transport {
                failure: TransportFailure::Connect | TransportFailure::Malformed | TransportFailure::Reset,
                ..
            } => {
                Some("check that the server runs and that `--base-url` or OPENAI_BASE_URL names it".to_owned())
            }
            Self::Transport { failure: TransportFailure::Timeout, .. } => Some(
                "a slow model needs a longer `idle_timeout_secs` in its settings file, or `stream: true`".to_owned(),
            ),
            Self::Settings { .. } => {
                Some("docs/model-servers.md lists the fields of settings files and price tables".to_owned())
            }
            Self::Transport { .. } | Self::Request(_) | Self::Temporary(_) => None,
        }
    }
}

impl From<FetchError> for ModelError {
    fn from(error: FetchError) -> Self {
        Self::Fetch(Arc::new(error))
    }
}

impl From<LmError> for ModelError {
    fn from(error: LmError) -> Self {
        Self::Engine(Arc::new(error))
    }
}

impl From<ServerError> for ModelError {
    fn from(error: ServerError) -> Self {
        Self::Server(Arc::new(error))
    }
}
