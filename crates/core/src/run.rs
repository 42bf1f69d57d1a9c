use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, ModelRef, Variant};

/// How weights are held in memory and computed with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    F32,
    Bf16,
    F16,
    /// GGUF blocks kept quantised.
    Q,
}

impl Dtype {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Q => "q",
        }
    }
}

/// Which rule book scored a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ScoringMode {
    /// evalign's own: known bugs of the reference fixed.
    #[default]
    #[serde(rename = "default")]
    Default,
    /// lm-evaluation-harness 0.4.13, bug for bug.
    #[serde(rename = "lm-eval")]
    LmEval,
}

impl ScoringMode {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::LmEval => "lm-eval",
        }
    }
}

/// What a model *is*, as far as its answers depend on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelIdentity {
    #[serde(rename = "ref")]
    pub reference: ModelRef,
    /// SHA-256 of the weight files.
    pub weights: Digest,
    pub tokenizer: Digest,
    /// Absent where the model has no chat template.
    pub chat_template: Option<Digest>,
    pub adapter: Option<Digest>,
    /// Digest of the data that the adapter was trained on, where it says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trained_on: Option<Digest>,
    pub dtype: String,
    /// `cpu`, `cuda:0`, ...: part of the identity because kernels differ in the last bits.
    pub device: String,
}

/// One leaf task as it will be run. Everything that can change a score is in here, as a digest where
/// it is large.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub task: String,
    pub version: String,
    /// Digest of the resolved task definition (after `include`), templates and shots in it included.
    pub definition: Digest,
    /// Digest of the rows that can be seen: the evaluated split and the split shots come from.
    pub dataset: Digest,
    /// Hash of the definition and of how it is applied; see [`crate::TaskResult::protocol`].
    pub protocol: Digest,
    pub shots: u32,
    pub repeats: u32,
    /// Indices of the documents to evaluate, half-open.
    pub docs: [u64; 2],
    /// Generation parameters after command-line overrides; `null` for log-likelihood tasks.
    pub generation: Value,
    /// Asked in another way than the task file says. `task` then is [`Variant::task_name`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<Variant>,
}

impl TaskSpec {
    /// The name of the task file's task.
    #[must_use]
    pub fn base(&self) -> &str {
        self.variant.map_or(self.task.as_str(), |_| Variant::base_task(&self.task))
    }
}

/// Everything that determines a run's numbers. Two runs with equal specs are the same run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunSpec {
    pub model: ModelIdentity,
    pub mode: ScoringMode,
    /// Bumped whenever scoring code changes a number.
    pub scorer_version: u32,
    pub seed: u64,
    pub chat_template: bool,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub system_instruction: Option<String>,
    /// What the chat template took for the present (`2026-11-22T00:00:00`), where it is used and asks for it:
    /// prompts of another day are other prompts.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rendered_at: Option<String>,
    pub tasks: Vec<TaskSpec>,
}

/// The rules that the stored scores of a run come from: what its spec says, or, after it was scored again,
/// what the task files and the scoring code said then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoredBy {
    pub scorer_version: u32,
    /// Digest of the definition, by leaf task.
    pub definitions: BTreeMap<String, Digest>,
}

/// One field in which two specs differ, as a JSON pointer and both values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpecDifference {
    pub field: String,
    pub stored: String,
    pub now: String,
}

impl fmt::Display for SpecDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: was {}, is {}", self.field, self.stored, self.now)
    }
}

impl RunSpec {
    /// The run's identity: equal hashes resume each other.
    #[must_use]
    pub fn digest(&self) -> Digest {
        Digest::of_json(&serde_json::to_value(self).unwrap_or(Value::Null))
    }

    /// The rules this spec scores by.
    #[must_use]
    pub fn scored_by(&self) -> ScoredBy {
        let definition = |task: &TaskSpec| (task.task.clone(), task.definition.clone());
        ScoredBy {
            scorer_version: self.scorer_version,
            definitions: self.tasks.iter().map(definition).collect(),
        }
    }

    /// Every leaf field that differs, in field order. Empty when the specs are the same.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<SpecDifference> {
        let stored = serde_json::to_value(self).unwrap_or(Value::Null);
        let now = serde_json::to_value(now).unwrap_or(Value::Null);
        let mut found = Vec::new();
        compare(&stored, &now, String::new(), &mut found);
        found
    }
}

fn compare(stored: &Value, now: &Value, path: String, found: &mut Vec<SpecDifference>) {
    match (stored, now) {
        (Value::Object(a), Value::Object(b)) => {
            let mut keys: Vec<&String> = a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))).collect();
            keys.dedup();
            for key in keys {
                let (a, b) = (a.get(key).unwrap_or(&Value::Null), b.get(key).unwrap_or(&Value::Null));
                compare(a, b, format!("{path}/{key}"), found);
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            for i in 0..a.len().max(b.len()) {
                // Tasks are named by what they are, not by their position.
                let name = |v: Option<&Value>| {
                    v.and_then(|v| v.get("task")).and_then(Value::as_str).map(str::to_owned)
                };
                let label = name(a.get(i)).or_else(|| name(b.get(i))).unwrap_or_else(|| i.to_string());
                compare(
                    a.get(i).unwrap_or(&Value::Null),
                    b.get(i).unwrap_or(&Value::Null),
                    format!("{path}/{label}"),
                    found,
                );
            }
        }
        (a, b) if a == b => {}
        (a, b) => found.push(SpecDifference { field: path, stored: a.to_string(), now: b.to_string() }),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunStatus {
    Queued,
    Running,
    Completed,
    Failed,
    Cancelled,
    BudgetExhausted,
}

impl RunStatus {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::BudgetExhausted => "budget_exhausted",
        }
    }

    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Queued, Self::Running, Self::Completed, Self::Failed, Self::Cancelled, Self::BudgetExhausted]
            .into_iter()
            .find(|status| status.name() == name)
    }
}

#[cfg(test)]
mod tests;
