use std::collections::HashMap;
use std::path::Path;

use candle_core::quantized::gguf_file::Value;

use super::{HINT_ARCHITECTURE, HINT_PART, LayerAttention, MOST_LAYERS, ModelConfig};
use crate::LmError;
use crate::rope::{RopeConfig, RopePairing, RopeScaling, Yarn};

/// Typed access to `{architecture}.{key}` with the file's name in every error.
struct Metadata<'a> {
    path: &'a Path,
    values: &'a HashMap<String, Value>,
    architecture: String,
}

impl Metadata<'_> {
    fn key(&self, name: &str) -> String {
        format!("{}.{name}", self.architecture)
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.values.get(&self.key(name))
    }

    fn wrong(&self, name: &str) -> LmError {
        LmError::format(self.path, format!("metadata `{}` has the wrong type", self.key(name)))
    }

    /// Any unsigned or non-negative signed integer.
    fn size(&self, name: &str) -> Result<Option<usize>, LmError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let wide = match value {
            Value::I8(v) => u64::try_from(*v).ok(),
            Value::I16(v) => u64::try_from(*v).ok(),
            Value::I32(v) => u64::try_from(*v).ok(),
            Value::I64(v) => u64::try_from(*v).ok(),
            other => other.to_u64().ok(),
        };
        wide.and_then(|wide| usize::try_from(wide).ok()).map(Some).ok_or_else(|| self.wrong(name))
    }

    fn required_size(&self, name: &str) -> Result<usize, LmError> {
        self.size(name)?
            .ok_or_else(|| LmError::format(self.path, format!("metadata `{}` is missing", self.key(name))))
    }

    fn number(&self, name: &str) -> Result<Option<f64>, LmError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::F32(value)) => Ok(Some(f64::from(*value))),
            Some(Value::F64(value)) => Ok(Some(*value)),
            Some(_) => Err(self.wrong(name)),
        }
    }

    fn text(&self, name: &str) -> Result<Option<&str>, LmError> {
        match self.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(name)),
        }
    }
}

/// What the tensors themselves say about the model.
pub(crate) struct TensorFacts {
    pub(crate) vocab_size: usize,
    pub(crate) has_output: bool,
    pub(crate) has_qkv_bias: bool,
    pub(crate) has_output_bias: bool,
    pub(crate) has_mlp_bias: bool,
    /// `rope_freqs.weight`: a divisor for each frequency (how llama3 scaling is stored).
    pub(crate) rope_divisors: Option<Vec<f32>>,
}

/// Reads GGUF metadata.
///
/// # Errors
/// Names the key that is missing or mistyped, or the architecture or RoPE scaling that is unsupported.
pub(crate) fn from_gguf(
    path: &Path,
    values: &HashMap<String, Value>,
    tensors: TensorFacts,
) -> Result<ModelConfig, LmError> {
    let architecture = match values.get("general.architecture") {
        Some(Value::String(name)) => name.clone(),
        _ => return Err(LmError::format(path, "metadata `general.architecture` is missing")),
    };
    if !["llama", "qwen2", "qwen3", "smollm3"].contains(&architecture.as_str()) {
        return Err(LmError::unsupported(
            path,
            format!("architecture `{architecture}` in metadata `general.architecture`"),
            HINT_ARCHITECTURE,
        ));
    }
    let metadata = Metadata { path, values, architecture: architecture.clone() };
    if metadata.size("expert_count")?.is_some_and(|count| count > 0) {
        let key = metadata.key("expert_count");
        return Err(LmError::unsupported(path, format!("mixture of experts (`{key}`)"), HINT_PART));
    }
    let hidden_size = metadata.required_size("embedding_length")?;
    let heads = metadata.required_size("attention.head_count")?;
    if heads == 0 {
        return Err(LmError::format(path, "number of attention heads is 0"));
    }
    let head_dim = metadata.size("attention.key_length")?.unwrap_or(hidden_size / heads);
    for name in ["attention.value_length", "rope.dimension_count"] {
        if metadata.size(name)?.is_some_and(|size| size != head_dim) {
            return Err(LmError::unsupported(
                path,
                format!("`{}` other than the head size", metadata.key(name)),
                HINT_PART,
            ));
        }
    }
    let window = metadata.size("attention.sliding_window")?.filter(|window| *window > 0);
    let count = metadata.required_size("block_count")?;
    if count > MOST_LAYERS {
        return Err(LmError::format(path, format!("number of layers is {count}")));
    }
    let layers = (0..count)
        .map(|index| LayerAttention { rope: architecture != "smollm3" || (index + 1) % 4 != 0, window })
        .collect();
    let config = ModelConfig {
        vocab_size: tensors.vocab_size,
        hidden_size,
        intermediate_size: metadata.required_size("feed_forward_length")?,
        heads,
        kv_heads: metadata.size("attention.head_count_kv")?.unwrap_or(heads),
        head_dim,
        context_length: metadata.required_size("context_length")?,
        norm_eps: metadata.number("attention.layer_norm_rms_epsilon")?.unwrap_or(1e-5) as f32,
        rope: rope(&metadata, tensors.rope_divisors)?,
        layers,
        qkv_bias: tensors.has_qkv_bias,
        output_bias: tensors.has_output_bias,
        mlp_bias: tensors.has_mlp_bias,
        qk_norm: architecture == "qwen3",
        tied_head: !tensors.has_output,
        architecture,
    };
    config.check().map_err(|problem| LmError::format(path, problem))?;
    if let RopeScaling::Divisors(divisors) = &config.rope.scaling
        && divisors.len() != config.head_dim / 2
    {
        return Err(LmError::tensor(
            path,
            "rope_freqs.weight",
            format!("{} values for head size {head_dim}", divisors.len()),
        ));
    }
    Ok(config)
}

fn rope(metadata: &Metadata<'_>, divisors: Option<Vec<f32>>) -> Result<RopeConfig, LmError> {
    let path = metadata.path;
    let theta = metadata.number("rope.freq_base")?.unwrap_or(10_000.0);
    // Files older than `rope.scaling.*` wrote the linear factor as `rope.scale_linear`.
    let factor = metadata.number("rope.scaling.factor")?.or(metadata.number("rope.scale_linear")?);
    let kind = match metadata.text("rope.scaling.type")? {
        Some(kind) => kind,
        None if factor.is_some_and(|factor| factor != 1.0) => "linear",
        None => "none",
    };
    if metadata.number("rope.scaling.yarn_log_multiplier")?.is_some_and(|value| value != 0.0) {
        return Err(LmError::unsupported(path, "`rope.scaling.yarn_log_multiplier`", HINT_PART));
    }
    if metadata.number("rope.scaling.yarn_ext_factor")?.is_some_and(|value| value != 1.0 && value >= 0.0) {
        return Err(LmError::unsupported(path, "`rope.scaling.yarn_ext_factor`", HINT_PART));
    }
    let needed = || {
        factor.ok_or_else(|| {
            LmError::format(path, format!("rope scaling `{kind}` needs `rope.scaling.factor`"))
        })
    };
    let scaling = match (kind, divisors) {
        ("none", None) => RopeScaling::None,
        ("none", Some(divisors)) => RopeScaling::Divisors(divisors),
        ("linear", None) => RopeScaling::Linear { factor: needed()? },
        ("yarn", None) => {
            let factor = needed()?;
            let original = metadata.size("rope.scaling.original_context_length")?;
            let context = metadata.required_size("context_length")?;
            RopeScaling::Yarn(Yarn {
                factor,
                original_context: original.unwrap_or(context) as f64,
                beta_fast: metadata.number("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                beta_slow: metadata.number("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                // llama.cpp multiplies the file's factor with YaRN's own (llama-context.cpp,
                // `yarn_attn_factor`), so only a file that says something else than 1 changes it.
                attention_factor: metadata
                    .number("rope.scaling.attn_factor")?
                    .or(metadata.number("rope.scaling.yarn_attn_factor")?)
                    .filter(|value| *value != 1.0)
                    .map(|value| value * (0.1 * factor.max(1.0).ln() + 1.0)),
                mscale: None,
                mscale_all_dim: None,
                truncate: true,
            })
        }
        (kind, Some(_)) if ["linear", "yarn"].contains(&kind) => {
            return Err(LmError::unsupported(
                path,
                format!("rope scaling `{kind}` together with `rope_freqs.weight`"),
                HINT_PART,
            ));
        }
        (other, _) => {
            let key = metadata.key("rope.scaling.type");
            return Err(LmError::unsupported(
                path,
                format!("rope type `{other}` in metadata `{key}`"),
                "supported are `none`, `linear` and `yarn`, and llama3 scaling as `rope_freqs.weight`",
            ));
        }
    };
    // The converter permutes query and key rows of the Llama family so that rotated pairs are neighbours
    // (convert_hf_to_gguf.py, `LlamaModel.permute`); the Qwen family keeps halves.
    let pairing = match metadata.architecture.as_str() {
        "llama" | "smollm3" => RopePairing::Interleaved,
        _ => RopePairing::Half,
    };
    let rope = RopeConfig { theta, pairing, scaling };
    rope.check().map_err(|problem| LmError::format(path, problem))?;
    Ok(rope)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> TensorFacts {
        TensorFacts {
            vocab_size: 100,
            has_output: false,
            has_qkv_bias: false,
            has_output_bias: false,
            has_mlp_bias: false,
            rope_divisors: None,
        }
    }

    fn metadata(architecture: &str) -> HashMap<String, Value> {
        let mut values = HashMap::new();
        values.insert("general.architecture".to_owned(), Value::String(architecture.to_owned()));
        for (key, value) in [
            ("embedding_length", 64),
            ("block_count", 2),
            ("feed_forward_length", 128),
            ("attention.head_count", 4),
            ("attention.head_count_kv", 2),
            ("context_length", 512),
        ] {
            values.insert(format!("{architecture}.{key}"), Value::U32(value));
        }
        values
    }

    fn read(values: &HashMap<String, Value>, facts: TensorFacts) -> Result<ModelConfig, LmError> {
        from_gguf(Path::new("x.gguf"), values, facts)
    }

    #[test]
    fn pairing_follows_the_architecture() {
        for (architecture, pairing) in [("llama", RopePairing::Interleaved), ("qwen2", RopePairing::Half)] {
            assert_eq!(read(&metadata(architecture), facts()).unwrap().rope.pairing, pairing);
        }
        let error = read(&metadata("gptneox"), facts()).unwrap_err();
        assert!(error.to_string().contains("architecture `gptneox`"), "{error}");
    }

    #[test]
    fn missing_and_mistyped_keys_are_named() {
        let mut values = metadata("llama");
        values.remove("llama.block_count");
        assert!(read(&values, facts()).unwrap_err().to_string().contains("`llama.block_count`"));
        values.insert("llama.block_count".to_owned(), Value::String("two".to_owned()));
        assert!(read(&values, facts()).unwrap_err().to_string().contains("`llama.block_count`"));
    }

    #[test]
    fn rope_scaling_is_read_or_refused() {
        let mut values = metadata("llama");
        values.insert("llama.rope.scaling.type".to_owned(), Value::String("longrope".to_owned()));
        assert!(read(&values, facts()).unwrap_err().to_string().contains("`longrope`"));
        values.insert("llama.rope.scaling.type".to_owned(), Value::String("linear".to_owned()));
        assert!(read(&values, facts()).unwrap_err().to_string().contains("rope.scaling.factor"));
        values.insert("llama.rope.scaling.factor".to_owned(), Value::F32(4.0));
        assert_eq!(read(&values, facts()).unwrap().rope.scaling, RopeScaling::Linear { factor: 4.0 });
        let divisors = TensorFacts { rope_divisors: Some(vec![1.0; 3]), ..facts() };
        assert!(read(&metadata("llama"), divisors).unwrap_err().to_string().contains("rope_freqs"));
    }
}
