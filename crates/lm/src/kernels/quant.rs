//! Linear layers on quantised weights: GGUF's block types, kept quantised, times int8 activations.
//!
//! Every GGML block type is `weight = (code - zero) * scale + min` with integer codes and scales per
//! group of 16 or 32 inputs. A [`QuantMatrix`] holds exactly that, repacked once for the kernels;
//! [`dequantise`] gives the same values as floats. Activations are quantised to int8 in blocks of 32
//! ([`QuantActivations`]), so the inner loop is an integer dot product, which is exact, and floats are
//! combined once per group in a fixed order. One path serves prefill and decoding alike, so a token's
//! result depends on its own activations only: not on the batch, the threads or the instruction set.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;
mod layout;
mod linear;
mod matrix;
mod scalar;
#[cfg(test)]
mod tests;

use candle_core::quantized::GgmlDType;

pub use activations::QuantActivations;
pub use format::dequantise;
pub use linear::quant_stacked;
pub use matrix::QuantMatrix;

/// Why bytes are not a quantised matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantError {
    /// A plain float type where a block type is needed.
    #[error("{dtype:?} is not a block-quantised type")]
    NotQuantised { dtype: GgmlDType },
    /// A dimension is zero.
    #[error("a matrix of {n} x {k} has no weights")]
    Empty { n: usize, k: usize },
    /// A row, or a run of weights, does not end at a block's end.
    #[error("{count} weights do not divide into {dtype:?} blocks of {block}")]
    Ragged { dtype: GgmlDType, count: usize, block: usize },
    /// Too few or too many bytes: a truncated or mislabelled tensor.
    #[error("{count} weights of {dtype:?} take {expected} bytes, not {actual}")]
    Length { dtype: GgmlDType, count: usize, expected: usize, actual: usize },
    /// The dimensions multiply to more than memory can address.
    #[error("the matrix is larger than this machine can address")]
    TooLarge,
}
