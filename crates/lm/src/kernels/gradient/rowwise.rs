//! Gradients of row-wise operations.

use super::super::exp::exp_one;
use super::super::isa::{Isa, per_isa};
use super::super::pool::Pool;
use super::super::rowwise::{Columns, LANES, add_lanes, rms_factor};

/// Values in one task of an element-wise operation.
const TASK_VALUES: usize = 16 * 1024;

/// `dx += d(rms_norm)/dx * dy` for rows of `weight.len()` values, where `rms_norm` is [`super::super::rms_norm`]:
/// with `f = 1 / sqrt(mean(x^2) + eps)`, `dx_j += f w_j dy_j - x_j f^3 / n * sum_i(dy_i w_i x_i)`.
///
/// # Panics
/// When the lengths do not fit together.
pub fn rms_norm_gradient(pool: &Pool, x: &[f32], weight: &[f32], eps: f32, dy: &[f32], dx: &mut [f32]) {
    let width = weight.len();
    assert!(width > 0 && x.len() == dy.len() && x.len() == dx.len() && x.len().is_multiple_of(width));
    let rows_in_task = (TASK_VALUES / width).max(1);
    let isa = pool.isa();
    pool.for_each_part(dx, rows_in_task * width, &|task, dx| {
        let at = task * rows_in_task * width;
        let (x, dy) = (&x[at..at + dx.len()], &dy[at..at + dx.len()]);
        for ((x, dy), dx) in x.chunks_exact(width).zip(dy.chunks_exact(width)).zip(dx.chunks_exact_mut(width))
        {
            let factor = rms_factor(isa, x, eps);
            add_norm_row(isa, x, weight, dy, factor, dx);
        }
    });
}

fn add_norm_row(isa: Isa, x: &[f32], weight: &[f32], dy: &[f32], factor: f32, dx: &mut [f32]) {
    let inner = dot3(isa, x, weight, dy);
    let shrink = factor * factor * factor / x.len() as f32 * inner;
    add_norm(isa, x, weight, dy, factor, shrink, dx);
}

/// The gradient of RMS normalisation of every head, in place in the given columns of `dy`; `x` holds the heads as they
/// were before, in rows of `columns.width` values.
///
/// # Panics
/// When the lengths do not fit together.
pub fn rms_norm_heads_gradient(
    pool: &Pool,
    x: &[f32],
    weight: &[f32],
    eps: f32,
    dy: &mut [f32],
    columns: Columns,
) {
    let Columns { stride, start, width } = columns;
    let head = weight.len();
    assert!(width.is_multiple_of(head) && dy.len().is_multiple_of(stride));
    assert!(x.len() == dy.len() / stride * width && start + width <= stride);
    let isa = pool.isa();
    pool.for_each_part(dy, stride, &|row, dy| {
        let dy = &mut dy[start..start + width];
        let x = &x[row * width..(row + 1) * width];
        let mut dx = vec![0.0; head];
        for (x, dy) in x.chunks_exact(head).zip(dy.chunks_exact_mut(head)) {
            dx.fill(0.0);
            add_norm_row(isa, x, weight, dy, rms_factor(isa, x, eps), &mut dx);
            dy.copy_from_slice(&dx);
        }
    });
}

/// `out_j += sum over rows of dy_j x_j f(row)`: the gradient of the weight of an RMS normalisation. `x` and `dy` are
/// read in rows of `columns.stride`, columns as given, in groups of `out.len()` (heads, or the whole row).
///
/// # Panics
/// When the lengths do not fit together.
pub fn rms_norm_weight_gradient(
    x: (&[f32], Columns),
    dy: (&[f32], Columns),
    eps: f32,
    isa: Isa,
    out: &mut [f32],
) {
    let group = out.len();
    assert!(x.1.width == dy.1.width && x.1.width.is_multiple_of(group.max(1)));
    for (x_row, dy_row) in x.0.chunks_exact(x.1.stride).zip(dy.0.chunks_exact(dy.1.stride)) {
        let x_row = &x_row[x.1.start..x.1.start + x.1.width];
        let dy_row = &dy_row[dy.1.start..dy.1.start + dy.1.width];
        for (x, dy) in x_row.chunks_exact(group).zip(dy_row.chunks_exact(group)) {
            let factor = rms_factor(isa, x, eps);
            add_scaled_product(isa, x, dy, factor, out);
        }
    }
}

/// The gradient of `silu(gate) * up` where each row of `gate_up` holds `width` gate values and then `width` up values:
/// `d_gate = dy up s(g) (1 + g (1 - s(g)))`, `d_up = dy silu(g)`. `dy` is `[rows, width]`, `out` as `gate_up`.
///
/// # Panics
/// When the lengths do not fit together.
pub fn silu_mul_gradient(pool: &Pool, gate_up: &[f32], width: usize, dy: &[f32], out: &mut [f32]) {
    assert!(width > 0 && gate_up.len() == out.len() && out.len() == 2 * dy.len());
    let rows_in_task = (TASK_VALUES / (2 * width)).max(1);
    let isa = pool.isa();
    pool.for_each_part(out, rows_in_task * 2 * width, &|task, out| {
        let first = task * rows_in_task;
        let rows = gate_up[first * 2 * width..].chunks_exact(2 * width);
        let dy = dy[first * width..].chunks_exact(width);
        for ((row, dy), out) in rows.zip(dy).zip(out.chunks_exact_mut(2 * width)) {
            let ((gate, up), (d_gate, d_up)) = (row.split_at(width), out.split_at_mut(width));
            silu_row(isa, gate, up, dy, d_gate, d_up);
        }
    });
}

/// Multiplies columns of each row with factors of their own, as many as there are columns.
///
/// # Panics
/// When the lengths do not fit together.
pub fn scale_columns(pool: &Pool, x: &mut [f32], columns: Columns, factors: &[f32]) {
    assert!(factors.len() == columns.width && columns.start + columns.width <= columns.stride);
    pool.for_each_part(x, columns.stride, &|_, row| {
        let row = &mut row[columns.start..columns.start + columns.width];
        row.iter_mut().zip(factors).for_each(|(value, factor)| *value *= factor);
    });
}

/// `out_j += sum over rows of x_j` in the given columns: the gradient of a bias. Rows are added in order.
///
/// # Panics
/// When the lengths do not fit together.
pub fn add_column_sums(x: &[f32], columns: Columns, out: &mut [f32]) {
    assert!(out.len() == columns.width && columns.start + columns.width <= columns.stride);
    for row in x.chunks_exact(columns.stride) {
        let row = &row[columns.start..columns.start + columns.width];
        out.iter_mut().zip(row).for_each(|(out, value)| *out += value);
    }
}

/// `out_j += factors_j * sum over rows of x_j y_j`, in columns of each.
///
/// # Panics
/// When the lengths do not fit together.
pub fn add_products(x: (&[f32], Columns), y: (&[f32], Columns), factors: &[f32], out: &mut [f32]) {
    assert!(out.len() == x.1.width && out.len() == y.1.width && out.len() == factors.len());
    let mut sums = vec![0.0f32; out.len()];
    for (x_row, y_row) in x.0.chunks_exact(x.1.stride).zip(y.0.chunks_exact(y.1.stride)) {
        let (x_row, y_row) = (&x_row[x.1.start..], &y_row[y.1.start..]);
        for ((sum, x), y) in sums.iter_mut().zip(x_row).zip(y_row) {
            *sum = x.mul_add(*y, *sum);
        }
    }
    for ((out, sum), factor) in out.iter_mut().zip(sums).zip(factors) {
        *out += factor * sum;
    }
}

/// Inverted dropout in place: each value becomes 0 with probability `rate`, or is divided by `1 - rate`. Which, is a
/// function of `key`, its row's key and its column alone (`row_keys`: one for each row of `width` values).
///
/// # Panics
/// When the lengths do not fit together.
pub fn drop_out(pool: &Pool, x: &mut [f32], width: usize, rate: f32, key: u64, row_keys: &[u64]) {
    assert_eq!(x.len(), width * row_keys.len(), "one key for each row of {width} values");
    pool.for_each_part(x, width, &|row, values| {
        for (value, factor) in values.iter_mut().zip(factors(rate, key, row_keys[row])) {
            *value *= factor;
        }
    });
}

/// The factors that [`drop_out`] multiplies with, row-major.
#[must_use]
pub fn kept_values(width: usize, rate: f32, key: u64, row_keys: &[u64]) -> Vec<f32> {
    row_keys.iter().flat_map(|row| factors(rate, key, *row).take(width)).collect()
}

/// Factors of one row: 0, or `1 / (1 - rate)`.
fn factors(rate: f32, key: u64, row_key: u64) -> impl Iterator<Item = f32> {
    let keep = 1.0 / (1.0 - rate);
    // The share of the range of 32 random bits below which a value is dropped.
    let limit = (f64::from(rate) * (1u64 << 32) as f64) as u64;
    let seed = mix(key ^ mix(row_key));
    (0u64..).map(move |column| {
        let bits = mix(seed.wrapping_add(column.wrapping_mul(0x9e37_79b9_7f4a_7c15))) >> 32;
        if bits < limit { 0.0 } else { keep }
    })
}

/// SplitMix64's output function (Steele et al. 2014, doi 10.1145/2660193.2660195).
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

per_isa! {
    fn dot3(a: &[f32], b: &[f32], c: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        let whole = a.len() - a.len() % LANES;
        for ((a, b), c) in a[..whole].chunks_exact(LANES).zip(b.chunks_exact(LANES)).zip(c.chunks_exact(LANES)) {
            for (((lane, a), b), c) in lanes.iter_mut().zip(a).zip(b).zip(c) {
                *lane = (a * b).mul_add(*c, *lane);
            }
        }
        for (((lane, a), b), c) in lanes.iter_mut().zip(&a[whole..]).zip(&b[whole..]).zip(&c[whole..]) {
            *lane = (a * b).mul_add(*c, *lane);
        }
        add_lanes(&lanes)
    }
}

per_isa! {
    fn add_norm(x: &[f32], weight: &[f32], dy: &[f32], factor: f32, shrink: f32, dx: &mut [f32]) {
        for (((dx, x), weight), dy) in dx.iter_mut().zip(x).zip(weight).zip(dy) {
            *dx += factor * weight * dy - x * shrink;
        }
    }
}

per_isa! {
    fn add_scaled_product(x: &[f32], dy: &[f32], factor: f32, out: &mut [f32]) {
        for ((out, x), dy) in out.iter_mut().zip(x).zip(dy) {
            *out += x * factor * dy;
        }
    }
}

per_isa! {
    fn silu_row(gate: &[f32], up: &[f32], dy: &[f32], d_gate: &mut [f32], d_up: &mut [f32]) {
        for ((((gate, up), dy), d_gate), d_up) in gate.iter().zip(up).zip(dy).zip(d_gate).zip(d_up) {
            let sigmoid = 1.0 / (1.0 + exp_one(-gate));
            *d_gate = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid));
            *d_up = dy * gate * sigmoid;
        }
    }
}
