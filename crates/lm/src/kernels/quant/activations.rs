//! Activations quantised for the integer kernels: int8 in blocks of 32, each with its own scale.
//!
//! A block's scale is `max|x| / 127` and its codes are `round(x / scale)`, ties to even: ggml's
//! `quantize_row_q8_0`, with the scale kept in f32 instead of f16. A block depends on nothing but its own
//! 32 numbers, which is one half of why results do not depend on the batch.

use super::super::aligned::AlignedVec;
use super::super::isa::per_isa;
use super::super::pool::{Pool, SharedSlice};
use super::format::{Family, STEP};

/// Rows that one kernel call computes together, at most.
pub(super) const TILE: usize = 8;
/// Below this many numbers a second thread costs more than it brings.
const SERIAL_NUMBERS: usize = 16 * 1024;

/// A batch of rows quantised to int8, and the sums the kernels need beside the codes.
///
/// Reusable: [`quantise`](Self::quantise) replaces the contents and keeps the memory.
#[derive(Debug, Default)]
pub struct QuantActivations {
    rows: usize,
    k: usize,
    /// Per tile `[step][row of tile][32]`.
    codes: AlignedVec<i8>,
    /// Per tile `[step][row of tile]`.
    scales: AlignedVec<f32>,
    /// Per 32 numbers, ordered like `scales`.
    sums32: Sums,
    /// Per 16 numbers: per tile `[step][half][row of tile]`.
    sums16: Sums,
}

/// What takes zero points and minima out of a dot product.
#[derive(Debug, Default)]
struct Sums {
    /// `-128` times the sum of a group's codes.
    offsets: AlignedVec<i32>,
    /// The block's scale times the sum of a group's codes.
    values: AlignedVec<f32>,
}

/// Consecutive rows that are stored, and computed, together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub(super) first: usize,
    pub(super) height: usize,
}

/// What a kernel reads of some rows of one tile.
///
/// Row `r` of step `s` lies at `s * stride + r` in every slice, times 32 for the codes, and times the
/// groups per step (with the group between) for the sums.
#[derive(Clone, Copy, Debug)]
pub(super) struct TileRows<'a> {
    /// Rows of the tile.
    pub(super) stride: usize,
    /// Blocks of 32 per row.
    pub(super) steps: usize,
    pub(super) codes: &'a [i8],
    pub(super) scales: &'a [f32],
    /// Per group of the matrix at hand.
    pub(super) offsets: &'a [i32],
    /// Per group of the matrix at hand.
    pub(super) sums: &'a [f32],
}

impl QuantActivations {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Rows held.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers per row.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes() + self.sums32.bytes() + self.sums16.bytes()
    }

    /// Replaces the contents by `x`, row-major `rows` by `k`.
    ///
    /// A block that holds a NaN or an infinity becomes NaN, so that the outputs it reaches are NaN.
    ///
    /// # Panics
    /// If `x` is not `rows * k` long or `k` is not a multiple of 32.
    pub fn quantise(&mut self, pool: &Pool, x: &[f32], rows: usize, k: usize) {
        assert!(k.is_multiple_of(STEP), "rows of {k} activations do not divide into blocks of {STEP}");
        assert_eq!(x.len(), rows * k, "activations are not {rows} rows of {k}");
        let blocks = rows * k / STEP;
        self.rows = rows;
        self.k = k;
        self.codes.grow_to(rows * k);
        self.scales.grow_to(blocks);
        self.sums32.grow_to(blocks);
        self.sums16.grow_to(blocks * 2);

        let isa = pool.isa();
        let codes = SharedSlice::new(&mut self.codes);
        let scales = SharedSlice::new(&mut self.scales);
        let sums32 = self.sums32.share();
        let sums16 = self.sums16.share();
        let rows_per_task = if x.len() <= SERIAL_NUMBERS { rows.max(1) } else { 2 * TILE };
        pool.run(rows.div_ceil(rows_per_task), &|task| {
            let first = task * rows_per_task;
            for tile in tiles(first, rows.min(first + rows_per_task)) {
                let (start, len) = (tile.first * k / STEP, tile.height * k / STEP);
                #[expect(unsafe_code, reason = "each tile is a part of its own")]
                // SAFETY: tiles do not overlap, and each is given to exactly one task.
                unsafe {
                    quantise_tile(
                        isa,
                        tile.height,
                        &x[tile.first * k..][..tile.height * k],
                        codes.part(start * STEP, len * STEP),
                        scales.part(start, len),
                        (sums32.0.part(start, len), sums32.1.part(start, len)),
                        (sums16.0.part(start * 2, len * 2), sums16.1.part(start * 2, len * 2)),
                    );
                }
            }
        });
    }

    /// Rows `skip..` of a tile, as a kernel of `family` reads them.
    pub(super) fn tile(&self, tile: Tile, skip: usize, family: Family) -> TileRows<'_> {
        let (start, len) = (tile.first * self.k / STEP, tile.height * self.k / STEP);
        let (sums, per_step) = if family.group() == STEP { (&self.sums32, 1) } else { (&self.sums16, 2) };
        TileRows {
            stride: tile.height,
            steps: self.k / STEP,
            codes: &self.codes[start * STEP..(start + len) * STEP][skip * STEP..],
            scales: &self.scales[start..start + len][skip..],
            offsets: &sums.offsets[start * per_step..(start + len) * per_step][skip..],
            sums: &sums.values[start * per_step..(start + len) * per_step][skip..],
        }
    }
}

impl Sums {
    fn grow_to(&mut self, groups: usize) {
        self.offsets.grow_to(groups);
        self.values.grow_to(groups);
    }

    fn bytes(&self) -> usize {
        self.offsets.bytes() + self.values.bytes()
    }

    fn share(&mut self) -> (SharedSlice<'_, i32>, SharedSlice<'_, f32>) {
        (SharedSlice::new(&mut self.offsets), SharedSlice::new(&mut self.values))
    }
}

/// Cuts rows `first..end` into tiles of 8, then 4, 2 and 1. Rows `0..end` and any cut of them at
/// multiples of 8 give the same tiles.
pub(super) fn tiles(first: usize, end: usize) -> impl Iterator<Item = Tile> {
    let mut next = first;
    std::iter::from_fn(move || {
        let left = end - next;
        let height = match left {
            0 => return None,
            1 => 1,
            2..4 => 2,
            4..TILE => 4,
            _ => TILE,
        };
        let tile = Tile { first: next, height };
        next += height;
        Some(tile)
    })
}

per_isa! {
    fn quantise_tile(
        height: usize,
        x: &[f32],
        codes: &mut [i8],
        scales: &mut [f32],
        sums32: (&mut [i32], &mut [f32]),
        sums16: (&mut [i32], &mut [f32]),
    ) {
        let steps = x.len() / height / STEP;
        for (index, block) in x.as_chunks::<STEP>().0.iter().enumerate() {
            let (row, step) = (index / steps, index % steps);
            let at = step * height + row;
            let out = &mut codes[at * STEP..][..STEP];
            let (scale, low, high) = quantise_block(block, out);
            scales[at] = scale;
            sums32.0[at] = -128 * (low + high);
            sums32.1[at] = scale * (low + high) as f32;
            for (half, sum) in [low, high].into_iter().enumerate() {
                let at = (step * 2 + half) * height + row;
                sums16.0[at] = -128 * sum;
                sums16.1[at] = scale * sum as f32;
            }
        }
    }
}

/// Writes a block's codes; returns its scale and the sums of its first and last sixteen codes.
#[inline(always)]
fn quantise_block(block: &[f32; STEP], codes: &mut [i8]) -> (f32, i32, i32) {
    // Compared as bits: the order of non-negative floats, with infinity and then NaN on top.
    let largest = block.iter().fold(0, |most, value| (value.to_bits() & 0x7FFF_FFFF).max(most));
    let largest = f32::from_bits(largest);
    if !largest.is_finite() {
        codes.fill(0);
        return (f32::NAN, 0, 0);
    }
    let scale = largest / 127.0;
    if scale < f32::MIN_POSITIVE {
        codes.fill(0);
        return (0.0, 0, 0);
    }
    let inverse = 1.0 / scale;
    // Adding 1.5 * 2^23 leaves the nearest integer, ties to even, in the low bits of the sum.
    const SHIFT: f32 = 12_582_912.0;
    let mut sums = [0, 0];
    for ((codes, values), sum) in codes.chunks_exact_mut(16).zip(block.chunks_exact(16)).zip(&mut sums) {
        for (code, value) in codes.iter_mut().zip(values) {
            let rounded = (value * inverse + SHIFT).to_bits().cast_signed() - SHIFT.to_bits().cast_signed();
            *sum += rounded;
            *code = rounded as i8;
        }
    }
    (scale, sums[0], sums[1])
}
