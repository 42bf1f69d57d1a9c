//! The demographic-swap audit: the same item about one group and about another. What differs between the two answers
//! is the group's doing, so differences are taken pair by pair.

use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{Digest, RunId, SampleRecord, Score};
use evalign_stats::paired_difference;
use evalign_store::Store;
use serde::Serialize;
use serde_json::Value;

use crate::aggregate::Leaf;
use crate::{BenchError, RunError, Scoreboard};

/// Rows with the same value here are the same item.
const ITEM: &str = "item";
/// The group a row is about.
const GROUP: &str = "group";

/// The audit of one task.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SwapAudit {
    pub task: String,
    pub protocol: Digest,
    /// What is compared: the probability of the right (favourable) choice, or the first metric's value where nothing is
    /// chosen.
    pub measure: &'static str,
    /// Rows without a value (failed calls, unreadable answers): their pairs are left out.
    pub rows_without_value: u64,
    /// Every two groups that share items, in the order of their names.
    pub differences: Vec<SwapDifference>,
}

/// The first group's value minus the second's, over the items that are there about both.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SwapDifference {
    pub first: String,
    pub second: String,
    pub items: u64,
    pub mean_first: f64,
    pub mean_second: f64,
    pub difference: f64,
    /// 95 % interval of the mean difference (t distribution, items as pairs). Absent with one item, or where no item
    /// differs from any other.
    pub ci95: Option<[f64; 2]>,
    /// Largest absolute difference on one item: a mean of zero can hide two that cancel out.
    pub largest: f64,
}

impl Scoreboard {
    /// Compares groups over the items of every task that has them.
    ///
    /// # Errors
    /// No task of the run has rows with `item` and `group`; a failure of the store.
    pub fn swaps(&self, store: &Store, run: &RunId) -> Result<Vec<SwapAudit>, RunError> {
        let mut audits = Vec::new();
        for leaf in self.leaves.iter().filter(|leaf| leaf.spec.variant.is_none()) {
            let mut values: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
            let mut without = 0;
            self.each_document(store, run, leaf, &mut |records, scores| {
                let Some(record) = records.first() else { return Ok(()) };
                let text = |name: &str| record.doc.get(name).and_then(Value::as_str).map(str::to_owned);
                let Some((item, group)) = text(ITEM).zip(text(GROUP)) else { return Ok(()) };
                match value(leaf, record, scores)? {
                    Some(value) => {
                        values.entry(item).or_default().insert(group, value);
                    }
                    None => without += 1,
                }
                Ok(())
            })?;
            if values.is_empty() && without == 0 {
                continue;
            }
            audits.push(SwapAudit {
                task: leaf.spec.task.clone(),
                protocol: leaf.spec.protocol.clone(),
                measure: if leaf.scorer.choosing_metric().is_some() { "probability" } else { "value" },
                rows_without_value: without,
                differences: differences(&values),
            });
        }
        if audits.is_empty() {
            return Err(BenchError::request(
                "no task of the run has rows about groups",
                format!("rows to be compared have the columns `{ITEM}` and `{GROUP}`, as those of robustness_demographic"),
            )
            .into());
        }
        Ok(audits)
    }
}

/// The probability of the right choice, or the value of the first score.
fn value(leaf: &Leaf, record: &SampleRecord, scores: &[Score]) -> Result<Option<f64>, BenchError> {
    let Some(metric) = leaf.scorer.choosing_metric() else {
        return Ok(scores.first().and_then(|score| score.value));
    };
    let forecast = leaf.scorer.forecast(record, metric)?;
    Ok(forecast.map(|found| found.gold.iter().filter_map(|gold| found.probabilities.get(*gold)).sum()))
}

fn differences(values: &BTreeMap<String, BTreeMap<String, f64>>) -> Vec<SwapDifference> {
    let groups: BTreeSet<&str> = values.values().flat_map(BTreeMap::keys).map(String::as_str).collect();
    let groups: Vec<&str> = groups.into_iter().collect();
    let mut found = Vec::new();
    for (index, first) in groups.iter().enumerate() {
        for second in &groups[index + 1..] {
            let pairs: Vec<(f64, f64)> =
                values.values().filter_map(|of| Some((*of.get(*first)?, *of.get(*second)?))).collect();
            found.extend(difference((first, second), &pairs));
        }
    }
    found
}

fn difference((first, second): (&str, &str), pairs: &[(f64, f64)]) -> Option<SwapDifference> {
    if pairs.is_empty() {
        return None;
    }
    let mean =
        |values: &dyn Fn(&(f64, f64)) -> f64| pairs.iter().map(values).sum::<f64>() / pairs.len() as f64;
    let differences: Vec<f64> = pairs.iter().map(|(a, b)| a - b).collect();
    let largest = differences.iter().map(|d| d.abs()).fold(0.0, f64::max);
    Some(SwapDifference {
        first: first.to_owned(),
        second: second.to_owned(),
        items: pairs.len() as u64,
        mean_first: mean(&|pair| pair.0),
        mean_second: mean(&|pair| pair.1),
        difference: mean(&|pair| pair.0 - pair.1),
        ci95: paired_difference(&differences, 0.95).map(|found| found.interval),
        largest,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_compared_over_the_items_they_share() {
        let mut values: BTreeMap<String, BTreeMap<String, f64>> = BTreeMap::new();
        for (item, group, value) in [
            ("1", "a", 0.9),
            ("1", "b", 0.5),
            ("2", "a", 0.8),
            ("2", "b", 0.6),
            ("3", "a", 0.7),
            ("3", "b", 0.6),
            ("4", "b", 0.1),
            ("5", "c", 0.2),
        ] {
            values.entry(item.to_owned()).or_default().insert(group.to_owned(), value);
        }
        let found = differences(&values);
        // `c` shares no item with anybody.
        let [only] = found.as_slice() else { panic!("{found:?}") };
        assert_eq!((only.first.as_str(), only.second.as_str(), only.items), ("a", "b", 3));
        assert!((only.difference - 0.7 / 3.0).abs() < 1e-12 && (only.largest - 0.4).abs() < 1e-12);
        // By hand: 0.23333 -+ 4.30265 (t at 0.975, 2 degrees of freedom) * 0.08819.
        let [low, high] = only.ci95.unwrap();
        assert!((low + 0.146_1).abs() < 1e-3 && (high - 0.612_8).abs() < 1e-3, "{low} {high}");
        let equal = difference(("a", "b"), &[(0.5, 0.5)]).unwrap();
        assert_eq!((equal.difference, equal.ci95), (0.0, None));
    }
}
