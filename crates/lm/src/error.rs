use std::path::{Path, PathBuf};

use evalign_core::Hint;
use thiserror::Error;

/// What can go wrong between a file of weights and a log-probability.
#[derive(Debug, Error)]
pub enum LmError {
    /// The operating system would not read a file. The path is in the source's message.
    #[error("cannot read model files: {0}")]
    Io(#[from] std::io::Error),
    /// A file is there but is not what it should be: truncated, wrong magic, malformed JSON.
    #[error("{}: {problem}", path.display())]
    Format { path: PathBuf, problem: String },
    /// A well-formed file of something this engine does not implement.
    #[error("{}: unsupported {what}", path.display())]
    Unsupported { path: PathBuf, what: String },
    /// One tensor is missing or has the wrong shape or type.
    #[error("{}: tensor `{tensor}`: {problem}", path.display())]
    Tensor { path: PathBuf, tensor: String, problem: String },
    #[error("tokenizer: {0}")]
    Tokenizer(String),
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
        Self::Format { path: path.to_owned(), problem: problem.to_string() }
    }

    pub(crate) fn unsupported(path: &Path, what: impl std::fmt::Display) -> Self {
        Self::Unsupported { path: path.to_owned(), what: what.to_string() }
    }

    pub(crate) fn tensor(path: &Path, tensor: &str, problem: impl std::fmt::Display) -> Self {
        Self::Tensor { path: path.to_owned(), tensor: tensor.to_owned(), problem: problem.to_string() }
    }
}

impl Hint for LmError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Io(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Some("check the path, or fetch the default model with `evalign models pull`".to_owned())
            }
            Self::Format { .. } => {
                Some("the file may be incomplete: delete it and download it again".to_owned())
            }
            Self::Unsupported { .. } => Some(
                "supported are Llama, Mistral, SmolLM, Qwen2, Qwen2.5 and Qwen3 decoders as GGUF or safetensors"
                    .to_owned(),
            ),
            Self::Memory { .. } => Some("raise `--memory-gib` or shorten the prompts".to_owned()),
            Self::Device(_) => Some("use `--device cpu`".to_owned()),
            Self::Io(_)
            | Self::Tensor { .. }
            | Self::Tokenizer(_)
            | Self::ChatTemplate(_)
            | Self::Request(_)
            | Self::Compute(_) => None,
        }
    }
}
