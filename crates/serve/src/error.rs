//! What can go wrong, at the start and in a request.

mod code;
mod words;

use axum::response::{IntoResponse, Response};
use evalign_bench::{BenchError, RunError};
use evalign_core::Hint;
use evalign_data::DataError;
use evalign_fetch::FetchError;
use evalign_judge::JudgeError;
use evalign_model::{ErrorKind, ModelError};
use evalign_rag::{RagError, StoreFault};
use evalign_store::{Fault, StoreError};
use evalign_train::TrainError;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

pub(crate) use code::Code;
use words::in_rest_words;

/// Why the service does not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("{place}: {detail}")]
    Setting { place: String, detail: String },
    #[error("{source}")]
    File { source: std::io::Error },
    #[error("cannot listen on {address}: {source}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    /// Others could reach it, and nobody has a key.
    #[error("{address} can be reached from other machines, and no key exists")]
    Open { address: std::net::SocketAddr },
    #[error("another evalign server works on {}", home.display())]
    Taken { home: std::path::PathBuf },
    #[error("the system gives no random numbers: {0}")]
    Random(String),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Data(#[from] DataError),
}

impl ServeError {
    #[expect(clippy::needless_pass_by_value, reason = "called with texts as they come")]
    pub(crate) fn setting(place: impl ToString, detail: impl ToString) -> Self {
        Self::Setting { place: place.to_string(), detail: detail.to_string() }
    }
}

impl Hint for ServeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Setting { .. } => {
                Some("`evalign config show` lists all settings; docs/service.md explains them".to_owned())
            }
            Self::Listen { .. } => Some("choose another one with `--address`".to_owned()),
            Self::Open { .. } => {
                Some("make one first, `evalign keys create --scope admin`, or listen on 127.0.0.1".to_owned())
            }
            Self::Taken { .. } => {
                Some("end it, or give this one a home of its own: set EVALIGN_HOME".to_owned())
            }
            Self::Store(error) => error.hint(),
            Self::Bench(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::File { .. } | Self::Random(_) => None,
        }
    }
}

/// An answer that is none: what every failed request gets, in OpenAI's shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) code: Code,
    pub(crate) message: String,
    /// The field that is at fault.
    pub(crate) param: Option<String>,
    pub(crate) retry_after_secs: Option<u64>,
}

pub(crate) type ApiResult<T> = Result<T, ApiError>;

impl ApiError {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), param: None, retry_after_secs: None }
    }

    pub(crate) fn about(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    pub(crate) fn retry_after(mut self, secs: u64) -> Self {
        self.retry_after_secs = Some(secs.max(1));
        self
    }

    pub(crate) fn not_found(what: &str, id: &str) -> Self {
        Self::new(Code::NotFound, format!("there is no {what} `{}`", shown(id)))
    }

    /// Something that is our fault: the client learns that, the log learns what.
    pub(crate) fn internal(what: impl std::fmt::Display) -> Self {
        tracing::error!(error = %what, "a request failed");
        Self::new(Code::Internal, "this is a fault of the server; its log has the request's id")
    }

    /// The body of the answer.
    pub(crate) fn body(&self) -> serde_json::Value {
        json!({"error": {
            "message": self.message,
            "type": self.code.kind(),
            "param": self.param,
            "code": self.code.name(),
        }})
    }
}

/// Text of a client in a message: cut, and without what a terminal would obey.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).filter(|c| !c.is_control()).collect()
}

impl IntoResponse for ApiError {
    /// As clients get it, and with itself for who shows it to people instead.
    fn into_response(self) -> Response {
        let mut response = (self.code.status(), axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(secs) = self.retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        if self.code.status() == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"evalign\""));
        }
        response.extensions_mut().insert(self);
        response
    }
}

/// A message with its hint, as the command line tells both, in the words of REST.
fn told(error: &(impl std::fmt::Display + Hint)) -> String {
    match error.hint() {
        Some(hint) => format!("{error} (hint: {})", in_rest_words(&hint)),
        None => error.to_string(),
    }
}

/// The field of a message that begins with a flag of the command line: they have the same names.
fn field_of_flag(message: &str) -> Option<String> {
    let flag = message.strip_prefix("`--")?;
    let is_name = |c: char| c.is_ascii_lowercase() || c == '-';
    let end = flag.find(|c: char| !is_name(c)).unwrap_or(flag.len());
    Some(flag[..end].replace('-', "_"))
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::NoSuchRun { wanted } => Self::not_found("run", wanted),
            StoreError::AmbiguousRun { .. } => Self::new(Code::NotFound, error.to_string()),
            StoreError::LeaseHeld { seconds_left, .. } => {
                Self::new(Code::RunActive, "the run is being worked on").retry_after(*seconds_left)
            }
            StoreError::LeaseLost { .. } => Self::new(Code::RunActive, "the run was taken over"),
            StoreError::Database { fault: Fault::Full | Fault::Busy | Fault::ReadOnly, .. }
            | StoreError::Stopped => {
                tracing::error!(%error, "the store refuses");
                Self::new(Code::Unavailable, "the store cannot be written at the moment").retry_after(10)
            }
            StoreError::Database { .. } | StoreError::Newer { .. } | StoreError::Record { .. } => {
                Self::internal(error)
            }
        }
    }
}

impl From<BenchError> for ApiError {
    fn from(error: BenchError) -> Self {
        match &error {
            BenchError::UnknownTask { nearest, .. } => {
                let meant =
                    nearest.as_ref().map_or_else(String::new, |name| format!("did you mean `{name}`? "));
                let message = format!("{error} (hint: {meant}`GET /v1/tasks` lists all)");
                Self::new(Code::UnknownTask, message).about("tasks")
            }
            BenchError::Request { .. } => {
                let message = told(&error);
                let param = field_of_flag(&message);
                Self { param, ..Self::new(Code::InvalidRequest, message) }
            }
            BenchError::Dataset { task, dataset, .. } => {
                tracing::warn!(%task, %dataset, %error, "a dataset cannot be read");
                let message = format!("task `{task}`: {dataset} is not on this server");
                Self::new(Code::DatasetUnavailable, message).about("tasks")
            }
            // The operator's files, not the client's.
            BenchError::TaskFile { .. }
            | BenchError::Read { .. }
            | BenchError::Definition { .. }
            | BenchError::Row { .. }
            | BenchError::Rows { .. }
            | BenchError::Scoring { .. } => Self::internal(error),
        }
    }
}

impl From<ModelError> for ApiError {
    fn from(error: ModelError) -> Self {
        match &error {
            ModelError::TooLong { .. } => Self::new(Code::ContextLength, error.to_string()),
            ModelError::BudgetExhausted(_) => Self::new(Code::BudgetExhausted, error.to_string()),
            // It was there when the server started; where is the operator's to know.
            ModelError::Fetch(_) | ModelError::Script { .. } | ModelError::Settings { .. } => {
                tracing::error!(%error, "a served model cannot be loaded");
                Self::new(
                    Code::Unavailable,
                    "the model cannot be loaded at the moment; the server's log says why",
                )
                .about("model")
                .retry_after(60)
            }
            _ => match error.kind() {
                ErrorKind::Permanent => Self::new(Code::InvalidRequest, error.to_string()),
                ErrorKind::Retryable => {
                    Self::new(Code::Unavailable, "the model does not answer at the moment").retry_after(5)
                }
                ErrorKind::Unavailable => Self::internal(error),
            },
        }
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Bench(error) => error.into(),
            RunError::Store(error) => error.into(),
            RunError::Model(error) => error.into(),
            RunError::SpecChanged { .. } => Self::new(Code::SpecChanged, error.to_string()),
            RunError::ScoredOtherwise { .. } | RunError::ScoresDiffer { .. } => {
                Self::new(Code::SpecChanged, error.to_string())
            }
            RunError::ModelGone { .. } => {
                Self::new(Code::Unavailable, "the model stopped answering").retry_after(10)
            }
            RunError::NothingToCompare { .. } | RunError::NoTask { .. } => {
                Self::new(Code::InvalidRequest, error.to_string())
            }
            RunError::Data(error) => error.into(),
            RunError::Judge(error) => error.into(),
            RunError::Rag(error) => error.into(),
            RunError::Malformed { .. } | RunError::File { .. } => Self::internal(error),
        }
    }
}

/// Rows of a client's file: what is wrong with them, and where, is the client's to know.
impl From<DataError> for ApiError {
    fn from(error: DataError) -> Self {
        match &error {
            DataError::NotFound { .. }
            | DataError::Fetch { .. }
            | DataError::BadName(_)
            | DataError::OutOfRange { .. } => Self::internal(error),
            DataError::TooLarge { .. } => Self::new(Code::TooLarge, told(&error)),
            _ => Self::new(Code::InvalidRequest, told(&error)),
        }
    }
}

impl From<TrainError> for ApiError {
    fn from(error: TrainError) -> Self {
        match error {
            TrainError::Data(error) => (*error).into(),
            TrainError::Model(error) => ModelError::from(error).into(),
            TrainError::Io(_) | TrainError::File { .. } => Self::internal(error),
            TrainError::Config { ref setting, .. } => {
                let about = format!("settings.{setting}");
                Self::new(Code::InvalidRequest, told(&error)).about(about)
            }
            TrainError::Row { .. }
            | TrainError::Unsupported { .. }
            | TrainError::Memory { .. }
            | TrainError::NotFinite { .. } => Self::new(Code::InvalidRequest, told(&error)),
        }
    }
}

impl From<JudgeError> for ApiError {
    fn from(error: JudgeError) -> Self {
        match error {
            JudgeError::Unknown { .. } | JudgeError::Material { .. } => {
                Self::new(Code::InvalidRequest, told(&error))
            }
            JudgeError::Model(error) => error.into(),
            JudgeError::Data(error) => error.into(),
            JudgeError::JudgeGone => {
                Self::new(Code::Unavailable, "the judge stopped answering").retry_after(10)
            }
            // The operator's files.
            JudgeError::Definition { .. } | JudgeError::Read { .. } | JudgeError::Prompt { .. } => {
                Self::internal(error)
            }
        }
    }
}

impl From<RagError> for ApiError {
    fn from(error: RagError) -> Self {
        match error {
            RagError::Index { .. }
            | RagError::Invalid { .. }
            | RagError::Row { .. }
            | RagError::File { .. } => Self::new(Code::InvalidRequest, error.to_string()),
            RagError::Store { kind: StoreFault::Disk, .. } => {
                tracing::error!(%error, "the index store refuses");
                Self::new(Code::Unavailable, "the index cannot be opened or written at the moment")
                    .retry_after(10)
            }
            RagError::Store { kind: StoreFault::Unavailable, .. } => {
                tracing::warn!(%error, "the vector store does not answer");
                Self::new(Code::Unavailable, "the vector store does not answer at the moment").retry_after(10)
            }
            RagError::Model(error) => error.into(),
            RagError::Data(error) => error.into(),
            RagError::State(error) => error.into(),
            // Named by nobody, as the default: those that clients can name are the operator's.
            RagError::Fetch(
                FetchError::Offline { .. } | FetchError::NotFound { .. } | FetchError::Denied { .. },
            ) => {
                tracing::warn!(%error, "an embedder cannot be had");
                let message = "the embedder is not on this server; `embedder` names one that is served";
                Self::new(Code::ModelNotFound, message).about("embedder")
            }
            RagError::Store { .. } | RagError::Embed { .. } | RagError::Fetch(_) => Self::internal(error),
        }
    }
}

/// Work on another thread that panicked.
impl From<tokio::task::JoinError> for ApiError {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::internal(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_not_the_clients_mistake_and_may_pass() {
        let (place, message) = ("in /home/operator".to_owned(), "no space left".to_owned());
        let told = ApiError::from(RagError::Store { place, message, kind: StoreFault::Disk });
        assert_eq!((told.code.status(), told.retry_after_secs), (StatusCode::SERVICE_UNAVAILABLE, Some(10)));
        assert!(!told.message.contains("operator"), "{told:?}");
    }
}
