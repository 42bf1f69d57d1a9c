use std::num::NonZeroU64;
use std::path::{Path, PathBuf};

use evalign_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::error::ModelError;

/// The file of a scripted model; see [`super::Scripted`].
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Script {
    #[serde(default)]
    pub(super) seed: u64,
    #[serde(default)]
    pub(super) rules: Vec<Rule>,
    pub(super) fault: Option<Fault>,
    #[serde(default)]
    pub(super) delay_ms: u64,
    #[serde(default = "one")]
    pub(super) concurrency: usize,
    pub(super) context_length: Option<usize>,
    pub(super) count_file: Option<PathBuf>,
}

fn one() -> usize {
    1
}

/// The first rule whose text occurs in the prompt decides the answer.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    #[serde(rename = "match")]
    pub(super) text_in_prompt: String,
    /// Answer to a request to generate.
    pub(super) text: Option<String>,
    /// Answer to a request for log-likelihoods, one for each continuation.
    pub(super) log_likelihoods: Option<Vec<f64>>,
    /// Fail with this message.
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) kind: FaultKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    pub(super) every: NonZeroU64,
    #[serde(default)]
    pub(super) kind: FaultKind,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum FaultKind {
    #[default]
    Permanent,
    Temporary,
}

impl FaultKind {
    pub(super) fn error(self, message: String) -> ModelError {
        match self {
            Self::Permanent => ModelError::Request(message),
            Self::Temporary => ModelError::Temporary(message),
        }
    }
}

impl Script {
    pub(super) fn read(path: &Path) -> Result<Self, ModelError> {
        let wrong = |detail: String| ModelError::Script { path: path.to_owned(), detail };
        let text = fs_err::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let script: Self = serde_json::from_str(&text).map_err(|error| wrong(error.to_string()))?;
        if script.concurrency == 0 {
            return Err(wrong("`concurrency` must be at least 1".to_owned()));
        }
        for (index, rule) in script.rules.iter().enumerate() {
            let answers = [rule.text.is_some(), rule.log_likelihoods.is_some(), rule.error.is_some()];
            if !answers.contains(&true) {
                return Err(wrong(format!("rule {index} has none of `text`, `log_likelihoods` and `error`")));
            }
        }
        Ok(script)
    }

    /// Of what decides the answers: how slow they come or who counts them is not part of the model.
    pub(super) fn digest(&self) -> Digest {
        Digest::of_json(&json!({
            "seed": self.seed,
            "rules": self.rules,
            "fault": self.fault,
            "context_length": self.context_length,
        }))
    }
}
