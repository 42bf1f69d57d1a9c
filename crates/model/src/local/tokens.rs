//! Texts as tokens, and what the model says of each of them: for callers that speak in tokens, as the
//! completions endpoint of OpenAI does.

use std::ops::ControlFlow;

use evalign_core::{TopLogprob, Usage};
use evalign_lm::{Event, LanguageModel, LmError, ScoreItem, ScoreOutput, TokenScore};
use tokio::sync::oneshot;

use super::Local;
use super::engine::Job;
use crate::error::ModelError;

/// A token of a text under the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredToken {
    pub text: String,
    /// What it writes, where that is no text of its own: part of a character.
    pub bytes: Option<Vec<u8>>,
    /// Natural logarithm of its probability after everything before it; absent for the first token.
    pub logprob: Option<f64>,
    /// The likeliest tokens at its place, as many as were asked for ([`evalign_core::TokenLogprob::top`]).
    pub top: Vec<TopLogprob>,
}

/// A text under the model.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoredText {
    pub tokens: Vec<ScoredToken>,
    /// The likeliest token after the text, and whether it ends a text.
    pub next: (ScoredToken, bool),
    pub usage: Usage,
}

type Answers = Vec<Result<ScoredText, ModelError>>;

/// Texts to be scored, on the engine's thread.
pub(super) struct TokenJob {
    texts: Vec<Vec<u32>>,
    top: u32,
    reply: oneshot::Sender<Answers>,
}

impl Local {
    /// The tokens of a text as a prompt.
    ///
    /// # Errors
    /// The tokeniser cannot read it.
    pub fn token_ids(&self, text: &str) -> Result<Vec<u32>, ModelError> {
        let tokenizer = self.model.tokenizer();
        let prefix = tokenizer.bos_text().or_else(|| tokenizer.eos_text());
        let has_own = prefix.is_some_and(|prefix| text.starts_with(prefix));
        Ok(tokenizer.encode(text, !has_own)?)
    }

    /// The text that becomes these tokens when it is a prompt.
    ///
    /// # Errors
    /// [`ModelError::Request`] where there is none: an unknown token, or a sequence the tokeniser never makes.
    pub fn text_of(&self, ids: &[u32]) -> Result<String, ModelError> {
        self.check(ids)?;
        let text = self.model.tokenizer().decode(ids, false)?;
        if self.token_ids(&text)? == ids {
            return Ok(text);
        }
        Err(ModelError::Request(
            "these tokens are not how the model's tokeniser writes any text; send the text itself".to_owned(),
        ))
    }

    fn check(&self, ids: &[u32]) -> Result<(), ModelError> {
        let vocabulary = self.model.identity().vocab_size;
        match ids.iter().find(|id| **id as usize >= vocabulary) {
            Some(id) => {
                Err(ModelError::Request(format!("{id} is not a token of this model ({vocabulary} tokens)")))
            }
            None => Ok(()),
        }
    }

    /// What the model says of every token of these texts, each of at least one token, with the `top` likeliest ones at
    /// each place. Answers in their order.
    ///
    /// # Errors
    /// The engine has gone; each text has an error of its own.
    pub async fn score_tokens(&self, texts: Vec<Vec<u32>>, top: u32) -> Result<Answers, ModelError> {
        let (reply, answers) = oneshot::channel();
        drop(self.jobs.send(Job::Tokens(TokenJob { texts, top, reply })));
        answers.await.map_err(|_| ModelError::Temporary("the engine has stopped".to_owned()))
    }
}

impl TokenJob {
    /// A caller that has gone is not computed for any further.
    pub(super) fn answer(self, model: &LanguageModel) {
        let context = model.identity().context_length;
        let mut answers: Vec<Option<Result<ScoredText, ModelError>>> = vec![None; self.texts.len()];
        let (mut items, mut owners) = (Vec::new(), Vec::new());
        for (index, ids) in self.texts.iter().enumerate() {
            match ids.split_first() {
                None => answers[index] = Some(Err(ModelError::Request("an empty prompt".to_owned()))),
                Some(_) if ids.len() > context => {
                    answers[index] = Some(Err(ModelError::TooLong { tokens: ids.len(), context }));
                }
                Some((first, rest)) => {
                    // One more than there is: its position says what comes next, and what it is itself does
                    // not matter.
                    let continuation = rest.iter().chain([first]).copied().collect();
                    items.push(ScoreItem { context: vec![*first], continuations: vec![continuation] });
                    owners.push(index);
                }
            }
        }
        let outcome = model.score_tokens(&items, self.top as usize, &mut |event| match event {
            Event::Step if self.reply.is_closed() => ControlFlow::Break(()),
            Event::Step => ControlFlow::Continue(()),
            Event::Done(item, result) => {
                let ids = &self.texts[owners[item]];
                let text = result.and_then(|output| scored(model, ids, &output));
                answers[owners[item]] = Some(text.map_err(ModelError::from));
                ControlFlow::Continue(())
            }
        });
        let missing = match outcome {
            Ok(_) => ModelError::Temporary("the engine gave no answer".to_owned()),
            Err(error) => ModelError::from(error),
        };
        let answers = answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(missing.clone())));
        drop(self.reply.send(answers.collect()));
    }
}

fn scored(model: &LanguageModel, ids: &[u32], output: &ScoreOutput) -> Result<ScoredText, LmError> {
    let tokenizer = model.tokenizer();
    let token = |id: u32, score: Option<(f64, &TokenScore)>| {
        let (logprob, score) = score.unzip();
        let named = tokenizer.with_logprob(id, logprob.unwrap_or_default())?;
        let top = score.map(|score| tokenizer.alternatives(&score.top)).transpose()?.unwrap_or_default();
        Ok::<_, LmError>(ScoredToken { text: named.token, bytes: named.bytes, logprob, top })
    };
    let no_scores = || LmError::Request("the engine scored no token".to_owned());
    let (next, scores) =
        output.tokens.first().and_then(|tokens| tokens.split_last()).ok_or_else(no_scores)?;
    let mut tokens = Vec::with_capacity(ids.len());
    for (place, id) in ids.iter().enumerate() {
        let score = place.checked_sub(1).and_then(|place| scores.get(place));
        tokens.push(token(*id, score.map(|score| (score.logprob, score)))?);
    }
    let usage = Usage {
        prompt_tokens: ids.len() as u64,
        computed_prompt_tokens: output.computed_tokens,
        ..Usage::default()
    };
    let (likeliest, logprob) = next.likeliest;
    let ends = tokenizer.eos_ids().contains(&likeliest);
    Ok(ScoredText { tokens, next: (token(likeliest, Some((logprob, next)))?, ends), usage })
}
