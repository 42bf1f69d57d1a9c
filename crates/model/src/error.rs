use std::path::PathBuf;
use std::sync::Arc;

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
            Self::Fetch(_) | Self::Engine(_) | Self::Unsupported { .. } | Self::Script { .. } => {
                ErrorKind::Unavailable
            }
        }
    }
}

impl Hint for ModelError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Fetch(error) => error.hint(),
            Self::Engine(error) => error.hint(),
            Self::Unsupported { hint, .. } => hint.clone(),
            Self::TooLong { .. } => Some(
                "use fewer shots or a model with a longer context; `--compat lm-eval` cuts prompts from the left"
                    .to_owned(),
            ),
            Self::Script { .. } => {
                Some("a scripted model is one JSON object, for example {\"seed\": 1, \"rules\": []}".to_owned())
            }
            Self::Request(_) | Self::Temporary(_) => None,
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
