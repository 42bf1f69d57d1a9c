use crate::{finite, mean, mean_stderr, normal_quantile, student_t_quantile};

/// value +- z * stderr at confidence `level` (0.95 for a 95 % interval).
#[must_use]
pub fn normal_interval(value: f64, stderr: f64, level: f64) -> Option<[f64; 2]> {
    let z = normal_quantile(upper_tail(level)?)?;
    bounds(value - z * stderr, value + z * stderr)
}

/// Student's t interval of the mean of `values`; `None` for n < 2.
#[must_use]
pub fn t_interval(values: &[f64], level: f64) -> Option<[f64; 2]> {
    let (centre, stderr) = (mean(values)?, mean_stderr(values)?);
    let t = student_t_quantile(upper_tail(level)?, (values.len() - 1) as f64)?;
    bounds(centre - t * stderr, centre + t * stderr)
}

/// Wilson's score interval of a proportion (Wilson 1927, JASA 22:209), which stays inside [0, 1] and
/// has a width even when all or none succeeded. `None` for no trials or more successes than trials.
#[must_use]
pub fn wilson_interval(successes: u64, trials: u64, level: f64) -> Option<[f64; 2]> {
    if trials == 0 || successes > trials {
        return None;
    }
    wilson_share_interval(successes as f64 / trials as f64, trials as f64, level)
}

/// [`wilson_interval`] of a share that is not one of whole trials: of points that may be halves, or of an
/// effective number of trials (Korn and Graubard 1998, Survey Methodology 24:193, for clustered ones). `None`
/// for a share outside of [0, 1] or no trials.
#[must_use]
pub fn wilson_share_interval(share: f64, trials: f64, level: f64) -> Option<[f64; 2]> {
    if !(0.0..=1.0).contains(&share) || trials.is_nan() || trials <= 0.0 {
        return None;
    }
    let z = normal_quantile(upper_tail(level)?)?;
    let (n, p) = (trials, share);
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    bounds(((centre - half) / scale).max(0.0), ((centre + half) / scale).min(1.0))
}

fn upper_tail(level: f64) -> Option<f64> {
    (level > 0.0 && level < 1.0).then_some(0.5 + level / 2.0)
}

fn bounds(low: f64, high: f64) -> Option<[f64; 2]> {
    Some([finite(low)?, finite(high)?])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    fn assert_interval(ours: Option<[f64; 2]>, reference: [f64; 2]) {
        let ours = ours.unwrap();
        assert_close(Some(ours[0]), reference[0]);
        assert_close(Some(ours[1]), reference[1]);
    }

    // import numpy as np; from scipy import stats
    // for k, n in [(0, 10), (7, 25), (1319, 1319), (500, 14042)]:
    //     ci = stats.binomtest(k, n).proportion_ci(0.95, method="wilson"); print(repr(ci.low), repr(ci.high))
    // x = np.array([0.1, 2.5, -3.75, 4.0, 0.0])
    // print(stats.t.interval(0.95, 4, x.mean(), stats.sem(x)), stats.t.interval(0.8, 4, x.mean(), stats.sem(x)))
    // print(stats.norm.interval(0.95, 0.3, 0.01))
    #[test]
    fn promise_16_matches_scipy() {
        for (k, n, reference) in [
            (0, 10, [0.0, 0.27753279986288926]),
            (7, 25, [0.14283853850956568, 0.4757660519036158]),
            (1319, 1319, [0.9970960550146964, 1.0]),
            (500, 14042, [0.03266725649362838, 0.038801687660677764]),
        ] {
            assert_interval(wilson_interval(k, n, 0.95), reference);
        }
        let x = [0.1, 2.5, -3.75, 4.0, 0.0];
        assert_interval(t_interval(&x, 0.95), [-3.087011404512502, 4.227011404512503]);
        assert_interval(t_interval(&x, 0.8), [-1.4494718848238282, 2.589471884823828]);
        assert_interval(normal_interval(0.3, 0.01, 0.95), [0.28040036015459946, 0.3195996398454005]);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(wilson_interval(0, 0, 0.95), None);
        assert_eq!(wilson_interval(2, 1, 0.95), None);
        assert_eq!(wilson_interval(1, 2, 1.0), None);
        assert_eq!(wilson_share_interval(0.5, 0.0, 0.95), None);
        assert_eq!(wilson_share_interval(1.1, 3.0, 0.95), None);
        assert_eq!(wilson_share_interval(f64::NAN, 3.0, 0.95), None);
        assert_eq!(t_interval(&[1.0], 0.95), None);
        assert_eq!(normal_interval(f64::NAN, 0.1, 0.95), None);
    }
}
