//! What lies beside the weights in a Hugging Face directory.

use std::path::Path;

use serde_json::{Map, Value, json};

use crate::config::ModelConfig;
use crate::rope::{RopeScaling, Yarn};
use crate::{LanguageModel, LmError};

/// Files that a merged model takes over from its base.
const COPIED: [&str; 8] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

/// `config.json` and the tokeniser: a directory's own, or what a GGUF file's metadata says.
pub(super) fn files(base: &Path, model: &LanguageModel) -> Result<Vec<(String, Vec<u8>)>, LmError> {
    let mut files = Vec::new();
    let config = if fs_err::metadata(base)?.is_dir() {
        for name in COPIED {
            let from = base.join(name);
            if from.is_file() {
                files.push((name.to_owned(), fs_err::read(&from)?));
            }
        }
        let path = base.join("config.json");
        let mut fields: Map<String, Value> = serde_json::from_str(&fs_err::read_to_string(&path)?)
            .map_err(|error| LmError::format(&path, error))?;
        // What the weights are held in now; transformers 5 calls it `dtype`.
        fields.remove("torch_dtype");
        fields.insert("dtype".to_owned(), json!("float32"));
        fields.remove("quantization_config");
        Value::Object(fields)
    } else {
        files.extend(model.tokenizer().files()?);
        config_of(base, model.engine.config())?
    };
    let text = serde_json::to_vec_pretty(&config).map_err(|error| LmError::format(base, error))?;
    files.push(("config.json".to_owned(), text));
    Ok(files)
}

/// `config.json` of a decoder of the Llama family.
fn config_of(base: &Path, config: &ModelConfig) -> Result<Value, LmError> {
    let (model_type, class) = match config.architecture.as_str() {
        "qwen2" => ("qwen2", "Qwen2ForCausalLM"),
        "qwen3" => ("qwen3", "Qwen3ForCausalLM"),
        "llama" => ("llama", "LlamaForCausalLM"),
        other => {
            let what = format!("`{other}` as a Hugging Face directory");
            return Err(LmError::unsupported(
                base,
                what,
                "merge into a GGUF file, or from a Hugging Face directory",
            ));
        }
    };
    if config.layers.iter().any(|layer| layer.window.is_some() || !layer.rope) {
        let hint = "merge into a GGUF file, or from a Hugging Face directory";
        return Err(LmError::unsupported(base, "layers that differ, as a Hugging Face directory", hint));
    }
    let mut fields = json!({
        "architectures": [class], "model_type": model_type, "dtype": "float32",
        "vocab_size": config.vocab_size, "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size, "num_hidden_layers": config.layers.len(),
        "num_attention_heads": config.heads, "num_key_value_heads": config.kv_heads, "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length, "rms_norm_eps": plain(config.norm_eps),
        "rope_theta": config.rope.theta, "hidden_act": "silu", "attention_bias": config.output_bias,
        "mlp_bias": config.mlp_bias, "tie_word_embeddings": config.tied_head, "use_cache": true
    });
    if let Some(scaling) = scaling(base, &config.rope.scaling)? {
        fields["rope_scaling"] = scaling;
    }
    Ok(fields)
}

/// The shortest decimal of an f32.
fn plain(value: f32) -> Value {
    value.to_string().parse::<f64>().map_or(Value::Null, Value::from)
}

fn scaling(base: &Path, scaling: &RopeScaling) -> Result<Option<Value>, LmError> {
    Ok(Some(match scaling {
        RopeScaling::None => return Ok(None),
        RopeScaling::Linear { factor } => json!({ "rope_type": "linear", "factor": factor }),
        RopeScaling::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original_context
        }),
        RopeScaling::Yarn(Yarn { factor, original_context, beta_fast, beta_slow, .. }) => json!({
            "rope_type": "yarn", "factor": factor, "beta_fast": beta_fast, "beta_slow": beta_slow,
            "original_max_position_embeddings": original_context
        }),
        RopeScaling::Divisors(_) => {
            let what = "this RoPE scaling as a Hugging Face directory";
            return Err(LmError::unsupported(base, what, "merge into a GGUF file"));
        }
    }))
}
