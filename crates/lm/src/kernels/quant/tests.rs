//! The kernels against candle's dequantisation, a 64-bit reference, and each other.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use proptest::prelude::*;

use super::activations::tiles;
use super::{QuantActivations, QuantError, QuantMatrix, dequantise, quant_stacked};
use crate::kernels::{Isa, Pool};

/// Every block type, with candle's block length.
const TYPES: [GgmlDType; 12] = [
    GgmlDType::Q4_0,
    GgmlDType::Q4_1,
    GgmlDType::Q5_0,
    GgmlDType::Q5_1,
    GgmlDType::Q8_0,
    GgmlDType::Q8_1,
    GgmlDType::Q2K,
    GgmlDType::Q3K,
    GgmlDType::Q4K,
    GgmlDType::Q5K,
    GgmlDType::Q6K,
    GgmlDType::Q8K,
];

/// Reproducible numbers in -1..1, roughly bell-shaped.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1_u64 << 24) as f32
    };
    (0..len).map(|_| next() + next() - 1.0).collect()
}

/// Bytes of a quantised tensor and candle's own dequantisation of them.
fn candle_tensor(dtype: GgmlDType, values: &[f32], n: usize, k: usize) -> (Vec<u8>, Vec<f32>) {
    let tensor = Tensor::from_slice(values, (n, k), &Device::Cpu).unwrap();
    let quantised = QTensor::quantize(&tensor, dtype).unwrap();
    let bytes = quantised.data().unwrap().into_owned();
    let floats = quantised.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
    (bytes, floats)
}

/// Random bytes are valid blocks of every type; only the float fields are kept finite.
fn random_blocks(dtype: GgmlDType, seed: u64, count: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = noise(seed, count / dtype.block_size() * dtype.type_size())
        .iter()
        .map(|v| (v * 4096.0) as i32 as u8)
        .collect();
    let f16_fields: &[usize] = match dtype {
        GgmlDType::Q4_0 | GgmlDType::Q5_0 | GgmlDType::Q8_0 => &[0],
        GgmlDType::Q4_1 | GgmlDType::Q5_1 | GgmlDType::Q8_1 | GgmlDType::Q4K | GgmlDType::Q5K => &[0, 2],
        GgmlDType::Q2K => &[80, 82],
        GgmlDType::Q3K => &[108],
        GgmlDType::Q6K => &[208],
        _ => &[],
    };
    for block in bytes.chunks_mut(dtype.type_size()) {
        for &at in f16_fields {
            // Sign and mantissa stay random; the exponent is that of 0.03 to 2.
            block[at + 1] = (block[at + 1] & 0x83) | 0x28 | (block[at + 1] & 0x14);
        }
        if dtype == GgmlDType::Q8K {
            block[3] = 0x3C | (block[3] & 0x80);
        }
    }
    bytes
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

fn linear(pool: &Pool, matrix: &QuantMatrix, x: &[f32], rows: usize) -> Vec<f32> {
    let mut out = vec![f32::NAN; rows * matrix.n()];
    let mut scratch = QuantActivations::new();
    scratch.quantise(pool, x, rows, matrix.k());
    quant_stacked(pool, &scratch, std::slice::from_ref(matrix), None, &mut out, false);
    out
}

fn scalar_pool() -> Pool {
    Pool::with_isa(Some(1), Isa::scalar()).unwrap()
}

/// The activations as the kernels see them, independently of the production code.
fn quantised_row(x: &[f32]) -> Vec<f64> {
    x.chunks(32)
        .flat_map(|block| {
            let scale = block.iter().fold(0.0_f32, |most, v| most.max(v.abs())) / 127.0;
            let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
            block.iter().map(move |v| f64::from((v * inverse).round_ties_even()) * f64::from(scale))
        })
        .collect()
}

#[test]
fn every_type_dequantises_to_candles_bits() {
    for dtype in TYPES {
        let (n, k) = (5, 512);
        let values: Vec<f32> = noise(7, n * k).iter().map(|v| v * 0.2).collect();
        let (bytes, expected) = candle_tensor(dtype, &values, n, k);
        let mut ours = vec![0.0; n * k];
        dequantise(dtype, &bytes, &mut ours).unwrap();
        assert_eq!(bits(&ours), bits(&expected), "{dtype:?}");
        let worst = ours.iter().zip(&values).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(worst < 0.1, "{dtype:?} is {worst} off");
    }
}

#[test]
fn random_bytes_dequantise_to_candles_bits() {
    for dtype in TYPES {
        for seed in 1..20 {
            let count = 1024;
            let bytes = random_blocks(dtype, seed, count);
            let storage =
                candle_core::quantized::QStorage::from_data(bytes.clone().into(), &Device::Cpu, dtype)
                    .unwrap();
            let tensor = QTensor::new(storage, (1, count)).unwrap();
            let expected: Vec<f32> =
                tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            let mut ours = vec![0.0; count];
            dequantise(dtype, &bytes, &mut ours).unwrap();
            assert_eq!(bits(&ours), bits(&expected), "{dtype:?}");
        }
    }
}

#[test]
fn plain_floats_widen_exactly() {
    let values = noise(3, 40);
    let f16: Vec<u8> = values.iter().flat_map(|v| half::f16::from_f32(*v).to_le_bytes()).collect();
    let bf16: Vec<u8> = values.iter().flat_map(|v| half::bf16::from_f32(*v).to_le_bytes()).collect();
    let f32: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    let mut out = vec![0.0; 40];
    dequantise(GgmlDType::F32, &f32, &mut out).unwrap();
    assert_eq!(out, values);
    dequantise(GgmlDType::F16, &f16, &mut out).unwrap();
    assert_eq!(out[7], half::f16::from_f32(values[7]).to_f32());
    dequantise(GgmlDType::BF16, &bf16, &mut out).unwrap();
    assert_eq!(out[39], half::bf16::from_f32(values[39]).to_f32());
}

#[test]
fn repacked_rows_are_the_dequantised_rows() {
    for dtype in TYPES {
        for n in [1, 16, 17, 33] {
            let k = if dtype.block_size() == 256 { 768 } else { 96 };
            let bytes = random_blocks(dtype, n as u64, n * k);
            let mut expected = vec![0.0; n * k];
            dequantise(dtype, &bytes, &mut expected).unwrap();
            let matrix = QuantMatrix::from_ggml(dtype, &bytes, n, k).unwrap();
            let mut row = vec![0.0; k];
            for (index, expected) in expected.chunks(k).enumerate() {
                matrix.row(index, &mut row);
                assert_eq!(bits(&row), bits(expected), "{dtype:?} row {index} of {n}");
            }
        }
    }
}

#[test]
fn products_match_a_double_precision_reference() {
    let pool = Pool::new(Some(2)).unwrap();
    for dtype in TYPES {
        for (n, rows) in [(1, 1), (16, 2), (37, 3), (65, 13)] {
            let k = if dtype.block_size() == 256 { 512 } else { 224 };
            let (bytes, weights) = candle_tensor(dtype, &noise(n as u64, n * k), n, k);
            let matrix = QuantMatrix::from_ggml(dtype, &bytes, n, k).unwrap();
            let x = noise(99, rows * k);
            let out = linear(&pool, &matrix, &x, rows);
            for (row, x) in x.chunks(k).enumerate() {
                let x = quantised_row(x);
                for (column, weights) in weights.chunks(k).enumerate() {
                    let expected: f64 = x.iter().zip(weights).map(|(x, w)| x * f64::from(*w)).sum();
                    let magnitude: f64 = x.iter().zip(weights).map(|(x, w)| (x * f64::from(*w)).abs()).sum();
                    let ours = f64::from(out[row * n + column]);
                    let error = (ours - expected).abs() / magnitude.max(1e-30);
                    assert!(error < 2e-6, "{dtype:?} [{row}, {column}]: {ours}, not {expected}");
                }
            }
        }
    }
}

#[test]
fn instruction_sets_and_thread_counts_give_the_same_bits() {
    let scalar = scalar_pool();
    for dtype in TYPES {
        let (n, rows) = (83, 15);
        let k = if dtype.block_size() == 256 { 512 } else { 160 };
        let matrix = QuantMatrix::from_ggml(dtype, &random_blocks(dtype, 5, n * k), n, k).unwrap();
        let x: Vec<f32> = noise(11, rows * k).iter().map(|v| v * 30.0).collect();
        let expected = linear(&scalar, &matrix, &x, rows);
        assert!(expected.iter().all(|v| v.is_finite()), "{dtype:?}");
        for isa in Isa::available() {
            for threads in [1, 3] {
                let pool = Pool::with_isa(Some(threads), isa).unwrap();
                let out = linear(&pool, &matrix, &x, rows);
                assert_eq!(bits(&out), bits(&expected), "{dtype:?} with {} x {threads}", isa.name());
            }
        }
    }
}

/// The largest codes and activations: where 16-bit products would saturate.
#[test]
fn extreme_codes_do_not_saturate() {
    let (n, k) = (16, 64);
    for fill in [0x00_u8, 0x7F, 0x80, 0xFF] {
        for dtype in [GgmlDType::Q8_0, GgmlDType::Q5_1, GgmlDType::Q4_1, GgmlDType::Q4_0, GgmlDType::Q5_0] {
            let mut bytes = vec![fill; n * k / 32 * dtype.type_size()];
            for block in bytes.chunks_mut(dtype.type_size()) {
                block[..2].copy_from_slice(&half::f16::ONE.to_le_bytes());
                if matches!(dtype, GgmlDType::Q4_1 | GgmlDType::Q5_1) {
                    block[2..4].copy_from_slice(&half::f16::from_f32(-3.0).to_le_bytes());
                }
            }
            let matrix = QuantMatrix::from_ggml(dtype, &bytes, n, k).unwrap();
            let mut weights = vec![0.0; k];
            matrix.row(0, &mut weights);
            for sign in [1.0, -1.0] {
                let x = vec![127.0 * sign; k];
                let expected: f32 = weights.iter().map(|w| w * 127.0 * sign).sum();
                for isa in Isa::available() {
                    let out = linear(&Pool::with_isa(Some(1), isa).unwrap(), &matrix, &x, 1);
                    assert_eq!(out, vec![expected; n], "{dtype:?} {fill:#x} with {}", isa.name());
                }
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let pool = Pool::new(Some(2)).unwrap();
    for dtype in [GgmlDType::Q4_1, GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q4K] {
        let (n, k, rows) = (130, 512, 200);
        let matrix = QuantMatrix::from_ggml(dtype, &random_blocks(dtype, 21, n * k), n, k).unwrap();
        let x = noise(17, rows * k);
        let together = linear(&pool, &matrix, &x, rows);
        for (row, x) in x.chunks(k).enumerate() {
            assert_eq!(
                bits(&linear(&pool, &matrix, x, 1)),
                bits(&together[row * n..][..n]),
                "{dtype:?} row {row}"
            );
        }
        let tail = linear(&pool, &matrix, &x[5 * k..18 * k], 13);
        assert_eq!(bits(&tail), bits(&together[5 * n..18 * n]), "{dtype:?}");
    }
}

#[test]
fn stacked_parts_are_one_matrix() {
    let pool = Pool::new(Some(2)).unwrap();
    let (k, rows) = (256, 11);
    let parts: Vec<QuantMatrix> = [(GgmlDType::Q4K, 24), (GgmlDType::Q6K, 5), (GgmlDType::Q4_1, 33)]
        .into_iter()
        .map(|(dtype, n)| QuantMatrix::from_ggml(dtype, &random_blocks(dtype, 6, n * k), n, k).unwrap())
        .collect();
    let x = noise(14, rows * k);
    let apart: Vec<Vec<f32>> = parts.iter().map(|matrix| linear(&pool, matrix, &x, rows)).collect();
    let (bias, residual) = (noise(15, 62), noise(16, rows * 62));
    let mut scratch = QuantActivations::new();
    scratch.quantise(&pool, &x, rows, k);
    let mut out = residual.clone();
    quant_stacked(&pool, &scratch, &parts, Some(&bias), &mut out, true);
    for (row, (out, residual)) in out.chunks(62).zip(residual.chunks(62)).enumerate() {
        let together = parts.iter().zip(&apart).flat_map(|(part, out)| &out[row * part.n()..][..part.n()]);
        let expected: Vec<f32> =
            together.zip(&bias).zip(residual).map(|((v, bias), residual)| residual + (v + bias)).collect();
        assert_eq!(bits(out), bits(&expected), "row {row}");
    }
}

#[test]
fn scratch_is_reusable_and_blocks_of_zeros_or_nan_are_contained() {
    let pool = Pool::new(Some(2)).unwrap();
    let (n, k) = (16, 64);
    let bytes = random_blocks(GgmlDType::Q4_1, 1, n * k);
    let matrix = QuantMatrix::from_ggml(GgmlDType::Q4_1, &bytes, n, k).unwrap();
    let mut scratch = QuantActivations::new();
    let big = noise(1, 9 * k);
    scratch.quantise(&pool, &big, 9, k);
    let mut out = vec![1.0; n];
    scratch.quantise(&pool, &vec![0.0; k], 1, k);
    quant_stacked(&pool, &scratch, std::slice::from_ref(&matrix), None, &mut out, false);
    assert_eq!(out, vec![0.0; n]);
    let mut x = noise(2, 2 * k);
    let clean = linear(&pool, &matrix, &x, 2);
    for poison in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        x[k + 3] = poison;
        let out = linear(&pool, &matrix, &x, 2);
        assert_eq!(bits(&out[..n]), bits(&clean[..n]));
        assert!(out[n..].iter().all(|v| v.is_nan()), "{poison}");
    }
    let tiny = vec![f32::from_bits(1); k];
    assert!(linear(&pool, &matrix, &tiny, 1).iter().all(|v| *v == 0.0));
    assert!(linear(&pool, &matrix, &[], 0).is_empty());
}

#[test]
fn malformed_input_is_an_error() {
    let bytes = random_blocks(GgmlDType::Q4_1, 1, 64 * 4);
    let load = |bytes: &[u8], n, k| QuantMatrix::from_ggml(GgmlDType::Q4_1, bytes, n, k).map(|_| ());
    assert_eq!(load(&bytes, 4, 64), Ok(()));
    let short = &bytes[..bytes.len() - 1];
    assert!(matches!(load(short, 4, 64), Err(QuantError::Length { expected: 160, actual: 159, .. })));
    assert!(matches!(load(&[], 4, 64), Err(QuantError::Length { actual: 0, .. })));
    assert!(matches!(load(&bytes, 5, 64), Err(QuantError::Length { .. })));
    assert!(matches!(load(&bytes, 4, 63), Err(QuantError::Ragged { block: 32, .. })));
    assert!(matches!(load(&bytes, 0, 64), Err(QuantError::Empty { .. })));
    assert!(matches!(load(&bytes, 4, 0), Err(QuantError::Empty { .. })));
    assert_eq!(load(&bytes, usize::MAX, 64), Err(QuantError::TooLarge));
    assert!(matches!(
        load(&bytes, 4, usize::MAX - 31),
        Err(QuantError::TooLarge | QuantError::Length { .. })
    ));
    let floats = QuantMatrix::from_ggml(GgmlDType::F16, &bytes, 4, 20).map(|_| ());
    assert_eq!(floats, Err(QuantError::NotQuantised { dtype: GgmlDType::F16 }));
    let mut out = vec![0.0; 33];
    assert!(matches!(dequantise(GgmlDType::Q4_1, &bytes, &mut out), Err(QuantError::Ragged { .. })));
    assert!(matches!(dequantise(GgmlDType::F32, &bytes, &mut out), Err(QuantError::Length { .. })));
    let error = load(short, 4, 64).unwrap_err();
    assert_eq!(error.to_string(), "256 weights of Q4_1 take 160 bytes, not 159");
}

#[test]
fn tiles_cover_the_rows_and_agree_on_every_cut() {
    for rows in 0..60 {
        let whole: Vec<_> = tiles(0, rows).collect();
        let mut next = 0;
        for tile in &whole {
            assert_eq!(tile.first, next);
            next += tile.height;
        }
        assert_eq!(next, rows);
        for cut in (0..=rows).step_by(8) {
            let parts: Vec<_> = tiles(0, cut).chain(tiles(cut, rows)).collect();
            assert_eq!(parts, whole);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any shape, any type, any scale of activations: SIMD equals portable Rust, bit for bit.
    #[test]
    fn simd_equals_scalar(
        dtype in proptest::sample::select(TYPES.to_vec()),
        n in 1_usize..70, blocks in 1_usize..4, rows in 1_usize..20,
        seed in 1_u64..1 << 40, exponent in -12_i32..12,
    ) {
        let k = blocks * dtype.block_size();
        let matrix = QuantMatrix::from_ggml(dtype, &random_blocks(dtype, seed, n * k), n, k).unwrap();
        let x: Vec<f32> = noise(seed + 1, rows * k).iter().map(|v| v * 10.0_f32.powi(exponent)).collect();
        let expected = linear(&scalar_pool(), &matrix, &x, rows);
        for isa in Isa::available() {
            let pool = Pool::with_isa(Some(2), isa).unwrap();
            prop_assert_eq!(bits(&linear(&pool, &matrix, &x, rows)), bits(&expected));
        }
    }
}
