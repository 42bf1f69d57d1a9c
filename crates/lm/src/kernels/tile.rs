//! The one inner kernel: a tile of up to 14 x 32 dot products, each a single chain of fused multiply-adds.
//!
//! `c[r][j] = (start) + sum over i of a[r][i] * b[i][j]`, added in the order of `i`, one rounding per step. The
//! matrix product and both halves of attention are built from it. A chain may be interrupted and
//! continued (the running value is stored and loaded exactly), which is how long sums are blocked.
//! What the result is added to at last comes after the chain.

use half::{bf16, f16};

use super::isa::{Isa, Level};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

/// Steps of a chain that are packed together: 14 rows of it stay in the first-level cache.
pub(super) const CHUNK: usize = 384;
/// Distance between packed left-hand rows: an odd number of cache lines, so that rows fall into different
/// cache sets, with room for a 32-wide tile that starts at the last column of a chunk.
pub(super) const LEFT_STRIDE: usize = CHUNK + 48;
/// Floats in one vector column of a tile.
pub(super) const VECTOR: usize = 16;

/// How a weight is stored on the right-hand side of a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storage {
    F32,
    Bf16,
    F16,
}

/// A right-hand element; widening to f32 is exact.
pub(super) trait Weight: Copy + Send + Sync + 'static {
    const STORAGE: Storage;
    fn widen(self) -> f32;
}

impl Weight for f32 {
    const STORAGE: Storage = Storage::F32;
    fn widen(self) -> f32 {
        self
    }
}

impl Weight for bf16 {
    const STORAGE: Storage = Storage::Bf16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

impl Weight for f16 {
    const STORAGE: Storage = Storage::F16;
    fn widen(self) -> f32 {
        self.to_f32()
    }
}

/// One tile: where its operands lie and how large it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tile<W> {
    /// `rows` rows of `depth` values, [`LEFT_STRIDE`] apart.
    pub(super) left: *const f32,
    /// `depth` rows of `16 * vectors` values, `right_stride` apart.
    pub(super) right: *const W,
    pub(super) right_stride: usize,
    /// Where the values lie that will be read next: one line for each step of the chain is asked for meanwhile,
    /// `ahead_stride` values apart. Null asks for nothing.
    pub(super) ahead: *const W,
    pub(super) ahead_stride: usize,
    /// Running sums to continue, `start_stride` apart; null starts from zero. May be `out`.
    pub(super) start: *const f32,
    pub(super) start_stride: usize,
    /// `rows` rows of `16 * vectors` results, `out_stride` apart.
    pub(super) out: *mut f32,
    pub(super) out_stride: usize,
    pub(super) rows: usize,
    /// 1 or 2 vectors of 16 columns.
    pub(super) vectors: usize,
    pub(super) depth: usize,
    /// `16 * vectors` values that are added to each row's finished sums. Null adds nothing.
    pub(super) bias: *const f32,
    /// Add the finished sums (and the bias) to what `out` holds.
    pub(super) accumulate: bool,
}

/// Rows of the largest tile that stays in registers.
pub(super) fn max_rows(isa: Isa) -> usize {
    match isa.level() {
        Level::Scalar => 4,
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => 6,
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => 14,
    }
}

/// Asks for values that will be read soon; changes no result.
pub(super) fn prefetch(values: &[f32]) {
    #[cfg(target_arch = "x86_64")]
    for line in values.chunks(64 / size_of::<f32>()) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        #[expect(unsafe_code, reason = "prefetch instruction")]
        // SAFETY: SSE is part of x86-64, and a prefetch has no effect that a program can see.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast::<i8>());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = values;
}

/// Computes one tile.
///
/// # Safety
/// The pointers must be valid for the extents that [`Tile`] names, `out` for reads and writes without any other
/// access at the same time, `start` and `bias` for reads unless they are null; `rows <= max_rows(isa)`; `vectors` is
/// 1 or 2.
#[expect(unsafe_code, reason = "works on raw tiles")]
pub(super) unsafe fn multiply<W: Weight>(isa: Isa, tile: Tile<W>) {
    debug_assert!(tile.rows <= max_rows(isa) && (1..=2).contains(&tile.vectors));
    match isa.level() {
        // SAFETY: passed on from the caller.
        Level::Scalar => unsafe { scalar(tile) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on from the caller; an `Isa` of this level exists only where AVX2, FMA and F16C were detected.
        Level::Avx2 => unsafe { avx2::multiply(tile) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: passed on from the caller; an `Isa` of this level exists only where AVX-512 was detected.
        Level::Avx512 => unsafe { avx512::multiply(tile) },
    }
}

/// What a product of slices does with what `out` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    /// Starts from zero.
    New,
    /// Goes on with the sums in `out`.
    Continue,
}

/// `out[r][c] = (out[r][c] +) sum over d of left[r][d] * right[d][c]` for any number of rows and `columns` of 16 or
/// 32: a safe way to [`multiply`]. Rows of `left` are [`LEFT_STRIDE`] apart.
///
/// # Panics
/// When a slice is too short.
pub(super) fn product(
    isa: Isa,
    (left, rows): (&[f32], usize),
    (right, right_stride): (&[f32], usize),
    (out, out_stride): (&mut [f32], usize),
    (depth, columns): (usize, usize),
    sums: Sums,
) {
    if rows == 0 {
        return;
    }
    assert!(columns == VECTOR || columns == 2 * VECTOR, "16 or 32 columns, not {columns}");
    assert!(left.len() >= (rows - 1) * LEFT_STRIDE + depth, "left is too short");
    assert!(depth == 0 || right.len() >= (depth - 1) * right_stride + columns, "right is too short");
    assert!(out.len() >= (rows - 1) * out_stride + columns, "out is too short");
    // Tiles of about the same size: a small one has too few sums to keep the pipeline busy.
    let tile_rows = rows.div_ceil(rows.div_ceil(max_rows(isa)));
    for row in (0..rows).step_by(tile_rows) {
        let target = out[row * out_stride..].as_mut_ptr();
        let tile = Tile {
            left: left[row * LEFT_STRIDE..].as_ptr(),
            right: right.as_ptr(),
            right_stride,
            ahead: std::ptr::null(),
            ahead_stride: 0,
            start: if sums == Sums::New { std::ptr::null() } else { target.cast_const() },
            start_stride: out_stride,
            out: target,
            out_stride,
            rows: tile_rows.min(rows - row),
            vectors: columns / VECTOR,
            depth,
            bias: std::ptr::null(),
            accumulate: false,
        };
        #[expect(unsafe_code, reason = "calls the tile kernel")]
        // SAFETY: all extents were checked above.
        unsafe {
            multiply(isa, tile);
        }
    }
}

/// The portable twin.
///
/// # Safety
/// As [`multiply`].
#[expect(unsafe_code, reason = "works on raw tiles")]
unsafe fn scalar<W: Weight>(tile: Tile<W>) {
    let columns = tile.vectors * VECTOR;
    for row in 0..tile.rows {
        let mut sums = [0.0_f32; 2 * VECTOR];
        let sums = &mut sums[..columns];
        // SAFETY: the caller vouches for `rows` rows of `columns` results, `depth` left values, and starts unless null.
        let (left, out) = unsafe {
            if !tile.start.is_null() {
                sums.copy_from_slice(std::slice::from_raw_parts(
                    tile.start.add(row * tile.start_stride),
                    columns,
                ));
            }
            (
                std::slice::from_raw_parts(tile.left.add(row * LEFT_STRIDE), tile.depth),
                std::slice::from_raw_parts_mut(tile.out.add(row * tile.out_stride), columns),
            )
        };
        for (step, factor) in left.iter().enumerate() {
            // SAFETY: the caller vouches for `depth` right-hand rows of `columns` values.
            let right =
                unsafe { std::slice::from_raw_parts(tile.right.add(step * tile.right_stride), columns) };
            for (sum, weight) in sums.iter_mut().zip(right) {
                *sum = factor.mul_add(weight.widen(), *sum);
            }
        }
        if !tile.bias.is_null() {
            // SAFETY: the caller vouches for a bias of `columns` values unless it is null.
            let bias = unsafe { std::slice::from_raw_parts(tile.bias, columns) };
            sums.iter_mut().zip(bias).for_each(|(sum, bias)| *sum += bias);
        }
        for (out, sum) in out.iter_mut().zip(sums.iter()) {
            *out = if tile.accumulate { *out + sum } else { *sum };
        }
    }
}
