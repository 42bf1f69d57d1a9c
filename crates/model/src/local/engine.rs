use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};

use evalign_core::{ChoiceLogLikelihood, Output, Request, Response, Seconds, Usage};
use evalign_lm::{
    EngineStats, Event, GenerateItem, GenerateOutput, LanguageModel, LmError, PerplexityOutput, ScoreItem,
    ScoreOutput,
};

use super::OverlongPrompt;
use super::encode::{Encoded, Encoder, ScorePart};
use super::tokens::TokenJob;
use crate::error::ModelError;
use crate::replies::{Reply, ReplySender};

/// Requests a thread should have to encode before another one is worth starting.
const ENCODED_PER_THREAD: usize = 32;

pub(super) enum Job {
    Requests(Submission),
    Tokens(TokenJob),
}

pub(super) struct Submission {
    pub(super) requests: Vec<Request>,
    pub(super) replies: ReplySender,
}

/// The thread that owns the computing.
pub(super) struct Engine {
    pub(super) model: Arc<LanguageModel>,
    pub(super) overlong: OverlongPrompt,
    pub(super) timing: Arc<Mutex<Seconds>>,
}

impl Engine {
    /// Ends when the model is dropped.
    pub(super) fn serve(&self, waiting: &Receiver<Job>) {
        for job in waiting {
            match job {
                Job::Requests(job) if job.replies.is_cancelled() => {}
                Job::Requests(job) => {
                    let _cancelled = self.answer(&job);
                }
                Job::Tokens(job) => job.answer(&self.model),
            }
        }
    }

    fn answer(&self, job: &Submission) -> ControlFlow<()> {
        let mut sets = Sets::default();
        let encoded = self.encode(job);
        job.replies.still_wanted()?;
        for (index, encoded) in encoded.into_iter().enumerate() {
            match encoded {
                Ok(encoded) => sets.add(index, encoded),
                Err(error) => job.replies.send(index, Err(error))?,
            }
        }
        if !sets.scores.is_empty() {
            self.score(sets.scores, &job.replies)?;
        }
        if !sets.generations.is_empty() {
            self.generate(sets.generations, &job.replies)?;
        }
        for (prefix, texts) in sets.perplexities {
            self.perplexity(prefix, &texts, &job.replies)?;
        }
        ControlFlow::Continue(())
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

    fn generate(&self, requests: Vec<Generated>, replies: &ReplySender) -> ControlFlow<()> {
        let mut open: Vec<bool> = vec![true; requests.len()];
        let (items, about): (Vec<GenerateItem>, Vec<_>) =
            requests.into_iter().map(|request| (request.item, (request.index, request.truncated))).unzip();
        let mut sent = ControlFlow::Continue(());
        let outcome = self.model.generate(&items, &mut |event| {
            sent = match event {
                Event::Step => replies.still_wanted(),
                Event::Done(item, result) => {
                    open[item] = false;
                    let (index, truncated_tokens) = about[item];
                    let prompt_tokens = items[item].prompt.len() as u64;
                    let answer = result.map(|output| generated(output, prompt_tokens, truncated_tokens));
                    replies.send(index, answer.map_err(ModelError::from))
                }
            };
            sent
        });
        let unanswered = about.iter().zip(&open).filter(|(_, open)| **open).map(|((index, _), _)| *index);
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
                let mut timing = self.timing.lock().unwrap_or_else(PoisonError::into_inner);
                *timing += Seconds {
                    load: 0.0,
                    prefill: stats.prefill_seconds,
                    decode: stats.decode_seconds,
                    total: stats.prefill_seconds + stats.decode_seconds,
                };
                sent
            }
            Err(error) => {
                let error = ModelError::from(error);
                unanswered.try_for_each(|index| replies.send(index, Err(error.clone())))
            }
        }
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

/// A submission sorted by operation: each is one call to the engine.
#[derive(Default)]
struct Sets {
    scores: Vec<Scored>,
    generations: Vec<Generated>,
    /// By prefix token; there is only one per model.
    perplexities: BTreeMap<u32, PerplexityTexts>,
}

struct Scored {
    index: usize,
    parts: Vec<ScorePart>,
    prompt_tokens: u64,
    truncated: u64,
}

struct Generated {
    index: usize,
    item: GenerateItem,
    truncated: u64,
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
