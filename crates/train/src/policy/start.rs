//! The weights that training starts from.

use std::collections::BTreeMap;

use evalign_lm::LanguageModel;
use evalign_lm::adapter::{Adapter, AdapterConfig, HEAD, PREFIX};
use evalign_lm::training::{Module, WeightId};

use super::{Method, Policy, PolicyOptions, Reference, adapter_config};
use crate::random::SplitMix;
use crate::{LoraOptions, Objective, Parameter, TrainError};

/// Standard deviation of a new reward head (transformers' `initializer_range`).
const HEAD_DEVIATION: f64 = 0.02;

/// What is trained, before the first step.
pub(super) struct Start {
    pub(super) parameters: Vec<Parameter>,
    pub(super) places: BTreeMap<WeightId, usize>,
    pub(super) head: Option<usize>,
    pub(super) config: Option<AdapterConfig>,
}

impl Start {
    pub(super) fn new(model: &LanguageModel, options: &PolicyOptions) -> Result<Self, TrainError> {
        let mut start = Self { parameters: Vec::new(), places: BTreeMap::new(), head: None, config: None };
        match &options.method {
            Method::Lora(lora) => start.add_lora(model, lora, options)?,
            Method::Adapter(adapter) => start.add_adapter(model, adapter, options)?,
            Method::Full => {
                for (id, shape) in model.weights() {
                    // The vocabulary matrix of a reward model has no part in its rewards.
                    if !(options.objective.is_reward() && id == WeightId::Head) {
                        start.add(id, id.name(), shape, model.weight_values(id)?);
                    }
                }
            }
        }
        if options.objective.is_reward() {
            start.add_head(model, options);
        }
        match start.parameters.iter().find(|found| found.data.iter().any(|value| !value.is_finite())) {
            Some(parameter) => Err(TrainError::Unsupported {
                what: format!("`{}` holds values that are not numbers", parameter.name),
                hint: "the model's files are damaged: fetch or save them again".to_owned(),
            }),
            None => Ok(start),
        }
    }

    fn add(&mut self, id: WeightId, name: String, shape: Vec<usize>, data: Vec<f32>) {
        // transformers decays neither biases nor norms.
        let decays = !matches!(
            id,
            WeightId::Bias(..)
                | WeightId::AttentionNorm(_)
                | WeightId::MlpNorm(_)
                | WeightId::QueryNorm(_)
                | WeightId::KeyNorm(_)
                | WeightId::FinalNorm
        );
        self.places.insert(id, self.parameters.len());
        self.parameters.push(Parameter { name, shape, data, decays });
    }

    fn add_lora(
        &mut self,
        model: &LanguageModel,
        lora: &LoraOptions,
        options: &PolicyOptions,
    ) -> Result<(), TrainError> {
        check(lora)?;
        let modules = targets(lora)?;
        for layer in 0..model.layers() {
            for module in &modules {
                self.add_module(model, layer, *module, lora, options.seed)?;
            }
        }
        self.config = Some(adapter_config(lora, &modules, &options.objective, &options.model_name));
        Ok(())
    }

    /// PEFT's start: `A` uniform in `+-1 / sqrt(inputs)` (Kaiming's bound with `a = sqrt(5)`), `B` zero, so that the
    /// adapted model is the model; DoRA's magnitudes are the norms of the weights.
    fn add_module(
        &mut self,
        model: &LanguageModel,
        layer: usize,
        module: Module,
        lora: &LoraOptions,
        seed: u64,
    ) -> Result<(), TrainError> {
        let [outputs, inputs] = model.module_shape(module);
        let name = |id: WeightId| format!("{PREFIX}{}", id.name());
        let id = WeightId::LowRankA(layer, module);
        let bound = 1.0 / (inputs as f64).sqrt();
        let mut numbers = SplitMix::named(seed, &id.name());
        let a = (0..lora.r * inputs).map(|_| ((2.0 * numbers.uniform() - 1.0) * bound) as f32).collect();
        self.add(id, name(id), vec![lora.r, inputs], a);
        let id = WeightId::LowRankB(layer, module);
        self.add(id, name(id), vec![outputs, lora.r], vec![0.0; outputs * lora.r]);
        if lora.dora {
            let weight = model.weight_values(WeightId::Weight(layer, module))?;
            let norm =
                |row: &[f32]| row.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt() as f32;
            let id = WeightId::Magnitude(layer, module);
            self.add(id, name(id), vec![outputs], weight.chunks_exact(inputs).map(norm).collect());
        }
        Ok(())
    }

    fn add_adapter(
        &mut self,
        model: &LanguageModel,
        adapter: &Adapter,
        options: &PolicyOptions,
    ) -> Result<(), TrainError> {
        adapter.fits(model)?;
        for layer in 0..model.layers() {
            for module in Module::ALL {
                let [outputs, inputs] = model.module_shape(module);
                let Some(found) = adapter.module(layer, module, inputs) else { continue };
                let name = |id: WeightId| format!("{PREFIX}{}", id.name());
                let id = WeightId::LowRankA(layer, module);
                self.add(id, name(id), vec![found.rank, inputs], found.a.to_vec());
                let id = WeightId::LowRankB(layer, module);
                self.add(id, name(id), vec![outputs, found.rank], found.b.to_vec());
                if let Some(magnitude) = found.magnitude {
                    let id = WeightId::Magnitude(layer, module);
                    self.add(id, name(id), vec![outputs], magnitude.to_vec());
                }
            }
        }
        let mut config = adapter.config.clone();
        if options.objective.is_reward() {
            config.modules_to_save = Some(vec!["score".to_owned()]);
        }
        self.config = Some(config);
        Ok(())
    }

    /// The reward head: the adapter's, the model's, or a new one.
    fn add_head(&mut self, model: &LanguageModel, options: &PolicyOptions) {
        let of_adapter = match &options.method {
            Method::Adapter(adapter) => adapter.head.clone(),
            Method::Lora(_) | Method::Full => None,
        };
        let data = of_adapter.or_else(|| model.reward_head().map(<[f32]>::to_vec)).unwrap_or_else(|| {
            let mut numbers = SplitMix::named(options.seed, HEAD);
            (0..model.hidden_size()).map(|_| (numbers.normal() * HEAD_DEVIATION) as f32).collect()
        });
        let name = if self.config.is_some() { format!("{PREFIX}{HEAD}") } else { HEAD.to_owned() };
        self.head = Some(self.parameters.len());
        self.parameters.push(Parameter { name, shape: vec![1, model.hidden_size()], data, decays: true });
    }
}

fn check(lora: &LoraOptions) -> Result<(), TrainError> {
    let problem = match lora {
        LoraOptions { r: 0, .. } => "rank 0 adapts nothing".to_owned(),
        LoraOptions { alpha, .. } if !(alpha.is_finite() && *alpha > 0.0) => format!("alpha is {alpha}"),
        LoraOptions { dropout, .. } if !(0.0..1.0).contains(dropout) => format!("dropout is {dropout}"),
        _ => return Ok(()),
    };
    Err(TrainError::Config {
        path: None,
        setting: "lora".to_owned(),
        problem,
        hint: "a rank of 1 or more, a positive alpha and a dropout in [0, 1)".to_owned(),
    })
}

fn targets(lora: &LoraOptions) -> Result<Vec<Module>, TrainError> {
    let names = lora.target_modules.as_slice();
    if names.iter().any(|name| name == "all-linear") {
        return Ok(Module::ALL.to_vec());
    }
    let known = Module::ALL.map(Module::name).join(", ");
    let wrong = |problem: String| TrainError::Config {
        path: None,
        setting: "lora_target_modules".to_owned(),
        problem,
        hint: format!("`all-linear`, or some of {known}"),
    };
    if let Some(name) = names.iter().find(|name| Module::named(name).is_none()) {
        return Err(wrong(format!("the model has no linear layer `{name}` in its blocks")));
    }
    if names.is_empty() {
        return Err(wrong("no module to adapt".to_owned()));
    }
    Ok(Module::ALL.into_iter().filter(|module| names.iter().any(|name| name == module.name())).collect())
}

pub(super) fn reference_missing() -> TrainError {
    TrainError::Unsupported {
        what: "full fine-tuning changes the weights that this loss compares with".to_owned(),
        hint: "name the model as `--ref-model` as well, or train an adapter".to_owned(),
    }
}

impl PolicyOptions {
    /// An adapter for this objective, everything else as TRL has it.
    #[must_use]
    pub fn new(method: Method, objective: Objective, model_name: &str) -> Self {
        Self {
            method,
            disable_dropout: !matches!(objective, Objective::Sft(_)),
            objective,
            seed: 42,
            recompute: evalign_lm::training::Recompute::Never,
            pad_token: None,
            reference: None,
            model_name: model_name.to_owned(),
            max_length: None,
            data: None,
            description: Vec::new(),
        }
    }
}

impl Policy {
    /// The adapter, if there is one, is new: the model with it is the model without.
    #[must_use]
    pub fn changes_nothing(&self) -> bool {
        !matches!(self.reference, Reference::WithoutAdapter)
            || self.zero_gradients().len() == self.low_ranks()
    }

    /// Indices of the `A` of adapters whose `B` is zero: they have no gradient yet.
    #[must_use]
    pub fn zero_gradients(&self) -> Vec<usize> {
        let is_zero = |id: WeightId| {
            let found = self.places.get(&id).and_then(|place| self.parameters.get(*place));
            found.is_some_and(|parameter| parameter.data.iter().all(|value| *value == 0.0))
        };
        let of_zero = |(id, place): (&WeightId, &usize)| match *id {
            WeightId::LowRankA(layer, module) if is_zero(WeightId::LowRankB(layer, module)) => Some(*place),
            _ => None,
        };
        self.places.iter().filter_map(of_zero).collect()
    }

    fn low_ranks(&self) -> usize {
        self.places.keys().filter(|id| matches!(id, WeightId::LowRankA(..))).count()
    }
}
