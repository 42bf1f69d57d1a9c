//! The candle backend: any device candle computes on.
//!
//! Only candle's own operations are used, each of which has a CPU, a CUDA and a Metal implementation.
//! Norms, softmax and log-probabilities are computed in f32 whatever the weights are.

mod encoder;
mod flash;
mod gradient;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use candle_core::quantized::ggml_file::qtensor_from_ggml;
use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{D, DType, Device, IndexOp, Module, Tensor};
use evalign_core::Dtype;

use super::{AttentionSpec, Backend, Job, KvShape, Linear, Rotation, Write};
use crate::kernels::{RowSummary, Target, TargetScores, dequantise};
use crate::rope::RopePairing;
use crate::weights::RawTensor;
use crate::{DeviceSpec, LmError};

/// Rows of logits held at once.
const LOGIT_ROWS: usize = 64;

/// Absent until something was written.
pub(crate) type CandleBuffer = Option<Tensor>;

#[derive(Clone, Debug)]
pub(crate) enum CandleMatrix {
    /// `[outputs, inputs]`.
    Dense(Tensor),
    /// Stacked matrices in GGUF blocks.
    Quantised(Arc<Vec<QMatMul>>),
    /// The same, turned into floats for each product.
    Dequantised { parts: Arc<Vec<QMatMul>>, transposed: bool },
}

/// Keys and values of one node: per layer two tensors `[capacity, kv_heads * head_dim]` and how many rows
/// are written.
#[derive(Debug)]
pub(crate) struct CandleKv {
    layers: Vec<(Tensor, Tensor, usize)>,
}

#[derive(Debug)]
pub(crate) struct CandleBackend {
    device: Device,
    name: String,
    /// Of weights kept as floats, activations, keys and values.
    dtype: DType,
    quantised: bool,
}

/// Each device is opened once: tensors of two openings do not meet, and models share weights.
static OPENED: Mutex<Vec<(DeviceSpec, Device)>> = Mutex::new(Vec::new());

fn device(spec: DeviceSpec) -> Result<Device, candle_core::Error> {
    let mut opened = OPENED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, device)) = opened.iter().find(|(known, _)| *known == spec) {
        return Ok(device.clone());
    }
    let device = match spec {
        DeviceSpec::Cpu => Device::Cpu,
        DeviceSpec::Cuda(ordinal) => Device::new_cuda(ordinal)?,
        DeviceSpec::Metal => Device::new_metal(0)?,
    };
    opened.push((spec, device.clone()));
    Ok(device)
}

impl CandleBackend {
    pub(crate) fn new(spec: DeviceSpec, dtype: Dtype) -> Result<Self, LmError> {
        let unavailable = |error: candle_core::Error| {
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            LmError::Device(format!("`{spec}` is not available: {reason}"))
        };
        let device = device(spec).map_err(unavailable)?;
        let (dtype, quantised) = match dtype {
            Dtype::F32 => (DType::F32, false),
            Dtype::Bf16 => (DType::BF16, false),
            Dtype::F16 => (DType::F16, false),
            // candle's quantised products take and give f32.
            Dtype::Q => (DType::F32, true),
        };
        let mut backend = Self { device, name: spec.to_string(), dtype, quantised };
        if backend.has_flash_kernels() {
            // The last bits differ: answers of the one are none of the other.
            backend.name.push_str("+flash-attn");
        }
        Ok(backend)
    }

    fn dense(&self, part: &RawTensor<'_>, shape: (usize, usize)) -> Result<Tensor, LmError> {
        let mut values = vec![0.0f32; part.rows * part.columns];
        dequantise(part.kind, part.bytes, &mut values).map_err(|error| part.error(error))?;
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?.to_dtype(self.dtype)?.to_device(&self.device)?)
    }

    fn multiply(x: &CandleBuffer, weight: &CandleMatrix) -> Result<Tensor, LmError> {
        let x = written(x)?;
        match weight {
            // An adapter is f32 whatever the model is.
            CandleMatrix::Dense(weight) if weight.dtype() != x.dtype() => {
                Ok(x.to_dtype(weight.dtype())?.matmul(&weight.t()?)?.to_dtype(x.dtype())?)
            }
            CandleMatrix::Dense(weight) => Ok(x.matmul(&weight.t()?)?),
            CandleMatrix::Quantised(parts) => {
                let outputs = parts.iter().map(|part| part.forward(x)).collect::<Result<Vec<_>, _>>()?;
                Ok(Tensor::cat(&outputs, D::Minus1)?)
            }
            CandleMatrix::Dequantised { parts, transposed } => {
                let weight = Self::dequantised(parts)?.to_dtype(x.dtype())?;
                Ok(if *transposed { x.matmul(&weight)? } else { x.matmul(&weight.t()?)? })
            }
        }
    }

    fn dequantised(parts: &[QMatMul]) -> Result<Tensor, LmError> {
        let wide = |part: &QMatMul| match part {
            QMatMul::QTensor(blocks) => blocks.dequantize(&blocks.device()),
            QMatMul::Tensor(weight) | QMatMul::TensorF16(weight) => weight.to_dtype(DType::F32),
        };
        Ok(Tensor::cat(&parts.iter().map(wide).collect::<Result<Vec<_>, _>>()?, 0)?)
    }

    /// RMSNorm over the last dimension, in f32.
    fn norm(&self, x: &Tensor, weight: &Tensor, eps: f32) -> Result<Tensor, LmError> {
        let wide = x.to_dtype(DType::F32)?;
        let mean = wide.sqr()?.mean_keepdim(D::Minus1)?;
        let normed = wide.broadcast_div(&(mean + f64::from(eps))?.sqrt()?)?;
        Ok(normed.to_dtype(self.dtype)?.broadcast_mul(weight)?)
    }

    /// Softmax attention of one job: queries `[rows, heads * head_dim]` to the same shape.
    fn attend_job(
        &self,
        spec: &AttentionSpec,
        queries: &Tensor,
        job: &Job<'_, CandleKv>,
    ) -> Result<Tensor, LmError> {
        let rows = job.rows.len();
        let group = spec.heads / spec.kv_heads;
        let (keys, values) = gather(spec.layer, job)?;
        let visible = keys.dim(0)?;
        let split = |x: &Tensor| -> Result<Tensor, LmError> {
            let by_head = x.reshape((visible, spec.kv_heads, spec.head_dim))?;
            Ok(by_head.transpose(0, 1)?.to_dtype(DType::F32)?.contiguous()?)
        };
        let (keys, values) = (split(&keys)?, split(&values)?);
        // [rows, kv_heads, group, head_dim] -> [kv_heads, group * rows, head_dim]
        let queries = queries
            .to_dtype(DType::F32)?
            .reshape((rows, spec.kv_heads, group, spec.head_dim))?
            .permute((1, 2, 0, 3))?
            .contiguous()?
            .reshape((spec.kv_heads, group * rows, spec.head_dim))?;
        let scale = 1.0 / (spec.head_dim as f64).sqrt();
        let scores = (queries * scale)?.matmul(&keys.transpose(1, 2)?.contiguous()?)?;
        let scores = scores.reshape((spec.kv_heads * group, rows, visible))?;
        let scores = match mask(job.first_position, rows, visible, spec.window) {
            Some(mask) => scores.broadcast_add(&Tensor::from_vec(mask, (1, rows, visible), &self.device)?)?,
            None => scores,
        };
        let weights = softmax(&scores)?.reshape((spec.kv_heads, group * rows, visible))?;
        let out = weights.matmul(&values)?.reshape((spec.kv_heads, group, rows, spec.head_dim))?;
        let out = out.permute((2, 0, 1, 3))?.contiguous()?.reshape((rows, spec.heads * spec.head_dim))?;
        Ok(out.to_dtype(self.dtype)?)
    }
}

/// Keys and values that a job sees, `[visible, kv_heads * head_dim]` each.
fn gather(layer: usize, job: &Job<'_, CandleKv>) -> Result<(Tensor, Tensor), LmError> {
    let mut parts = (Vec::with_capacity(job.nodes.len()), Vec::with_capacity(job.nodes.len()));
    for node in &job.nodes {
        let (keys, values, length) = &node.layers[layer];
        parts.0.push(keys.narrow(0, 0, *length)?);
        parts.1.push(values.narrow(0, 0, *length)?);
    }
    Ok((Tensor::cat(&parts.0, 0)?, Tensor::cat(&parts.1, 0)?))
}

fn written(buffer: &CandleBuffer) -> Result<&Tensor, LmError> {
    Ok(buffer
        .as_ref()
        .ok_or_else(|| candle_core::Error::Msg("a buffer was read before it was written".to_owned()))?)
}

/// Replaces columns of a matrix.
fn with_columns(x: &Tensor, columns: Range<usize>, new: Tensor) -> Result<Tensor, LmError> {
    let width = x.dim(1)?;
    let mut parts = Vec::with_capacity(3);
    if columns.start > 0 {
        parts.push(x.narrow(1, 0, columns.start)?);
    }
    parts.push(new);
    if columns.end < width {
        parts.push(x.narrow(1, columns.end, width - columns.end)?);
    }
    Ok(Tensor::cat(&parts, 1)?)
}

fn softmax(scores: &Tensor) -> Result<Tensor, LmError> {
    let max = scores.max_keepdim(D::Minus1)?;
    let exp = scores.broadcast_sub(&max)?.exp()?;
    let sum = exp.sum_keepdim(D::Minus1)?;
    Ok(exp.broadcast_div(&sum)?)
}

/// Additive mask `[rows, visible]`, or `None` where every row sees every key.
fn mask(first_position: usize, rows: usize, visible: usize, window: Option<usize>) -> Option<Vec<f32>> {
    if rows == 1 && window.is_none_or(|window| window >= visible) {
        return None;
    }
    let mut mask = Vec::with_capacity(rows * visible);
    for position in first_position..first_position + rows {
        let first = window.map_or(0, |window| (position + 1).saturating_sub(window));
        mask.extend(
            (0..visible).map(|key| if key >= first && key <= position { 0.0 } else { f32::NEG_INFINITY }),
        );
    }
    Some(mask)
}

fn indices(values: impl Iterator<Item = usize>, device: &Device) -> Result<Tensor, LmError> {
    let values: Vec<u32> = values.map(|value| value as u32).collect();
    let length = values.len();
    Ok(Tensor::from_vec(values, length, device)?)
}

impl Backend for CandleBackend {
    type Matrix = CandleMatrix;
    type Vector = Tensor;
    type Buffer = CandleBuffer;
    type Kv = CandleKv;

    fn device_name(&self) -> String {
        self.name.clone()
    }

    fn load_matrix(&self, parts: &[RawTensor<'_>]) -> Result<CandleMatrix, LmError> {
        if self.quantised && parts.iter().all(|part| part.kind.block_size() > 1) {
            let load = |part: &RawTensor<'_>| -> Result<QMatMul, LmError> {
                let dims = vec![part.rows, part.columns];
                let tensor: QTensor = qtensor_from_ggml(part.kind, part.bytes, dims, &self.device)
                    .map_err(|error| part.error(error))?;
                Ok(QMatMul::from_qtensor(tensor)?)
            };
            return Ok(CandleMatrix::Quantised(Arc::new(parts.iter().map(load).collect::<Result<_, _>>()?)));
        }
        let tensors = parts
            .iter()
            .map(|part| self.dense(part, (part.rows, part.columns)))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(CandleMatrix::Dense(Tensor::cat(&tensors, 0)?))
    }

    fn load_vector(&self, parts: &[RawTensor<'_>]) -> Result<Tensor, LmError> {
        let tensors =
            parts.iter().map(|part| self.dense(part, (1, part.columns))).collect::<Result<Vec<_>, _>>()?;
        Ok(Tensor::cat(&tensors, 1)?.i(0)?)
    }

    fn kv_bytes(&self, shape: KvShape, capacity: usize) -> u64 {
        (shape.layers * 2 * shape.kv_heads * shape.head_dim * capacity * self.dtype.size_in_bytes()) as u64
    }

    fn new_kv(&self, shape: KvShape, capacity: usize) -> Result<CandleKv, LmError> {
        let empty = || Tensor::zeros((capacity, shape.kv_heads * shape.head_dim), self.dtype, &self.device);
        let layers =
            (0..shape.layers).map(|_| Ok::<_, LmError>((empty()?, empty()?, 0))).collect::<Result<_, _>>()?;
        Ok(CandleKv { layers })
    }

    fn embed(&self, table: &CandleMatrix, ids: &[u32], out: &mut CandleBuffer) -> Result<(), LmError> {
        let ids = Tensor::new(ids, &self.device)?;
        *out = Some(match table {
            CandleMatrix::Dense(table) => table.index_select(&ids, 0)?,
            CandleMatrix::Quantised(parts) => match parts.as_slice() {
                [only] => only.embedding(&ids)?.to_dtype(self.dtype)?,
                _ => return Err(LmError::Device("an embedding table in several parts".to_owned())),
            },
            CandleMatrix::Dequantised { .. } => {
                return Err(LmError::Device("an embedding table of a form for products".to_owned()));
            }
        });
        Ok(())
    }

    fn upload(&self, values: &[f32], width: usize, out: &mut CandleBuffer) -> Result<(), LmError> {
        *out = Some(Tensor::from_slice(values, (values.len() / width, width), &self.device)?);
        Ok(())
    }

    fn rms_norm(
        &self,
        x: &CandleBuffer,
        weight: &Tensor,
        eps: f32,
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        *out = Some(self.norm(written(x)?, weight, eps)?);
        Ok(())
    }

    fn norm_heads(
        &self,
        x: &mut CandleBuffer,
        columns: Range<usize>,
        weight: &Tensor,
        eps: f32,
    ) -> Result<(), LmError> {
        let all = written(x)?;
        let (rows, width, head_dim) = (all.dim(0)?, columns.len(), weight.dim(0)?);
        let heads =
            all.narrow(1, columns.start, width)?.contiguous()?.reshape((rows, width / head_dim, head_dim))?;
        let normed = self.norm(&heads, weight, eps)?.reshape((rows, width))?;
        *x = Some(with_columns(all, columns, normed)?);
        Ok(())
    }

    fn linear(
        &self,
        x: &CandleBuffer,
        layer: &Linear<CandleMatrix, Tensor>,
        out: &mut CandleBuffer,
        write: Write,
    ) -> Result<(), LmError> {
        let product = Self::multiply(x, &layer.weight)?;
        let product = match &layer.bias {
            Some(bias) => product.broadcast_add(bias)?,
            None => product,
        };
        *out = Some(match write {
            Write::Replace => product,
            Write::Add => (written(out)? + product)?,
        });
        Ok(())
    }

    fn rotate(
        &self,
        x: &mut CandleBuffer,
        columns: Range<usize>,
        head_dim: usize,
        rotation: &Rotation<CandleBuffer>,
        pairing: RopePairing,
    ) -> Result<(), LmError> {
        let all = written(x)?;
        let (rows, width, half) = (all.dim(0)?, columns.len(), head_dim / 2);
        let heads = width / head_dim;
        let part = all.narrow(1, columns.start, width)?.contiguous()?.to_dtype(DType::F32)?;
        // The dimension that tells a pair's two elements apart: [rows, heads, 2, half] or [.., half, 2].
        let (pairs, axis) = match pairing {
            RopePairing::Half => (part.reshape((rows, heads, 2, half))?, 2),
            RopePairing::Interleaved => (part.reshape((rows, heads, half, 2))?, 3),
        };
        let (a, b) = (pairs.narrow(axis, 0, 1)?.squeeze(axis)?, pairs.narrow(axis, 1, 1)?.squeeze(axis)?);
        let cos = written(&rotation.cos)?.reshape((rows, 1, half))?;
        let sin = written(&rotation.sin)?.reshape((rows, 1, half))?;
        let rotated_a = (a.broadcast_mul(&cos)? - b.broadcast_mul(&sin)?)?;
        let rotated_b = (b.broadcast_mul(&cos)? + a.broadcast_mul(&sin)?)?;
        let rotated = Tensor::stack(&[rotated_a, rotated_b], axis)?.reshape((rows, width))?;
        *x = Some(with_columns(all, columns, rotated.to_dtype(self.dtype)?)?);
        Ok(())
    }

    fn append_kv(
        &self,
        kv: &mut CandleKv,
        layer: usize,
        x: &CandleBuffer,
        rows: Range<usize>,
        keys: Range<usize>,
        values: Range<usize>,
    ) -> Result<(), LmError> {
        let rows_of_x = written(x)?.narrow(0, rows.start, rows.len())?;
        let (stored_keys, stored_values, length) = &mut kv.layers[layer];
        stored_keys.slice_set(&rows_of_x.narrow(1, keys.start, keys.len())?.contiguous()?, 0, *length)?;
        stored_values.slice_set(
            &rows_of_x.narrow(1, values.start, values.len())?.contiguous()?,
            0,
            *length,
        )?;
        *length += rows.len();
        Ok(())
    }

    fn attend(
        &self,
        spec: &AttentionSpec,
        x: &CandleBuffer,
        jobs: &[Job<'_, CandleKv>],
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let queries = written(x)?.narrow(1, 0, spec.heads * spec.head_dim)?;
        let outputs = jobs
            .iter()
            .map(|job| {
                let queries = queries.narrow(0, job.rows.start, job.rows.len())?.contiguous()?;
                match self.is_for_flash(spec, job) {
                    #[cfg(feature = "flash-attn")]
                    true => self.attend_flash(spec, &queries, job),
                    _ => self.attend_job(spec, &queries, job),
                }
            })
            .collect::<Result<Vec<_>, _>>()?;
        *out = Some(Tensor::cat(&outputs, 0)?);
        Ok(())
    }

    fn gate(&self, gate_up: &CandleBuffer, width: usize, out: &mut CandleBuffer) -> Result<(), LmError> {
        let all = written(gate_up)?;
        let gate = all.narrow(1, 0, width)?.contiguous()?;
        let up = all.narrow(1, width, width)?.contiguous()?;
        *out = Some((gate.silu()? * up)?);
        Ok(())
    }

    fn select(&self, x: &CandleBuffer, rows: &[usize], out: &mut CandleBuffer) -> Result<(), LmError> {
        let rows = indices(rows.iter().copied(), &self.device)?;
        *out = Some(written(x)?.index_select(&rows, 0)?);
        Ok(())
    }

    fn score(
        &self,
        x: &CandleBuffer,
        head: &CandleMatrix,
        targets: &[Target],
        counts: &[usize],
    ) -> Result<TargetScores, LmError> {
        let all = written(x)?;
        let total = all.dim(0)?;
        let mut scores = TargetScores { logprobs: vec![0.0; targets.len()], ..TargetScores::default() };
        for first in (0..total).step_by(LOGIT_ROWS) {
            let rows = first..total.min(first + LOGIT_ROWS);
            let chunk = Some(all.narrow(0, first, rows.len())?.contiguous()?);
            let logits = Self::multiply(&chunk, head)?.to_dtype(DType::F32)?;
            let max = logits.max_keepdim(1)?;
            let sum = logits.broadcast_sub(&max)?.exp()?.sum(1)?.to_vec1::<f32>()?;
            let max = max.squeeze(1)?.to_vec1::<f32>()?;
            let argmax = logits.argmax(1)?.to_vec1::<u32>()?;
            scores.rows.extend(argmax.iter().zip(&max).zip(&sum).map(|((argmax, max), sum)| RowSummary {
                argmax: *argmax,
                max_logit: *max,
                log_sum_exp: f64::from(*max) + f64::from(*sum).ln(),
            }));
            for (row, count) in counts.iter().enumerate().skip(first).take(rows.len()) {
                let logits = match count {
                    0 => Vec::new(),
                    _ => logits.get(row - first)?.to_vec1()?,
                };
                scores.most_probable.push(scores.rows[row].most_probable(&logits, *count));
            }
            let (chosen, asked): (Vec<usize>, Vec<&Target>) =
                targets.iter().enumerate().filter(|(_, target)| rows.contains(&target.row)).unzip();
            if asked.is_empty() {
                continue;
            }
            let vocabulary = logits.dim(1)?;
            let flat = indices(
                asked.iter().map(|target| (target.row - first) * vocabulary + target.token as usize),
                &self.device,
            )?;
            let picked = logits.flatten_all()?.index_select(&flat, 0)?.to_vec1::<f32>()?;
            for ((index, target), logit) in chosen.iter().zip(asked).zip(picked) {
                scores.logprobs[*index] = f64::from(logit) - scores.rows[target.row].log_sum_exp;
            }
        }
        Ok(scores)
    }

    fn logits(&self, x: &CandleBuffer, head: &CandleMatrix, out: &mut Vec<f32>) -> Result<(), LmError> {
        let logits = Self::multiply(x, head)?.to_dtype(DType::F32)?;
        *out = logits.flatten_all()?.to_vec1()?;
        Ok(())
    }
}
