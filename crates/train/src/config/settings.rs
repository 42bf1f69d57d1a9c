//! What can be set, under TRL's names: in a YAML file and, with the same names, by flags, which win.

mod foreign;

use std::path::Path;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::TrainError;

/// Names: a list, or text with commas.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Names(pub Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a name, or a list of names")]
        enum Written {
            Text(String),
            List(Vec<String>),
        }
        Ok(Self(match Written::deserialize(deserializer)? {
            Written::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
            Written::List(names) => names,
        }))
    }
}

/// Further arguments of a schedule (transformers' `lr_scheduler_kwargs`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScheduleArguments {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_decay_steps: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decay_type: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", alias = "min_lr_rate")]
    pub min_lr_ratio: Option<f64>,
}

/// Declares the settings once: each an `Option`, absent where nothing was said.
macro_rules! settings {
    ($($(#[$attribute:meta])* $name:ident: $kind:ty,)*) => {
        /// Everything that was said; see the flags of `evalign train` for what each means.
        #[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct Settings {
            $($(#[$attribute])* #[serde(default, skip_serializing_if = "Option::is_none")] pub $name: Option<$kind>,)*
        }

        const KNOWN: &[&str] = &[$(stringify!($name)),*];
    };
}

settings! {
    #[serde(alias = "model_name_or_path")] model: String,
    #[serde(alias = "dataset_name")] data: String,
    eval_data: String,
    eval_fraction: f64,
    #[serde(alias = "output_dir")] out: String,
    compat: String,
    recompute: String,
    device: String,
    #[serde(alias = "torch_dtype")] dtype: String,
    memory_gib: f64,
    chat_template_path: String,
    // Data.
    max_length: u64,
    truncation_mode: String,
    dataset_text_field: String,
    completion_only_loss: bool,
    assistant_only_loss: bool,
    soft_labels: bool,
    disable_dropout: bool,
    // Batches.
    per_device_train_batch_size: u64,
    per_device_eval_batch_size: u64,
    gradient_accumulation_steps: u64,
    train_sampling_strategy: String,
    seed: u64,
    // How long, and what is told on the way.
    num_train_epochs: f64,
    max_steps: i64,
    logging_steps: f64,
    #[serde(alias = "evaluation_strategy")] eval_strategy: String,
    eval_on_start: bool,
    eval_steps: f64,
    save_strategy: String,
    save_steps: f64,
    save_total_limit: u64,
    load_best_model_at_end: bool,
    metric_for_best_model: String,
    greater_is_better: bool,
    early_stopping_patience: u32,
    early_stopping_threshold: f64,
    samples: u64,
    // Optimiser.
    learning_rate: f64,
    lr_scheduler_type: String,
    lr_scheduler_kwargs: ScheduleArguments,
    warmup_steps: f64,
    warmup_ratio: f64,
    weight_decay: f64,
    adam_beta1: f64,
    adam_beta2: f64,
    adam_epsilon: f64,
    max_grad_norm: f64,
    // Losses.
    loss_type: Names,
    loss_weights: Vec<f32>,
    beta: f32,
    label_smoothing: f32,
    f_divergence_type: String,
    f_alpha_divergence_coef: f32,
    ld_alpha: f32,
    use_weighting: bool,
    discopop_tau: f32,
    simpo_gamma: f32,
    desirable_weight: f32,
    undesirable_weight: f32,
    center_rewards_coefficient: f32,
    #[serde(alias = "ref_model_name_or_path")] ref_model: String,
    precompute_ref_log_probs: bool,
    // Adapter.
    use_peft: bool,
    adapter: String,
    lora_r: u64,
    lora_alpha: f32,
    lora_dropout: f32,
    lora_target_modules: Names,
    use_rslora: bool,
    use_dora: bool,
}

impl Settings {
    /// Reads a YAML file. Second: what it says without effect.
    ///
    /// # Errors
    /// A file that cannot be read, with line and name: an unknown setting, a value of another kind.
    pub fn read(path: &Path) -> Result<(Self, Vec<String>), TrainError> {
        let text = fs_err::read_to_string(path)?;
        let fail = |setting: &str, problem: String, hint: String| TrainError::Config {
            path: Some(path.to_owned()),
            setting: setting.to_owned(),
            problem,
            hint,
        };
        let mut values: Map<String, Value> = match text
            .lines()
            .all(|line| line.split('#').next().is_some_and(|line| line.trim().is_empty()))
        {
            true => Map::new(),
            false => serde_saphyr::from_str(&text).map_err(|error| {
                let line = error.without_snippet().location().map_or(0, |at| at.line());
                let problem = format!("line {line}: {}", error.without_snippet());
                fail("config", problem, "write `name: value` lines".to_owned())
            })?,
        };
        let line_of = |name: &str| {
            let at = text.lines().position(|line| line.trim_start().starts_with(&format!("{name}:")));
            at.map(|at| format!("line {}: ", at + 1)).unwrap_or_default()
        };
        let foreign = foreign::take_out(&mut values).map_err(|refused| {
            let problem = format!("{}{}", line_of(refused.name), refused.problem);
            fail(refused.name, problem, refused.hint.to_owned())
        })?;
        let note = |(name, why)| format!("`{name}` in {} has no effect: {why}", path.display());
        // TRL's way to say that nothing is cut.
        if let Some(length) = values.get_mut("max_length").filter(|length| length.is_null()) {
            *length = u32::MAX.into();
        }
        let settings = Self::from_values(values)
            .map_err(|(name, problem, hint)| fail(&name, format!("{}{problem}", line_of(&name)), hint))?;
        Ok((settings, foreign.into_iter().map(note).collect()))
    }

    /// Of a trainer's recorded arguments: those that are settings here, and say something. Second: the names of the others
    /// that may mean something.
    ///
    /// # Errors
    /// A value of another kind.
    pub(crate) fn of_trl(arguments: Map<String, Value>) -> Result<(Self, Vec<String>), TrainError> {
        let (known, others): (Map<String, Value>, Map<String, Value>) = arguments
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .partition(|(name, _)| KNOWN.contains(&name.as_str()));
        let unread = others.into_iter().filter(|(name, value)| foreign::may_mean_something(name, value));
        let unread = unread.map(|(name, _)| name).collect();
        Self::from_values(known)
            .map(|settings| (settings, unread))
            .map_err(|(setting, problem, hint)| TrainError::Config { path: None, setting, problem, hint })
    }

    /// These, with what `flags` say instead.
    ///
    /// # Errors
    /// A flag's value is of another kind.
    pub fn overridden(&self, flags: &impl Serialize) -> Result<Self, TrainError> {
        let fail = |problem: String| TrainError::Config {
            path: None,
            setting: "flags".to_owned(),
            problem,
            hint: "see `evalign train --help`".to_owned(),
        };
        let object = |value: Result<Value, serde_json::Error>| match value {
            Ok(Value::Object(values)) => Ok(values),
            Ok(_) => Ok(Map::new()),
            Err(error) => Err(fail(error.to_string())),
        };
        let mut values = object(serde_json::to_value(self))?;
        let said = object(serde_json::to_value(flags))?;
        values.extend(said.into_iter().filter(|(_, value)| !value.is_null()));
        Self::from_values(values).map_err(|(setting, problem, hint)| TrainError::Config {
            path: None,
            setting,
            problem,
            hint,
        })
    }

    /// On failure: the name, what is wrong with it, and what can be done.
    fn from_values(values: Map<String, Value>) -> Result<Self, (String, String, String)> {
        // One at a time, so that an error has its name.
        for (name, value) in &values {
            let alone = Map::from_iter([(name.clone(), value.clone())]);
            if let Err(error) = serde_json::from_value::<Self>(Value::Object(alone)) {
                let problem = error.to_string();
                if problem.starts_with("unknown field") && !KNOWN.contains(&name.as_str()) {
                    let near = KNOWN.iter().map(|known| (strsim::jaro_winkler(name, known), *known));
                    let near = near.max_by(|a, b| a.0.total_cmp(&b.0)).map_or("", |(_, known)| known);
                    let hint = format!("did you mean `{near}`? `evalign train --help` has all settings");
                    return Err((name.clone(), "there is no such setting".to_owned(), hint));
                }
                return Err((name.clone(), problem, format!("`{value}` does not fit it")));
            }
        }
        serde_json::from_value(Value::Object(values)).map_err(|error| {
            (
                "config".to_owned(),
                error.to_string(),
                "say each setting once, under one of its names".to_owned(),
            )
        })
    }
}
