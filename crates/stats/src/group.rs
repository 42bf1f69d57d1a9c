use crate::finite;

/// Mean of `(value, weight)` pairs; `None` over nothing, for a negative weight or weights summing to 0.
#[must_use]
pub fn weighted_mean(parts: &[(f64, f64)]) -> Option<f64> {
    let total = total_weight(parts)?;
    finite(parts.iter().map(|(value, weight)| value * weight).sum::<f64>() / total)
}

/// Standard error of a size-weighted group mean as lm-evaluation-harness pools it
/// (`pooled_sample_stderr`): sqrt( sum((n_i - 1) n_i s_i^2) / (sum n_i - k) / sum n_i ) for `(s_i, n_i)`
/// of the k subtasks. It treats the subtasks as samples around one common mean.
///
/// `None` over nothing or where no subtask has a second sample.
#[must_use]
pub fn pooled_stderr(parts: &[(f64, u64)]) -> Option<f64> {
    let total: u64 = parts.iter().map(|(_, n)| n).sum();
    let freedom = total.checked_sub(parts.len() as u64).filter(|f| *f > 0)?;
    let squares: f64 = parts.iter().map(|(s, n)| (*n as f64 - 1.0) * *n as f64 * s * s).sum();
    finite((squares / freedom as f64 / total as f64).sqrt())
}

/// Standard error of the plain mean of k independent means: sqrt(sum s_i^2) / k.
#[must_use]
pub fn unweighted_mean_stderr(stderrs: &[f64]) -> Option<f64> {
    if stderrs.is_empty() {
        return None;
    }
    finite(stderrs.iter().map(|s| s * s).sum::<f64>().sqrt() / stderrs.len() as f64)
}

/// Standard error of a weighted mean of independent groups, sqrt(sum w_i^2 s_i^2) / sum w_i, for
/// `(s_i, w_i)`: the propagation of error of [`weighted_mean`] with fixed weights (stratified sampling,
/// Cochran 1977, *Sampling Techniques*, eq. 5.6).
#[must_use]
pub fn combined_stderr(parts: &[(f64, f64)]) -> Option<f64> {
    let total = total_weight(parts)?;
    finite(parts.iter().map(|(s, w)| (w * s).powi(2)).sum::<f64>().sqrt() / total)
}

fn total_weight(parts: &[(f64, f64)]) -> Option<f64> {
    if parts.iter().any(|(_, weight)| weight.is_nan() || *weight < 0.0) {
        return None;
    }
    let total: f64 = parts.iter().map(|(_, weight)| weight).sum();
    (total > 0.0).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    // import numpy as np
    // s, n = np.array([0.05, 0.031, 0.02, 0.0]), np.array([25, 100, 311, 7])
    // print(repr(np.sqrt(((n - 1) * s**2 * n).sum() / (n.sum() - len(n)) / n.sum())))
    // print(repr(np.sqrt((s**2).sum()) / len(s)))
    // print(repr(np.sqrt((n**2 * s**2).sum()) / n.sum()))
    // print(repr(np.average([0.3, 0.5, 0.7, 1.0], weights=n)))
    #[test]
    fn promise_16_matches_numpy() {
        let s = [0.05, 0.031, 0.02, 0.0];
        let n = [25u64, 100, 311, 7];
        let sized: Vec<_> = s.into_iter().zip(n).collect();
        let weighted: Vec<_> = s.into_iter().zip(n.map(|n| n as f64)).collect();
        assert_close(pooled_stderr(&sized), 0.0159665079050442);
        assert_close(unweighted_mean_stderr(&s), 0.015534236382905986);
        assert_close(combined_stderr(&weighted), 0.01593956005907361);
        let values: Vec<_> = [0.3, 0.5, 0.7, 1.0].into_iter().zip(n.map(|n| n as f64)).collect();
        assert_close(weighted_mean(&values), 0.637020316027088);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(weighted_mean(&[]), None);
        assert_eq!(weighted_mean(&[(1.0, 0.0)]), None);
        assert_eq!(weighted_mean(&[(1.0, -1.0), (2.0, 3.0)]), None);
        assert_eq!(pooled_stderr(&[]), None);
        assert_eq!(pooled_stderr(&[(0.1, 1), (0.1, 1)]), None);
        assert_eq!(pooled_stderr(&[(0.1, 0)]), None);
        assert_eq!(unweighted_mean_stderr(&[]), None);
        assert_eq!(combined_stderr(&[(0.1, f64::NAN)]), None);
    }
}
