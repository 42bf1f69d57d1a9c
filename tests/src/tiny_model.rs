use std::path::Path;

use serde_json::{Map, Value, json};

const HIDDEN: usize = 32;
const INNER: usize = 64;
const LAYERS: usize = 2;
const WORDS: usize = 96;

/// Writes a language model of made-up weights in Hugging Face's layout: a llama that speaks in the words `t0` to
/// `t95`, has no chat template, and never ends a text by itself.
///
/// # Errors
/// The directory cannot be made or written.
pub fn write_tiny_model(directory: &Path, context_length: usize) -> std::io::Result<()> {
    fs_err::create_dir_all(directory)?;
    let config = json!({
        "model_type": "llama", "vocab_size": WORDS, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": context_length, "rms_norm_eps": 1e-5, "tie_word_embeddings": true
    });
    fs_err::write(directory.join("config.json"), config.to_string())?;
    let vocabulary: Map<String, Value> = (0..WORDS).map(|id| (format!("t{id}"), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "t0"}
    });
    fs_err::write(directory.join("tokenizer.json"), tokenizer.to_string())?;
    fs_err::write(directory.join("model.safetensors"), safetensors())
}

/// Tensors as the format has them: the header's length, the header, the data.
fn safetensors() -> Vec<u8> {
    let mut header = Map::new();
    let mut data: Vec<u8> = Vec::new();
    for (number, (name, shape)) in tensors().into_iter().enumerate() {
        let start = data.len();
        let count: usize = shape.iter().product();
        let values = (0..count).map(|index| value(number, index, name.contains("norm")));
        data.extend(values.flat_map(f32::to_le_bytes));
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}));
    }
    let header = Value::from(header).to_string().into_bytes();
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

fn tensors() -> Vec<(String, Vec<usize>)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![WORDS, HIDDEN]),
        ("model.norm.weight".to_owned(), vec![HIDDEN]),
    ];
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("input_layernorm", vec![HIDDEN]),
            ("post_attention_layernorm", vec![HIDDEN]),
            ("self_attn.q_proj", vec![HIDDEN, HIDDEN]),
            ("self_attn.k_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.v_proj", vec![HIDDEN / 2, HIDDEN]),
            ("self_attn.o_proj", vec![HIDDEN, HIDDEN]),
            ("mlp.gate_proj", vec![INNER, HIDDEN]),
            ("mlp.up_proj", vec![INNER, HIDDEN]),
            ("mlp.down_proj", vec![HIDDEN, INNER]),
        ] {
            all.push((format!("model.layers.{layer}.{name}.weight"), shape));
        }
    }
    all
}

/// In [-0.375, 0.375), around 1 for norms: a function of the places of tensor and weight (SplitMix64's output
/// function: Steele, Lea, Flood 2014).
fn value(tensor: usize, index: usize, is_norm: bool) -> f32 {
    let mut z = ((tensor as u64) << 32 | index as u64).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let uniform = ((z ^ (z >> 31)) >> 40) as f32 / 16_777_216.0 - 0.5;
    if is_norm { uniform + 1.0 } else { uniform * 0.75 }
}
