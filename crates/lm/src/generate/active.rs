//! One sequence being generated.

use std::rc::Rc;

use evalign_core::{FinishReason, TokenLogprob};

use crate::kernels::RowSummary;
use crate::kv::{KvNode, KvPath};
use crate::sample::{Sampler, log_sum_exp};
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
    most_tokens: usize,
    ids: Vec<u32>,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    needs_logits: bool,
    watch: TextWatch,
    logprobs: Option<Vec<TokenLogprob>>,
    finish: Option<FinishReason>,
    /// Its tokens cannot be turned into text: it has ended, the others have not.
    failure: Option<LmError>,
}

impl Active {
    pub(super) fn new(item: usize, request: &GenerateItem, tail: Rc<KvNode>, most_tokens: usize) -> Self {
        let penalised = request.params.repetition_penalty.is_some_and(|penalty| penalty != 1.0);
        Self {
            item,
            tail: Some(tail),
            path: KvPath::default(),
            row: None,
            most_tokens,
            ids: Vec::new(),
            stop_ids: request.stop_ids.clone(),
            sampler: Sampler::new(&request.params),
            needs_logits: request.params.temperature != 0.0 || penalised,
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

    /// The prompt's last token is in the step, at this row.
    pub(super) fn prompt_done(&mut self, path: &KvPath, row: usize) {
        self.path = path.clone();
        if let Some(tail) = self.tail.take() {
            self.path.push(tail, 0);
        }
        self.row = Some(row);
    }

    /// Puts the latest token into the step.
    pub(super) fn enter_step(&mut self, step: &mut Step) {
        self.row = None;
        if let (false, Some(latest)) = (self.is_waiting(), self.ids.last()) {
            self.path.grow();
            self.row = Some(step.push(&self.path, std::iter::once(*latest)));
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

    /// Log-probabilities are the model's own: before penalty, temperature and filters.
    pub(super) fn take_sampled(&mut self, tokenizer: &Tokenizer, prompt: &[u32], logits: &mut [f32]) {
        let normaliser = if self.logprobs.is_some() { log_sum_exp(logits) } else { 0.0 };
        let unchanged = self.logprobs.is_some().then(|| logits.to_vec());
        let token = self.sampler.choose(logits, &[prompt, &self.ids], self.ids.len() as u64);
        let logit = unchanged.and_then(|logits| logits.get(token as usize).copied()).unwrap_or(0.0);
        self.take(tokenizer, token, f64::from(logit) - normaliser);
    }

    fn take(&mut self, tokenizer: &Tokenizer, token: u32, logprob: f64) {
        self.failure = self.add(tokenizer, token, logprob).err();
    }

    fn add(&mut self, tokenizer: &Tokenizer, token: u32, logprob: f64) -> Result<(), LmError> {
        self.ids.push(token);
        if let Some(logprobs) = &mut self.logprobs {
            logprobs.push(TokenLogprob { token: tokenizer.decode(&[token], false)?, logprob });
        }
        let is_stop_id = self.stop_ids.contains(&token);
        let stop_string = !is_stop_id && self.watch.stops(tokenizer, &self.ids)?;
        self.finish = finish_reason(is_stop_id, stop_string, self.ids.len() >= self.most_tokens);
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
