//! Every family against transformers, on both backends: what one backend can do, the other must do too.

use candle_core::quantized::GgmlDType;
use evalign_core::Dtype;
use serde_json::Value;

use super::tiny::{self, PLENTY};
use crate::rope::RopePairing;

fn largest_difference(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max)
}

/// The fixture comes from `families.py` beside this file.
#[test]
fn every_family_agrees_with_transformers_on_both_backends() {
    let fixture: Value = serde_json::from_str(include_str!("families.json")).unwrap();
    let tokens: Vec<u32> = serde_json::from_value(fixture["tokens"].clone()).unwrap();
    let items = tiny::next_token_items(&tokens);
    for family in fixture["families"].as_array().unwrap() {
        let name = family["name"].as_str().unwrap();
        let expected: Vec<f64> = serde_json::from_value(family["logprobs"].clone()).unwrap();
        let directory = tiny::directory(&family["config"]);
        let cpu = tiny::sums(&tiny::scores(&tiny::cpu(directory.path()), PLENTY, &items));
        let candle = tiny::sums(&tiny::scores(&tiny::candle(directory.path()), PLENTY, &items));
        let (a, b) = (largest_difference(&cpu, &expected), largest_difference(&candle, &expected));
        assert!(a < 1e-4, "{name}: kernels are {a} from transformers");
        assert!(b < 1e-4, "{name}: candle is {b} from transformers");
    }
}

#[test]
fn backends_agree_on_gguf_with_neighbouring_pairs() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 29 + 3) % 96).collect();
    let items = tiny::next_token_items(&tokens);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    for kind in [GgmlDType::F32, GgmlDType::F16, GgmlDType::Q4_1, GgmlDType::Q8_0] {
        tiny::write_gguf(&path, kind, &[]);
        let decoder = tiny::cpu_gguf(&path, Dtype::F32);
        assert_eq!(decoder.config.rope.pairing, RopePairing::Interleaved);
        let cpu = tiny::sums(&tiny::scores(&decoder, PLENTY, &items));
        let candle = tiny::sums(&tiny::scores(&tiny::candle_gguf(&path, Dtype::F32), PLENTY, &items));
        let difference = largest_difference(&cpu, &candle);
        assert!(difference < 1e-4, "{kind:?}: {difference}");
    }
}

/// Quantised products round activations to 8 bits, each backend in its own way, so they agree with the
/// dequantised weights and each other only roughly.
#[test]
fn quantised_weights_stay_close_to_dequantised_ones() {
    let tokens: Vec<u32> = (0..40).map(|i| (i * 31 + 5) % 96).collect();
    let items = tiny::next_token_items(&tokens);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    for kind in [GgmlDType::Q4_0, GgmlDType::Q5_1, GgmlDType::Q8_0] {
        tiny::write_gguf(&path, kind, &[]);
        let exact = tiny::sums(&tiny::scores(&tiny::cpu_gguf(&path, Dtype::F32), PLENTY, &items));
        let cpu = tiny::sums(&tiny::scores(&tiny::cpu_gguf(&path, Dtype::Q), PLENTY, &items));
        let candle = tiny::sums(&tiny::scores(&tiny::candle_gguf(&path, Dtype::Q), PLENTY, &items));
        let (a, b) = (largest_difference(&cpu, &exact), largest_difference(&candle, &exact));
        assert!(a > 0.0 && a < 0.5, "{kind:?}: kernels {a}");
        assert!(b > 0.0 && b < 0.5, "{kind:?}: candle {b}");
    }
}

#[test]
fn half_precision_weights_are_close() {
    let tokens: Vec<u32> = (0..30).map(|i| (i * 7 + 1) % 96).collect();
    let items = tiny::next_token_items(&tokens);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("tiny.gguf");
    tiny::write_gguf(&path, GgmlDType::F32, &[]);
    let exact = tiny::sums(&tiny::scores(&tiny::cpu_gguf(&path, Dtype::F32), PLENTY, &items));
    for (dtype, tolerance) in [(Dtype::Bf16, 0.3), (Dtype::F16, 0.03)] {
        let rounded = tiny::sums(&tiny::scores(&tiny::cpu_gguf(&path, dtype), PLENTY, &items));
        let difference = largest_difference(&exact, &rounded);
        assert!(difference > 0.0 && difference < tolerance, "{dtype:?}: {difference}");
    }
}
