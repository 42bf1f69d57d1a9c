use std::path::{Path, PathBuf};

use evalign_core::{Hint, RunId};
use rusqlite::ErrorCode;

/// What went wrong with the database itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// No space left, or the store's own size limit is reached.
    Full,
    /// The file or its directory cannot be written.
    ReadOnly,
    /// The directory or file cannot be created or opened.
    CannotOpen,
    /// The file is damaged.
    Corrupt,
    /// The file is not a store of evalign.
    NotAStore,
    /// Another process held the write lock for too long.
    Busy,
    /// The disk failed.
    Io,
    /// Anything else SQLite reports.
    Other,
}

impl Fault {
    fn describe(self) -> &'static str {
        match self {
            Self::Full => "there is no space left for the store",
            Self::ReadOnly => "the store cannot be written",
            Self::CannotOpen => "the store cannot be opened",
            Self::Corrupt => "the store is damaged",
            Self::NotAStore => "the file is not a store of evalign",
            Self::Busy => "the store is locked by another process",
            Self::Io => "the store could not be read or written",
            Self::Other => "the store's database reports an error",
        }
    }

    fn of(error: &rusqlite::Error) -> Self {
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full,
            Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => Self::ReadOnly,
            Some(ErrorCode::CannotOpen) => Self::CannotOpen,
            Some(ErrorCode::DatabaseCorrupt) => Self::Corrupt,
            Some(ErrorCode::NotADatabase) => Self::NotAStore,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            Some(ErrorCode::SystemIoFailure) => Self::Io,
            _ => Self::Other,
        }
    }
}

/// Everything the store can refuse or fail at. Cloneable, because one failed commit answers every
/// caller that shared it.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{}: {} ({detail})", path.display(), fault.describe())]
    Database { path: PathBuf, fault: Fault, detail: String },
    #[error("{}: written by a newer evalign (schema version {found}, this one knows {supported})", path.display())]
    Newer { path: PathBuf, found: i64, supported: i64 },
    #[error("run {run} is being worked on by {owner}")]
    LeaseHeld { run: RunId, owner: String, seconds_left: u64 },
    #[error("run {run} was taken over by another process")]
    LeaseLost { run: RunId },
    #[error("no run `{wanted}`")]
    NoSuchRun { wanted: String },
    #[error("`{wanted}` fits {matches} runs")]
    AmbiguousRun { wanted: String, matches: usize },
    /// A record that cannot be stored, or a stored one that cannot be read.
    #[error("{what}: {detail}")]
    Record { what: String, detail: String },
    #[error("the store's writer has stopped")]
    Stopped,
}

impl StoreError {
    /// What SQLite said, with the file it said it about.
    pub(crate) fn sqlite(path: &Path, error: &rusqlite::Error) -> Self {
        Self::Database { path: path.to_owned(), fault: Fault::of(error), detail: error.to_string() }
    }

    /// The kind of database failure, where this is one.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        match self {
            Self::Database { fault, .. } => Some(*fault),
            _ => None,
        }
    }
}

impl Hint for StoreError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Database { path, fault, .. } => fault_hint(path, *fault),
            Self::Newer { .. } => Some(
                "update evalign, or set EVALIGN_HOME to another directory; the file was not changed"
                    .to_owned(),
            ),
            Self::LeaseHeld { seconds_left, .. } => Some(format!(
                "wait for it to finish; should it have died on another machine, the run is free in {seconds_left} s"
            )),
            Self::LeaseLost { run } => Some(format!(
                "nothing is lost: the other process goes on; look at it with `evalign show {run}`"
            )),
            Self::NoSuchRun { .. } => Some("`evalign runs` lists them".to_owned()),
            Self::AmbiguousRun { .. } => Some("give more characters of the id".to_owned()),
            Self::Record { .. } | Self::Stopped => None,
        }
    }
}

fn fault_hint(path: &Path, fault: Fault) -> Option<String> {
    let directory = path.parent().unwrap_or(path).display();
    match fault {
        Fault::Full => Some(format!(
            "free some space for {directory}, then `evalign resume last`: every finished sample is kept"
        )),
        Fault::ReadOnly | Fault::CannotOpen => {
            Some(format!("make {directory} writable, or set EVALIGN_HOME to a directory that is"))
        }
        Fault::Corrupt | Fault::NotAStore => Some(format!(
            "move {} aside and start again; `sqlite3 FILE .recover` may save what is in it",
            path.display()
        )),
        Fault::Busy => Some("end the other evalign process, or wait for it".to_owned()),
        Fault::Io => Some(format!("check the disk that holds {directory}")),
        Fault::Other => None,
    }
}

/// An error inside a transaction, before it is known which file it happened in.
#[derive(Debug)]
pub(crate) enum Failure {
    Sqlite(rusqlite::Error),
    Store(StoreError),
}

impl Failure {
    pub(crate) fn at(self, path: &Path) -> StoreError {
        match self {
            Self::Sqlite(error) => StoreError::sqlite(path, &error),
            Self::Store(error) => error,
        }
    }
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}
