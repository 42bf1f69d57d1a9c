//! Reading a verdict: strictly, or not at all.
//!
//! A verdict is the whole answer as one JSON object of the form that was asked for, or, from models that
//! cannot be held to a form, such an object (without the explanation, or `VERDICT: A` where there is only one
//! choice) as the last line. Nothing earlier is ever looked at: a judge that quotes a candidate, or thinks
//! aloud about `VERDICT: B` before it decides, does not decide by that. The last line of an answer that was cut off
//! may be such a quotation too: there only the whole counts.

mod object;

use evalign_core::{FinishReason, Output, ResponseFormat, ResponseValue, TokenLogprob};
use serde::{Deserialize, Serialize};

use object::StringObject;

/// Most bytes of an answer that are looked at.
const LONGEST: usize = 1 << 20;

/// Why there is no verdict.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unscored {
    /// The judge said that it cannot judge.
    Abstained,
    /// Nothing in the answer is a verdict.
    Malformed,
    /// The answer ended at its limit before it got to one.
    Truncated,
    /// The provider withheld the answer.
    Refused,
    /// The call failed for good, or nobody asked.
    Failed(String),
}

/// A verdict as it was read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    pub explanation: Option<String>,
    /// One for each choice of the form, in its order.
    pub choices: Vec<Choice>,
}

/// What was chosen in one field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Choice {
    pub label: String,
    /// Probability of each label the form offers, in its order, adding up to 1. Absent where the model does
    /// not say.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probabilities: Option<Vec<f64>>,
}

impl Verdict {
    /// Reads an answer.
    ///
    /// # Errors
    /// Why it holds no verdict. (Abstaining is a verdict here: its label is among those offered.)
    pub fn read(format: &ResponseFormat, output: &Output) -> Result<Self, Unscored> {
        let Output::Text { text, finish, logprobs, .. } = output else { return Err(Unscored::Malformed) };
        // An answer that did not end by itself may end in something that it quotes.
        let whole_only = *finish != FinishReason::Stop;
        let Some((explanation, labels)) = read_text(format, text, whole_only) else {
            return Err(match finish {
                FinishReason::Stop => Unscored::Malformed,
                FinishReason::Length => Unscored::Truncated,
                FinishReason::ContentFilter => Unscored::Refused,
            });
        };
        let logprobs = logprobs.as_deref().unwrap_or_default();
        let offered = choices_of(format);
        let places = label_places(text, &labels, offered.len());
        let choices = offered.zip(labels).zip(places).map(|(((_, offered), label), place)| {
            let probabilities = place.and_then(|place| probabilities(offered, place, logprobs));
            Choice { label, probabilities }
        });
        Ok(Self { explanation, choices: choices.collect() })
    }
}

/// Name and labels of the fields in which something is chosen.
fn choices_of(format: &ResponseFormat) -> impl ExactSizeIterator<Item = (&str, &[String])> {
    let choices: Vec<(&str, &[String])> = format
        .fields
        .iter()
        .filter_map(|field| match &field.value {
            ResponseValue::OneOf(labels) => Some((field.name.as_str(), labels.as_slice())),
            ResponseValue::Text { .. } => None,
        })
        .collect();
    choices.into_iter()
}

/// The explanation and the labels, in the order of the form.
fn read_text(format: &ResponseFormat, text: &str, whole_only: bool) -> Option<(Option<String>, Vec<String>)> {
    if text.len() > LONGEST {
        return None;
    }
    let text = text.trim();
    let fenced = text.strip_prefix("```").and_then(|rest| rest.strip_suffix("```"));
    let whole = fenced.map_or(text, |inside| inside.strip_prefix("json").unwrap_or(inside).trim());
    if let Ok(object) = serde_json::from_str::<StringObject>(whole) {
        return from_object(format, &object);
    }
    if whole_only {
        return None;
    }
    let last = text.lines().next_back()?.trim();
    if let Ok(object) = serde_json::from_str::<StringObject>(last) {
        return from_object(format, &object);
    }
    let mut choices = choices_of(format);
    let (Some((_, offered)), None) = (choices.next(), choices.next()) else { return None };
    let label = last.strip_prefix("VERDICT:")?.trim();
    offered.iter().any(|known| known == label).then(|| (None, vec![label.to_owned()]))
}

/// Every choice, each with an offered label; other fields than those of the form make it no verdict.
fn from_object(format: &ResponseFormat, object: &StringObject) -> Option<(Option<String>, Vec<String>)> {
    let known = |name: &str| format.fields.iter().any(|field| field.name == name);
    if object.names().any(|name| !known(name)) {
        return None;
    }
    let mut labels = Vec::new();
    for (name, offered) in choices_of(format) {
        let label = object.get(name)?;
        labels.push(offered.iter().find(|known| *known == label)?.clone());
    }
    let text = format.fields.iter().find(|field| matches!(field.value, ResponseValue::Text { .. }));
    Some((text.and_then(|field| object.get(&field.name)).map(str::to_owned), labels))
}

/// How many bytes before the end of the text each label begins, found from the end: after the first of the
/// choices nothing stands there but names, labels and punctuation. `None` where fields come in another order.
fn label_places(text: &str, labels: &[String], count: usize) -> Vec<Option<usize>> {
    let mut places = vec![None; count];
    if let ([label], [place]) = (labels, &mut places[..])
        && text.ends_with(label.as_str())
    {
        *place = Some(label.len());
        return places;
    }
    let mut end = text.len();
    for (place, label) in places.iter_mut().zip(labels).rev() {
        let Some(quote) = text[..end].rfind(&format!("\"{label}\"")) else { break };
        if text[quote..end].matches(':').count() > 1 {
            break;
        }
        *place = Some(text.len() - quote - 1);
        end = quote;
    }
    places
}

/// Probability of each label among them, from what the model says about the token that begins `before_end` bytes
/// before the end of its answer.
fn probabilities(offered: &[String], before_end: usize, logprobs: &[TokenLogprob]) -> Option<Vec<f64>> {
    let mut left = before_end;
    let mut tokens = logprobs.iter().rev();
    let token = loop {
        let token = tokens.next()?;
        match left.checked_sub(token.token.len()) {
            // It reaches back to the label.
            None | Some(0) => break token,
            Some(rest) => left = rest,
        }
    };
    let mut mass = vec![0.0; offered.len()];
    for top in &token.top {
        let decided = top.token.trim_start_matches([' ', '"', '\n']);
        let index = offered.iter().position(|label| decided.starts_with(label.as_str()));
        if let Some(index) = index
            && decided[offered[index].len()..].chars().all(|c| matches!(c, '"' | '}' | ',' | ' ' | '\n'))
        {
            mass[index] += top.logprob.exp();
        }
    }
    let total: f64 = mass.iter().sum();
    (total > 0.0 && total.is_finite()).then(|| mass.iter().map(|m| m / total).collect())
}

#[cfg(test)]
mod tests;
