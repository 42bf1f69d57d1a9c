use std::collections::BTreeMap;

use crate::{finite, mean, mean_stderr};

/// Standard error of the mean when values come in clusters that share something (questions about one
/// passage, repeats of one document), after Miller 2024, "Adding Error Bars to Evals", arXiv
/// 2411.00640, eq. 4:
///
/// sqrt( SE_CLT^2 + 1/n^2 sum_c sum_i sum_{j != i} (s_ic - mean)(s_jc - mean) )
///
/// `clusters[i]` names the cluster of `values[i]`. With one value per cluster it equals
/// [`mean_stderr`]. `None` for n < 2, unequal lengths, or a single cluster (nothing independent to
/// estimate a variance from).
#[must_use]
pub fn clustered_stderr<C: Ord>(values: &[f64], clusters: &[C]) -> Option<f64> {
    if values.len() != clusters.len() {
        return None;
    }
    let centre = mean(values)?;
    let independent = mean_stderr(values)?;
    // sum_{j != i} of products of deviations = (sum of deviations)^2 - sum of squared deviations.
    let mut sums: BTreeMap<&C, (f64, f64)> = BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        let deviation = value - centre;
        let (sum, squares) = sums.entry(cluster).or_default();
        *sum += deviation;
        *squares += deviation * deviation;
    }
    if sums.len() < 2 {
        return None;
    }
    let cross: f64 = sums.values().map(|(sum, squares)| sum * sum - squares).sum();
    let n = values.len() as f64;
    finite((independent.powi(2) + cross / (n * n)).max(0.0).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    // import numpy as np
    // s = np.array([1, 0, 1, 1, 0, 0, 1, 0.5, 0.25]); c = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3])
    // d = s - s.mean(); n = len(s)
    // cross = sum(d[i] * d[j] for i in range(n) for j in range(n) if i != j and c[i] == c[j])
    // print(repr(np.sqrt(s.var(ddof=1) / n + cross / n**2)))
    #[test]
    fn matches_the_double_sum() {
        let s = [1.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0, 0.5, 0.25];
        assert_close(clustered_stderr(&s, &[0, 0, 1, 1, 1, 2, 3, 3, 3]), 0.09353939790550456);
    }

    #[test]
    fn singletons_are_the_plain_standard_error() {
        let s = [1.0, 0.0, 0.5, 0.25];
        assert_close(clustered_stderr(&s, &["a", "b", "c", "d"]), mean_stderr(&s).unwrap());
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(clustered_stderr::<u8>(&[], &[]), None);
        assert_eq!(clustered_stderr(&[1.0, 0.0], &[1]), None);
        assert_eq!(clustered_stderr(&[1.0, 0.0, 1.0], &[1, 1, 1]), None);
    }
}
