//! Row-wise operations: normalisation, rotary embedding, gating, addition, softmax.
//!
//! Sums run in sixteen lanes (element `i` goes to lane `i mod 16`, in order), then a fixed tree adds the lanes.

use super::exp::{exp_difference, exp_one};
use super::isa::{Isa, per_isa};
use super::pool::{Pool, SharedSlice};

/// Lanes of every row sum.
pub(super) const LANES: usize = 16;
/// Values in one task of an element-wise operation: smaller work is not worth waking a thread.
pub(super) const TASK_VALUES: usize = 16 * 1024;

/// The columns `[start, start + width)` of a row-major matrix whose rows are `stride` values apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Columns {
    /// Distance between rows.
    pub stride: usize,
    /// First column.
    pub start: usize,
    /// Number of columns.
    pub width: usize,
}

/// Which two elements of a head RoPE rotates together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopePairing {
    /// Elements `i` and `i + half` (Hugging Face's layout, "neox").
    Halves,
    /// Elements `2 i` and `2 i + 1` (the original Llama layout, as in GGUF files of the `llama` architecture).
    Interleaved,
}

/// Cosines and sines by position, `[positions][half]`; any attention factor is already in them.
#[derive(Clone, Copy, Debug)]
pub struct RopeTable<'a> {
    /// Cosines.
    pub cos: &'a [f32],
    /// Sines.
    pub sin: &'a [f32],
    /// Rotated pairs in a head; elements from `2 * half` on stay as they are.
    pub half: usize,
}

/// `out = x / sqrt(mean(x^2) + eps) * weight` for each row of `weight.len()` values.
///
/// # Panics
/// When the lengths do not fit together.
pub fn rms_norm(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len() == out.len() && x.len().is_multiple_of(width), "rows of {width} values");
    let rows_in_task = (TASK_VALUES / width).max(1);
    pool.for_each_part(out, rows_in_task * width, &|task, out| {
        let x = &x[task * rows_in_task * width..][..out.len()];
        for (x, out) in x.chunks_exact(width).zip(out.chunks_exact_mut(width)) {
            let factor = rms_factor(pool.isa(), x, eps);
            scale_into(pool.isa(), x, weight, factor, out);
        }
    });
}

/// RMS normalisation in place of every head (`weight.len()` values) in the given columns: the query and key
/// norms of Qwen3.
///
/// # Panics
/// When the lengths do not fit together.
pub fn rms_norm_heads(pool: &Pool, x: &mut [f32], columns: Columns, weight: &[f32], eps: f32) {
    let isa = pool.isa();
    for_each_row(pool, x, columns, &|_, row| {
        for head in row.chunks_exact_mut(weight.len()) {
            let factor = rms_factor(isa, head, eps);
            scale(isa, head, weight, factor);
        }
    });
}

/// Rotates every head (`head_dim` values) in the given columns of each row by the angles of the row's position.
///
/// # Panics
/// When a position lies outside the table or the lengths do not fit together.
pub fn rope(
    pool: &Pool,
    x: &mut [f32],
    columns: Columns,
    head_dim: usize,
    positions: &[usize],
    table: RopeTable<'_>,
    pairing: RopePairing,
) {
    let half = table.half;
    assert!(2 * half <= head_dim && columns.width.is_multiple_of(head_dim), "heads of {head_dim} values");
    assert_eq!(x.len(), positions.len() * columns.stride, "one position for each row");
    let isa = pool.isa();
    for_each_row(pool, x, columns, &|index, row| {
        let at = positions[index] * half;
        let (cos, sin) = (&table.cos[at..at + half], &table.sin[at..at + half]);
        for head in row.chunks_exact_mut(head_dim) {
            match pairing {
                RopePairing::Halves => {
                    let (low, high) = head[..2 * half].split_at_mut(half);
                    rotate_halves(isa, low, high, cos, sin);
                }
                RopePairing::Interleaved => rotate_neighbours(isa, &mut head[..2 * half], cos, sin),
            }
        }
    });
}

/// `out = silu(gate) * up` with `silu(v) = v / (1 + exp(-v))`.
///
/// # Panics
/// When the lengths differ.
pub fn silu_mul(pool: &Pool, gate: &[f32], up: &[f32], out: &mut [f32]) {
    assert!(gate.len() == out.len() && up.len() == out.len(), "gate, up and out must be of one length");
    pool.for_each_part(out, TASK_VALUES, &|task, out| {
        let range = task * TASK_VALUES..task * TASK_VALUES + out.len();
        silu_mul_part(pool.isa(), &gate[range.clone()], &up[range], out);
    });
}

/// As [`silu_mul`], where each row of `gate_up` holds `width` gate values and then `width` up values.
///
/// # Panics
/// When the lengths do not fit together.
pub fn silu_mul_fused(pool: &Pool, gate_up: &[f32], width: usize, out: &mut [f32]) {
    assert!(
        width > 0 && out.len().is_multiple_of(width) && gate_up.len() == 2 * out.len(),
        "rows of {width} values"
    );
    let rows_in_task = (TASK_VALUES / width).max(1);
    pool.for_each_part(out, rows_in_task * width, &|task, out| {
        let rows = gate_up[task * rows_in_task * 2 * width..].chunks_exact(2 * width);
        for (row, out) in rows.zip(out.chunks_exact_mut(width)) {
            let (gate, up) = row.split_at(width);
            silu_mul_part(pool.isa(), gate, up, out);
        }
    });
}

/// `x += y`.
///
/// # Panics
/// When the lengths differ.
pub fn add_assign(pool: &Pool, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "both sides of an addition must be of one length");
    pool.for_each_part(x, TASK_VALUES, &|task, x| {
        let y = &y[task * TASK_VALUES..][..x.len()];
        x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
    });
}

/// Softmax in place of each row of `width` values.
///
/// # Panics
/// When `x` does not hold whole rows.
pub fn softmax(pool: &Pool, x: &mut [f32], width: usize) {
    assert!(width > 0 && x.len().is_multiple_of(width), "rows of {width} values");
    let rows_in_task = (TASK_VALUES / width).max(1);
    let isa = pool.isa();
    pool.for_each_part(x, rows_in_task * width, &|_, part| {
        for row in part.chunks_exact_mut(width) {
            let max = row_max(isa, row);
            let mut lanes = [0.0; LANES];
            exp_and_sum(isa, row, max, &mut lanes);
            let sum = add_lanes(&lanes);
            row.iter_mut().for_each(|value| *value /= sum);
        }
    });
}

fn for_each_row(pool: &Pool, x: &mut [f32], columns: Columns, task: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let Columns { stride, start, width } = columns;
    assert!(
        stride > 0 && x.len().is_multiple_of(stride) && start + width <= stride,
        "columns outside the rows"
    );
    let rows = x.len() / stride;
    let rows_in_task = (TASK_VALUES / width.max(1)).max(1);
    let shared = SharedSlice::new(x);
    pool.run(rows.div_ceil(rows_in_task), &|index| {
        for row in index * rows_in_task..rows.min((index + 1) * rows_in_task) {
            #[expect(unsafe_code, reason = "each task gets its own rows")]
            // SAFETY: row `row` belongs to this task alone.
            let part = unsafe { shared.part(row * stride + start, width) };
            task(row, part);
        }
    });
}

/// Adds the lanes in a fixed tree.
#[inline(always)]
pub(super) fn add_lanes(lanes: &[f32; LANES]) -> f32 {
    let mut sums = *lanes;
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            sums[lane] += sums[lane + width];
        }
        width /= 2;
    }
    sums[0]
}

#[inline(always)]
fn silu(value: f32) -> f32 {
    value / (1.0 + exp_one(-value))
}

pub(super) fn rms_factor(isa: Isa, row: &[f32], eps: f32) -> f32 {
    1.0 / (sum_of_squares(isa, row) / row.len() as f32 + eps).sqrt()
}

per_isa! {
    fn sum_of_squares(row: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let (blocks, rest) = row.as_chunks::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane = value.mul_add(*value, *lane);
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane = value.mul_add(*value, *lane);
        }
        add_lanes(&lanes)
    }
}

per_isa! {
    fn scale_into(x: &[f32], weight: &[f32], factor: f32, out: &mut [f32]) {
        for ((out, x), weight) in out.iter_mut().zip(x).zip(weight) {
            *out = x * factor * weight;
        }
    }
}

per_isa! {
    fn scale(x: &mut [f32], weight: &[f32], factor: f32) {
        for (x, weight) in x.iter_mut().zip(weight) {
            *x = *x * factor * weight;
        }
    }
}

per_isa! {
    fn rotate_halves(low: &mut [f32], high: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (((low, high), cos), sin) in low.iter_mut().zip(high).zip(cos).zip(sin) {
            let (a, b) = (*low, *high);
            *low = a * cos - b * sin;
            *high = b * cos + a * sin;
        }
    }
}

per_isa! {
    fn rotate_neighbours(head: &mut [f32], cos: &[f32], sin: &[f32]) {
        for ((pair, cos), sin) in head.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            let [a, b] = *pair;
            *pair = [a * cos - b * sin, b * cos + a * sin];
        }
    }
}

per_isa! {
    fn silu_mul_part(gate: &[f32], up: &[f32], out: &mut [f32]) {
        for ((out, gate), up) in out.iter_mut().zip(gate).zip(up) {
            *out = silu(*gate) * up;
        }
    }
}

per_isa! {
    /// `out = x * factor`.
    pub(super) fn scaled(x: &[f32], factor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x * factor;
        }
    }
}

per_isa! {
    /// `out = x / divisor`.
    pub(super) fn divided(x: &[f32], divisor: f32, out: &mut [f32]) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x / divisor;
        }
    }
}

per_isa! {
    /// The largest value (minus infinity of an empty row); NaNs are passed over.
    pub(super) fn row_max(row: &[f32]) -> f32 {
        let mut lanes = [f32::NEG_INFINITY; LANES];
        let (blocks, rest) = row.as_chunks::<LANES>();
        for block in blocks {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane = if *value > *lane { *value } else { *lane };
            }
        }
        for (lane, value) in lanes.iter_mut().zip(rest) {
            *lane = if *value > *lane { *value } else { *lane };
        }
        let mut width = LANES / 2;
        while width > 0 {
            for lane in 0..width {
                lanes[lane] = if lanes[lane + width] > lanes[lane] { lanes[lane + width] } else { lanes[lane] };
            }
            width /= 2;
        }
        lanes[0]
    }
}

per_isa! {
    /// `row = exp(row - max)`, added to the lanes; `row` must start at a multiple of 16 of the whole sum.
    pub(super) fn exp_and_sum(row: &mut [f32], max: f32, lanes: &mut [f32; LANES]) {
        let mut sums = *lanes;
        let (blocks, rest) = row.as_chunks_mut::<LANES>();
        for block in blocks {
            for (sum, value) in sums.iter_mut().zip(block) {
                *value = exp_difference(*value - max);
                *sum += *value;
            }
        }
        for (sum, value) in sums.iter_mut().zip(rest) {
            *value = exp_difference(*value - max);
            *sum += *value;
        }
        *lanes = sums;
    }
}
