use evalign_core::{
    Estimate, MetricResult, OutcomeCounts, SampleRecord, Score, ScoringMode, TaskResult, TaskSpec,
};
use indexmap::IndexMap;

use super::calibration::CalibrationTally;
use super::estimate::{Aggregation, estimate};
use crate::error::BenchError;
use crate::scorer::Scorer;

/// A multiple-choice item is fragile when a change of this much in one log-likelihood could flip it.
const FRAGILE_MARGIN: f64 = 1e-3;

/// The scores of one leaf task, collected document by document.
#[derive(Debug)]
pub(super) struct LeafTally {
    mode: ScoringMode,
    documents: u64,
    truncated_prompts: u64,
    /// By metric and filter, in the order of the definition.
    metrics: IndexMap<(String, String), Tally>,
    calibration: CalibrationTally,
}

/// One metric under one filter.
#[derive(Debug, Default)]
struct Tally {
    /// Value and weight of each document that has a value.
    pairs: Vec<(f64, f64)>,
    outcomes: OutcomeCounts,
    fragile: Option<u64>,
}

/// What a group needs of a leaf's metric.
#[derive(Clone, Debug)]
pub(super) struct LeafMetric {
    pub(super) estimate: Estimate,
    pub(super) outcomes: OutcomeCounts,
    pub(super) fragile: Option<u64>,
}

impl LeafTally {
    pub(super) fn new(mode: ScoringMode) -> Self {
        Self {
            mode,
            documents: 0,
            truncated_prompts: 0,
            metrics: IndexMap::new(),
            calibration: CalibrationTally::default(),
        }
    }

    /// `records` are the answers to one document, `scores` what is to be counted for it.
    pub(super) fn add(&mut self, records: &[SampleRecord], scores: &[Score]) {
        self.count(records.iter().filter(|r| r.truncated_tokens > 0).count() as u64, scores);
    }

    /// A document, how many of its prompts were cut, and what is to be counted for it.
    pub(super) fn count(&mut self, truncated_prompts: u64, scores: &[Score]) {
        self.documents += 1;
        self.truncated_prompts += truncated_prompts;
        for score in scores {
            let tally = self.metrics.entry((score.metric.clone(), score.filter.clone())).or_default();
            tally.add(score);
        }
    }

    /// What the answer to one document says about the model's calibration; the reference knows no such
    /// metric.
    pub(super) fn add_forecast(
        &mut self,
        scorer: &Scorer,
        records: &[SampleRecord],
    ) -> Result<(), BenchError> {
        match self.mode {
            ScoringMode::Default => self.calibration.add(scorer, records),
            ScoringMode::LmEval => Ok(()),
        }
    }

    pub(super) fn calibration(&self) -> &CalibrationTally {
        &self.calibration
    }

    /// Documents with at least one answer.
    pub(super) fn documents(&self) -> u64 {
        self.documents
    }

    pub(super) fn truncated_prompts(&self) -> u64 {
        self.truncated_prompts
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &(String, String)> {
        self.metrics.keys()
    }

    pub(super) fn metric(&self, name: &(String, String)) -> Option<LeafMetric> {
        let tally = self.metrics.get(name)?;
        Some(LeafMetric {
            estimate: estimate(Aggregation::of(&name.0), &tally.pairs, self.mode),
            outcomes: tally.outcomes,
            fragile: tally.fragile,
        })
    }

    pub(super) fn result(&self, spec: &TaskSpec) -> TaskResult {
        let metrics = self.metrics.keys().filter_map(|name| {
            let found = self.metric(name)?;
            Some(MetricResult {
                name: name.0.clone(),
                filter: name.1.clone(),
                bounds: bounds(&found.outcomes),
                estimate: found.estimate,
                outcomes: found.outcomes,
                fragile: found.fragile,
            })
        });
        TaskResult {
            task: spec.task.clone(),
            version: spec.version.clone(),
            protocol: spec.protocol.clone(),
            shots: spec.shots,
            truncated_prompts: self.truncated_prompts,
            members: Vec::new(),
            metrics: metrics.chain(self.calibration.metrics()).collect(),
        }
    }
}

impl Tally {
    fn add(&mut self, score: &Score) {
        self.outcomes.add(score.outcome);
        // Without a value (an error; an unreadable answer in the default mode) a sample shows in the
        // outcomes and bounds only: it is not a zero.
        if let Some(value) = score.value {
            self.pairs.push((value, score.weight.unwrap_or(1.0)));
        }
        if let Some(margin) = score.margin {
            *self.fragile.get_or_insert(0) += u64::from(margin < FRAGILE_MARGIN);
        }
    }
}

/// Worst and best case, for metrics whose samples can be right or wrong.
pub(super) fn bounds(outcomes: &OutcomeCounts) -> Option<[f64; 2]> {
    let right_or_wrong = outcomes.correct + outcomes.wrong > 0 || outcomes.unscored == 0;
    right_or_wrong.then(|| outcomes.bounds()).flatten()
}
