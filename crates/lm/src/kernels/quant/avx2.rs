//! The kernel with AVX2: eight rows of a panel at a time, products of byte pairs in 16 bits.
#![expect(unsafe_code, reason = "SIMD loads through raw pointers")]

use std::arch::x86_64::{
    __m128i, __m256, __m256i, _mm_load_si128, _mm_loadl_epi64, _mm256_abs_epi8, _mm256_add_epi16,
    _mm256_add_epi32, _mm256_and_si256, _mm256_cvtepi8_epi32, _mm256_cvtepi32_ps, _mm256_cvtph_ps,
    _mm256_fmadd_ps, _mm256_load_ps, _mm256_load_si256, _mm256_madd_epi16, _mm256_maddubs_epi16,
    _mm256_mul_ps, _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_setzero_ps,
    _mm256_setzero_si256, _mm256_sign_epi8, _mm256_srli_epi16, _mm256_store_ps, _mm256_xor_si256,
};

use super::activations::TileRows;
use super::format::{Family, STEP, SUPER};
use super::layout::{Accumulators, Layout};
use super::matrix::{LINE, PANEL, Panel};

/// Rows of a panel in one vector.
const LANES: usize = 8;

/// `R` rows times one panel; see [`scalar::tile`](super::scalar::tile) for the arithmetic.
///
/// # Safety
/// The CPU must have the enabled features. `panel` and `rows` must be of the same `k`, as
/// `QuantMatrix::panel` of `L`'s family and `QuantActivations::tile` make them, with `R` rows left.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn tile<L: Layout, const R: usize>(
    panel: &Panel<'_>,
    rows: &TileRows<'_>,
    out: &mut Accumulators,
) {
    for first in (0..PANEL).step_by(LANES) {
        // SAFETY: as promised by the caller; `first` is 0 or 8.
        unsafe { half_panel::<L, R>(panel, rows, first, out) };
    }
}

/// Panel rows `first..first + 8`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn half_panel<L: Layout, const R: usize>(
    panel: &Panel<'_>,
    rows: &TileRows<'_>,
    first: usize,
    out: &mut Accumulators,
) {
    let family = L::FAMILY;
    let groups_per_step = STEP / family.group();
    let mut acc = [_mm256_setzero_ps(); R];
    let mut dots = [_mm256_setzero_si256(); R];
    let mut supers = (_mm256_setzero_ps(), _mm256_setzero_ps());
    for step in 0..rows.steps {
        if family.nested() && step.is_multiple_of(SUPER / STEP) {
            // SAFETY: `supers` has `super_floats` floats, 64-byte aligned, per 256 inputs.
            supers = unsafe { load_supers(family, panel.supers.as_ptr().add(first), step / (SUPER / STEP)) };
        }
        for half in 0..2 {
            let group = step * groups_per_step + half % groups_per_step;
            if half < groups_per_step {
                for (r, dot) in dots.iter_mut().enumerate() {
                    // SAFETY: one offset per group and row.
                    *dot = unsafe { zero_point(family, rows.offsets.as_ptr().add(group * rows.stride + r)) };
                }
            }
            // SAFETY: `step_bytes` bytes of codes per step, 64-byte aligned.
            let weights = unsafe { load_codes(family, panel.codes.as_ptr().add(first * 4), step, half) };
            for (r, dot) in dots.iter_mut().enumerate() {
                let at = (step * rows.stride + r) * STEP + half * 16;
                // SAFETY: 32 codes per step and row, of which this reads sixteen.
                *dot = unsafe { add_dots(family, *dot, &weights, rows.codes.as_ptr().add(at)) };
            }
            if groups_per_step == 1 && half == 0 {
                continue;
            }
            // SAFETY: `scale_bytes` bytes per group, aligned to their vector.
            let (scale, min) = unsafe { load_scales(family, panel.scales.as_ptr(), group, first, supers) };
            for (r, (acc, dot)) in acc.iter_mut().zip(&dots).enumerate() {
                // SAFETY: one scale per step and row.
                let x_scale = unsafe { *rows.scales.as_ptr().add(step * rows.stride + r) };
                let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(*dot), scale);
                *acc = _mm256_fmadd_ps(scaled, _mm256_set1_ps(x_scale), *acc);
                if family.affine() {
                    // SAFETY: one sum per group and row.
                    let x_sum = unsafe { *rows.sums.as_ptr().add(group * rows.stride + r) };
                    *acc = _mm256_fmadd_ps(min, _mm256_set1_ps(x_sum), *acc);
                }
            }
        }
    }
    for (out, acc) in out.0.iter_mut().zip(acc) {
        // SAFETY: eight floats from an offset of 0 or 8; `Accumulators` is 64-byte aligned.
        unsafe { _mm256_store_ps(out.as_mut_ptr().add(first), acc) };
    }
}

/// What a dot product starts from. Signed 8-bit codes are multiplied as such and need no correction.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn zero_point(family: Family, offset: *const i32) -> __m256i {
    if family.affine() || family.bits() == 8 {
        return _mm256_setzero_si256();
    }
    // SAFETY: the caller points to an offset. It is kept for a zero point of 128; one of 8 takes a sixteenth.
    _mm256_set1_epi32(unsafe { *offset } >> 4)
}

/// The codes of sixteen inputs for eight rows, signed where [`add_dots`] expects them so.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_codes(family: Family, codes: *const u8, step: usize, half: usize) -> [__m256i; 4] {
    let mut weights = [_mm256_setzero_si256(); 4];
    for (quad, weights) in weights.iter_mut().enumerate() {
        let line = if family.bits() == 8 { half * 4 + quad } else { quad };
        // SAFETY: the caller points to the panel's codes, which hold this half line.
        let line = unsafe { _mm256_load_si256(codes.add(step * family.step_bytes() + line * LINE).cast()) };
        *weights = match (family.bits(), half) {
            (8, _) if family.affine() => line,
            (8, _) => _mm256_xor_si256(line, _mm256_set1_epi8(-128)),
            (_, 0) => _mm256_and_si256(line, _mm256_set1_epi8(0x0F)),
            _ => _mm256_and_si256(_mm256_srli_epi16::<4>(line), _mm256_set1_epi8(0x0F)),
        };
    }
    weights
}

/// Adds the products of sixteen inputs. `maddubs` saturates at 16 bits, which no operand here reaches:
/// unsigned codes are at most 31, and four pairs of `2 * 31 * 127` fit; signed ones enter as
/// magnitudes of at most 128, and one pair of `2 * 128 * 127` fits.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn add_dots(family: Family, dot: __m256i, weights: &[__m256i; 4], x: *const i8) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let mut dot = dot;
    let mut pairs = _mm256_setzero_si256();
    for (quad, &weights) in weights.iter().enumerate() {
        // SAFETY: the caller points to sixteen activations; `i8` to unaligned `i32` reads four of them.
        let x = _mm256_set1_epi32(unsafe { x.add(quad * 4).cast::<i32>().read_unaligned() });
        if family.affine() || family.bits() == 4 {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(weights, x));
        } else {
            let signed = _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(x, weights));
            dot = _mm256_add_epi32(dot, _mm256_madd_epi16(signed, ones));
        }
    }
    if family.affine() || family.bits() == 4 {
        dot = _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, ones));
    }
    dot
}

/// Scale and minimum (zero without one) of a group, for panel rows `first..first + 8`.
#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_scales(
    family: Family,
    scales: *const u8,
    group: usize,
    first: usize,
    supers: (__m256, __m256),
) -> (__m256, __m256) {
    // SAFETY: the caller points to the panel's scales, which hold this group.
    unsafe {
        let scales = scales.add(group * family.scale_bytes());
        if family.nested() {
            let scale = _mm256_mul_ps(supers.0, load_i8(scales.add(first)));
            let min = if family.affine() {
                _mm256_mul_ps(supers.1, load_i8(scales.add(PANEL + first)))
            } else {
                supers.1
            };
            (scale, min)
        } else {
            let scale = load_f16(scales.add(2 * first));
            let min = if family.affine() { load_f16(scales.add(2 * (PANEL + first))) } else { supers.1 };
            (scale, min)
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_supers(family: Family, supers: *const f32, block: usize) -> (__m256, __m256) {
    // SAFETY: the caller points to the panel's super-block scales, which hold this block.
    unsafe {
        let supers = supers.add(block * family.super_floats());
        let min = if family.affine() { _mm256_load_ps(supers.add(PANEL)) } else { _mm256_setzero_ps() };
        (_mm256_load_ps(supers), min)
    }
}

#[inline]
#[target_feature(enable = "avx2,f16c")]
unsafe fn load_f16(from: *const u8) -> __m256 {
    // SAFETY: the caller points to 16 aligned bytes.
    _mm256_cvtph_ps(unsafe { _mm_load_si128(from.cast::<__m128i>()) })
}

#[inline]
#[target_feature(enable = "avx2")]
unsafe fn load_i8(from: *const u8) -> __m256 {
    // SAFETY: the caller points to eight bytes.
    _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(unsafe { _mm_loadl_epi64(from.cast::<__m128i>()) }))
}
