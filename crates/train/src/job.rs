//! A run put together: model, data, what is trained, and the plan, before the first update.

mod memory;
mod template;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use evalign_core::{Digest, Dtype};
use evalign_data::Dataset;
use evalign_lm::adapter::{Adapter, TEMPLATE_FILE};
use evalign_lm::training::{MemoryPlan, Recompute};
use evalign_lm::{ChatTemplate, LanguageModel, LoadOptions};
use memory::{fit, largest_batches};
use serde_json::{Value, json};
use template::own_template;

use crate::{
    Batching, Checkpoints, Interval, Item, Method, Policy, PolicyOptions, Prepared, ReferenceStore, Sequence,
    Start, TrainConfig, TrainError, Trainer, TrainerOptions, prepare,
};

/// What a run starts from.
#[derive(Debug)]
pub struct Sources {
    /// A GGUF file or a Hugging Face directory.
    pub model: PathBuf,
    /// How the model is called in messages and in the adapter's files.
    pub model_name: String,
    /// Instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Training goes on with this adapter.
    pub adapter: Option<PathBuf>,
    /// The reference of preference losses, where it is another model.
    pub reference: Option<PathBuf>,
    pub rows: Dataset,
    pub evaluation: Option<Dataset>,
    /// Without `evaluation`: this share of the prompts is kept back for it.
    pub evaluation_fraction: f64,
}

/// What becomes of activations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RecomputeChoice {
    /// Kept as far as memory reaches.
    #[default]
    Auto,
    Always,
    Never,
}

/// A run that is ready to start.
#[derive(Debug)]
pub struct Job {
    pub config: TrainConfig,
    pub policy: Policy,
    pub data: Prepared,
    pub evaluation: Option<Prepared>,
    pub batching: Batching,
    pub updates: u64,
    pub memory: MemoryPlan,
    /// What the run is, and its digest: with another it cannot be gone on with.
    pub identity: Value,
    pub run: Digest,
    /// Digest of what the reference's log-probabilities depend on besides the texts.
    reference: Digest,
    /// Policy and reference are the same before the first update.
    starts_at_reference: bool,
}

impl Job {
    /// Loads, tokenises, plans.
    ///
    /// # Errors
    /// A source cannot be read or used, or the plan does not fit into `memory_bytes` (`None`: what is free now).
    pub fn prepare(
        config: TrainConfig,
        sources: &Sources,
        load: &LoadOptions,
        (recompute, memory_bytes): (RecomputeChoice, Option<u64>),
    ) -> Result<Self, TrainError> {
        let model = LanguageModel::load(&sources.model, load)?;
        let adapter = sources.adapter.as_deref().map(Adapter::read).transpose()?;
        let own = own_template(sources, adapter.as_ref(), &model, load)?;
        let template = own.as_ref().map(|(_, template)| template).or(model.chat_template()).cloned();
        let (data, evaluation) = items(&config, sources, &model, template.as_ref())?;
        check_stopping(&config, evaluation.is_some())?;
        let reference = sources.reference.as_deref().filter(|_| config.objective.needs_reference());
        let reference_model = reference.map(|path| LanguageModel::load(path, load)).transpose()?;
        let identity =
            identity(&config, &model, template.as_ref(), adapter.as_ref(), reference_model.as_ref(), sources);
        let reference = reference_digest(&model, reference_model.as_ref(), adapter.as_ref());
        let starts_at_reference = match (&reference_model, &adapter) {
            (None, _) => true,
            (Some(other), None) => other.identity().weights == model.identity().weights,
            (Some(_), Some(_)) => false,
        };
        let method = match (adapter, &config.lora) {
            (Some(_), None) => return Err(adapter_beside_all_weights()),
            (Some(adapter), Some(_)) => Method::Adapter(Box::new(adapter)),
            (None, Some(lora)) => Method::Lora(lora.clone()),
            (None, None) => Method::Full,
        };
        let options = policy_options(&config, sources, &model, (method, own.map(|(source, _)| source)))?;
        let mut policy = Policy::new(model, PolicyOptions { reference: reference_model, ..options })?;
        let batching = Batching {
            order: config.order,
            batch_size: config.batch_size,
            accumulation: config.accumulation_steps,
            seed: config.seed,
            lengths: data.lengths(),
        };
        let updates = config.updates(batching.updates_per_epoch());
        let evaluated = evaluation.as_ref().map(|data| (data, config.eval_batch_size));
        // Weights and moments of the update before.
        let previous = if config.lora.is_some() { 3 * 4 * policy.trained() as u64 } else { 0 };
        let batches = largest_batches((&data, &batching), evaluated);
        let memory = fit(&mut policy, &batches, previous, recompute, memory_bytes)?;
        let run = Digest::of_json(&identity);
        Ok(Self {
            config,
            policy,
            data,
            evaluation,
            batching,
            updates,
            memory,
            identity,
            run,
            reference,
            starts_at_reference,
        })
    }

    /// The first different prompts, of the evaluation split where there is one; none for a reward model.
    #[must_use]
    pub fn prompts(&self) -> Vec<Vec<u32>> {
        let mut found: Vec<Vec<u32>> = Vec::new();
        if self.policy.objective().is_reward() {
            return found;
        }
        let items = self.evaluation.as_ref().map_or(&self.data.items, |data| &data.items);
        let prompt = |item: &Item| -> Option<Vec<u32>> {
            let Sequence { ids, trained } = item.sequences().next()?;
            let tokens = trained.iter().take_while(|trained| !**trained).count();
            (tokens > 0).then(|| ids[..tokens].to_vec())
        };
        for prompt in items.iter().filter_map(prompt) {
            if found.len() < self.config.samples && !found.contains(&prompt) {
                found.push(prompt);
            }
        }
        found
    }

    /// What the first update has to show.
    fn start(&self) -> Start {
        let plain = |item: &Item| !matches!(item, Item::Pair { label: Some(_), .. });
        let at_reference = self.starts_at_reference && self.policy.changes_nothing();
        let objective = self.policy.objective();
        let identity = self.policy.model().identity();
        let on_cpu = identity.device == "cpu";
        Start {
            loss: objective.initial_loss().filter(|_| at_reference && self.data.items.iter().all(plain)),
            zero_rewards: at_reference && objective.needs_reference(),
            zero_gradients: self.policy.zero_gradients(),
            // Sums over some hundred labels of what 8 bits of mantissa leave of a log-probability, times beta.
            tolerance: if on_cpu || identity.dtype == Dtype::F32 { 1e-4 } else { 5e-2 },
            depends_on_batch: !on_cpu,
        }
    }

    /// Whether `output` can be trained into: it holds no other run.
    ///
    /// # Errors
    /// It does, or cannot be used.
    pub fn check_output(&self, output: &Path) -> Result<(), TrainError> {
        Checkpoints::open(output)?.last_of(self.run.as_str()).map(|_| ())
    }

    /// The loop over this job, writing to `output`; goes on from the last checkpoint there. `references`: the
    /// directory in which log-probabilities of references are kept.
    ///
    /// # Errors
    /// The directory cannot be used, or holds another run.
    pub fn trainer(
        &mut self,
        output: &Path,
        references: Option<&Path>,
    ) -> Result<(Trainer<'_>, &mut Policy), TrainError> {
        let config = &self.config;
        let every = |interval: Interval| interval.updates(self.batching.updates_per_epoch(), self.updates);
        let options = TrainerOptions {
            purpose: config.dataset.purpose,
            updates: self.updates,
            schedule: config.schedule_over(self.updates),
            adam: config.adam,
            max_grad_norm: config.max_grad_norm,
            accumulation: config.accumulation,
            logging_steps: every(config.logging_steps),
            eval_steps: self.evaluation.as_ref().and(config.eval_steps).map(every),
            eval_batch_size: config.eval_batch_size,
            save_steps: config.save_steps.map(every),
            save_total_limit: config.save_total_limit,
            early_stopping: config.early_stopping.clone(),
            output: output.to_owned(),
            run: self.run.to_string(),
            keep_previous: config.lora.is_some(),
            start: self.start(),
            eval_on_start: config.eval_on_start,
            answer_prompts: self.prompts(),
        };
        let store = match references {
            Some(directory) => ReferenceStore::open(directory, &self.reference)?,
            None => ReferenceStore::default(),
        };
        let data = (&self.data, self.evaluation.as_ref());
        let trainer = Trainer::new(options, self.batching.clone(), data, store, &mut self.policy)?;
        Ok((trainer, &mut self.policy))
    }
}

/// What is trained on, and what is evaluated on.
fn items(
    config: &TrainConfig,
    sources: &Sources,
    model: &LanguageModel,
    template: Option<&ChatTemplate>,
) -> Result<(Prepared, Option<Prepared>), TrainError> {
    let read = |rows: &Dataset| {
        let data = prepare(rows, model.tokenizer(), template, &config.dataset)?;
        check_lengths(&data, model, rows)?;
        Ok::<_, TrainError>(data)
    };
    let data = read(&sources.rows)?;
    match &sources.evaluation {
        Some(rows) => Ok((data, Some(read(rows)?))),
        None => Ok(split(data, sources.evaluation_fraction, config.seed)),
    }
}

/// Of what the reference's log-probabilities depend on besides the texts.
fn reference_digest(
    model: &LanguageModel,
    reference: Option<&LanguageModel>,
    adapter: Option<&Adapter>,
) -> Digest {
    Digest::of_json(&json!({
        "version": env!("CARGO_PKG_VERSION"),
        "model": reference.unwrap_or(model).identity().weights,
        "adapter": if reference.is_some() { None } else { adapter.map(Adapter::digest) },
        "dtype": model.identity().dtype,
        "device": model.identity().device,
    }))
}

fn policy_options(
    config: &TrainConfig,
    sources: &Sources,
    model: &LanguageModel,
    (method, own_template): (Method, Option<String>),
) -> Result<PolicyOptions, TrainError> {
    let context = model.identity().context_length;
    let mut description = match &method {
        Method::Full => evalign_lm::export::description(&sources.model, model)?,
        Method::Lora(_) | Method::Adapter(_) => Vec::new(),
    };
    if let Some(source) = own_template {
        description.retain(|(name, _)| name != TEMPLATE_FILE);
        description.push((TEMPLATE_FILE.to_owned(), source.into_bytes()));
    }
    Ok(PolicyOptions {
        seed: config.seed,
        pad_token: model.pad_token().filter(|_| config.compat_trl),
        recompute: Recompute::Never,
        // KTO puts completions behind other prompts: these texts have to fit too.
        max_length: Some(config.dataset.max_length.unwrap_or(usize::MAX).min(context)),
        disable_dropout: config.disable_dropout,
        data: Some(sources.rows.digest().clone()),
        description,
        ..PolicyOptions::new(method, config.objective.clone(), &sources.model_name)
    })
}

fn adapter_beside_all_weights() -> TrainError {
    TrainError::Config {
        path: None,
        setting: "use_peft".to_owned(),
        problem: "is false beside an adapter".to_owned(),
        hint: "merge the adapter (`evalign train merge`) and train the merged model, or leave `--use-peft false` out"
            .to_owned(),
    }
}

/// What looks at evaluations needs some.
fn check_stopping(config: &TrainConfig, is_evaluated: bool) -> Result<(), TrainError> {
    if config.early_stopping.is_none() || (is_evaluated && config.eval_steps.is_some()) {
        return Ok(());
    }
    Err(TrainError::Config {
        path: None,
        setting: "load_best_model_at_end".to_owned(),
        problem: "(or `early_stopping_patience`) has no evaluation to go by".to_owned(),
        hint: "give `--eval-data FILE` or `--eval-fraction F`, and leave `--eval-strategy no` out".to_owned(),
    })
}

/// No text may be longer than the model's context.
fn check_lengths(data: &Prepared, model: &LanguageModel, rows: &Dataset) -> Result<(), TrainError> {
    let limit = model.identity().context_length;
    match data.items.iter().position(|item| item.longest() > limit) {
        None => Ok(()),
        Some(at) => Err(TrainError::Row {
            path: rows.files().first().cloned().unwrap_or_default(),
            row: data.rows[at] + 1,
            field: "text".to_owned(),
            problem: format!("has {} tokens, the model's context holds {limit}", data.items[at].longest()),
            hint: format!("give `--max-length {limit}`"),
        }),
    }
}

/// Keeps a share of the prompts back: all items of a prompt stay on one side, and which prompts go is a function of the
/// seed and their tokens alone.
fn split(data: Prepared, fraction: f64, seed: u64) -> (Prepared, Option<Prepared>) {
    if fraction <= 0.0 {
        return (data, None);
    }
    let keys: Vec<Digest> = data.items.iter().map(|item| prompt_key(item, seed)).collect();
    let mut prompts: Vec<&Digest> = keys.iter().collect();
    prompts.sort();
    prompts.dedup();
    let kept_back = ((prompts.len() as f64 * fraction).round() as usize).min(prompts.len().saturating_sub(1));
    let Some(last) = kept_back.checked_sub(1).map(|last| prompts[last].clone()) else { return (data, None) };
    let (mut train, mut evaluation) =
        (Prepared { report: data.report, ..Prepared::default() }, Prepared::default());
    for ((row, item), key) in data.rows.into_iter().zip(data.items).zip(&keys) {
        let side = if *key <= last { &mut evaluation } else { &mut train };
        side.rows.push(row);
        side.items.push(item);
    }
    (train, Some(evaluation))
}

/// Of a pair without masks (a reward model's) the prompt is what both texts begin with.
fn prompt_key(item: &Item, seed: u64) -> Digest {
    let untrained = |text: &Sequence| text.trained.iter().take_while(|trained| !**trained).count();
    let tokens = match item {
        Item::Pair { chosen, rejected, .. } if untrained(chosen) == 0 => {
            chosen.ids.iter().zip(&rejected.ids).take_while(|(one, other)| one == other).count()
        }
        Item::Pair { chosen, .. } => untrained(chosen),
        Item::Single { text, .. } => untrained(text),
    };
    let first = item.sequences().next().map_or(&[][..], |text| &text.ids);
    // Without a prompt each text is its own.
    let prompt = if tokens == 0 { first } else { &first[..tokens] };
    let bytes: Vec<u8> =
        seed.to_le_bytes().into_iter().chain(prompt.iter().flat_map(|id| id.to_le_bytes())).collect();
    Digest::of(bytes)
}

/// Everything that decides what comes out.
fn identity(
    config: &TrainConfig,
    model: &LanguageModel,
    template: Option<&ChatTemplate>,
    adapter: Option<&Adapter>,
    reference: Option<&LanguageModel>,
    sources: &Sources,
) -> Value {
    let rows = |dataset: &Dataset| json!({"name": dataset.name(), "digest": dataset.digest()});
    let base = model.identity();
    json!({
        "evalign_train": 1,
        "model": {
            "weights": base.weights,
            "tokenizer": base.tokenizer,
            "chat_template": template.map(|template| template.digest().clone()),
            "dtype": base.dtype,
            "device": base.device,
        },
        "adapter": adapter.map(Adapter::digest),
        "reference": reference.map(|model| &model.identity().weights),
        "data": rows(&sources.rows)["digest"],
        "evaluation": sources.evaluation.as_ref().map(|dataset| rows(dataset)["digest"].clone()),
        "evaluation_fraction": sources.evaluation_fraction,
        "objective": format!("{:?}", config.objective),
        "lora": adapter.map_or_else(|| Some(format!("{:?}", config.lora)), |_| None),
        "dataset": format!("{:?}", config.dataset),
        "order": format!("{:?}", config.order),
        "accumulation": format!("{:?}", config.accumulation),
        "batch_size": config.batch_size,
        "accumulation_steps": config.accumulation_steps,
        "epochs": config.epochs,
        "max_steps": config.max_steps,
        "learning_rate": config.learning_rate,
        "schedule": format!("{:?} {:?} {}", config.schedule, config.schedule_arguments, config.warmup),
        "adam": format!("{:?}", config.adam),
        "max_grad_norm": config.max_grad_norm,
        "early_stopping": format!("{:?} {:?} {}", config.early_stopping, config.eval_steps, config.eval_batch_size),
        "seed": config.seed,
    })
}
