//! Products of quantised activations with quantised matrices.

use super::super::pool::{Pool, SharedSlice};
use super::activations::{QuantActivations, TILE, tiles};
use super::format::STEP;
use super::layout::{Accumulators, KernelSet};
use super::matrix::{PANEL, QuantMatrix};

/// Bytes of activations that one task reads again for every panel: half of a typical second-level cache.
const ROW_BLOCK_BYTES: usize = 512 * 1024;
/// Tasks per thread: enough to even out a core that others use, few enough to cost nothing.
const TASKS_PER_THREAD: usize = 4;
/// Panels below which a task is not worth its start.
const LEAST_PANELS: usize = 4;

/// Part of an output as the tasks see it.
struct Target<'a> {
    matrix: &'a QuantMatrix,
    bias: Option<&'a [f32]>,
    out: SharedSlice<'a, f32>,
    /// Numbers in a row of `out`, and the first that belongs to this matrix.
    stride: usize,
    column: usize,
    accumulate: bool,
    /// Panels of the targets before this one.
    first_panel: usize,
}

/// `out = x * stack(parts)^T (+ bias) (+ out)`: the outputs of all parts side by side in each row of `out`,
/// as if the parts, which may be of different types, were one matrix.
///
/// A row of the result depends on that row of `x` and on the matrices alone, bit for bit: not on the other
/// rows, the other outputs, the number of threads or the instruction set. It is the exact product of
/// the dequantised activations and weights up to f32 rounding; see `scalar::tile` for the order.
///
/// # Panics
/// If a part is not as wide as `x`, or the bias or the output has the wrong length.
pub fn quant_stacked(
    pool: &Pool,
    x: &QuantActivations,
    parts: &[QuantMatrix],
    bias: Option<&[f32]>,
    out: &mut [f32],
    accumulate: bool,
) {
    let stride = parts.iter().map(QuantMatrix::n).sum();
    assert_eq!(out.len(), x.rows() * stride, "an output of {} rows of {stride}", x.rows());
    assert!(bias.is_none_or(|bias| bias.len() == stride), "a bias of {stride}");
    let out = SharedSlice::new(out);
    let (mut column, mut first_panel) = (0, 0);
    let targets: Vec<Target<'_>> = parts
        .iter()
        .map(|matrix| {
            let bias = bias.map(|bias| &bias[column..column + matrix.n()]);
            let target = Target { matrix, bias, out, stride, column, accumulate, first_panel };
            column += matrix.n();
            first_panel += matrix.panels();
            target
        })
        .collect();
    multiply(pool, x, &targets);
}

/// Computes all targets, cut into tasks of consecutive panels and, for many rows, blocks of rows.
fn multiply(pool: &Pool, x: &QuantActivations, targets: &[Target<'_>]) {
    for target in targets {
        assert_eq!(target.matrix.k(), x.k(), "the matrix takes other inputs than there are");
    }
    let panels = targets.last().map_or(0, |target| target.first_panel + target.matrix.panels());
    let kernels = KernelSet::of(pool.isa());
    let row_block = (ROW_BLOCK_BYTES / x.k().max(STEP) / TILE).max(1) * TILE;
    let row_blocks = x.rows().div_ceil(row_block);
    let chunk = panels.div_ceil(pool.threads() * TASKS_PER_THREAD).max(LEAST_PANELS);
    let chunks = panels.div_ceil(chunk);
    pool.run(row_blocks * chunks, &|task| {
        let first_row = task / chunks * row_block;
        let rows = first_row..x.rows().min(first_row + row_block);
        let first = task % chunks * chunk;
        let end = panels.min(first + chunk);
        for target in targets {
            let from = first.max(target.first_panel);
            let to = end.min(target.first_panel + target.matrix.panels());
            for panel in from..to {
                target.compute(kernels, x, rows.clone(), panel - target.first_panel);
            }
        }
    });
}

impl Target<'_> {
    /// Rows `rows` (from a multiple of the tile height) times one panel.
    fn compute(&self, kernels: KernelSet, x: &QuantActivations, rows: std::ops::Range<usize>, index: usize) {
        let family = self.matrix.family();
        let mut panel = self.matrix.panel(index);
        let mut acc = Accumulators::ZERO;
        for tile in tiles(rows.start, rows.end) {
            let height = tile.height.min(kernels.max_height());
            let kernel = kernels.kernel(family, height);
            for skip in (0..tile.height).step_by(height) {
                kernel.run(&panel, &x.tile(tile, skip, family), &mut acc);
                panel.streamed = false;
                for (row, acc) in acc.0.iter().take(height).enumerate() {
                    self.finish(tile.first + skip + row, index, acc);
                }
            }
        }
    }

    /// Adds bias and residual to one row's sums and stores them.
    fn finish(&self, row: usize, panel: usize, acc: &[f32; PANEL]) {
        let columns = panel * PANEL..self.matrix.n().min((panel + 1) * PANEL);
        let start = row * self.stride + self.column + columns.start;
        #[expect(unsafe_code, reason = "each panel of a row is a part of its own")]
        // SAFETY: a row's panel belongs to one task, and no two parts of one task overlap.
        let out = unsafe { self.out.part(start, columns.len()) };
        let mut sums = *acc;
        if let Some(bias) = self.bias {
            sums.iter_mut().zip(&bias[columns]).for_each(|(sum, bias)| *sum += bias);
        }
        if self.accumulate {
            out.iter_mut().zip(sums).for_each(|(out, sum)| *out += sum);
        } else {
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}
