use std::ops::Range;
use std::sync::PoisonError;

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
        let mut segments = self.texts.lock().unwrap_or_else(PoisonError::into_inner);
        prepare(&mut segments, heads, sequences);
        self.pool.for_each_part(&mut segments, 1, &|index, segment| {
            let rows = &sequences[index];
            let from =
                |column| Rows::new(&qkv.values[rows.start * qkv.width + column..], rows.len(), qkv.width);
            segment[0].append(from(width), from(2 * width));
        });
        let jobs: Vec<AttentionJob<'_>> = sequences
            .iter()
            .zip(segments.iter())
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

    fn rest(&self) {
        self.pool.rest();
    }

    fn download(&self, x: &CpuBuffer, out: &mut Vec<f32>) -> Result<(), LmError> {
        out.clear();
        out.extend_from_slice(&x.values);
        Ok(())
    }
}

/// An empty segment for each sequence, exactly as large as it; those of the last layer, or of texts as long, are used
/// again.
fn prepare(segments: &mut Vec<KvSegment>, heads: EncoderHeads, sequences: &[Range<usize>]) {
    segments.truncate(sequences.len());
    for (index, rows) in sequences.iter().enumerate() {
        let wanted = (heads.count, heads.dim, rows.len());
        match segments.get_mut(index) {
            Some(there) if (there.kv_heads(), there.head_dim(), there.capacity()) == wanted => {
                there.truncate(0);
            }
            Some(other) => *other = KvSegment::new(heads.count, heads.dim, rows.len()),
            None => segments.push(KvSegment::new(heads.count, heads.dim, rows.len())),
        }
    }
}
