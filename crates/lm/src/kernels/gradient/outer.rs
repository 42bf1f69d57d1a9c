//! Gradients of weight matrices.

use std::ops::Range;

use super::super::aligned::with_scratch;
use super::super::isa::Isa;
use super::super::kv::Rows;
use super::super::packed::PANEL;
use super::super::pool::{Pool, SharedSlice};
use super::super::tile::{self, CHUNK, LEFT_STRIDE, Sums};

/// Left-hand columns in one task at most: packed, a chunk of them stays in the second-level cache.
const BLOCK_LEFT: usize = 84;
/// Panels of right-hand columns in one task at most.
const BLOCK_PANELS: usize = 8;

/// `out[i][j] += scale * sum over rows r of left[r][i] * right[r][j]`: the gradient of `W` in `y = x W^T` where `left` is
/// that of `y` and `right` is `x`. `out` is `[left_width, right_width]`, row-major; the sum is one chain over the rows.
///
/// # Panics
/// When the lengths do not fit together.
pub fn add_outer_product(
    pool: &Pool,
    (left, left_width): (Rows<'_>, usize),
    (right, right_width): (Rows<'_>, usize),
    scale: f32,
    out: &mut [f32],
) {
    assert_eq!(left.count(), right.count(), "both sides must have as many rows");
    assert_eq!(out.len(), left_width * right_width, "out must hold {left_width} x {right_width} values");
    // What is packed element by element is better the narrower side.
    let swapped = left_width > right_width;
    let (narrow, wide) = match swapped {
        true => ((right, right_width), (left, left_width)),
        false => ((left, left_width), (right, right_width)),
    };
    let panels = wide.1.div_ceil(PANEL);
    let (left_blocks, panel_blocks) = (narrow.1.div_ceil(BLOCK_LEFT), panels.div_ceil(BLOCK_PANELS));
    let shared = SharedSlice::new(out);
    pool.run(left_blocks * panel_blocks, &|task| {
        let (row, panel) = (task / panel_blocks * BLOCK_LEFT, task % panel_blocks * BLOCK_PANELS);
        let rows = row..narrow.1.min(row + BLOCK_LEFT);
        let block = panel..panels.min(panel + BLOCK_PANELS);
        with_scratch(rows.len() * block.len() * PANEL, |sums| {
            products(pool.isa(), narrow.0, rows.clone(), wide, block.clone(), sums);
            for (panel, sums) in block.zip(sums.chunks_exact(rows.len() * PANEL)) {
                let columns = panel * PANEL..wide.1.min((panel + 1) * PANEL);
                for (row, sums) in rows.clone().zip(sums.chunks_exact(PANEL)) {
                    for (column, sum) in columns.clone().zip(sums) {
                        let at =
                            if swapped { column * right_width + row } else { row * right_width + column };
                        #[expect(unsafe_code, reason = "tasks write different rectangles of `out`")]
                        // SAFETY: this row and column belong to this task alone.
                        let out = &mut unsafe { shared.part(at, 1) }[0];
                        *out = scale.mul_add(*sum, *out);
                    }
                }
            }
        });
    });
}

/// `sums[panel][i][column] = sum over r of left[r][i] * right[r][column]`.
fn products(
    isa: Isa,
    left: Rows<'_>,
    rows: Range<usize>,
    (right, right_width): (Rows<'_>, usize),
    panels: Range<usize>,
    sums: &mut [f32],
) {
    let depth = left.count();
    sums.fill(0.0);
    with_scratch(rows.len() * LEFT_STRIDE + CHUNK * PANEL, |scratch| {
        let (packed_left, packed_right) = scratch.split_at_mut(rows.len() * LEFT_STRIDE);
        for from in (0..depth).step_by(CHUNK) {
            let chunk = CHUNK.min(depth - from);
            for step in 0..chunk {
                let values = &left.row(from + step, rows.end)[rows.start..];
                for (packed, value) in packed_left.chunks_exact_mut(LEFT_STRIDE).zip(values) {
                    packed[step] = *value;
                }
            }
            for (panel, sums) in panels.clone().zip(sums.chunks_exact_mut(rows.len() * PANEL)) {
                let columns = panel * PANEL..right_width.min((panel + 1) * PANEL);
                for (step, packed) in packed_right.chunks_exact_mut(PANEL).take(chunk).enumerate() {
                    let values = &right.row(from + step, columns.end)[columns.start..];
                    packed[..values.len()].copy_from_slice(values);
                    packed[values.len()..].fill(0.0);
                }
                tile::product(
                    isa,
                    (packed_left, rows.len()),
                    (packed_right, PANEL),
                    (sums, PANEL),
                    (chunk, PANEL),
                    Sums::Continue,
                );
            }
        }
    });
}
