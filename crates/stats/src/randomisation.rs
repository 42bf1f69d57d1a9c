use crate::{SplitMix64, mean};

/// Two-sided p-value of "the two of each pair are exchangeable": the share of sign patterns of the
/// differences whose mean is at least as far from 0 as the observed one (Fisher 1935, "The design of
/// experiments", section 21; for retrieval Smucker, Allan & Carterette 2007, doi 10.1145/1321440.1321528).
///
/// All patterns are tried where there are at most 2^16 of them, otherwise `samples` random ones, the
/// observed one counting as one more (Phipson & Smyth 2010, doi 10.2202/1544-6115.1585). `None` for no
/// pairs, no samples, or a difference that is not finite.
#[must_use]
pub fn randomisation_p(differences: &[f64], samples: u32, seed: u64) -> Option<f64> {
    let observed = mean(differences)?.abs();
    // Pairs without a difference are the same under every sign.
    let moved: Vec<f64> = differences.iter().copied().filter(|difference| *difference != 0.0).collect();
    let total = differences.len() as f64;
    // Sums of the same numbers with other signs round differently.
    let reached = |sum: f64| (sum / total).abs() >= observed - 1e-12 * observed.max(f64::MIN_POSITIVE);
    if moved.len() <= 16 {
        let patterns = 1u32 << moved.len();
        let extreme =
            (0..patterns).filter(|pattern| reached(signed_sum(&moved, u64::from(*pattern)))).count();
        return Some(extreme as f64 / f64::from(patterns));
    }
    if samples == 0 {
        return None;
    }
    let mut random = SplitMix64::new(seed);
    let mut extreme = 1.0;
    for _ in 0..samples {
        let sum: f64 = moved.chunks(64).map(|chunk| signed_sum(chunk, random.next_u64())).sum();
        if reached(sum) {
            extreme += 1.0;
        }
    }
    Some(extreme / (f64::from(samples) + 1.0))
}

/// The sum with a minus where the pattern has a bit.
fn signed_sum(values: &[f64], pattern: u64) -> f64 {
    values.iter().enumerate().map(|(i, value)| if pattern >> i & 1 == 1 { -value } else { *value }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assert_close;

    // from itertools import product
    // d = [.3, -.1, .2, .25, 0, .4, .05]; o = abs(sum(d))
    // print(sum(abs(sum(a * b for a, b in zip(d, s))) >= o - 1e-12 for s in product([1, -1], repeat=7)) / 128)
    #[test]
    fn few_pairs_are_enumerated() {
        assert_close(randomisation_p(&[0.3, -0.1, 0.2, 0.25, 0.0, 0.4, 0.05], 1, 0), 0.09375);
        assert_close(randomisation_p(&[0.0, 0.0], 1, 0), 1.0);
        assert_eq!(randomisation_p(&[], 10, 0), None);
        assert_eq!(randomisation_p(&[f64::NAN], 10, 0), None);
    }

    #[test]
    fn many_pairs_are_sampled_near_the_t_test() {
        let differences: Vec<f64> = (0..225).map(|i| f64::from(i % 7) * 0.1 - 0.27).collect();
        let p = randomisation_p(&differences, 20_000, 7).unwrap();
        let t = crate::paired_difference(&differences, 0.95).unwrap().p.unwrap();
        assert!((p - t).abs() < 0.01, "{p} {t}");
        assert_eq!(randomisation_p(&differences, 20_000, 7), Some(p));
        let clear = vec![0.2; 100];
        assert!(randomisation_p(&clear, 999, 0).unwrap() <= 0.001);
    }
}
