use evalign_core::{Estimate, ScoringMode};
use evalign_stats::{
    Bootstrap, clustered_stderr, mean, mean_stderr, normal_interval, proportion_stderr, student_t_quantile,
    t_interval, weighted_mean, wilson_interval,
};

/// Confidence of all intervals of results.
pub(crate) const LEVEL: f64 = 0.95;
pub(super) const RESAMPLES: u32 = 1000;

/// How per-document values become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aggregation {
    Mean,
    /// exp of the weighted mean of nats per word or byte.
    Perplexity,
    /// The weighted mean of nats per byte over ln 2.
    BitsPerByte,
}

impl Aggregation {
    pub(crate) fn of(metric: &str) -> Self {
        match metric {
            "word_perplexity" | "byte_perplexity" => Self::Perplexity,
            "bits_per_byte" => Self::BitsPerByte,
            _ => Self::Mean,
        }
    }

    fn apply(self, pairs: &[(f64, f64)]) -> Option<f64> {
        let mean = weighted_mean(pairs)?;
        Some(match self {
            Self::Mean => mean,
            Self::Perplexity => mean.exp(),
            Self::BitsPerByte => mean / std::f64::consts::LN_2,
        })
    }
}

/// The estimate over `(value, weight)` of each document.
///
/// Means: sample standard error; Wilson's interval where all values are 0 or 1, else Student's t.
/// Perplexities: bootstrap over documents (the reference gives no standard error, and under its rule
/// book neither do we).
pub(crate) fn estimate(aggregation: Aggregation, pairs: &[(f64, f64)], mode: ScoringMode) -> Estimate {
    let n = pairs.len() as u64;
    let values: Vec<f64> = pairs.iter().map(|(value, _)| *value).collect();
    if aggregation == Aggregation::Mean {
        let binary = values.iter().all(|v| *v == 0.0 || *v == 1.0);
        let ci95 = if binary {
            wilson_interval(values.iter().filter(|v| **v == 1.0).count() as u64, n, LEVEL)
        } else {
            t_interval(&values, LEVEL)
        };
        return Estimate { value: mean(&values), stderr: mean_stderr(&values), ci95, n };
    }
    let value = aggregation.apply(pairs);
    if mode == ScoringMode::LmEval {
        return Estimate { value, stderr: None, ci95: None, n };
    }
    let plan = Bootstrap { resamples: RESAMPLES, seed: n, level: LEVEL };
    let spread = plan.estimate(pairs, |drawn| {
        let drawn: Vec<(f64, f64)> = drawn.iter().map(|pair| **pair).collect();
        aggregation.apply(&drawn)
    });
    Estimate { value, stderr: spread.map(|s| s.stderr), ci95: spread.map(|s| s.interval), n }
}

/// As [`estimate`], where values with the same cluster are not independent: the standard error of a mean is
/// Miller's (arXiv 2411.00640, eq. 4), its interval Student's with clusters - 1 degrees of freedom, inside
/// [0, 1] for values that are. Without a second cluster neither is known. Perplexities are estimated as
/// without clusters.
pub(crate) fn clustered_estimate<C: Ord>(
    aggregation: Aggregation,
    pairs: &[(f64, f64)],
    clusters: &[C],
    mode: ScoringMode,
) -> Estimate {
    if aggregation != Aggregation::Mean {
        return estimate(aggregation, pairs, mode);
    }
    let values: Vec<f64> = pairs.iter().map(|(value, _)| *value).collect();
    let share = values.iter().all(|value| (0.0..=1.0).contains(value));
    let value = mean(&values);
    let stderr = clustered_stderr(&values, clusters);
    let mut distinct: Vec<&C> = clusters.iter().collect();
    distinct.sort();
    distinct.dedup();
    let freedom = distinct.len().saturating_sub(1) as f64;
    let ci95 = value.zip(stderr).filter(|(_, stderr)| *stderr > 0.0).and_then(|(value, stderr)| {
        let half = student_t_quantile(0.5 + LEVEL / 2.0, freedom)? * stderr;
        let [low, high] = [value - half, value + half];
        Some(if share { [low.max(0.0), high.min(1.0)] } else { [low, high] })
    });
    Estimate { value, stderr, ci95, n: values.len() as u64 }
}

/// A share of all items, with Wilson's interval; nothing over nothing.
pub(crate) fn share(successes: u64, n: u64) -> Estimate {
    Estimate {
        value: (n > 0).then(|| successes as f64 / n as f64),
        stderr: proportion_stderr(successes, n),
        ci95: wilson_interval(successes, n, LEVEL),
        n,
    }
}

/// A group's estimate. Where it is a share of all samples, Wilson's interval of that share (which knows
/// that no error seen is not no error); otherwise a normal interval, kept inside [0, 1] for shares, and
/// none at all around a standard error of zero.
pub(super) fn group_estimate(
    value: Option<f64>,
    stderr: Option<f64>,
    n: u64,
    successes: Option<u64>,
    share: bool,
) -> Estimate {
    let pooled = value.zip(successes).filter(|(value, k)| (value * n as f64 - *k as f64).abs() < 1e-6);
    let ci95 = match (pooled, value.zip(stderr)) {
        (Some((_, successes)), _) => wilson_interval(successes, n, LEVEL),
        (None, Some((value, stderr))) if stderr > 0.0 => normal_interval(value, stderr, LEVEL)
            .map(|[low, high]| if share { [low.max(0.0), high.min(1.0)] } else { [low, high] }),
        (None, _) => None,
    };
    Estimate { value, stderr, ci95, n }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accuracies_have_sample_errors_and_wilson_intervals() {
        let pairs = [(1.0, 1.0), (0.0, 1.0), (1.0, 1.0), (1.0, 1.0)];
        let found = estimate(Aggregation::Mean, &pairs, ScoringMode::LmEval);
        assert_eq!(found.value, Some(0.75));
        assert_eq!(found.stderr, Some(0.25));
        let [low, high] = found.ci95.unwrap();
        assert!(low > 0.3 && low < 0.31 && high > 0.95 && high < 1.0, "{low} {high}");
    }

    #[test]
    fn nothing_has_no_value() {
        let found = estimate(Aggregation::Mean, &[], ScoringMode::Default);
        assert_eq!(found, Estimate { value: None, stderr: None, ci95: None, n: 0 });
        let one = estimate(Aggregation::Mean, &[(1.0, 1.0)], ScoringMode::Default);
        assert_eq!((one.value, one.stderr), (Some(1.0), None));
    }

    #[test]
    fn groups_do_not_claim_certainty() {
        // All wrong: the standard error is 0, the interval is not.
        let all_wrong = group_estimate(Some(0.0), Some(0.0), 5, Some(0), true);
        assert!(all_wrong.ci95.unwrap()[1] > 0.4);
        // Leaves weighted equally: their mean is not the share of samples.
        let unweighted = group_estimate(Some(0.5), Some(0.1), 40, Some(30), true);
        assert!((unweighted.ci95.unwrap()[0] - 0.304).abs() < 1e-3);
        assert_eq!(group_estimate(Some(1.0), Some(0.0), 40, Some(30), true).ci95, None);
    }

    #[test]
    fn perplexities_are_weighted() {
        // 10 words at 2 nats and 30 at 1: exp(50 / 40).
        let pairs = [(2.0, 10.0), (1.0, 30.0)];
        let found = estimate(Aggregation::Perplexity, &pairs, ScoringMode::LmEval);
        assert_eq!((found.value, found.stderr), (Some(1.25f64.exp()), None));
        let bits = estimate(Aggregation::BitsPerByte, &pairs, ScoringMode::Default);
        assert_eq!(bits.value, Some(1.25 / std::f64::consts::LN_2));
        assert!(bits.stderr.is_some());
    }
}
