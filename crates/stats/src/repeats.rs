//! Several answers to the same item.

use crate::{finite, mean, sample_std};

/// Unbiased estimate of the chance that at least one of `k` answers is right, from `correct` right ones
/// among `n` (Chen et al. 2021, "Evaluating Large Language Models Trained on Code", arXiv 2107.03374,
/// eq. 1): 1 - C(n - c, k) / C(n, k), as the product of 1 - k / i for i = n - c + 1 ..= n. `None` for
/// k = 0, k > n or c > n.
#[must_use]
pub fn pass_at_k(n: u64, correct: u64, k: u64) -> Option<f64> {
    if k == 0 || k > n || correct > n {
        return None;
    }
    if n - correct < k {
        return Some(1.0);
    }
    finite(1.0 - (n - correct + 1..=n).map(|i| 1.0 - k as f64 / i as f64).product::<f64>())
}

/// Where the spread of repeated scores comes from, by the law of total variance
/// Var(s) = E\[Var(s | item)\] + Var(E\[s | item\]) (Miller 2024, arXiv 2411.00640, on resampling).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RepeatVariance {
    /// E\[Var(s | item)\]: what sampling alone does. Mean of the items' sample variances.
    pub within: f64,
    /// Var(E\[s | item\]): how much items differ in difficulty. Variance of the items' means less the
    /// part that is due to `within`; 0 where the latter is larger.
    pub between: f64,
    /// Items with at least two answers, which are those it is computed over.
    pub items: u64,
}

/// `None` for fewer than two items with at least two scores each.
#[must_use]
pub fn repeat_variance<S: AsRef<[f64]>>(items: &[S]) -> Option<RepeatVariance> {
    let repeated: Vec<&[f64]> = items.iter().map(AsRef::as_ref).filter(|scores| scores.len() > 1).collect();
    let means: Vec<f64> = repeated.iter().map(|scores| mean(scores)).collect::<Option<_>>()?;
    let variance = |scores: &&[f64]| sample_std(scores).map(|std| std * std);
    let variances: Vec<f64> = repeated.iter().map(variance).collect::<Option<_>>()?;
    let noise: Vec<f64> = variances.iter().zip(&repeated).map(|(v, s)| v / s.len() as f64).collect();
    let spread = sample_std(&means)?;
    Some(RepeatVariance {
        within: mean(&variances)?,
        between: finite(spread * spread - mean(&noise)?)?.max(0.0),
        items: repeated.len() as u64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;
    use proptest::prelude::*;

    // from math import comb
    // for n, c, k in [(10, 3, 1), (10, 3, 5), (200, 17, 100), (64, 1, 8), (5, 0, 5), (5, 5, 1), (8, 4, 5)]:
    //     print((n, c, k), repr(1 - comb(n - c, k) / comb(n, k)))
    #[test]
    fn matches_exact_binomials() {
        for (n, c, k, reference) in [
            (10, 3, 1, 0.30000000000000004),
            (10, 3, 5, 0.9166666666666666),
            (200, 17, 100, 0.99999636769084),
            (64, 1, 8, 0.125),
            (5, 0, 5, 0.0),
            (5, 5, 1, 1.0),
            (8, 4, 5, 1.0),
        ] {
            assert_close(pass_at_k(n, c, k), reference);
        }
        for (n, c, k) in [(5, 2, 0), (5, 2, 6), (5, 6, 1)] {
            assert_eq!(pass_at_k(n, c, k), None);
        }
    }

    // import numpy as np
    // x = [[1, 0, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1], [0.5]]
    // r = [np.array(s) for s in x if len(s) > 1]
    // v = np.array([s.var(ddof=1) for s in r]); m = np.array([s.mean() for s in r]); k = np.array([len(s) for s in r])
    // print(repr(v.mean()), repr(m.var(ddof=1) - (v / k).mean()))
    // # With equal k these are the mean squares of a one-way analysis of variance with random effects:
    // # within = MSW, between = (MSB - MSW) / k (statsmodels anova_lm).
    #[test]
    fn promise_16_matches_numpy() {
        let items: [&[f64]; 5] = [&[1.0, 0.0, 1.0, 1.0], &[0.0; 4], &[1.0; 4], &[0.0, 1.0], &[0.5]];
        let ours = repeat_variance(&items).unwrap();
        assert_close(Some(ours.within), 0.1875);
        assert_close(Some(ours.between), 0.10416666666666666);
        assert_eq!(ours.items, 4);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(repeat_variance::<Vec<f64>>(&[]), None);
        assert_eq!(repeat_variance(&[vec![1.0, 0.0], vec![1.0]]), None);
        // All noise: the means differ less than sampling alone would make them.
        let noise = repeat_variance(&[vec![1.0, 0.0], vec![0.0, 1.0]]).unwrap();
        assert_close(Some(noise.within), 0.5);
        assert_close(Some(noise.between), 0.0);
    }

    proptest! {
        #[test]
        fn more_tries_never_hurt(n in 1u64..100, c in 0u64..100, k in 1u64..100) {
            prop_assume!(c <= n && k < n);
            let (fewer, more) = (pass_at_k(n, c, k).unwrap(), pass_at_k(n, c, k + 1).unwrap());
            prop_assert!((0.0..=1.0).contains(&fewer) && more >= fewer - 1e-12);
            let plain = c as f64 / n as f64;
            prop_assert!((pass_at_k(n, c, 1).unwrap() - plain).abs() < 1e-9);
        }
    }
}
