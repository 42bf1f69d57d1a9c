use crate::distribution::ln_gamma;
use crate::{finite, normal_quantile};

/// Two-sided p-values of McNemar's test that two graders of the same items succeed equally often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct McNemar {
    /// Exact conditional test: min(1, 2 P(X <= min(b, c))) for X ~ Binomial(b + c, 1/2). Never rejects
    /// more often than it says, and usually much less often.
    pub exact: f64,
    /// The mid-p variant, `exact` less the probability of the outcome itself (Fagerland, Lydersen, Laake
    /// 2013, "The McNemar test for binary matched-pairs data", BMC Medical Research Methodology 13:91):
    /// closer to the nominal level, at the price of exceeding it by a little now and then.
    pub mid_p: f64,
}

/// McNemar's test (McNemar 1947, Psychometrika 12:153) from the discordant pairs: `only_first` items
/// that only the first got right and `only_second` that only the second did. Without discordant pairs
/// there is nothing to decide and both values are 1.
#[must_use]
pub fn mcnemar(only_first: u64, only_second: u64) -> McNemar {
    let (least, n) = (only_first.min(only_second), only_first + only_second);
    if n == 0 {
        return McNemar { exact: 1.0, mid_p: 1.0 };
    }
    let point = (ln_choose(n, least) - n as f64 * std::f64::consts::LN_2).exp();
    // From the most likely term down: P(k - 1) = P(k) k / (n - k + 1).
    let (mut tail, mut term) = (point, point);
    for k in (1..=least).rev() {
        term *= k as f64 / (n - k + 1) as f64;
        tail += term;
        if term < tail * f64::EPSILON / 4.0 {
            break;
        }
    }
    // With equal counts 2 * tail is 1 + point, and the mid-p value 1 - point / 2 (their equation).
    let mid_p = if only_first == only_second { 1.0 - 0.5 * point } else { 2.0 * tail - point };
    McNemar { exact: (2.0 * tail).min(1.0), mid_p: mid_p.min(1.0) }
}

/// Interval of the difference of two proportions over the same `n` items, share only the second got
/// right minus share only the first did: adjusted Wald of Bonett & Price 2012, "Adjusted Wald Confidence
/// Interval for a Difference of Binomial Proportions Based on Paired Data", Journal of Educational and
/// Behavioral Statistics 37:479. It has a width even where no pair is discordant. `None` for no items or
/// more discordant pairs than items.
#[must_use]
pub fn paired_proportion_interval(only_first: u64, only_second: u64, n: u64, level: f64) -> Option<[f64; 2]> {
    if n == 0 || only_first.checked_add(only_second)? > n || !(level > 0.0 && level < 1.0) {
        return None;
    }
    let size = n as f64 + 2.0;
    let (first, second) = ((only_first as f64 + 1.0) / size, (only_second as f64 + 1.0) / size);
    let difference = second - first;
    let stderr = ((first + second - difference * difference) / size).sqrt();
    let half = normal_quantile(0.5 + level / 2.0)? * stderr;
    Some([finite(difference - half)?.max(-1.0), finite(difference + half)?.min(1.0)])
}

fn ln_choose(n: u64, k: u64) -> f64 {
    let ln_factorial = |m: u64| ln_gamma(m as f64 + 1.0);
    ln_factorial(n) - ln_factorial(k) - ln_factorial(n - k)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    // from statsmodels.stats.contingency_tables import mcnemar; from scipy.stats import binom
    // for b, c in [(1, 7), (0, 5), (12, 12), (59, 16), (210, 260), (3000, 3200), (0, 1)]:
    //     p = mcnemar([[0, b], [c, 0]], exact=True).pvalue
    //     f = binom.pmf(min(b, c), b + c, 0.5); mid = 1 - f / 2 if b == c else 2 * binom.cdf(min(b, c), b + c, 0.5) - f
    //     print((b, c), repr(p), repr(mid))
    #[test]
    fn promise_16_matches_statsmodels() {
        for (b, c, exact, mid_p) in [
            (1, 7, 0.0703125, 0.039062500000000014),
            (0, 5, 0.0625, 0.03125000000000003),
            (12, 12, 1.0, 0.9194098711013794),
            (59, 16, 6.114156572521501e-07, 3.8509778235297136e-07),
            (210, 260, 0.02370644423405274, 0.021130710052592892),
            (3000, 3200, 0.011488253770871584, 0.011085759458587028),
            (0, 1, 1.0, 0.4999999999999999),
        ] {
            let ours = mcnemar(b, c);
            assert_close(Some(ours.exact), exact);
            assert_close(Some(ours.mid_p), mid_p);
            assert_eq!(ours, mcnemar(c, b), "the test has no direction");
        }
    }

    #[test]
    fn matches_the_published_example() {
        // Fagerland et al. 2013, table 6 (airway hyper-responsiveness before and after stem cell
        // transplantation, b = 1, c = 7): exact 0.0703, mid-p 0.0391.
        let ours = mcnemar(1, 7);
        assert!((ours.exact - 0.0703).abs() < 5e-5 && (ours.mid_p - 0.0391).abs() < 5e-5, "{ours:?}");
    }

    #[test]
    fn nothing_discordant_decides_nothing() {
        assert_eq!(mcnemar(0, 0), McNemar { exact: 1.0, mid_p: 1.0 });
    }

    // from scipy.stats import norm; import numpy as np
    // for b, c, n in [(1, 7, 21), (0, 0, 25), (59, 16, 200), (5, 0, 5)]:
    //     p, q = (b + 1) / (n + 2), (c + 1) / (n + 2)
    //     h = norm.ppf(0.975) * np.sqrt((p + q - (q - p)**2) / (n + 2)); print((b, c, n), repr(q - p - h), repr(q - p + h))
    #[test]
    fn intervals_match_the_formula() {
        for (b, c, n, low, high) in [
            (1, 7, 21, 0.013379823768343235, 0.5083593066664394),
            (0, 0, 25, -0.10265954254442057, 0.10265954254442057),
            (59, 16, 200, -0.2927922222579165, -0.13295035199950916),
            (5, 0, 5, -1.0, -0.19583598522357692),
        ] {
            let ours = paired_proportion_interval(b, c, n, 0.95).unwrap();
            assert_close(Some(ours[0]), low);
            assert_close(Some(ours[1]), high);
        }
        assert_eq!(paired_proportion_interval(0, 0, 0, 0.95), None);
        assert_eq!(paired_proportion_interval(3, 3, 5, 0.95), None);
    }
}
