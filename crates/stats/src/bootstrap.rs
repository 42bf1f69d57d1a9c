use crate::{finite, sample_std};

/// A small generator with a 64-bit state (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number
/// generators", OOPSLA): the same seed gives the same stream everywhere.
#[derive(Clone, Debug)]
pub struct SplitMix64(u64);

impl SplitMix64 {
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..bound` without modulo bias (Lemire 2019, arXiv 1805.10941, algorithm 5). `bound`
    /// must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        let mut product = u128::from(self.next_u64()) * u128::from(bound);
        if (product as u64) < bound {
            let threshold = bound.wrapping_neg() % bound;
            while (product as u64) < threshold {
                product = u128::from(self.next_u64()) * u128::from(bound);
            }
        }
        (product >> 64) as u64
    }
}

/// How to resample.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    pub resamples: u32,
    pub seed: u64,
    /// Confidence of the interval, for example 0.95.
    pub level: f64,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 2000, seed: 0, level: 0.95 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BootstrapEstimate {
    /// The statistic of the original values.
    pub value: f64,
    /// Sample standard deviation of the replicates.
    pub stderr: f64,
    /// Percentile interval.
    pub interval: [f64; 2],
}

impl Bootstrap {
    /// Resamples `items` with replacement (Efron 1979, Annals of Statistics 7:1) and evaluates
    /// `statistic` on each replicate; replicates on which it is undefined are left out. To bootstrap
    /// clusters, pass one item per cluster.
    ///
    /// `None` for fewer than two items, an undefined statistic, or fewer than two defined replicates.
    pub fn estimate<T>(
        &self,
        items: &[T],
        statistic: impl Fn(&[&T]) -> Option<f64>,
    ) -> Option<BootstrapEstimate> {
        if items.len() < 2 || !(self.level > 0.0 && self.level < 1.0) {
            return None;
        }
        let value = finite(statistic(&items.iter().collect::<Vec<_>>())?)?;
        let mut random = SplitMix64::new(self.seed);
        let mut drawn: Vec<&T> = Vec::with_capacity(items.len());
        let mut replicates: Vec<f64> = (0..self.resamples)
            .filter_map(|_| {
                drawn.clear();
                drawn.extend((0..items.len()).map(|_| &items[random.below(items.len() as u64) as usize]));
                statistic(&drawn).and_then(finite)
            })
            .collect();
        let stderr = sample_std(&replicates)?;
        replicates.sort_by(f64::total_cmp);
        let tail = (1.0 - self.level) / 2.0;
        let interval = [quantile(&replicates, tail)?, quantile(&replicates, 1.0 - tail)?];
        Some(BootstrapEstimate { value, stderr, interval })
    }
}

/// Quantile `q` in [0, 1] of ascending `sorted` values with linear interpolation (numpy's default,
/// Hyndman & Fan 1996, type 7).
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> Option<f64> {
    if sorted.is_empty() || !(0.0..=1.0).contains(&q) {
        return None;
    }
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    finite(sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{assert_close, mean_stderr};

    fn mean_of(drawn: &[&f64]) -> Option<f64> {
        Some(drawn.iter().copied().sum::<f64>() / drawn.len() as f64)
    }

    // import numpy as np
    // M = (1 << 64) - 1
    // class SplitMix64:
    //     def __init__(s, seed): s.s = seed
    //     def next(s):
    //         s.s = (s.s + 0x9e3779b97f4a7c15) & M; z = s.s
    //         z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & M; z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & M
    //         return z ^ (z >> 31)
    //     def below(s, n):
    //         p = s.next() * n
    //         while (p & M) < (2**64 - n) % n: p = s.next() * n
    //         return p >> 64
    // r = SplitMix64(7); x = np.array([0.1, 2.5, -3.75, 4.0, 0.0, 1.5, 1.25])
    // b = np.sort([x[[r.below(7) for _ in range(7)]].mean() for _ in range(500)])
    // print(repr(b.std(ddof=1)), repr(np.quantile(b, 0.025)), repr(np.quantile(b, 0.975)))
    #[test]
    fn promise_16_matches_numpy() {
        let x = [0.1, 2.5, -3.75, 4.0, 0.0, 1.5, 1.25];
        let plan = Bootstrap { resamples: 500, seed: 7, level: 0.95 };
        let ours = plan.estimate(&x, mean_of).unwrap();
        assert_close(Some(ours.stderr), 0.8670626024351729);
        assert_close(Some(ours.interval[0]), -1.01875);
        assert_close(Some(ours.interval[1]), 2.35892857142857);
        assert_eq!(plan.estimate(&x, mean_of), Some(ours));
    }

    #[test]
    fn known_stream() {
        // The first outputs for seed 1234567 of the generator's published C code.
        let mut random = SplitMix64::new(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn agrees_with_the_closed_form_on_many_values() {
        let mut random = SplitMix64::new(3);
        let values: Vec<f64> = (0..400).map(|_| random.below(1000) as f64 / 1000.0).collect();
        let ours = Bootstrap::default().estimate(&values, mean_of).unwrap();
        let closed = mean_stderr(&values).unwrap();
        assert!((ours.stderr / closed - 1.0).abs() < 0.08, "{} against {closed}", ours.stderr);
    }

    #[test]
    fn undefined_is_none() {
        assert_eq!(Bootstrap::default().estimate(&[1.0], mean_of), None);
        assert_eq!(Bootstrap::default().estimate(&[1.0, 2.0], |_| None), None);
        assert_eq!(Bootstrap { resamples: 1, ..Bootstrap::default() }.estimate(&[1.0, 2.0], mean_of), None);
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(quantile(&[1.0], 1.5), None);
    }
}
