//! The learner over the engine: adapters or all weights, with the losses of [`crate::Objective`].

mod answers;
mod start;
#[cfg(test)]
mod tests;
mod trees;

use std::collections::BTreeMap;

use evalign_core::Digest;
use evalign_lm::adapter::{self, Adapter, AdapterBase, AdapterConfig, AdapterTask, Targets};
use evalign_lm::training::{
    AdapterWeights, Dropout, GradientBuffers, LabelStatistics, Lesson, MemoryPlan, Module, Reading, Readout,
    Recompute, TokenTree, TrainingSpace, WeightId,
};
use evalign_lm::{LanguageModel, reward_of};

use crate::loss::LabelLogps;
use crate::random::mix;
use crate::{
    Answer, Gradients, Learner, LoraOptions, MicroBatch, Objective, Observed, Parameter, ReferenceLogps,
    Scale, Sequence, TrainError,
};
use trees::{Layout, mismatched};

/// Which weights are trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Method {
    /// A new adapter.
    Lora(LoraOptions),
    /// Training goes on with this adapter; the reference is what it is now.
    Adapter(Box<Adapter>),
    /// All weights of the model.
    Full,
}

/// What a [`Policy`] is made of, beside the model.
#[derive(Debug)]
pub struct PolicyOptions {
    pub method: Method,
    pub objective: Objective,
    /// Of the adapter's first weights, the reward head's, and dropout.
    pub seed: u64,
    /// No dropout (TRL's default for preferences and rewards).
    pub disable_dropout: bool,
    pub recompute: Recompute,
    /// A reward is read at the last token that is not this one (transformers' rule); `None`: at the last.
    pub pad_token: Option<u32>,
    /// The reference of preference losses; `None`: the model as it is before training. Required where all weights are
    /// trained and the loss has a reference.
    pub reference: Option<LanguageModel>,
    /// How the model is called in the adapter's files.
    pub model_name: String,
    /// Tokens of KTO's mismatched texts, at most.
    pub max_length: Option<usize>,
    /// Of what is trained on, for the adapter's files.
    pub data: Option<Digest>,
    /// What lies beside the weights, names and contents of files: everything that a model has where all weights are
    /// trained; of an adapter, a chat template that is not the model's own.
    pub description: Vec<(String, Vec<u8>)>,
}

/// Where the reference's log-probabilities come from.
#[derive(Debug)]
enum Reference {
    /// The loss has none.
    None,
    WithoutAdapter,
    /// The adapter that training started from.
    FirstAdapter(Vec<Parameter>),
    Model(Box<LanguageModel>),
}

/// A model that is being trained.
#[derive(Debug)]
pub struct Policy {
    model: LanguageModel,
    parameters: Vec<Parameter>,
    places: BTreeMap<WeightId, usize>,
    /// Index of the reward head's weights.
    head: Option<usize>,
    /// Of the adapter; absent where all weights are trained.
    config: Option<AdapterConfig>,
    objective: Objective,
    reference: Reference,
    seed: u64,
    dropout: f32,
    recompute: Recompute,
    pad_token: Option<u32>,
    model_name: String,
    max_length: Option<usize>,
    data: Option<Digest>,
    description: Vec<(String, Vec<u8>)>,
    space: TrainingSpace,
}

impl Policy {
    /// Takes over a model and gives it what is trained.
    ///
    /// # Errors
    /// A target module that does not exist, an adapter that does not fit, a full fine-tuning whose loss has a reference
    /// without a reference model, or weights that are not numbers.
    pub fn new(mut model: LanguageModel, options: PolicyOptions) -> Result<Self, TrainError> {
        let start = start::Start::new(&model, &options)?;
        let reference = match (options.objective.needs_reference(), options.reference, &options.method) {
            (false, _, _) => Reference::None,
            (true, Some(reference), _) => Reference::Model(Box::new(reference)),
            (true, None, Method::Lora(_)) => Reference::WithoutAdapter,
            (true, None, Method::Adapter(_)) => Reference::FirstAdapter(start.parameters.clone()),
            (true, None, Method::Full) => return Err(start::reference_missing()),
        };
        model.prepare_training()?;
        let config = start.config;
        let dropout = config.as_ref().map_or(0.0, |config| config.lora_dropout);
        let mut policy = Self {
            model,
            parameters: start.parameters,
            places: start.places,
            head: start.head,
            config,
            objective: options.objective,
            reference,
            seed: options.seed,
            dropout: if options.disable_dropout { 0.0 } else { dropout },
            recompute: options.recompute,
            pad_token: options.pad_token,
            model_name: options.model_name,
            max_length: options.max_length,
            data: options.data,
            description: options.description,
            space: TrainingSpace::default(),
        };
        policy.parameters_changed()?;
        Ok(policy)
    }

    /// The model with the weights of the last [`Learner::parameters_changed`].
    #[must_use]
    pub fn model(&self) -> &LanguageModel {
        &self.model
    }

    /// What becomes of activations from the next step on.
    pub fn set_recompute(&mut self, recompute: Recompute) {
        self.recompute = recompute;
    }

    /// The loss.
    #[must_use]
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// Numbers that are trained.
    #[must_use]
    pub fn trained(&self) -> usize {
        self.parameters.iter().map(|parameter| parameter.data.len()).sum()
    }

    /// Bytes of a step over batches of at most these sizes.
    #[must_use]
    pub fn memory_plan(&self, batches: &[MicroBatch]) -> MemoryPlan {
        let size = |batch: &MicroBatch| {
            let layout = Layout::new(batch, &batch_sequences(batch));
            (layout.rows(), layout.labels.len())
        };
        let others = batches.iter().filter(|_| self.objective.needs_mismatched());
        let others = others.map(|batch| size(&mismatched(batch, self.max_length)));
        let sizes = batches.iter().map(size).chain(others);
        let (rows, labels) = sizes.fold((0, 0), |most, size| (most.0.max(size.0), most.1.max(size.1)));
        self.model.training_memory(rows, labels, self.trained(), self.recompute)
    }

    /// All logits of a text, `[tokens, vocabulary]`, with the adapter or without it.
    ///
    /// # Errors
    /// Computing fails.
    pub fn logits(&self, ids: &[u32], adapted: bool) -> Result<Vec<f32>, TrainError> {
        let trees = [TokenTree { trunk: ids.to_vec(), branches: Vec::new() }];
        let rows: Vec<usize> = (0..ids.len()).collect();
        let lesson = Lesson { without_adapter: !adapted, ..Lesson::new(&trees, Readout::Logits(&rows)) };
        match self.model.read(&lesson, &mut TrainingSpace::default())? {
            Reading::Logits(logits) => Ok(logits),
            Reading::Labels(_) | Reading::Hidden(_) => Ok(Vec::new()),
        }
    }

    /// The reward of a text with the weights as they are now, or (not `adapted`) of the model before training, with its
    /// own head if it has one.
    ///
    /// # Errors
    /// Computing fails.
    pub fn reward(&self, ids: &[u32], adapted: bool) -> Result<f32, TrainError> {
        let trees = [TokenTree { trunk: ids.to_vec(), branches: Vec::new() }];
        let rows = [evalign_lm::pooled_index(ids, self.pad_token)];
        let lesson = Lesson { without_adapter: !adapted, ..Lesson::new(&trees, Readout::Hidden(&rows)) };
        match self.model.read(&lesson, &mut TrainingSpace::default())? {
            Reading::Hidden(hidden) => {
                let own = self.model.reward_head().filter(|_| !adapted);
                Ok(reward_of(&hidden, own.unwrap_or(self.head_weights())))
            }
            Reading::Labels(_) | Reading::Logits(_) => Ok(f32::NAN),
        }
    }

    fn head_weights(&self) -> &[f32] {
        self.head.and_then(|head| self.parameters.get(head)).map_or(&[], |parameter| &parameter.data)
    }

    fn lesson<'a>(&self, layout: &'a Layout, dropout: Option<Dropout<'a>>) -> Lesson<'a> {
        let readout = match self.objective.is_reward() {
            true => Readout::Hidden(&layout.pooled),
            false => Readout::Labels(&layout.labels),
        };
        Lesson { recompute: self.recompute, dropout, ..Lesson::new(&layout.trees, readout) }
    }

    /// Loss, derivatives and observations of what was read.
    fn judge(
        &self,
        batch: &MicroBatch,
        layout: &Layout,
        reading: &Reading,
        reference: Option<&ReferenceLogps>,
        divergence: f64,
        scale: Scale,
    ) -> Judged {
        match reading {
            Reading::Labels(statistics) => {
                let mut sequences = layout.observe(statistics, reference);
                let squares: Vec<f32> = statistics.iter().map(|label| label.log_sum_squares).collect();
                let views: Vec<LabelLogps<'_>> = sequences
                    .iter()
                    .zip(layout.label_ranges())
                    .map(|(sequence, range)| LabelLogps {
                        policy: &sequence.logp_of_label,
                        log_sum_squares: &squares[range],
                        reference: &sequence.reference_of_label,
                    })
                    .collect();
                let slope = self.objective.slope(batch, &views, divergence, scale);
                for (sequence, logp) in sequences.iter_mut().zip(slope.logps.iter().flatten()) {
                    sequence.logp = *logp;
                }
                let divergence = match &self.objective {
                    Objective::Kto(_) => Some(divergence.max(0.0)),
                    Objective::Sft(_) | Objective::Reward { .. } | Objective::Preference(_) => None,
                };
                let observed = Observed { loss: slope.loss, sequences, rewards: slope.rewards, divergence };
                Judged { observed, slopes: slope.by_label.into_iter().flatten().collect(), head: Vec::new() }
            }
            Reading::Hidden(hidden) => self.judge_rewards(batch, layout, hidden, scale),
            // Never asked for.
            Reading::Logits(_) => {
                Judged { observed: Observed::default(), slopes: Vec::new(), head: Vec::new() }
            }
        }
    }

    fn judge_rewards(&self, batch: &MicroBatch, layout: &Layout, hidden: &[f32], scale: Scale) -> Judged {
        let weights = self.head_weights();
        let rows = hidden.chunks_exact(weights.len().max(1));
        let rewards: Vec<f32> = rows.clone().map(|row| reward_of(row, weights)).collect();
        let slope = self.objective.reward_slope(batch, &rewards, scale);
        let mut head = vec![0.0f32; weights.len()];
        let mut slopes = Vec::with_capacity(hidden.len());
        for (row, by_reward) in rows.zip(&slope.by_reward) {
            slopes.extend(weights.iter().map(|weight| by_reward * weight));
            head.iter_mut().zip(row).for_each(|(head, x)| *head = by_reward.mul_add(*x, *head));
        }
        let sequences = layout.observe_rewards(&rewards);
        let observed = Observed { loss: slope.loss, sequences, rewards: slope.rewards, divergence: None };
        Judged { observed, slopes, head }
    }

    /// KTO's mean log-ratio of completions behind other items' prompts.
    fn divergence(&mut self, batch: &MicroBatch) -> Result<f64, TrainError> {
        if !self.objective.needs_mismatched() {
            return Ok(0.0);
        }
        let other = mismatched(batch, self.max_length);
        let policy = self.plain_logps(&other)?;
        let Some(reference) = self.reference(&other)? else { return Ok(0.0) };
        let sum = |logps: &ReferenceLogps| {
            logps.per_label.iter().flatten().map(|logp| f64::from(*logp)).sum::<f64>()
        };
        Ok((sum(&policy) - sum(&reference)) / other.items.len().max(1) as f64)
    }

    fn plain_logps(&mut self, batch: &MicroBatch) -> Result<ReferenceLogps, TrainError> {
        logps_of(&self.model, batch, &mut self.space, false)
    }

    fn dropout_keys(&self, batch: &MicroBatch, layout: &Layout) -> Vec<u64> {
        if self.dropout > 0.0 { layout.row_keys(batch) } else { Vec::new() }
    }

    fn adapter_base(&self) -> AdapterBase {
        AdapterBase {
            weights: self.model.identity().weights.clone(),
            name: self.model_name.clone(),
            reward_pad: self.pad_token.filter(|_| self.objective.is_reward()),
            data: self.data.clone(),
        }
    }
}

/// What a loss says of a reading.
struct Judged {
    observed: Observed,
    /// By label or by hidden value.
    slopes: Vec<f32>,
    /// Gradient of the reward head.
    head: Vec<f32>,
}

/// A batch's texts in the order of [`Observed::sequences`].
fn batch_sequences(batch: &MicroBatch) -> Vec<&Sequence> {
    let side =
        |second: bool| batch.items.iter().filter_map(move |item| item.sequences().nth(usize::from(second)));
    side(false).chain(side(true)).collect()
}

/// Log-probabilities of a batch's labels under a model.
fn logps_of(
    model: &LanguageModel,
    batch: &MicroBatch,
    space: &mut TrainingSpace,
    without_adapter: bool,
) -> Result<ReferenceLogps, TrainError> {
    let layout = Layout::new(batch, &batch_sequences(batch));
    let lesson = Lesson { without_adapter, ..Lesson::new(&layout.trees, Readout::Labels(&layout.labels)) };
    let Reading::Labels(statistics) = model.read(&lesson, space)? else {
        return Ok(ReferenceLogps::default());
    };
    let of = |labels: &[LabelStatistics]| labels.iter().map(|label| label.logprob).collect();
    Ok(ReferenceLogps { per_label: layout.label_ranges().map(|range| of(&statistics[range])).collect() })
}

impl Learner for Policy {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    fn weights_name(&self) -> &str {
        if self.config.is_some() { adapter::WEIGHTS_FILE } else { "model.safetensors" }
    }

    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, TrainError> {
        let Some(config) = &self.config else { return Ok(self.description.clone()) };
        let base = serde_json::to_vec_pretty(&self.adapter_base())
            .map_err(|error| TrainError::Io(std::io::Error::other(error)))?;
        let mut files = vec![
            (adapter::CONFIG_FILE.to_owned(), config.to_json().into_bytes()),
            (adapter::BASE_FILE.to_owned(), base),
        ];
        files.extend(self.description.iter().cloned());
        Ok(files)
    }

    fn parameters_changed(&mut self) -> Result<(), TrainError> {
        install(&mut self.model, &self.parameters, &self.places, self.config.as_ref())
    }

    fn backward(
        &mut self,
        batch: &MicroBatch,
        reference: Option<&ReferenceLogps>,
        scale: Scale,
        update: u64,
        gradients: &mut Gradients,
    ) -> Result<Observed, TrainError> {
        let divergence = self.divergence(batch)?;
        let layout = Layout::new(batch, &batch_sequences(batch)).pooled_at(self.pad_token);
        let row_keys = self.dropout_keys(batch, &layout);
        let dropout = (self.dropout > 0.0).then(|| Dropout {
            rate: self.dropout,
            key: mix(self.seed ^ mix(update)),
            row_keys: &row_keys,
        });
        let mut space = std::mem::take(&mut self.space);
        let mut judged = None;
        let mut respond = |reading: &Reading| {
            let found = self.judge(batch, &layout, reading, reference, divergence, scale);
            let slopes = found.slopes.clone();
            judged = Some(found);
            slopes
        };
        let lesson = self.lesson(&layout, dropout);
        let mut buffers = GradientBuffers::new(&self.places, &mut gradients.0);
        let result = self.model.learn(&lesson, &mut space, &mut respond, &mut buffers);
        self.space = space;
        result?;
        let Some(judged) = judged else { return Ok(Observed::default()) };
        if let Some(buffer) = self.head.and_then(|head| gradients.0.get_mut(head)) {
            buffer.iter_mut().zip(&judged.head).for_each(|(sum, value)| *sum += value);
        }
        Ok(judged.observed)
    }

    fn forward(
        &mut self,
        batch: &MicroBatch,
        reference: Option<&ReferenceLogps>,
        scale: Scale,
    ) -> Result<Observed, TrainError> {
        let divergence = self.divergence(batch)?;
        let layout = Layout::new(batch, &batch_sequences(batch)).pooled_at(self.pad_token);
        let mut space = std::mem::take(&mut self.space);
        let reading = self.model.read(&self.lesson(&layout, None), &mut space);
        self.space = space;
        Ok(self.judge(batch, &layout, &reading?, reference, divergence, scale).observed)
    }

    fn reference(&mut self, batch: &MicroBatch) -> Result<Option<ReferenceLogps>, TrainError> {
        let found = match &self.reference {
            Reference::None => return Ok(None),
            Reference::WithoutAdapter => logps_of(&self.model, batch, &mut self.space, true)?,
            Reference::Model(model) => logps_of(model, batch, &mut self.space, false)?,
            Reference::FirstAdapter(first) => {
                install(&mut self.model, first, &self.places, self.config.as_ref())?;
                let found = logps_of(&self.model, batch, &mut self.space, false);
                install(&mut self.model, &self.parameters, &self.places, self.config.as_ref())?;
                found?
            }
        };
        Ok(Some(found))
    }

    fn answers(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Answer>, TrainError> {
        self.answers_to(prompts)
    }
}

/// Gives a model the values of trained weights.
fn install(
    model: &mut LanguageModel,
    parameters: &[Parameter],
    places: &BTreeMap<WeightId, usize>,
    config: Option<&AdapterConfig>,
) -> Result<(), TrainError> {
    let values = |id: WeightId| {
        places.get(&id).and_then(|place| parameters.get(*place)).map(|found| found.data.as_slice())
    };
    let Some(config) = config else {
        return Ok(model.set_weights(&values)?);
    };
    let inputs: BTreeMap<Module, usize> =
        Module::ALL.into_iter().map(|module| (module, model.module_shape(module)[1])).collect();
    Ok(model.adapt(&|layer, module| {
        let a = values(WeightId::LowRankA(layer, module))?;
        let rank = a.len() / inputs.get(&module)?;
        Some(AdapterWeights {
            rank,
            scale: config.scale(rank),
            a,
            b: values(WeightId::LowRankB(layer, module))?,
            magnitude: values(WeightId::Magnitude(layer, module)),
        })
    })?)
}

/// The configuration that PEFT reads, from what was asked for.
fn adapter_config(
    options: &LoraOptions,
    modules: &[Module],
    objective: &Objective,
    model_name: &str,
) -> AdapterConfig {
    let reward = objective.is_reward();
    AdapterConfig {
        r: options.r,
        lora_alpha: options.alpha,
        lora_dropout: options.dropout,
        target_modules: Targets::Names(modules.iter().map(|module| module.name().to_owned()).collect()),
        use_rslora: options.rslora,
        use_dora: options.dora,
        task_type: Some(if reward { AdapterTask::SequenceClassification } else { AdapterTask::CausalLm }),
        base_model_name_or_path: Some(model_name.to_owned()),
        modules_to_save: reward.then(|| vec!["score".to_owned()]),
        ..AdapterConfig::default()
    }
}
