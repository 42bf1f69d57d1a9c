use std::path::PathBuf;

use evalign_core::Hint;

/// Why a task could not be loaded, planned, rendered or scored. Whatever a user can cause says where:
/// the file and line of a task file, the row of a dataset.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    /// A task file that does not say what it should. `at` is `file:line:column` where known.
    #[error("{at}: {message}")]
    TaskFile { at: String, message: String },

    #[error("cannot read task files from `{path}`", path = path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },

    #[error("unknown task `{name}`")]
    UnknownTask { name: String, nearest: Option<String> },

    /// A template, expression or regular expression that does not compile.
    #[error("task `{task}`, field `{field}`: {message}")]
    Definition { task: String, field: String, message: String },

    /// A template or expression that fails on one row.
    #[error("task `{task}`, field `{field}`, row {row} of {dataset}: {message}")]
    Row { task: String, field: String, dataset: String, row: u64, message: String },

    /// A dataset that cannot be read.
    #[error("task `{task}`: cannot read {dataset}")]
    Dataset {
        task: String,
        dataset: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
        hint: Option<String>,
    },

    /// A dataset that is readable but does not fit the task.
    #[error("task `{task}`, {dataset}: {message}")]
    Rows { task: String, dataset: String, message: String },

    /// A request that makes no sense, or not for this task or model.
    #[error("{message}")]
    Request { message: String, hint: Option<String> },

    /// A stored answer of another kind than the task asks for.
    #[error("task `{task}`: {message}")]
    Scoring { task: String, message: String },
}

impl BenchError {
    pub(crate) fn request(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Request { message: message.into(), hint: Some(hint.into()) }
    }
}

impl Hint for BenchError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownTask { nearest: Some(nearest), .. } => {
                Some(format!("did you mean `{nearest}`? `evalign tasks list` shows all"))
            }
            Self::UnknownTask { nearest: None, .. } => {
                Some("`evalign tasks list` shows all; `--include-path DIR` adds your own".to_owned())
            }
            Self::TaskFile { .. } => Some(
                "`evalign tasks validate FILE` checks a task file; its schema is benchmarks/schema.json"
                    .to_owned(),
            ),
            Self::Dataset { hint, .. } | Self::Request { hint, .. } => hint.clone(),
            Self::Read { .. } => {
                Some("check the path: `--include-path` takes a directory with task files in it".to_owned())
            }
            Self::Definition { .. } => Some(
                "mend the task file; `evalign tasks validate FILE` checks it without running it".to_owned(),
            ),
            Self::Row { row, .. } => Some(format!(
                "mend row {row}, or give the template something for it: `{{{{ x | default('') }}}}`"
            )),
            Self::Rows { .. } => {
                Some("the task file and its data have to fit together; mend either".to_owned())
            }
            Self::Scoring { .. } => None,
        }
    }
}
