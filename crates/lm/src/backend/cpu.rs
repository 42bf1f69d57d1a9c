//! The CPU backend: `kernels` on reusable f32 buffers.

mod encoder;
mod gradient;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::GgmlDType;
use evalign_core::Dtype;

use super::{AttentionSpec, Backend, Job, KvShape, Linear, Rotation, Write};
use crate::LmError;
use crate::kernels::{
    self, AttentionJob, AttentionShape, Columns, Isa, KvSegment, PackedMatrix, PanelDtype, Pool,
    QuantActivations, QuantMatrix, RopeTable, RowSummary, Rows, Target, TargetScores,
};
use crate::rope::RopePairing;
use crate::weights::RawTensor;

/// Rows of logits held at once when the vocabulary matrix is quantised.
const LOGIT_ROWS: usize = 32;
/// Logits summed in f32 before the sums are added in f64, and the lanes they are summed in.
const SUM_BLOCK: usize = 1024;
const SUM_LANES: usize = 16;

/// A row-major matrix that keeps its memory when it shrinks.
#[derive(Debug, Default)]
pub(crate) struct CpuBuffer {
    values: Vec<f32>,
    width: usize,
}

impl CpuBuffer {
    /// Reshapes without clearing: the caller overwrites everything.
    fn shape(&mut self, rows: usize, width: usize) -> &mut [f32] {
        self.values.resize(rows * width, 0.0);
        self.width = width;
        &mut self.values
    }

    fn rows(&self) -> usize {
        self.values.len() / self.width.max(1)
    }

    fn columns(&self, range: Range<usize>) -> Columns {
        Columns { stride: self.width, start: range.start, width: range.len() }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum CpuMatrix {
    Packed(Arc<PackedMatrix>),
    /// Stacked matrices of different block types.
    Quantised(Arc<Vec<QuantMatrix>>),
    /// The same, turned into floats for each product.
    Dequantised {
        parts: Arc<Vec<QuantMatrix>>,
        transposed: bool,
    },
}

impl CpuMatrix {
    fn outputs(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.n(),
            Self::Dequantised { parts, transposed: true } => parts.first().map_or(0, QuantMatrix::k),
            Self::Quantised(parts) | Self::Dequantised { parts, .. } => {
                parts.iter().map(QuantMatrix::n).sum()
            }
        }
    }

    fn inputs(&self) -> usize {
        match self {
            Self::Packed(matrix) => matrix.k(),
            Self::Dequantised { parts, transposed: true } => parts.iter().map(QuantMatrix::n).sum(),
            Self::Quantised(parts) | Self::Dequantised { parts, .. } => {
                parts.first().map_or(0, QuantMatrix::k)
            }
        }
    }

    /// Writes one output's weights (of the matrix itself, not of its transposed), as floats.
    fn row(&self, index: usize, out: &mut [f32]) {
        match self {
            Self::Packed(matrix) => matrix.row(index, out),
            Self::Quantised(parts) | Self::Dequantised { parts, .. } => {
                let mut index = index;
                for part in parts.iter() {
                    if index < part.n() {
                        return part.row(index, out);
                    }
                    index -= part.n();
                }
            }
        }
    }
}

thread_local! {
    /// Quantised activations, reused between products.
    static QUANT_SCRATCH: RefCell<QuantActivations> = RefCell::default();
}

#[derive(Debug)]
pub(crate) struct CpuBackend {
    pool: Pool,
    dtype: Dtype,
    /// Floats of quantised matrices, by outputs and inputs, while they are multiplied with.
    unpacked: Mutex<BTreeMap<(usize, usize), PackedMatrix>>,
    /// Keys and values of an encoder's texts in the layer at hand; the next layer's take their place.
    texts: Mutex<Vec<KvSegment>>,
}

impl CpuBackend {
    pub(crate) fn new(threads: Option<usize>, dtype: Dtype) -> Result<Self, LmError> {
        Ok(Self { pool: Pool::new(threads)?, dtype, unpacked: Mutex::default(), texts: Mutex::default() })
    }

    fn pack(&self, parts: &[RawTensor<'_>], dtype: PanelDtype) -> Result<CpuMatrix, LmError> {
        let (rows, columns) = (parts.iter().map(|part| part.rows).sum(), parts[0].columns);
        let packed = PackedMatrix::build(rows, columns, dtype, |first, block| fill(parts, first, block))?;
        Ok(CpuMatrix::Packed(Arc::new(packed)))
    }

    /// Keeps blocks as they are; neighbours of one type become one matrix.
    fn keep_quantised(parts: &[RawTensor<'_>]) -> Result<CpuMatrix, LmError> {
        let mut matrices = Vec::new();
        for group in parts.chunk_by(|a, b| a.kind == b.kind) {
            let bytes: Vec<&[u8]> = group.iter().map(|part| part.bytes).collect();
            let rows = group.iter().map(|part| part.rows).sum();
            let joined;
            let bytes = match bytes.as_slice() {
                [only] => only,
                several => {
                    joined = several.concat();
                    joined.as_slice()
                }
            };
            let matrix = QuantMatrix::from_ggml(group[0].kind, bytes, rows, group[0].columns)
                .map_err(|error| group[0].error(error))?;
            matrices.push(matrix);
        }
        Ok(CpuMatrix::Quantised(Arc::new(matrices)))
    }

    fn multiply(
        &self,
        x: &CpuBuffer,
        weight: &CpuMatrix,
        bias: Option<&[f32]>,
        out: &mut CpuBuffer,
        write: Write,
    ) {
        let out = out.shape(x.rows(), weight.outputs());
        match weight {
            CpuMatrix::Packed(matrix) => {
                kernels::linear(&self.pool, &x.values, matrix, bias, out, write == Write::Add);
            }
            CpuMatrix::Quantised(parts) => self.multiply_quantised(x, parts, bias, out, write),
            CpuMatrix::Dequantised { parts, transposed } => {
                let shape = (weight.outputs(), weight.inputs());
                let mut kept = self.unpacked.lock().unwrap_or_else(PoisonError::into_inner);
                let matrix = kept.entry(shape).or_insert_with(|| PackedMatrix::zeros(shape.0, shape.1));
                matrix.unpack(&self.pool, parts, *transposed);
                kernels::linear(&self.pool, &x.values, matrix, bias, out, write == Write::Add);
            }
        }
    }

    /// `out = x * stack(parts)^T (+ bias) (+ out)`.
    fn multiply_quantised(
        &self,
        x: &CpuBuffer,
        parts: &[QuantMatrix],
        bias: Option<&[f32]>,
        out: &mut [f32],
        write: Write,
    ) {
        QUANT_SCRATCH.with_borrow_mut(|activations| {
            activations.quantise(&self.pool, &x.values, x.rows(), x.width);
            kernels::quant_stacked(&self.pool, activations, parts, bias, out, write == Write::Add);
        });
    }

    /// Summaries of rows of logits, each in one fixed order.
    fn summarise(&self, logits: &[f32], vocabulary: usize) -> Vec<RowSummary> {
        let mut rows =
            vec![RowSummary { argmax: 0, max_logit: 0.0, log_sum_exp: 0.0 }; logits.len() / vocabulary];
        self.pool.for_each_part(&mut rows, 1, &|index, summary| {
            let row = &logits[index * vocabulary..(index + 1) * vocabulary];
            summary[0] = summarise_row(self.pool.isa(), row);
        });
        rows
    }
}

/// Argmax and log-sum-exp of one row, in blocks and lanes of fixed size.
fn summarise_row(isa: Isa, logits: &[f32]) -> RowSummary {
    let (mut argmax, mut max) = (0, f32::NEG_INFINITY);
    for (index, block) in logits.chunks(SUM_BLOCK).enumerate() {
        let mut lanes = [f32::NEG_INFINITY; SUM_LANES];
        for values in block.chunks(SUM_LANES) {
            for (lane, &value) in lanes.iter_mut().zip(values) {
                *lane = if value > *lane { value } else { *lane };
            }
        }
        let largest = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if largest > max {
            max = largest;
            argmax = index * SUM_BLOCK + block.iter().position(|value| *value == largest).unwrap_or(0);
        }
    }
    let mut sum = 0.0;
    let mut block = [0.0; SUM_BLOCK];
    for logits in logits.chunks(SUM_BLOCK) {
        let block = &mut block[..logits.len()];
        block.iter_mut().zip(logits).for_each(|(value, logit)| *value = logit - max);
        kernels::exp(isa, block);
        let mut lanes = [0.0f32; SUM_LANES];
        for values in block.chunks(SUM_LANES) {
            lanes.iter_mut().zip(values).for_each(|(lane, value)| *lane += value);
        }
        sum += lanes.into_iter().map(f64::from).sum::<f64>();
    }
    RowSummary { argmax: argmax as u32, max_logit: max, log_sum_exp: f64::from(max) + f64::ln(sum) }
}

/// Dequantises rows `first..` of stacked tensors into a block.
fn fill(parts: &[RawTensor<'_>], first: usize, block: &mut [f32]) -> Result<(), LmError> {
    let mut rest = block;
    let mut skip = first;
    for part in parts {
        if skip >= part.rows {
            skip -= part.rows;
            continue;
        }
        let rows = (rest.len() / part.columns).min(part.rows - skip);
        let (now, later) = rest.split_at_mut(rows * part.columns);
        let bytes = &part.bytes[skip * part.row_bytes()..(skip + rows) * part.row_bytes()];
        kernels::dequantise(part.kind, bytes, now).map_err(|error| part.error(error))?;
        rest = later;
        skip = 0;
        if rest.is_empty() {
            break;
        }
    }
    Ok(())
}

impl Backend for CpuBackend {
    type Matrix = CpuMatrix;
    type Vector = Vec<f32>;
    type Buffer = CpuBuffer;
    type Kv = Vec<KvSegment>;

    fn device_name(&self) -> String {
        "cpu".to_owned()
    }

    fn load_matrix(&self, parts: &[RawTensor<'_>]) -> Result<CpuMatrix, LmError> {
        match self.dtype {
            Dtype::F32 => self.pack(parts, PanelDtype::F32),
            Dtype::Bf16 => self.pack(parts, PanelDtype::Bf16),
            Dtype::F16 => self.pack(parts, PanelDtype::F16),
            Dtype::Q if parts.iter().all(|part| part.kind.block_size() > 1) => Self::keep_quantised(parts),
            // Tensors a quantised file keeps in floats stay what they are.
            Dtype::Q if parts.iter().all(|part| part.kind == GgmlDType::F16) => {
                self.pack(parts, PanelDtype::F16)
            }
            Dtype::Q if parts.iter().all(|part| part.kind == GgmlDType::BF16) => {
                self.pack(parts, PanelDtype::Bf16)
            }
            Dtype::Q => self.pack(parts, PanelDtype::F32),
        }
    }

    fn load_vector(&self, parts: &[RawTensor<'_>]) -> Result<Vec<f32>, LmError> {
        let mut values = Vec::new();
        for part in parts {
            let start = values.len();
            values.resize(start + part.rows * part.columns, 0.0);
            kernels::dequantise(part.kind, part.bytes, &mut values[start..])
                .map_err(|error| part.error(error))?;
        }
        Ok(values)
    }

    fn kv_bytes(&self, shape: KvShape, capacity: usize) -> u64 {
        (shape.layers * KvSegment::bytes_for(shape.kv_heads, shape.head_dim, capacity)) as u64
    }

    fn new_kv(&self, shape: KvShape, capacity: usize) -> Result<Vec<KvSegment>, LmError> {
        Ok((0..shape.layers).map(|_| KvSegment::new(shape.kv_heads, shape.head_dim, capacity)).collect())
    }

    fn embed(&self, table: &CpuMatrix, ids: &[u32], out: &mut CpuBuffer) -> Result<(), LmError> {
        let width = table.inputs();
        let rows = out.shape(ids.len(), width);
        self.pool.for_each_part(rows, width, &|index, row| table.row(ids[index] as usize, row));
        Ok(())
    }

    fn upload(&self, values: &[f32], width: usize, out: &mut CpuBuffer) -> Result<(), LmError> {
        out.shape(values.len() / width, width).copy_from_slice(values);
        Ok(())
    }

    fn rms_norm(
        &self,
        x: &CpuBuffer,
        weight: &Vec<f32>,
        eps: f32,
        out: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        kernels::rms_norm(&self.pool, &x.values, weight, eps, out.shape(x.rows(), x.width));
        Ok(())
    }

    fn norm_heads(
        &self,
        x: &mut CpuBuffer,
        columns: Range<usize>,
        weight: &Vec<f32>,
        eps: f32,
    ) -> Result<(), LmError> {
        let columns = x.columns(columns);
        kernels::rms_norm_heads(&self.pool, &mut x.values, columns, weight, eps);
        Ok(())
    }

    fn linear(
        &self,
        x: &CpuBuffer,
        layer: &Linear<CpuMatrix, Vec<f32>>,
        out: &mut CpuBuffer,
        write: Write,
    ) -> Result<(), LmError> {
        self.multiply(x, &layer.weight, layer.bias.as_deref(), out, write);
        Ok(())
    }

    fn rotate(
        &self,
        x: &mut CpuBuffer,
        columns: Range<usize>,
        head_dim: usize,
        rotation: &Rotation<CpuBuffer>,
        pairing: RopePairing,
    ) -> Result<(), LmError> {
        let columns = x.columns(columns);
        let table =
            RopeTable { cos: &rotation.cos.values, sin: &rotation.sin.values, half: rotation.cos.width };
        let rows: Vec<usize> = (0..x.rows()).collect();
        let pairing = match pairing {
            RopePairing::Half => kernels::RopePairing::Halves,
            RopePairing::Interleaved => kernels::RopePairing::Interleaved,
        };
        kernels::rope(&self.pool, &mut x.values, columns, head_dim, &rows, table, pairing);
        Ok(())
    }

    fn append_kv(
        &self,
        kv: &mut Vec<KvSegment>,
        layer: usize,
        x: &CpuBuffer,
        rows: Range<usize>,
        keys: Range<usize>,
        values: Range<usize>,
    ) -> Result<(), LmError> {
        let view = |columns: Range<usize>| {
            Rows::new(&x.values[rows.start * x.width + columns.start..], rows.len(), x.width)
        };
        kv[layer].append(view(keys), view(values));
        Ok(())
    }

    fn attend(
        &self,
        spec: &AttentionSpec,
        x: &CpuBuffer,
        jobs: &[Job<'_, Vec<KvSegment>>],
        out: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            window: spec.window,
            causal: true,
        };
        let segments: Vec<Vec<&KvSegment>> =
            jobs.iter().map(|job| job.nodes.iter().map(|node| &node[spec.layer]).collect()).collect();
        let jobs: Vec<AttentionJob<'_>> = jobs
            .iter()
            .zip(&segments)
            .filter_map(|(job, segments)| {
                let (own, prefix) = segments.split_last()?;
                Some(AttentionJob { first_row: job.rows.start, rows: job.rows.len(), prefix, own })
            })
            .collect();
        let queries = Rows::new(&x.values, x.rows(), x.width);
        let out = out.shape(x.rows(), spec.heads * spec.head_dim);
        kernels::attention(&self.pool, &shape, queries, &jobs, out);
        Ok(())
    }

    fn gate(&self, gate_up: &CpuBuffer, width: usize, out: &mut CpuBuffer) -> Result<(), LmError> {
        kernels::silu_mul_fused(&self.pool, &gate_up.values, width, out.shape(gate_up.rows(), width));
        Ok(())
    }

    fn select(&self, x: &CpuBuffer, rows: &[usize], out: &mut CpuBuffer) -> Result<(), LmError> {
        let width = x.width;
        for (target, row) in out.shape(rows.len(), width).chunks_exact_mut(width).zip(rows) {
            target.copy_from_slice(&x.values[row * width..(row + 1) * width]);
        }
        Ok(())
    }

    fn score(
        &self,
        x: &CpuBuffer,
        head: &CpuMatrix,
        targets: &[Target],
        counts: &[usize],
    ) -> Result<TargetScores, LmError> {
        let parts = match head {
            CpuMatrix::Packed(matrix) => {
                let mut scores = kernels::log_softmax_gather(&self.pool, &x.values, matrix, targets);
                scores.most_probable =
                    kernels::most_probable(&self.pool, &x.values, matrix, &scores.rows, counts);
                return Ok(scores);
            }
            CpuMatrix::Quantised(parts) | CpuMatrix::Dequantised { parts, .. } => parts,
        };
        let vocabulary = head.outputs();
        let mut scores = TargetScores { logprobs: vec![0.0; targets.len()], ..TargetScores::default() };
        let mut chunk = CpuBuffer::default();
        let mut logits = Vec::new();
        for first in (0..x.rows()).step_by(LOGIT_ROWS) {
            let rows = first..x.rows().min(first + LOGIT_ROWS);
            let source = &x.values[rows.start * x.width..rows.end * x.width];
            chunk.shape(rows.len(), x.width).copy_from_slice(source);
            logits.resize(rows.len() * vocabulary, 0.0);
            self.multiply_quantised(&chunk, parts, None, &mut logits, Write::Replace);
            let summaries = self.summarise(&logits, vocabulary);
            for (place, count) in counts.iter().skip(first).take(rows.len()).enumerate() {
                let logits = &logits[place * vocabulary..(place + 1) * vocabulary];
                scores.most_probable.push(summaries[place].most_probable(logits, *count));
            }
            scores.rows.extend(summaries);
            for (target, logprob) in targets.iter().zip(&mut scores.logprobs) {
                if rows.contains(&target.row) {
                    let logit = logits[(target.row - first) * vocabulary + target.token as usize];
                    *logprob = f64::from(logit) - scores.rows[target.row].log_sum_exp;
                }
            }
        }
        Ok(scores)
    }

    fn logits(&self, x: &CpuBuffer, head: &CpuMatrix, out: &mut Vec<f32>) -> Result<(), LmError> {
        out.resize(x.rows() * head.outputs(), 0.0);
        match head {
            CpuMatrix::Packed(matrix) => kernels::logits(&self.pool, &x.values, matrix, out),
            CpuMatrix::Quantised(parts) | CpuMatrix::Dequantised { parts, .. } => {
                self.multiply_quantised(x, parts, None, out, Write::Replace);
            }
        }
        Ok(())
    }
}
