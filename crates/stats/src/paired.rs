use std::collections::BTreeMap;

use crate::{clustered_stderr, finite, mean, mean_stderr, student_t_cdf, student_t_quantile};

/// The mean of paired differences with its uncertainty.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PairedDifference {
    pub value: f64,
    /// Standard error of `value`.
    pub stderr: f64,
    /// Degrees of freedom of the t distribution: pairs - 1, or clusters - 1.
    pub freedom: u64,
    /// Interval at the level asked for.
    pub interval: [f64; 2],
    /// Two-sided p-value of "the mean difference is 0". Absent where all differences are equal: there is
    /// no spread to judge them by.
    pub p: Option<f64>,
}

/// Student's paired t test (Student 1908, Biometrika 6:1) on the differences of pairs. `None` for
/// fewer than two pairs.
#[must_use]
pub fn paired_difference(differences: &[f64], level: f64) -> Option<PairedDifference> {
    let stderr = mean_stderr(differences)?;
    t_difference(mean(differences)?, stderr, differences.len() as u64 - 1, level)
}

/// The same where pairs come in clusters that share something: standard error of Miller 2024 (arXiv
/// 2411.00640, eq. 4 on the differences, see [`clustered_stderr`]), t distribution with clusters - 1
/// degrees of freedom (Cameron & Miller 2015, "A Practitioner's Guide to Cluster-Robust Inference",
/// Journal of Human Resources 50:317). `None` for fewer than two pairs or clusters.
#[must_use]
pub fn clustered_difference<C: Ord>(
    differences: &[f64],
    clusters: &[C],
    level: f64,
) -> Option<PairedDifference> {
    let stderr = clustered_stderr(differences, clusters)?;
    let count = cluster_sums(differences, clusters)?.len() as u64;
    t_difference(mean(differences)?, stderr, count - 1, level)
}

/// Sum and number of the values of each cluster, in the order of the clusters' names: what a bootstrap
/// over clusters resamples. `None` for unequal lengths.
#[must_use]
pub fn cluster_sums<C: Ord>(values: &[f64], clusters: &[C]) -> Option<Vec<(f64, u64)>> {
    if values.len() != clusters.len() {
        return None;
    }
    let mut sums: BTreeMap<&C, (f64, u64)> = BTreeMap::new();
    for (value, cluster) in values.iter().zip(clusters) {
        let (sum, count) = sums.entry(cluster).or_default();
        *sum += value;
        *count += 1;
    }
    Some(sums.into_values().collect())
}

fn t_difference(value: f64, stderr: f64, freedom: u64, level: f64) -> Option<PairedDifference> {
    if !(level > 0.0 && level < 1.0) {
        return None;
    }
    let t = student_t_quantile(0.5 + level / 2.0, freedom as f64)?;
    let interval = [finite(value - t * stderr)?, finite(value + t * stderr)?];
    let p =
        if stderr > 0.0 { Some(2.0 * student_t_cdf(-(value / stderr).abs(), freedom as f64)?) } else { None };
    Some(PairedDifference { value, stderr, freedom, interval, p })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    const X: [f64; 9] = [1.0, 0.0, -1.0, 1.0, 0.0, 0.25, 1.0, 0.5, -0.25];

    // import numpy as np; from scipy import stats
    // x = np.array([1, 0, -1, 1, 0, .25, 1, .5, -.25])
    // r = stats.ttest_1samp(x, 0); ci = r.confidence_interval(0.95)
    // print(repr(x.mean()), repr(stats.sem(x)), repr(r.pvalue), repr(ci.low), repr(ci.high))
    // c = np.array([0, 0, 1, 1, 1, 2, 3, 3, 3]); d = x - x.mean(); n = len(x)
    // cross = sum(d[i] * d[j] for i in range(n) for j in range(n) if i != j and c[i] == c[j])
    // se = np.sqrt(x.var(ddof=1) / n + cross / n**2); t = stats.t.ppf(0.975, 3)
    // print(repr(se), repr(2 * stats.t.cdf(-x.mean() / se, 3)), repr(x.mean() - t * se), repr(x.mean() + t * se))
    // # The same up to Bessel's correction of the first term, which Miller's eq. 4 keeps:
    // import statsmodels.api as sm
    // sm.OLS(x, np.ones(n)).fit(cov_type="cluster", cov_kwds=dict(groups=c, use_correction=False)).bse
    // # == np.sqrt(x.var(ddof=0) / n + cross / n**2)
    #[test]
    fn promise_16_matches_scipy() {
        let ours = paired_difference(&X, 0.95).unwrap();
        assert_close(Some(ours.value), 0.2777777777777778);
        assert_close(Some(ours.stderr), 0.22609473050138482);
        assert_close(ours.p, 0.2541387834045786);
        assert_close(Some(ours.interval[0]), -0.24359760570628708);
        assert_close(Some(ours.interval[1]), 0.7991531612618427);
        let ours = clustered_difference(&X, &[0, 0, 1, 1, 1, 2, 3, 3, 3], 0.95).unwrap();
        assert_close(Some(ours.stderr), 0.1372763037438647);
        assert_close(ours.p, 0.13619600799009074);
        assert_close(Some(ours.interval[0]), -0.15909668787488845);
        assert_close(Some(ours.interval[1]), 0.7146522434304441);
        assert_eq!(ours.freedom, 3);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(paired_difference(&[0.5], 0.95), None);
        assert_eq!(clustered_difference(&[0.5, 0.25], &[1, 1], 0.95), None);
        assert_eq!(cluster_sums(&[1.0], &[1, 2]), None);
        let same = paired_difference(&[0.5, 0.5], 0.95).unwrap();
        assert_eq!((same.value, same.stderr, same.p), (0.5, 0.0, None));
    }

    #[test]
    fn clusters_are_summed_in_order() {
        assert_eq!(cluster_sums(&[1.0, 2.0, 4.0], &["b", "a", "b"]), Some(vec![(2.0, 1), (5.0, 2)]));
    }
}
