//! Training on candle tensors: CUDA, Metal, and in tests the CPU. Made of candle's plain operations, each of which has
//! a kernel for every device; none of candle's own gradients is used.

use std::ops::Range;
use std::sync::Arc;

use candle_core::{D, DType, IndexOp, Tensor};

use super::super::{AttentionSpec, DecoderBackend, Dropped, Part, Write};
use super::{
    CandleBackend, CandleBuffer, CandleKv, CandleMatrix, indices, mask, softmax, with_columns, written,
};
use crate::LmError;
use crate::kernels::gradient::{AttentionTree, LabelStatistics, kept_values};
use crate::weights::RawTensor;

/// Columns of a buffer in f32.
fn wide(part: &Part<'_, CandleBuffer>) -> Result<Tensor, LmError> {
    let x = written(part.buffer)?.narrow(1, part.columns.start, part.columns.len())?;
    Ok(x.to_dtype(DType::F32)?.contiguous()?)
}

/// Adds a tensor's values to a host slice of as many.
fn add_to_host(values: &Tensor, scale: f32, out: &mut [f32]) -> Result<(), LmError> {
    let values = values.to_dtype(DType::F32)?.flatten_all()?.to_vec1::<f32>()?;
    out.iter_mut().zip(values).for_each(|(out, value)| *out = scale.mul_add(value, *out));
    Ok(())
}

impl CandleBackend {
    /// `[outputs, inputs]` in f32.
    fn floats(matrix: &CandleMatrix) -> Result<Tensor, LmError> {
        match matrix {
            CandleMatrix::Dense(weight) => Ok(weight.to_dtype(DType::F32)?),
            CandleMatrix::Quantised(parts) | CandleMatrix::Dequantised { parts, .. } => {
                Self::dequantised(parts)
            }
        }
    }

    /// `d(norm)/dx dy` over the last dimension, in f32; formula as in `kernels::gradient::rms_norm_gradient`.
    fn norm_gradient(&self, x: &Tensor, weight: &Tensor, eps: f32, dy: &Tensor) -> Result<Tensor, LmError> {
        let (x, dy) = (x.to_dtype(DType::F32)?, dy.to_dtype(DType::F32)?);
        let factor = ((x.sqr()?.mean_keepdim(D::Minus1)? + f64::from(eps))?.sqrt()?).recip()?;
        let weighted = dy.broadcast_mul(&weight.to_dtype(DType::F32)?)?;
        let inner = (&weighted * &x)?.mean_keepdim(D::Minus1)?;
        let shrink = ((factor.sqr()? * &factor)? * inner)?;
        Ok((weighted.broadcast_mul(&factor)? - x.broadcast_mul(&shrink)?)?)
    }

    /// Rows of a tree's path in `x`, by head: `[heads, rows, head_dim]` in f32.
    fn heads_of(
        &self,
        x: &Tensor,
        paths: &[&Range<usize>],
        first_column: usize,
        heads: usize,
        head_dim: usize,
    ) -> Result<Tensor, LmError> {
        let parts = paths
            .iter()
            .filter(|rows| !rows.is_empty())
            .map(|rows| x.i((rows.start..rows.end, first_column..first_column + heads * head_dim)))
            .collect::<Result<Vec<_>, _>>()?;
        let joined = Tensor::cat(&parts, 0)?;
        let rows = joined.dim(0)?;
        let by_head = joined.reshape((rows, heads, head_dim))?.transpose(0, 1)?;
        Ok(by_head.to_dtype(DType::F32)?.contiguous()?)
    }

    /// Gradients of one sequence: queries of `own`, keys of `prefix` and `own`; each `[rows, heads * head_dim]`.
    fn sequence_gradient(
        &self,
        spec: &AttentionSpec,
        qkv: &Tensor,
        d_out: &Tensor,
        prefix: &Range<usize>,
        own: &Range<usize>,
    ) -> Result<[Tensor; 3], LmError> {
        let AttentionSpec { heads, kv_heads, head_dim, window, .. } = *spec;
        let (rows, keys, group) = (own.len(), prefix.len() + own.len(), heads / kv_heads);
        let scale = 1.0 / (head_dim as f64).sqrt();
        // [kv_heads, group * rows, head_dim]: heads of one group lie together.
        let stacked = |x: Tensor| x.reshape((kv_heads, group * rows, head_dim));
        let q = stacked((self.heads_of(qkv, &[own], 0, heads, head_dim)? * scale)?)?;
        let k = self.heads_of(qkv, &[prefix, own], heads * head_dim, kv_heads, head_dim)?;
        let v = self.heads_of(qkv, &[prefix, own], (heads + kv_heads) * head_dim, kv_heads, head_dim)?;
        let d_out = stacked(self.heads_of(d_out, &[own], 0, heads, head_dim)?)?;
        let scores = q.matmul(&k.transpose(1, 2)?.contiguous()?)?.reshape((heads, rows, keys))?;
        let scores = match mask(prefix.len(), rows, keys, window) {
            Some(mask) => scores.broadcast_add(&Tensor::from_vec(mask, (1, rows, keys), &self.device)?)?,
            None => scores,
        };
        let p = softmax(&scores)?.reshape((kv_heads, group * rows, keys))?;
        let d_p = d_out.matmul(&v.transpose(1, 2)?.contiguous()?)?;
        let inner = (&p * &d_p)?.sum_keepdim(D::Minus1)?;
        let d_scores = (&p * d_p.broadcast_sub(&inner)?)?;
        let d_q = (d_scores.matmul(&k)? * scale)?;
        let d_k = d_scores.transpose(1, 2)?.contiguous()?.matmul(&q)?;
        let d_v = p.transpose(1, 2)?.contiguous()?.matmul(&d_out)?;
        let joined = |x: Tensor, heads: usize, rows: usize| -> Result<Tensor, LmError> {
            let by_row = x.reshape((heads, rows, head_dim))?.transpose(0, 1)?.contiguous()?;
            Ok(by_row.reshape((rows, heads * head_dim))?)
        };
        Ok([joined(d_q, heads, rows)?, joined(d_k, kv_heads, keys)?, joined(d_v, kv_heads, keys)?])
    }
}

impl DecoderBackend for CandleBackend {
    fn load_exact(&self, parts: &[RawTensor<'_>]) -> Result<CandleMatrix, LmError> {
        let mut values = Vec::new();
        for part in parts {
            let start = values.len();
            values.resize(start + part.rows * part.columns, 0.0f32);
            crate::kernels::dequantise(part.kind, part.bytes, &mut values[start..])
                .map_err(|error| part.error(error))?;
        }
        let columns = parts.first().map_or(0, |part| part.columns);
        let rows = values.len() / columns.max(1);
        Ok(CandleMatrix::Dense(Tensor::from_vec(values, (rows, columns), &self.device)?))
    }

    fn transposed(&self, matrix: &CandleMatrix) -> Result<CandleMatrix, LmError> {
        match matrix {
            // A view: nothing is copied.
            CandleMatrix::Dense(weight) => Ok(CandleMatrix::Dense(weight.t()?)),
            CandleMatrix::Quantised(parts) => {
                Ok(CandleMatrix::Dequantised { parts: Arc::clone(parts), transposed: true })
            }
            CandleMatrix::Dequantised { parts, transposed } => {
                Ok(CandleMatrix::Dequantised { parts: Arc::clone(parts), transposed: !transposed })
            }
        }
    }

    fn exact(&self, matrix: &CandleMatrix) -> Option<CandleMatrix> {
        match matrix {
            CandleMatrix::Dense(_) | CandleMatrix::Dequantised { .. } => None,
            CandleMatrix::Quantised(parts) => {
                Some(CandleMatrix::Dequantised { parts: Arc::clone(parts), transposed: false })
            }
        }
    }

    fn matrix_bytes(&self, matrix: &CandleMatrix) -> u64 {
        match matrix {
            CandleMatrix::Dense(weight) if weight.is_contiguous() => {
                (weight.elem_count() * weight.dtype().size_in_bytes()) as u64
            }
            CandleMatrix::Dense(_) | CandleMatrix::Dequantised { .. } | CandleMatrix::Quantised(_) => 0,
        }
    }

    fn row_squares(&self, matrix: &CandleMatrix) -> Result<Vec<f64>, LmError> {
        Ok(Self::floats(matrix)?.sqr()?.sum(1)?.to_vec1::<f32>()?.into_iter().map(f64::from).collect())
    }

    fn rows_to_host(&self, matrix: &CandleMatrix, outputs: Range<usize>) -> Result<Vec<f32>, LmError> {
        let rows = Self::floats(matrix)?.narrow(0, outputs.start, outputs.len())?;
        Ok(rows.flatten_all()?.to_vec1()?)
    }

    fn vector_to_host(&self, vector: &Tensor) -> Result<Vec<f32>, LmError> {
        Ok(vector.to_dtype(DType::F32)?.to_vec1()?)
    }

    fn product(
        &self,
        x: &CandleBuffer,
        weight: &CandleMatrix,
        out: &mut CandleBuffer,
        write: Write,
    ) -> Result<(), LmError> {
        let product = Self::multiply(x, weight)?;
        *out = Some(match write {
            Write::Replace => product,
            Write::Add => (written(out)? + product)?,
        });
        Ok(())
    }

    fn clear_kv(&self, kv: &mut CandleKv) {
        kv.layers.iter_mut().for_each(|(_, _, written)| *written = 0);
    }

    fn take_columns(
        &self,
        x: &CandleBuffer,
        columns: Range<usize>,
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        *out = Some(written(x)?.narrow(1, columns.start, columns.len())?.contiguous()?);
        Ok(())
    }

    fn add_linear_part(
        &self,
        x: Part<'_, CandleBuffer>,
        weight: &CandleMatrix,
        out: &mut CandleBuffer,
        columns: Range<usize>,
    ) -> Result<(), LmError> {
        let part = Some(written(x.buffer)?.narrow(1, x.columns.start, x.columns.len())?.contiguous()?);
        let product = Self::multiply(&part, weight)?;
        let all = written(out)?;
        let old = all.narrow(1, columns.start, columns.len())?;
        let sum = (old + product.to_dtype(all.dtype())?)?;
        *out = Some(with_columns(all, columns, sum)?);
        Ok(())
    }

    fn scale_columns(&self, x: &mut CandleBuffer, factors: &Tensor) -> Result<(), LmError> {
        let scaled = written(x)?.broadcast_mul(&factors.to_dtype(self.dtype)?)?;
        *x = Some(scaled);
        Ok(())
    }

    fn finish_linear(
        &self,
        x: &CandleBuffer,
        bias: Option<&Tensor>,
        out: &mut CandleBuffer,
        write: Write,
    ) -> Result<(), LmError> {
        let x = match bias {
            Some(bias) => written(x)?.broadcast_add(bias)?,
            None => written(x)?.clone(),
        };
        *out = Some(match write {
            Write::Replace => x,
            Write::Add => (written(out)? + x)?,
        });
        Ok(())
    }

    fn drop_out(
        &self,
        x: &CandleBuffer,
        dropped: Dropped<'_>,
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let x = written(x)?;
        let factors = kept_values(x.dim(1)?, dropped.rate, dropped.key, dropped.row_keys);
        let factors = Tensor::from_vec(factors, x.shape(), &self.device)?.to_dtype(x.dtype())?;
        *out = Some((x * factors)?);
        Ok(())
    }

    fn rms_norm_gradient(
        &self,
        x: &CandleBuffer,
        weight: &Tensor,
        eps: f32,
        dy: &CandleBuffer,
        dx: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let gradient = self.norm_gradient(written(x)?, weight, eps, written(dy)?)?;
        let sum = (written(dx)? + gradient.to_dtype(self.dtype)?)?;
        *dx = Some(sum);
        Ok(())
    }

    fn norm_heads_gradient(
        &self,
        x: &CandleBuffer,
        weight: &Tensor,
        eps: f32,
        dy: &mut CandleBuffer,
        columns: Range<usize>,
    ) -> Result<(), LmError> {
        let (all, x) = (written(dy)?, written(x)?);
        let head = weight.dim(0)?;
        let shape = (all.dim(0)?, columns.len() / head, head);
        let part = all.narrow(1, columns.start, columns.len())?.contiguous()?.reshape(shape)?;
        let gradient = self.norm_gradient(&x.reshape(shape)?, weight, eps, &part)?;
        let gradient = gradient.reshape((shape.0, columns.len()))?.to_dtype(self.dtype)?;
        *dy = Some(with_columns(all, columns, gradient)?);
        Ok(())
    }

    fn attend_gradient(
        &self,
        spec: &AttentionSpec,
        qkv: &CandleBuffer,
        trees: &[AttentionTree],
        (_, d_out): (&CandleBuffer, &CandleBuffer),
        d_qkv: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let (qkv, d_out) = (written(qkv)?, written(d_out)?);
        let (query_size, kv_size) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let total = qkv.dim(0)?;
        let mut queries = Tensor::zeros((total, query_size), DType::F32, &self.device)?;
        let mut keys = Tensor::zeros((total, kv_size), DType::F32, &self.device)?;
        let mut values = keys.clone();
        for tree in trees {
            let none = tree.trunk.start..tree.trunk.start;
            let sequences = std::iter::once((&none, &tree.trunk))
                .chain(tree.branches.iter().map(|branch| (&tree.trunk, branch)))
                .filter(|(_, own)| !own.is_empty());
            for (prefix, own) in sequences {
                let [d_q, d_k, d_v] = self.sequence_gradient(spec, qkv, d_out, prefix, own)?;
                let own_rows = indices(own.clone(), &self.device)?;
                let all_rows = indices(prefix.clone().chain(own.clone()), &self.device)?;
                queries = queries.index_add(&own_rows, &d_q, 0)?;
                keys = keys.index_add(&all_rows, &d_k, 0)?;
                values = values.index_add(&all_rows, &d_v, 0)?;
            }
        }
        *d_qkv = Some(Tensor::cat(&[queries, keys, values], 1)?.to_dtype(self.dtype)?);
        Ok(())
    }

    fn gate_gradient(
        &self,
        gate_up: &CandleBuffer,
        width: usize,
        dy: &CandleBuffer,
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let all = written(gate_up)?.to_dtype(DType::F32)?;
        let dy = written(dy)?.to_dtype(DType::F32)?;
        let (gate, up) = (all.narrow(1, 0, width)?.contiguous()?, all.narrow(1, width, width)?.contiguous()?);
        let sigmoid = ((gate.neg()?.exp()? + 1.0)?).recip()?;
        let silu = (&gate * &sigmoid)?;
        // s (1 + g (1 - s)) = s + silu (1 - s)
        let slope = (&sigmoid + (&silu * (1.0 - &sigmoid)?)?)?;
        let d_gate = ((&dy * up)? * slope)?;
        let d_up = (dy * silu)?;
        *out = Some(Tensor::cat(&[d_gate, d_up], 1)?.to_dtype(self.dtype)?);
        Ok(())
    }

    fn label_statistics(
        &self,
        logits: &mut CandleBuffer,
        tokens: &[u32],
    ) -> Result<Vec<LabelStatistics>, LmError> {
        let values = written(logits)?.to_dtype(DType::F32)?;
        let (rows, vocabulary) = values.dims2()?;
        let labels = Tensor::new(tokens, &self.device)?;
        let max = values.max_keepdim(1)?;
        let difference = values.broadcast_sub(&max)?;
        let exp = difference.exp()?;
        let sum = exp.sum_keepdim(1)?;
        let log_sum = sum.log()?;
        let p = exp.broadcast_div(&sum)?;
        let flat = indices(
            tokens.iter().enumerate().map(|(row, token)| row * vocabulary + *token as usize),
            &self.device,
        )?;
        let asked = difference.flatten_all()?.index_select(&flat, 0)?.reshape((rows, 1))?;
        let host = |x: &Tensor| -> Result<Vec<f32>, LmError> { Ok(x.flatten_all()?.to_vec1::<f32>()?) };
        let logprobs = host(&(&asked - &log_sum)?)?;
        // A token that is ruled out (-inf) has no share in the entropy.
        let weighted = (&p * difference.clamp(-1e30f32, 0.0f32)?)?.sum_keepdim(1)?;
        let entropy = host(&(&log_sum - weighted)?)?;
        let squares = host(&p.sqr()?.sum_keepdim(1)?.log()?)?;
        let means = host(&values.mean_keepdim(1)?)?;
        let first = values.argmax(1)?.to_vec1::<u32>()?;
        let mut gradient = p.neg()?.flatten_all()?;
        gradient = gradient.index_add(&flat, &Tensor::ones(rows, DType::F32, &self.device)?, 0)?;
        let width = labels.dim(0)?;
        *logits = Some(gradient.reshape((width, vocabulary))?.to_dtype(self.dtype)?);
        Ok((0..rows)
            .map(|row| LabelStatistics {
                logprob: logprobs[row],
                entropy: entropy[row],
                mean_logit: means[row],
                log_sum_squares: squares[row],
                top: first[row] == tokens[row],
            })
            .collect())
    }

    fn zeros(&self, rows: usize, width: usize, out: &mut CandleBuffer) -> Result<(), LmError> {
        *out = Some(Tensor::zeros((rows, width), self.dtype, &self.device)?);
        Ok(())
    }

    fn zeros_like(&self, x: &CandleBuffer, width: usize, out: &mut CandleBuffer) -> Result<(), LmError> {
        self.zeros(written(x)?.dim(0)?, width, out)
    }

    fn copy(&self, x: &CandleBuffer, out: &mut CandleBuffer) -> Result<(), LmError> {
        // Tensors are never changed in place, so sharing one is a copy.
        out.clone_from(x);
        Ok(())
    }

    fn add_rows(
        &self,
        x: &CandleBuffer,
        rows: &[usize],
        factors: &[f32],
        out: &mut CandleBuffer,
    ) -> Result<(), LmError> {
        let factors = Tensor::new(factors, &self.device)?.reshape((rows.len(), 1))?;
        let scaled = written(x)?.to_dtype(DType::F32)?.broadcast_mul(&factors)?;
        let rows = indices(rows.iter().copied(), &self.device)?;
        let sum = written(out)?.to_dtype(DType::F32)?.index_add(&rows, &scaled, 0)?;
        *out = Some(sum.to_dtype(self.dtype)?);
        Ok(())
    }

    fn to_host(&self, x: &CandleBuffer, out: &mut Vec<f32>) -> Result<(), LmError> {
        *out = written(x)?.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
        Ok(())
    }

    fn add_weight_gradient(
        &self,
        dy: Part<'_, CandleBuffer>,
        x: Part<'_, CandleBuffer>,
        scale: f32,
        out: &mut [f32],
    ) -> Result<(), LmError> {
        add_to_host(&wide(&dy)?.t()?.contiguous()?.matmul(&wide(&x)?)?, scale, out)
    }

    fn add_bias_gradient(&self, dy: Part<'_, CandleBuffer>, out: &mut [f32]) -> Result<(), LmError> {
        add_to_host(&wide(&dy)?.sum(0)?, 1.0, out)
    }

    fn add_product_sums(
        &self,
        dy: Part<'_, CandleBuffer>,
        x: Part<'_, CandleBuffer>,
        factors: &[f32],
        out: &mut [f32],
    ) -> Result<(), LmError> {
        let sums = (wide(&dy)? * wide(&x)?)?.sum(0)?;
        add_to_host(&(sums * Tensor::new(factors, &self.device)?)?, 1.0, out)
    }

    fn add_norm_weight_gradient(
        &self,
        x: Part<'_, CandleBuffer>,
        dy: Part<'_, CandleBuffer>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), LmError> {
        let group = out.len();
        let (x, dy) = (wide(&x)?, wide(&dy)?);
        let shape = (x.elem_count() / group, group);
        let (x, dy) = (x.reshape(shape)?, dy.reshape(shape)?);
        let factor = ((x.sqr()?.mean_keepdim(1)? + f64::from(eps))?.sqrt()?).recip()?;
        add_to_host(&(x.broadcast_mul(&factor)? * dy)?.sum(0)?, 1.0, out)
    }

    fn add_embedding_gradient(&self, dx: &CandleBuffer, ids: &[u32], out: &mut [f32]) -> Result<(), LmError> {
        let mut values = Vec::new();
        self.to_host(dx, &mut values)?;
        let width = values.len() / ids.len().max(1);
        for (row, id) in values.chunks_exact(width.max(1)).zip(ids) {
            let at = *id as usize * width;
            out[at..at + width].iter_mut().zip(row).for_each(|(out, value)| *out += value);
        }
        Ok(())
    }
}
