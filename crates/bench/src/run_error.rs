use std::path::PathBuf;

use evalign_core::{Hint, RunId, SpecDifference};
use evalign_data::DataError;
use evalign_judge::JudgeError;
use evalign_model::ModelError;
use evalign_rag::RagError;
use evalign_store::StoreError;

use crate::BenchError;

/// Why a run could not be started, finished, read, exported or compared.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Bench(#[from] BenchError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Model(#[from] ModelError),
    #[error(transparent)]
    Data(#[from] DataError),
    #[error(transparent)]
    Judge(#[from] JudgeError),
    #[error(transparent)]
    Rag(#[from] RagError),
    /// What would be run now is not what was stored.
    #[error("run {run} cannot be resumed, its specification has changed:\n  {}", list(differences))]
    SpecChanged { run: RunId, differences: Vec<SpecDifference> },
    /// The stored scores come from other rules than those that would be used with them now.
    #[error("run {run} was scored by another {what}")]
    ScoredOtherwise { run: RunId, what: String },
    /// Samples to be added to a run whose own were scored by other rules; `rescored` says whether those to be
    /// added were scored again where they come from.
    #[error("run {run} is in the store, scored by another task file than the samples to be imported into it")]
    ScoresDiffer { run: RunId, rescored: bool },
    /// The model process or engine went away before all samples were answered.
    #[error("the model stopped answering after {done} of {total} samples")]
    ModelGone { run: RunId, done: u64, total: u64 },
    /// A stored run, an exported file or a log that does not have the shape it should.
    #[error("{place}: {message}")]
    Malformed { place: String, message: String },
    #[error("{}", source)]
    File { path: PathBuf, source: std::io::Error },
    /// A reference file about other documents than the run.
    #[error(
        "{}: none of its {lines} lines is about documents {} to {} of `{task}`, which are those of the run",
        path.display(), docs[0], docs[1].saturating_sub(1)
    )]
    NothingToCompare { path: PathBuf, task: String, docs: [u64; 2], lines: u64 },
    /// A reference file that belongs to none of the run's tasks.
    #[error("{}: fits no task of the run", path.display())]
    NoTask { path: PathBuf, tasks: Vec<String> },
}

fn list(differences: &[SpecDifference]) -> String {
    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n  ")
}

impl RunError {
    #[expect(clippy::needless_pass_by_value, reason = "called with errors straight from `map_err`")]
    pub(crate) fn malformed(place: impl ToString, message: impl ToString) -> Self {
        Self::Malformed { place: place.to_string(), message: message.to_string() }
    }
}

impl Hint for RunError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Bench(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Data(error) => error.hint(),
            Self::Judge(error) => error.hint(),
            Self::Rag(error) => error.hint(),
            Self::SpecChanged { run, .. } => Some(format!(
                "undo the change, or start a new run: `evalign resume {run} --fork`, or, for one of several steps, the \
                 command that started it (with `--again` where it takes that); the stored one stays as it is"
            )),
            Self::ScoredOtherwise { run, .. } => Some(format!(
                "name the task files it was scored by with `--include-path DIR`, undo a change to them, or score \
                 the stored answers by what is there now: `evalign rescore {run}`"
            )),
            Self::ScoresDiffer { run, rescored } => Some(format!(
                "score the stored samples by the task file {}, `evalign rescore {run} --include-path DIR`, and \
                 import again; or keep both apart by importing into another store: set EVALIGN_HOME",
                if *rescored {
                    "that those to be imported were scored again by"
                } else {
                    "the run was started with"
                }
            )),
            Self::ModelGone { run, .. } => {
                Some(format!("everything finished is stored; go on with `evalign resume {run}`"))
            }
            Self::NoTask { tasks, .. } => {
                Some(format!("name it with `--task`; the run has {}", tasks.join(", ")))
            }
            Self::NothingToCompare { .. } => Some(
                "run the documents of the reference: `--samples a..b`, or `--limit N` from the first"
                    .to_owned(),
            ),
            Self::Malformed { .. } | Self::File { .. } => None,
        }
    }
}
