use std::path::{Path, PathBuf};

use evalign_core::Hint;
use thiserror::Error;

use crate::adapter::WEIGHTS_FILE;

/// What can go wrong between a file of weights and a log-probability.
#[derive(Debug, Error)]
pub enum LmError {
    /// The operating system would not read a file. The path is in the source's message.
    #[error("cannot read model files: {0}")]
    Io(#[from] std::io::Error),
    /// A file is there but is not what it should be: truncated, wrong magic, malformed JSON.
    #[error("{}: {problem}", path.display())]
    Format { path: PathBuf, problem: String, hint: Option<&'static str> },
    /// A well-formed file of something this engine does not implement; the hint says what it does.
    #[error("{}: unsupported {what}", path.display())]
    Unsupported { path: PathBuf, what: String, hint: &'static str },
    /// One tensor is missing or has the wrong shape or type.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor { path: PathBuf, tensor: String, problem: String },
    /// Text that does not become tokens or tokens that do not become text. While a model is loaded:
    /// definitions of a tokeniser that are malformed, as [`LmError::Format`] with the file's name.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// A conversation that the template does not take. While a model is loaded: as for the tokeniser.
    #[error("chat template: {0}")]
    ChatTemplate(String),
    /// A request that no amount of memory or patience can answer.
    #[error("invalid request: {0}")]
    Request(String),
    /// The keys and values of one sequence need more than the whole memory budget.
    #[error(
        "a sequence of {tokens} tokens needs {needed_bytes} bytes of keys and values, the budget is {budget_bytes}"
    )]
    Memory { tokens: usize, needed_bytes: u64, budget_bytes: u64 },
    /// The device asked for is not there, or this build cannot use it.
    #[error("device: {0}")]
    Device(String),
    /// candle failed while computing.
    #[error("computation failed: {0}")]
    Compute(#[from] candle_core::Error),
}

impl LmError {
    pub(crate) fn format(path: &Path, problem: impl std::fmt::Display) -> Self {
        Self::Format { path: path.to_owned(), problem: problem.to_string(), hint: None }
    }

    /// [`LmError::format`] where something else helps than to fetch the model again.
    pub(crate) fn misplaced(path: &Path, problem: impl std::fmt::Display, hint: &'static str) -> Self {
        Self::Format { path: path.to_owned(), problem: problem.to_string(), hint: Some(hint) }
    }

    pub(crate) fn unsupported(path: &Path, what: impl std::fmt::Display, hint: &'static str) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.to_string(), hint }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl std::fmt::Display) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.to_string() }
    }

    /// Names the file or directory whose tokeniser or chat template is at fault.
    pub(crate) fn in_model(self, path: &Path) -> Self {
        match self {
            Self::Tokenizer(_) | Self::ChatTemplate(_) => Self::format(path, self),
            other => other,
        }
    }
}

fn is_weights(extension: &std::ffi::OsStr) -> bool {
    extension.eq_ignore_ascii_case("gguf") || extension.eq_ignore_ascii_case("safetensors")
}

impl Hint for LmError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path, or fetch the default model with `evalign models pull`".to_owned())
            }
            Self::Format { hint: Some(hint), .. } => Some((*hint).to_owned()),
            Self::Format { path, .. } | Self::Tensor { path, .. } if path.ends_with(WEIGHTS_FILE) => Some(
                "name the model that the adapter was trained on, and copy the adapter's directory again if it may be \
                 incomplete"
                    .to_owned(),
            ),
            Self::Format { path, .. } if path.extension().is_some_and(is_weights) => {
                Some("the file may be incomplete: delete it and fetch it again with `evalign models pull`".to_owned())
            }
            Self::Format { .. } => {
                Some("correct what is named, or fetch the model again with `evalign models pull`".to_owned())
            }
            Self::Unsupported { hint, .. } => Some((*hint).to_owned()),
            Self::Tensor { .. } => Some(
                "the weights are not those of the model that the configuration describes: fetch both again with \
                 `evalign models pull`"
                    .to_owned(),
            ),
            Self::Memory { .. } => Some("raise `--memory-gib` or shorten the prompts".to_owned()),
            Self::Device(_) if cfg!(any(feature = "cuda", feature = "metal")) => {
                Some("use `--device cpu`".to_owned())
            }
            Self::Device(_) => Some(
                "use `--device cpu`; for a GPU, build with `--features cuda` or `--features metal`".to_owned(),
            ),
            Self::Io(_)
            | Self::Tokenizer(_)
            | Self::ChatTemplate(_)
            | Self::Request(_)
            | Self::Compute(_) => None,
        }
    }
}
