//! The tile kernel for AVX-512F: up to 14 x 32 sums in 28 registers.

use std::arch::x86_64::{
    __m512, _MM_HINT_T0, _MM_HINT_T1, _mm_load_ss, _mm_prefetch, _mm256_loadu_si256, _mm512_add_ps,
    _mm512_broadcastss_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtph_ps, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_ps,
};

use super::{LEFT_STRIDE, Storage, Tile, VECTOR, Weight};

/// # Safety
/// As [`super::multiply`], and the machine must have AVX-512F.
#[expect(unsafe_code, reason = "AVX-512 intrinsics on raw tiles")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn multiply<W: Weight>(tile: Tile<W>) {
    macro_rules! by_rows {
        ($($rows:literal)*) => {
            match (tile.rows, tile.vectors) {
                // SAFETY: passed on from the caller; the row and vector counts match.
                $(($rows, 2) => unsafe { fixed::<W, $rows, 2>(tile) },)*
                // SAFETY: as above.
                $(($rows, 1) => unsafe { fixed::<W, $rows, 1>(tile) },)*
                _ => {}
            }
        };
    }
    by_rows!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
}

/// # Safety
/// As [`multiply`], with `tile.rows == ROWS` and `tile.vectors == VECTORS`.
#[expect(unsafe_code, reason = "AVX-512 intrinsics on raw tiles")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn fixed<W: Weight, const ROWS: usize, const VECTORS: usize>(tile: Tile<W>) {
    let mut sums = [[_mm512_setzero_ps(); VECTORS]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            // The results are written at the end: have their lines at hand by then.
            let line = tile.out.wrapping_add(row * tile.out_stride + column * VECTOR);
            _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>());
            if !tile.start.is_null() {
                let start = tile.start.wrapping_add(row * tile.start_stride + column * VECTOR);
                // SAFETY: within the tile's running sums.
                *sum = unsafe { _mm512_loadu_ps(start) };
            }
        }
    }
    let (mut left, mut right, mut ahead) = (tile.left, tile.right, tile.ahead);
    for _ in 0..tile.depth {
        // SAFETY: `right` is at one of the tile's `depth` rows of `VECTORS * 16` values.
        let weights: [__m512; VECTORS] =
            std::array::from_fn(|column| unsafe { load(right.wrapping_add(column * VECTOR)) });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `left` is at one of the `depth` values of the tile's first row; rows are LEFT_STRIDE apart.
            let factor = _mm512_broadcastss_ps(unsafe { _mm_load_ss(left.wrapping_add(row * LEFT_STRIDE)) });
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = _mm512_fmadd_ps(factor, weight, *sum);
            }
        }
        if !tile.ahead.is_null() {
            _mm_prefetch::<_MM_HINT_T1>(ahead.cast::<i8>());
            ahead = ahead.wrapping_add(tile.ahead_stride);
        }
        left = left.wrapping_add(1);
        right = right.wrapping_add(tile.right_stride);
    }
    for (row, sums) in sums.iter().enumerate() {
        for (column, sum) in sums.iter().enumerate() {
            let out = tile.out.wrapping_add(row * tile.out_stride + column * VECTOR);
            let mut sum = *sum;
            if !tile.bias.is_null() {
                // SAFETY: within the tile's bias.
                sum = _mm512_add_ps(sum, unsafe { _mm512_loadu_ps(tile.bias.wrapping_add(column * VECTOR)) });
            }
            // SAFETY: within the tile's results.
            unsafe {
                let sum = if tile.accumulate { _mm512_add_ps(_mm512_loadu_ps(out), sum) } else { sum };
                _mm512_storeu_ps(out, sum);
            }
        }
    }
}

/// Sixteen weights, widened exactly.
///
/// # Safety
/// `from` must be valid for reading 16 elements.
#[expect(unsafe_code, reason = "AVX-512 intrinsics on raw tiles")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn load<W: Weight>(from: *const W) -> __m512 {
    match W::STORAGE {
        // SAFETY: `W` is f32 and the caller vouches for 16 of them.
        Storage::F32 => unsafe { _mm512_loadu_ps(from.cast()) },
        Storage::Bf16 => {
            // SAFETY: `W` is a 16-bit type and the caller vouches for 16 of them.
            let bits = unsafe { _mm256_loadu_si256(from.cast()) };
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(bits)))
        }
        // SAFETY: `W` is a 16-bit type and the caller vouches for 16 of them.
        Storage::F16 => _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(from.cast()) }),
    }
}
