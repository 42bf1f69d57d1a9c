use std::path::Path;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::{HINT_ARCHITECTURE, HINT_PART, LayerAttention, MOST_LAYERS, ModelConfig};
use crate::LmError;
use crate::rope::{RopeConfig, RopePairing, RopeScaling, Yarn};

#[derive(Deserialize)]
struct Kind {
    model_type: String,
}

/// The fields of `config.json` that shape the forward pass. Fields that describe training, files or
/// generation are not read.
#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    max_position_embeddings: usize,
    rms_norm_eps: f64,
    #[serde(default)]
    rope_theta: Option<f64>,
    #[serde(default)]
    rope_scaling: Option<Map<String, Value>>,
    /// transformers 5 writes theta and scaling here.
    #[serde(default)]
    rope_parameters: Option<Map<String, Value>>,
    #[serde(default)]
    partial_rotary_factor: Option<f64>,
    #[serde(default)]
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: Option<bool>,
    #[serde(default)]
    mlp_bias: Option<bool>,
    #[serde(default)]
    tie_word_embeddings: Option<bool>,
    #[serde(default)]
    sliding_window: Option<usize>,
    #[serde(default)]
    use_sliding_window: Option<bool>,
    #[serde(default)]
    max_window_layers: Option<usize>,
    #[serde(default)]
    layer_types: Option<Vec<String>>,
    /// SmolLM3: 1 where the layer has RoPE.
    #[serde(default)]
    no_rope_layers: Option<Vec<u8>>,
}

/// Reads the text of a `config.json`; `path` is for messages only.
///
/// # Errors
/// Names the field for a malformed file, the kind for an architecture, activation or RoPE type this
/// engine does not implement.
pub(crate) fn from_hugging_face(path: &Path, text: &str) -> Result<ModelConfig, LmError> {
    // First of all: other architectures have other fields.
    let Kind { model_type: architecture } = parse(path, text)?;
    if !["llama", "mistral", "qwen2", "qwen3", "smollm3"].contains(&architecture.as_str()) {
        let what = format!("architecture `{architecture}` in `model_type`");
        return Err(LmError::unsupported(path, what, HINT_ARCHITECTURE));
    }
    let raw: RawConfig = parse(path, text)?;
    if let Some(act) = raw.hidden_act.as_deref().filter(|act| *act != "silu") {
        return Err(LmError::unsupported(path, format!("activation `{act}` in `hidden_act`"), HINT_PART));
    }
    if let Some(factor) = raw.partial_rotary_factor.filter(|factor| *factor != 1.0) {
        let what = format!("partial rotary embedding: `partial_rotary_factor` is {factor}");
        return Err(LmError::unsupported(path, what, HINT_PART));
    }
    if raw.num_attention_heads == 0 {
        return Err(LmError::format(path, "number of attention heads is 0"));
    }
    let layers = layers(path, &raw)?;
    let head_dim = match raw.head_dim {
        Some(size) => size,
        None if raw.hidden_size.is_multiple_of(raw.num_attention_heads) => {
            raw.hidden_size / raw.num_attention_heads
        }
        None => return Err(LmError::format(path, "hidden size is not a multiple of the number of heads")),
    };
    let attention_bias = raw.attention_bias.unwrap_or(false);
    let config = ModelConfig {
        vocab_size: raw.vocab_size,
        hidden_size: raw.hidden_size,
        intermediate_size: raw.intermediate_size,
        heads: raw.num_attention_heads,
        kv_heads: raw.num_key_value_heads.unwrap_or(raw.num_attention_heads),
        head_dim,
        context_length: raw.max_position_embeddings,
        norm_eps: raw.rms_norm_eps as f32,
        rope: rope(path, &raw)?,
        layers,
        // Qwen2 has the bias without saying so in its configuration.
        qkv_bias: attention_bias || architecture == "qwen2",
        output_bias: attention_bias && architecture != "qwen2",
        mlp_bias: raw.mlp_bias.unwrap_or(false),
        qk_norm: architecture == "qwen3",
        // transformers' default for these model types is false (SmolLM3: true).
        tied_head: raw.tie_word_embeddings.unwrap_or(architecture == "smollm3"),
        architecture,
    };
    config.check().map_err(|problem| LmError::format(path, problem))?;
    Ok(config)
}

/// Names the field that has a wrong type, and what it has instead.
fn parse<'de, T: Deserialize<'de>>(path: &Path, text: &'de str) -> Result<T, LmError> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let parsed = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let problem = match error.path().iter().next() {
            // Text that is no JSON at all has no field to name.
            Some(_) if error.inner().is_data() => format!("field `{}`: {}", error.path(), error.inner()),
            _ => error.inner().to_string(),
        };
        LmError::format(path, problem)
    })?;
    reader.end().map_err(|error| LmError::format(path, error))?;
    Ok(parsed)
}

/// Which layers see a window and which have RoPE. `layer_types` wins where present, as in transformers.
fn layers(path: &Path, raw: &RawConfig) -> Result<Vec<LayerAttention>, LmError> {
    let count = raw.num_hidden_layers;
    if count > MOST_LAYERS {
        return Err(LmError::format(path, format!("number of layers is {count}")));
    }
    // Mistral's window is unconditional, the Qwen family's is behind a switch that is usually off.
    let enabled = match raw.model_type.as_str() {
        "mistral" => true,
        _ => raw.use_sliding_window.unwrap_or(false),
    };
    let window = raw.sliding_window.filter(|_| enabled);
    if let Some(types) = &raw.layer_types
        && types.len() != count
    {
        return Err(LmError::format(
            path,
            format!("layer_types has {} entries for {count} layers", types.len()),
        ));
    }
    (0..count)
        .map(|index| {
            let windowed = match raw.layer_types.as_ref().map(|types| types[index].as_str()) {
                Some("full_attention") => false,
                Some("sliding_attention") => true,
                Some(other) => {
                    let what = format!("layer type `{other}` in `layer_types`");
                    return Err(LmError::unsupported(path, what, HINT_PART));
                }
                None => raw.model_type == "mistral" || index >= raw.max_window_layers.unwrap_or(28),
            };
            let rope = match (&raw.no_rope_layers, raw.model_type.as_str()) {
                (Some(flags), "smollm3") => flags.get(index).copied().unwrap_or(1) != 0,
                (None, "smollm3") => (index + 1) % 4 != 0,
                _ => true,
            };
            Ok(LayerAttention { rope, window: window.filter(|_| windowed) })
        })
        .collect()
}

/// The object that describes RoPE, whichever field it is in.
struct RopeParameters<'a> {
    path: &'a Path,
    field: &'static str,
    values: Option<&'a Map<String, Value>>,
}

impl<'a> RopeParameters<'a> {
    fn of(path: &'a Path, raw: &'a RawConfig) -> Self {
        match &raw.rope_parameters {
            Some(values) => Self { path, field: "rope_parameters", values: Some(values) },
            None => Self { path, field: "rope_scaling", values: raw.rope_scaling.as_ref() },
        }
    }

    /// `None` where the key is absent or null.
    fn read<T>(
        &self,
        key: &str,
        expected: &str,
        read: impl Fn(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, LmError> {
        let value = self.values.and_then(|values| values.get(key)).filter(|value| !value.is_null());
        let wrong = |value| format!("field `{}.{key}` is {value}, not {expected}", self.field);
        value.map(|value| read(value).ok_or_else(|| LmError::format(self.path, wrong(value)))).transpose()
    }

    fn number(&self, key: &str) -> Result<Option<f64>, LmError> {
        self.read(key, "a number", Value::as_f64)
    }

    /// The kind of scaling, and the key it is under: older files call it `type`.
    fn kind(&self) -> Result<(&'static str, &'a str), LmError> {
        for key in ["rope_type", "type"] {
            if let Some(kind) = self.read(key, "a text", Value::as_str)? {
                return Ok((key, kind));
            }
        }
        // transformers 5 gives models with several kinds of layers an object for each.
        match self.values.and_then(|values| values.iter().find(|(_, value)| value.is_object())) {
            None => Ok(("rope_type", "default")),
            Some((layers, _)) => {
                let what = format!("RoPE that differs between layers in `{}.{layers}`", self.field);
                Err(LmError::unsupported(self.path, what, HINT_PART))
            }
        }
    }
}

fn rope(path: &Path, raw: &RawConfig) -> Result<RopeConfig, LmError> {
    let parameters = RopeParameters::of(path, raw);
    let number = |key: &str| parameters.number(key);
    let theta = match raw.rope_theta {
        Some(theta) => theta,
        None => number("rope_theta")?.unwrap_or(10_000.0),
    };
    let (key, kind) = parameters.kind()?;
    let required = |key: &str| {
        number(key)?.ok_or_else(|| {
            let field = parameters.field;
            LmError::format(path, format!("rope type `{kind}` needs the number `{field}.{key}`"))
        })
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        "llama3" => RopeScaling::Llama3 {
            factor: required("factor")?,
            low_freq_factor: required("low_freq_factor")?,
            high_freq_factor: required("high_freq_factor")?,
            original_context: required("original_max_position_embeddings")?,
        },
        "yarn" => {
            let context = raw.max_position_embeddings as f64;
            let original_context = number("original_max_position_embeddings")?.unwrap_or(context);
            RopeScaling::Yarn(Yarn {
                factor: number("factor")?.unwrap_or(context / original_context),
                original_context,
                beta_fast: number("beta_fast")?.unwrap_or(32.0),
                beta_slow: number("beta_slow")?.unwrap_or(1.0),
                attention_factor: number("attention_factor")?,
                mscale: number("mscale")?,
                mscale_all_dim: number("mscale_all_dim")?,
                truncate: parameters.read("truncate", "a boolean", Value::as_bool)?.unwrap_or(true),
            })
        }
        other => {
            return Err(LmError::unsupported(
                path,
                format!("rope type `{other}` in `{}.{key}`", parameters.field),
                "supported are `default`, `linear`, `llama3` and `yarn`",
            ));
        }
    };
    let rope = RopeConfig { theta, pairing: RopePairing::Half, scaling };
    rope.check().map_err(|problem| LmError::format(path, problem))?;
    Ok(rope)
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::Hint as _;
    use serde_json::json;

    fn base() -> Value {
        json!({
            "model_type": "llama", "vocab_size": 100, "hidden_size": 64, "intermediate_size": 128,
            "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "hidden_act": "silu"
        })
    }

    fn with(changes: &Value) -> Result<ModelConfig, LmError> {
        let mut config = base();
        for (key, value) in changes.as_object().unwrap() {
            config[key] = value.clone();
        }
        from_hugging_face(Path::new("config.json"), &config.to_string())
    }

    #[test]
    fn an_unknown_rope_type_is_named() {
        for kind in ["dynamic", "longrope", "su", "mrope"] {
            let error = with(&json!({"rope_scaling": {"type": kind, "factor": 2.0}})).unwrap_err();
            let message = error.to_string();
            assert!(message.contains(&format!("rope type `{kind}` in `rope_scaling.type`")), "{message}");
            assert!(error.hint().unwrap().contains("`llama3`"));
        }
        let layers = json!({"rope_parameters": {"full_attention": {"rope_type": "default"}}});
        assert!(with(&layers).unwrap_err().to_string().contains("`rope_parameters.full_attention`"));
    }

    #[test]
    fn text_that_is_not_json_has_its_place_named() {
        let error = from_hugging_face(Path::new("config.json"), "{\"model_type\": \"llama\",").unwrap_err();
        assert!(
            error.to_string().contains("config.json: EOF") && error.to_string().contains("line 1"),
            "{error}"
        );
    }

    #[test]
    fn a_field_of_a_wrong_type_is_named_with_its_value() {
        for (changes, named) in [
            (json!({"hidden_size": "wide"}), ["config.json: field `hidden_size`", "\"wide\""]),
            (json!({"rms_norm_eps": [1]}), ["field `rms_norm_eps`", "sequence"]),
            (json!({"layer_types": ["full_attention", 7]}), ["field `layer_types[1]`", "`7`"]),
            (json!({"rope_scaling": {"rope_type": 3}}), ["field `rope_scaling.rope_type`", "3"]),
            (json!({"rope_scaling": {"type": "linear", "factor": "8"}}), ["`rope_scaling.factor`", "\"8\""]),
            (json!({"rope_scaling": {"type": "yarn", "truncate": 1}}), ["`rope_scaling.truncate`", "1"]),
            (json!({"model_type": 1}), ["field `model_type`", "`1`"]),
        ] {
            let error = with(&changes).unwrap_err();
            for part in named {
                assert!(error.to_string().contains(part), "{error}");
            }
            assert!(error.hint().is_some());
        }
    }

    #[test]
    fn an_unknown_architecture_or_activation_is_named() {
        assert!(with(&json!({"model_type": "gemma2"})).unwrap_err().to_string().contains("`gemma2`"));
        assert!(with(&json!({"hidden_act": "gelu"})).unwrap_err().to_string().contains("`gelu`"));
    }

    #[test]
    fn inconsistent_numbers_are_refused() {
        assert!(with(&json!({"num_attention_heads": 0})).is_err());
        assert!(with(&json!({"num_key_value_heads": 3})).is_err());
        assert!(with(&json!({"hidden_size": 66})).is_err());
        assert!(with(&json!({"vocab_size": 1u64 << 40})).is_err());
        assert!(with(&json!({"rope_theta": 0.0})).is_err());
        assert!(with(&json!({"num_hidden_layers": 1u64 << 40})).is_err());
    }

    #[test]
    fn family_differences_become_fields() {
        let qwen2 =
            with(&json!({"model_type": "qwen2", "tie_word_embeddings": true, "sliding_window": 32})).unwrap();
        assert!(qwen2.qkv_bias && !qwen2.output_bias && qwen2.tied_head && !qwen2.qk_norm);
        assert!(qwen2.layers.iter().all(|layer| layer.window.is_none()));
        let qwen3 = with(&json!({"model_type": "qwen3", "head_dim": 32})).unwrap();
        assert!(qwen3.qk_norm && qwen3.head_dim == 32 && qwen3.query_size() == 128);
        let mistral = with(&json!({"model_type": "mistral", "sliding_window": 16})).unwrap();
        assert!(mistral.layers.iter().all(|layer| layer.window == Some(16)));
        let windowed = with(&json!({
            "model_type": "qwen2", "sliding_window": 32, "use_sliding_window": true, "max_window_layers": 3
        }))
        .unwrap();
        let windows: Vec<_> = windowed.layers.iter().map(|layer| layer.window).collect();
        assert_eq!(windows, [None, None, None, Some(32)]);
        let smollm3 = with(&json!({"model_type": "smollm3"})).unwrap();
        let rope: Vec<_> = smollm3.layers.iter().map(|layer| layer.rope).collect();
        assert_eq!(rope, [true, true, true, false]);
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let scaling = json!({
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192
        });
        let old = with(&json!({"rope_theta": 500000.0, "rope_scaling": scaling})).unwrap();
        let mut parameters = scaling.clone();
        parameters["rope_theta"] = json!(500000.0);
        let new = with(&json!({"rope_parameters": parameters})).unwrap();
        assert_eq!(old.rope, new.rope);
        let error = with(&json!({"rope_scaling": {"type": "linear"}})).unwrap_err();
        assert!(error.to_string().contains("`rope_scaling.factor`"), "{error}");
    }
}
