//! Whether one configuration finds more than another: per query, with a test.

use serde::Serialize;

use crate::{PerQuery, RagError, RetrievalMetrics};

/// Random sign patterns of the randomisation test.
const SAMPLES: u32 = 100_000;
const SEED: u64 = 0;

/// One metric of two configurations on the same queries.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct MetricDifference {
    pub metric: &'static str,
    /// Queries.
    pub n: u64,
    /// Means.
    pub a: f64,
    pub b: f64,
    /// Mean of b - a.
    pub difference: f64,
    /// 95 % interval of the difference (paired t); absent for fewer than two queries.
    pub interval: Option<[f64; 2]>,
    /// Two-sided paired randomisation test, see [`evalign_stats::randomisation_p`].
    pub p: f64,
    /// Queries on which b is better and worse.
    pub better: u64,
    pub worse: u64,
}

impl MetricDifference {
    /// Whether the difference is real at this level, and in whose favour: greater than 0 for b.
    #[must_use]
    pub fn significant(&self, alpha: f64) -> Option<f64> {
        (self.p < alpha && self.difference != 0.0).then_some(self.difference)
    }
}

/// Every metric of `b` against `a`.
///
/// # Errors
/// [`RagError::Invalid`] where they did not answer the same queries: a mean over other queries compares
/// nothing.
pub fn difference(a: &PerQuery, b: &PerQuery) -> Result<Vec<MetricDifference>, RagError> {
    if !a.keys().eq(b.keys()) {
        let only = |a: &PerQuery, b: &PerQuery| a.keys().filter(|id| !b.contains_key(*id)).count();
        return Err(RagError::invalid(
            "the two evaluations",
            format!(
                "are of other queries: {} only in the first, {} only in the second",
                only(a, b),
                only(b, a)
            ),
            "evaluate both on the same collection and split",
        ));
    }
    RetrievalMetrics::NAMES.into_iter().map(|metric| one(metric, a, b)).collect()
}

fn one(metric: &'static str, a: &PerQuery, b: &PerQuery) -> Result<MetricDifference, RagError> {
    let values =
        |side: &PerQuery| -> Vec<f64> { side.values().filter_map(|metrics| metrics.get(metric)).collect() };
    let (a, b) = (values(a), values(b));
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    let summary = (
        evalign_stats::mean(&a),
        evalign_stats::mean(&b),
        evalign_stats::mean(&differences),
        evalign_stats::randomisation_p(&differences, SAMPLES, SEED),
    );
    let (Some(mean_a), Some(mean_b), Some(difference), Some(p)) = summary else {
        return Err(RagError::invalid("the two evaluations", "hold no query", "evaluate a collection first"));
    };
    Ok(MetricDifference {
        metric,
        n: differences.len() as u64,
        a: mean_a,
        b: mean_b,
        difference,
        interval: evalign_stats::paired_difference(&differences, 0.95).map(|paired| paired.interval),
        p,
        better: differences.iter().filter(|difference| **difference > 0.0).count() as u64,
        worse: differences.iter().filter(|difference| **difference < 0.0).count() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn side(values: &[f64]) -> PerQuery {
        let metrics = |value: &f64| RetrievalMetrics { ndcg_at_10: *value, ..RetrievalMetrics::default() };
        values.iter().enumerate().map(|(i, value)| (format!("q{i:03}"), metrics(value))).collect()
    }

    #[test]
    fn a_clear_gain_is_significant_and_a_mere_shuffle_is_not() {
        let a: Vec<f64> = (0..60).map(|i| f64::from(i % 10) / 20.0).collect();
        let better: Vec<f64> = a.iter().enumerate().map(|(i, v)| v + 0.02 + 0.01 * (i % 3) as f64).collect();
        let shuffled: Vec<f64> =
            a.iter().enumerate().map(|(i, v)| if i % 2 == 0 { v + 0.1 } else { v - 0.1 }).collect();
        let gain = &difference(&side(&a), &side(&better)).unwrap()[0];
        assert!(gain.significant(0.01).is_some_and(|difference| difference > 0.0), "{gain:?}");
        assert_eq!((gain.metric, gain.n, gain.better, gain.worse), ("ndcg@10", 60, 60, 0));
        let none = &difference(&side(&a), &side(&shuffled)).unwrap()[0];
        assert_eq!(none.significant(0.05), None);
        let same = &difference(&side(&a), &side(&a)).unwrap()[0];
        assert_eq!((same.p, same.significant(1.1)), (1.0, None));
    }

    #[test]
    fn other_queries_are_refused() {
        let error = difference(&side(&[0.1, 0.2]), &side(&[0.1])).unwrap_err();
        assert!(error.to_string().contains("1 only in the first, 0 only in the second"), "{error}");
    }
}
