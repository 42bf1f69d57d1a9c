//! The kernel in portable Rust: the definition the SIMD kernels must equal bit for bit.

use super::activations::TileRows;
use super::format::{Family, STEP};
use super::layout::{Accumulators, Layout};
use super::matrix::{LINE, PANEL, Panel};

/// Inputs in a line of codes.
const QUAD: usize = 4;

/// `R` rows times one panel.
///
/// For each output, over the groups `g` in order of input position:
/// `acc = fma(float(dot) * weight scale, activation scale, acc)`, where `dot` is the exact integer dot
/// product of the codes with the zero point taken out, then, where groups have minima,
/// `acc = fma(minimum, activation scale * sum of the activation codes, acc)`.
pub(super) fn tile<L: Layout, const R: usize>(
    panel: &Panel<'_>,
    rows: &TileRows<'_>,
    out: &mut Accumulators,
) {
    let family = L::FAMILY;
    let groups_per_step = STEP / family.group();
    let mut acc = [[0.0_f32; PANEL]; R];
    for step in 0..rows.steps {
        let codes = &panel.codes[step * family.step_bytes()..][..family.step_bytes()];
        for half in 0..groups_per_step {
            let mut dots = [[0_i32; PANEL]; R];
            for quad in 0..family.group() / QUAD {
                let quad = half * family.group() / QUAD + quad;
                let weights = signed_codes(family, codes, quad);
                for (r, dots) in dots.iter_mut().enumerate() {
                    let x = &rows.codes[(step * rows.stride + r) * STEP + quad * QUAD..][..QUAD];
                    add_dots(dots, &weights, x);
                }
            }
            let group = step * groups_per_step + half;
            let (scales, minima) = group_scales(panel, family, group);
            for (r, (acc, dots)) in acc.iter_mut().zip(&dots).enumerate() {
                let (x_scale, x_sum) =
                    (rows.scales[step * rows.stride + r], rows.sums[group * rows.stride + r]);
                for lane in 0..PANEL {
                    acc[lane] = (dots[lane] as f32 * scales[lane]).mul_add(x_scale, acc[lane]);
                    if family.affine() {
                        acc[lane] = minima[lane].mul_add(x_sum, acc[lane]);
                    }
                }
            }
        }
    }
    out.0[..R].copy_from_slice(&acc);
}

/// The codes of inputs `4 * quad ..+ 4` of a step, less their zero point, for sixteen rows.
fn signed_codes(family: Family, codes: &[u8], quad: usize) -> [i16; LINE] {
    let zero = i16::from(family.zero());
    let mut weights = [0; LINE];
    let (line, shift, mask) = match (family.bits(), quad) {
        (8, _) => (quad, 0, 0xFF),
        (_, 0..QUAD) => (quad, 0, 0x0F),
        _ => (quad - QUAD, 4, 0x0F),
    };
    for (weight, code) in weights.iter_mut().zip(&codes[line * LINE..][..LINE]) {
        *weight = i16::from((code >> shift) & mask) - zero;
    }
    weights
}

/// Adds the products of four inputs, for sixteen rows.
fn add_dots(dots: &mut [i32; PANEL], weights: &[i16; LINE], x: &[i8]) {
    for (dot, weights) in dots.iter_mut().zip(weights.as_chunks::<QUAD>().0) {
        for (&weight, &x) in weights.iter().zip(x) {
            *dot += i32::from(weight) * i32::from(x);
        }
    }
}

/// Scales and minima of a group, for sixteen rows.
fn group_scales(panel: &Panel<'_>, family: Family, group: usize) -> ([f32; PANEL], [f32; PANEL]) {
    let (mut scales, mut minima) = ([0.0; PANEL], [0.0; PANEL]);
    for (lane, (scale, min)) in scales.iter_mut().zip(&mut minima).enumerate() {
        (*scale, *min) = panel.scale(family, group, lane);
    }
    (scales, minima)
}
