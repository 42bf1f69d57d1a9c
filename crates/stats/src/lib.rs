//! Pure statistics: how sure a measured number is.
//!
//! Functions over `f64` slices, no files, no models, no clock and no hidden randomness: the bootstrap
//! carries its own generator, so the same numbers and the same seed give the same interval on every
//! machine.
//!
//! The one decision made here: where a quantity is undefined (a mean over nothing, a standard error of
//! one value, weights that sum to zero, anything not finite), the answer is `None`. NaN never leaves
//! this crate and no plausible number is invented.

mod bootstrap;
mod calibration;
mod calibration_interval;
mod cluster;
mod distribution;
mod group;
mod interval;
mod mcnemar;
mod mean;
mod multiple;
mod paired;
mod power;
mod rank;
mod repeats;

pub use bootstrap::{Bootstrap, BootstrapEstimate, SplitMix64, quantile};
pub use calibration::{Binning, Calibration, CalibrationBin, brier, calibration, softmax};
pub use calibration_interval::calibration_error;
pub use cluster::clustered_stderr;
pub use distribution::{normal_cdf, normal_quantile, student_t_cdf, student_t_quantile};
pub use group::{combined_stderr, pooled_stderr, unweighted_mean_stderr, weighted_mean};
pub use interval::{normal_interval, t_interval, wilson_interval};
pub use mcnemar::{McNemar, mcnemar, paired_proportion_interval};
pub use mean::{mean, mean_stderr, proportion_stderr, sample_std};
pub use multiple::{benjamini_hochberg, holm};
pub use paired::{PairedDifference, cluster_sums, clustered_difference, paired_difference};
pub use power::Power;
pub use rank::{RankInterval, rank_intervals};
pub use repeats::{RepeatVariance, pass_at_k, repeat_variance};

/// Keeps NaN and infinities inside.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Promise 16: numbers from numpy, scipy and statsmodels agree to this, relative to their size.
#[cfg(test)]
fn assert_close(ours: Option<f64>, reference: f64) {
    let ours = ours.expect("defined");
    let tolerance = if reference == 0.0 { 1e-15 } else { 1e-9 * reference.abs() };
    assert!((ours - reference).abs() <= tolerance, "{ours} is not {reference}");
}
