use std::ops::Range;

use super::{CpuBackend, CpuBuffer};
use crate::LmError;
use crate::backend::{EncoderBackend, EncoderHeads};
use crate::kernels::{self, AttentionJob, AttentionShape, KvSegment, Rows};

impl EncoderBackend for CpuBackend {
    fn layer_norm(
        &self,
        x: &mut CpuBuffer,
        weight: &Vec<f32>,
        bias: &Vec<f32>,
        eps: f32,
    ) -> Result<(), LmError> {
        kernels::layer_norm(&self.pool, &mut x.values, weight, bias, eps);
        Ok(())
    }

    fn gelu(&self, x: &mut CpuBuffer) -> Result<(), LmError> {
        kernels::gelu(&self.pool, &mut x.values);
        Ok(())
    }

    fn attend_within(
        &self,
        heads: EncoderHeads,
        qkv: &CpuBuffer,
        sequences: &[Range<usize>],
        out: &mut CpuBuffer,
    ) -> Result<(), LmError> {
        let width = heads.count * heads.dim;
        let mut segments: Vec<KvSegment> =
            sequences.iter().map(|rows| KvSegment::new(heads.count, heads.dim, rows.len())).collect();
        self.pool.for_each_part(&mut segments, 1, &|index, segment| {
            let rows = &sequences[index];
            let from =
                |column| Rows::new(&qkv.values[rows.start * qkv.width + column..], rows.len(), qkv.width);
            segment[0].append(from(width), from(2 * width));
        });
        let jobs: Vec<AttentionJob<'_>> = sequences
            .iter()
            .zip(&segments)
            .map(|(rows, own)| AttentionJob { first_row: rows.start, rows: rows.len(), prefix: &[], own })
            .collect();
        let shape = AttentionShape {
            heads: heads.count,
            kv_heads: heads.count,
            head_dim: heads.dim,
            scale: 1.0 / (heads.dim as f32).sqrt(),
            window: None,
            causal: false,
        };
        let queries = Rows::new(&qkv.values, qkv.rows(), qkv.width);
        kernels::attention(&self.pool, &shape, queries, &jobs, out.shape(qkv.rows(), width));
        Ok(())
    }

    fn download(&self, x: &CpuBuffer, out: &mut Vec<f32>) -> Result<(), LmError> {
        out.clear();
        out.extend_from_slice(&x.values);
        Ok(())
    }
}
