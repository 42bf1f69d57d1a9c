//! The operations a decoder is made of.
//!
//! Every operation of the forward pass is a required method of [`Backend`], so none can exist for one
//! device only: the CPU implementation calls `kernels`, the other one candle, which runs on CUDA and
//! Metal (and on the CPU in tests, where both must agree).

mod candle;
mod cpu;
mod decoder;
mod encoder;

use std::ops::Range;

use crate::LmError;
use crate::config::ModelConfig;
use crate::kernels::{Target, TargetScores};
use crate::rope::RopePairing;
use crate::weights::RawTensor;

pub(crate) use self::candle::{CandleBackend, CandleBuffer};
pub(crate) use self::cpu::{CpuBackend, CpuBuffer};
pub(crate) use self::decoder::{DecoderBackend, Dropped, Part};
pub(crate) use self::encoder::{EncoderBackend, EncoderHeads};

/// What keys and values look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KvShape {
    pub(crate) layers: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
}

/// Attention of one layer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionSpec {
    pub(crate) layer: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) window: Option<usize>,
    /// A backward pass follows, which computes the same probabilities again.
    pub(crate) exact: bool,
}

/// One span's rows, and the nodes they see in order of position. The last node ends with the rows' own
/// keys and values.
#[derive(Debug)]
pub(crate) struct Job<'a, K> {
    pub(crate) rows: Range<usize>,
    pub(crate) first_position: usize,
    pub(crate) nodes: Vec<&'a K>,
}

/// Cosines and sines of a step, `[rows, head_dim / 2]` each.
#[derive(Debug, Default)]
pub(crate) struct Rotation<T> {
    pub(crate) cos: T,
    pub(crate) sin: T,
}

/// A weight matrix, perhaps of several stacked projections, with its bias.
#[derive(Clone, Debug)]
pub(crate) struct Linear<M, V> {
    pub(crate) weight: M,
    pub(crate) bias: Option<V>,
}

/// What happens to what an output held before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Replace,
    /// A residual connection.
    Add,
}

/// One device's way to store numbers and compute with them. A buffer is a row-major matrix; an `out`
/// buffer takes the shape of the result.
pub(crate) trait Backend: Send + Sync + Sized {
    /// A weight matrix `[outputs, inputs]`. It never changes; a clone is another handle of the same values.
    type Matrix: Clone + Send + Sync;
    /// Norm weights or a bias.
    type Vector: Clone + Send + Sync;
    type Buffer: Send + Default;
    /// Keys and values of one node in every layer.
    type Kv: Send + Sync;

    /// `cpu`, `cuda:0`, `metal`.
    fn device_name(&self) -> String;

    /// Stacks tensors of equal width into one matrix.
    fn load_matrix(&self, parts: &[RawTensor<'_>]) -> Result<Self::Matrix, LmError>;
    /// Concatenates tensors of one row each.
    fn load_vector(&self, parts: &[RawTensor<'_>]) -> Result<Self::Vector, LmError>;

    /// Bytes a node of this capacity takes.
    fn kv_bytes(&self, shape: KvShape, capacity: usize) -> u64;
    fn new_kv(&self, shape: KvShape, capacity: usize) -> Result<Self::Kv, LmError>;

    /// Rows of the embedding table.
    fn embed(&self, table: &Self::Matrix, ids: &[u32], out: &mut Self::Buffer) -> Result<(), LmError>;
    /// Host values to the device, `width` a row.
    fn upload(&self, values: &[f32], width: usize, out: &mut Self::Buffer) -> Result<(), LmError>;
    /// `x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019, arXiv 1910.07467, equation 4).
    fn rms_norm(
        &self,
        x: &Self::Buffer,
        weight: &Self::Vector,
        eps: f32,
        out: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// RMSNorm of every head in these columns, in place.
    fn norm_heads(
        &self,
        x: &mut Self::Buffer,
        columns: Range<usize>,
        weight: &Self::Vector,
        eps: f32,
    ) -> Result<(), LmError>;
    /// `x W^T + bias`, written to `out` or added to it.
    fn linear(
        &self,
        x: &Self::Buffer,
        layer: &Linear<Self::Matrix, Self::Vector>,
        out: &mut Self::Buffer,
        write: Write,
    ) -> Result<(), LmError>;
    /// Rotates every head in these columns, in place.
    fn rotate(
        &self,
        x: &mut Self::Buffer,
        columns: Range<usize>,
        head_dim: usize,
        rotation: &Rotation<Self::Buffer>,
        pairing: RopePairing,
    ) -> Result<(), LmError>;
    /// Appends rows of the key and the value columns to a node.
    fn append_kv(
        &self,
        kv: &mut Self::Kv,
        layer: usize,
        x: &Self::Buffer,
        rows: Range<usize>,
        keys: Range<usize>,
        values: Range<usize>,
    ) -> Result<(), LmError>;
    /// Causal softmax attention; queries are the first `heads * head_dim` columns of `x`.
    fn attend(
        &self,
        spec: &AttentionSpec,
        x: &Self::Buffer,
        jobs: &[Job<'_, Self::Kv>],
        out: &mut Self::Buffer,
    ) -> Result<(), LmError>;
    /// `silu(gate) * up` where each row holds `width` gate values, then `width` up values
    /// (Shazeer 2020, arXiv 2002.05202, equation 5).
    fn gate(&self, gate_up: &Self::Buffer, width: usize, out: &mut Self::Buffer) -> Result<(), LmError>;
    fn select(&self, x: &Self::Buffer, rows: &[usize], out: &mut Self::Buffer) -> Result<(), LmError>;
    /// Log-probabilities of tokens at rows of `x` (already selected and normed). `counts`: how many of the likeliest tokens
    /// are named with each row; without any, of none.
    fn score(
        &self,
        x: &Self::Buffer,
        head: &Self::Matrix,
        targets: &[Target],
        counts: &[usize],
    ) -> Result<TargetScores, LmError>;
    /// All logits on the host, `[rows, vocabulary]`.
    fn logits(&self, x: &Self::Buffer, head: &Self::Matrix, out: &mut Vec<f32>) -> Result<(), LmError>;
}

impl KvShape {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        Self { layers: config.layers.len(), kv_heads: config.kv_heads, head_dim: config.head_dim }
    }
}
