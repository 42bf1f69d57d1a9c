//! One sequence being generated.

use std::rc::Rc;

use evalign_core::{FinishReason, TokenLogprob, TopLogprob};

use crate::constraint::{Constraint, Grammar};
use crate::kernels::{Isa, RowSummary, summarise_logits};
use crate::kv::{KvNode, KvPath};
use crate::sample::Sampler;
use crate::step::Step;
use crate::text_watch::{Showing, TextWatch, finish_reason};
use crate::{GenerateItem, GenerateOutput, LmError, Piece, Tokenizer};

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
    /// The prompt, where what was read before makes a difference to drawing.
    seen: Vec<u32>,
    /// Prompt tokens pushed through the model that this item was the first to need.
    computed_tokens: u64,
    watch: TextWatch,
    /// Where the text is told as it is written.
    showing: Option<Showing>,
    /// Of `logprobs`, those that were told.
    told: usize,
    logprobs: Option<Vec<TokenLogprob>>,
    /// With each log-probability, those of so many of the likeliest tokens.
    alternatives: usize,
    finish: Option<FinishReason>,
    /// Its tokens cannot be turned into text: it has ended, the others have not.
    failure: Option<LmError>,
}

impl Active {
    pub(super) fn new(
        item: usize,
        request: &GenerateItem,
        grammar: Option<Grammar>,
        tail: Rc<KvNode>,
        most_tokens: usize,
        is_streamed: bool,
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
            seen: if penalised { request.prompt.clone() } else { Vec::new() },
            computed_tokens: 0,
            watch: TextWatch::new(&request.params.stop),
            showing: is_streamed.then(|| Showing::new(&request.params.stop)),
            told: 0,
            logprobs: request.params.logprobs.then(Vec::new),
            alternatives: if request.params.logprobs { request.params.top_logprobs as usize } else { 0 },
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

    /// So many tokens of its prompt went into the step.
    pub(super) fn computed(&mut self, tokens: usize) {
        self.computed_tokens += tokens as u64;
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

    /// How many of the likeliest tokens are named with the next one.
    pub(super) fn alternatives(&self) -> usize {
        self.alternatives
    }

    pub(super) fn take_greedy(
        &mut self,
        tokenizer: &Tokenizer,
        summary: &RowSummary,
        likeliest: &[(u32, f64)],
    ) {
        let (token, logprob) = summary.likeliest();
        let added =
            tokenizer.alternatives(likeliest).and_then(|top| self.add(tokenizer, token, logprob, top));
        self.failure = added.err();
    }

    pub(super) fn take_sampled(&mut self, tokenizer: &Tokenizer, logits: &mut [f32]) {
        self.failure = self.draw_from(tokenizer, logits).err();
    }

    /// Log-probabilities are the model's own: before penalty, temperature, filters and the mask of a form.
    fn draw_from(&mut self, tokenizer: &Tokenizer, logits: &mut [f32]) -> Result<(), LmError> {
        let unchanged = (self.logprobs.is_some() && self.sampler.changes_logits()).then(|| logits.to_vec());
        let summary = self.logprobs.as_ref().map(|_| summarise_logits(Isa::detect(), logits));
        let top = match &summary {
            Some(summary) => self.top(tokenizer, summary, logits)?,
            None => Vec::new(),
        };
        if let Some(constraint) = &mut self.constraint {
            constraint.mask(tokenizer.token_bytes(), &self.stop_ids, logits)?;
        }
        let token = self.sampler.choose(logits, &[&self.seen, &self.ids], self.ids.len() as u64);
        let logit = unchanged.as_deref().unwrap_or(logits).get(token as usize).copied().unwrap_or(0.0);
        let normaliser = summary.map_or(0.0, |summary| summary.log_sum_exp);
        self.add(tokenizer, token, f64::from(logit) - normaliser, top)?;
        if self.finish.is_none() && self.constraint.is_some() {
            self.follow_form(tokenizer, token)?;
        }
        Ok(())
    }

    /// What could stand here: the labels of a form where one is about to be chosen, otherwise the likeliest tokens.
    fn top(
        &self,
        tokenizer: &Tokenizer,
        summary: &RowSummary,
        logits: &[f32],
    ) -> Result<Vec<TopLogprob>, LmError> {
        let constraint = self.constraint.as_ref();
        let labels = constraint.map(|constraint| constraint.labels(logits, summary.log_sum_exp));
        match labels.filter(|labels| !labels.is_empty()) {
            Some(labels) => Ok(labels),
            None => tokenizer.alternatives(&summary.most_probable(logits, self.alternatives)),
        }
    }

    fn add(
        &mut self,
        tokenizer: &Tokenizer,
        token: u32,
        logprob: f64,
        top: Vec<TopLogprob>,
    ) -> Result<(), LmError> {
        self.ids.push(token);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.push(TokenLogprob { top, ..tokenizer.with_logprob(token, logprob)? });
        }
        let is_stop_id = self.stop_ids.contains(&token);
        let stop_string = !is_stop_id && self.watch.stops(tokenizer, &self.ids)?;
        self.finish = finish_reason(is_stop_id, stop_string, self.ids.len() >= self.most_tokens);
        match &mut self.showing {
            Some(showing) if self.finish.is_none() => showing.add(tokenizer, &self.ids),
            _ => Ok(()),
        }
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
            self.add(tokenizer, *token, 0.0, Vec::new())?;
        }
        Ok(())
    }

    /// What may be shown and was not told yet. Log-probabilities wait for the text of their tokens.
    pub(super) fn take_piece(&mut self) -> Option<Piece> {
        let showing = self.showing.as_mut()?;
        let text = showing.take()?;
        let mut logprobs = Vec::new();
        if let Some(all) = self.logprobs.as_ref().filter(|_| showing.has_shown(self.ids.len())) {
            logprobs.extend_from_slice(all.get(self.told..).unwrap_or_default());
            self.told = all.len();
        }
        Some(Piece { text, logprobs })
    }

    /// The result of a finished sequence, and what of it was not told yet.
    pub(super) fn finish(
        mut self,
        tokenizer: &Tokenizer,
    ) -> (Option<Piece>, Result<GenerateOutput, LmError>) {
        let (told, showing, text_tokens) = (self.told, self.showing.take(), self.text_ids().len());
        let (showing, mut output) = match (showing, self.into_output(tokenizer)) {
            (Some(showing), Ok(output)) => (showing, output),
            (_, output) => return (None, output),
        };
        match showing.finish(tokenizer, &output.ids[..text_tokens], output.text) {
            Ok((rest, text)) => {
                output.text = text;
                let logprobs = output.logprobs.as_deref().and_then(|all| all.get(told..)).unwrap_or_default();
                let piece = Piece { text: rest, logprobs: logprobs.to_vec() };
                ((piece != Piece::default()).then_some(piece), Ok(output))
            }
            Err(error) => (None, Err(error)),
        }
    }

    /// The tokens that write the text: not the one that ends it.
    fn text_ids(&self) -> &[u32] {
        match self.ids.split_last() {
            Some((last, rest)) if self.stop_ids.contains(last) => rest,
            _ => &self.ids,
        }
    }

    fn into_output(self, tokenizer: &Tokenizer) -> Result<GenerateOutput, LmError> {
        let text = self.watch.finish(tokenizer, self.text_ids());
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        let finish = self.finish.unwrap_or(FinishReason::Length);
        let computed_tokens = self.computed_tokens;
        Ok(GenerateOutput { text: text?, finish, logprobs: self.logprobs, ids: self.ids, computed_tokens })
    }
}
