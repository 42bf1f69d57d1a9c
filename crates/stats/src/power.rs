//! What a comparison could have found at all.

use crate::{finite, normal_quantile};

/// How sure a comparison shall be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Power {
    /// Two-sided chance of seeing a difference where there is none.
    pub alpha: f64,
    /// Chance of seeing a difference of the detectable size.
    pub power: f64,
}

impl Default for Power {
    fn default() -> Self {
        Self { alpha: 0.05, power: 0.8 }
    }
}

impl Power {
    /// Smallest true difference that a comparison with this standard error detects:
    /// (z_{1 - alpha/2} + z_power) * stderr (Miller 2024, arXiv 2411.00640, power analysis, solved
    /// for the effect; Cohen 1988, *Statistical Power Analysis for the Behavioral Sciences*). The negligible chance of a finding in
    /// the wrong direction is left out.
    #[must_use]
    pub fn detectable(self, stderr: f64) -> Option<f64> {
        if !(self.alpha > 0.0 && self.alpha < 1.0 && self.power > self.alpha && self.power < 1.0) {
            return None;
        }
        if stderr.is_nan() || stderr < 0.0 {
            return None;
        }
        finite((normal_quantile(1.0 - self.alpha / 2.0)? + normal_quantile(self.power)?) * stderr)
    }

    /// For two models that each answer `n` items of their own, or the same ones compared without
    /// pairing, with success rates around `p`: stderr = sqrt(2 p (1 - p) / n). Largest at p = 0.5.
    #[must_use]
    pub fn detectable_unpaired(self, n: u64, p: f64) -> Option<f64> {
        if n == 0 || !(0.0..=1.0).contains(&p) {
            return None;
        }
        self.detectable((2.0 * p * (1.0 - p) / n as f64).sqrt())
    }

    /// For two models that answer the same `n` items and disagree on the share `discordance` of them:
    /// stderr = sqrt(discordance / n), its value where the models are equally good (McNemar 1947; the
    /// sample size of Connor 1987, Biometrics 43:207, with the difference neglected in the variance).
    #[must_use]
    pub fn detectable_paired(self, n: u64, discordance: f64) -> Option<f64> {
        if n == 0 || !(0.0..=1.0).contains(&discordance) {
            return None;
        }
        self.detectable((discordance / n as f64).sqrt())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    // import numpy as np; from scipy.stats import norm; from statsmodels.stats.power import normal_power
    // z = norm.ppf(0.975) + norm.ppf(0.8)
    // # One-sided at alpha / 2 is two-sided at alpha without findings in the wrong direction.
    // power = lambda d, var, n: normal_power(d / np.sqrt(var), n, 0.025, alternative="larger")
    // for n in [14042, 10042, 1319, 25]:
    //     d = z * np.sqrt(0.5 / n); assert abs(power(d, 0.5, n) - 0.8) < 1e-12; print(n, repr(d))
    // for n, q in [(1319, 0.25), (100, 0.1), (25, 0.02)]:
    //     d = z * np.sqrt(q / n); assert abs(power(d, q, n) - 0.8) < 1e-12; print(n, q, repr(d))
    #[test]
    fn promise_16_matches_statsmodels() {
        let power = Power::default();
        for (n, reference) in [
            (14042, 0.016717616375481793),
            (10042, 0.019768728227465282),
            (1319, 0.05454644380338246),
            (25, 0.39620398115993455),
        ] {
            assert_close(power.detectable_unpaired(n, 0.5), reference);
        }
        for (n, discordance, reference) in [
            (1319, 0.25, 0.038570160302982666),
            (100, 0.1, 0.08859390348296596),
            (25, 0.02, 0.0792407962319869),
        ] {
            assert_close(power.detectable_paired(n, discordance), reference);
        }
        // Disagreeing on half of the items is what independent models at p = 0.5 do.
        assert_close(power.detectable_paired(400, 0.5), power.detectable_unpaired(400, 0.5).unwrap());
    }

    #[test]
    fn undefined_is_none() {
        let power = Power::default();
        assert_eq!(power.detectable_unpaired(0, 0.5), None);
        assert_eq!(power.detectable_paired(10, 1.5), None);
        assert_eq!(power.detectable(f64::NAN), None);
        assert_eq!(Power { alpha: 0.0, power: 0.8 }.detectable(0.1), None);
        assert_eq!(power.detectable(0.0), Some(0.0));
    }
}
