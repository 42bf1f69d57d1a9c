//! Generations of all submissions, written together: one that comes while others are written joins them.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;

use evalign_core::{Output, Response, Seconds, Usage};
use evalign_lm::{Feed, GenerateItem, GenerateOutput, LmError, Piece};

use super::engine::{Engine, Generated, Job};
use crate::error::ModelError;
use crate::replies::ReplySender;

/// What the engine writes, and has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineLoad {
    /// Forward passes in which texts were written, since the model was loaded. Texts written together share them.
    pub steps: u64,
    /// Texts being written now.
    pub sequences: usize,
}

/// [`EngineLoad`] while it changes.
#[derive(Debug, Default)]
pub(super) struct Load {
    steps: AtomicU64,
    sequences: AtomicUsize,
}

impl Load {
    pub(super) fn now(&self) -> EngineLoad {
        EngineLoad {
            steps: self.steps.load(Ordering::Relaxed),
            sequences: self.sequences.load(Ordering::Relaxed),
        }
    }

    /// Nothing is being written.
    pub(super) fn set_idle(&self) {
        self.sequences.store(0, Ordering::Relaxed);
    }
}

/// A generation that is not answered yet.
struct Open {
    replies: ReplySender,
    is_streamed: bool,
    index: usize,
    prompt_tokens: u64,
    truncated_tokens: u64,
    /// What the reader had no room for.
    untold: Piece,
}

/// One call to the engine, fed with the generations that come while it lasts.
pub(super) struct Generating<'a> {
    engine: &'a Engine,
    waiting: &'a Receiver<Job>,
    arrived: Vec<GenerateItem>,
    /// By the engine's number.
    open: BTreeMap<usize, Open>,
    given: usize,
    /// Something else than generations came: it is done when what is being written is, and nothing is taken in
    /// before it.
    next: Option<Job>,
}

impl<'a> Generating<'a> {
    pub(super) fn new(engine: &'a Engine, waiting: &'a Receiver<Job>) -> Self {
        Self { engine, waiting, arrived: Vec::new(), open: BTreeMap::new(), given: 0, next: None }
    }

    pub(super) fn add(&mut self, generations: Vec<Generated>, replies: &ReplySender, is_streamed: bool) {
        for Generated { index, item, truncated } in generations {
            let open = Open {
                replies: replies.clone(),
                is_streamed,
                index,
                prompt_tokens: item.prompt.len() as u64,
                truncated_tokens: truncated,
                untold: Piece::default(),
            };
            self.open.insert(self.given, open);
            self.given += 1;
            self.arrived.push(item);
        }
    }

    /// Writes until nothing is left to write, and says what came that cannot be written.
    pub(super) fn run(mut self) -> Option<Job> {
        let engine = self.engine;
        let outcome = engine.model.generate_fed(&mut self);
        engine.load.set_idle();
        if let Err(error) = outcome {
            let error = ModelError::from(error);
            for open in self.open.into_values() {
                let _cancelled = open.replies.send(open.index, Err(error.clone()));
            }
        }
        self.next
    }
}

impl Feed for Generating<'_> {
    fn arrivals(&mut self) -> Vec<GenerateItem> {
        while self.next.is_none()
            && let Ok(job) = self.waiting.try_recv()
        {
            match job {
                Job::Requests(submission) if submission.is_generation() => {
                    let sets = self.engine.sort(&submission);
                    self.add(sets.generations, &submission.replies, submission.is_streamed);
                }
                other => self.next = Some(other),
            }
        }
        std::mem::take(&mut self.arrived)
    }

    fn is_wanted(&mut self, item: usize) -> bool {
        let is_wanted = self.open.get(&item).is_some_and(|open| !open.replies.is_cancelled());
        if !is_wanted {
            self.open.remove(&item);
        }
        is_wanted
    }

    fn is_streamed(&mut self, item: usize) -> bool {
        self.open.get(&item).is_some_and(|open| open.is_streamed)
    }

    fn step(&mut self, sequences: usize) -> ControlFlow<()> {
        self.engine.load.steps.fetch_add(1, Ordering::Relaxed);
        self.engine.load.sequences.store(sequences, Ordering::Relaxed);
        ControlFlow::Continue(())
    }

    fn computed(&mut self, seconds: Seconds) {
        self.engine.book(seconds);
    }

    /// What does not fit goes with the next piece, and in the end with the answer.
    fn piece(&mut self, item: usize, piece: Piece) {
        let Some(open) = self.open.get_mut(&item) else { return };
        open.untold.text.push_str(&piece.text);
        open.untold.logprobs.extend(piece.logprobs);
        if let Err(back) = open.replies.piece(open.index, std::mem::take(&mut open.untold)) {
            open.untold = back;
        }
    }

    fn done(&mut self, item: usize, result: Result<GenerateOutput, LmError>) -> ControlFlow<()> {
        if let Some(open) = self.open.remove(&item) {
            self.engine.load.sequences.fetch_min(self.open.len(), Ordering::Relaxed);
            let answer = result.map(|output| generated(output, open.prompt_tokens, open.truncated_tokens));
            let _cancelled = open.replies.send(open.index, answer.map_err(ModelError::from));
        }
        ControlFlow::Continue(())
    }
}

fn generated(output: GenerateOutput, prompt_tokens: u64, truncated_tokens: u64) -> Response {
    let usage = Usage {
        prompt_tokens,
        computed_prompt_tokens: output.computed_tokens,
        generated_tokens: output.ids.len() as u64,
        ..Usage::default()
    };
    let output =
        Output::Text { text: output.text, finish: output.finish, logprobs: output.logprobs, reasoning: None };
    Response { output, usage: Some(usage), truncated_tokens, cached: false, latency: None }
}
