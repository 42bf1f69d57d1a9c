//! Scores of a reward model.

use std::path::Path;

use serde_json::Value;

use crate::training::{Lesson, Reading, Readout, TokenTree, TrainingSpace};
use crate::{LanguageModel, LmError, Tokenizer};

/// Tokens that go through the model together.
const STEP_TOKENS: usize = 2048;

impl LanguageModel {
    /// The reward of each text: its hidden state at `pooled` times the reward head. Texts are as tokenised, `pooled` says
    /// for each where its reward is read (see [`pooled_index`]).
    ///
    /// # Errors
    /// The model has no reward head, a text is empty, longer than the context or holds an unknown token, or computing
    /// fails.
    pub fn rewards(&self, texts: &[(Vec<u32>, usize)]) -> Result<Vec<f32>, LmError> {
        let mut rewards = Vec::with_capacity(texts.len());
        for some in self.reward_steps(texts)? {
            rewards.extend(some?);
        }
        Ok(rewards)
    }

    /// As [`LanguageModel::rewards`], of some texts at a time, in their order: whoever asks can end in between.
    ///
    /// # Errors
    /// As [`LanguageModel::rewards`], of which all but the first come with the step that they are about.
    pub fn reward_steps<'a>(
        &'a self,
        texts: &'a [(Vec<u32>, usize)],
    ) -> Result<impl Iterator<Item = Result<Vec<f32>, LmError>> + 'a, LmError> {
        let head = self.reward_head().ok_or_else(|| {
            LmError::Request(
                "this model has no reward head: name an adapter of `train reward` as `+adapter=DIR`"
                    .to_owned(),
            )
        })?;
        let mut space = TrainingSpace::default();
        let mut rest = texts;
        Ok(std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let mut tokens = 0;
            let fit = rest.iter().take_while(|(ids, _)| {
                tokens += ids.len();
                tokens <= STEP_TOKENS
            });
            let (now, later) = rest.split_at(fit.count().max(1));
            rest = later;
            Some(self.rewards_of(now, head, &mut space))
        }))
    }

    fn rewards_of(
        &self,
        texts: &[(Vec<u32>, usize)],
        head: &[f32],
        space: &mut TrainingSpace,
    ) -> Result<Vec<f32>, LmError> {
        let (mut rows, mut first) = (Vec::with_capacity(texts.len()), 0);
        let mut trees = Vec::with_capacity(texts.len());
        for (ids, pooled) in texts {
            if *pooled >= ids.len() {
                return Err(LmError::Request(format!("a reward at token {pooled} of {}", ids.len())));
            }
            rows.push(first + pooled);
            first += ids.len();
            trees.push(TokenTree { trunk: ids.clone(), branches: Vec::new() });
        }
        let Reading::Hidden(hidden) = self.read(&Lesson::new(&trees, Readout::Hidden(&rows)), space)? else {
            return Err(LmError::Request("hidden states were asked for".to_owned()));
        };
        Ok(hidden.chunks_exact(head.len()).map(|row| reward_of(row, head)).collect())
    }
}

/// The reward of a hidden state: its product with the head, added up in f64.
#[must_use]
pub fn reward_of(hidden: &[f32], head: &[f32]) -> f32 {
    hidden.iter().zip(head).map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>() as f32
}

/// The padding token that a model's `tokenizer_config.json` names; the end-of-text token where it names none.
pub(crate) fn pad_token(model: &Path, tokenizer: &Tokenizer) -> Option<u32> {
    let text = fs_err::read(model.join("tokenizer_config.json")).ok();
    let config: Option<Value> = text.and_then(|text| serde_json::from_slice(&text).ok());
    let pad = config.as_ref().map(|config| &config["pad_token"]);
    let name = pad.and_then(|pad| pad.as_str().or_else(|| pad["content"].as_str()));
    name.and_then(|name| tokenizer.token_to_id(name)).or_else(|| tokenizer.eos())
}

/// Where transformers' sequence classifiers read: at the last token that is not `pad`, at the first if all are; without
/// `pad` at the last.
#[must_use]
pub fn pooled_index(ids: &[u32], pad: Option<u32>) -> usize {
    ids.iter().rposition(|id| Some(*id) != pad).unwrap_or(0)
}
