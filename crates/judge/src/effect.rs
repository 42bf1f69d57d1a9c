//! Numbers with intervals, of values that come in groups which share noise.

use evalign_stats::{Bootstrap, cluster_sums, clustered_stderr, mean, wilson_share_interval};
use serde::{Deserialize, Serialize};

/// Confidence of all intervals.
pub(crate) const LEVEL: f64 = 0.95;
/// Narrower than this share of the range an interval of resamples is only noise of rounding.
const NO_WIDTH: f64 = 1e-9;

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Effect {
    pub value: f64,
    pub ci95: [f64; 2],
    /// Values (pairs, answers, battles) it comes from.
    pub n: u64,
}

impl Effect {
    /// The mean of values within `range`, with the percentile interval of a bootstrap over groups. Where resampling
    /// changes nothing, because all groups say the same, that interval would claim certainty: Wilson's takes its
    /// place, with the groups as trials, of which none of that range varies more. A single group is no sample, and
    /// its interval the whole range.
    ///
    /// `None` without values.
    #[must_use]
    pub fn of_groups<G: Ord>(
        values: &[f64],
        groups: &[G],
        range: [f64; 2],
        resamples: &Bootstrap,
    ) -> Option<Self> {
        let units = cluster_sums(values, groups)?;
        let pooled = |units: &[&(f64, u64)]| {
            let (sum, count) =
                units.iter().fold((0.0, 0), |(sum, count), unit| (sum + unit.0, count + unit.1));
            (count > 0).then(|| sum / count as f64)
        };
        let value = mean(values)?;
        let [low, high] = range;
        let resampled = resamples.estimate(&units, pooled).map(|found| found.interval);
        let ci95 = match resampled {
            Some(interval) if interval[1] - interval[0] > NO_WIDTH * (high - low) => interval,
            _ if units.len() == 1 => range,
            _ => {
                let share = ((value - low) / (high - low)).clamp(0.0, 1.0);
                let bounds = wilson_share_interval(share, units.len() as f64, resamples.level)?;
                bounds.map(|bound| low + bound * (high - low))
            }
        };
        Some(Self { value, ci95, n: values.len() as u64 })
    }

    /// The share of values that are 1, the others being 0: Wilson's interval with the effective number of trials, the
    /// number over the design effect (Korn and Graubard 1998, Survey Methodology 24:193). Where all are equal
    /// there is no design effect to estimate, and the groups are the trials.
    ///
    /// `None` without values.
    pub(crate) fn share_in_groups<G: Ord>(values: &[f64], groups: &[G]) -> Option<Self> {
        let (share, n) = (mean(values)?, values.len() as f64);
        let distinct = cluster_sums(values, groups)?.len() as f64;
        let independent = share * (1.0 - share) / (n - 1.0);
        let trials = match clustered_stderr(values, groups) {
            Some(stderr) if stderr > 0.0 && independent > 0.0 => n / (stderr * stderr / independent).max(1.0),
            _ => distinct,
        };
        let ci95 = wilson_share_interval(share, trials, LEVEL)?;
        Some(Self { value: share, ci95, n: values.len() as u64 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn width(effect: Effect) -> f64 {
        effect.ci95[1] - effect.ci95[0]
    }

    #[test]
    fn five_of_five_is_no_certainty() {
        let plan = Bootstrap::default();
        let groups = [0, 1, 2, 3, 4];
        for (value, bounds) in [(1.0, [0.5655, 1.0]), (0.0, [0.0, 0.4345]), (0.5, [0.1705, 0.8295])] {
            let found = Effect::of_groups(&[value; 5], &groups, [0.0, 1.0], &plan).unwrap();
            assert_eq!((found.value, found.n), (value, 5));
            for (ours, bound) in found.ci95.iter().zip(bounds) {
                assert!((ours - bound).abs() < 1e-3, "{found:?}");
            }
        }
        // A third of the points in every group, in groups of different sizes.
        let found = Effect::of_groups(&[1.0, 0.0, 0.0], &[0, 0, 0], [0.0, 1.0], &plan).unwrap();
        assert_eq!(found.ci95, [0.0, 1.0]);
        let found = Effect::of_groups(
            &[5.0, 1.0, 1.0, 5.0, 5.0, 1.0, 1.0, 1.0, 1.0],
            &[0, 0, 0, 1, 1, 1, 1, 1, 1],
            [1.0, 5.0],
            &plan,
        );
        assert!(width(found.unwrap()) > 2.0, "{found:?}");
        assert_eq!(Effect::of_groups::<u8>(&[], &[], [0.0, 1.0], &plan), None);
    }

    /// What is asked again and says the same says nothing more.
    #[test]
    fn repeats_make_no_interval_narrower() {
        let values: Vec<f64> = (0..60).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        let groups: Vec<usize> = (0..60).collect();
        let ten_times = |group: &usize| [*group; 10];
        let repeated: Vec<f64> = values.iter().flat_map(|value| [*value; 10]).collect();
        let of_ten: Vec<usize> = groups.iter().flat_map(ten_times).collect();
        let plan = Bootstrap::default();
        let once = Effect::of_groups(&values, &groups, [0.0, 1.0], &plan).unwrap();
        let often = Effect::of_groups(&repeated, &of_ten, [0.0, 1.0], &plan).unwrap();
        assert!((width(often) / width(once) - 1.0).abs() < 1e-9);
        let (once, often) = (
            Effect::share_in_groups(&values, &groups).unwrap(),
            Effect::share_in_groups(&repeated, &of_ten).unwrap(),
        );
        assert!((width(often) / width(once) - 1.0).abs() < 0.02, "{once:?} {often:?}");
        let all = Effect::share_in_groups(&[1.0; 50], &[0; 50]).unwrap();
        assert!(all.ci95[0] < 0.25, "{all:?}");
    }
}
