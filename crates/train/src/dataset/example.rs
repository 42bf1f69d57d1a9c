//! Rows as what is trained on: the layouts of [`evalign_data::Example`], and the columns that only training reads.

use evalign_core::Prompt;
use evalign_data::{Example as Written, Misfit as WrittenMisfit, Row, column_text};
use serde_json::Value;

/// What a row says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Example {
    Language(Prompt),
    Completion { prompt: Prompt, completion: Prompt, desirable: Option<bool> },
    Preference { prompt: Prompt, chosen: Prompt, rejected: Prompt, margin: Option<f32>, label: Option<f32> },
}

/// What is wrong with a row, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Misfit {
    pub(crate) field: String,
    pub(crate) problem: String,
    pub(crate) hint: String,
}

impl Misfit {
    pub(crate) fn new(field: &str, problem: impl Into<String>, hint: &str) -> Self {
        Self { field: field.to_owned(), problem: problem.into(), hint: hint.to_owned() }
    }
}

impl From<WrittenMisfit> for Misfit {
    fn from(misfit: WrittenMisfit) -> Self {
        Self { field: misfit.field, problem: misfit.message, hint: misfit.mend.to_owned() }
    }
}

/// Reads a row. `text_field`: the column with texts for language modelling (TRL's `dataset_text_field`).
/// `soft_labels`: a pair's `label`, or else its judge's mean probability over both orders, is read.
pub(crate) fn read(row: &Row, text_field: &str, soft_labels: bool) -> Result<Example, Misfit> {
    refuse_unrendered(row)?;
    let says = |field: &str| row.get(field).is_some_and(|value| !value.is_null());
    if text_field != "text" && says(text_field) {
        return Ok(Example::Language(column_text(row, text_field)?));
    }
    Ok(match Written::from_row(row)? {
        Written::LanguageModeling { text } => Example::Language(text),
        Written::PromptCompletion { prompt, completion } => {
            Example::Completion { prompt, completion, desirable: None }
        }
        Written::Unpaired { prompt, completion, label } => {
            Example::Completion { prompt, completion, desirable: Some(label) }
        }
        Written::Preference { prompt, chosen, rejected } => Example::Preference {
            prompt,
            chosen,
            rejected,
            margin: number(row, "margin")?,
            label: label(row, soft_labels)?,
        },
        Written::PromptOnly { .. } => {
            return Err(Misfit::new(
                "completion",
                "is missing: a prompt alone cannot be trained on",
                "give rows `prompt` and `completion`, `prompt`, `chosen` and `rejected`, `messages`, or `text`",
            ));
        }
    })
}

/// Tools and template arguments would change the text; they are not rendered, so they are not ignored.
fn refuse_unrendered(row: &Row) -> Result<(), Misfit> {
    for field in ["tools", "chat_template_kwargs", "images", "image"] {
        let says_something = row.get(field).is_some_and(|value| match value {
            Value::Null => false,
            Value::Array(list) => !list.is_empty(),
            Value::Object(map) => map.values().any(|value| !value.is_null()),
            Value::String(text) => !text.is_empty() && text != "[]",
            Value::Bool(_) | Value::Number(_) => true,
        });
        if says_something {
            return Err(Misfit::new(
                field,
                "is not supported: the chat template is rendered without it",
                "leave the column out, or render the conversations to text beforehand",
            ));
        }
    }
    Ok(())
}

/// The probability that the chosen side is the better one, where labels are asked for: `label` has other meanings in
/// other files.
fn label(row: &Row, soft_labels: bool) -> Result<Option<f32>, Misfit> {
    if !soft_labels {
        return Ok(None);
    }
    let judged = number(row, "probability_first")?.zip(number(row, "probability_second")?);
    let label = number(row, "label")?.or(judged.map(|(first, second)| f32::midpoint(first, second)));
    if label.is_some_and(|label| !(0.0..=1.0).contains(&label)) {
        return Err(Misfit::new(
            "label",
            "is not a probability",
            "it is the probability that `chosen` is better, 0 to 1",
        ));
    }
    Ok(label)
}

fn number(row: &Row, field: &str) -> Result<Option<f32>, Misfit> {
    let wrong = |problem: &str| Err(Misfit::new(field, problem, "write a number, or leave it out"));
    match row.get(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(value) if (value as f32).is_finite() => Ok(Some(value as f32)),
            _ => wrong("does not fit into 32 bits"),
        },
        Some(Value::Bool(value)) => Ok(Some(f32::from(u8::from(*value)))),
        Some(_) => wrong("is no number"),
    }
}
