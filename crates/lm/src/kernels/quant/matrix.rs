//! A quantised weight matrix, repacked once at load into the order the kernels read it.
//!
//! Output rows are interleaved in panels of [`PANEL`]: one 64-byte line holds four consecutive
//! weights of sixteen rows, which is one operand of a 512-bit integer dot product. Four-bit codes share a
//! line between input positions `4t..` (low nibbles) and `4t + 16..` (high nibbles) of a 32-weight step.
//! A panel's codes are contiguous and in reading order, so decoding streams memory linearly.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::super::weight_memory::WeightMemory;
use super::QuantError;
use super::format::{Block, Family, Format, STEP, SUPER};

/// Output rows that one kernel call computes together.
pub(super) const PANEL: usize = 16;

/// Bytes of one line of codes: four inputs of each row of a panel.
pub(super) const LINE: usize = 64;

/// A matrix of `n` output rows by `k` inputs, kept in the precision of its GGML type.
///
/// The values are exactly those of the file; see [`dequantise`](super::dequantise) for their definition.
pub struct QuantMatrix {
    dtype: GgmlDType,
    family: Family,
    n: usize,
    k: usize,
    /// `[panel][step of 32][line of 64 bytes]`.
    codes: WeightMemory<u8>,
    /// `[panel][group][scale of 16 rows, then minimum of 16 rows]`, f16 or, when nested, i8.
    scales: WeightMemory<u8>,
    /// When nested: `[panel][k / 256][scale of 16 rows, then minimum of 16 rows]`.
    supers: WeightMemory<f32>,
}

impl std::fmt::Debug for QuantMatrix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "QuantMatrix({:?}, {} x {})", self.dtype, self.n, self.k)
    }
}

/// What one kernel call reads of a matrix: sixteen rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Panel<'a> {
    pub(super) codes: &'a [u8],
    pub(super) scales: &'a [u8],
    pub(super) supers: &'a [f32],
    /// Whether this is the first read of the panel: it comes from memory, not from a cache.
    pub(super) streamed: bool,
}

impl Family {
    /// Bytes of the codes of 32 inputs in a panel.
    pub(super) const fn step_bytes(self) -> usize {
        PANEL * STEP * self.bits() / 8
    }

    /// Bytes of the scales (and minima) of one group in a panel.
    pub(super) const fn scale_bytes(self) -> usize {
        let element = if self.nested() { 1 } else { 2 };
        let pair = if self.affine() { 2 } else { 1 };
        PANEL * element * pair
    }

    /// Floats of the scales (and minima) of 256 inputs in a panel.
    pub(super) const fn super_floats(self) -> usize {
        if self.affine() { 2 * PANEL } else { PANEL }
    }
}

impl QuantMatrix {
    /// Repacks `bytes`, an `n` by `k` row-major tensor of a GGML block type. Pure and single-threaded:
    /// call it from several threads to load several tensors at once.
    ///
    /// # Errors
    /// [`QuantError::NotQuantised`] for F32, F16 and BF16, [`QuantError::Empty`] for a zero dimension,
    /// [`QuantError::Ragged`] if a row is not whole blocks, [`QuantError::Length`] if `bytes` has
    /// another length than `n * k` weights take.
    pub fn from_ggml(dtype: GgmlDType, bytes: &[u8], n: usize, k: usize) -> Result<Self, QuantError> {
        let format = Format::of(dtype)?;
        if n == 0 || k == 0 {
            return Err(QuantError::Empty { n, k });
        }
        let row_bytes = format.bytes(dtype, k)?;
        let expected = row_bytes.checked_mul(n).ok_or(QuantError::TooLarge)?;
        if bytes.len() != expected {
            let count = n.saturating_mul(k);
            return Err(QuantError::Length { dtype, count, expected, actual: bytes.len() });
        }
        let mut matrix = Self::blank(dtype, format.family, n, k);
        let mut block = Block::default();
        for (row, raw) in bytes.chunks_exact(row_bytes).enumerate() {
            for (index, raw) in raw.chunks_exact(format.block_bytes).enumerate() {
                block.decode(dtype, raw);
                matrix.place(row, index, format.block, &block);
            }
        }
        Ok(matrix)
    }

    /// All storage in place, all scales zero: rows past `n` in the last panel stay so and yield zeros.
    fn blank(dtype: GgmlDType, family: Family, n: usize, k: usize) -> Self {
        let panels = n.div_ceil(PANEL);
        let code_bytes = panels * (k / STEP) * family.step_bytes();
        let scale_bytes = panels * (k / family.group()) * family.scale_bytes();
        let supers = if family.nested() { panels * (k / SUPER) * family.super_floats() } else { 0 };
        Self {
            dtype,
            family,
            n,
            k,
            codes: WeightMemory::zeroed(code_bytes),
            scales: WeightMemory::zeroed(scale_bytes),
            supers: WeightMemory::zeroed(supers),
        }
    }

    /// Writes one decoded block into its row's lane of the panel.
    fn place(&mut self, row: usize, index: usize, block_len: usize, block: &Block) {
        let (panel, lane) = (row / PANEL, row % PANEL);
        let family = self.family;
        let steps = self.k / STEP;
        for step in 0..block_len / STEP {
            let codes = &block.codes[step * STEP..][..STEP];
            let at = (panel * steps + index * block_len / STEP + step) * family.step_bytes();
            place_codes(&mut self.codes[at..at + family.step_bytes()], lane, codes);
        }
        let groups_per_block = block_len / family.group();
        let first_group = panel * (self.k / family.group()) + index * groups_per_block;
        let scales = &mut self.scales[first_group * family.scale_bytes()..];
        if !family.nested() {
            scales[lane * 2..lane * 2 + 2].copy_from_slice(&block.scale.to_le_bytes());
            if family.affine() {
                let at = (PANEL + lane) * 2;
                scales[at..at + 2].copy_from_slice(&block.min.to_le_bytes());
            }
            return;
        }
        for (group, scales) in scales.chunks_mut(family.scale_bytes()).take(groups_per_block).enumerate() {
            scales[lane] = block.sub_scale[group].cast_unsigned();
            if family.affine() {
                scales[PANEL + lane] = block.sub_min[group].cast_unsigned();
            }
        }
        let at = (panel * (self.k / SUPER) + index) * family.super_floats();
        self.supers[at + lane] = block.super_scale;
        if family.affine() {
            self.supers[at + PANEL + lane] = block.super_min;
        }
    }

    /// Output rows.
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs per row.
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// The GGML type the matrix was loaded from.
    #[must_use]
    pub fn dtype(&self) -> GgmlDType {
        self.dtype
    }

    /// Bytes held, padding included: what one pass over the matrix reads.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.codes.bytes() + self.scales.bytes() + self.supers.bytes()
    }

    pub(super) fn family(&self) -> Family {
        self.family
    }

    pub(super) fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    pub(super) fn panel(&self, panel: usize) -> Panel<'_> {
        let code_bytes = self.k / STEP * self.family.step_bytes();
        let scale_bytes = self.k / self.family.group() * self.family.scale_bytes();
        let supers = if self.family.nested() { self.k / SUPER * self.family.super_floats() } else { 0 };
        Panel {
            codes: &self.codes[panel * code_bytes..][..code_bytes],
            scales: &self.scales[panel * scale_bytes..][..scale_bytes],
            supers: &self.supers[panel * supers..][..supers],
            streamed: true,
        }
    }

    /// Writes row `row` (an embedding, say) dequantised to `out`, with the bits of
    /// [`dequantise`](super::dequantise).
    ///
    /// # Panics
    /// If `row` is not below `n`, or `out` is not `k` long.
    pub fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "row {row} of a matrix of {} rows", self.n);
        assert_eq!(out.len(), self.k, "a row of this matrix has {} weights", self.k);
        let (panel, lane) = (self.panel(row / PANEL), row % PANEL);
        for (step, values) in out.chunks_exact_mut(STEP).enumerate() {
            self.step_of(&panel, lane, step, values);
        }
    }

    /// Inputs `32 step..` of a row, as [`QuantMatrix::row`] has them.
    pub(in super::super) fn row_step(&self, row: usize, step: usize, out: &mut [f32]) {
        self.step_of(&self.panel(row / PANEL), row % PANEL, step, out);
    }

    fn step_of(&self, panel: &Panel<'_>, lane: usize, step: usize, out: &mut [f32]) {
        let family = self.family;
        let mut codes = [0; STEP];
        let at = step * family.step_bytes();
        take_codes(&panel.codes[at..at + family.step_bytes()], lane, &mut codes);
        for (half, (values, codes)) in
            out.chunks_mut(family.group()).zip(codes.chunks(family.group())).enumerate()
        {
            let (scale, min) = panel.scale(family, step * (STEP / family.group()) + half, lane);
            for (value, &code) in values.iter_mut().zip(codes) {
                let scaled = (i32::from(code) - i32::from(family.zero())) as f32 * scale;
                *value = if family.affine() { scaled + min } else { scaled };
            }
        }
    }
}

impl Panel<'_> {
    /// Scale and minimum (0 without one) of group `group` of row `lane`.
    pub(super) fn scale(&self, family: Family, group: usize, lane: usize) -> (f32, f32) {
        let scales = &self.scales[group * family.scale_bytes()..][..family.scale_bytes()];
        if !family.nested() {
            let at = |i: usize| f16::from_le_bytes([scales[i * 2], scales[i * 2 + 1]]).to_f32();
            return (at(lane), if family.affine() { at(PANEL + lane) } else { 0.0 });
        }
        let supers = &self.supers[group * family.group() / SUPER * family.super_floats()..];
        let at = |i: usize| supers[i] * f32::from(scales[i].cast_signed());
        (at(lane), if family.affine() { at(PANEL + lane) } else { 0.0 })
    }
}

/// Spreads the 32 codes of one step of one row over the lines of the step.
fn place_codes(step: &mut [u8], lane: usize, codes: &[u8]) {
    let eight_bits = step.len() == STEP * PANEL;
    for (t, line) in step.chunks_exact_mut(LINE).enumerate() {
        let slot = &mut line[lane * 4..lane * 4 + 4];
        if eight_bits {
            slot.copy_from_slice(&codes[t * 4..t * 4 + 4]);
        } else {
            for (i, byte) in slot.iter_mut().enumerate() {
                *byte = codes[t * 4 + i] | (codes[t * 4 + 16 + i] << 4);
            }
        }
    }
}

/// The inverse of [`place_codes`].
fn take_codes(step: &[u8], lane: usize, codes: &mut [u8; STEP]) {
    let eight_bits = step.len() == STEP * PANEL;
    for (t, line) in step.chunks_exact(LINE).enumerate() {
        let slot = &line[lane * 4..lane * 4 + 4];
        if eight_bits {
            codes[t * 4..t * 4 + 4].copy_from_slice(slot);
        } else {
            for (i, &byte) in slot.iter().enumerate() {
                codes[t * 4 + i] = byte & 0x0F;
                codes[t * 4 + 16 + i] = byte >> 4;
            }
        }
    }
}
