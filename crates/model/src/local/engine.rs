use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use evalign_core::{ChoiceLogLikelihood, Output, Request, RequestKind, Response, Seconds, Usage};
use evalign_lm::{
    EngineStats, Event, GenerateItem, LanguageModel, LmError, PerplexityOutput, ScoreItem, ScoreOutput,
};

use super::OverlongPrompt;
use super::encode::{Encoded, Encoder, ScorePart};
use super::generating::{Generating, Load};
use super::tokens::TokenJob;
use crate::error::ModelError;
use crate::replies::{Reply, ReplySender};

/// Requests a thread should have to encode before another one is worth starting.
const ENCODED_PER_THREAD: usize = 32;

pub(super) enum Job {
    Requests(Submission),
    Tokens(TokenJob),
    /// A fault, for tests.
    #[cfg(test)]
    Panic,
}

pub(super) struct Submission {
    pub(super) requests: Vec<Request>,
    pub(super) replies: ReplySender,
    /// Texts are told as they are written.
    pub(super) is_streamed: bool,
}

impl Submission {
    /// Nothing but texts is asked for.
    pub(super) fn is_generation(&self) -> bool {
        self.requests.iter().all(|request| matches!(request.kind, RequestKind::Generate { .. }))
    }
}

/// The thread that owns the computing.
pub(super) struct Engine {
    pub(super) model: Arc<LanguageModel>,
    pub(super) overlong: OverlongPrompt,
    pub(super) timing: Arc<Mutex<Seconds>>,
    pub(super) load: Arc<Load>,
}

impl Engine {
    /// Ends when the model is dropped.
    pub(super) fn serve(&self, waiting: &Receiver<Job>) {
        let mut next = None;
        while let Some(job) = next.take().or_else(|| waiting.recv().ok()) {
            // A panic costs those who are being answered, whose replies end. Those who come later find nothing of
            // it: what a pass leaves behind is the weights, which it does not change.
            let done = catch_unwind(AssertUnwindSafe(|| self.do_job(job, waiting)));
            next = done.unwrap_or_else(|_| {
                tracing::error!(model = %self.model.identity().weights, "the engine panicked");
                self.load.set_idle();
                None
            });
        }
    }

    /// What came meanwhile and is still to be done is handed back.
    fn do_job(&self, job: Job, waiting: &Receiver<Job>) -> Option<Job> {
        match job {
            Job::Requests(submission) if submission.replies.is_cancelled() => None,
            Job::Requests(submission) => self.answer(submission, waiting),
            Job::Tokens(job) => {
                job.answer(&self.model);
                None
            }
            #[cfg(test)]
            Job::Panic => panic!("a fault of the engine"),
        }
    }

    /// Answers a submission, and every one that joins its texts. What came meanwhile and could not join is left.
    fn answer(&self, job: Submission, waiting: &Receiver<Job>) -> Option<Job> {
        let sets = self.sort(&job);
        if !sets.scores.is_empty() && self.score(sets.scores, &job.replies).is_break() {
            return None;
        }
        for (prefix, texts) in sets.perplexities {
            if self.perplexity(prefix, &texts, &job.replies).is_break() {
                return None;
            }
        }
        if sets.generations.is_empty() {
            return None;
        }
        let mut generating = Generating::new(self, waiting);
        generating.add(sets.generations, &job.replies, job.is_streamed);
        // Its replies end when all of them are there, whoever else is written for.
        drop(job);
        generating.run()
    }

    /// Encodes requests, by operation. Those that cannot be are answered with that; of a cancelled submission
    /// nothing is left.
    pub(super) fn sort(&self, job: &Submission) -> Sets {
        let mut sets = Sets::default();
        for (index, encoded) in self.encode(job).into_iter().enumerate() {
            let sent = match encoded {
                Ok(encoded) => {
                    sets.add(index, encoded);
                    job.replies.still_wanted()
                }
                Err(error) => job.replies.send(index, Err(error)),
            };
            if sent.is_break() {
                return Sets::default();
            }
        }
        sets
    }

    /// In parallel: thousands of prompts of thousands of characters take seconds otherwise. Not all of
    /// them when the job is cancelled meanwhile.
    fn encode(&self, job: &Submission) -> Vec<Result<Encoded, ModelError>> {
        let requests = &job.requests;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = requests.len().div_ceil(ENCODED_PER_THREAD).clamp(1, cores);
        let share = requests.len().div_ceil(threads).max(1);
        let encode = |requests: &[Request]| -> Vec<_> {
            let encoder = Encoder::new(&self.model, self.overlong);
            let wanted = requests.iter().take_while(|_| !job.replies.is_cancelled());
            wanted.map(|request| encoder.encode(&request.kind)).collect()
        };
        std::thread::scope(|scope| {
            let parts: Vec<_> =
                requests.chunks(share).map(|part| scope.spawn(move || encode(part))).collect();
            let join = |part: std::thread::ScopedJoinHandle<'_, Vec<_>>| {
                part.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            parts.into_iter().flat_map(join).collect()
        })
    }

    fn score(&self, requests: Vec<Scored>, replies: &ReplySender) -> ControlFlow<()> {
        let mut items = Vec::new();
        let mut owners = Vec::new();
        // Emptied when the request is answered.
        let mut waiting: Vec<Option<ScoreReply>> = Vec::with_capacity(requests.len());
        for request in requests {
            waiting.push(Some(ScoreReply::new(&request)));
            for part in request.parts {
                owners.push((waiting.len() - 1, part.choices));
                items.push(part.item);
            }
        }
        let mut sent = ControlFlow::Continue(());
        let outcome = self.model.log_likelihoods(&items, &mut |event| {
            sent = match event {
                Event::Step => replies.still_wanted(),
                Event::Done(item, result) => {
                    let (owner, choices) = &owners[item];
                    match answer_part(&mut waiting[*owner], choices, &items[item], result) {
                        Some((index, answer)) => replies.send(index, answer),
                        None => ControlFlow::Continue(()),
                    }
                }
            };
            sent
        });
        let unanswered = waiting.iter().flatten().map(|reply| reply.index);
        self.finish(outcome, sent, unanswered, replies)
    }

    fn perplexity(&self, prefix: u32, texts: &PerplexityTexts, replies: &ReplySender) -> ControlFlow<()> {
        let mut open: Vec<bool> = vec![true; texts.ids.len()];
        let mut sent = ControlFlow::Continue(());
        let outcome = self.model.perplexities(&texts.ids, prefix, &mut |event| {
            sent = match event {
                Event::Step => replies.still_wanted(),
                Event::Done(item, result) => {
                    open[item] = false;
                    replies.send(texts.indices[item], result.map(perplexity).map_err(ModelError::from))
                }
            };
            sent
        });
        let unanswered = texts.indices.iter().zip(&open).filter(|(_, open)| **open).map(|(index, _)| *index);
        self.finish(outcome, sent, unanswered, replies)
    }

    /// Books the time, and tells whoever is still waiting why there will be no answer.
    fn finish(
        &self,
        outcome: Result<EngineStats, LmError>,
        sent: ControlFlow<()>,
        mut unanswered: impl Iterator<Item = usize>,
        replies: &ReplySender,
    ) -> ControlFlow<()> {
        match outcome {
            Ok(stats) => {
                let (prefill, decode) = (stats.prefill_seconds, stats.decode_seconds);
                self.book(Seconds { load: 0.0, prefill, decode, total: prefill + decode });
                sent
            }
            Err(error) => {
                let error = ModelError::from(error);
                unanswered.try_for_each(|index| replies.send(index, Err(error.clone())))
            }
        }
    }

    /// Books time that was computed. Before whoever it was computed for has the last reply: then it is looked at.
    pub(super) fn book(&self, seconds: Seconds) {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner) += seconds;
    }
}

fn perplexity(output: PerplexityOutput) -> Response {
    let usage = Usage {
        prompt_tokens: output.tokens,
        computed_prompt_tokens: output.computed_tokens,
        generated_tokens: 0,
        ..Usage::default()
    };
    let tokens = u32::try_from(output.tokens).unwrap_or(u32::MAX);
    Response {
        output: Output::Perplexity { sum: output.sum, tokens },
        usage: Some(usage),
        truncated_tokens: 0,
        cached: false,
        latency: None,
    }
}

/// A submission sorted by operation.
#[derive(Default)]
pub(super) struct Sets {
    scores: Vec<Scored>,
    pub(super) generations: Vec<Generated>,
    /// By prefix token; there is only one per model.
    perplexities: BTreeMap<u32, PerplexityTexts>,
}

struct Scored {
    index: usize,
    parts: Vec<ScorePart>,
    prompt_tokens: u64,
    truncated: u64,
}

pub(super) struct Generated {
    pub(super) index: usize,
    pub(super) item: GenerateItem,
    pub(super) truncated: u64,
}

#[derive(Default)]
struct PerplexityTexts {
    indices: Vec<usize>,
    ids: Vec<Vec<u32>>,
}

impl Sets {
    fn add(&mut self, index: usize, encoded: Encoded) {
        let (prompt_tokens, truncated) = (encoded.prompt_tokens(), encoded.truncated());
        match encoded {
            Encoded::Score(parts) => self.scores.push(Scored { index, parts, prompt_tokens, truncated }),
            Encoded::Generate { item, truncated } => {
                self.generations.push(Generated { index, item, truncated });
            }
            Encoded::Perplexity { ids, prefix } => {
                let texts = self.perplexities.entry(prefix).or_default();
                texts.indices.push(index);
                texts.ids.push(ids);
            }
        }
    }
}

/// The answer to a log-likelihood request while its parts come in.
struct ScoreReply {
    index: usize,
    parts_left: usize,
    choices: Vec<Option<ChoiceLogLikelihood>>,
    computed: u64,
    prompt_tokens: u64,
    truncated: u64,
}

impl ScoreReply {
    fn new(request: &Scored) -> Self {
        let choices = request.parts.iter().map(|part| part.choices.len()).sum();
        Self {
            index: request.index,
            parts_left: request.parts.len(),
            choices: vec![None; choices],
            computed: 0,
            prompt_tokens: request.prompt_tokens,
            truncated: request.truncated,
        }
    }

    fn response(&self) -> Response {
        Response {
            output: Output::LogLikelihood { choices: self.choices.iter().copied().flatten().collect() },
            usage: Some(Usage {
                prompt_tokens: self.prompt_tokens,
                computed_prompt_tokens: self.computed,
                generated_tokens: 0,
                ..Usage::default()
            }),
            truncated_tokens: self.truncated,
            cached: false,
            latency: None,
        }
    }
}

/// Takes in the result of one part and empties `waiting` when its request is answered: by its last part,
/// or by the first that failed.
fn answer_part(
    waiting: &mut Option<ScoreReply>,
    choices: &[usize],
    item: &ScoreItem,
    result: Result<ScoreOutput, LmError>,
) -> Option<Reply> {
    let mut reply = waiting.take()?;
    let output = match result {
        Ok(output) => output,
        Err(error) => return Some((reply.index, Err(error.into()))),
    };
    reply.computed += output.computed_tokens;
    reply.parts_left -= 1;
    for ((choice, score), ids) in choices.iter().zip(output.choices).zip(&item.continuations) {
        let tokens = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        reply.choices[*choice] = Some(ChoiceLogLikelihood { sum: score.sum, tokens, greedy: score.greedy });
    }
    if reply.parts_left == 0 {
        return Some((reply.index, Ok(reply.response())));
    }
    *waiting = Some(reply);
    None
}
