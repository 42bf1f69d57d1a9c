use std::io;

use evalign_core::Hint;

use super::Output;

/// Why a command did not end well, with what the user can do.
#[derive(Debug)]
pub(crate) enum Failure {
    Error {
        error: anyhow::Error,
        hint: Option<String>,
    },
    /// The reader of our output has gone: not an error.
    BrokenPipe,
}

impl Failure {
    /// An error with its hint.
    pub(crate) fn hinted(error: impl Hint + Send + Sync + 'static) -> Self {
        let hint = error.hint();
        Self::Error { error: anyhow::Error::new(error), hint }
    }

    pub(crate) fn new(message: impl std::fmt::Display, hint: impl Into<String>) -> Self {
        Self::Error { error: anyhow::anyhow!("{message}"), hint: Some(hint.into()) }
    }

    pub(crate) fn from_io(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::BrokenPipe
        } else {
            Self::Error { error: error.into(), hint: None }
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Error { error, hint: None }
    }
}

/// Errors of the crates below, each with its own hint.
macro_rules! hinted {
    ($($kind:ty),*) => {$(
        impl From<$kind> for Failure {
            fn from(error: $kind) -> Self {
                Self::hinted(error)
            }
        }
    )*};
}

hinted!(
    evalign_bench::BenchError,
    evalign_bench::RunError,
    evalign_core::ModelRefError,
    evalign_data::DataError,
    evalign_fetch::FetchError,
    evalign_judge::JudgeError,
    evalign_lm::LmError,
    evalign_model::ModelError,
    evalign_rag::RagError,
    evalign_serve::ServeError,
    evalign_store::StoreError,
    evalign_train::TrainError
);

/// `error:` with what caused it, line by line, then `hint:`.
pub(crate) fn print_error(output: Output, error: &anyhow::Error, hint: Option<&str>) {
    let mut lines = vec![format!("error: {error}")];
    // A cause that its error already quotes says nothing new.
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !said.contains(&cause) {
            lines.push(format!("  caused by: {cause}"));
            said.push_str(&cause);
        }
    }
    if let Some(hint) = hint.or_else(|| hint_of_system(error)) {
        lines.push(format!("hint: {hint}"));
    }
    output.line("ERROR", &lines.join("\n"));
}

/// What to do about an error of the system where nobody nearer to it has said anything.
fn hint_of_system(error: &anyhow::Error) -> Option<&'static str> {
    let system = error.chain().find_map(|cause| cause.downcast_ref::<io::Error>())?;
    match system.kind() {
        io::ErrorKind::NotFound => Some("check the path"),
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            Some("choose another place, or make this one accessible to this user")
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some("free some space and try again"),
        io::ErrorKind::IsADirectory | io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Some("check the path: it is a directory where a file belongs, or the other way round")
        }
        _ => None,
    }
}
