use crate::{finite, mean};

/// How the unit interval of confidences is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Binning {
    /// Bins of equal width, open at their lower end: (0, 1/m], (1/m, 2/m], ... with 0 in the first (Guo
    /// et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, section 2).
    EqualWidth,
    /// Bins of as equal counts as can be (Nixon et al. 2019, "Measuring Calibration in Deep Learning",
    /// arXiv 1904.01685). Equal confidences always share a bin, so that the order of
    /// samples does not matter.
    EqualMass,
}

/// Samples of similar confidence.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CalibrationBin {
    pub n: u64,
    pub mean_confidence: f64,
    /// Share of right answers.
    pub accuracy: f64,
}

/// Expected calibration error and what it is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct Calibration {
    /// sum over bins of n_b / n * |accuracy_b - confidence_b| (Guo et al. 2017, section 2).
    pub ece: f64,
    /// Largest |accuracy_b - confidence_b|.
    pub mce: f64,
    /// Bins that hold samples, by rising confidence.
    pub bins: Vec<CalibrationBin>,
}

/// Calibration of `(confidence, right)` answers; confidences are probabilities of the answer given.
/// `None` over nothing, without bins, or for a confidence outside [0, 1].
#[must_use]
pub fn calibration(answers: &[(f64, bool)], bins: usize, binning: Binning) -> Option<Calibration> {
    if answers.is_empty() || bins == 0 || !answers.iter().all(|(c, _)| (0.0..=1.0).contains(c)) {
        return None;
    }
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let parts = match binning {
        Binning::EqualWidth => equal_width(&sorted, bins),
        Binning::EqualMass => equal_mass(&sorted, bins),
    };
    let summary = |part: &[(f64, bool)]| {
        let confidences: Vec<f64> = part.iter().map(|(confidence, _)| *confidence).collect();
        Some(CalibrationBin {
            n: part.len() as u64,
            mean_confidence: mean(&confidences)?,
            accuracy: part.iter().filter(|(_, right)| *right).count() as f64 / part.len() as f64,
        })
    };
    let bins: Vec<CalibrationBin> = parts.into_iter().map(summary).collect::<Option<_>>()?;
    let gap = |bin: &CalibrationBin| (bin.accuracy - bin.mean_confidence).abs();
    let ece = bins.iter().map(|bin| bin.n as f64 * gap(bin)).sum::<f64>() / answers.len() as f64;
    let mce = bins.iter().map(gap).fold(0.0, f64::max);
    Some(Calibration { ece: finite(ece)?, mce, bins })
}

fn equal_width(sorted: &[(f64, bool)], bins: usize) -> Vec<&[(f64, bool)]> {
    let bin = |confidence: f64| ((confidence * bins as f64).ceil() as usize).clamp(1, bins);
    sorted.chunk_by(|a, b| bin(a.0) == bin(b.0)).collect()
}

/// Borders at round(i n / m), each moved up to where the confidence changes.
fn equal_mass(sorted: &[(f64, bool)], bins: usize) -> Vec<&[(f64, bool)]> {
    let mut parts = Vec::with_capacity(bins);
    let mut start = 0;
    for bin in 1..=bins {
        let mut end = (bin * sorted.len() + bins / 2) / bins;
        while end > 0 && end < sorted.len() && sorted[end].0 == sorted[end - 1].0 {
            end += 1;
        }
        if end > start {
            parts.push(&sorted[start..end]);
            start = end;
        }
    }
    parts
}

/// Brier score of one multi-class forecast: sum over classes of (p_k - \[k is right\])^2, between 0 and
/// 2 (Brier 1950, "Verification of Forecasts Expressed in Terms of Probability", Monthly Weather Review
/// 78:1). `probabilities` should sum to 1. The score of a set is the mean. `None` for a class that is
/// not there or something that is no probability.
#[must_use]
pub fn brier(probabilities: &[f64], right: usize) -> Option<f64> {
    if right >= probabilities.len() || !probabilities.iter().all(|p| (0.0..=1.0).contains(p)) {
        return None;
    }
    let term = |(k, p): (usize, &f64)| (p - f64::from(u8::from(k == right))).powi(2);
    finite(probabilities.iter().enumerate().map(term).sum())
}

/// Probabilities proportional to exp(x): the forecast that log-likelihoods of choices amount to. `None`
/// over nothing or where no value is finite.
#[must_use]
pub fn softmax(log_weights: &[f64]) -> Option<Vec<f64>> {
    let most = log_weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    if !most.is_finite() || log_weights.iter().any(|x| x.is_nan()) {
        return None;
    }
    let weights: Vec<f64> = log_weights.iter().map(|x| (x - most).exp()).collect();
    let total: f64 = weights.iter().sum();
    Some(weights.into_iter().map(|weight| weight / total).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SplitMix64, assert_close};
    use proptest::prelude::*;

    const CONFIDENCES: [f64; 12] = [0.25, 0.31, 0.4, 0.4, 0.55, 0.6, 0.6, 0.72, 0.8, 0.93, 0.99, 1.0];
    const RIGHT: [u8; 12] = [0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1];

    fn answers() -> Vec<(f64, bool)> {
        CONFIDENCES.into_iter().zip(RIGHT.map(|right| right == 1)).collect()
    }

    // import numpy as np
    // c = np.array([.25, .31, .4, .4, .55, .6, .6, .72, .8, .93, .99, 1.]); y = np.array([0, 1, 0, 0, 1, 0, 1, 1, 0, 1, 1, 1])
    // def ece(parts): g = [abs(y[i].mean() - c[i].mean()) for i in parts]; return sum(len(i) * g for i, g in zip(parts, g)) / len(c), max(g)
    // b = np.clip(np.ceil(c * 10), 1, 10); print(ece([np.where(b == k)[0] for k in np.unique(b)]))
    // print(ece(np.split(np.arange(12), [4, 7, 9])))  # quarters at 3, 6, 9; 3 and 6 would split equal confidences
    // print(ece(np.split(np.arange(12), [2, 5, 7, 10])))  # fifths at 2.4, 4.8, 7.2, 9.6, rounded
    #[test]
    fn promise_16_matches_numpy() {
        let by_width = calibration(&answers(), 10, Binning::EqualWidth).unwrap();
        assert_close(Some(by_width.ece), 0.10083333333333333);
        assert_close(Some(by_width.mce), 0.26);
        let quarters = calibration(&answers(), 4, Binning::EqualMass).unwrap();
        assert_close(Some(quarters.ece), 0.10083333333333333);
        assert_close(Some(quarters.mce), 0.26);
        let fifths = calibration(&answers(), 5, Binning::EqualMass).unwrap();
        assert_close(Some(fifths.ece), 0.12083333333333336);
        assert_close(Some(fifths.mce), 0.21999999999999997);
    }

    // import numpy as np
    // p = np.array([[.7, .2, .1], [.1, .1, .8], [1/3, 1/3, 1/3]]); y = np.eye(3)[[0, 1, 2]]
    // print(((p - y)**2).sum(axis=1).tolist())
    // from scipy.special import softmax; print(softmax([-1.5, -0.25, -700.0]).tolist())
    #[test]
    fn promise_16_scores_match_numpy() {
        for (probabilities, right, reference) in [
            ([0.7, 0.2, 0.1], 0, 0.14000000000000004),
            ([0.1, 0.1, 0.8], 1, 1.4600000000000002),
            ([1.0 / 3.0; 3], 2, 0.6666666666666667),
        ] {
            assert_close(brier(&probabilities, right), reference);
        }
        let ours = softmax(&[-1.5, -0.25, -700.0]).unwrap();
        for (ours, reference) in
            ours.into_iter().zip([0.22270013882530884, 0.7772998611746911, 9.840674759554212e-305])
        {
            assert_close(Some(ours), reference);
        }
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(calibration(&[], 10, Binning::EqualWidth), None);
        assert_eq!(calibration(&[(0.5, true)], 0, Binning::EqualMass), None);
        assert_eq!(calibration(&[(1.5, true)], 10, Binning::EqualWidth), None);
        assert_eq!(brier(&[0.5, 0.5], 2), None);
        assert_eq!(brier(&[f64::NAN, 0.5], 0), None);
        assert_eq!(softmax(&[]), None);
        assert_eq!(softmax(&[f64::NEG_INFINITY]), None);
    }

    proptest! {
        #[test]
        fn order_does_not_matter(seed in any::<u64>(), bins in 1usize..20) {
            let mut random = SplitMix64::new(seed);
            let mut answers: Vec<(f64, bool)> =
                (0..60).map(|_| (random.below(21) as f64 / 20.0, random.below(2) == 1)).collect();
            for binning in [Binning::EqualWidth, Binning::EqualMass] {
                let first = calibration(&answers, bins, binning).unwrap();
                prop_assert_eq!(first.bins.iter().map(|bin| bin.n).sum::<u64>(), 60);
                prop_assert!(first.bins.len() <= bins && first.ece <= first.mce + 1e-12);
                answers.reverse();
                let second = calibration(&answers, bins, binning).unwrap();
                prop_assert!((first.ece - second.ece).abs() < 1e-12);
            }
        }
    }
}
