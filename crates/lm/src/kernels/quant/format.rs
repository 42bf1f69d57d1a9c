//! The GGML block formats, decoded into one common form: unsigned codes with a scale (and a minimum)
//! per group of 16 or 32 weights.
//!
//! Byte layouts: ggml's `ggml-common.h` (`block_q4_0` ... `block_q8_K`), little endian. Every decoding
//! below is exact: a weight is `(code - zero) * scale + min`, with the products and sums rounded as
//! ggml's own `dequantize_row_*` rounds them.

use candle_core::quantized::GgmlDType;
use half::f16;

use super::QuantError;

/// Weights of the largest GGML block.
pub(super) const SUPER: usize = 256;
/// Weights of one step of the kernels: the smallest GGML block, and the block of the activations.
pub(super) const STEP: usize = 32;

/// What one GGML type is kept as. The type decides everything the kernels are specialised on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Format {
    /// Weights per GGML block: 32 or 256.
    pub(super) block: usize,
    /// Bytes per GGML block in the file.
    pub(super) block_bytes: usize,
    pub(super) family: Family,
}

/// How codes, scales and minima are stored and multiplied; named after the GGML type it serves first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// 4-bit codes, one f16 scale per 32.
    Q4_0,
    /// 4-bit codes, one f16 scale and one f16 minimum per 32.
    Q4_1,
    /// 8-bit codes, one f16 scale and one f16 minimum per 32.
    Q5_1,
    /// 8-bit codes, one f16 scale per 32 (also `Q5_0`).
    Q8_0,
    /// 4-bit codes, an i8 scale and minimum per 16 under an f32 pair per 256.
    Q2K,
    /// 4-bit codes, an i8 scale per 16 under an f32 one per 256.
    Q3K,
    /// 4-bit codes, an i8 scale and minimum per 32 under an f32 pair per 256.
    Q4K,
    /// 8-bit codes, an i8 scale and minimum per 32 under an f32 pair per 256.
    Q5K,
    /// 8-bit codes, an i8 scale per 16 under an f32 one per 256.
    Q6K,
    /// 8-bit codes, an i8 scale per 32 (always 1) under an f32 one per 256.
    Q8K,
}

impl Family {
    /// Bits per stored code, 4 or 8.
    pub(super) const fn bits(self) -> usize {
        match self {
            Self::Q4_0 | Self::Q4_1 | Self::Q2K | Self::Q3K | Self::Q4K => 4,
            Self::Q5_1 | Self::Q8_0 | Self::Q5K | Self::Q6K | Self::Q8K => 8,
        }
    }

    /// Weights that share a scale, 16 or 32.
    pub(super) const fn group(self) -> usize {
        match self {
            Self::Q2K | Self::Q3K | Self::Q6K => 16,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_1 | Self::Q8_0 | Self::Q4K | Self::Q5K | Self::Q8K => 32,
        }
    }

    /// Whether group scales are i8 multiples of an f32 scale per 256 weights (the K types).
    pub(super) const fn nested(self) -> bool {
        match self {
            Self::Q2K | Self::Q3K | Self::Q4K | Self::Q5K | Self::Q6K | Self::Q8K => true,
            Self::Q4_0 | Self::Q4_1 | Self::Q5_1 | Self::Q8_0 => false,
        }
    }

    /// Whether a group has a minimum. Without one the codes have a zero point instead.
    pub(super) const fn affine(self) -> bool {
        match self {
            Self::Q4_1 | Self::Q5_1 | Self::Q2K | Self::Q4K | Self::Q5K => true,
            Self::Q4_0 | Self::Q8_0 | Self::Q3K | Self::Q6K | Self::Q8K => false,
        }
    }

    /// The code that stands for zero: 0 with a minimum, otherwise the middle of the code range.
    pub(super) const fn zero(self) -> u8 {
        match (self.affine(), self.bits()) {
            (true, _) => 0,
            (false, 4) => 8,
            (false, _) => 128,
        }
    }
}

impl Format {
    /// The format of a GGML type.
    ///
    /// # Errors
    /// [`QuantError::NotQuantised`] for the plain float types.
    pub(super) fn of(dtype: GgmlDType) -> Result<Self, QuantError> {
        let family = match dtype {
            GgmlDType::Q4_0 => Family::Q4_0,
            GgmlDType::Q4_1 => Family::Q4_1,
            GgmlDType::Q5_0 | GgmlDType::Q8_0 | GgmlDType::Q8_1 => Family::Q8_0,
            GgmlDType::Q5_1 => Family::Q5_1,
            GgmlDType::Q2K => Family::Q2K,
            GgmlDType::Q3K => Family::Q3K,
            GgmlDType::Q4K => Family::Q4K,
            GgmlDType::Q5K => Family::Q5K,
            GgmlDType::Q6K => Family::Q6K,
            GgmlDType::Q8K => Family::Q8K,
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {
                return Err(QuantError::NotQuantised { dtype });
            }
        };
        Ok(Self { block: dtype.block_size(), block_bytes: dtype.type_size(), family })
    }

    /// Bytes of `count` weights, which must be whole blocks.
    pub(super) fn bytes(self, dtype: GgmlDType, count: usize) -> Result<usize, QuantError> {
        if !count.is_multiple_of(self.block) {
            return Err(QuantError::Ragged { dtype, count, block: self.block });
        }
        (count / self.block).checked_mul(self.block_bytes).ok_or(QuantError::TooLarge)
    }
}

/// One decoded GGML block. Only the first `Format::block` codes are filled, and of the scales only
/// those the family has.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) codes: [u8; SUPER],
    /// f16 bits of the scale and the minimum of a 32-weight block.
    pub(super) scale: u16,
    pub(super) min: u16,
    /// Scale and minimum of the 256-weight block, and the multiples of each group.
    pub(super) super_scale: f32,
    pub(super) super_min: f32,
    pub(super) sub_scale: [i8; 16],
    pub(super) sub_min: [i8; 16],
}

impl Default for Block {
    fn default() -> Self {
        Self {
            codes: [0; SUPER],
            scale: 0,
            min: 0,
            super_scale: 0.0,
            super_min: 0.0,
            sub_scale: [0; 16],
            sub_min: [0; 16],
        }
    }
}

impl Block {
    /// Decodes one block of `dtype`, whose length the caller has checked.
    pub(super) fn decode(&mut self, dtype: GgmlDType, bytes: &[u8]) {
        match dtype {
            GgmlDType::Q4_0 => self.decode_q4(bytes, 2),
            GgmlDType::Q4_1 => {
                self.min = u16_at(bytes, 2);
                self.decode_q4(bytes, 4);
            }
            GgmlDType::Q5_0 => {
                // Codes 0..=31 stand for -16..=15; stored around the family's zero of 128.
                self.decode_q5(bytes, 2);
                self.codes[..STEP].iter_mut().for_each(|code| *code += 112);
            }
            GgmlDType::Q5_1 => {
                self.min = u16_at(bytes, 2);
                self.decode_q5(bytes, 4);
            }
            GgmlDType::Q8_0 => self.decode_q8(bytes, 2),
            // The f16 after the scale is scale * sum of the codes: derived, not part of the value.
            GgmlDType::Q8_1 => self.decode_q8(bytes, 4),
            GgmlDType::Q2K => self.decode_q2k(bytes),
            GgmlDType::Q3K => self.decode_q3k(bytes),
            GgmlDType::Q4K => self.decode_q4k(bytes),
            GgmlDType::Q5K => self.decode_q5k(bytes),
            GgmlDType::Q6K => self.decode_q6k(bytes),
            GgmlDType::Q8K => self.decode_q8k(bytes),
            // `Format::of` refuses these before any block is decoded.
            GgmlDType::F32 | GgmlDType::F16 | GgmlDType::BF16 => {}
        }
    }

    /// The weights of the block as ggml dequantises them.
    pub(super) fn values(&self, family: Family, out: &mut [f32]) {
        let zero = i32::from(family.zero());
        for (group, values) in out.chunks_mut(family.group()).enumerate() {
            let codes = &self.codes[group * family.group()..][..values.len()];
            let (scale, min) = if family.nested() {
                (
                    self.super_scale * f32::from(self.sub_scale[group]),
                    self.super_min * f32::from(self.sub_min[group]),
                )
            } else {
                (f16::from_bits(self.scale).to_f32(), f16::from_bits(self.min).to_f32())
            };
            if family.affine() {
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = f32::from(code) * scale + min;
                }
            } else {
                for (value, &code) in values.iter_mut().zip(codes) {
                    *value = (i32::from(code) - zero) as f32 * scale;
                }
            }
        }
    }

    fn decode_q4(&mut self, bytes: &[u8], nibbles_at: usize) {
        self.scale = u16_at(bytes, 0);
        let nibbles = &bytes[nibbles_at..nibbles_at + 16];
        for (j, &byte) in nibbles.iter().enumerate() {
            self.codes[j] = byte & 0x0F;
            self.codes[j + 16] = byte >> 4;
        }
    }

    fn decode_q5(&mut self, bytes: &[u8], high_at: usize) {
        let high =
            u32::from_le_bytes([bytes[high_at], bytes[high_at + 1], bytes[high_at + 2], bytes[high_at + 3]]);
        self.decode_q4(bytes, high_at + 4);
        for (j, code) in self.codes[..STEP].iter_mut().enumerate() {
            *code |= (((high >> j) & 1) as u8) << 4;
        }
    }

    fn decode_q8(&mut self, bytes: &[u8], codes_at: usize) {
        self.scale = u16_at(bytes, 0);
        for (code, &byte) in self.codes[..STEP].iter_mut().zip(&bytes[codes_at..codes_at + STEP]) {
            *code = byte ^ 0x80;
        }
    }

    /// `scales[16]` (low nibble scale, high nibble minimum), `qs[64]`, `d`, `dmin`.
    fn decode_q2k(&mut self, bytes: &[u8]) {
        let (scales, rest) = bytes.split_at(16);
        let quads = &rest[..64];
        self.super_scale = f16_at(rest, 64);
        self.super_min = -f16_at(rest, 66);
        for (group, &packed) in scales.iter().enumerate() {
            self.sub_scale[group] = (packed & 0x0F) as i8;
            self.sub_min[group] = (packed >> 4) as i8;
        }
        for (index, code) in self.codes.iter_mut().enumerate() {
            let (half, shift, lane) = (index / 128, index / 32 % 4 * 2, index % 32);
            *code = (quads[half * 32 + lane] >> shift) & 3;
        }
    }

    /// `hmask[32]`, `qs[64]`, `scales[12]` (sixteen 6-bit numbers, 32 means zero), `d`.
    fn decode_q3k(&mut self, bytes: &[u8]) {
        let (mask, rest) = bytes.split_at(32);
        let (quads, rest) = rest.split_at(64);
        let packed = &rest[..12];
        self.super_scale = f16_at(rest, 12);
        for (group, scale) in self.sub_scale.iter_mut().enumerate() {
            let low = (packed[group % 8] >> (group / 8 * 4)) & 0x0F;
            let high = (packed[8 + group % 4] >> (group / 4 * 2)) & 3;
            *scale = (low | (high << 4)) as i8 - 32;
        }
        for (index, code) in self.codes.iter_mut().enumerate() {
            let (half, step, lane) = (index / 128, index / 32, index % 32);
            let low = (quads[half * 32 + lane] >> (step % 4 * 2)) & 3;
            // -4..=3 around the family's zero of 8: the mask bit, when set, takes the -4 back.
            *code = 4 + low + (((mask[lane] >> step) & 1) << 2);
        }
    }

    /// `d`, `dmin`, `scales[12]`, `qs[128]`.
    fn decode_q4k(&mut self, bytes: &[u8]) {
        self.decode_k_scales(bytes);
        let nibbles = &bytes[16..144];
        for (pair, nibbles) in nibbles.chunks_exact(32).enumerate() {
            for (lane, &byte) in nibbles.iter().enumerate() {
                self.codes[pair * 64 + lane] = byte & 0x0F;
                self.codes[pair * 64 + 32 + lane] = byte >> 4;
            }
        }
    }

    /// `d`, `dmin`, `scales[12]`, `qh[32]`, `qs[128]`.
    fn decode_q5k(&mut self, bytes: &[u8]) {
        self.decode_k_scales(bytes);
        let high = &bytes[16..48];
        let nibbles = &bytes[48..176];
        for (pair, nibbles) in nibbles.chunks_exact(32).enumerate() {
            for (lane, &byte) in nibbles.iter().enumerate() {
                let bits = high[lane] >> (pair * 2);
                self.codes[pair * 64 + lane] = (byte & 0x0F) | ((bits & 1) << 4);
                self.codes[pair * 64 + 32 + lane] = (byte >> 4) | ((bits & 2) << 3);
            }
        }
    }

    /// The header shared by `Q4_K` and `Q5_K`: eight 6-bit scales and minima in twelve bytes.
    fn decode_k_scales(&mut self, bytes: &[u8]) {
        self.super_scale = f16_at(bytes, 0);
        self.super_min = -f16_at(bytes, 2);
        let packed = &bytes[4..16];
        for group in 0..4 {
            self.sub_scale[group] = (packed[group] & 63) as i8;
            self.sub_min[group] = (packed[group + 4] & 63) as i8;
            let low = packed[group + 8];
            self.sub_scale[group + 4] = ((low & 0x0F) | ((packed[group] >> 6) << 4)) as i8;
            self.sub_min[group + 4] = ((low >> 4) | ((packed[group + 4] >> 6) << 4)) as i8;
        }
    }

    /// `ql[128]`, `qh[64]`, `scales[16]`, `d`.
    fn decode_q6k(&mut self, bytes: &[u8]) {
        let (low, rest) = bytes.split_at(128);
        let (high, rest) = rest.split_at(64);
        self.super_scale = f16_at(rest, 16);
        for (scale, &byte) in self.sub_scale.iter_mut().zip(rest) {
            *scale = byte as i8;
        }
        for (half, (low, high)) in low.chunks_exact(64).zip(high.chunks_exact(32)).enumerate() {
            let codes = &mut self.codes[half * 128..][..128];
            for lane in 0..32 {
                let bits = high[lane];
                // 0..=63 with zero at 32, moved to the family's zero of 128.
                codes[lane] = 96 + ((low[lane] & 0x0F) | ((bits & 3) << 4));
                codes[lane + 32] = 96 + ((low[lane + 32] & 0x0F) | (((bits >> 2) & 3) << 4));
                codes[lane + 64] = 96 + ((low[lane] >> 4) | (((bits >> 4) & 3) << 4));
                codes[lane + 96] = 96 + ((low[lane + 32] >> 4) | ((bits >> 6) << 4));
            }
        }
    }

    /// `d` (f32), `qs[256]`, `bsums[16]` (sums of the codes: derived, not part of the value).
    fn decode_q8k(&mut self, bytes: &[u8]) {
        self.super_scale = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        self.sub_scale = [1; 16];
        for (code, &byte) in self.codes.iter_mut().zip(&bytes[4..4 + SUPER]) {
            *code = byte ^ 0x80;
        }
    }
}

/// Dequantises (or widens) `bytes` of any GGML type into f32, with the bits ggml itself gives.
///
/// # Errors
/// [`QuantError::Ragged`] if `out` is not whole blocks, [`QuantError::Length`] if `bytes` is not exactly
/// the encoding of `out.len()` weights.
pub fn dequantise(dtype: GgmlDType, bytes: &[u8], out: &mut [f32]) -> Result<(), QuantError> {
    let expected = match Format::of(dtype) {
        Ok(format) => format.bytes(dtype, out.len())?,
        Err(_) => out.len().checked_mul(dtype.type_size()).ok_or(QuantError::TooLarge)?,
    };
    if bytes.len() != expected {
        return Err(QuantError::Length { dtype, count: out.len(), expected, actual: bytes.len() });
    }
    match dtype {
        GgmlDType::F32 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
                *value = f32::from_le_bytes(*raw);
            }
        }
        GgmlDType::F16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = f16::from_le_bytes(*raw).to_f32();
            }
        }
        GgmlDType::BF16 => {
            for (value, raw) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                *value = half::bf16::from_le_bytes(*raw).to_f32();
            }
        }
        _ => {
            let format = Format::of(dtype)?;
            let mut block = Block::default();
            for (values, raw) in out.chunks_mut(format.block).zip(bytes.chunks(format.block_bytes)) {
                block.decode(dtype, raw);
                block.values(format.family, values);
            }
        }
    }
    Ok(())
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn f16_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_bits(u16_at(bytes, at)).to_f32()
}
