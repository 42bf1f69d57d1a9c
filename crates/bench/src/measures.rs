//! A run's scores from other sides: what `evalign show` and the service tell beside the results. No model is asked.

use evalign_core::RunId;
use evalign_store::Store;
use serde::Serialize;

use crate::{
    BenchError, Breakdown, BreakdownOptions, CalibrationOptions, Contamination, Corpus, KeptResults,
    Reliability, RunError, Scoreboard, SwapAudit,
};

/// What else to say about a run's scores.
#[derive(Debug, Default)]
pub struct MeasuresWanted<'a> {
    /// Only of this task or group.
    pub task: Option<&'a str>,
    /// Scores by the value of a column.
    pub by: Option<BreakdownOptions>,
    /// Scores with and without the items whose question stands in it.
    pub corpus: Option<&'a Corpus>,
    /// How often choices of a given confidence are right.
    pub calibration: Option<CalibrationOptions>,
    /// The same items about different groups: paired differences.
    pub swaps: bool,
}

impl MeasuresWanted<'_> {
    /// Whether anything is wanted.
    #[must_use]
    pub fn any(&self) -> bool {
        self.by.is_some() || self.corpus.is_some() || self.calibration.is_some() || self.swaps
    }
}

/// What was wanted beyond the results of a run.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Measures {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub breakdown: Option<Breakdown>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contamination: Option<Contamination>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calibration: Option<Vec<Reliability>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swaps: Option<Vec<SwapAudit>>,
}

/// The results of a run with what else was wanted, as one document.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MeasuredResults {
    #[serde(flatten)]
    pub kept: KeptResults,
    #[serde(flatten)]
    pub measures: Measures,
}

impl Scoreboard {
    /// Computes what is wanted of a run from its stored samples.
    ///
    /// # Errors
    /// A column that no item has, calibration of a run without confidences, swaps of tasks without groups, a corpus that
    /// cannot be read, a failure of the store.
    pub fn measures(
        &self,
        store: &Store,
        run: &RunId,
        wanted: &MeasuresWanted<'_>,
    ) -> Result<Measures, RunError> {
        let kept = |name: &str| wanted.task.is_none_or(|task| task == name);
        let mut measures = Measures::default();
        if let Some(options) = &wanted.by {
            let mut found = self.breakdown(store, run, options)?;
            found.results.retain(|result| kept(&result.task));
            measures.breakdown = Some(found);
        }
        if let Some(corpus) = wanted.corpus {
            let mut found = self.contamination(store, run, corpus)?;
            found.results.retain(|result| kept(&result.task));
            measures.contamination = Some(found);
        }
        if let Some(options) = wanted.calibration {
            let mut found = self.reliability(store, run, options)?;
            found.retain(|result| kept(&result.task));
            if found.is_empty() {
                return Err(BenchError::request(
                    "no answer of the run says how sure the model was",
                    "calibration is of multiple choice by likelihood, as in mmlu and hellaswag",
                )
                .into());
            }
            measures.calibration = Some(found);
        }
        if wanted.swaps {
            let mut found = self.swaps(store, run)?;
            found.retain(|audit| kept(&audit.task));
            measures.swaps = Some(found);
        }
        Ok(measures)
    }
}
