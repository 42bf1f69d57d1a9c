//! The engine on a GPU, where there is one; a visible skip otherwise.

use evalign_core::Dtype;
use serde_json::json;

use super::tiny::{self, PLENTY};
use crate::backend::CandleBackend;
use crate::decoder::Decoder;
use crate::weights::open_safetensors;
use crate::{DeviceSpec, LmError, ScoreItem};

/// Items that share prefixes, longer than the window of the second model.
fn items() -> Vec<ScoreItem> {
    let text: Vec<u32> = (0..40).map(|at| (at * 29 + 7) % 96).collect();
    [5, 17, 30]
        .map(|cut| ScoreItem {
            context: text[..cut].to_vec(),
            continuations: vec![text[cut..cut + 3].to_vec(), vec![1, 2, 3, 4]],
        })
        .into()
}

#[test]
fn a_gpu_scores_as_the_cpu_does() {
    let mut windowed = tiny::llama();
    windowed["model_type"] = json!("mistral");
    windowed["sliding_window"] = json!(5);
    let mut qwen = tiny::llama();
    qwen["model_type"] = json!("qwen3");
    for config in [tiny::llama(), windowed, qwen] {
        let directory = tiny::directory(&config);
        let expected = tiny::sums(&tiny::scores(&tiny::cpu(directory.path()), PLENTY, &items()));
        // Of at most four tokens each.
        for (dtype, limit) in [(Dtype::F32, 1e-3), (Dtype::Bf16, 0.4)] {
            let backend = match CandleBackend::new(DeviceSpec::Cuda(0), dtype) {
                Err(LmError::Device(reason)) => {
                    return evalign_testkit::skipped("the engine on a GPU", &reason);
                }
                other => other.unwrap(),
            };
            let (weights, config) = open_safetensors(directory.path()).unwrap();
            let decoder = Decoder::load(backend, config, &weights, 2).unwrap();
            let found = tiny::sums(&tiny::scores(&decoder, PLENTY, &items()));
            for (found, expected) in found.iter().zip(&expected) {
                assert!((found - expected).abs() < limit, "{dtype:?}: {found} {expected}");
            }
        }
    }
}
