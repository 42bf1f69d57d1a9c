//! The mean that people would have given, from a judge's many verdicts and people's few.

use std::collections::{BTreeMap, BTreeSet};

use crate::{finite, mean, normal_quantile, sample_std, student_t_quantile};

/// A mean with its interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CorrectedMean {
    pub value: f64,
    pub stderr: f64,
    pub interval: [f64; 2],
}

/// Prediction-powered inference for a mean: the judge's mean over the unlabelled items, plus what it is off by
/// on the labelled ones, both weighted by `lambda` (Angelopoulos, Duchi and Zrnic 2023, "PPI++", arXiv
/// 2311.01453, section 6: the lambda that makes the variance least, cut to [0, 1]; 1 is plain PPI, arXiv
/// 2301.09633). `labelled` are (people's, judge's), `unlabelled` judge's alone.
///
/// `clusters` number what items share noise with (their document), of labelled and of unlabelled ones: what one cluster
/// adds to the error of both parts is summed before it is squared (Liang and Zeger 1986, Biometrika 73:13), raised by
/// G / (G - 1), and the interval takes Student's t with G - 1 degrees of freedom: G is the number of clusters of the part
/// that has fewer, which is that of few labels. The lambda stays that of single items, which the estimate may have: it
/// is right with any.
///
/// `None` for fewer than two of either, fewer than two clusters in either, or clusters that are not as many as items.
#[must_use]
pub fn prediction_powered_mean(
    labelled: &[(f64, f64)],
    unlabelled: &[f64],
    clusters: Option<[&[usize]; 2]>,
    level: f64,
) -> Option<CorrectedMean> {
    let (people, judged): (Vec<f64>, Vec<f64>) = labelled.iter().copied().unzip();
    let (n, many) = (people.len() as f64, unlabelled.len() as f64);
    let (people_mean, judged_mean, mean_of_many) = (mean(&people)?, mean(&judged)?, mean(unlabelled)?);
    if people.len() < 2 || unlabelled.len() < 2 {
        return None;
    }
    let covariance: f64 =
        labelled.iter().map(|(y, f)| (y - people_mean) * (f - judged_mean)).sum::<f64>() / n;
    let all: Vec<f64> = judged.iter().chain(unlabelled).copied().collect();
    let spread = sample_std(&all)?.powi(2);
    let lambda = if spread > 0.0 { (covariance / ((1.0 + n / many) * spread)).clamp(0.0, 1.0) } else { 0.0 };
    let value = people_mean + lambda * (mean_of_many - judged_mean);
    let rest: Vec<f64> = labelled.iter().map(|(y, f)| y - lambda * f).collect();
    let upper = 0.5 + level / 2.0;
    let (variance, quantile) = match clusters {
        None => {
            (lambda * lambda * variance(unlabelled)? / many + variance(&rest)? / n, normal_quantile(upper)?)
        }
        Some([of_labelled, of_unlabelled]) => {
            let (centre, scale) = (mean(&rest)?, lambda / many);
            let of_rest: Vec<f64> = rest.iter().map(|x| (x - centre) / n).collect();
            let of_many: Vec<f64> = unlabelled.iter().map(|f| (f - mean_of_many) * scale).collect();
            let (squared, freedom) =
                squared_by_cluster([(&of_rest, of_labelled), (&of_many, of_unlabelled)])?;
            (squared * (freedom + 1.0) / freedom, student_t_quantile(upper, freedom)?)
        }
    };
    interval(value, variance.sqrt(), quantile)
}

/// Sum of the squares of the clusters' sums, and the clusters of the part that has fewer, less one.
fn squared_by_cluster(parts: [(&[f64], &[usize]); 2]) -> Option<(f64, f64)> {
    let in_part = parts.map(|(_, clusters)| clusters.iter().collect::<BTreeSet<_>>().len());
    let freedom = in_part.into_iter().min()?.checked_sub(1).filter(|freedom| *freedom > 0)?;
    let mut sums: BTreeMap<usize, f64> = BTreeMap::new();
    for (errors, clusters) in parts {
        if errors.len() != clusters.len() {
            return None;
        }
        for (error, cluster) in errors.iter().zip(clusters) {
            *sums.entry(*cluster).or_default() += error;
        }
    }
    Some((sums.values().map(|sum| sum * sum).sum(), freedom as f64))
}

/// Mean square around the mean, as numpy's `var`.
fn variance(values: &[f64]) -> Option<f64> {
    let centre = mean(values)?;
    finite(values.iter().map(|x| (x - centre).powi(2)).sum::<f64>() / values.len() as f64)
}

/// The share of positives among items of which a judge calls `positive` of `judged` positive, corrected for
/// its sensitivity and specificity, (p + sp - 1) / (se + sp - 1) (Rogan and Gladen 1978, American Journal of
/// Epidemiology 107:71). The interval is that of Lang and Reiczigel 2014 (Preventive Veterinary Medicine 113:13;
/// `asht::prevSeSp` 1.0.3): the delta method after pseudo-counts, so that a judge that never erred on a few labels
/// may still err; cut to [0, 1]. `labelled` are (truly positive, called positive).
///
/// The formula adds the variances of p, se and sp: the items of p should be others than the labelled ones. Over
/// the labelled ones themselves the value is their own share of positives, and the interval wider than theirs.
///
/// `None` where the labels hold no positive or no negative, or the judge calls them no better than chance, as
/// they are or with pseudo-counts: then its calls say nothing.
#[must_use]
pub fn rogan_gladen(
    (positive, judged): (u64, u64),
    labelled: &[(bool, bool)],
    level: f64,
) -> Option<CorrectedMean> {
    let count = |truth: bool, called: bool| labelled.iter().filter(|l| **l == (truth, called)).count() as f64;
    let positives = count(true, true) + count(true, false);
    let negatives = count(false, true) + count(false, false);
    if judged == 0 || positive > judged || positives == 0.0 || negatives == 0.0 {
        return None;
    }
    let z = normal_quantile(0.5 + level / 2.0)?;
    let (n, found) = (judged as f64, positive as f64);
    let (p, se, sp) = (found / n, count(true, true) / positives, count(false, false) / negatives);
    if se + sp <= 1.0 {
        return None;
    }
    let value = ((p + sp - 1.0) / (se + sp - 1.0)).clamp(0.0, 1.0);
    let (n, p) = (n + z * z, (found + z * z / 2.0) / (n + z * z));
    let raised = |right: f64, of: f64| ((right + 1.0) / (of + 2.0), of + 2.0);
    let (se, positives) = raised(count(true, true), positives);
    let (sp, negatives) = raised(count(false, false), negatives);
    let youden = se + sp - 1.0;
    if youden <= 0.0 {
        return None;
    }
    let centre = (p + sp - 1.0) / youden;
    let of_share = |share: f64, n: f64| share * (1.0 - share) / n;
    let (of_se, of_sp) = (of_share(se, positives), of_share(sp, negatives));
    let shift = 2.0 * z * z * (centre * of_se - (1.0 - centre) * of_sp);
    let variance = of_share(p, n) + centre.powi(2) * of_se + (1.0 - centre).powi(2) * of_sp;
    let found = interval(centre + shift, variance.sqrt() / youden, z)?;
    let [low, high] = found.interval.map(|bound| bound.clamp(0.0, 1.0));
    Some(CorrectedMean { value, interval: [low.min(value), high.max(value)], ..found })
}

fn interval(value: f64, stderr: f64, quantile: f64) -> Option<CorrectedMean> {
    let (value, stderr) = (finite(value)?, finite(stderr)?);
    Some(CorrectedMean { value, stderr, interval: [value - quantile * stderr, value + quantile * stderr] })
}

#[cfg(test)]
mod tests;
