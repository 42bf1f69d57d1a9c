use evalign_core::{Digest, Message, ModelIdentity, Prompt, Role};
use evalign_data::{Example, Row};
use evalign_judge::as_text;
use serde::Serialize;
use serde_json::Value;

/// Where a row comes from: the columns of [`evalign_data::ORIGIN_COLUMNS`], by name.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Origin {
    pub(crate) score_chosen: Option<f64>,
    pub(crate) score_rejected: Option<f64>,
    pub(crate) margin: Option<f64>,
    pub(crate) probability_first: Option<f64>,
    pub(crate) probability_second: Option<f64>,
    pub(crate) strategy: Option<String>,
    pub(crate) principle: Option<String>,
    pub(crate) constitution_digest: Option<Digest>,
    pub(crate) round: Option<u32>,
    pub(crate) judge: Option<String>,
    pub(crate) judge_digest: Option<Digest>,
    pub(crate) rubric_digest: Option<Digest>,
    pub(crate) sampler_chosen: Option<String>,
    pub(crate) sampler_chosen_digest: Option<Digest>,
    pub(crate) sampler_rejected: Option<String>,
    pub(crate) sampler_rejected_digest: Option<Digest>,
    pub(crate) logprob_chosen: Option<f64>,
    pub(crate) logprob_rejected: Option<f64>,
    pub(crate) template_digest: Option<Digest>,
    pub(crate) source: Option<String>,
    pub(crate) source_digest: Option<Digest>,
    pub(crate) prompt_digest: Option<Digest>,
    pub(crate) reference: Option<String>,
    pub(crate) seed: Option<u64>,
    pub(crate) run: Option<String>,
}

impl Origin {
    /// The two models that wrote the sides.
    pub(crate) fn by(mut self, chosen: &ModelIdentity, rejected: &ModelIdentity) -> Self {
        self.sampler_chosen = Some(chosen.reference.to_string());
        self.sampler_chosen_digest = Some(chosen.weights.clone());
        self.sampler_rejected = Some(rejected.reference.to_string());
        self.sampler_rejected_digest = Some(rejected.weights.clone());
        self
    }

    pub(crate) fn row(&self) -> Row {
        match serde_json::to_value(self) {
            Ok(Value::Object(row)) => row,
            Ok(_) | Err(_) => Row::new(),
        }
    }
}

/// A row of a file of preferences.
#[derive(Clone, Debug, PartialEq)]
pub struct BuiltPair {
    pub example: Example,
    pub origin: Row,
}

impl BuiltPair {
    pub(crate) fn new(prompt: &Prompt, chosen: &str, rejected: &str, origin: &Origin) -> Self {
        let example = Example::Preference {
            prompt: prompt.clone(),
            chosen: messages_of(prompt, chosen),
            rejected: messages_of(prompt, rejected),
        };
        Self { example, origin: origin.row() }
    }

    pub(crate) fn number(&self, column: &str) -> Option<f64> {
        self.origin.get(column).and_then(Value::as_f64)
    }

    /// The prompt as one text.
    #[must_use]
    pub fn prompt_text(&self) -> String {
        self.example.texts().first().map(|(_, text)| as_text(text)).unwrap_or_default()
    }

    /// Characters of the chosen side and of the rejected one; 0 for what is not there.
    pub(crate) fn lengths(&self) -> (u64, u64) {
        let length = |wanted: &str| {
            let texts = self.example.texts();
            let found = texts.iter().find(|(name, _)| *name == wanted);
            found.map_or(0, |(_, text)| as_text(text).chars().count() as u64)
        };
        (length("chosen"), length("rejected"))
    }
}

/// An answer in the style of its prompt.
pub(crate) fn messages_of(prompt: &Prompt, answer: &str) -> Prompt {
    match prompt {
        Prompt::Text(_) => Prompt::Text(answer.to_owned()),
        Prompt::Chat(_) => Prompt::Chat(vec![Message { role: Role::Assistant, content: answer.to_owned() }]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_data::ORIGIN_COLUMNS;

    #[test]
    fn every_column_of_the_file_has_its_field_and_the_other_way_round() {
        let fields: Vec<String> = Origin::default().row().keys().cloned().collect();
        assert_eq!(fields, ORIGIN_COLUMNS.map(|(name, _)| name.to_owned()));
    }
}
