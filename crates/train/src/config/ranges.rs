use Allowed::{Below1, From0, Positive, Share};

use super::{Settings, wrong};
use crate::TrainError;

/// What a number may be.
#[derive(Clone, Copy, Debug)]
enum Allowed {
    Positive,
    From0,
    Below1,
    /// From 0 to this.
    Share(f64),
}

impl Allowed {
    /// The largest number of updates or epochs that can be counted on with.
    const MOST: f64 = 1e12;

    fn contains(self, value: f64) -> bool {
        match self {
            Positive => value > 0.0 && value <= Self::MOST,
            // Learning rates that explode are told when they do.
            From0 => value >= 0.0 && value.is_finite(),
            Below1 => (0.0..1.0).contains(&value),
            Share(most) => (0.0..=most).contains(&value),
        }
    }

    fn hint(self) -> String {
        match self {
            Positive => "give a number above 0".to_owned(),
            From0 => "give 0 or a positive number".to_owned(),
            Below1 => "give a number from 0 to below 1".to_owned(),
            Share(most) => format!("give a number from 0 to {most}"),
        }
    }
}

/// Numbers that make no sense, before they are used.
pub(super) fn check_ranges(said: &Settings) -> Result<(), TrainError> {
    let counts = [
        ("per_device_train_batch_size", said.per_device_train_batch_size),
        ("per_device_eval_batch_size", said.per_device_eval_batch_size),
        ("gradient_accumulation_steps", said.gradient_accumulation_steps),
        ("lora_r", said.lora_r),
    ];
    for (name, value) in counts {
        if value == Some(0) {
            return Err(wrong(name, "is 0", "give a positive number"));
        }
    }
    let numbers = [
        ("learning_rate", said.learning_rate, From0),
        ("num_train_epochs", said.num_train_epochs, Positive),
        ("logging_steps", said.logging_steps, Positive),
        ("eval_steps", said.eval_steps, Positive),
        ("save_steps", said.save_steps, Positive),
        ("warmup_ratio", said.warmup_ratio, Share(1.0)),
        ("warmup_steps", said.warmup_steps, From0),
        ("weight_decay", said.weight_decay, From0),
        ("adam_beta1", said.adam_beta1, Below1),
        ("adam_beta2", said.adam_beta2, Below1),
        ("adam_epsilon", said.adam_epsilon, From0),
        ("max_grad_norm", said.max_grad_norm, From0),
        ("eval_fraction", said.eval_fraction, Share(0.9)),
        ("beta", said.beta.map(f64::from), Positive),
        ("lora_dropout", said.lora_dropout.map(f64::from), Below1),
        ("lora_alpha", said.lora_alpha.map(f64::from), Positive),
    ];
    for (name, value, allowed) in numbers {
        if let Some(value) = value.filter(|value| !allowed.contains(*value)) {
            return Err(wrong(name, format!("{value} makes no sense"), allowed.hint()));
        }
    }
    for (name, steps) in [
        ("logging_steps", said.logging_steps),
        ("eval_steps", said.eval_steps),
        ("save_steps", said.save_steps),
    ] {
        if let Some(steps) = steps.filter(|steps| *steps >= 1.0 && steps.fract() != 0.0) {
            return Err(wrong(name, format!("is {steps}"), "give whole updates, or a share of all below 1"));
        }
    }
    match said.max_length {
        Some(tokens) if tokens < 2 => Err(wrong(
            "max_length",
            format!("is {tokens}"),
            "a text needs two tokens for one to be predicted",
        )),
        _ => Ok(()),
    }
}
