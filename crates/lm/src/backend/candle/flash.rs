//! FlashAttention-2 (Dao 2023, arXiv 2307.08691) through candle-flash-attn 0.11, for prompts on CUDA, in builds with the
//! feature `flash-attn`.
//!
//! Only its forward pass exists there, so training never comes here. Softmax is computed in f32 inside the kernel, and
//! probabilities are rounded to the activations' type before they meet the values: results differ from
//! [`CandleBackend::attend_job`] in the last bits of bf16 or f16, which is why the device's name says that it is in use.

use candle_core::DType;
#[cfg(feature = "flash-attn")]
use candle_core::Tensor;

#[cfg(feature = "flash-attn")]
use super::gather;
use super::{AttentionSpec, CandleBackend, CandleKv, Job};
#[cfg(feature = "flash-attn")]
use crate::LmError;

/// Largest head that FlashAttention-2 has kernels for.
const MOST_HEAD_DIM: usize = 256;

impl CandleBackend {
    /// Its kernels take bf16 and f16 on CUDA (compute capability 8.0 or later).
    pub(super) fn has_flash_kernels(&self) -> bool {
        cfg!(feature = "flash-attn")
            && self.device.is_cuda()
            && matches!(self.dtype, DType::BF16 | DType::F16)
    }

    /// Prompts, that is several rows at the end of all that they see: the kernel aligns its causal mask with the last key.
    /// What it has no kernel for, single rows and everything that gradients are taken of goes the plain way.
    pub(super) fn is_for_flash(&self, spec: &AttentionSpec, job: &Job<'_, CandleKv>) -> bool {
        let visible: usize = job.nodes.iter().map(|node| node.layers[spec.layer].2).sum();
        self.has_flash_kernels()
            && !spec.exact
            && job.rows.len() > 1
            && job.first_position + job.rows.len() == visible
            && spec.head_dim.is_multiple_of(8)
            && spec.head_dim <= MOST_HEAD_DIM
    }

    /// Queries `[rows, heads * head_dim]` to the same shape.
    #[cfg(feature = "flash-attn")]
    pub(super) fn attend_flash(
        &self,
        spec: &AttentionSpec,
        queries: &Tensor,
        job: &Job<'_, CandleKv>,
    ) -> Result<Tensor, LmError> {
        let AttentionSpec { heads, kv_heads, head_dim, window, .. } = *spec;
        let (keys, values) = gather(spec.layer, job)?;
        let (rows, visible) = (job.rows.len(), keys.dim(0)?);
        let attended = candle_flash_attn::flash_attn_windowed(
            &queries.reshape((1, rows, heads, head_dim))?,
            &keys.reshape((1, visible, kv_heads, head_dim))?,
            &values.reshape((1, visible, kv_heads, head_dim))?,
            1.0 / (head_dim as f32).sqrt(),
            // The kernel counts the keys before a row's own.
            window.map(|window| window.saturating_sub(1)),
            Some(0),
        )?;
        Ok(attended.reshape((rows, heads * head_dim))?)
    }
}

#[cfg(all(test, feature = "flash-attn"))]
mod tests {
    use evalign_core::Dtype;

    use super::*;
    use crate::DeviceSpec;
    use crate::backend::{Backend, KvShape};

    /// Deterministic values around 0.
    fn values(rows: usize, width: usize, seed: usize) -> Vec<f32> {
        (0..rows * width).map(|at| ((at * 37 + seed * 101) % 61) as f32 / 61.0 - 0.5).collect()
    }

    /// With keys in two nodes, several queries to a key, and a window: what the plain way gives, to bf16's precision.
    #[test]
    fn the_kernel_agrees_with_the_plain_way() {
        let backend = match CandleBackend::new(DeviceSpec::Cuda(0), Dtype::Bf16) {
            Err(LmError::Device(reason)) => {
                return evalign_testkit::skipped("FlashAttention on a GPU", &reason);
            }
            other => other.unwrap(),
        };
        let (heads, kv_heads, head_dim, before, rows) = (4, 2, 64, 150, 70);
        let shape = KvShape { layers: 1, kv_heads, head_dim };
        let (queries, kv) = (heads * head_dim, kv_heads * head_dim);
        let mut nodes = Vec::new();
        let mut x = None;
        for (seed, length) in [before, rows].into_iter().enumerate() {
            let width = queries + 2 * kv;
            backend.upload(&values(length, width, seed), width, &mut x).unwrap();
            x = x.map(|x| x.to_dtype(DType::BF16).unwrap());
            let mut node = backend.new_kv(shape, length).unwrap();
            let (keys, values) = (queries..queries + kv, queries + kv..width);
            backend.append_kv(&mut node, 0, &x, 0..length, keys, values).unwrap();
            nodes.push(node);
        }
        let job = Job { rows: 0..rows, first_position: before, nodes: nodes.iter().collect() };
        for window in [None, Some(100), Some(7)] {
            let attended = |exact| {
                let spec = AttentionSpec { layer: 0, heads, kv_heads, head_dim, window, exact };
                assert_ne!(backend.is_for_flash(&spec, &job), exact);
                let mut out = None;
                backend.attend(&spec, &x, std::slice::from_ref(&job), &mut out).unwrap();
                let out = out.unwrap().to_dtype(DType::F32).unwrap().flatten_all().unwrap();
                out.to_vec1::<f32>().unwrap()
            };
            let (fused, plain) = (attended(false), attended(true));
            for (a, b) in fused.iter().zip(&plain) {
                assert!((a - b).abs() < 5e-3, "{window:?}: {a} {b}");
            }
        }
    }
}
