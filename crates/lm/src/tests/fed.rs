//! Items that come while others are written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::path::Path;

use evalign_core::{FinishReason, GenerateParams, Seconds};

use super::tiny::{self, PLENTY};
use crate::backend::{Backend, CpuBackend};
use crate::decoder::Decoder;
use crate::{EngineStats, Feed, GenerateItem, GenerateOutput, LmError, Piece, generate};

/// Feeds items in before given steps, and drops some after given steps.
#[derive(Default)]
struct Script {
    /// In the order of their steps.
    coming: VecDeque<(usize, GenerateItem)>,
    dropped_at: BTreeMap<usize, usize>,
    steps: usize,
    computed: usize,
    given: usize,
    pieces: BTreeMap<usize, Vec<Piece>>,
    /// With the step that ended it.
    done: BTreeMap<usize, (usize, Result<GenerateOutput, LmError>)>,
    most_sequences: usize,
}

impl Script {
    fn of(coming: impl IntoIterator<Item = (usize, GenerateItem)>) -> Self {
        Self { coming: coming.into_iter().collect(), ..Self::default() }
    }

    fn is_dropped(&self, item: usize) -> bool {
        self.dropped_at.get(&item).is_some_and(|step| self.steps >= *step)
    }

    fn output(&self, item: usize) -> GenerateOutput {
        let (_, output) = &self.done[&item];
        GenerateOutput { computed_tokens: 0, ..output.as_ref().unwrap().clone() }
    }

    fn run(&mut self, decoder: &Decoder<CpuBackend>, directory: &Path, budget: u64) -> EngineStats {
        generate::generate_fed(decoder, &tiny::tokenizer(directory), budget, self).unwrap()
    }
}

impl Feed for Script {
    /// What is due; when nothing is being written, the next one too, as the call would end otherwise.
    fn arrivals(&mut self) -> Vec<GenerateItem> {
        let open = (0..self.given).any(|item| !self.done.contains_key(&item) && !self.is_dropped(item));
        let mut items = Vec::new();
        while self.coming.front().is_some_and(|(step, _)| *step <= self.steps || (!open && items.is_empty()))
        {
            items.extend(self.coming.pop_front().map(|(_, item)| item));
        }
        self.given += items.len();
        items
    }

    fn is_wanted(&mut self, item: usize) -> bool {
        !self.is_dropped(item)
    }

    fn is_streamed(&mut self, _: usize) -> bool {
        true
    }

    fn step(&mut self, sequences: usize) -> ControlFlow<()> {
        self.steps += 1;
        self.most_sequences = self.most_sequences.max(sequences);
        ControlFlow::Continue(())
    }

    fn computed(&mut self, seconds: Seconds) {
        assert!(seconds.total > 0.0);
        self.computed += 1;
    }

    fn piece(&mut self, item: usize, piece: Piece) {
        assert_eq!(self.computed, self.steps, "told before the time it took");
        assert!(!self.done.contains_key(&item), "a piece after the end");
        self.pieces.entry(item).or_default().push(piece);
    }

    fn done(&mut self, item: usize, result: Result<GenerateOutput, LmError>) -> ControlFlow<()> {
        assert_eq!(self.computed, self.steps, "told before the time it took");
        assert!(self.done.insert(item, (self.steps, result)).is_none(), "item {item} twice");
        ControlFlow::Continue(())
    }
}

fn greedy(prompt: Vec<u32>, max_tokens: u32) -> GenerateItem {
    GenerateItem { prompt, params: GenerateParams { max_tokens, ..Default::default() }, stop_ids: Vec::new() }
}

/// Of many lengths, with shared beginnings, greedy and drawn, some of them penalised.
fn mixture() -> Vec<GenerateItem> {
    (0..24u64)
        .map(|i| {
            let prompt = (0..=(i * 7 % 31) as u32).map(|t| (t * 5 + (i % 3) as u32) % 96).collect();
            let mut item = greedy(prompt, 4 + (i * 5 % 17) as u32);
            if i % 3 > 0 {
                item.params.temperature = 1.0;
                item.params.seed = i;
                item.params.logprobs = true;
                item.params.top_logprobs = i as u32 % 4;
            }
            if i % 4 == 1 {
                item.params.repetition_penalty = Some(1.3);
            }
            item
        })
        .collect()
}

#[test]
fn fed_in_items_get_the_tokens_they_get_alone() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let items = mixture();
    let alone: Vec<Script> = items
        .iter()
        .map(|item| {
            let mut script = Script::of([(0, item.clone())]);
            script.run(&decoder, directory.path(), PLENTY);
            script
        })
        .collect();
    let little = decoder.backend.kv_bytes(decoder.kv_shape(), 64) * 6;
    for (stride, budget) in [(0, PLENTY), (1, PLENTY), (3, PLENTY), (1, little), (50, PLENTY)] {
        let mut fed = Script::of(items.iter().enumerate().map(|(i, item)| (i * stride, item.clone())));
        fed.run(&decoder, directory.path(), budget);
        for (item, alone) in alone.iter().enumerate() {
            assert_eq!(fed.output(item), alone.output(0), "item {item}, one every {stride} steps");
        }
        let lone_steps: usize = alone.iter().map(|script| script.steps).sum();
        assert!(
            fed.steps <= lone_steps && (stride > 3 || fed.steps < lone_steps / 2),
            "{stride}: {}",
            fed.steps
        );
    }
}

/// The second is answered while the first is written, in passes that compute both.
#[test]
fn a_late_item_joins_the_one_being_written() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let mut fed = Script::of([(0, greedy(vec![1, 2, 3], 60)), (20, greedy(vec![4, 5], 10))]);
    let stats = fed.run(&decoder, directory.path(), PLENTY);
    assert_eq!((fed.steps, fed.most_sequences), (60, 2));
    assert_eq!((fed.done[&1].0, fed.done[&0].0), (30, 60));
    assert_eq!((stats.generated_tokens, stats.prompt_tokens), (70, 5));
}

/// A set far larger than what is decoded together, and one item that comes soon after it.
#[test]
fn a_short_item_does_not_wait_for_the_end_of_a_long_set() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let many = (0..200u32).map(|i| (0, greedy(vec![i % 90 + 1, i % 7], 8)));
    let mut fed = Script::of(many.chain([(5, greedy(vec![4, 5], 2))]));
    fed.run(&decoder, directory.path(), PLENTY);
    let last = fed.done.values().map(|(step, _)| *step).max().unwrap();
    // It gets a place when the first 64 are done with theirs.
    assert!(fed.done[&200].0 <= 12 && last >= 25, "{} of {last} steps", fed.done[&200].0);
}

/// Two sets take turns in memory that holds what only one of them shares: each gives it up for the other.
#[test]
fn sets_that_take_turns_fit_into_the_memory_of_one() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let item = |set: u32, i: u32| greedy([vec![set; 64], vec![10 + i; 16]].concat(), 8);
    let items: Vec<(usize, GenerateItem)> = (0..8).map(|i| ((i / 4) as usize, item(1 + i / 4, i))).collect();
    let budget = decoder.backend.kv_bytes(decoder.kv_shape(), 160);
    let mut fed = Script::of(items.clone());
    fed.run(&decoder, directory.path(), budget);
    for (number, (_, item)) in items.into_iter().enumerate() {
        let mut alone = Script::of([(0, item)]);
        alone.run(&decoder, directory.path(), PLENTY);
        assert_eq!(fed.output(number), alone.output(0), "item {number}");
    }
}

#[test]
fn pieces_are_the_text_and_nothing_of_a_stop_string() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let free = GenerateItem {
        params: GenerateParams { max_tokens: 12, logprobs: true, top_logprobs: 3, ..Default::default() },
        ..greedy(vec![1, 2, 3], 12)
    };
    let mut script = Script::of([(0, free.clone())]);
    script.run(&decoder, directory.path(), PLENTY);
    let whole = script.output(0);
    assert_eq!(script.pieces[&0].len(), 12);
    // A stop string over three tokens, and one that comes to nothing in the middle of the text.
    let words: Vec<&str> = whole.text.split(' ').collect();
    let stop = format!("{} {} {}", &words[6][1..], words[7], &words[8][..1]);
    let misleading = format!("{} {} !", words[2], words[3]);
    let mut stopped = free;
    stopped.params.stop = vec![stop.clone(), misleading];
    let mut script = Script::of([(0, stopped)]);
    script.run(&decoder, directory.path(), PLENTY);
    let output = script.output(0);
    assert_eq!(output.finish, FinishReason::Stop);
    assert_eq!(output.text, whole.text[..whole.text.find(&stop).unwrap()]);
    let pieces = &script.pieces[&0];
    assert!(pieces.len() > 3, "{pieces:?}");
    assert_eq!(pieces.iter().map(|piece| piece.text.as_str()).collect::<String>(), output.text);
    let logprobs: Vec<_> = pieces.iter().flat_map(|piece| piece.logprobs.clone()).collect();
    assert_eq!(Some(logprobs), output.logprobs);
}

/// Whoever has gone takes neither steps nor memory, whether being read, being written or waiting.
#[test]
fn what_nobody_wants_is_not_computed() {
    let mut config = tiny::llama();
    config["max_position_embeddings"] = serde_json::json!(4096);
    let directory = tiny::directory(&config);
    let decoder = tiny::cpu(directory.path());
    let long = |token: u32, max_tokens| greedy(vec![token; 2000], max_tokens);
    let items = [long(1, 50), long(2, 50), greedy(vec![3; 4], 50), greedy(vec![4; 4], 6)];
    // In memory for one long prompt and its text at a time.
    let budget = decoder.backend.kv_bytes(decoder.kv_shape(), 2200);
    let mut alone = Script::of([(0, items[3].clone())]);
    alone.run(&decoder, directory.path(), PLENTY);
    for drop in [0, 1, 2, 3, 5, 9, 20] {
        let mut script = Script::of(items.iter().map(|item| (0, item.clone())));
        script.dropped_at = [(0, drop), (1, drop), (2, drop)].into();
        let stats = script.run(&decoder, directory.path(), budget);
        assert_eq!(script.output(3), alone.output(0), "dropped at {drop}");
        let answered: BTreeSet<usize> = script.done.keys().copied().collect();
        assert_eq!(answered, [3].into(), "dropped at {drop}");
        assert!(script.steps <= drop + 6, "dropped at {drop}: {} steps", script.steps);
        assert!(drop > 0 || stats.computed_prompt_tokens == 4, "{stats:?}");
    }
}

#[test]
fn an_impossible_item_does_not_end_what_is_being_written() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let bad = greedy(vec![1; 128], 5);
    let mut script =
        Script::of([(0, greedy(vec![1], 9)), (3, bad), (3, greedy(vec![2], 2)), (40, greedy(vec![], 1))]);
    script.run(&decoder, directory.path(), PLENTY);
    assert!(matches!(script.done[&1].1, Err(LmError::Request(_))) && script.done[&1].0 == 3);
    assert!(matches!(script.done[&3].1, Err(LmError::Request(_))));
    assert_eq!((script.output(0).ids.len(), script.output(2).ids.len()), (9, 2));
}
