//! Settings with defaults filled in and checked: TRL 1.16's names and defaults (`_BaseConfig`, `DPOConfig`,
//! `RewardConfig`, `SFTConfig`, `KTOConfig`, `ModelConfig`).

mod ranges;
mod settings;
#[cfg(test)]
mod tests;
mod unread;

use ranges::check_ranges;
pub use settings::{Names, ScheduleArguments, Settings};

use crate::{
    Accumulation, AdamWOptions, DatasetOptions, Decay, EarlyStopping, FDivergence, Kto, LoraOptions,
    Objective, Order, PairLoss, PairTerm, Preference, Purpose, Schedule, ScheduleKind, SftLoss, TrainError,
};

/// What is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TrainKind {
    Sft,
    Reward,
    Dpo,
}

/// Everything about a run but its model and data.
#[derive(Clone, Debug)]
pub struct TrainConfig {
    pub kind: TrainKind,
    pub objective: Objective,
    /// `None`: all weights are trained.
    pub lora: Option<LoraOptions>,
    pub dataset: DatasetOptions,
    pub order: Order,
    pub accumulation: Accumulation,
    pub batch_size: usize,
    pub eval_batch_size: usize,
    pub accumulation_steps: usize,
    pub epochs: f64,
    /// Updates, whatever the epochs.
    pub max_steps: Option<u64>,
    pub learning_rate: f64,
    pub schedule: ScheduleKind,
    pub schedule_arguments: ScheduleArguments,
    /// A number of updates, or a share of all below 1.
    pub warmup: f64,
    pub adam: AdamWOptions,
    pub max_grad_norm: Option<f64>,
    pub logging_steps: Interval,
    pub eval_steps: Option<Interval>,
    /// Evaluate before the first update too.
    pub eval_on_start: bool,
    pub save_steps: Option<Interval>,
    pub save_total_limit: Option<usize>,
    pub early_stopping: Option<EarlyStopping>,
    pub precompute_reference: bool,
    pub compat_trl: bool,
    /// Adapters drop none of their inputs (TRL's default for preferences and rewards).
    pub disable_dropout: bool,
    /// Prompts whose answers are shown before and after training, and whose lengths are watched.
    pub samples: usize,
    pub seed: u64,
}

/// How often.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Interval {
    Updates(u64),
    /// Of all updates, below 1.
    Share(f64),
    Epoch,
}

impl Interval {
    #[must_use]
    pub fn updates(self, updates_per_epoch: u64, all_updates: u64) -> u64 {
        match self {
            Self::Updates(updates) => updates,
            Self::Share(share) => ((share * all_updates as f64).ceil() as u64).max(1),
            Self::Epoch => updates_per_epoch.max(1),
        }
    }

    /// transformers' rule: what is below 1 is a share of all updates.
    fn of_number(steps: f64) -> Self {
        if steps < 1.0 { Self::Share(steps) } else { Self::Updates(steps as u64) }
    }
}

fn wrong(setting: &str, problem: impl Into<String>, hint: impl Into<String>) -> TrainError {
    TrainError::Config { path: None, setting: setting.to_owned(), problem: problem.into(), hint: hint.into() }
}

/// The choice that `name` names among `choices`.
fn choose<T: Copy>(setting: &str, name: &str, choices: &[(&str, T)]) -> Result<T, TrainError> {
    choices.iter().find(|(known, _)| *known == name).map(|(_, choice)| *choice).ok_or_else(|| {
        let known: Vec<&str> = choices.iter().map(|(known, _)| *known).collect();
        wrong(setting, format!("there is no `{name}`"), format!("there are {}", known.join(", ")))
    })
}

impl TrainConfig {
    /// # Errors
    /// A setting without meaning, or one that contradicts another.
    pub fn resolve(kind: TrainKind, said: &Settings) -> Result<Self, TrainError> {
        check_ranges(said)?;
        let compat_trl = match said.compat.as_deref() {
            None => false,
            Some(name) => choose("compat", name, &[("trl", true), ("none", false)])?,
        };
        let objective = objective(kind, said)?;
        let purpose = match &objective {
            Objective::Sft(_) => Purpose::Sft,
            Objective::Reward { .. } => Purpose::Reward,
            Objective::Preference(_) => Purpose::Preference,
            Objective::Kto(_) => Purpose::Unpaired,
        };
        let defaults = AdamWOptions::default();
        let batch_size = said.per_device_train_batch_size.unwrap_or(8) as usize;
        Ok(Self {
            kind,
            lora: lora(said)?,
            dataset: dataset(purpose, said, compat_trl, &objective)?,
            order: order(said, compat_trl, &objective)?,
            objective,
            accumulation: if compat_trl { Accumulation::MeanOfMeans } else { Accumulation::Exact },
            batch_size,
            eval_batch_size: match said.per_device_eval_batch_size {
                Some(size) => size as usize,
                // transformers' default.
                None if compat_trl => 8,
                None => batch_size,
            },
            accumulation_steps: said.gradient_accumulation_steps.unwrap_or(1) as usize,
            epochs: said.num_train_epochs.unwrap_or(3.0),
            // transformers: what is not positive says nothing.
            max_steps: said.max_steps.and_then(|steps| u64::try_from(steps).ok()).filter(|steps| *steps > 0),
            learning_rate: said.learning_rate.unwrap_or(match (kind, purpose) {
                (TrainKind::Sft, _) => 2e-5,
                (TrainKind::Reward, _) => 1e-4,
                (TrainKind::Dpo, _) => 1e-6,
            }),
            schedule: schedule_kind(said)?,
            schedule_arguments: said.lr_scheduler_kwargs.clone().unwrap_or_default(),
            warmup: warmup(said)?,
            adam: AdamWOptions {
                beta1: said.adam_beta1.unwrap_or(defaults.beta1),
                beta2: said.adam_beta2.unwrap_or(defaults.beta2),
                epsilon: said.adam_epsilon.unwrap_or(defaults.epsilon),
                weight_decay: said.weight_decay.unwrap_or(defaults.weight_decay),
            },
            // transformers takes 0 for "do not clip".
            max_grad_norm: Some(said.max_grad_norm.unwrap_or(1.0)).filter(|norm| *norm > 0.0),
            logging_steps: Interval::of_number(said.logging_steps.unwrap_or(1.0)),
            eval_steps: interval(
                "eval_strategy",
                said.eval_strategy.as_deref(),
                said.eval_steps,
                Interval::Epoch,
            )?,
            eval_on_start: said.eval_on_start.unwrap_or(!compat_trl),
            save_steps: interval(
                "save_strategy",
                said.save_strategy.as_deref(),
                said.save_steps,
                Interval::Updates(500),
            )?,
            save_total_limit: said.save_total_limit.map(|limit| limit as usize),
            early_stopping: early_stopping(said),
            precompute_reference: said.precompute_ref_log_probs.unwrap_or(false),
            compat_trl,
            disable_dropout: said.disable_dropout.unwrap_or(kind != TrainKind::Sft),
            samples: said.samples.unwrap_or(4) as usize,
            seed: said.seed.unwrap_or(42),
        })
    }

    /// Updates of the whole run.
    #[must_use]
    pub fn updates(&self, updates_per_epoch: u64) -> u64 {
        self.max_steps.unwrap_or_else(|| (self.epochs * updates_per_epoch as f64).ceil() as u64).max(1)
    }

    #[must_use]
    pub fn schedule_over(&self, updates: u64) -> Schedule {
        let decay = match self.schedule_arguments.decay_type.as_deref() {
            Some("linear") => Decay::Linear,
            Some("1-sqrt") => Decay::OneMinusSqrt,
            _ => Decay::Cosine,
        };
        let tenth = updates.div_ceil(10);
        Schedule {
            kind: self.schedule,
            peak: self.learning_rate,
            updates,
            warmup: if self.warmup < 1.0 {
                (self.warmup * updates as f64).ceil() as u64
            } else {
                self.warmup as u64
            },
            decay_updates: self.schedule_arguments.num_decay_steps.unwrap_or(tenth),
            decay,
            smallest_ratio: self.schedule_arguments.min_lr_ratio.unwrap_or(0.0),
        }
    }
}

fn objective(kind: TrainKind, said: &Settings) -> Result<Objective, TrainError> {
    let names: Vec<&str> = match &said.loss_type {
        Some(Names(names)) => names.iter().map(String::as_str).collect(),
        None if kind == TrainKind::Sft => vec!["nll"],
        None => vec!["sigmoid"],
    };
    match kind {
        TrainKind::Reward => {
            if said.loss_type.is_some() {
                return Err(wrong("loss_type", "does not apply to reward models", "leave it out"));
            }
            Ok(Objective::Reward { center_coefficient: said.center_rewards_coefficient })
        }
        TrainKind::Sft => {
            let choices = [("nll", SftLoss::Nll), ("chunked_nll", SftLoss::Nll), ("dft", SftLoss::Dft)];
            match names.as_slice() {
                [name] => Ok(Objective::Sft(choose("loss_type", name, &choices)?)),
                _ => Err(wrong("loss_type", "names several", "SFT has one loss: nll or dft")),
            }
        }
        TrainKind::Dpo => match names.as_slice() {
            [name @ ("kto" | "apo_zero_unpaired")] => Ok(Objective::Kto(Kto {
                beta: said.beta.unwrap_or(0.1),
                desirable_weight: said.desirable_weight.unwrap_or(1.0),
                undesirable_weight: said.undesirable_weight.unwrap_or(1.0),
                apo_zero: *name == "apo_zero_unpaired",
            })),
            names => preference(names, said),
        },
    }
}

fn preference(names: &[&str], said: &Settings) -> Result<Objective, TrainError> {
    let mut terms = Vec::new();
    let weights = said.loss_weights.clone().unwrap_or_else(|| vec![1.0; names.len()]);
    if weights.len() != names.len() {
        return Err(wrong(
            "loss_weights",
            format!("has {} weights for {} losses", weights.len(), names.len()),
            "give one weight for each name in `loss_type`",
        ));
    }
    for (name, weight) in names.iter().zip(weights) {
        let loss = PairLoss::named(name).ok_or_else(|| {
            let known: Vec<&str> = PairLoss::ALL.iter().map(|(name, _)| *name).collect();
            wrong(
                "loss_type",
                format!("there is no `{name}`"),
                format!("there are {}, kto", known.join(", ")),
            )
        })?;
        terms.push(PairTerm { loss, weight });
    }
    let ours = [PairLoss::Orpo, PairLoss::Simpo, PairLoss::Cdpo];
    if said.compat.as_deref() == Some("trl")
        && let Some(term) = terms.iter().find(|term| ours.contains(&term.loss))
    {
        return Err(wrong(
            "loss_type",
            format!(
                "`{}` is not TRL's: its trainer has other rules for prompts and likelihoods",
                term.loss.name()
            ),
            "leave `--compat trl` out",
        ));
    }
    // ORPO's paper and TRL's trainer: the odds ratio beside the likelihood of what was chosen.
    if let [PairTerm { loss: PairLoss::Orpo, .. }] = terms.as_slice() {
        terms.push(PairTerm { loss: PairLoss::Sft, weight: 1.0 });
    }
    let defaults = Preference::default();
    let f_divergence = match said.f_divergence_type.as_deref().unwrap_or("reverse_kl") {
        "alpha_divergence" => FDivergence::Alpha(said.f_alpha_divergence_coef.unwrap_or(0.5)),
        name => choose(
            "f_divergence_type",
            name,
            &[
                ("reverse_kl", FDivergence::ReverseKl),
                ("forward_kl", FDivergence::ForwardKl),
                ("js_divergence", FDivergence::JsDivergence),
            ],
        )?,
    };
    let preference = Preference {
        terms,
        beta: said.beta.unwrap_or(defaults.beta),
        label_smoothing: said.label_smoothing.unwrap_or(0.0),
        f_divergence,
        ld_alpha: said.ld_alpha,
        use_weighting: said.use_weighting.unwrap_or(false),
        discopop_tau: said.discopop_tau.unwrap_or(defaults.discopop_tau),
        simpo_gamma: said.simpo_gamma.unwrap_or(defaults.simpo_gamma),
    };
    check_smoothing(&preference)?;
    Ok(Objective::Preference(preference))
}

/// Losses whose formulas break for some shares of wrong labels.
fn check_smoothing(preference: &Preference) -> Result<(), TrainError> {
    let share = preference.label_smoothing;
    let has = |loss: PairLoss| preference.terms.iter().any(|term| term.loss == loss);
    if !(0.0..1.0).contains(&share) || (has(PairLoss::Robust) && share >= 0.5) {
        return Err(wrong(
            "label_smoothing",
            format!("{share} makes no sense for this loss"),
            "it is the share of labels that are wrong: 0 to below 0.5",
        ));
    }
    if has(PairLoss::ExoPair) && share == 0.0 {
        return Err(wrong(
            "label_smoothing",
            "`exo_pair` divides by it",
            "give a small number, such as 0.001",
        ));
    }
    Ok(())
}

fn lora(said: &Settings) -> Result<Option<LoraOptions>, TrainError> {
    let defaults = LoraOptions::default();
    if said.use_peft == Some(false) {
        let adapter = [
            said.adapter.is_some(),
            said.lora_r.is_some(),
            said.lora_alpha.is_some(),
            said.lora_dropout.is_some(),
            said.lora_target_modules.is_some(),
            said.use_rslora == Some(true),
            said.use_dora == Some(true),
        ];
        if adapter.contains(&true) {
            return Err(wrong(
                "use_peft",
                "is false beside an adapter or settings of one",
                "leave one of them out",
            ));
        }
        return Ok(None);
    }
    Ok(Some(LoraOptions {
        r: said.lora_r.map_or(defaults.r, |r| r as usize),
        alpha: said.lora_alpha.unwrap_or(defaults.alpha),
        dropout: said.lora_dropout.unwrap_or(defaults.dropout),
        target_modules: said.lora_target_modules.clone().map_or(defaults.target_modules, |names| names.0),
        rslora: said.use_rslora.unwrap_or(defaults.rslora),
        dora: said.use_dora.unwrap_or(defaults.dora),
    }))
}

fn dataset(
    purpose: Purpose,
    said: &Settings,
    compat_trl: bool,
    objective: &Objective,
) -> Result<DatasetOptions, TrainError> {
    let reads_labels = match objective {
        Objective::Reward { .. } => true,
        Objective::Preference(preference) => {
            preference.terms.iter().any(|term| term.loss == PairLoss::Sigmoid)
        }
        Objective::Sft(_) | Objective::Kto(_) => false,
    };
    if said.soft_labels == Some(true) && !reads_labels {
        return Err(wrong(
            "soft_labels",
            "is not used by this loss",
            "leave it out, or use the loss `sigmoid` or a reward model",
        ));
    }
    let mode = said.truncation_mode.as_deref().unwrap_or("keep_start");
    Ok(DatasetOptions {
        purpose,
        max_length: Some(said.max_length.unwrap_or(1024) as usize),
        keep_end: choose("truncation_mode", mode, &[("keep_start", false), ("keep_end", true)])?,
        completion_only: said.completion_only_loss,
        assistant_only: said.assistant_only_loss.unwrap_or(false),
        text_field: said.dataset_text_field.clone().unwrap_or_else(|| "text".to_owned()),
        soft_labels: said.soft_labels.unwrap_or(false),
        compat_trl,
    })
}

/// Items that KTO pairs across have to be in one batch; TRL pairs them in file order, beforehand.
fn order(said: &Settings, compat_trl: bool, objective: &Objective) -> Result<Order, TrainError> {
    let paired_across = objective.needs_mismatched();
    if paired_across && said.per_device_train_batch_size == Some(1) {
        return Err(wrong(
            "per_device_train_batch_size",
            "is 1, and `kto` puts completions behind the prompts of other items in the batch",
            "give 2 or more, or use `apo_zero_unpaired`",
        ));
    }
    let strategy = said.train_sampling_strategy.as_deref();
    if paired_across && compat_trl {
        return match strategy.unwrap_or("sequential") {
            "sequential" => Ok(Order::Sequential),
            other => Err(wrong(
                "train_sampling_strategy",
                format!("is `{other}`, and TRL's `kto` pairs completions in the order of the file"),
                "use `sequential`, or leave `--compat trl` out",
            )),
        };
    }
    let random = if compat_trl { Order::Torch } else { Order::Shuffled };
    let choices =
        [("random", random), ("sequential", Order::Sequential), ("group_by_length", Order::LengthBuckets)];
    let default = if compat_trl { "random" } else { "group_by_length" };
    if compat_trl && strategy == Some("group_by_length") {
        return Err(wrong(
            "train_sampling_strategy",
            "is `group_by_length`, whose order here is not transformers'",
            "use `random` or `sequential`, or leave `--compat trl` out",
        ));
    }
    choose("train_sampling_strategy", strategy.unwrap_or(default), &choices)
}

fn schedule_kind(said: &Settings) -> Result<ScheduleKind, TrainError> {
    let decays = [("linear", ()), ("cosine", ()), ("1-sqrt", ())];
    let arguments = said.lr_scheduler_kwargs.as_ref();
    if let Some(decay) = arguments.and_then(|arguments| arguments.decay_type.as_deref()) {
        choose("decay_type", decay, &decays)?;
    }
    choose(
        "lr_scheduler_type",
        said.lr_scheduler_type.as_deref().unwrap_or("linear"),
        &[
            ("linear", ScheduleKind::Linear),
            ("cosine", ScheduleKind::Cosine),
            ("cosine_with_min_lr", ScheduleKind::Cosine),
            ("constant", ScheduleKind::Constant),
            ("constant_with_warmup", ScheduleKind::ConstantWithWarmup),
            ("warmup_stable_decay", ScheduleKind::WarmupStableDecay),
        ],
    )
}

fn warmup(said: &Settings) -> Result<f64, TrainError> {
    match (said.warmup_steps, said.warmup_ratio) {
        (Some(steps), Some(_)) if steps > 0.0 => {
            Err(wrong("warmup_ratio", "is given beside `warmup_steps`", "give one of them"))
        }
        (Some(steps), None) => Ok(steps),
        // A share of 1 is all updates, not one.
        (_, Some(ratio)) => Ok(ratio.min(1.0 - f64::EPSILON)),
        (None, None) => Ok(0.0),
    }
}

fn interval(
    setting: &str,
    strategy: Option<&str>,
    steps: Option<f64>,
    default: Interval,
) -> Result<Option<Interval>, TrainError> {
    match (strategy, steps) {
        (Some("no"), _) => Ok(None),
        (Some("epoch"), _) => Ok(Some(Interval::Epoch)),
        (Some("steps") | None, Some(steps)) => Ok(Some(Interval::of_number(steps))),
        (None, None) => Ok(Some(default)),
        (Some("steps"), None) => Ok(Some(Interval::Updates(500))),
        (Some(other), _) => {
            Err(wrong(setting, format!("there is no `{other}`"), "there are no, steps, epoch"))
        }
    }
}

fn early_stopping(said: &Settings) -> Option<EarlyStopping> {
    let load_best = said.load_best_model_at_end.unwrap_or(false);
    if said.early_stopping_patience.is_none() && !load_best {
        return None;
    }
    let named = said.metric_for_best_model.as_deref().unwrap_or("loss");
    let metric = if named.starts_with("eval_") { named.to_owned() } else { format!("eval_{named}") };
    Some(EarlyStopping {
        greater_is_better: said.greater_is_better.unwrap_or(!metric.ends_with("loss")),
        metric,
        patience: said.early_stopping_patience,
        threshold: said.early_stopping_threshold.unwrap_or(0.0),
        load_best,
    })
}
