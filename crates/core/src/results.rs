use serde::{Deserialize, Serialize};

use crate::{
    Digest, LatencySummary, OptionOrderResult, OutcomeCounts, PerturbationResult, RepeatResult, RunId, Usage,
};

/// A measured number. It is never shown without `n`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Absent over nothing.
    pub value: Option<f64>,
    /// Absent where it is undefined (n < 2).
    pub stderr: Option<f64>,
    /// 95 % interval.
    pub ci95: Option<[f64; 2]>,
    /// Samples the value is computed over.
    pub n: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MetricResult {
    pub name: String,
    pub filter: String,
    #[serde(flatten)]
    pub estimate: Estimate,
    pub outcomes: OutcomeCounts,
    /// Lowest and highest value the undecided samples allow; absent for metrics that are not accuracies.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bounds: Option<[f64; 2]>,
    /// Multiple-choice samples whose argmax could flip under a change of 1e-3 in a log-likelihood.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fragile: Option<u64>,
}

/// A leaf task or a group of tasks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskResult {
    pub task: String,
    pub version: String,
    /// Hash of everything that defines how this number was measured, model excluded. Rows with
    /// different protocols are not comparable.
    pub protocol: Digest,
    pub shots: u32,
    /// Samples whose prompt was cut from the left to fit the context.
    #[serde(default)]
    pub truncated_prompts: u64,
    /// Names of the tasks aggregated here; empty for a leaf.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub members: Vec<String>,
    pub metrics: Vec<MetricResult>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelSummary {
    #[serde(rename = "ref")]
    pub reference: String,
    /// Digest of the weights.
    pub digest: Digest,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub adapter: Option<Digest>,
    /// Digest of the data that the adapter was trained on, where it says so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub trained_on: Option<Digest>,
    pub dtype: String,
    pub device: String,
}

/// Wall-clock seconds, summed over all sessions that worked on the run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Seconds {
    pub load: f64,
    pub prefill: f64,
    pub decode: f64,
    pub total: f64,
}

impl std::ops::AddAssign for Seconds {
    fn add_assign(&mut self, other: Self) {
        self.load += other.load;
        self.prefill += other.prefill;
        self.decode += other.decode;
        self.total += other.total;
    }
}

/// What `eval --json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RunResults {
    pub run_id: RunId,
    pub status: crate::RunStatus,
    pub model: ModelSummary,
    /// `default` or `lm-eval`.
    pub mode: crate::ScoringMode,
    pub seed: u64,
    pub results: Vec<TaskResult>,
    pub usage: Usage,
    pub seconds: Seconds,
    /// What all answers cost together. Absent where the price of any is not known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost_usd: Option<f64>,
    /// How long a server took. Absent where no answer came from one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<LatencySummary>,
    /// What several answers to each document say, where there are several.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub repeats: Vec<RepeatResult>,
    /// What the order of options does to scores, where it was asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub option_order: Vec<OptionOrderResult>,
    /// What perturbed prompts do to scores, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub perturbations: Vec<PerturbationResult>,
}
