//! What a decoder needs beyond the forward pass of its own weights: adapters, and the backward pass.
//!
//! All operations are required methods, so none can exist for one device only. Gradients of activations stay on the device,
//! in its activation type; those of weights come to the host in f32, where the optimiser is.

use std::ops::Range;

use super::{AttentionSpec, Backend, Write};
use crate::LmError;
use crate::kernels::gradient::{AttentionTree, LabelStatistics};
use crate::weights::RawTensor;

/// Which of a layer's inputs are dropped, and at what rate.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dropped<'a> {
    pub(crate) rate: f32,
    pub(crate) key: u64,
    /// One for each row.
    pub(crate) row_keys: &'a [u64],
}

/// Columns of a buffer.
#[derive(Debug)]
pub(crate) struct Part<'a, T> {
    pub(crate) buffer: &'a T,
    pub(crate) columns: Range<usize>,
}

/// A [`Backend`] that can adapt and train a decoder.
pub(crate) trait DecoderBackend: Backend {
    /// A matrix of f32 weights, whatever the weights of the model are held in.
    fn load_exact(&self, parts: &[RawTensor<'_>]) -> Result<Self::Matrix, LmError>;
    /// The transposed matrix: [`DecoderBackend::product`] with it takes an output's gradient back to the input.
    fn transposed(&self, matrix: &Self::Matrix) -> Result<Self::Matrix, LmError>;
    /// A form that multiplies with the weights' exact values, where products with the matrix round activations.
    fn exact(&self, matrix: &Self::Matrix) -> Option<Self::Matrix>;
    /// Bytes that a matrix holds by itself: views of others count nothing.
    fn matrix_bytes(&self, matrix: &Self::Matrix) -> u64;

    /// Sum of squares of each output's weights.
    fn row_squares(&self, matrix: &Self::Matrix) -> Result<Vec<f64>, LmError>;

    /// Some outputs' weights, as floats.
    fn rows_to_host(&self, matrix: &Self::Matrix, outputs: Range<usize>) -> Result<Vec<f32>, LmError>;
    fn vector_to_host(&self, vector: &Self::Vector) -> Result<Vec<f32>, LmError>;

    /// `x W^T`, written to `out` or added to it.
    fn product(
        &self,
        x: &Self::Buffer,
        weight: &Self::Matrix,
        out: &mut Self::Buffer,
        write: Write,
    ) -> Result<(), LmError>;
    /// Forgets keys and values; the memory stays.
    fn clear_kv(&self, kv: &mut Self::Kv);
    /// A copy of some columns.
    fn take_columns(
        &self,
        x: &Self::Buffer,
        columns: Range<usize>,
        out: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// `out[columns] += x[columns] W^T`.
    fn add_linear_part(
        &self,
        x: Part<'_, Self::Buffer>,
        weight: &Self::Matrix,
        out: &mut Self::Buffer,
        columns: Range<usize>,
    ) -> Result<(), LmError>;
    /// Multiplies each column with a factor of its own.
    fn scale_columns(&self, x: &mut Self::Buffer, factors: &Self::Vector) -> Result<(), LmError>;
    /// Adds a bias, if there is one, to every row, and the whole to `out` or in its place.
    fn finish_linear(
        &self,
        x: &Self::Buffer,
        bias: Option<&Self::Vector>,
        out: &mut Self::Buffer,
        write: Write,
    ) -> Result<(), LmError>;
    /// Inverted dropout of a copy.
    fn drop_out(&self, x: &Self::Buffer, dropped: Dropped<'_>, out: &mut Self::Buffer)
    -> Result<(), LmError>;

    /// `dx += d(rms_norm)/dx dy`.
    fn rms_norm_gradient(
        &self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        dy: &Self::Buffer,
        dx: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// The gradient of [`Backend::norm_heads`], in place in these columns of `dy`; `x` holds just these columns as they were.
    fn norm_heads_gradient(
        &self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        dy: &mut Self::Buffer,
        columns: Range<usize>,
    ) -> Result<(), LmError>;
    /// The gradient of [`Backend::attend`] by queries, keys and values (`qkv` after rotation).
    fn attend_gradient(
        &self,
        spec: &AttentionSpec,
        qkv: &Self::Buffer,
        trees: &[AttentionTree],
        out: (&Self::Buffer, &Self::Buffer),
        d_qkv: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// The gradient of [`Backend::gate`].
    fn gate_gradient(
        &self,
        gate_up: &Self::Buffer,
        width: usize,
        dy: &Self::Buffer,
        out: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// Rows of logits at labels: what is known of each, and the gradient of the label's log-probability in their place.
    fn label_statistics(
        &self,
        logits: &mut Self::Buffer,
        tokens: &[u32],
    ) -> Result<Vec<LabelStatistics>, LmError>;

    /// Rows of `width` zeros.
    fn zeros(&self, rows: usize, width: usize, out: &mut Self::Buffer) -> Result<(), LmError>;
    /// As many rows as `x` has.
    fn zeros_like(&self, x: &Self::Buffer, width: usize, out: &mut Self::Buffer) -> Result<(), LmError>;
    fn copy(&self, x: &Self::Buffer, out: &mut Self::Buffer) -> Result<(), LmError>;
    /// `out[rows[i]] += factors[i] * x[i]`.
    fn add_rows(
        &self,
        x: &Self::Buffer,
        rows: &[usize],
        factors: &[f32],
        out: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// All values, row-major.
    fn to_host(&self, x: &Self::Buffer, out: &mut Vec<f32>) -> Result<(), LmError>;

    /// `out += scale * dy^T x`, `[columns of dy, columns of x]`.
    fn add_weight_gradient(
        &self,
        dy: Part<'_, Self::Buffer>,
        x: Part<'_, Self::Buffer>,
        scale: f32,
        out: &mut [f32],
    ) -> Result<(), LmError>;
    /// `out += sum over rows of dy`.
    fn add_bias_gradient(&self, dy: Part<'_, Self::Buffer>, out: &mut [f32]) -> Result<(), LmError>;
    /// `out_j += factors_j * sum over rows of dy_j x_j`.
    fn add_product_sums(
        &self,
        dy: Part<'_, Self::Buffer>,
        x: Part<'_, Self::Buffer>,
        factors: &[f32],
        out: &mut [f32],
    ) -> Result<(), LmError>;
    /// The gradient of a norm's weight; columns are normed in groups of `out.len()`.
    fn add_norm_weight_gradient(
        &self,
        x: Part<'_, Self::Buffer>,
        dy: Part<'_, Self::Buffer>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), LmError>;
    /// `out[ids[i]] += dx[i]`, `out` in rows of `dx`'s width.
    fn add_embedding_gradient(&self, dx: &Self::Buffer, ids: &[u32], out: &mut [f32]) -> Result<(), LmError>;
}
