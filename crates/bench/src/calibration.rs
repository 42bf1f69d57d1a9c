//! Reliability: how often a model that says 80 % is right, in bins.

use std::fmt;
use std::str::FromStr;

use evalign_core::{Estimate, RunId};
use evalign_stats::{Binning, CalibrationBin, calibration};
use evalign_store::Store;
use indexmap::IndexMap;
use serde::Serialize;

use crate::aggregate::{CalibrationTally, DEFAULT_BINS, share};
use crate::{RunError, Scoreboard};

/// How confidences are binned: `equal-width`, `equal-mass:15`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CalibrationOptions {
    pub binning: Binning,
    pub bins: usize,
}

impl Default for CalibrationOptions {
    fn default() -> Self {
        Self { binning: Binning::EqualWidth, bins: DEFAULT_BINS }
    }
}

/// Most bins that can be asked for; more would hold next to nothing.
const MOST_BINS: usize = 1000;

impl FromStr for CalibrationOptions {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!("`{text}` is neither `equal-width` nor `equal-mass`, with `:BINS` (up to {MOST_BINS})")
        };
        let (kind, bins) = text.split_once(':').map_or((text, None), |(kind, bins)| (kind, Some(bins)));
        let binning = match kind {
            "equal-width" => Binning::EqualWidth,
            "equal-mass" => Binning::EqualMass,
            _ => return Err(wrong()),
        };
        let bins = bins.map_or(Ok(DEFAULT_BINS), |bins| bins.parse().map_err(|_| wrong()))?;
        if (1..=MOST_BINS).contains(&bins) { Ok(Self { binning, bins }) } else { Err(wrong()) }
    }
}

impl fmt::Display for CalibrationOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.binning {
            Binning::EqualWidth => "equal-width",
            Binning::EqualMass => "equal-mass",
        };
        write!(f, "{kind}:{}", self.bins)
    }
}

/// The calibration of a task's choices.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Reliability {
    /// A leaf task, or a group: then over all items of its tasks together.
    pub task: String,
    /// As asked for, `equal-mass:15` for example.
    pub binning: String,
    /// Expected calibration error (Guo et al. 2017, arXiv 1706.04599, eq. 3).
    pub ece: Estimate,
    /// The largest error of a bin (eq. 5).
    pub largest_error: f64,
    /// By rising confidence; those without items are left out.
    pub bins: Vec<ReliabilityBin>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ReliabilityBin {
    pub mean_confidence: f64,
    /// Share of right choices, with Wilson's interval.
    #[serde(flatten)]
    pub accuracy: Estimate,
}

impl Scoreboard {
    /// The calibration of every task and group of a run that chooses.
    ///
    /// # Errors
    /// A failure of the store, a stored sample that does not fit its task.
    pub fn reliability(
        &self,
        store: &Store,
        run: &RunId,
        options: CalibrationOptions,
    ) -> Result<Vec<Reliability>, RunError> {
        let mut tallies: IndexMap<&str, CalibrationTally> = IndexMap::new();
        for leaf in self.leaves.iter().filter(|leaf| leaf.spec.variant.is_none()) {
            let tally = tallies.entry(&leaf.spec.task).or_default();
            self.each_document(store, run, leaf, &mut |records, _| Ok(tally.add(&leaf.scorer, records)?))?;
        }
        let groups = self.groups.iter().map(|group| {
            let mut pooled = CalibrationTally::default();
            for tally in group.leaves.iter().filter_map(|leaf| tallies.get(leaf.as_str())) {
                pooled.merge(tally);
            }
            reliability(&group.name, &pooled, options)
        });
        let leaves = tallies.iter().map(|(task, tally)| reliability(task, tally, options));
        Ok(groups.chain(leaves).flatten().collect())
    }
}

fn reliability(task: &str, tally: &CalibrationTally, options: CalibrationOptions) -> Option<Reliability> {
    let found = calibration(&tally.answers, options.bins, options.binning)?;
    let bin = |bin: &CalibrationBin| ReliabilityBin {
        mean_confidence: bin.mean_confidence,
        accuracy: share((bin.accuracy * bin.n as f64).round() as u64, bin.n),
    };
    Some(Reliability {
        task: task.to_owned(),
        binning: options.to_string(),
        ece: tally.ece(options.bins, options.binning),
        largest_error: found.mce,
        bins: found.bins.iter().map(bin).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binnings_are_read_and_written() {
        for (text, shown) in [
            ("equal-width", "equal-width:10"),
            ("equal-mass:15", "equal-mass:15"),
            ("equal-width:1", "equal-width:1"),
        ] {
            assert_eq!(text.parse::<CalibrationOptions>().unwrap().to_string(), shown);
        }
        for bad in ["", "adaptive", "equal-width:0", "equal-mass:-1", "equal-mass:x", "equal-mass:1000000000"]
        {
            assert!(bad.parse::<CalibrationOptions>().is_err(), "{bad}");
        }
    }
}
