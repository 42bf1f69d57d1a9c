//! Generation with continuous batching.
//!
//! Prompts enter in the order of their prefix tree, so that what they share is computed once and stays
//! alive as long as anyone needs it. Each step computes one token of every active sequence together with
//! as much of the next prompts as rows and memory allow. A sequence is admitted when the memory for all
//! tokens it may generate can be set aside, so nothing that runs is ever pushed out again.

mod active;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Instant;

use evalign_core::ResponseFormat;

use crate::backend::DecoderBackend;
use crate::constraint::Grammar;
use crate::decoder::{Decoder, Workspace};
use crate::kv::KvStore;
use crate::plan::{Plan, Tokens};
use crate::request::{Event, answerable};
use crate::sample::Sampler;
use crate::step::Step;
use crate::walk::{STEP_ROWS, Walk};
use crate::{EngineStats, GenerateItem, GenerateOutput, LmError, Tokenizer};
use active::{Active, Draw};

/// Most sequences decoded together: beyond this a step gains little and results come late.
const MOST_ACTIVE: usize = 64;
/// Tokens a node's keys are rounded up to, at most, when the memory of a prompt is estimated.
const ROUNDING: usize = 32;

/// See [`crate::LanguageModel::generate`].
pub(crate) fn generate<B: DecoderBackend>(
    decoder: &Decoder<B>,
    tokenizer: &Tokenizer,
    budget_bytes: u64,
    items: &[GenerateItem],
    on_event: &mut dyn FnMut(Event<GenerateOutput>) -> ControlFlow<()>,
) -> Result<EngineStats, LmError> {
    let grammars = Grammars { tokenizer, known: RefCell::default() };
    let check = |item: &GenerateItem| {
        check(decoder, budget_bytes, item)?;
        grammars.check(item)
    };
    match answerable(items, check, on_event) {
        ControlFlow::Continue(valid) => {
            Generation::new(decoder, grammars, budget_bytes, items, valid).run(on_event)
        }
        ControlFlow::Break(()) => Ok(EngineStats::default()),
    }
}

fn check<B: DecoderBackend>(
    decoder: &Decoder<B>,
    budget_bytes: u64,
    item: &GenerateItem,
) -> Result<(), LmError> {
    if item.prompt.is_empty() {
        return Err(LmError::Request("an empty prompt".to_owned()));
    }
    if item.params.max_tokens == 0 {
        return Err(LmError::Request("0 tokens are to be generated".to_owned()));
    }
    Sampler::check(&item.params).map_err(LmError::Request)?;
    let (length, context) = (item.prompt.len(), decoder.config.context_length);
    if length >= context {
        return Err(LmError::Request(format!(
            "a prompt of {length} tokens leaves no room in a context of {context}"
        )));
    }
    decoder.check_sequence(&[length, room_to_generate(decoder, item)], &item.prompt, budget_bytes)
}

/// The forms that items ask for, compiled once each.
struct Grammars<'a> {
    tokenizer: &'a Tokenizer,
    known: RefCell<Vec<(ResponseFormat, Rc<Grammar>)>>,
}

impl Grammars<'_> {
    /// Compiles the item's form.
    fn check(&self, item: &GenerateItem) -> Result<(), LmError> {
        let Some(format) = &item.params.response_format else { return Ok(()) };
        if self.of(item).is_none() {
            let grammar = Grammar::new(format, self.tokenizer)?;
            self.known.borrow_mut().push((format.clone(), Rc::new(grammar)));
        }
        Ok(())
    }

    fn of(&self, item: &GenerateItem) -> Option<Rc<Grammar>> {
        let format = item.params.response_format.as_ref()?;
        self.known.borrow().iter().find(|(known, _)| known == format).map(|(_, grammar)| grammar.clone())
    }
}

/// Tokens an item may generate: what it asks for, or what its context has left.
fn room_to_generate<B: DecoderBackend>(decoder: &Decoder<B>, item: &GenerateItem) -> usize {
    (item.params.max_tokens as usize).min(decoder.config.context_length - item.prompt.len())
}

struct Generation<'a, B: DecoderBackend> {
    decoder: &'a Decoder<B>,
    tokenizer: &'a Tokenizer,
    grammars: Grammars<'a>,
    items: &'a [GenerateItem],
    /// Indices of the items to answer; what the plan calls a sequence is a place in here.
    valid: Vec<usize>,
    store: KvStore<B::Kv>,
    work: Workspace<B::Buffer>,
    step: Step,
    active: Vec<Active>,
    /// Tokens that each item's prompt was the first to need.
    computed: Vec<u64>,
    stats: EngineStats,
    logits: Vec<f32>,
}

impl<'a, B: DecoderBackend> Generation<'a, B> {
    fn new(
        decoder: &'a Decoder<B>,
        grammars: Grammars<'a>,
        budget_bytes: u64,
        items: &'a [GenerateItem],
        valid: Vec<usize>,
    ) -> Self {
        let prompt_tokens = valid.iter().map(|item| items[*item].prompt.len() as u64).sum();
        Self {
            decoder,
            tokenizer: grammars.tokenizer,
            grammars,
            items,
            valid,
            store: KvStore::new(budget_bytes),
            work: Workspace::default(),
            step: Step::default(),
            active: Vec::new(),
            computed: vec![0; items.len()],
            stats: EngineStats { prompt_tokens, ..EngineStats::default() },
            logits: Vec::new(),
        }
    }

    fn tokens(&self, item: usize) -> Tokens<'a> {
        Tokens { head: &self.items[item].prompt, tail: &[] }
    }

    fn run(
        mut self,
        on_event: &mut dyn FnMut(Event<GenerateOutput>) -> ControlFlow<()>,
    ) -> Result<EngineStats, LmError> {
        // Every prompt computes its own last token: the row its first new token is drawn from.
        let tokens = |sequence: usize| self.tokens(self.valid[sequence]);
        let plan = Plan::new(self.valid.len(), tokens).keeping_last(|sequence| tokens(sequence).len());
        let mut walk = Walk::new(plan);
        loop {
            for sequence in &mut self.active {
                sequence.enter_step(&mut self.step);
            }
            let decode_rows = self.step.rows();
            self.admit(&mut walk)?;
            if self.step.is_empty() {
                let Some(place) = walk.enter() else { return Ok(self.stats) };
                if walk.start_over() {
                    continue;
                }
                let item = &self.items[self.valid[walk.plan.sequence(place)]];
                let length = item.prompt.len() + room_to_generate(self.decoder, item);
                return Err(self.decoder.too_large(length, &self.store));
            }
            if self.compute(decode_rows, on_event)?.is_break() {
                return Ok(self.stats);
            }
        }
    }

    /// Adds prompts to the step until rows, memory or the number of sequences is used up.
    fn admit(&mut self, walk: &mut Walk) -> Result<(), LmError> {
        let (backend, shape) = (&self.decoder.backend, self.decoder.kv_shape());
        while let Some(place) = walk.enter() {
            let item = self.valid[walk.plan.sequence(place)];
            let tokens = self.tokens(item);
            let new_tokens = room_to_generate(self.decoder, &self.items[item]);
            let waiting = self.active.iter().filter(|sequence| sequence.is_waiting()).count();
            if waiting == 0 {
                let rest = tokens.len() - walk.path().len() + walk.nodes_left() * ROUNDING;
                let needed = backend.kv_bytes(shape, rest) + backend.kv_bytes(shape, new_tokens);
                let alone = self.active.is_empty() && self.step.is_empty();
                if self.active.len() >= MOST_ACTIVE || (needed > self.store.free_bytes() && !alone) {
                    return Ok(());
                }
                let bytes = backend.kv_bytes(shape, new_tokens);
                if bytes > self.store.free_bytes() {
                    return Ok(());
                }
                let tail = self.store.add(backend.new_kv(shape, new_tokens)?, bytes);
                let request = &self.items[item];
                let grammar = self.grammars.of(request);
                self.active.push(Active::new(item, request, grammar, tail, new_tokens));
            }
            while walk.path().len() < tokens.len() {
                let piece =
                    walk.advance(backend, shape, &mut self.store, tokens, &mut self.step, STEP_ROWS)?;
                let Some(piece) = piece else { return Ok(()) };
                self.computed[item] += piece.positions.len() as u64;
                if piece.positions.end == tokens.len()
                    && let Some(sequence) = self.active.last_mut()
                {
                    sequence.prompt_done(
                        self.tokenizer,
                        walk.path(),
                        piece.first_row + piece.positions.len() - 1,
                    );
                }
            }
            walk.leave();
        }
        Ok(())
    }

    /// Runs the step, draws a token for every sequence that has a row in it, and hands out what ends.
    fn compute(
        &mut self,
        decode_rows: usize,
        on_event: &mut dyn FnMut(Event<GenerateOutput>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, LmError> {
        if on_event(Event::Step).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let started = Instant::now();
        self.decoder.forward(&mut self.store, &self.step, &mut self.work)?;
        self.draw()?;
        self.account(decode_rows, started);
        self.step.clear();
        let mut running = Vec::with_capacity(self.active.len());
        let mut flow = ControlFlow::Continue(());
        for sequence in std::mem::take(&mut self.active) {
            if flow.is_continue() && sequence.is_finished() {
                let computed = self.computed[sequence.item()];
                self.stats.generated_tokens += sequence.generated() as u64;
                let item = sequence.item();
                flow = on_event(Event::Done(item, sequence.into_output(self.tokenizer, computed)));
            } else {
                running.push(sequence);
            }
        }
        self.active = running;
        Ok(flow)
    }

    /// Greedy rows need only the argmax; the others need all their logits on the host.
    fn draw(&mut self) -> Result<(), LmError> {
        let (mut greedy, mut sampled) = (Vec::new(), Vec::new());
        for (index, sequence) in self.active.iter().enumerate() {
            match sequence.draw_kind() {
                None => {}
                Some(Draw::Greedy { row }) => greedy.push((index, row)),
                Some(Draw::Logits { row }) => sampled.push((index, row)),
            }
        }
        let projected = (greedy.len() + sampled.len()) as u64;
        self.stats.projected_positions += projected;
        if !greedy.is_empty() {
            let rows: Vec<usize> = greedy.iter().map(|(_, row)| *row).collect();
            let scores = self.decoder.score(&mut self.work, &rows, &[])?;
            for ((index, _), summary) in greedy.iter().zip(&scores.rows) {
                self.active[*index].take_greedy(self.tokenizer, summary);
            }
        }
        if !sampled.is_empty() {
            let rows: Vec<usize> = sampled.iter().map(|(_, row)| *row).collect();
            self.decoder.logits(&mut self.work, &rows, &mut self.logits)?;
            let vocabulary = self.decoder.config.vocab_size;
            for ((index, _), logits) in sampled.iter().zip(self.logits.chunks_exact_mut(vocabulary)) {
                let item = &self.items[self.active[*index].item()];
                self.active[*index].take_sampled(self.tokenizer, &item.prompt, logits);
            }
        }
        Ok(())
    }

    /// Time is split between decoding and prefill by rows, operations by what each row did.
    fn account(&mut self, decode_rows: usize, started: Instant) {
        let rows = self.step.rows();
        let seconds = started.elapsed().as_secs_f64();
        let decode_share = decode_rows as f64 / rows as f64;
        self.stats.decode_seconds += seconds * decode_share;
        self.stats.prefill_seconds += seconds * (1.0 - decode_share);
        self.stats.computed_prompt_tokens += (rows - decode_rows) as u64;
        let all_reads = self.decoder.key_reads(&self.step, 0..rows);
        let decode_reads = self.decoder.key_reads(&self.step, 0..decode_rows);
        self.stats.attention_key_reads += all_reads;
        let drawn = self.active.iter().filter(|sequence| sequence.drew()).count() as u64;
        let drawn_decoding = drawn.min(decode_rows as u64);
        self.stats.decode_flops += self.decoder.block_flops(decode_rows as u64, decode_reads)
            + self.decoder.head_flops(drawn_decoding);
        self.stats.prefill_flops +=
            self.decoder.block_flops((rows - decode_rows) as u64, all_reads - decode_reads)
                + self.decoder.head_flops(drawn - drawn_decoding);
    }
}
