//! One sequence being generated.

use std::rc::Rc;

use evalign_core::{FinishReason, TokenLogprob};

use crate::constraint::{Constraint, Grammar};
use crate::kernels::{Isa, RowSummary, summarise_logits};
use crate::kv::{KvNode, KvPath};
use crate::sample::Sampler;
use crate::step::Step;
use crate::text_watch::{TextWatch, finish_reason};
use crate::{GenerateItem, GenerateOutput, LmError, Tokenizer};

/// How the next token is drawn, from this row of the step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Draw {
    /// The argmax of the unchanged logits.
    Greedy { row: usize },
    /// From all logits.
    Logits { row: usize },
}

#[derive(Debug)]
pub(super) struct Active {
    item: usize,
    /// Where generated tokens' keys and values go; empty once the path has it.
    tail: Option<Rc<KvNode>>,
    path: KvPath,
    /// Row of the pending step that the next token is drawn from.
    row: Option<usize>,
    /// Of `ids`, those that were put into a step.
    entered: usize,
    most_tokens: usize,
    ids: Vec<u32>,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    constraint: Option<Constraint>,
    needs_logits: bool,
    watch: TextWatch,
    logprobs: Option<Vec<TokenLogprob>>,
    finish: Option<FinishReason>,
    /// Its tokens cannot be turned into text: it has ended, the others have not.
    failure: Option<LmError>,
}

impl Active {
    pub(super) fn new(
        item: usize,
        request: &GenerateItem,
        grammar: Option<Rc<Grammar>>,
        tail: Rc<KvNode>,
        most_tokens: usize,
    ) -> Self {
        let penalised = request.params.repetition_penalty.is_some_and(|penalty| penalty != 1.0);
        let constraint = grammar.map(Constraint::new);
        Self {
            item,
            tail: Some(tail),
            path: KvPath::default(),
            row: None,
            entered: 0,
            most_tokens,
            ids: Vec::new(),
            stop_ids: request.stop_ids.clone(),
            sampler: Sampler::new(&request.params),
            needs_logits: request.params.temperature != 0.0 || penalised || constraint.is_some(),
            constraint,
            watch: TextWatch::new(&request.params.stop),
            logprobs: request.params.logprobs.then(Vec::new),
            finish: None,
            failure: None,
        }
    }

    pub(super) fn item(&self) -> usize {
        self.item
    }

    pub(super) fn generated(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn is_finished(&self) -> bool {
        self.finish.is_some() || self.failure.is_some()
    }

    /// Admitted, but its prompt is not computed yet.
    pub(super) fn is_waiting(&self) -> bool {
        self.tail.is_some()
    }

    /// Whether the step just computed gave it a token.
    pub(super) fn drew(&self) -> bool {
        self.row.is_some()
    }

    /// The prompt's last token is in the step, at this row. Nothing is drawn from it where a form says how
    /// the answer begins.
    pub(super) fn prompt_done(&mut self, tokenizer: &Tokenizer, path: &KvPath, row: usize) {
        self.path = path.clone();
        if let Some(tail) = self.tail.take() {
            self.path.push(tail, 0);
        }
        self.failure = self.add_forced(tokenizer).err();
        self.row = self.ids.is_empty().then_some(row);
    }

    /// Puts the tokens into the step that are not computed yet: the one that was drawn, and what a form
    /// says comes after it.
    pub(super) fn enter_step(&mut self, step: &mut Step) {
        self.row = None;
        let new = self.ids.get(self.entered..).unwrap_or_default();
        if !self.is_waiting() && !new.is_empty() {
            for _ in new {
                self.path.grow();
            }
            let first = step.push(&self.path, new.iter().copied());
            self.row = Some(first + new.len() - 1);
            self.entered = self.ids.len();
        }
    }

    pub(super) fn draw_kind(&self) -> Option<Draw> {
        let row = self.row?;
        Some(if self.needs_logits { Draw::Logits { row } } else { Draw::Greedy { row } })
    }

    pub(super) fn take_greedy(&mut self, tokenizer: &Tokenizer, summary: &RowSummary) {
        let logprob = f64::from(summary.max_logit) - summary.log_sum_exp;
        self.take(tokenizer, summary.argmax, logprob);
    }

    /// Log-probabilities are the model's own: before penalty, temperature, filters and the mask of a form.
    pub(super) fn take_sampled(&mut self, tokenizer: &Tokenizer, prompt: &[u32], logits: &mut [f32]) {
        let unchanged = (self.logprobs.is_some() && self.sampler.changes_logits()).then(|| logits.to_vec());
        let normaliser = match self.logprobs {
            Some(_) => summarise_logits(Isa::detect(), logits).log_sum_exp,
            None => 0.0,
        };
        let mut top = Vec::new();
        if let Some(constraint) = &self.constraint {
            if self.logprobs.is_some() {
                top = constraint.labels(logits, normaliser);
            }
            constraint.mask(tokenizer.token_bytes(), logits);
        }
        let token = self.sampler.choose(logits, &[prompt, &self.ids], self.ids.len() as u64);
        let logit = unchanged.as_deref().unwrap_or(logits).get(token as usize).copied().unwrap_or(0.0);
        self.take(tokenizer, token, f64::from(logit) - normaliser);
        if let Some(last) = self.logprobs.as_mut().and_then(|logprobs| logprobs.last_mut()) {
            last.top = top;
        }
        if self.failure.is_none() && self.constraint.is_some() {
            self.failure = self.follow_form(tokenizer, token).err();
        }
    }

    fn take(&mut self, tokenizer: &Tokenizer, token: u32, logprob: f64) {
        self.failure = self.add(tokenizer, token, logprob).err();
    }

    fn add(&mut self, tokenizer: &Tokenizer, token: u32, logprob: f64) -> Result<(), LmError> {
        self.ids.push(token);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.push(TokenLogprob::new(tokenizer.decode(&[token], false)?, logprob));
        }
        let is_stop_id = self.stop_ids.contains(&token);
        let stop_string = !is_stop_id && self.watch.stops(tokenizer, &self.ids)?;
        self.finish = finish_reason(is_stop_id, stop_string, self.ids.len() >= self.most_tokens);
        Ok(())
    }

    /// Adds what a form says comes after the token that was drawn.
    fn follow_form(&mut self, tokenizer: &Tokenizer, token: u32) -> Result<(), LmError> {
        let Some(constraint) = &mut self.constraint else { return Ok(()) };
        let rest = constraint.take(tokenizer.token_bytes(), token)?;
        self.extend(tokenizer, &rest)?;
        self.add_forced(tokenizer)
    }

    /// Adds the tokens that come next in the form without a choice. They cost nothing and are certain.
    fn add_forced(&mut self, tokenizer: &Tokenizer) -> Result<(), LmError> {
        let Some(constraint) = &mut self.constraint else { return Ok(()) };
        let forced = constraint.forced(tokenizer)?;
        let done = constraint.is_done();
        self.extend(tokenizer, &forced)?;
        if done && self.finish.is_none() {
            self.finish = Some(FinishReason::Stop);
        }
        Ok(())
    }

    fn extend(&mut self, tokenizer: &Tokenizer, forced: &[u32]) -> Result<(), LmError> {
        for token in forced {
            if self.finish.is_some() {
                break;
            }
            self.add(tokenizer, *token, 0.0)?;
        }
        Ok(())
    }

    /// The result of a finished sequence.
    pub(super) fn into_output(
        self,
        tokenizer: &Tokenizer,
        computed_tokens: u64,
    ) -> Result<GenerateOutput, LmError> {
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let text_ids = match self.ids.split_last() {
            Some((last, rest)) if self.stop_ids.contains(last) => rest,
            _ => &self.ids,
        };
        let text = self.watch.finish(tokenizer, text_ids)?;
        let finish = self.finish.unwrap_or(FinishReason::Length);
        Ok(GenerateOutput { text, finish, logprobs: self.logprobs, ids: self.ids, computed_tokens })
    }
}
