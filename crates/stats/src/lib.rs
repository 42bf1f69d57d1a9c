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
mod cluster;
mod distribution;
mod group;
mod interval;
mod mean;

pub use bootstrap::{Bootstrap, BootstrapEstimate, SplitMix64, quantile};
pub use cluster::clustered_stderr;
pub use distribution::{normal_cdf, normal_quantile, student_t_cdf, student_t_quantile};
pub use group::{combined_stderr, pooled_stderr, unweighted_mean_stderr, weighted_mean};
pub use interval::{normal_interval, t_interval, wilson_interval};
pub use mean::{mean, mean_stderr, proportion_stderr, sample_std};

/// Keeps NaN and infinities inside.
fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Numbers from numpy and scipy agree to this, relative to their size.
#[cfg(test)]
fn assert_close(ours: Option<f64>, reference: f64) {
    let ours = ours.expect("defined");
    let scale = reference.abs().max(1.0);
    assert!((ours - reference).abs() <= 1e-9 * scale, "{ours} is not {reference}");
}
