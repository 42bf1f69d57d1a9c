//! Log-likelihood of continuations over a whole request set.

use std::ops::{ControlFlow, Range};
use std::time::Instant;

use crate::backend::DecoderBackend;
use crate::decoder::{Decoder, Workspace};
use crate::kernels::Target;
use crate::kv::KvStore;
use crate::plan::{Plan, Tokens};
use crate::request::{Event, answerable};
use crate::step::Step;
use crate::walk::{Piece, STEP_ROWS, Walk};
use crate::{ChoiceScore, EngineStats, LmError, ScoreItem, ScoreOutput, TokenScore};

/// Rows projected onto the vocabulary at once.
const PROJECTED_ROWS: usize = 512;
/// Rows of the first step, so that the first result comes early; doubled from step to step.
const FIRST_STEP_ROWS: usize = 128;

/// See [`crate::LanguageModel::log_likelihoods`].
pub(crate) fn log_likelihoods<B: DecoderBackend>(
    decoder: &Decoder<B>,
    budget_bytes: u64,
    items: &[ScoreItem],
    top: usize,
    on_event: &mut dyn FnMut(Event<ScoreOutput>) -> ControlFlow<()>,
) -> Result<EngineStats, LmError> {
    match answerable(items, |item| check(decoder, budget_bytes, item), on_event) {
        ControlFlow::Continue(valid) => {
            Scoring { top, ..Scoring::new(decoder, budget_bytes, items, &valid) }.run(on_event)
        }
        ControlFlow::Break(()) => Ok(EngineStats::default()),
    }
}

fn check<B: DecoderBackend>(
    decoder: &Decoder<B>,
    budget_bytes: u64,
    item: &ScoreItem,
) -> Result<(), LmError> {
    if item.context.is_empty()
        || item.continuations.is_empty()
        || item.continuations.iter().any(Vec::is_empty)
    {
        return Err(LmError::Request("an empty context or continuation".to_owned()));
    }
    let longest = item.continuations.iter().map(Vec::len).max().unwrap_or(0);
    let all = item.context.iter().chain(item.continuations.iter().flatten());
    decoder.check_sequence(&[item.context.len() + longest - 1], all, budget_bytes)
}

/// One continuation of one item.
#[derive(Clone, Copy, Debug)]
struct Choice {
    item: u32,
    continuation: u32,
}

/// A log-probability that a row of the pending step will give.
#[derive(Clone, Copy, Debug)]
struct Wanted {
    row: usize,
    choice: Choice,
    /// Index of the token in its continuation.
    index: usize,
}

/// An item of which some tokens are scored.
#[derive(Debug)]
struct Pending {
    missing: usize,
    /// Per continuation, per token.
    tokens: Vec<Vec<TokenScore>>,
    greedy: Vec<bool>,
    computed_tokens: u64,
}

impl Pending {
    fn new(item: &ScoreItem) -> Self {
        Self {
            missing: item.continuations.iter().map(Vec::len).sum(),
            tokens: item.continuations.iter().map(|ids| vec![TokenScore::default(); ids.len()]).collect(),
            greedy: vec![true; item.continuations.len()],
            computed_tokens: 0,
        }
    }

    fn finish(self) -> ScoreOutput {
        let choices = self
            .tokens
            .iter()
            .zip(&self.greedy)
            .map(|(tokens, greedy)| ChoiceScore {
                sum: tokens.iter().map(|token| token.logprob).sum(),
                greedy: *greedy,
            })
            .collect();
        ScoreOutput { choices, tokens: self.tokens, computed_tokens: self.computed_tokens }
    }
}

struct Scoring<'a, B: DecoderBackend> {
    decoder: &'a Decoder<B>,
    items: &'a [ScoreItem],
    /// So many of the likeliest tokens are named at each place.
    top: usize,
    choices: Vec<Choice>,
    store: KvStore<B::Kv>,
    work: Workspace<B::Buffer>,
    step: Step,
    step_rows: usize,
    wanted: Vec<Wanted>,
    pending: Vec<Option<Box<Pending>>>,
    stats: EngineStats,
}

impl<'a, B: DecoderBackend> Scoring<'a, B> {
    /// Scores the items with the indices `valid`.
    fn new(decoder: &'a Decoder<B>, budget_bytes: u64, items: &'a [ScoreItem], valid: &[usize]) -> Self {
        let choices = valid.iter().flat_map(|&item| {
            (0..items[item].continuations.len())
                .map(move |continuation| Choice { item: item as u32, continuation: continuation as u32 })
        });
        Self {
            decoder,
            items,
            top: 0,
            choices: choices.collect(),
            store: KvStore::new(budget_bytes),
            work: Workspace::default(),
            step: Step::default(),
            step_rows: FIRST_STEP_ROWS,
            wanted: Vec::new(),
            pending: items.iter().map(|_| None).collect(),
            stats: EngineStats::default(),
        }
    }

    /// What the model reads for a continuation: the context and all but the last token.
    fn tokens(&self, sequence: usize) -> Tokens<'a> {
        let choice = self.choices[sequence];
        let item = &self.items[choice.item as usize];
        let continuation = &item.continuations[choice.continuation as usize];
        Tokens { head: &item.context, tail: &continuation[..continuation.len() - 1] }
    }

    fn run(
        mut self,
        on_event: &mut dyn FnMut(Event<ScoreOutput>) -> ControlFlow<()>,
    ) -> Result<EngineStats, LmError> {
        let mut walk = Walk::new(Plan::new(self.choices.len(), |sequence| self.tokens(sequence)));
        // Each continuation's last token is part of what was asked, though the model need not read it.
        self.stats.prompt_tokens =
            (0..self.choices.len()).map(|sequence| self.tokens(sequence).len() as u64 + 1).sum();
        while let Some(place) = walk.enter() {
            let tokens = self.tokens(walk.plan.sequence(place));
            while walk.path().len() < tokens.len() {
                let (backend, shape) = (&self.decoder.backend, self.decoder.kv_shape());
                let piece =
                    walk.advance(backend, shape, &mut self.store, tokens, &mut self.step, self.step_rows)?;
                match piece {
                    Some(piece) => self.want(&walk.plan, &piece),
                    None if self.step.is_empty() => {
                        if !walk.start_over() {
                            return Err(self.decoder.too_large(tokens.len(), &self.store));
                        }
                    }
                    None => {
                        if self.compute(on_event)?.is_break() {
                            return Ok(self.stats);
                        }
                    }
                }
            }
            walk.leave();
        }
        let _ = self.compute(on_event)?;
        Ok(self.stats)
    }

    /// Notes every log-probability that the piece's rows give: for its own sequence and for all later
    /// ones that share the row.
    fn want(&mut self, plan: &Plan, piece: &Piece) {
        let own = self.choices[plan.sequence(piece.place)];
        self.pending_of(own.item).computed_tokens += piece.positions.len() as u64;
        let from = piece.new_from;
        let whole = (piece.place, piece.positions.end);
        for (place, common) in std::iter::once(whole).chain(plan.sharing(piece.place, from)) {
            let rows = from..piece.positions.end.min(common);
            self.want_choice(self.choices[plan.sequence(place)], rows, piece);
        }
    }

    /// The continuation's first token is predicted at the context's last position.
    fn want_choice(&mut self, choice: Choice, positions: Range<usize>, piece: &Piece) {
        let first = self.items[choice.item as usize].context.len() - 1;
        for position in positions.start.max(first)..positions.end {
            let row = piece.first_row + position - piece.positions.start;
            self.wanted.push(Wanted { row, choice, index: position - first });
        }
    }

    fn pending_of(&mut self, item: u32) -> &mut Pending {
        let score = &self.items[item as usize];
        self.pending[item as usize].get_or_insert_with(|| Box::new(Pending::new(score)))
    }

    /// Runs the pending step and hands out what it finishes.
    fn compute(
        &mut self,
        on_event: &mut dyn FnMut(Event<ScoreOutput>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LmError> {
        if self.step.is_empty() {
            return Ok(ControlFlow::Continue(()));
        }
        if on_event(Event::Step).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let started = Instant::now();
        self.decoder.forward(&mut self.store, &self.step, &mut self.work)?;
        let mut wanted = std::mem::take(&mut self.wanted);
        wanted.sort_by_key(|wanted| wanted.row);
        let mut finished = Vec::new();
        let mut rest = wanted.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(leading_rows(rest));
            self.score_rows(now, &mut finished)?;
            rest = later;
        }
        self.account(started);
        self.step.clear();
        self.step_rows = (2 * self.step_rows).min(STEP_ROWS);
        wanted.clear();
        self.wanted = wanted;
        for item in finished {
            let Some(pending) = self.pending[item].take() else { continue };
            if on_event(Event::Done(item, Ok(pending.finish()))).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Projects the rows of `wanted` (sorted by row) and records their log-probabilities.
    fn score_rows(&mut self, wanted: &[Wanted], finished: &mut Vec<usize>) -> Result<(), LmError> {
        let mut rows: Vec<usize> = Vec::new();
        let mut targets = Vec::with_capacity(wanted.len());
        for want in wanted {
            if rows.last() != Some(&want.row) {
                rows.push(want.row);
            }
            let item = &self.items[want.choice.item as usize];
            let token = item.continuations[want.choice.continuation as usize][want.index];
            targets.push(Target { row: rows.len() - 1, token });
        }
        let counts = if self.top > 0 { vec![self.top; rows.len()] } else { Vec::new() };
        let scores = self.decoder.score(&mut self.work, &rows, &targets, &counts)?;
        self.stats.projected_positions += rows.len() as u64;
        self.stats.prefill_flops += self.decoder.head_flops(rows.len() as u64);
        for ((want, target), logprob) in wanted.iter().zip(&targets).zip(&scores.logprobs) {
            let pending = self.pending_of(want.choice.item);
            let continuation = want.choice.continuation as usize;
            let row = &scores.rows[target.row];
            pending.tokens[continuation][want.index] = TokenScore {
                logprob: *logprob,
                likeliest: row.likeliest(),
                top: scores.most_probable.get(target.row).cloned().unwrap_or_default(),
            };
            pending.greedy[continuation] &= row.argmax == target.token;
            pending.missing -= 1;
            if pending.missing == 0 {
                finished.push(want.choice.item as usize);
            }
        }
        Ok(())
    }

    fn account(&mut self, started: Instant) {
        let rows = self.step.rows() as u64;
        let key_reads = self.decoder.key_reads(&self.step, 0..self.step.rows());
        self.stats.computed_prompt_tokens += rows;
        self.stats.attention_key_reads += key_reads;
        self.stats.prefill_flops += self.decoder.block_flops(rows, key_reads);
        self.stats.prefill_seconds += started.elapsed().as_secs_f64();
    }
}

/// How many leading entries cover at most [`PROJECTED_ROWS`] distinct rows.
fn leading_rows(wanted: &[Wanted]) -> usize {
    let mut rows = 0;
    let mut last = None;
    for (index, want) in wanted.iter().enumerate() {
        if last != Some(want.row) {
            rows += 1;
            last = Some(want.row);
        }
        if rows > PROJECTED_ROWS {
            return index;
        }
    }
    wanted.len()
}
