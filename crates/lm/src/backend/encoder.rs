use std::ops::Range;

use super::Backend;
use crate::LmError;

/// Heads of an encoder's attention; queries, keys and values have as many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncoderHeads {
    pub(crate) count: usize,
    pub(crate) dim: usize,
}

/// What an encoder needs beyond a decoder.
pub(crate) trait EncoderBackend: Backend {
    /// `(x - mean) / sqrt(variance + eps) * weight + bias` of each row, in place
    /// (Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 4).
    fn layer_norm(
        &self,
        x: &mut Self::Buffer,
        weight: &Self::Vector,
        bias: &Self::Vector,
        eps: f32,
    ) -> Result<(), LmError>;
    /// `x / 2 (1 + erf(x / sqrt 2))`, in place.
    fn gelu(&self, x: &mut Self::Buffer) -> Result<(), LmError>;
    /// Softmax attention in which each row of a sequence sees all of that sequence and nothing else. A row of
    /// `qkv` holds its query, its key and its value, `heads.count * heads.dim` numbers each.
    fn attend_within(
        &self,
        heads: EncoderHeads,
        qkv: &Self::Buffer,
        sequences: &[Range<usize>],
        out: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// Leaves the cores to others: nothing more is computed for now.
    fn rest(&self) {}
    /// All values on the host, row-major.
    fn download(&self, x: &Self::Buffer, out: &mut Vec<f32>) -> Result<(), LmError>;
}
