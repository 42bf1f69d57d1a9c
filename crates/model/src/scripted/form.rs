use evalign_core::{
    FinishReason, GenerateParams, Output, ResponseFormat, ResponseValue, TokenLogprob, TopLogprob,
};

use super::answer::hash;

/// An answer in the form that was asked for: every label has a made-up probability, and the most probable
/// one is written. Returned with its number of tokens (a token is a fixed text or a value).
pub(super) fn filled(
    seed: u64,
    prompt: &str,
    format: &ResponseFormat,
    params: &GenerateParams,
) -> (Output, u64) {
    let seed = seed.to_string();
    let draw = if params.temperature > 0.0 { params.seed.to_string() } else { String::new() };
    let mut tokens = Vec::new();
    for (index, field) in format.fields.iter().enumerate() {
        tokens.push(TokenLogprob::new(format.text_before(index), 0.0));
        let number = |label: &str| hash(&["form", &seed, prompt, &draw, &field.name, label]);
        tokens.push(match &field.value {
            ResponseValue::Text { .. } => TokenLogprob::new(format!("reason {}", number("") % 1000), 0.0),
            ResponseValue::OneOf(labels) => {
                let weights: Vec<u64> = labels.iter().map(|label| 1 + number(label) % 1000).collect();
                chosen(labels, &weights)
            }
        });
    }
    tokens.push(TokenLogprob::new(ResponseFormat::END.to_owned(), 0.0));
    let count = tokens.len() as u64;
    let text = tokens.iter().map(|token| token.token.as_str()).collect();
    let logprobs = params.logprobs.then_some(tokens);
    (Output::Text { text, finish: FinishReason::Stop, logprobs, reasoning: None }, count)
}

/// The label of the largest weight, the first of several.
fn chosen(labels: &[String], weights: &[u64]) -> TokenLogprob {
    let total = weights.iter().sum::<u64>() as f64;
    let logprob = |weight: &u64| (*weight as f64 / total).ln();
    let best = (0..weights.len()).max_by_key(|index| (weights[*index], std::cmp::Reverse(*index)));
    let best = best.unwrap_or_default();
    let top = labels.iter().zip(weights);
    let top = top.map(|(label, weight)| TopLogprob::new(label.clone(), logprob(weight)));
    TokenLogprob { top: top.collect(), ..TokenLogprob::new(labels[best].clone(), logprob(&weights[best])) }
}
