use evalign_core::{
    AnswerForm, ChoiceLogLikelihood, Digest, FinishReason, GenerateParams, Output, Prompt, RequestKind,
    Response, TokenLogprob, TopLogprob, Usage,
};

use super::form;
use super::script::{Rule, Script};
use crate::error::ModelError;

/// The answer to a request: a function of the script and the request's content only.
pub(super) fn answer(script: &Script, kind: &RequestKind) -> Result<Response, ModelError> {
    let prompt = prompt_text(kind);
    let rule = script.rules.iter().find(|rule| prompt.contains(&rule.text_in_prompt));
    if let Some(Rule { error: Some(message), kind, .. }) = rule {
        return Err(kind.error(message.clone()));
    }
    let (output, generated_tokens) = match kind {
        RequestKind::LogLikelihood { continuations, .. } => {
            (log_likelihoods(script, rule, &prompt, continuations)?, 0)
        }
        RequestKind::Generate { params, .. } => {
            match (rule.and_then(|rule| rule.text.as_ref()), &params.form) {
                (Some(text), _) => generated(text, params),
                (None, Some(AnswerForm::Fields(format))) => {
                    form::filled(script.seed, &prompt, format, params)
                }
                (None, Some(AnswerForm::Schema(_))) => {
                    let message = "a scripted model writes documents of a JSON Schema only where a rule gives their text";
                    return Err(ModelError::Request(message.to_owned()));
                }
                (None, None) => generated(&made_up_text(script.seed, &prompt, params), params),
            }
        }
        RequestKind::Perplexity { text } => {
            let tokens = words(text);
            let sum = -made_up_number(&["perplexity", &script.seed.to_string(), text]) * tokens as f64;
            (Output::Perplexity { sum, tokens: u32::try_from(tokens).unwrap_or(u32::MAX) }, 0)
        }
    };
    let prompt_tokens = prompt_tokens(kind);
    let usage =
        Usage { prompt_tokens, computed_prompt_tokens: prompt_tokens, generated_tokens, ..Usage::default() };
    Ok(Response { output, usage: Some(usage), truncated_tokens: 0, cached: false, latency: None })
}

/// A token is a word. Every continuation costs the prompt again, as if nothing were shared.
pub(super) fn prompt_tokens(kind: &RequestKind) -> u64 {
    match kind {
        RequestKind::LogLikelihood { continuations, .. } => {
            let context = words(&prompt_text(kind));
            continuations.iter().map(|continuation| context + words(continuation)).sum()
        }
        RequestKind::Generate { .. } | RequestKind::Perplexity { .. } => words(&prompt_text(kind)),
    }
}

/// The first 8 bytes of a digest.
pub(super) fn number(digest: &Digest) -> u64 {
    let hex = digest.as_str().get(..16).unwrap_or_default();
    u64::from_str_radix(hex, 16).unwrap_or(0)
}

fn words(text: &str) -> u64 {
    text.split_whitespace().count().max(1) as u64
}

fn prompt_text(kind: &RequestKind) -> String {
    let prompt = match kind {
        RequestKind::LogLikelihood { context, .. } => context,
        RequestKind::Generate { prompt, .. } => prompt,
        RequestKind::Perplexity { text } => return text.clone(),
    };
    match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat(messages) => {
            messages.iter().map(|message| message.content.as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

pub(super) fn hash(parts: &[&str]) -> u64 {
    // Lengths keep ("a", "bc") and ("ab", "c") apart.
    let text: String = parts.iter().map(|part| format!("{}:{part}", part.len())).collect();
    number(&Digest::of(text))
}

/// In [0.5, 8.5), a multiple of 2^-16: exact in f64, so equal everywhere.
fn made_up_number(parts: &[&str]) -> f64 {
    0.5 + (hash(parts) % (8 << 16)) as f64 / 65_536.0
}

fn log_likelihoods(
    script: &Script,
    rule: Option<&Rule>,
    prompt: &str,
    continuations: &[String],
) -> Result<Output, ModelError> {
    let seed = script.seed.to_string();
    let sums: Vec<f64> = match rule.and_then(|rule| rule.log_likelihoods.as_ref()) {
        Some(given) if given.len() == continuations.len() => given.clone(),
        Some(given) => {
            return Err(ModelError::Request(format!(
                "the script gives {} log-likelihoods for {} continuations",
                given.len(),
                continuations.len()
            )));
        }
        None => continuations
            .iter()
            .map(|continuation| -made_up_number(&["score", &seed, prompt, continuation]))
            .collect(),
    };
    let choice = |(sum, continuation): (f64, &String)| ChoiceLogLikelihood {
        sum,
        tokens: u32::try_from(words(continuation)).unwrap_or(u32::MAX),
        greedy: sum > -1.0,
    };
    Ok(Output::LogLikelihood { choices: sums.into_iter().zip(continuations).map(choice).collect() })
}

/// Looks like the answer to a word problem, so that extraction has something to find.
fn made_up_text(seed: u64, prompt: &str, params: &GenerateParams) -> String {
    let seed = seed.to_string();
    let draw = if params.temperature > 0.0 { params.seed.to_string() } else { String::new() };
    let hash = hash(&["generate", &seed, prompt, &draw]);
    let (first, second) = (hash % 90 + 1, hash / 90 % 9 + 1);
    let sum = first + second;
    format!(
        " There are {first} and {second} more, so {first} + {second} = {sum}. The answer is {sum}.\n#### {sum}"
    )
}

/// Cuts a text at the first stop string and at the token limit.
fn generated(text: &str, params: &GenerateParams) -> (Output, u64) {
    let stop =
        params.stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min();
    let text = stop.map_or(text, |at| &text[..at]);
    let pieces: Vec<&str> = text.split_inclusive(char::is_whitespace).collect();
    let kept = pieces.len().min(params.max_tokens as usize);
    let finish = if kept < pieces.len() { FinishReason::Length } else { FinishReason::Stop };
    let logprob = |piece: &&str| {
        let token = TokenLogprob::new((*piece).to_owned(), -made_up_number(&["logprob", piece]) / 8.0);
        // The likeliest token is the one it writes; of others it knows nothing.
        let own = TopLogprob::new(token.token.clone(), token.logprob);
        TokenLogprob { top: (params.top_logprobs > 0).then_some(own).into_iter().collect(), ..token }
    };
    let logprobs = params.logprobs.then(|| pieces[..kept].iter().map(logprob).collect());
    (Output::Text { text: pieces[..kept].concat(), finish, logprobs, reasoning: None }, kept as u64)
}
