use std::path::PathBuf;

use evalign_core::Hint;
use evalign_model::ModelError;

/// Why judging could not begin or go on. What a judge says badly is no error: it is a verdict of its own
/// ([`crate::Unscored`]).
#[derive(Debug, thiserror::Error)]
pub enum JudgeError {
    /// A rubric or constitution that does not say what it should; `at` is `file:line:column` or
    /// `file, field`, `schema` the file that says what it may.
    #[error("{at}: {message}")]
    Definition { at: String, message: String, schema: &'static str },
    #[error("cannot read `{}`", path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    /// A name that nothing has.
    #[error("unknown {what} `{name}`, there are {}", known.join(", "))]
    Unknown { what: &'static str, name: String, known: Vec<String> },
    /// A template that does not compile or render.
    #[error("prompt `{template}`: {message}")]
    Prompt { template: String, message: String },
    /// Material that does not fit the rubric, or files of preferences that cannot be read.
    #[error("{message}")]
    Material { message: String, hint: String },
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The model went away before everything was answered.
    #[error("the judge stopped answering")]
    JudgeGone,
    #[error(transparent)]
    Data(#[from] evalign_data::DataError),
}

impl JudgeError {
    pub(crate) fn definition(
        schema: &'static str,
        at: impl Into<String>,
        message: impl std::fmt::Display,
    ) -> Self {
        Self::Definition { at: at.into(), message: message.to_string(), schema }
    }

    pub(crate) fn material(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Material { message: message.into(), hint: hint.into() }
    }
}

impl Hint for JudgeError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Definition { schema, .. } => Some(format!("mend the file; {schema} says what it holds")),
            Self::Read { .. } => Some("check the path".to_owned()),
            Self::Unknown { .. } => Some(
                "name one of these, or a file; `--include-path DIR` adds those in DIR/rubrics".to_owned(),
            ),
            Self::Prompt { .. } => {
                Some("mend the template, or remove it to use the one that ships".to_owned())
            }
            Self::Material { hint, .. } => Some(hint.clone()),
            Self::Model(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::JudgeGone => Some("ask again: what was answered is stored".to_owned()),
        }
    }
}
