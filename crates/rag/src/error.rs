use std::path::{Path, PathBuf};

use evalign_core::Hint;

/// Why documents could not be read, indexed, searched or answered from.
#[derive(Debug, thiserror::Error)]
pub enum RagError {
    /// A document, a model file or a directory of an index.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String, hint: Option<String> },
    /// `line` counts from 1.
    #[error("{}, line {line}{}: {message}", path.display(), field.as_ref().map(|f| format!(", field `{f}`")).unwrap_or_default())]
    Row { path: PathBuf, line: u64, field: Option<String>, message: String },
    /// An index that is not there, is held by another process, or was made for something else.
    #[error("index `{index}`: {message}")]
    Index { index: String, message: String, hint: Option<String> },
    /// The engine in this process, or the server, refused or failed. `place` names it without secrets.
    #[error("the vector store {place} failed: {message}")]
    Store { place: String, message: String, kind: StoreFault },
    /// Something the user gave: a filter, a mode, a number. `what` names it as it was typed.
    #[error("{what}: {message}")]
    Invalid { what: String, message: String, hint: Option<String> },
    #[error("the embedder {embedder} failed: {message}")]
    Embed { embedder: String, message: String, hint: Option<String> },
    #[error(transparent)]
    Model(#[from] evalign_model::ModelError),
    #[error(transparent)]
    Data(#[from] evalign_data::DataError),
    #[error(transparent)]
    State(#[from] evalign_store::StoreError),
    #[error(transparent)]
    Fetch(#[from] evalign_fetch::FetchError),
}

/// What a failed call to a vector store means for the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StoreFault {
    /// Not reached, gone in the middle, overloaded: the same call may succeed later.
    Unavailable,
    /// The key is missing or wrong.
    Denied,
    /// The call itself is at fault (an unknown collection, a vector of another length).
    Refused,
    /// The disk has no room for what the engine needs, or does not let it read or write.
    Disk,
    /// The engine failed at something that should have worked.
    Broken,
}

impl RagError {
    /// The disk of a directory does not take, or give, what the engine needs.
    #[expect(clippy::needless_pass_by_value, reason = "called with errors straight from `map_err`")]
    pub(crate) fn disk(directory: &Path, message: impl ToString) -> Self {
        let place = format!("in {}", directory.display());
        Self::Store { place, message: message.to_string(), kind: StoreFault::Disk }
    }

    pub(crate) fn broken(place: impl Into<String>, error: &dyn std::fmt::Display) -> Self {
        Self::Store { place: place.into(), message: error.to_string(), kind: StoreFault::Broken }
    }

    #[expect(clippy::needless_pass_by_value, reason = "called with errors straight from `map_err`")]
    pub(crate) fn file(path: &Path, message: impl ToString) -> Self {
        Self::File { path: path.to_owned(), message: message.to_string(), hint: None }
    }

    pub(crate) fn index(index: &str, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Index { index: index.to_owned(), message: message.into(), hint: Some(hint.into()) }
    }

    pub(crate) fn invalid(
        what: impl Into<String>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self::Invalid { what: what.into(), message: message.into(), hint: Some(hint.into()) }
    }
}

impl Hint for RagError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::File { hint, .. }
            | Self::Index { hint, .. }
            | Self::Invalid { hint, .. }
            | Self::Embed { hint, .. } => hint.clone(),
            Self::Row { .. } => None,
            Self::Store { kind, .. } => match kind {
                StoreFault::Unavailable => Some(
                    "check that the server of `QDRANT_URL` is running and reachable (gRPC, port 6334), then \
                     run the same command again: it goes on where it stopped"
                        .to_owned(),
                ),
                StoreFault::Denied => Some("set `QDRANT_API_KEY` to a key with write access".to_owned()),
                StoreFault::Disk => Some(
                    "make room on that disk, or make the directory writable, and run the command again; a new index \
                     can also lie on another disk: set EVALIGN_HOME"
                        .to_owned(),
                ),
                StoreFault::Refused | StoreFault::Broken => None,
            },
            Self::Model(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::State(error) => error.hint(),
            Self::Fetch(error) => error.hint(),
        }
    }
}
