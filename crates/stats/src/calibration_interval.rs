use crate::{Binning, Bootstrap, BootstrapEstimate, calibration};

/// Expected calibration error of `(confidence, right)` answers with a bootstrap interval over answers.
///
/// The error is never negative, so resampling adds to it: replicates lie above the value as much as the
/// value lies above the truth. The interval is therefore the basic bootstrap interval [2 v - q(upper),
/// 2 v - q(lower)] (Davison & Hinkley 1997, "Bootstrap Methods and their Application", eq. 5.6), as in
/// `bootstrap_uncertainty` of the reference implementation of Kumar et al. 2019, "Verified Uncertainty
/// Calibration", arXiv 1909.10155; kept inside [0, 1] and widened where it would leave out the value.
/// Every answer stays in the bin it has among the original answers.
///
/// `None` where [`calibration`] is undefined and for fewer than two answers.
#[must_use]
pub fn calibration_error(
    answers: &[(f64, bool)],
    bins: usize,
    binning: Binning,
    plan: &Bootstrap,
) -> Option<BootstrapEstimate> {
    let found = calibration(answers, bins, binning)?;
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    // n_b |accuracy_b - confidence_b| = |sum over the bin of (right - confidence)|.
    let bin_of = found.bins.iter().enumerate().flat_map(|(bin, of)| (0..of.n).map(move |_| bin));
    let gaps: Vec<(usize, f64)> = bin_of
        .zip(&sorted)
        .map(|(bin, (confidence, right))| (bin, f64::from(u8::from(*right)) - confidence))
        .collect();
    let spread = plan.estimate(&gaps, |drawn| {
        let mut sums = vec![0.0f64; found.bins.len()];
        for (bin, gap) in drawn {
            sums[*bin] += gap;
        }
        Some(sums.iter().map(|sum| sum.abs()).sum::<f64>() / drawn.len() as f64)
    })?;
    let value = found.ece;
    let [low, high] = spread.interval;
    let interval = [(2.0 * value - high).clamp(0.0, value), (2.0 * value - low).clamp(value, 1.0)];
    Some(BootstrapEstimate { value, stderr: spread.stderr, interval })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{SplitMix64, assert_close};

    /// Answers that are right as often as they say.
    fn calibrated(n: u64, seed: u64) -> Vec<(f64, bool)> {
        let mut random = SplitMix64::new(seed);
        let mut uniform = || random.below(1 << 30) as f64 / (1u64 << 30) as f64;
        (0..n)
            .map(|_| {
                let confidence = 0.25 + 0.75 * uniform();
                (confidence, uniform() < confidence)
            })
            .collect()
    }

    // import numpy as np
    // (SplitMix64 and `below` as in the test of bootstrap.rs)
    // c = np.array([.25, .4, .55, .6, .8, .93, .99, 1.]); y = np.array([0, 0, 1, 0, 0, 1, 1, 1])
    // b = np.clip(np.ceil(c * 5), 1, 5).astype(int) - 1
    // def ece(i): return sum(abs((y[i][b[i] == k] - c[i][b[i] == k]).sum()) for k in range(5)) / len(i)
    // r = SplitMix64(3); v = ece(np.arange(8)); d = np.array([ece(np.array([r.below(8) for _ in range(8)])) for _ in range(200)])
    // print(repr(v), repr(d.std(ddof=1)), repr(max(0, 2 * v - np.quantile(d, .975))), repr(2 * v - np.quantile(d, .025)))
    #[test]
    fn promise_16_matches_numpy() {
        let answers: Vec<(f64, bool)> = [0.25, 0.4, 0.55, 0.6, 0.8, 0.93, 0.99, 1.0]
            .into_iter()
            .zip([false, false, true, false, false, true, true, true])
            .collect();
        let plan = Bootstrap { resamples: 200, seed: 3, level: 0.95 };
        let ours = calibration_error(&answers, 5, Binning::EqualWidth, &plan).unwrap();
        assert_close(Some(ours.value), 0.21000000000000002);
        assert_close(Some(ours.stderr), 0.10405308849875938);
        assert_close(Some(ours.interval[0]), 0.0);
        assert_close(Some(ours.interval[1]), 0.32293750000000004);
    }

    #[test]
    fn the_interval_of_a_calibrated_model_reaches_down_to_nothing() {
        // Twenty models without any error: all have a positive estimate, and the intervals know better.
        let plan = Bootstrap { resamples: 300, seed: 1, level: 0.95 };
        let reached = (0..20)
            .filter(|seed| {
                let found =
                    calibration_error(&calibrated(400, *seed), 10, Binning::EqualWidth, &plan).unwrap();
                assert!(
                    found.value > 0.0 && found.interval[0] <= found.value && found.value <= found.interval[1]
                );
                found.interval[0] < 0.005
            })
            .count();
        // The basic interval leans on the spread of replicates, and is itself an estimate.
        assert!(reached >= 15, "{reached} of 20");
    }

    #[test]
    fn undefined_is_none() {
        let plan = Bootstrap::default();
        assert_eq!(calibration_error(&[(0.5, true)], 10, Binning::EqualWidth, &plan), None);
        assert_eq!(calibration_error(&[(0.5, true), (2.0, true)], 10, Binning::EqualMass, &plan), None);
    }
}
