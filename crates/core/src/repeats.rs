use serde::{Deserialize, Serialize};

use crate::Estimate;

/// A measure over the first, or any, `k` answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AtK {
    pub k: u32,
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Lowest and highest value that the undecided answers allow.
    pub bounds: Option<[f64; 2]>,
}

/// What several answers to each document say, for one metric under one filter that reads every answer
/// on its own.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RepeatResult {
    pub task: String,
    pub metric: String,
    pub filter: String,
    /// Answers per document.
    pub answers: u32,
    /// Chance that at least one of k answers is right, unbiased (Chen et al. 2021, arXiv 2107.03374,
    /// eq. 1), over the documents with at least k decided answers. `pass@1` is the mean over all answers.
    pub pass: Vec<AtK>,
    /// Share of documents whose most frequent readable answer among the first k is right (Wang et al.
    /// 2022, arXiv 2203.11171); the answer seen first among equally frequent ones.
    pub majority: Vec<AtK>,
    /// Mean share of a document's answers that agree with its majority answer (`consistency` of Wang et
    /// al. 2022); an answer that could not be read agrees with none.
    pub agreement: Estimate,
    /// What sampling alone does to a score: mean over documents of the variance of their answers'
    /// scores (law of total variance; Miller 2024, arXiv 2411.00640).
    pub within_variance: Option<f64>,
    /// How much documents differ in difficulty: variance of their expected scores.
    pub between_variance: Option<f64>,
}
