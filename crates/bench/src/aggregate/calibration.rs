use evalign_core::{Estimate, MetricResult, OutcomeCounts, SampleRecord, ScoringMode};
use evalign_stats::{Binning, Bootstrap, brier, calibration_error};

use super::estimate::{Aggregation, LEVEL, RESAMPLES, estimate};
use crate::error::BenchError;
use crate::scorer::Scorer;

/// Bins of the `ece` of a result.
pub(crate) const DEFAULT_BINS: usize = 10;

/// How far a model that chooses knows what it knows: `ece`, the expected calibration error of its choices
/// (Guo et al. 2017, arXiv 1706.04599, eq. 3, ten bins of equal width), and `brier`, the mean Brier score
/// over all choices (0 is perfect, 2 is sure and wrong). Lower is better for both. Confidence is the
/// softmax over the choices' log-likelihoods.
#[derive(Debug, Default)]
pub(crate) struct CalibrationTally {
    filter: String,
    /// Confidence in the choice taken, and whether it is right.
    pub(crate) answers: Vec<(f64, bool)>,
    brier: Vec<(f64, f64)>,
    outcomes: OutcomeCounts,
}

impl CalibrationTally {
    /// Counts the answer to one document. A failed call and an item without a right answer show in the
    /// outcomes only.
    ///
    /// # Errors
    /// A stored document that does not fit the task.
    pub(crate) fn add(&mut self, scorer: &Scorer, records: &[SampleRecord]) -> Result<(), BenchError> {
        let (Some(metric), Some(record)) = (scorer.choosing_metric(), records.first()) else { return Ok(()) };
        scorer.first_filter().clone_into(&mut self.filter);
        if record.output.is_none() {
            self.outcomes.error += 1;
            return Ok(());
        }
        let forecast = scorer.forecast(record, metric)?.filter(|forecast| !forecast.gold.is_empty());
        let Some(forecast) = forecast else {
            self.outcomes.unscored += 1;
            return Ok(());
        };
        let right = forecast.gold.contains(&forecast.picked);
        *if right { &mut self.outcomes.correct } else { &mut self.outcomes.wrong } += 1;
        self.answers.push((forecast.probabilities[forecast.picked], right));
        // Several right choices are one event: it came about.
        let (gold, others): (Vec<_>, Vec<_>) =
            forecast.probabilities.iter().enumerate().partition(|(choice, _)| forecast.gold.contains(choice));
        let happened: f64 = gold.iter().map(|(_, p)| **p).sum();
        let classes: Vec<f64> =
            std::iter::once(happened.min(1.0)).chain(others.iter().map(|(_, p)| **p)).collect();
        self.brier.extend(brier(&classes, 0).map(|score| (score, 1.0)));
        Ok(())
    }

    /// Adds the answers of another task.
    pub(crate) fn merge(&mut self, other: &Self) {
        if self.filter.is_empty() {
            self.filter.clone_from(&other.filter);
        }
        self.answers.extend(&other.answers);
        self.brier.extend(&other.brier);
        self.outcomes.merge(&other.outcomes);
    }

    /// `ece` with a bootstrap interval and `brier` with its standard error; nothing where nothing was
    /// chosen.
    pub(crate) fn metrics(&self) -> Vec<MetricResult> {
        if self.outcomes.total() == 0 {
            return Vec::new();
        }
        let metric = |name: &str, estimate: Estimate| MetricResult {
            name: name.to_owned(),
            filter: self.filter.clone(),
            estimate,
            outcomes: self.outcomes,
            bounds: None,
            fragile: None,
        };
        let brier = estimate(Aggregation::Mean, &self.brier, ScoringMode::Default);
        vec![metric("ece", self.ece(DEFAULT_BINS, Binning::EqualWidth)), metric("brier", brier)]
    }

    pub(crate) fn ece(&self, bins: usize, binning: Binning) -> Estimate {
        let n = self.answers.len() as u64;
        let plan = Bootstrap { resamples: RESAMPLES, seed: n, level: LEVEL };
        match calibration_error(&self.answers, bins, binning, &plan) {
            Some(found) => Estimate {
                value: Some(found.value),
                stderr: Some(found.stderr),
                ci95: Some(found.interval),
                n,
            },
            None => {
                let alone = evalign_stats::calibration(&self.answers, bins, binning);
                Estimate { value: alone.map(|found| found.ece), stderr: None, ci95: None, n }
            }
        }
    }
}
