//! What a task file says about itself so that its questions can be asked in other ways.

use evalign_core::{ScoringMode, Variant};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::definition::TaskDefinition;
use crate::error::BenchError;

/// Options that the prompt shows under labels, so that they can be asked in another order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OptionsDefinition {
    /// Column with the list of options, in the order in which the prompt shows them.
    pub column: String,
    /// Column that says which option is right: its index from 0, or its label.
    pub answer: String,
    /// The labels in order, for example `[A, B, C, D]`. No row has more options.
    pub labels: Vec<String>,
}

/// The same question in other words. What is absent stays as the task has it; worked examples are
/// rendered in the same words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Paraphrase {
    /// Template for the text before the worked examples.
    pub description: Option<String>,
    /// Template for the question.
    pub prompt: Option<String>,
}

impl TaskDefinition {
    /// The definition with which a variant is asked. Rows are changed when they are read; only a
    /// paraphrase is another definition.
    ///
    /// # Errors
    /// A paraphrase the task file does not have (any more).
    pub(crate) fn asked_as(&self, variant: Option<Variant>) -> Result<Self, BenchError> {
        let Some(Variant::Paraphrase(number)) = variant else { return Ok(self.clone()) };
        let words = (number as usize).checked_sub(1).and_then(|index| self.paraphrases.get(index));
        let words = words.ok_or_else(|| BenchError::Definition {
            task: self.name.clone(),
            field: "paraphrases".to_owned(),
            message: format!("there is no paraphrase {number}, only {}", self.paraphrases.len()),
        })?;
        let mut task = self.clone();
        task.description = words.description.clone().unwrap_or(task.description);
        task.prompt = words.prompt.clone().unwrap_or(task.prompt);
        Ok(task)
    }

    /// Everything that is compiled when the task is checked: itself and its paraphrases, as `mode` reads
    /// them.
    pub(super) fn forms(&self, mode: ScoringMode) -> Vec<Self> {
        let task = self.for_mode(mode);
        let paraphrases = (1..=self.paraphrases.len() as u32).map(|n| Some(Variant::Paraphrase(n)));
        std::iter::once(None).chain(paraphrases).filter_map(|variant| task.asked_as(variant).ok()).collect()
    }
}

/// What is wrong with the fields, and the field it is about.
pub(super) fn check(task: &TaskDefinition) -> Result<(), (&'static str, String)> {
    if let Some(options) = &task.options {
        let labels = &options.labels;
        if labels.len() < 2 {
            return Err(("options", "at least two `labels` are needed".to_owned()));
        }
        if let Some(twice) = labels.iter().enumerate().find(|(i, label)| labels[..*i].contains(label)) {
            return Err(("options", format!("the label `{}` occurs twice", twice.1)));
        }
    }
    let empty = Paraphrase::default();
    if let Some(index) = task.paraphrases.iter().position(|words| *words == empty) {
        return Err((
            "paraphrases",
            format!("number {} changes neither `description` nor `prompt`", index + 1),
        ));
    }
    Ok(())
}
