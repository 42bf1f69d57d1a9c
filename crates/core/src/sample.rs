use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Digest, Latency, Output, Request, SampleKey, Score, Usage};

/// Everything kept of one finished sample: enough to read it, re-score it and export it without the
/// model or the dataset.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SampleRecord {
    pub key: SampleKey,
    /// The dataset row as the template saw it.
    pub doc: Value,
    /// SHA-256 of the row as lm-evaluation-harness writes it (`json.dumps(doc, indent=2, ensure_ascii=False)`).
    pub doc_hash: Digest,
    /// What was sent.
    pub request: Request,
    /// SHA-256 of the prompt text (of the chat messages' JSON for a chat prompt rendered elsewhere).
    pub prompt_hash: Digest,
    /// Gold answer: the text, or the index of the right choice.
    pub target: String,
    pub target_hash: Digest,
    /// Absent when the call failed for good.
    pub output: Option<Output>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub error: Option<String>,
    pub scores: Vec<Score>,
    pub usage: Usage,
    /// Tokens cut from the left of the prompt.
    #[serde(default)]
    pub truncated_tokens: u64,
    /// How long a server took.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Latency>,
    /// Requests to a server that it took, failed ones included. 0 where none was asked: for a model in
    /// this process, or an answer from the cache.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub requests: u32,
    /// What the answer cost by the run's price table. Absent where no price is known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost_usd: Option<f64>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
