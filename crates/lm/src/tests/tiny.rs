//! Tiny models whose weights are a function of tensor name and index (see `families.py`).

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use candle_core::quantized::gguf_file::{self, Value as Metadata};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use evalign_core::Dtype;
use safetensors::tensor::TensorView;
use serde_json::{Value, json};

use crate::backend::{CandleBackend, CpuBackend, DecoderBackend};
use crate::decoder::Decoder;
use crate::weights::{open_gguf, open_safetensors};
use crate::{ChoiceScore, DeviceSpec, EngineStats, Event, LmError, ScoreItem, ScoreOutput, Tokenizer, score};

pub(super) const PLENTY: u64 = 1 << 30;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(crate) fn weights(name: &str, length: usize) -> Vec<f32> {
    let seed = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325u64, |seed, byte| (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (1..=length as u64)
        .map(|index| {
            let bits = mix(seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
            let uniform = (bits >> 40) as f32 / 16_777_216.0 - 0.5;
            if name.contains("norm") { uniform + 1.0 } else { uniform * 0.75 }
        })
        .collect()
}

/// Names and shapes of a Hugging Face checkpoint of this configuration.
fn tensors(config: &Value) -> Vec<(String, Vec<usize>)> {
    let size = |key: &str| config[key].as_u64().unwrap() as usize;
    let flag = |key: &str| config[key].as_bool().unwrap_or(false);
    let (hidden, inner, vocabulary) = (size("hidden_size"), size("intermediate_size"), size("vocab_size"));
    let heads = size("num_attention_heads");
    let head_dim = config["head_dim"].as_u64().map_or(hidden / heads, |dim| dim as usize);
    let (queries, keys) = (heads * head_dim, size("num_key_value_heads") * head_dim);
    let mut all = vec![("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden])];
    if !flag("tie_word_embeddings") {
        all.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    }
    all.push(("model.norm.weight".to_owned(), vec![hidden]));
    let qwen2 = config["model_type"] == "qwen2";
    for layer in 0..size("num_hidden_layers") {
        let mut add =
            |name: &str, shape: Vec<usize>| all.push((format!("model.layers.{layer}.{name}"), shape));
        add("input_layernorm.weight", vec![hidden]);
        add("post_attention_layernorm.weight", vec![hidden]);
        for (name, outputs, inputs, bias) in [
            ("self_attn.q_proj", queries, hidden, qwen2 || flag("attention_bias")),
            ("self_attn.k_proj", keys, hidden, qwen2 || flag("attention_bias")),
            ("self_attn.v_proj", keys, hidden, qwen2 || flag("attention_bias")),
            ("self_attn.o_proj", hidden, queries, flag("attention_bias")),
            ("mlp.gate_proj", inner, hidden, flag("mlp_bias")),
            ("mlp.up_proj", inner, hidden, flag("mlp_bias")),
            ("mlp.down_proj", hidden, inner, flag("mlp_bias")),
        ] {
            add(&format!("{name}.weight"), vec![outputs, inputs]);
            if bias {
                add(&format!("{name}.bias"), vec![outputs]);
            }
        }
        if config["model_type"] == "qwen3" {
            add("self_attn.q_norm.weight", vec![head_dim]);
            add("self_attn.k_norm.weight", vec![head_dim]);
        }
    }
    all
}

pub(crate) fn llama() -> Value {
    json!({
        "model_type": "llama", "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": true
    })
}

/// Writes `config.json`, a tokeniser, and the weights in one file or in two shards with an index.
pub(super) fn write_directory(directory: &Path, config: &Value, sharded: bool) {
    fs_err::write(directory.join("config.json"), config.to_string()).unwrap();
    fs_err::write(directory.join("tokenizer.json"), tokenizer_json(96).to_string()).unwrap();
    let data: Vec<(String, Vec<usize>, Vec<u8>)> = tensors(config)
        .into_iter()
        .map(|(name, shape)| {
            let values = weights(&name, shape.iter().product());
            (name, shape, values.iter().flat_map(|value| value.to_le_bytes()).collect())
        })
        .collect();
    let write = |part: &[(String, Vec<usize>, Vec<u8>)], file: &str| {
        let views = part.iter().map(|(name, shape, bytes)| {
            (name.clone(), TensorView::new(safetensors::Dtype::F32, shape.clone(), bytes).unwrap())
        });
        fs_err::write(directory.join(file), safetensors::serialize(views, None).unwrap()).unwrap();
    };
    if !sharded {
        return write(&data, "model.safetensors");
    }
    let (first, second) = data.split_at(data.len() / 2);
    let mut map = serde_json::Map::new();
    for (part, file) in [(first, "model-1.safetensors"), (second, "model-2.safetensors")] {
        write(part, file);
        map.extend(part.iter().map(|(name, ..)| (name.clone(), json!(file))));
    }
    fs_err::write(directory.join("model.safetensors.index.json"), json!({"weight_map": map}).to_string())
        .unwrap();
}

fn tokenizer_json(size: usize) -> Value {
    let vocab: serde_json::Map<String, Value> = (0..size).map(|id| (format!("t{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "t0"}
    })
}

pub(super) fn tokenizer(directory: &Path) -> Tokenizer {
    Tokenizer::from_directory(directory).unwrap()
}

/// A directory that lives as long as the test.
pub(crate) fn directory(config: &Value) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    write_directory(directory.path(), config, false);
    directory
}

/// Names, shapes and values to a file.
pub(crate) fn write_tensors(path: &Path, tensors: Vec<(String, Vec<usize>, Vec<f32>)>) {
    let (named, values): (Vec<_>, Vec<_>) =
        tensors.into_iter().map(|(name, shape, values)| ((name, shape), values)).unzip();
    let values = |index: usize| Ok::<_, std::io::Error>(Cow::Borrowed(values[index].as_slice()));
    crate::write_tensors(path, &named, values).unwrap();
}

/// Writes a GGUF file of a llama with the given block type; sizes are multiples of 32.
pub(super) fn write_gguf(path: &Path, kind: GgmlDType, changes: &[(&str, Metadata)]) {
    let text = |value: &str| Metadata::String(value.to_owned());
    let mut metadata: HashMap<String, Metadata> = [
        ("general.architecture", text("llama")),
        ("llama.embedding_length", Metadata::U32(64)),
        ("llama.block_count", Metadata::U32(2)),
        ("llama.feed_forward_length", Metadata::U32(128)),
        ("llama.attention.head_count", Metadata::U32(4)),
        ("llama.attention.head_count_kv", Metadata::U32(2)),
        ("llama.context_length", Metadata::U32(128)),
        ("llama.attention.layer_norm_rms_epsilon", Metadata::F32(1e-5)),
        ("llama.rope.freq_base", Metadata::F32(1e4)),
    ]
    .into_iter()
    .map(|(key, value)| (key.to_owned(), value))
    .collect();
    metadata.extend(changes.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
    let mut shapes =
        vec![("token_embd.weight".to_owned(), vec![96, 64]), ("output_norm.weight".to_owned(), vec![64])];
    for layer in 0..2 {
        for (name, shape) in [
            ("attn_norm", vec![64]),
            ("ffn_norm", vec![64]),
            ("attn_q", vec![64, 64]),
            ("attn_k", vec![32, 64]),
            ("attn_v", vec![32, 64]),
            ("attn_output", vec![64, 64]),
            ("ffn_gate", vec![128, 64]),
            ("ffn_up", vec![128, 64]),
            ("ffn_down", vec![64, 128]),
        ] {
            shapes.push((format!("blk.{layer}.{name}.weight"), shape));
        }
    }
    let quantised: Vec<(String, QTensor)> = shapes
        .into_iter()
        .map(|(name, shape)| {
            let kind = if shape.len() == 1 { GgmlDType::F32 } else { kind };
            let values = weights(&name, shape.iter().product());
            let tensor = Tensor::from_vec(values, shape, &Device::Cpu).unwrap();
            (name, QTensor::quantize(&tensor, kind).unwrap())
        })
        .collect();
    let metadata: Vec<(&str, &Metadata)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        quantised.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = fs_err::File::create(path).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
}

pub(super) fn cpu(directory: &Path) -> Decoder<CpuBackend> {
    let (weights, config) = open_safetensors(directory).unwrap();
    Decoder::load(CpuBackend::new(Some(2), Dtype::F32).unwrap(), config, &weights, 2).unwrap()
}

pub(super) fn candle(directory: &Path) -> Decoder<CandleBackend> {
    let (weights, config) = open_safetensors(directory).unwrap();
    Decoder::load(CandleBackend::new(DeviceSpec::Cpu, Dtype::F32).unwrap(), config, &weights, 2).unwrap()
}

pub(super) fn cpu_gguf(path: &Path, dtype: Dtype) -> Decoder<CpuBackend> {
    let (weights, config, _) = open_gguf(path).unwrap();
    Decoder::load(CpuBackend::new(Some(2), dtype).unwrap(), config, &weights, 2).unwrap()
}

pub(super) fn candle_gguf(path: &Path, dtype: Dtype) -> Decoder<CandleBackend> {
    let (weights, config, _) = open_gguf(path).unwrap();
    Decoder::load(CandleBackend::new(DeviceSpec::Cpu, dtype).unwrap(), config, &weights, 2).unwrap()
}

/// What a call says of each item, which must be once.
pub(super) fn results<T>(
    count: usize,
    call: impl FnOnce(&mut dyn FnMut(Event<T>) -> ControlFlow<()>) -> Result<EngineStats, LmError>,
) -> Vec<Result<T, LmError>> {
    let mut results: Vec<Option<Result<T, LmError>>> = (0..count).map(|_| None).collect();
    call(&mut |event| {
        if let Event::Done(index, result) = event {
            assert!(results[index].replace(result).is_none(), "item {index} twice");
        }
        ControlFlow::Continue(())
    })
    .unwrap();
    results.into_iter().map(Option::unwrap).collect()
}

pub(super) fn score_results<B: DecoderBackend>(
    decoder: &Decoder<B>,
    budget: u64,
    items: &[ScoreItem],
) -> Vec<Result<ScoreOutput, LmError>> {
    results(items.len(), |on_event| score::log_likelihoods(decoder, budget, items, 0, on_event))
}

pub(super) fn scores<B: DecoderBackend>(
    decoder: &Decoder<B>,
    budget: u64,
    items: &[ScoreItem],
) -> Vec<ScoreOutput> {
    score_results(decoder, budget, items).into_iter().map(Result::unwrap).collect()
}

/// One item for each token after the first, given everything before it.
pub(super) fn next_token_items(tokens: &[u32]) -> Vec<ScoreItem> {
    (1..tokens.len())
        .map(|i| ScoreItem { context: tokens[..i].to_vec(), continuations: vec![vec![tokens[i]]] })
        .collect()
}

pub(super) fn sums(outputs: &[ScoreOutput]) -> Vec<f64> {
    outputs.iter().flat_map(|output| output.choices.iter().map(|choice: &ChoiceScore| choice.sum)).collect()
}

/// The real model's path, or `None` with a visible line.
pub(super) fn real_model() -> Option<PathBuf> {
    evalign_testkit::real_model("a test of the engine").map(PathBuf::from)
}
