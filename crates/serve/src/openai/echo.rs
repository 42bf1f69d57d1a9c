//! Completions that contain their prompt: what lm-evaluation-harness's `local-completions` scores answers with.

use evalign_core::{GenerateParams, TokenLogprob, Usage};
use evalign_model::{ModelError, ScoredText};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::models::Served;
use crate::openai::completions::Start;
use crate::openai::unsupported;

/// A token of an answer with its log-probability, absent for the first token of a text, and the likeliest one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    text: String,
    logprob: Option<f64>,
    top: Option<(String, f64)>,
}

impl Token {
    pub(crate) fn chars(&self) -> usize {
        self.text.chars().count()
    }
}

/// A prompt that is part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prefix {
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    /// The one token that is to be generated, where its choice leaves nothing to chance.
    pub(crate) next: Option<Next>,
    usage: Usage,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Next {
    token: Token,
    /// What it adds to the text: nothing, where it ends it.
    text: String,
}

impl Prefix {
    fn of(text: String, scored: ScoredText, is_decided: bool) -> Self {
        let tokens = scored.tokens.into_iter();
        let tokens = tokens.map(|token| Token { text: token.text, logprob: token.logprob, top: token.top });
        let (next, ends, logprob) = scored.next;
        let next = is_decided.then(|| Next {
            text: if ends { String::new() } else { next.clone() },
            token: Token { text: next.clone(), logprob: Some(logprob), top: Some((next, logprob)) },
        });
        Self { text, tokens: tokens.collect(), next, usage: scored.usage }
    }

    /// Prompt and, where it is known, the next token, as an answer.
    pub(crate) fn whole(self) -> (String, Vec<Token>, Usage) {
        let (mut text, mut tokens, mut usage) = (self.text, self.tokens, self.usage);
        if let Some(next) = self.next {
            text.push_str(&next.text);
            tokens.push(next.token);
            usage.generated_tokens += 1;
        }
        (text, tokens, usage)
    }
}

/// The prompts, scored. A single greedy token behind each is known with them.
pub(crate) async fn echoed(
    served: &Served,
    starts: &[Start],
    params: &[GenerateParams],
) -> ApiResult<Vec<Prefix>> {
    let Some(local) = &served.local else {
        return Err(unsupported("echo", "this model does not tell log-probabilities of a prompt"));
    };
    let is_decided = match params {
        [only] => {
            only.max_tokens == 1
                && only.temperature == 0.0
                && only.stop.is_empty()
                && only.json_schema.is_none()
        }
        _ => false,
    };
    let (mut texts, mut ids) = (Vec::new(), Vec::new());
    for start in starts {
        match start {
            Start::Text(text) => {
                ids.push(local.token_ids(text)?);
                texts.push(text.clone());
            }
            Start::Ids(given) => {
                texts.push(local.text_of(given)?);
                ids.push(given.clone());
            }
        }
    }
    let scored = local.score_tokens(ids).await.map_err(ApiError::from)?;
    let prefix =
        |(text, scored): (String, Result<ScoredText, ModelError>)| Ok(Prefix::of(text, scored?, is_decided));
    texts.into_iter().zip(scored).map(prefix).collect()
}

/// The tokens of a generated text.
pub(crate) fn of_generated(logprobs: &[TokenLogprob]) -> Vec<Token> {
    let token = |token: &TokenLogprob| Token {
        text: token.token.clone(),
        logprob: Some(token.logprob),
        top: Some((token.token.clone(), token.logprob)),
    };
    logprobs.iter().map(token).collect()
}

/// In the shape of OpenAI's completions: four lists of the same length. `offset` characters of the answer come
/// before them.
pub(crate) fn table(mut offset: usize, tokens: &[Token]) -> Value {
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        offsets.push(offset);
        offset += token.chars();
    }
    let top = |token: &Token| {
        let (top, best) = token.top.as_ref()?;
        let mut entries = Map::new();
        entries.insert(top.clone(), json!(best));
        // The token itself is always there, likeliest or not. One that is written like the likeliest is no
        // entry of its own.
        entries.entry(token.text.clone()).or_insert_with(|| json!(token.logprob));
        Some(entries)
    };
    json!({
        "tokens": tokens.iter().map(|token| &token.text).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_lists_of_one_length() {
        let token = |text: &str, logprob: Option<f64>, top: Option<(&str, f64)>| Token {
            text: text.to_owned(),
            logprob,
            top: top.map(|(text, logprob)| (text.to_owned(), logprob)),
        };
        let table = table(3, &[token("Ü", None, None), token("b", Some(-2.0), Some(("c", -0.5)))]);
        assert_eq!(table["token_logprobs"], json!([null, -2.0]));
        assert_eq!(table["top_logprobs"], json!([null, {"c": -0.5, "b": -2.0}]));
        assert_eq!(table["text_offset"], json!([3, 4]));
    }
}
