use std::collections::BTreeMap;

use serde::Serialize;

use super::{Check, LengthCounts, Severity};

/// What was found in a file, counted.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LintReport {
    pub rows: u64,
    /// The layout of the first row.
    pub layout: Option<&'static str>,
    pub findings: BTreeMap<Check, u64>,
    pub lengths: LengthCounts,
    /// Pairs with a score for both sides, and those of them in which the rejected side has the better one.
    pub scored_pairs: u64,
    pub reversed_pairs: u64,
    /// Rows that were not looked up among all earlier ones, or whose pair was not, because there were too many: a
    /// duplicate or contradiction among them may be missed.
    pub not_compared: u64,
}

impl LintReport {
    /// Findings of this severity.
    #[must_use]
    pub fn count(&self, severity: Severity) -> u64 {
        self.findings.iter().filter(|(check, _)| check.severity() == severity).map(|(_, count)| count).sum()
    }
}
