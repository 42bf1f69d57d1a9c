//! Pure statistics: how sure a measured number is.
//!
//! Functions over `f64` slices, no files, no models, no clock and no hidden randomness: the bootstrap
//! carries its own generator, so the same numbers and the same seed give the same interval on every
//! machine.
//!
//! The one decision made here: where a quantity is undefined (a mean over nothing, a standard error of
//! one value, weights that sum to zero, anything not finite), the answer is `None`. NaN never leaves
//! this crate and no plausible number is invented.

mod agreement;
mod bootstrap;
mod bradley_terry;
mod calibration;
mod calibration_interval;
mod cluster;
mod contextual;
mod corrected_mean;
mod dawid_skene;
mod distribution;
mod group;
mod interval;
mod length_controlled;
mod linear_algebra;
mod logistic;
mod mcnemar;
mod mean;
mod multiple;
mod paired;
mod power;
mod randomisation;
mod rank;
mod repeats;

pub use agreement::{Kappa, RatingScale, cohen_kappa, fleiss_kappa, krippendorff_alpha};
pub use bootstrap::{Bootstrap, BootstrapEstimate, SplitMix64, quantile};
pub use bradley_terry::{Battle, Rating, Ratings, bootstrap_ratings, bradley_terry};
pub use calibration::{Binning, Calibration, CalibrationBin, brier, calibration, softmax};
pub use calibration_interval::calibration_error;
pub use cluster::clustered_stderr;
pub use contextual::{ContextEffect, ContextualBattle, ContextualRatings, contextual_bradley_terry};
pub use corrected_mean::{CorrectedMean, prediction_powered_mean, rogan_gladen};
pub use dawid_skene::{Consensus, dawid_skene};
pub use distribution::{normal_cdf, normal_quantile, student_t_cdf, student_t_quantile};
pub use group::{combined_stderr, pooled_stderr, unweighted_mean_stderr, weighted_mean};
pub use interval::{normal_interval, t_interval, wilson_interval, wilson_share_interval};
pub use length_controlled::{LengthBattle, LengthControlled, length_controlled};
pub use linear_algebra::Square;
pub use logistic::{Logistic, Observation, logistic, ridge_logistic, sigmoid};
pub use mcnemar::{McNemar, mcnemar, paired_proportion_interval};
pub use mean::{mean, mean_stderr, proportion_stderr, sample_std};
pub use multiple::{benjamini_hochberg, holm};
pub use paired::{PairedDifference, cluster_sums, clustered_difference, paired_difference};
pub use power::Power;
pub use randomisation::randomisation_p;
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
