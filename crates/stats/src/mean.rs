use crate::finite;

/// Arithmetic mean; `None` over nothing.
#[must_use]
pub fn mean(values: &[f64]) -> Option<f64> {
    if values.is_empty() {
        return None;
    }
    finite(values.iter().sum::<f64>() / values.len() as f64)
}

/// Standard deviation with Bessel's correction, sqrt(sum (x - mean)^2 / (n - 1)); `None` for n < 2.
#[must_use]
pub fn sample_std(values: &[f64]) -> Option<f64> {
    if values.len() < 2 {
        return None;
    }
    let centre = mean(values)?;
    let squares: f64 = values.iter().map(|x| (x - centre).powi(2)).sum();
    finite((squares / (values.len() - 1) as f64).sqrt())
}

/// Standard error of the mean, sample standard deviation / sqrt(n), as lm-evaluation-harness's
/// `mean_stderr`; `None` for n < 2.
#[must_use]
pub fn mean_stderr(values: &[f64]) -> Option<f64> {
    finite(sample_std(values)? / (values.len() as f64).sqrt())
}

/// Standard error of a proportion, sqrt(p (1 - p) / (n - 1)): what [`mean_stderr`] gives for zeros and
/// ones. `None` for n < 2 or more successes than trials.
#[must_use]
pub fn proportion_stderr(successes: u64, trials: u64) -> Option<f64> {
    if trials < 2 || successes > trials {
        return None;
    }
    let p = successes as f64 / trials as f64;
    finite((p * (1.0 - p) / (trials - 1) as f64).sqrt())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;
    use proptest::prelude::*;

    // import numpy as np
    // x = np.array([0.1, 2.5, -3.75, 4.0, 0.0, 1e3])
    // print(repr(x.mean()), repr(x.std(ddof=1)), repr(x.std(ddof=1) / np.sqrt(len(x))))
    #[test]
    fn promise_16_matches_numpy() {
        let x = [0.1, 2.5, -3.75, 4.0, 0.0, 1e3];
        assert_close(mean(&x), 167.14166666666668);
        assert_close(sample_std(&x), 408.02409293651607);
        assert_close(mean_stderr(&x), 166.57513840940106);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(mean(&[]), None);
        assert_eq!(mean_stderr(&[1.0]), None);
        assert_eq!(mean(&[f64::INFINITY, f64::NEG_INFINITY]), None);
        assert_eq!(proportion_stderr(1, 1), None);
        assert_eq!(proportion_stderr(3, 2), None);
    }

    proptest! {
        #[test]
        fn proportion_is_the_mean_of_zeros_and_ones(bits in prop::collection::vec(any::<bool>(), 2..200)) {
            let values: Vec<f64> = bits.iter().map(|b| f64::from(u8::from(*b))).collect();
            let ones = bits.iter().filter(|b| **b).count() as u64;
            let by_formula = proportion_stderr(ones, bits.len() as u64).unwrap();
            prop_assert!((mean_stderr(&values).unwrap() - by_formula).abs() < 1e-12);
        }
    }
}
