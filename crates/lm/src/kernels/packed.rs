//! Weights in the order in which the matrix kernel reads them.

use half::{bf16, f16};

use super::pool::Pool;
use super::quant::QuantMatrix;
use super::weight_memory::WeightMemory;

/// Outputs in one panel.
pub(super) const PANEL: usize = 32;

/// How the weights are stored; the arithmetic is always f32 (both 16-bit kinds widen exactly).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PanelDtype {
    /// 32-bit floats.
    F32,
    /// bfloat16, rounded to nearest even when packed.
    Bf16,
    /// IEEE half precision, rounded to nearest even when packed.
    F16,
}

impl PanelDtype {
    fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

/// A weight matrix `[n outputs, k inputs]` in panels of 32 outputs: `[panel][k][32]`, padded with zeros.
///
/// Built once when a model is loaded, so that no product ever packs weights again.
#[derive(Debug)]
pub struct PackedMatrix {
    n: usize,
    k: usize,
    panels: Panels,
}

#[derive(Debug)]
pub(super) enum Panels {
    F32(WeightMemory<f32>),
    Bf16(WeightMemory<bf16>),
    F16(WeightMemory<f16>),
}

impl PackedMatrix {
    /// Packs row-major `rows` (`n * k` values).
    ///
    /// # Panics
    /// When `rows.len() != n * k`.
    #[must_use]
    pub fn from_rows(rows: &[f32], n: usize, k: usize, dtype: PanelDtype) -> Self {
        assert_eq!(rows.len(), n * k, "a packed matrix needs n * k weights");
        let packed = Self::build(n, k, dtype, |first, block| {
            block.copy_from_slice(&rows[first * k..first * k + block.len()]);
            Ok::<(), std::convert::Infallible>(())
        });
        match packed {
            Ok(packed) => packed,
            Err(never) => match never {},
        }
    }

    /// Packs rows that `fill` produces block by block, so that loading never holds two copies.
    ///
    /// `fill(first_row, block)` writes `block.len() / k` whole rows (at most 32), row-major; blocks come in order.
    ///
    /// # Errors
    /// The first error of `fill`.
    pub fn build<E>(
        n: usize,
        k: usize,
        dtype: PanelDtype,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<(), E>,
    ) -> Result<Self, E> {
        let len = n.div_ceil(PANEL) * PANEL * k;
        let mut panels = match dtype {
            PanelDtype::F32 => Panels::F32(WeightMemory::zeroed(len)),
            PanelDtype::Bf16 => Panels::Bf16(WeightMemory::zeroed(len)),
            PanelDtype::F16 => Panels::F16(WeightMemory::zeroed(len)),
        };
        let mut block = vec![0.0_f32; PANEL * k];
        for first in (0..n).step_by(PANEL) {
            let rows = &mut block[..PANEL.min(n - first) * k];
            fill(first, rows)?;
            let panel = first * k..(first + PANEL) * k;
            match &mut panels {
                Panels::F32(all) => interleave(rows, k, &mut all[panel], |value| value),
                Panels::Bf16(all) => interleave(rows, k, &mut all[panel], bf16::from_f32),
                Panels::F16(all) => interleave(rows, k, &mut all[panel], f16::from_f32),
            }
        }
        Ok(Self { n, k, panels })
    }

    /// An f32 matrix of zeros.
    #[must_use]
    pub fn zeros(n: usize, k: usize) -> Self {
        Self { n, k, panels: Panels::F32(WeightMemory::zeroed(n.div_ceil(PANEL) * PANEL * k)) }
    }

    /// Writes stacked quantised matrices as floats into this matrix, or their transposed, which must have its shape.
    ///
    /// # Panics
    /// When the shapes differ or this matrix is not f32.
    pub fn unpack(&mut self, pool: &Pool, parts: &[QuantMatrix], transposed: bool) {
        let (outputs, inputs) =
            (parts.iter().map(QuantMatrix::n).sum(), parts.first().map_or(0, QuantMatrix::k));
        let (n, k) = if transposed { (inputs, outputs) } else { (outputs, inputs) };
        assert_eq!((self.n, self.k), (n, k), "a matrix of another shape");
        let Panels::F32(panels) = &mut self.panels else { panic!("floats of 32 bits") };
        pool.for_each_part(panels, PANEL * k, &|panel, values| {
            if transposed {
                // A panel is one step of 32 inputs of every row.
                let rows = parts.iter().flat_map(|part| (0..part.n()).map(move |row| (part, row)));
                for ((part, row), slot) in rows.zip(values.chunks_exact_mut(PANEL)) {
                    part.row_step(row, panel, slot);
                }
                return;
            }
            let mut block = vec![0.0; PANEL * k];
            let rows = panel * PANEL..n.min((panel + 1) * PANEL);
            for (row, values) in rows.clone().zip(block.chunks_exact_mut(k)) {
                let mut place = row;
                for part in parts {
                    if place < part.n() {
                        part.row(place, values);
                        break;
                    }
                    place -= part.n();
                }
            }
            interleave(&block[..rows.len() * k], k, values, |value| value);
        });
    }

    /// The transposed matrix `[k, n]`, stored alike: what a gradient is multiplied with on its way back.
    #[must_use]
    pub fn transposed(&self) -> Self {
        match &self.panels {
            Panels::F32(all) => self.transposed_from(all, |value| value),
            Panels::Bf16(all) => self.transposed_from(all, bf16::to_f32),
            Panels::F16(all) => self.transposed_from(all, f16::to_f32),
        }
    }

    fn transposed_from<T: Copy>(&self, all: &[T], widen: impl Fn(T) -> f32) -> Self {
        let (n, k) = (self.n, self.k);
        let built = Self::build(k, n, self.dtype(), |first, block| {
            for (row, values) in block.chunks_exact_mut(n.max(1)).enumerate() {
                for (panel, values) in values.chunks_mut(PANEL).enumerate() {
                    let at = (panel * k + first + row) * PANEL;
                    for (value, stored) in values.iter_mut().zip(&all[at..]) {
                        *value = widen(*stored);
                    }
                }
            }
            Ok::<(), std::convert::Infallible>(())
        });
        match built {
            Ok(built) => built,
            Err(never) => match never {},
        }
    }

    /// Number of outputs (rows of the weight matrix).
    #[must_use]
    pub fn n(&self) -> usize {
        self.n
    }

    /// Number of inputs (columns of the weight matrix).
    #[must_use]
    pub fn k(&self) -> usize {
        self.k
    }

    /// How the weights are stored.
    #[must_use]
    pub fn dtype(&self) -> PanelDtype {
        match self.panels {
            Panels::F32(_) => PanelDtype::F32,
            Panels::Bf16(_) => PanelDtype::Bf16,
            Panels::F16(_) => PanelDtype::F16,
        }
    }

    /// Bytes of memory that an `[n, k]` matrix takes when packed.
    #[must_use]
    pub fn bytes_for(n: usize, k: usize, dtype: PanelDtype) -> usize {
        n.div_ceil(PANEL) * PANEL * k * dtype.bytes()
    }

    /// Bytes of memory held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        Self::bytes_for(self.n, self.k, self.dtype())
    }

    /// Writes row `index` (`k` values) to `out`: the embedding lookup where the head is tied to it.
    ///
    /// # Panics
    /// When `index >= n` or `out.len() != k`.
    pub fn row(&self, index: usize, out: &mut [f32]) {
        assert!(index < self.n && out.len() == self.k, "row {index} of {} into {} values", self.n, out.len());
        let start = (index / PANEL) * PANEL * self.k + index % PANEL;
        match &self.panels {
            Panels::F32(all) => gather(&all[start..], out, |value| value),
            Panels::Bf16(all) => gather(&all[start..], out, bf16::to_f32),
            Panels::F16(all) => gather(&all[start..], out, f16::to_f32),
        }
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }
}

/// `panel[j][r] = rows[r][j]`; columns of missing rows stay as they are (zero).
fn interleave<T: Copy>(rows: &[f32], k: usize, panel: &mut [T], convert: impl Fn(f32) -> T) {
    for (lane, row) in rows.chunks_exact(k.max(1)).enumerate() {
        for (slot, value) in panel.chunks_exact_mut(PANEL).zip(row) {
            slot[lane] = convert(*value);
        }
    }
}

fn gather<T: Copy>(panel: &[T], out: &mut [f32], convert: impl Fn(T) -> f32) {
    for (value, slot) in out.iter_mut().zip(panel.iter().step_by(PANEL)) {
        *value = convert(*slot);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_come_back_as_they_went_in() {
        for (n, k) in [(1, 1), (5, 3), (32, 7), (33, 64), (100, 10)] {
            let rows: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 - 100.0).collect();
            for dtype in [PanelDtype::F32, PanelDtype::Bf16, PanelDtype::F16] {
                let packed = PackedMatrix::from_rows(&rows, n, k, dtype);
                assert_eq!((packed.n(), packed.k(), packed.dtype()), (n, k, dtype));
                assert_eq!(packed.bytes(), n.div_ceil(32) * 32 * k * dtype.bytes());
                let mut out = vec![0.0; k];
                for row in 0..n {
                    packed.row(row, &mut out);
                    assert_eq!(out, rows[row * k..(row + 1) * k]);
                }
            }
        }
    }

    #[test]
    fn transposing_swaps_rows_and_columns() {
        for (n, k) in [(1, 1), (5, 3), (33, 64), (70, 40)] {
            let rows: Vec<f32> = (0..n * k).map(|i| (i % 251) as f32 - 100.0).collect();
            for dtype in [PanelDtype::F32, PanelDtype::Bf16, PanelDtype::F16] {
                let transposed = PackedMatrix::from_rows(&rows, n, k, dtype).transposed();
                assert_eq!((transposed.n(), transposed.k(), transposed.dtype()), (k, n, dtype));
                let mut out = vec![0.0; n];
                for column in 0..k {
                    transposed.row(column, &mut out);
                    assert!(out.iter().enumerate().all(|(row, value)| *value == rows[row * k + column]));
                }
            }
        }
    }

    #[test]
    fn a_failing_source_is_reported() {
        let result =
            PackedMatrix::build(
                64,
                2,
                PanelDtype::F32,
                |first, _| if first == 32 { Err("bad") } else { Ok(()) },
            );
        assert_eq!(result.err(), Some("bad"));
    }
}
