//! The exponential function, the same bits on every instruction set.

use super::isa::per_isa;

/// Adding this and subtracting it again rounds to the nearest integer; its low bits then hold that integer.
const ROUND: f32 = 12_582_912.0;
/// Below this the exponential is no normal number: `ln(2^-126)`, rounded up.
const SMALLEST_NORMAL_LN: f32 = -87.336_54;
/// ln 2 in two parts; the first has so few bits that its products with small integers are exact.
const LN2_HIGH: f32 = 0.693_145_75;
const LN2_LOW: f32 = 1.428_606_8e-6;
/// Minimax coefficients of `(exp(r) - 1 - r) / r^2` on `|r| <= ln 2 / 2`, as in SLEEF's `expf` (Shibata and
/// Petrogalli 2019, doi 10.1109/TPDS.2019.2960333), highest power first.
const COEFFICIENTS: [f32; 6] =
    [0.000_198_527_62, 0.001_393_043_6, 0.008_333_361, 0.041_666_485, 0.166_666_67, 0.5];

/// `exp(x)`: at most 1 unit in the last place off for normal results (checked against f64), 0 below
/// -103.97, infinity above 88.72, NaN for NaN; results below the smallest normal number are rounded twice.
#[inline(always)]
pub(super) fn exp_one(x: f32) -> f32 {
    // Comparisons written so that NaN passes through.
    let x = if x < -104.0 { -104.0 } else { x };
    let x = if x > 89.0 { 89.0 } else { x };
    let (p, shifted) = reduced(x);
    // 2^n in two factors, so that results near both ends of the range need no special case.
    let n = (shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32);
    let half = n >> 1;
    p * power_of_two(half) * power_of_two(n.wrapping_sub(half))
}

/// `exp(x)` for the differences of a softmax, `x <= 0`: at most 1 unit in the last place off, 0 below -87.33
/// (where the result would no longer be normal), NaN for NaN. Half the work of [`exp_one`].
#[inline(always)]
pub(super) fn exp_difference(x: f32) -> f32 {
    let (p, shifted) = reduced(x);
    // The shift drops all bits of ROUND, so what remains is the integer in the exponent's place.
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(1.0_f32.to_bits()));
    let value = p * scale;
    if x < SMALLEST_NORMAL_LN { 0.0 } else { value }
}

/// `exp(r)` with `x = n ln 2 + r`, and `ROUND + n`.
#[inline(always)]
fn reduced(x: f32) -> (f32, f32) {
    let shifted = x.mul_add(std::f32::consts::LOG2_E, ROUND);
    let whole = shifted - ROUND;
    let r = whole.mul_add(-LN2_HIGH, x);
    let r = whole.mul_add(-LN2_LOW, r);
    let mut p = COEFFICIENTS[0];
    for coefficient in &COEFFICIENTS[1..] {
        p = p.mul_add(r, *coefficient);
    }
    ((r * r).mul_add(p, r) + 1.0, shifted)
}

#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

per_isa! {
    /// Replaces each value by its exponential: at most 1 unit in the last place off where the result is normal.
    pub fn exp(values: &mut [f32]) {
        for value in values.iter_mut() {
            *value = exp_one(*value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_agree_where_the_result_is_normal() {
        for step in 0..1_000_000 {
            let x = -87.33 * (step as f32 / 1_000_000.0);
            assert_eq!(exp_difference(x).to_bits(), exp_one(x).to_bits(), "at {x}");
        }
        assert_eq!(exp_difference(SMALLEST_NORMAL_LN), f32::MIN_POSITIVE.max(exp_one(SMALLEST_NORMAL_LN)));
        for x in [-87.337, -1e3, -1e30, f32::NEG_INFINITY] {
            assert_eq!(exp_difference(x).to_bits(), 0, "at {x}");
        }
        assert_eq!(exp_difference(0.0), 1.0);
        assert!(exp_difference(f32::NAN).is_nan());
    }
}
