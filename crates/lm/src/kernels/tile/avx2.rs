//! The tile kernel for AVX2 with FMA: up to 6 x 16 sums in 12 registers, two halves to a 32-wide tile.

use std::arch::x86_64::{
    __m256, _MM_HINT_T0, _mm_load_ss, _mm_loadu_si128, _mm_prefetch, _mm256_add_ps, _mm256_broadcastss_ps,
    _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps, _mm256_fmadd_ps, _mm256_loadu_ps,
    _mm256_setzero_ps, _mm256_slli_epi32, _mm256_storeu_ps,
};

use super::{LEFT_STRIDE, Storage, Tile, VECTOR, Weight};

/// Floats in one AVX2 register.
const LANES: usize = 8;

/// # Safety
/// As [`super::multiply`], and the machine must have AVX2, FMA and F16C.
#[expect(unsafe_code, reason = "AVX2 intrinsics on raw tiles")]
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply<W: Weight>(tile: Tile<W>) {
    macro_rules! by_rows {
        ($half:ident, $($rows:literal)*) => {
            match $half.rows {
                // SAFETY: passed on from the caller; the half lies inside the tile and the row count matches.
                $($rows => unsafe { fixed::<W, $rows>($half) },)*
                _ => {}
            }
        };
    }
    for column in 0..tile.vectors {
        let half = Tile {
            right: tile.right.wrapping_add(column * VECTOR),
            start: if tile.start.is_null() { tile.start } else { tile.start.wrapping_add(column * VECTOR) },
            bias: if tile.bias.is_null() { tile.bias } else { tile.bias.wrapping_add(column * VECTOR) },
            out: tile.out.wrapping_add(column * VECTOR),
            ..tile
        };
        by_rows!(half, 1 2 3 4 5 6);
    }
}

/// # Safety
/// As [`multiply`], for the first 16 columns, with `tile.rows == ROWS`.
#[expect(unsafe_code, reason = "AVX2 intrinsics on raw tiles")]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn fixed<W: Weight, const ROWS: usize>(tile: Tile<W>) {
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for (row, sums) in sums.iter_mut().enumerate() {
        for (column, sum) in sums.iter_mut().enumerate() {
            // The results are written at the end: have their lines at hand by then.
            let line = tile.out.wrapping_add(row * tile.out_stride + column * LANES);
            _mm_prefetch::<_MM_HINT_T0>(line.cast::<i8>());
            if !tile.start.is_null() {
                let start = tile.start.wrapping_add(row * tile.start_stride + column * LANES);
                // SAFETY: within the tile's running sums.
                *sum = unsafe { _mm256_loadu_ps(start) };
            }
        }
    }
    let (mut left, mut right) = (tile.left, tile.right);
    for _ in 0..tile.depth {
        // SAFETY: `right` is at one of the tile's `depth` rows of 16 values.
        let weights: [__m256; 2] =
            std::array::from_fn(|column| unsafe { load(right.wrapping_add(column * LANES)) });
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: `left` is at one of the `depth` values of the tile's first row; rows are LEFT_STRIDE apart.
            let factor = _mm256_broadcastss_ps(unsafe { _mm_load_ss(left.wrapping_add(row * LEFT_STRIDE)) });
            for (sum, weight) in sums.iter_mut().zip(weights) {
                *sum = _mm256_fmadd_ps(factor, weight, *sum);
            }
        }
        left = left.wrapping_add(1);
        right = right.wrapping_add(tile.right_stride);
    }
    for (row, sums) in sums.iter().enumerate() {
        for (column, sum) in sums.iter().enumerate() {
            let out = tile.out.wrapping_add(row * tile.out_stride + column * LANES);
            let mut sum = *sum;
            if !tile.bias.is_null() {
                // SAFETY: within the tile's bias.
                sum = _mm256_add_ps(sum, unsafe { _mm256_loadu_ps(tile.bias.wrapping_add(column * LANES)) });
            }
            // SAFETY: within the tile's results.
            unsafe {
                let sum = if tile.accumulate { _mm256_add_ps(_mm256_loadu_ps(out), sum) } else { sum };
                _mm256_storeu_ps(out, sum);
            }
        }
    }
}

/// Eight weights, widened exactly.
///
/// # Safety
/// `from` must be valid for reading 8 elements.
#[expect(unsafe_code, reason = "AVX2 intrinsics on raw tiles")]
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
unsafe fn load<W: Weight>(from: *const W) -> __m256 {
    match W::STORAGE {
        // SAFETY: `W` is f32 and the caller vouches for 8 of them.
        Storage::F32 => unsafe { _mm256_loadu_ps(from.cast()) },
        Storage::Bf16 => {
            // SAFETY: `W` is a 16-bit type and the caller vouches for 8 of them.
            let bits = unsafe { _mm_loadu_si128(from.cast()) };
            _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(bits)))
        }
        // SAFETY: `W` is a 16-bit type and the caller vouches for 8 of them.
        Storage::F16 => _mm256_cvtph_ps(unsafe { _mm_loadu_si128(from.cast()) }),
    }
}
