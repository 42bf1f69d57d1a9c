use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::LmError;
use crate::decoder::Module;

const HINT: &str = "this engine computes LoRA, rsLoRA and DoRA on the linear layers of the blocks; merge the adapter with \
                    PEFT (`merge_and_unload`) and use the merged model";

/// What an adapted model does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum AdapterTask {
    #[default]
    #[serde(rename = "CAUSAL_LM")]
    CausalLm,
    /// A reward model.
    #[serde(rename = "SEQ_CLS")]
    SequenceClassification,
}

/// The part of `adapter_config.json` that decides what is computed. Missing keys take PEFT's defaults.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AdapterConfig {
    pub r: usize,
    pub lora_alpha: f32,
    pub lora_dropout: f32,
    /// Module names.
    pub target_modules: Targets,
    pub use_rslora: bool,
    pub use_dora: bool,
    pub task_type: Option<AdapterTask>,
    pub base_model_name_or_path: Option<String>,
    pub modules_to_save: Option<Vec<String>>,
    /// What else the file says; written back as it was.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

impl Default for AdapterConfig {
    fn default() -> Self {
        Self {
            r: 8,
            lora_alpha: 8.0,
            lora_dropout: 0.0,
            target_modules: Targets::default(),
            use_rslora: false,
            use_dora: false,
            task_type: None,
            base_model_name_or_path: None,
            modules_to_save: None,
            rest: Map::new(),
        }
    }
}

/// Names, or one name or pattern.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Targets {
    Names(Vec<String>),
    Pattern(String),
    #[default]
    None,
}

/// Keys that change what is computed, with the values that mean "not used". Any other value is refused.
const UNUSED: [(&str, &[&str]); 15] = [
    ("bias", &["\"none\""]),
    ("fan_in_fan_out", &["false"]),
    ("lora_bias", &["false"]),
    ("layer_replication", &["null", "[]"]),
    ("trainable_token_indices", &["null", "[]", "{}"]),
    ("use_qalora", &["false"]),
    ("use_bdlora", &["null", "false"]),
    ("alora_invocation_tokens", &["null", "[]"]),
    ("arrow_config", &["null"]),
    ("alpha_pattern", &["{}", "null"]),
    ("target_parameters", &["null", "[]"]),
    ("kasa_config", &["null"]),
    // Others change the weights of the base.
    ("init_lora_weights", &["true", "false", "null", "\"gaussian\"", "\"eva\"", "\"orthogonal\""]),
    ("velora_config", &["null"]),
    ("monteclora_config", &["null"]),
];

impl AdapterConfig {
    pub(super) fn parse(path: &Path, text: &str) -> Result<Self, LmError> {
        let fields: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| LmError::format(path, error))?;
        let kind = fields.get("peft_type").and_then(Value::as_str).unwrap_or_default();
        if kind != "LORA" {
            return Err(LmError::unsupported(path, format!("peft_type `{kind}`"), HINT));
        }
        for (key, unused) in UNUSED {
            let Some(value) = fields.get(key) else { continue };
            if !unused.contains(&value.to_string().as_str()) {
                return Err(LmError::unsupported(path, format!("`{key}`: {value}"), HINT));
            }
        }
        let config: Self =
            serde_json::from_value(Value::Object(fields)).map_err(|error| LmError::format(path, error))?;
        let saved = config.modules_to_save.iter().flatten();
        if let Some(other) = saved.clone().find(|name| !matches!(name.as_str(), "score" | "classifier")) {
            return Err(LmError::unsupported(path, format!("`modules_to_save`: `{other}`"), HINT));
        }
        if config.r == 0 || !config.lora_alpha.is_finite() {
            return Err(LmError::format(
                path,
                format!("r {} and lora_alpha {}", config.r, config.lora_alpha),
            ));
        }
        Ok(config)
    }

    /// Ranks that a module may have.
    pub(super) fn ranks(&self) -> Vec<usize> {
        let pattern = self.rest.get("rank_pattern").and_then(Value::as_object);
        let others = pattern.into_iter().flat_map(Map::values).filter_map(Value::as_u64);
        std::iter::once(self.r).chain(others.map(|rank| rank as usize)).collect()
    }

    /// The configuration surely names this module: it is in a list, and nothing takes it out. A pattern is not read.
    pub(super) fn names(&self, layer: usize, module: Module) -> bool {
        let Targets::Names(names) = &self.target_modules else { return false };
        let path = module.path(layer);
        // PEFT's rule for names: the end of the module's path, from a dot on.
        let ends = |name: &str| {
            path.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
        };
        let excluded = match self.rest.get("exclude_modules") {
            None | Some(Value::Null) => false,
            Some(Value::Array(others)) => others.iter().filter_map(Value::as_str).any(ends),
            Some(_) => true,
        };
        let transformed = match self.rest.get("layers_to_transform") {
            None | Some(Value::Null) => true,
            Some(Value::Array(layers)) => layers.iter().any(|known| known.as_u64() == Some(layer as u64)),
            Some(known) => known.as_u64() == Some(layer as u64),
        };
        transformed && !excluded && names.iter().any(|name| ends(name))
    }

    /// What `B A x` is multiplied with: `alpha / r`, or `alpha / sqrt(r)` with rank-stabilised scaling
    /// (Kalajdzievski 2023, arXiv 2312.03732).
    #[must_use]
    pub fn scale(&self, rank: usize) -> f32 {
        let rank = rank.max(1) as f32;
        self.lora_alpha / if self.use_rslora { rank.sqrt() } else { rank }
    }

    /// `adapter_config.json` as PEFT writes it: sorted keys, two spaces.
    #[must_use]
    pub fn to_json(&self) -> String {
        let plain = |value: &Option<String>| value.clone().map_or(Value::Null, Value::String);
        let mut fields = serde_json::json!({
            "alpha_pattern": {}, "auto_mapping": null,
            "base_model_name_or_path": plain(&self.base_model_name_or_path), "bias": "none", "fan_in_fan_out": false,
            "inference_mode": true, "init_lora_weights": true, "layer_replication": null, "layers_pattern": null,
            "layers_to_transform": null, "loftq_config": {}, "lora_alpha": self.lora_alpha, "lora_bias": false,
            "lora_dropout": self.lora_dropout, "megatron_config": null, "megatron_core": "megatron.core",
            "modules_to_save": self.modules_to_save, "peft_type": "LORA", "r": self.r, "rank_pattern": {},
            "revision": null, "target_modules": self.target_modules, "task_type": self.task_type,
            "use_dora": self.use_dora, "use_rslora": self.use_rslora
        });
        // As it was written down, not as it is in 32 bits.
        for (key, value) in [("lora_alpha", self.lora_alpha), ("lora_dropout", self.lora_dropout)] {
            fields[key] = value.to_string().parse::<f64>().map_or(Value::Null, Value::from);
        }
        for (key, value) in &self.rest {
            fields[key] = value.clone();
        }
        // PEFT writes whole numbers without a fraction.
        if self.lora_alpha.fract() == 0.0 {
            fields["lora_alpha"] = Value::from(self.lora_alpha as i64);
        }
        let mut text = serde_json::to_string_pretty(&fields).unwrap_or_default();
        text.push('\n');
        text
    }
}
