//! Completions that contain their prompt: what lm-evaluation-harness's `local-completions` scores answers with.

use evalign_core::{GenerateParams, TokenLogprob, Usage};
use evalign_model::{ModelError, ScoredText, ScoredToken};
use serde_json::{Map, Value, json};

use crate::error::{ApiError, ApiResult};
use crate::models::Served;
use crate::openai::completions::Start;
use crate::openai::{spelled, unsupported};

/// A prompt that is part of the answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Prefix {
    pub(crate) text: String,
    pub(crate) tokens: Vec<ScoredToken>,
    /// Characters of its first tokens that the text does not have.
    pub(crate) unwritten: usize,
    /// The one token that is to be generated, where its choice leaves nothing to chance.
    pub(crate) next: Option<Next>,
    usage: Usage,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Next {
    token: ScoredToken,
    /// It ends the text, and adds nothing to it.
    ends: bool,
}

impl Prefix {
    fn of(text: String, scored: ScoredText, is_decided: bool) -> Self {
        let (token, ends) = scored.next;
        let next = is_decided.then_some(Next { token, ends });
        Self {
            unwritten: unwritten(&text, &scored.tokens),
            text,
            tokens: scored.tokens,
            next,
            usage: scored.usage,
        }
    }

    /// Why an answer ends that is not written any further.
    pub(crate) fn finish(&self) -> &'static str {
        if self.next.as_ref().is_some_and(|next| next.ends) { "stop" } else { "length" }
    }

    /// Prompt and, where it is known, the next token, as an answer.
    pub(crate) fn whole(self) -> (String, Vec<ScoredToken>, Usage) {
        let (mut text, mut tokens, mut usage) = (self.text, self.tokens, self.usage);
        if let Some(next) = self.next {
            if !next.ends {
                text.push_str(&next.token.text);
            }
            tokens.push(next.token);
            usage.generated_tokens += 1;
        }
        (text, tokens, usage)
    }
}

/// The prompts, scored, with so many of the likeliest tokens at each place. A single greedy token behind each is known with them.
pub(crate) async fn echoed(
    served: &Served,
    starts: &[Start],
    params: &[GenerateParams],
    alternatives: u32,
) -> ApiResult<Vec<Prefix>> {
    let Some(local) = &served.local else {
        return Err(unsupported("echo", "this model does not tell log-probabilities of a prompt"));
    };
    let is_decided = match params {
        [only] => {
            only.max_tokens == 1 && only.temperature == 0.0 && only.stop.is_empty() && only.form.is_none()
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
    let scored = local.score_tokens(ids, alternatives).await.map_err(ApiError::from)?;
    let prefix =
        |(text, scored): (String, Result<ScoredText, ModelError>)| Ok(Prefix::of(text, scored?, is_decided));
    texts.into_iter().zip(scored).map(prefix).collect()
}

/// The tokens of a generated text.
pub(crate) fn of_generated(logprobs: &[TokenLogprob]) -> Vec<ScoredToken> {
    let token = |token: &TokenLogprob| ScoredToken {
        text: token.token.clone(),
        bytes: token.bytes.clone(),
        logprob: Some(token.logprob),
        top: token.top.clone(),
    };
    logprobs.iter().map(token).collect()
}

fn bytes(token: &ScoredToken) -> &[u8] {
    token.bytes.as_deref().unwrap_or(token.text.as_bytes())
}

/// A byte that goes on with a character (RFC 3629, section 3).
fn continues(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// Characters that begin in these bytes.
fn begun(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| !continues(**byte)).count()
}

/// Characters that begin in a token.
pub(crate) fn chars(token: &ScoredToken) -> usize {
    begun(bytes(token))
}

/// Characters of the first tokens of a text that it does not have: a token that the tokeniser begins every text with, the
/// space that SentencePiece puts before the first word. Tokens that do not end as the text does are taken for written.
fn unwritten(text: &str, tokens: &[ScoredToken]) -> usize {
    let written: Vec<u8> = tokens.iter().flat_map(bytes).copied().collect();
    written.strip_suffix(text.as_bytes()).map_or(0, begun)
}

/// A token's name in a table. What is no text has its bytes, as OpenAI names it (`bytes:\xf0\x9f`): two parts of characters
/// are never one.
fn name(text: &str, bytes: Option<&[u8]>) -> String {
    let prefix = if bytes.is_some() { "bytes:" } else { "" };
    format!("{prefix}{}", spelled(text, bytes))
}

/// In the shape of OpenAI's completions: four lists of the same length. Tokens of `offset` characters come before them, of
/// which the answer does not have the first `unwritten`; what goes on with a character stands where that begins.
pub(crate) fn table(mut offset: usize, unwritten: usize, tokens: &[ScoredToken]) -> Value {
    let mut offsets = Vec::with_capacity(tokens.len());
    for token in tokens {
        let is_inside = bytes(token).first().is_some_and(|byte| continues(*byte));
        offsets.push(offset.saturating_sub(unwritten + usize::from(is_inside)));
        offset += chars(token);
    }
    let own = |token: &ScoredToken| name(&token.text, token.bytes.as_deref());
    let top = |token: &ScoredToken| {
        let logprob = token.logprob?;
        let others =
            token.top.iter().map(|other| (name(&other.token, other.bytes.as_deref()), other.logprob));
        let mut entries = Map::new();
        // One that is written like a likelier one is no entry of its own.
        for (name, logprob) in others {
            entries.entry(name).or_insert_with(|| json!(logprob));
        }
        // The token itself is always there, likeliest or not, and with its own value whatever else is written like it.
        entries.insert(own(token), json!(logprob));
        Some(entries)
    };
    json!({
        "tokens": tokens.iter().map(own).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": offsets,
    })
}

#[cfg(test)]
mod tests {
    use evalign_core::TopLogprob;

    use super::*;

    fn token(text: &str, logprob: Option<f64>, top: &[(&str, f64)]) -> ScoredToken {
        let top = top.iter().map(|(text, logprob)| TopLogprob::new((*text).to_owned(), *logprob));
        ScoredToken { text: text.to_owned(), bytes: None, logprob, top: top.collect() }
    }

    #[test]
    fn four_lists_of_one_length() {
        let table =
            table(3, 0, &[token("Ü", None, &[]), token("b", Some(-2.0), &[("c", -0.5), ("d", -1.0)])]);
        assert_eq!(table["tokens"], json!(["Ü", "b"]));
        assert_eq!(table["token_logprobs"], json!([null, -2.0]));
        assert_eq!(table["top_logprobs"], json!([null, {"c": -0.5, "d": -1.0, "b": -2.0}]));
        assert_eq!(table["text_offset"], json!([3, 4]));
    }

    #[test]
    fn parts_of_a_character_are_told_apart_and_stand_where_it_begins() {
        let part = |bytes: &[u8], top: &[&[u8]]| {
            let other = |bytes: &&[u8]| TopLogprob {
                bytes: Some(bytes.to_vec()),
                ..TopLogprob::new("\u{fffd}".to_owned(), -1.5)
            };
            ScoredToken {
                bytes: Some(bytes.to_vec()),
                top: top.iter().map(other).collect(),
                ..token("\u{fffd}", Some(-2.0), &[])
            }
        };
        let parts =
            [part(b" \xf0\x9f", &[b"\xf0", b"\xf1"]), part(b"\xa6\x80", &[]), token("b", Some(-1.0), &[])];
        let table = table(3, 0, &parts);
        assert_eq!(table["tokens"], json!(["bytes: \\xf0\\x9f", "bytes:\\xa6\\x80", "b"]));
        let named = json!({"bytes:\\xf0": -1.5, "bytes:\\xf1": -1.5, "bytes: \\xf0\\x9f": -2.0});
        assert_eq!(table["top_logprobs"][0], named);
        assert_eq!(table["text_offset"], json!([3, 4, 5]));
    }

    #[test]
    fn a_token_has_its_own_value_whatever_else_is_written_like_it() {
        let table = table(0, 0, &[token("\n", Some(-2.0), &[("\n", -0.5), ("a", -1.0), ("a", -3.0)])]);
        assert_eq!(table["top_logprobs"], json!([{"\n": -2.0, "a": -1.0}]));
    }

    #[test]
    fn what_the_tokeniser_adds_takes_no_place_in_the_text() {
        let tokens = ["<s>", " Hello", " Ü", "!"].map(|text| token(text, None, &[]));
        for (text, expected) in
            [("Hello Ü!", [0, 0, 5, 7]), (" Hello Ü!", [0, 0, 6, 8]), ("<s> Hello Ü!", [0, 3, 9, 11])]
        {
            let table = table(0, unwritten(text, &tokens), &tokens);
            assert_eq!(table["text_offset"], json!(expected), "{text}");
        }
        // What the tokeniser wrote otherwise, and an empty prompt.
        assert_eq!(unwritten("hello ü!", &tokens), 0);
        assert_eq!(unwritten("", &tokens[..1]), 3);
        // Where it is told in parts, the second goes on behind the first.
        let (first, second) = tokens.split_at(2);
        let before = first.iter().map(chars).sum();
        assert_eq!(table(before, 4, second)["text_offset"], json!([5, 7]));
    }

    #[test]
    fn a_next_token_that_ends_the_text_says_so() {
        for (ends, text, finish) in [(true, "a", "stop"), (false, "ab", "length")] {
            let tokens = vec![token("a", None, &[])];
            let next = (token("b", Some(-1.0), &[]), ends);
            let scored = ScoredText { tokens, next, usage: Usage::default() };
            let prefix = Prefix::of("a".to_owned(), scored.clone(), true);
            assert_eq!((prefix.finish(), prefix.whole().0.as_str()), (finish, text));
            let prefix = Prefix::of("a".to_owned(), scored, false);
            assert_eq!((prefix.finish(), prefix.whole().0.as_str()), ("length", "a"));
        }
    }
}
