//! Generation with continuous batching.
//!
//! Prompts enter in the order of their prefix tree, so that what they share is computed once and stays
//! alive as long as anyone needs it. Each step computes one token of every active sequence together with
//! as much of the next prompts as rows and memory allow. A sequence is admitted when the memory for all
//! tokens it may generate can be set aside, so nothing that runs is ever pushed out again.
//!
//! Items may come while others are written. Those that come together are a *wave*, a prefix tree of its own;
//! waves take turns, a prompt each, so that a short one need not wait for the end of a long one, and their sequences
//! are decoded together. As a token depends on nothing but what stands before it, an item's text is the same alone,
//! in a set, and fed in.

mod active;
mod feed;
mod grammars;
mod wave;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::time::Instant;

use evalign_core::Seconds;

use crate::backend::DecoderBackend;
use crate::decoder::{Decoder, Workspace};
use crate::kv::KvStore;
use crate::request::Event;
use crate::sample::Sampler;
use crate::step::Step;
use crate::walk::STEP_ROWS;
use crate::{EngineStats, GenerateItem, GenerateOutput, LmError, Tokenizer};
use active::{Active, Draw};
pub use feed::{Feed, Piece};
use grammars::Grammars;
use wave::{Wave, tokens};

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
    let mut feed = feed::Fixed { on_event };
    let mut generation = Generation::new(decoder, tokenizer, budget_bytes);
    if generation.receive(Cow::Borrowed(items), &mut feed).is_break() {
        return Ok(EngineStats::default());
    }
    generation.run(&mut feed)
}

/// See [`crate::LanguageModel::generate_fed`].
pub(crate) fn generate_fed<B: DecoderBackend>(
    decoder: &Decoder<B>,
    tokenizer: &Tokenizer,
    budget_bytes: u64,
    feed: &mut dyn Feed,
) -> Result<EngineStats, LmError> {
    Generation::new(decoder, tokenizer, budget_bytes).run(feed)
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

/// Tokens an item may generate: what it asks for, or what its context has left.
fn room_to_generate<B: DecoderBackend>(decoder: &Decoder<B>, item: &GenerateItem) -> usize {
    (item.params.max_tokens as usize).min(decoder.config.context_length - item.prompt.len())
}

struct Generation<'a, B: DecoderBackend> {
    decoder: &'a Decoder<B>,
    tokenizer: &'a Tokenizer,
    grammars: Grammars<'a>,
    budget_bytes: u64,
    /// Items that came so far.
    received: usize,
    /// Of which not all prompts are read, in the order of their turns. Only the first has one that is being read.
    waves: VecDeque<Wave<'a>>,
    store: KvStore<B::Kv>,
    work: Workspace<B::Buffer>,
    step: Step,
    active: Vec<Active>,
    stats: EngineStats,
    logits: Vec<f32>,
}

impl<'a, B: DecoderBackend> Generation<'a, B> {
    fn new(decoder: &'a Decoder<B>, tokenizer: &'a Tokenizer, budget_bytes: u64) -> Self {
        Self {
            decoder,
            tokenizer,
            grammars: Grammars::new(tokenizer),
            budget_bytes,
            received: 0,
            waves: VecDeque::new(),
            store: KvStore::new(budget_bytes),
            work: Workspace::default(),
            step: Step::default(),
            active: Vec::new(),
            stats: EngineStats::default(),
            logits: Vec::new(),
        }
    }

    /// Takes items in. Those that cannot be answered are done with before anything of the others is computed,
    /// each with its own error.
    fn receive(&mut self, items: Cow<'a, [GenerateItem]>, feed: &mut dyn Feed) -> ControlFlow<()> {
        let first = self.received;
        self.received += items.len();
        let mut valid = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            let checked = check(self.decoder, self.budget_bytes, item);
            match checked.and_then(|()| self.grammars.of(item)) {
                Ok(_) => valid.push(index),
                Err(error) => feed.done(first + index, Err(error))?,
            }
        }
        if !valid.is_empty() {
            self.stats.prompt_tokens +=
                valid.iter().map(|index| items[*index].prompt.len() as u64).sum::<u64>();
            self.waves.push_back(Wave::new(items, first, valid));
        }
        ControlFlow::Continue(())
    }

    fn run(mut self, feed: &mut dyn Feed) -> Result<EngineStats, LmError> {
        loop {
            if self.receive(Cow::Owned(feed.arrivals()), feed).is_break() {
                return Ok(self.stats);
            }
            self.drop_unwanted(feed);
            for sequence in &mut self.active {
                sequence.enter_step(&mut self.step);
            }
            let decode_rows = self.step.rows();
            self.admit(feed)?;
            if self.step.is_empty() {
                if self.waves.is_empty() {
                    return Ok(self.stats);
                }
                if self.give_way() {
                    continue;
                }
                return Err(self.first_too_large());
            }
            if self.compute(decode_rows, feed)?.is_break() {
                return Ok(self.stats);
            }
        }
    }

    /// Nothing more is computed for whoever has gone.
    fn drop_unwanted(&mut self, feed: &mut dyn Feed) {
        let (waves, stats) = (&mut self.waves, &mut self.stats);
        self.active.retain(|sequence| {
            let is_wanted = feed.is_wanted(sequence.item());
            if !is_wanted {
                stats.generated_tokens += sequence.generated() as u64;
                // A prompt that is being read is the one at which the first wave's walk stands.
                if let Some(wave) = waves.front_mut().filter(|_| sequence.is_waiting()) {
                    wave.walk.leave();
                }
            }
            is_wanted
        });
    }

    /// Makes room where nothing can be computed: what waves keep for later turns, then what the first keeps for its
    /// own later prompts. `false` when there is nothing left to give up.
    fn give_way(&mut self) -> bool {
        let forgot = self.waves.iter_mut().skip(1).fold(false, |forgot, wave| wave.walk.forget() | forgot);
        forgot || self.waves.front_mut().is_some_and(|wave| wave.walk.start_over())
    }

    fn first_too_large(&mut self) -> LmError {
        let place = self.waves.front_mut().and_then(|wave| Some((wave.walk.enter()?, wave)));
        let length = place.map_or(0, |(place, wave)| {
            let (_, item) = wave.item(place);
            item.prompt.len() + room_to_generate(self.decoder, item)
        });
        self.decoder.too_large(length, &self.store)
    }

    /// Adds prompts to the step, one of each wave in turn, until rows, memory or the number of sequences is used up.
    /// Whoever has to wait for those is the first to get them.
    fn admit(&mut self, feed: &mut dyn Feed) -> Result<(), LmError> {
        while let Some(mut wave) = self.waves.pop_front() {
            let is_through = self.admit_next(&mut wave, feed)?;
            match (wave.walk.enter(), is_through) {
                (None, _) => {}
                (Some(_), true) => self.waves.push_back(wave),
                (Some(_), false) => {
                    self.waves.push_front(wave);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Adds the prompt at which a wave stands to the step. Whether all of it is there, or nobody wants it.
    fn admit_next(&mut self, wave: &mut Wave<'a>, feed: &mut dyn Feed) -> Result<bool, LmError> {
        let (backend, shape) = (&self.decoder.backend, self.decoder.kv_shape());
        let Some(place) = wave.walk.enter() else { return Ok(true) };
        if !self.active.iter().any(Active::is_waiting) {
            if !feed.is_wanted(wave.item(place).0) {
                wave.walk.leave();
                return Ok(true);
            }
            if !self.begin(wave, place, feed)? {
                return Ok(false);
            }
        }
        let (walk, item) = wave.walk_at(place);
        let tokens = tokens(item);
        while walk.path().len() < tokens.len() {
            let piece = walk.advance(backend, shape, &mut self.store, tokens, &mut self.step, STEP_ROWS)?;
            let Some(piece) = piece else { return Ok(false) };
            if let Some(sequence) = self.active.last_mut() {
                sequence.computed(piece.positions.len());
                if piece.positions.end == tokens.len() {
                    let row = piece.first_row + piece.positions.len() - 1;
                    sequence.prompt_done(self.tokenizer, walk.path(), row);
                }
            }
        }
        walk.leave();
        Ok(true)
    }

    /// Makes the item at this place a sequence, if memory for all of it can be set aside.
    fn begin(&mut self, wave: &mut Wave<'a>, place: usize, feed: &mut dyn Feed) -> Result<bool, LmError> {
        let (backend, shape) = (&self.decoder.backend, self.decoder.kv_shape());
        let (number, item) = wave.item(place);
        let new_tokens = room_to_generate(self.decoder, item);
        let bytes = backend.kv_bytes(shape, new_tokens);
        let rest = item.prompt.len() - wave.walk.path().len() + wave.walk.nodes_left() * ROUNDING;
        let needed = backend.kv_bytes(shape, rest) + bytes;
        let alone = self.active.is_empty() && self.step.is_empty();
        let free = self.store.free_bytes();
        if self.active.len() >= MOST_ACTIVE || (needed > free && !alone) || bytes > free {
            return Ok(false);
        }
        let grammar = self.grammars.of(item)?;
        let tail = self.store.add(backend.new_kv(shape, new_tokens)?, bytes);
        let is_streamed = feed.is_streamed(number);
        self.active.push(Active::new(number, item, grammar, tail, new_tokens, is_streamed));
        Ok(true)
    }

    /// Runs the step, draws a token for every sequence that has a row in it, and hands out what is new.
    fn compute(&mut self, decode_rows: usize, feed: &mut dyn Feed) -> Result<ControlFlow<()>, LmError> {
        if feed.step(self.active.len()).is_break() {
            return Ok(ControlFlow::Break(()));
        }
        let started = Instant::now();
        self.decoder.forward(&mut self.store, &self.step, &mut self.work)?;
        self.draw()?;
        feed.computed(self.account(decode_rows, started));
        self.step.clear();
        let mut running = Vec::with_capacity(self.active.len());
        let mut flow = ControlFlow::Continue(());
        for mut sequence in std::mem::take(&mut self.active) {
            let item = sequence.item();
            if flow.is_continue() && sequence.is_finished() {
                self.stats.generated_tokens += sequence.generated() as u64;
                let (rest, output) = sequence.finish(self.tokenizer);
                if let Some(rest) = rest {
                    feed.piece(item, rest);
                }
                flow = feed.done(item, output);
            } else {
                if let Some(piece) = sequence.take_piece() {
                    feed.piece(item, piece);
                }
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
            let counts: Vec<usize> =
                greedy.iter().map(|(index, _)| self.active[*index].alternatives()).collect();
            let scores = self.decoder.score(&mut self.work, &rows, &[], &counts)?;
            for (((index, _), summary), likeliest) in
                greedy.iter().zip(&scores.rows).zip(&scores.most_probable)
            {
                self.active[*index].take_greedy(self.tokenizer, summary, likeliest);
            }
        }
        if !sampled.is_empty() {
            let rows: Vec<usize> = sampled.iter().map(|(_, row)| *row).collect();
            self.decoder.logits(&mut self.work, &rows, &mut self.logits)?;
            let vocabulary = self.decoder.config.vocab_size;
            for ((index, _), logits) in sampled.iter().zip(self.logits.chunks_exact_mut(vocabulary)) {
                self.active[*index].take_sampled(self.tokenizer, logits);
            }
        }
        Ok(())
    }

    /// Time is split between decoding and prefill by rows, operations by what each row did.
    fn account(&mut self, decode_rows: usize, started: Instant) -> Seconds {
        let rows = self.step.rows();
        let seconds = started.elapsed().as_secs_f64();
        let decode_share = decode_rows as f64 / rows as f64;
        let (decode, prefill) = (seconds * decode_share, seconds * (1.0 - decode_share));
        self.stats.decode_seconds += decode;
        self.stats.prefill_seconds += prefill;
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
        Seconds { load: 0.0, prefill, decode, total: seconds }
    }
}
