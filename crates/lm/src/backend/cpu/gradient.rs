//! Training on the CPU.

use std::ops::Range;
use std::sync::Arc;

use super::super::{AttentionSpec, DecoderBackend, Dropped, Part, Write};
use super::{CpuBackend, CpuBuffer, CpuMatrix};
use crate::LmError;
use crate::kernels::gradient::{self, AttentionTree, LabelStatistics};
use crate::kernels::{self, AttentionShape, Columns, KvSegment, PanelDtype, Rows};
use crate::weights::RawTensor;

/// Rows of weights looked at in one task.
const ROWS_IN_TASK: usize = 32;

impl CpuBuffer {
    fn view(&self, columns: Range<usize>) -> (Rows<'_>, usize) {
        let values = self.values.get(columns.start..).unwrap_or(&[]);
        (Rows::new(values, self.rows(), self.width), columns.len())
    }
}

fn strided<'a>(part: &Part<'a, CpuBuffer>) -> (&'a [f32], Columns) {
    (&part.buffer.values, part.buffer.columns(part.columns.clone()))
}

impl DecoderBackend for CpuBackend {
    fn load_exact(&self, parts: &[RawTensor<'_>]) -> Result<CpuMatrix, LmError> {
        self.pack(parts, PanelDtype::F32)
    }

    fn transposed(&self, matrix: &CpuMatrix) -> Result<CpuMatrix, LmError> {
        match matrix {
            CpuMatrix::Packed(matrix) => Ok(CpuMatrix::Packed(Arc::new(matrix.transposed()))),
            CpuMatrix::Quantised(parts) => {
                Ok(CpuMatrix::Dequantised { parts: Arc::clone(parts), transposed: true })
            }
            CpuMatrix::Dequantised { parts, transposed } => {
                Ok(CpuMatrix::Dequantised { parts: Arc::clone(parts), transposed: !transposed })
            }
        }
    }

    fn exact(&self, matrix: &CpuMatrix) -> Option<CpuMatrix> {
        match matrix {
            CpuMatrix::Packed(_) | CpuMatrix::Dequantised { .. } => None,
            CpuMatrix::Quantised(parts) => {
                Some(CpuMatrix::Dequantised { parts: Arc::clone(parts), transposed: false })
            }
        }
    }

    fn matrix_bytes(&self, matrix: &CpuMatrix) -> u64 {
        match matrix {
            CpuMatrix::Packed(matrix) => matrix.bytes() as u64,
            CpuMatrix::Quantised(parts) => parts.iter().map(|part| part.bytes() as u64).sum(),
            CpuMatrix::Dequantised { .. } => 0,
        }
    }

    fn row_squares(&self, matrix: &CpuMatrix) -> Result<Vec<f64>, LmError> {
        let mut squares = vec![0.0; matrix.outputs()];
        self.pool.for_each_part(&mut squares, ROWS_IN_TASK, &|task, squares| {
            let mut row = vec![0.0; matrix.inputs()];
            for (place, square) in squares.iter_mut().enumerate() {
                matrix.row(task * ROWS_IN_TASK + place, &mut row);
                *square = row.iter().map(|value| f64::from(*value) * f64::from(*value)).sum();
            }
        });
        Ok(squares)
    }

    fn rows_to_host(&self, matrix: &CpuMatrix, outputs: Range<usize>) -> Result<Vec<f32>, LmError> {
        let width = matrix.inputs();
        let mut values = vec![0.0; outputs.len() * width];
        self.pool.for_each_part(&mut values, width, &|row, values| matrix.row(outputs.start + row, values));
        Ok(values)
    }

    fn vector_to_host(&self, vector: &Vec<f32>) -> Result<Vec<f32>, LmError> {
        Ok(vector.clone())
    }

    fn product(
        &self,
        x: &CpuBuffer,
        weight: &CpuMatrix,
        out: &mut CpuBuffer,
        write: Write,
    ) -> Result<(), LmError> {
        self.multiply(x, weight, None, out, write);
        Ok(())
    }

    fn clear_kv(&self, kv: &mut Vec<KvSegment>) {
        kv.iter_mut().for_each(|segment| segment.truncate(0));
    }

    fn take_columns(&self, x: &CpuBuffer, columns: Range<usize>, out: &mut CpuBuffer) -> Result<(), LmError> {
        let out = out.shape(x.rows(), columns.len());
        for (out, row) in out.chunks_exact_mut(columns.len()).zip(x.values.chunks_exact(x.width)) {
            out.copy_from_slice(&row[columns.clone()]);
        }
        Ok(())
    }

    fn add_linear_part(
        &self,
        x: Part<'_, CpuBuffer>,
        weight: &CpuMatrix,
        out: &mut CpuBuffer,
        columns: Range<usize>,
    ) -> Result<(), LmError> {
        let CpuMatrix::Packed(weight) = weight else {
            return Err(LmError::Device("an adapter of quantised weights".to_owned()));
        };
        let columns = out.columns(columns);
        let rows = x.buffer.view(x.columns).0;
        kernels::linear_columns(&self.pool, rows, weight, None, &mut out.values, columns, true);
        Ok(())
    }

    fn scale_columns(&self, x: &mut CpuBuffer, factors: &Vec<f32>) -> Result<(), LmError> {
        let columns = x.columns(0..x.width);
        gradient::scale_columns(&self.pool, &mut x.values, columns, factors);
        Ok(())
    }

    fn finish_linear(
        &self,
        x: &CpuBuffer,
        bias: Option<&Vec<f32>>,
        out: &mut CpuBuffer,
        write: Write,
    ) -> Result<(), LmError> {
        let width = x.width;
        let out = out.shape(x.rows(), width);
        for (out, x) in out.chunks_exact_mut(width).zip(x.values.chunks_exact(width)) {
            for (index, (out, x)) in out.iter_mut().zip(x).enumerate() {
                let value = x + bias.map_or(0.0, |bias| bias[index]);
                *out = if write == Write::Add { *out + value } else { value };
            }
        }
        Ok(())
    }

    fn drop_out(&self, x: &CpuBuffer, dropped: Dropped<'_>, out: &mut CpuBuffer) -> Result<(), LmError> {
        let width = x.width;
        let out = out.shape(x.rows(), width);
        out.copy_from_slice(&x.values);
        gradient::drop_out(&self.pool, out, width, dropped.rate, dropped.key, dropped.row_keys);
        Ok(())
    }

    fn rms_norm_gradient(
        &self,
        x: &CpuBuffer,
        weight: &Vec<f32>,
        eps: f32,
        dy: &CpuBuffer,
        dx: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        gradient::rms_norm_gradient(&self.pool, &x.values, weight, eps, &dy.values, &mut dx.values);
        Ok(())
    }

    fn norm_heads_gradient(
        &self,
        x: &CpuBuffer,
        weight: &Vec<f32>,
        eps: f32,
        dy: &mut CpuBuffer,
        columns: Range<usize>,
    ) -> Result<(), LmError> {
        let columns = dy.columns(columns);
        gradient::rms_norm_heads_gradient(&self.pool, &x.values, weight, eps, &mut dy.values, columns);
        Ok(())
    }

    fn attend_gradient(
        &self,
        spec: &AttentionSpec,
        qkv: &CpuBuffer,
        trees: &[AttentionTree],
        out: (&CpuBuffer, &CpuBuffer),
        d_qkv: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        let shape = AttentionShape {
            heads: spec.heads,
            kv_heads: spec.kv_heads,
            head_dim: spec.head_dim,
            scale: 1.0 / (spec.head_dim as f32).sqrt(),
            window: spec.window,
            causal: true,
        };
        let d_qkv = d_qkv.shape(qkv.rows(), qkv.width);
        let out = (out.0.values.as_slice(), out.1.values.as_slice());
        gradient::attention_gradient(&self.pool, &shape, &qkv.values, trees, out, d_qkv);
        Ok(())
    }

    fn gate_gradient(
        &self,
        gate_up: &CpuBuffer,
        width: usize,
        dy: &CpuBuffer,
        out: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        let out = out.shape(gate_up.rows(), gate_up.width);
        gradient::silu_mul_gradient(&self.pool, &gate_up.values, width, &dy.values, out);
        Ok(())
    }

    fn label_statistics(
        &self,
        logits: &mut CpuBuffer,
        tokens: &[u32],
    ) -> Result<Vec<LabelStatistics>, LmError> {
        Ok(gradient::label_statistics(&self.pool, &mut logits.values, tokens))
    }

    fn zeros(&self, rows: usize, width: usize, out: &mut CpuBuffer) -> Result<(), LmError> {
        out.shape(rows, width).fill(0.0);
        Ok(())
    }

    fn zeros_like(&self, x: &CpuBuffer, width: usize, out: &mut CpuBuffer) -> Result<(), LmError> {
        self.zeros(x.rows(), width, out)
    }

    fn copy(&self, x: &CpuBuffer, out: &mut CpuBuffer) -> Result<(), LmError> {
        out.shape(x.rows(), x.width).copy_from_slice(&x.values);
        Ok(())
    }

    fn add_rows(
        &self,
        x: &CpuBuffer,
        rows: &[usize],
        factors: &[f32],
        out: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        let width = x.width;
        for ((x, row), factor) in x.values.chunks_exact(width).zip(rows).zip(factors) {
            let out = &mut out.values[row * width..(row + 1) * width];
            out.iter_mut().zip(x).for_each(|(out, x)| *out = factor.mul_add(*x, *out));
        }
        Ok(())
    }

    fn to_host(&self, x: &CpuBuffer, out: &mut Vec<f32>) -> Result<(), LmError> {
        out.clear();
        out.extend_from_slice(&x.values);
        Ok(())
    }

    fn add_weight_gradient(
        &self,
        dy: Part<'_, CpuBuffer>,
        x: Part<'_, CpuBuffer>,
        scale: f32,
        out: &mut [f32],
    ) -> Result<(), LmError> {
        let (left, right) = (dy.buffer.view(dy.columns), x.buffer.view(x.columns));
        gradient::add_outer_product(&self.pool, left, right, scale, out);
        Ok(())
    }

    fn add_bias_gradient(&self, dy: Part<'_, CpuBuffer>, out: &mut [f32]) -> Result<(), LmError> {
        let (values, columns) = strided(&dy);
        gradient::add_column_sums(values, columns, out);
        Ok(())
    }

    fn add_product_sums(
        &self,
        dy: Part<'_, CpuBuffer>,
        x: Part<'_, CpuBuffer>,
        factors: &[f32],
        out: &mut [f32],
    ) -> Result<(), LmError> {
        gradient::add_products(strided(&dy), strided(&x), factors, out);
        Ok(())
    }

    fn add_norm_weight_gradient(
        &self,
        x: Part<'_, CpuBuffer>,
        dy: Part<'_, CpuBuffer>,
        eps: f32,
        out: &mut [f32],
    ) -> Result<(), LmError> {
        gradient::rms_norm_weight_gradient(strided(&x), strided(&dy), eps, self.pool.isa(), out);
        Ok(())
    }

    fn add_embedding_gradient(&self, dx: &CpuBuffer, ids: &[u32], out: &mut [f32]) -> Result<(), LmError> {
        let width = dx.width;
        for (row, id) in dx.values.chunks_exact(width).zip(ids) {
            let at = *id as usize * width;
            out[at..at + width].iter_mut().zip(row).for_each(|(out, value)| *out += value);
        }
        Ok(())
    }
}
