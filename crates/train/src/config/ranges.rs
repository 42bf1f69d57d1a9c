use super::{Settings, wrong};
use crate::TrainError;

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
        ("learning_rate", said.learning_rate, 0.0, f64::MAX),
        ("num_train_epochs", said.num_train_epochs, f64::MIN_POSITIVE, 1e6),
        ("logging_steps", said.logging_steps, f64::MIN_POSITIVE, 1e12),
        ("eval_steps", said.eval_steps, f64::MIN_POSITIVE, 1e12),
        ("save_steps", said.save_steps, f64::MIN_POSITIVE, 1e12),
        ("warmup_ratio", said.warmup_ratio, 0.0, 1.0),
        ("warmup_steps", said.warmup_steps, 0.0, 1e12),
        ("weight_decay", said.weight_decay, 0.0, f64::MAX),
        ("adam_beta1", said.adam_beta1, 0.0, 1.0 - f64::EPSILON),
        ("adam_beta2", said.adam_beta2, 0.0, 1.0 - f64::EPSILON),
        ("adam_epsilon", said.adam_epsilon, 0.0, f64::MAX),
        ("max_grad_norm", said.max_grad_norm, 0.0, f64::MAX),
        ("eval_fraction", said.eval_fraction, 0.0, 0.9),
        ("beta", said.beta.map(f64::from), f64::MIN_POSITIVE, f64::MAX),
        ("lora_dropout", said.lora_dropout.map(f64::from), 0.0, 0.99),
        ("lora_alpha", said.lora_alpha.map(f64::from), 0.0, f64::MAX),
    ];
    for (name, value, least, most) in numbers {
        if let Some(value) = value.filter(|value| !(least..=most).contains(value)) {
            return Err(wrong(
                name,
                format!("{value} makes no sense"),
                format!("it lies between {least} and {most}"),
            ));
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
