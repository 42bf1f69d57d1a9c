//! The kernel with AVX-512 VNNI: one instruction multiplies four inputs of sixteen rows.
#![expect(unsafe_code, reason = "SIMD loads through raw pointers")]

use std::arch::x86_64::{
    __m128i, __m256i, __m512, __m512i, _MM_HINT_T0, _mm_load_si128, _mm_prefetch, _mm256_load_si256,
    _mm512_and_si512, _mm512_cvtepi8_epi32, _mm512_cvtepi32_ps, _mm512_cvtph_ps, _mm512_dpbusd_epi32,
    _mm512_fmadd_ps, _mm512_load_ps, _mm512_load_si512, _mm512_mul_ps, _mm512_set1_epi8, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setzero_ps, _mm512_setzero_si512, _mm512_srli_epi16, _mm512_store_ps,
};

use super::activations::TileRows;
use super::format::{Family, STEP, SUPER};
use super::layout::{Accumulators, Layout};
use super::matrix::{LINE, PANEL, Panel};

/// How far ahead of its use a panel that comes from memory is asked for. With several rows per panel the
/// instruction window spans too little memory for the hardware alone (measured: 10 to 15 % at 8 rows).
const PREFETCH_STEPS: usize = 12;

/// `R` rows times one panel; see [`scalar::tile`](super::scalar::tile) for the arithmetic.
///
/// # Safety
/// The CPU must have the enabled features. `panel` and `rows` must be of the same `k`, as
/// `QuantMatrix::panel` of `L`'s family and `QuantActivations::tile` make them, with `R` rows left.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) unsafe fn tile<L: Layout, const R: usize>(
    panel: &Panel<'_>,
    rows: &TileRows<'_>,
    out: &mut Accumulators,
) {
    let family = L::FAMILY;
    let groups_per_step = STEP / family.group();
    let mut acc = [_mm512_setzero_ps(); R];
    let mut dots = [_mm512_setzero_si512(); R];
    let mut supers = (_mm512_setzero_ps(), _mm512_setzero_ps());
    for step in 0..rows.steps {
        if panel.streamed {
            prefetch(family, panel, step + PREFETCH_STEPS);
        }
        if family.nested() && step.is_multiple_of(SUPER / STEP) {
            // SAFETY: `supers` has `super_floats` floats, 64-byte aligned, per 256 inputs.
            supers = unsafe { load_supers(family, panel.supers.as_ptr(), step / (SUPER / STEP)) };
        }
        for half in 0..2 {
            let group = step * groups_per_step + half % groups_per_step;
            if half < groups_per_step {
                for (r, dot) in dots.iter_mut().enumerate() {
                    // SAFETY: one offset per group and row.
                    *dot = unsafe { zero_point(family, rows.offsets.as_ptr().add(group * rows.stride + r)) };
                }
            }
            for quad in 0..4 {
                // SAFETY: `step_bytes` bytes of codes per step, 64-byte aligned.
                let weights = unsafe { load_codes(family, panel.codes.as_ptr(), step, half, quad) };
                for (r, dot) in dots.iter_mut().enumerate() {
                    let at = (step * rows.stride + r) * STEP + half * 16 + quad * 4;
                    // SAFETY: 32 codes per step and row; `i8` to unaligned `i32` reads four of them.
                    let x = unsafe { rows.codes.as_ptr().add(at).cast::<i32>().read_unaligned() };
                    *dot = _mm512_dpbusd_epi32(*dot, weights, _mm512_set1_epi32(x));
                }
            }
            if groups_per_step == 1 && half == 0 {
                continue;
            }
            // SAFETY: `scale_bytes` bytes per group, aligned to their vector.
            let (scale, min) = unsafe { load_scales(family, panel.scales.as_ptr(), group, supers) };
            for (r, (acc, dot)) in acc.iter_mut().zip(&dots).enumerate() {
                // SAFETY: one scale per step and row.
                let x_scale = unsafe { *rows.scales.as_ptr().add(step * rows.stride + r) };
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(*dot), scale);
                *acc = _mm512_fmadd_ps(scaled, _mm512_set1_ps(x_scale), *acc);
                if family.affine() {
                    // SAFETY: one sum per group and row.
                    let x_sum = unsafe { *rows.sums.as_ptr().add(group * rows.stride + r) };
                    *acc = _mm512_fmadd_ps(min, _mm512_set1_ps(x_sum), *acc);
                }
            }
        }
    }
    for (out, acc) in out.0.iter_mut().zip(acc) {
        // SAFETY: sixteen floats; `Accumulators` is 64-byte aligned.
        unsafe { _mm512_store_ps(out.as_mut_ptr(), acc) };
    }
}

/// Asks for the codes and scales of a step, which may lie in the next panel or past the matrix.
#[inline]
#[target_feature(enable = "avx512f")]
fn prefetch(family: Family, panel: &Panel<'_>, step: usize) {
    let codes = panel.codes.as_ptr().wrapping_add(step * family.step_bytes());
    for line in 0..family.step_bytes() / LINE {
        // A prefetch reads nothing and ignores addresses that are not there.
        _mm_prefetch::<_MM_HINT_T0>(codes.wrapping_add(line * LINE).cast());
    }
    let scales = panel.scales.as_ptr().wrapping_add(step * (STEP / family.group()) * family.scale_bytes());
    _mm_prefetch::<_MM_HINT_T0>(scales.cast());
}

/// What a dot product starts from: minus the zero point times the sum of the activations.
#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn zero_point(family: Family, offset: *const i32) -> __m512i {
    if family.affine() {
        return _mm512_setzero_si512();
    }
    // SAFETY: the caller points to an offset. It is kept for a zero point of 128; one of 8 takes a sixteenth.
    let offset = unsafe { *offset };
    _mm512_set1_epi32(if family.bits() == 4 { offset >> 4 } else { offset })
}

/// The codes of inputs `16 * half + 4 * quad ..+ 4` of a step, for sixteen rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn load_codes(family: Family, codes: *const u8, step: usize, half: usize, quad: usize) -> __m512i {
    let line = if family.bits() == 8 { half * 4 + quad } else { quad };
    // SAFETY: the caller points to the panel's codes, which hold this line.
    let line = unsafe { _mm512_load_si512(codes.add(step * family.step_bytes() + line * LINE).cast()) };
    match (family.bits(), half) {
        (8, _) => line,
        (_, 0) => _mm512_and_si512(line, _mm512_set1_epi8(0x0F)),
        _ => _mm512_and_si512(_mm512_srli_epi16::<4>(line), _mm512_set1_epi8(0x0F)),
    }
}

/// Scale and minimum (zero without one) of a group, for sixteen rows.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
unsafe fn load_scales(
    family: Family,
    scales: *const u8,
    group: usize,
    supers: (__m512, __m512),
) -> (__m512, __m512) {
    // SAFETY: the caller points to the panel's scales, which hold this group.
    unsafe {
        let scales = scales.add(group * family.scale_bytes());
        if family.nested() {
            let scale = _mm512_mul_ps(supers.0, load_i8(scales));
            let min =
                if family.affine() { _mm512_mul_ps(supers.1, load_i8(scales.add(PANEL))) } else { supers.1 };
            (scale, min)
        } else {
            let scale = load_f16(scales);
            let min = if family.affine() { load_f16(scales.add(2 * PANEL)) } else { supers.1 };
            (scale, min)
        }
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_supers(family: Family, supers: *const f32, block: usize) -> (__m512, __m512) {
    // SAFETY: the caller points to the panel's super-block scales, which hold this block.
    unsafe {
        let supers = supers.add(block * family.super_floats());
        let min = if family.affine() { _mm512_load_ps(supers.add(PANEL)) } else { _mm512_setzero_ps() };
        (_mm512_load_ps(supers), min)
    }
}

#[inline]
#[target_feature(enable = "avx512f,f16c")]
unsafe fn load_f16(from: *const u8) -> __m512 {
    // SAFETY: the caller points to 32 aligned bytes.
    _mm512_cvtph_ps(unsafe { _mm256_load_si256(from.cast::<__m256i>()) })
}

#[inline]
#[target_feature(enable = "avx512f")]
unsafe fn load_i8(from: *const u8) -> __m512 {
    // SAFETY: the caller points to 16 aligned bytes.
    _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(unsafe { _mm_load_si128(from.cast::<__m128i>()) }))
}
