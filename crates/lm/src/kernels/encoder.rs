//! What encoders need beyond decoders: layer normalisation and the exact GELU, both in place.

use super::exp::exp_one;
use super::isa::{Isa, per_isa};
use super::pool::Pool;
use super::rowwise::{LANES, add_lanes};

/// Values in one task: some microseconds of work. A question has 10,000 values or 40,000, and all threads shall have a
/// part of them.
const TASK_VALUES: usize = 4 * 1024;

/// `x = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias` for each row of `weight.len()` values
/// (Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 4; the variance is the population's).
///
/// # Panics
/// When the lengths do not fit together.
pub fn layer_norm(pool: &Pool, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = weight.len();
    assert!(width > 0 && bias.len() == width && x.len().is_multiple_of(width), "rows of {width} values");
    let rows_in_task = (TASK_VALUES / width).max(1);
    pool.for_each_part(x, rows_in_task * width, &|_, part| {
        for row in part.chunks_exact_mut(width) {
            normalise(pool.isa(), row, weight, bias, eps);
        }
    });
}

/// `x = x / 2 (1 + erf(x / sqrt 2))` (Hendrycks and Gimpel 2016, arXiv 1606.08415, section 2).
pub fn gelu(pool: &Pool, x: &mut [f32]) {
    pool.for_each_part(x, TASK_VALUES, &|_, part| gelu_part(pool.isa(), part));
}

/// The error function by Abramowitz and Stegun, Handbook of Mathematical Functions, formula 7.1.26:
/// at most 1.5e-7 off, as much as an f32 near 1 can tell.
#[inline(always)]
fn erf(x: f32) -> f32 {
    const FACTOR: f32 = 0.327_591_1;
    const COEFFICIENTS: [f32; 5] = [1.061_405_4, -1.453_152_1, 1.421_413_8, -0.284_496_72, 0.254_829_6];
    let size = x.abs();
    let t = 1.0 / FACTOR.mul_add(size, 1.0);
    let mut sum = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        sum = sum.mul_add(t, *coefficient);
    }
    let tail = sum * t * exp_one(-size * size);
    (1.0 - tail).copysign(x)
}

per_isa! {
    fn gelu_part(x: &mut [f32]) {
        for value in x.iter_mut() {
            let half = 0.5 * *value;
            *value = half.mul_add(erf(*value * std::f32::consts::FRAC_1_SQRT_2), half);
        }
    }
}

per_isa! {
    fn sum(row: &[f32]) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        for block in row.chunks(LANES) {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *lane += value;
            }
        }
        add_lanes(&lanes)
    }
}

per_isa! {
    /// Subtracts the mean and returns the sum of squares of what is left.
    fn centre(row: &mut [f32], mean: f32) -> f32 {
        let mut lanes = [0.0_f32; LANES];
        for block in row.chunks_mut(LANES) {
            for (lane, value) in lanes.iter_mut().zip(block) {
                *value -= mean;
                *lane = value.mul_add(*value, *lane);
            }
        }
        add_lanes(&lanes)
    }
}

per_isa! {
    fn scale_and_shift(row: &mut [f32], factor: f32, weight: &[f32], bias: &[f32]) {
        for ((value, weight), bias) in row.iter_mut().zip(weight).zip(bias) {
            *value = (*value * factor).mul_add(*weight, *bias);
        }
    }
}

fn normalise(isa: Isa, row: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let width = row.len() as f32;
    let mean = sum(isa, row) / width;
    let variance = centre(isa, row, mean) / width;
    scale_and_shift(isa, row, 1.0 / (variance + eps).sqrt(), weight, bias);
}
