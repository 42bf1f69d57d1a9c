//! Low-rank adapters as PEFT 0.21 stores them: `adapter_config.json` and `adapter_model.safetensors`, both ways.

mod config;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use candle_core::quantized::GgmlDType;
use evalign_core::Digest;
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use config::{AdapterConfig, AdapterTask, Targets};

use crate::decoder::Module;
use crate::kernels::dequantise;
use crate::training::{AdapterWeights, WeightId};
use crate::{ChatTemplate, DateTime, LanguageModel, LmError, Tokenizer};

/// File names of PEFT.
pub const CONFIG_FILE: &str = "adapter_config.json";
pub const WEIGHTS_FILE: &str = "adapter_model.safetensors";
/// Beside them, where it is not the model's own: the chat template it was trained with, as transformers stores it.
pub const TEMPLATE_FILE: &str = "chat_template.jinja";
/// Beside them, ours: what the adapter belongs to. Other programs pass it over.
pub const BASE_FILE: &str = "evalign_base.json";
/// What PEFT puts before a weight's name in transformers.
pub const PREFIX: &str = "base_model.model.";
/// The reward head's name in transformers' sequence classifiers.
pub const HEAD: &str = "score.weight";

/// Which weights an adapter was trained on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdapterBase {
    /// [`crate::Identity::weights`] of the model.
    pub weights: Digest,
    /// Its reference or path, for people.
    pub name: String,
    /// Rewards are read at the last token that is not this one; absent: at the last token.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub reward_pad: Option<u32>,
    /// Digest of the data it was trained on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub data: Option<Digest>,
}

/// An adapter in memory, in Hugging Face's layout.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    pub config: AdapterConfig,
    pub base: Option<AdapterBase>,
    /// `[1, hidden]`: the reward head, where there is one.
    pub head: Option<Vec<f32>>,
    /// The chat template that came with it.
    pub chat_template: Option<String>,
    weights: BTreeMap<WeightId, Vec<f32>>,
    shapes: BTreeMap<WeightId, Vec<usize>>,
    path: PathBuf,
    digest: Digest,
}

impl Adapter {
    /// Reads an adapter's directory.
    ///
    /// # Errors
    /// A file is missing or malformed, or the adapter is of a kind that this engine does not compute; file and tensor
    /// are named.
    pub fn read(directory: &Path) -> Result<Self, LmError> {
        let config_path = directory.join(CONFIG_FILE);
        let config_text = fs_err::read_to_string(&config_path)?;
        let config = AdapterConfig::parse(&config_path, &config_text)?;
        let path = directory.join(WEIGHTS_FILE);
        let bytes = fs_err::read(&path)?;
        let mut adapter = Self {
            config,
            base: read_base(&directory.join(BASE_FILE))?,
            head: None,
            chat_template: read_if_there(&directory.join(TEMPLATE_FILE))?,
            weights: BTreeMap::new(),
            shapes: BTreeMap::new(),
            path: directory.to_owned(),
            digest: Digest::from_raw(
                &Sha256::new().chain_update(&config_text).chain_update(&bytes).finalize(),
            ),
        };
        let tensors = SafeTensors::deserialize(&bytes)
            .map_err(|error| LmError::format(&path, format!("not a readable safetensors file: {error}")))?;
        for (name, view) in tensors.iter() {
            adapter.insert(&path, name, &view)?;
        }
        adapter.check(&path)?;
        Ok(adapter)
    }

    fn insert(&mut self, path: &Path, name: &str, view: &TensorView<'_>) -> Result<(), LmError> {
        let values = floats(path, name, view)?;
        let plain = name.strip_prefix(PREFIX).unwrap_or(name);
        if plain == HEAD {
            self.head = Some(values);
            return Ok(());
        }
        let id = parse_name(plain).ok_or_else(|| {
            LmError::tensor(path, name, "no low-rank weight of a linear layer that this engine adapts")
        })?;
        if view.shape().len() > 2 || values.iter().any(|value| !value.is_finite()) {
            return Err(LmError::tensor(path, name, "not a matrix of finite numbers"));
        }
        self.shapes.insert(id, view.shape().to_vec());
        self.weights.insert(id, values);
        Ok(())
    }

    /// Every `A` has its `B`, and the other way round, of a rank that the configuration gives.
    fn check(&self, path: &Path) -> Result<(), LmError> {
        let ranks = self.config.ranks();
        for (id, shape) in &self.shapes {
            let rank = match *id {
                WeightId::LowRankA(..) => shape.first(),
                WeightId::LowRankB(..) => shape.last(),
                WeightId::Magnitude(..) if !self.config.use_dora => {
                    let problem = "a magnitude, although `use_dora` is false";
                    return Err(LmError::tensor(path, &format!("{PREFIX}{}", id.name()), problem));
                }
                _ => continue,
            };
            if shape.len() != 2 || rank.is_none_or(|rank| !ranks.contains(rank)) {
                let problem =
                    format!("the shape {shape:?} has not the rank that {CONFIG_FILE} gives ({ranks:?})");
                return Err(LmError::tensor(path, &format!("{PREFIX}{}", id.name()), problem));
            }
        }
        for id in self.weights.keys() {
            let (other, magnitude) = match *id {
                WeightId::LowRankA(layer, module) => {
                    (WeightId::LowRankB(layer, module), WeightId::Magnitude(layer, module))
                }
                WeightId::LowRankB(layer, module) => {
                    (WeightId::LowRankA(layer, module), WeightId::Magnitude(layer, module))
                }
                _ => continue,
            };
            if !self.weights.contains_key(&other) {
                return Err(LmError::tensor(path, &format!("{PREFIX}{}", other.name()), "missing"));
            }
            if self.config.use_dora && !self.weights.contains_key(&magnitude) {
                return Err(LmError::tensor(path, &format!("{PREFIX}{}", magnitude.name()), "missing"));
            }
        }
        Ok(())
    }

    /// SHA-256 of both files.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// A weight's values.
    #[must_use]
    pub fn weight(&self, id: WeightId) -> Option<&[f32]> {
        self.weights.get(&id).map(Vec::as_slice)
    }

    /// The rank of a module's adapter, from the shape of its `A`.
    fn rank(&self, layer: usize, module: Module, inputs: usize) -> Option<usize> {
        self.weight(WeightId::LowRankA(layer, module)).map(|a| a.len() / inputs.max(1))
    }

    /// The adapter of one module of `inputs` inputs.
    #[must_use]
    pub fn module(&self, layer: usize, module: Module, inputs: usize) -> Option<AdapterWeights<'_>> {
        let rank = self.rank(layer, module, inputs)?;
        Some(AdapterWeights {
            rank,
            scale: self.config.scale(rank),
            a: self.weight(WeightId::LowRankA(layer, module))?,
            b: self.weight(WeightId::LowRankB(layer, module))?,
            magnitude: self.weight(WeightId::Magnitude(layer, module)),
        })
    }

    /// The chat template that came with it, ready to render; `now` as in [`crate::LoadOptions`].
    ///
    /// # Errors
    /// It is no template.
    pub fn template(
        &self,
        tokenizer: &Tokenizer,
        now: Option<DateTime>,
    ) -> Result<Option<ChatTemplate>, LmError> {
        let parse = |source: &String| tokenizer.parse_template(source, now);
        let parsed = self.chat_template.as_ref().map(parse).transpose();
        parsed.map_err(|error| LmError::format(&self.path.join(TEMPLATE_FILE), error))
    }

    /// Refuses an adapter that was trained on other weights, or that adapts layers the model does not have.
    ///
    /// # Errors
    /// What does not fit.
    pub fn fits(&self, model: &LanguageModel) -> Result<(), LmError> {
        let identity = model.identity();
        if let Some(base) = self.base.as_ref().filter(|base| base.weights != identity.weights) {
            let problem = format!(
                "trained on other weights: those of `{}` ({}), not {}",
                base.name, base.weights, identity.weights
            );
            let hint =
                "use the adapter with the model that it was trained on; on other weights it means nothing";
            return Err(LmError::misplaced(&self.path, problem, hint));
        }
        let path = self.path.join(WEIGHTS_FILE);
        for (id, shape) in &self.shapes {
            let (WeightId::LowRankA(layer, module)
            | WeightId::LowRankB(layer, module)
            | WeightId::Magnitude(layer, module)) = *id
            else {
                continue;
            };
            let [outputs, inputs] = model.module_shape(module);
            let rank = self.rank(layer, module, inputs).unwrap_or_default();
            let wanted = match id {
                WeightId::LowRankA(..) => vec![rank, inputs],
                WeightId::LowRankB(..) => vec![outputs, rank],
                _ => vec![outputs],
            };
            if layer >= model.layers() || rank == 0 || *shape != wanted {
                let problem = format!(
                    "has the shape {shape:?}; the model has {} layers, in which it would be {wanted:?}",
                    model.layers()
                );
                return Err(LmError::tensor(&path, &id.name(), problem));
            }
        }
        self.is_whole(model)?;
        match &self.head {
            Some(head) if head.len() != model.hidden_size() => {
                let problem = format!("{} values for hidden states of {}", head.len(), model.hidden_size());
                Err(LmError::tensor(&path, HEAD, problem))
            }
            Some(_) | None => Ok(()),
        }
    }
}

impl Adapter {
    /// Every layer has what the configuration names.
    fn is_whole(&self, model: &LanguageModel) -> Result<(), LmError> {
        let path = self.path.join(WEIGHTS_FILE);
        for layer in 0..model.layers() {
            for module in Module::ALL {
                let id = WeightId::LowRankA(layer, module);
                if self.config.names(layer, module) && !self.weights.contains_key(&id) {
                    return Err(LmError::tensor(&path, &format!("{PREFIX}{}", id.name()), "missing"));
                }
            }
        }
        match self.weights.is_empty() {
            true => Err(LmError::format(&path, "it adapts no layer")),
            false => Ok(()),
        }
    }
}

fn read_base(path: &Path) -> Result<Option<AdapterBase>, LmError> {
    let parse = |text: String| serde_json::from_str(&text).map_err(|error| LmError::format(path, error));
    read_if_there(path)?.map(parse).transpose()
}

fn read_if_there(path: &Path) -> Result<Option<String>, LmError> {
    match fs_err::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// `model.layers.3.self_attn.q_proj.lora_A.weight` and its relatives.
fn parse_name(name: &str) -> Option<WeightId> {
    let rest = name.strip_prefix("model.layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (_, rest) = rest.split_once('.')?;
    let (module, kind) = rest.split_once('.')?;
    let module = Module::named(module)?;
    let id = match kind {
        "lora_A.weight" => WeightId::LowRankA(layer, module),
        "lora_B.weight" => WeightId::LowRankB(layer, module),
        "lora_magnitude_vector" | "lora_magnitude_vector.weight" => WeightId::Magnitude(layer, module),
        _ => return None,
    };
    // The path in between must be the module's own.
    name.starts_with(&module.path(layer)).then_some(id)
}

fn floats(path: &Path, name: &str, view: &TensorView<'_>) -> Result<Vec<f32>, LmError> {
    let kind = match view.dtype() {
        Dtype::F32 => GgmlDType::F32,
        Dtype::F16 => GgmlDType::F16,
        Dtype::BF16 => GgmlDType::BF16,
        other => return Err(LmError::tensor(path, name, format!("type {other:?} is not f32, f16 or bf16"))),
    };
    let mut values = vec![0.0; view.shape().iter().product()];
    dequantise(kind, view.data(), &mut values).map_err(|error| LmError::tensor(path, name, error))?;
    Ok(values)
}
