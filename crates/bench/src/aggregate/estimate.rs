use evalign_core::{Estimate, ScoringMode};
use evalign_stats::{
    Bootstrap, mean, mean_stderr, normal_interval, t_interval, weighted_mean, wilson_interval,
};

const LEVEL: f64 = 0.95;
const RESAMPLES: u32 = 1000;

/// How per-document values become one number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Aggregation {
    Mean,
    /// exp of the weighted mean of nats per word or byte.
    Perplexity,
    /// The weighted mean of nats per byte over ln 2.
    BitsPerByte,
}

impl Aggregation {
    pub(super) fn of(metric: &str) -> Self {
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
pub(super) fn estimate(aggregation: Aggregation, pairs: &[(f64, f64)], mode: ScoringMode) -> Estimate {
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
