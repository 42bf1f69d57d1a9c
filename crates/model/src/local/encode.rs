//! From text to token ids, by the rules of lm-evaluation-harness 0.4.13 (`api/model.py`,
//! `models/huggingface.py`), which the reference numbers depend on.

use evalign_core::{GenerateParams, Prompt, RequestKind};
use evalign_lm::{ChatTemplate, GenerateItem, LanguageModel, ScoreItem, Tokenizer};

use super::{OverlongPrompt, chat};
use crate::error::ModelError;

/// A request as the engine takes it. `truncated` is the number of tokens cut from the left.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Encoded {
    Score(Vec<ScorePart>),
    Generate { item: GenerateItem, truncated: u64 },
    Perplexity { ids: Vec<u32>, prefix: u32 },
}

/// Continuations that share one context. There is one part for a request, unless contexts were cut to
/// different lengths.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ScorePart {
    pub(super) item: ScoreItem,
    /// Places of the continuations in the request.
    pub(super) choices: Vec<usize>,
    pub(super) truncated: u64,
}

impl Encoded {
    /// Input tokens as if nothing were shared. The last token of a continuation is only predicted.
    pub(super) fn prompt_tokens(&self) -> u64 {
        let tokens = match self {
            Self::Score(parts) => parts
                .iter()
                .map(|part| {
                    let context = part.item.context.len();
                    part.item.continuations.iter().map(|ids| context + ids.len() - 1).sum::<usize>()
                })
                .sum(),
            Self::Generate { item, .. } => item.prompt.len(),
            Self::Perplexity { ids, .. } => ids.len(),
        };
        tokens as u64
    }

    pub(super) fn truncated(&self) -> u64 {
        match self {
            Self::Score(parts) => parts.iter().map(|part| part.truncated).max().unwrap_or(0),
            Self::Generate { truncated, .. } => *truncated,
            Self::Perplexity { .. } => 0,
        }
    }
}

pub(super) struct Encoder<'a> {
    tokenizer: &'a Tokenizer,
    template: Option<&'a ChatTemplate>,
    context_length: usize,
    overlong: OverlongPrompt,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(model: &'a LanguageModel, overlong: OverlongPrompt) -> Self {
        Self {
            tokenizer: model.tokenizer(),
            template: model.chat_template(),
            context_length: model.identity().context_length,
            overlong,
        }
    }

    pub(super) fn encode(&self, kind: &RequestKind) -> Result<Encoded, ModelError> {
        match kind {
            RequestKind::LogLikelihood { context, continuations } => {
                Ok(Encoded::Score(self.score(context, continuations)?))
            }
            RequestKind::Generate { prompt, params } => self.generate(prompt, params),
            RequestKind::Perplexity { text } => {
                Ok(Encoded::Perplexity { ids: self.with_specials(text)?, prefix: self.prefix()? })
            }
        }
    }

    fn score(&self, context: &Prompt, continuations: &[String]) -> Result<Vec<ScorePart>, ModelError> {
        if continuations.is_empty() {
            return Err(ModelError::Request("there is no continuation to score".to_owned()));
        }
        let context = chat::render(self.template, context)?;
        let mut parts: Vec<ScorePart> = Vec::new();
        let (head, moved) = split_trailing_space(&context);
        let head_ids = if head.is_empty() { Vec::new() } else { self.with_specials(head)? };
        for (choice, continuation) in continuations.iter().enumerate() {
            let (ids, next) = if head_ids.is_empty() {
                self.pair_without_context(&format!("{moved}{continuation}"))?
            } else {
                // The continuation is what the whole text has beyond the context's tokens, even where
                // a token spans the joint; the context stays as it is on its own.
                let whole = self.with_specials(&format!("{head}{moved}{continuation}"))?;
                (head_ids.clone(), whole.get(head_ids.len()..).unwrap_or_default().to_vec())
            };
            if next.is_empty() {
                return Err(ModelError::Request(format!("continuation {choice} has no tokens of its own")));
            }
            let (ids, truncated) = self.fit(ids, next.len() - 1)?;
            match parts.last_mut() {
                Some(part) if part.item.context == ids => {
                    part.item.continuations.push(next);
                    part.choices.push(choice);
                }
                _ => parts.push(ScorePart {
                    item: ScoreItem { context: ids, continuations: vec![next] },
                    choices: vec![choice],
                    truncated,
                }),
            }
        }
        Ok(parts)
    }

    /// Nothing to condition on: BOS, or else EOS, stands for the context, unless the continuation
    /// begins with it; then that is the context. (A context of nothing but whitespace, with which the
    /// reference fails, goes the same way, its whitespace before the continuation.)
    fn pair_without_context(&self, continuation: &str) -> Result<(Vec<u32>, Vec<u32>), ModelError> {
        let prefix = self.prefix()?;
        let mut ids = self.tokenizer.encode(continuation, false)?;
        if ids.first() == Some(&prefix) {
            ids.remove(0);
        }
        Ok((vec![prefix], ids))
    }

    fn generate(&self, prompt: &Prompt, params: &GenerateParams) -> Result<Encoded, ModelError> {
        if params.max_tokens == 0 {
            return Err(ModelError::Request("0 tokens are to be generated".to_owned()));
        }
        let text = chat::render(self.template, prompt)?;
        let mut ids = self.with_specials(&text)?;
        if ids.is_empty() {
            ids.push(self.prefix()?);
        }
        let room = match self.overlong {
            // The first new token is all the room that has to be there.
            OverlongPrompt::Refuse => 1,
            OverlongPrompt::CutLeft => params.max_tokens as usize,
        };
        let (prompt, truncated) = self.fit(ids, room)?;
        let item = GenerateItem { prompt, params: params.clone(), stop_ids: self.stop_ids(&params.stop)? };
        Ok(Encoded::Generate { item, truncated })
    }

    /// Every token that ends a text, and the stop strings that are the spelling of a special token:
    /// such a token is not part of the text in which strings are looked for.
    fn stop_ids(&self, stop: &[String]) -> Result<Vec<u32>, ModelError> {
        let mut stop_ids = self.tokenizer.eos_ids().to_vec();
        for text in stop {
            if let [id] = self.tokenizer.encode(text, false)?[..]
                && !stop_ids.contains(&id)
                && self.tokenizer.decode(&[id], true)?.is_empty()
            {
                stop_ids.push(id);
            }
        }
        Ok(stop_ids)
    }

    /// The context, cut from the left so that `after` more tokens fit, and how much was cut.
    fn fit(&self, mut ids: Vec<u32>, after: usize) -> Result<(Vec<u32>, u64), ModelError> {
        let room = self.context_length.saturating_sub(after);
        let excess = ids.len().saturating_sub(room);
        if excess == 0 {
            return Ok((ids, 0));
        }
        let too_long = ModelError::TooLong { tokens: ids.len() + after, context: self.context_length };
        match self.overlong {
            OverlongPrompt::CutLeft if room > 0 => {
                ids.drain(..excess);
                Ok((ids, excess as u64))
            }
            OverlongPrompt::CutLeft | OverlongPrompt::Refuse => Err(too_long),
        }
    }

    /// With what the tokeniser puts around a text by itself, unless the text brings its own BOS (or, in
    /// a model without BOS, begins with EOS).
    fn with_specials(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let prefix = self.tokenizer.bos_text().or_else(|| self.tokenizer.eos_text());
        let has_own = prefix.is_some_and(|prefix| text.starts_with(prefix));
        Ok(self.tokenizer.encode(text, !has_own)?)
    }

    fn prefix(&self) -> Result<u32, ModelError> {
        self.tokenizer.bos().or_else(|| self.tokenizer.eos()).ok_or_else(|| {
            ModelError::Request(
                "the tokenizer has neither a BOS nor an EOS token to stand for an empty context".to_owned(),
            )
        })
    }
}

/// Python's `str.rstrip()`: Unicode whitespace and the four separators U+001C to U+001F.
fn split_trailing_space(text: &str) -> (&str, &str) {
    let is_space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    text.split_at(text.trim_end_matches(is_space).len())
}

#[cfg(test)]
mod tests;
