//! The loop: updates, each of them micro-batches, one clip and one AdamW step; evaluation, checkpoints, alarms.

mod evaluate;
mod keep;
mod reference;
mod start;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use keep::{Previous, pending_losses};
pub use reference::ReferenceStore;
pub use start::Start;

use crate::batch::Batching;
use crate::checkpoint::{Checkpoints, TrainerState, write_learner};
use crate::metrics::{Means, of_batch};
use crate::optimizer::{AdamW, clip, gradient_norm};
use crate::{
    AdamWOptions, Alarm, Gradients, Item, Learner, Metrics, MicroBatch, Prepared, Purpose, Scale, Schedule,
    TrainError,
};

/// How the micro-batches of an update are weighed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accumulation {
    /// Each item (label) counts the same: however an update is cut into micro-batches, it is the same update.
    Exact,
    /// Each micro-batch counts the same, however few items it has: what TRL does for preference losses and
    /// reward models. For SFT it divides by the labels of the update, as [`Accumulation::Exact`] does.
    MeanOfMeans,
}

/// When to stop early.
#[derive(Clone, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Name of an evaluation metric (`eval_loss`).
    pub metric: String,
    pub greater_is_better: bool,
    /// Evaluations without improvement after which training stops. `None`: never; the best is kept all the same.
    pub patience: Option<u32>,
    /// By how much it has to improve to count.
    pub threshold: f64,
    /// End with the weights of the best evaluation.
    pub load_best: bool,
}

#[derive(Clone, Debug)]
pub struct TrainerOptions {
    pub purpose: Purpose,
    /// Updates in all.
    pub updates: u64,
    pub schedule: Schedule,
    pub adam: AdamWOptions,
    /// Gradients are clipped to this norm.
    pub max_grad_norm: Option<f64>,
    pub accumulation: Accumulation,
    pub logging_steps: u64,
    pub eval_steps: Option<u64>,
    /// Items of an evaluation's micro-batch.
    pub eval_batch_size: usize,
    pub save_steps: Option<u64>,
    pub save_total_limit: Option<usize>,
    pub early_stopping: Option<EarlyStopping>,
    /// Where checkpoints and the final weights go.
    pub output: PathBuf,
    /// Digest of all that decides the run's course.
    pub run: String,
    /// Keep weights and moments of the update before in memory, so that they are there when an update turns out to
    /// have ruined the weights. Without, what is kept is the last checkpoint.
    pub keep_previous: bool,
    pub start: Start,
    /// Evaluate before the first update too, where there is an evaluation split.
    pub eval_on_start: bool,
    /// Prompts whose answers' lengths are part of an evaluation.
    pub answer_prompts: Vec<Vec<u32>>,
}

/// What the loop tells while it runs.
#[derive(Debug)]
pub enum Event<'a> {
    /// It begins; after `update` updates if it goes on from a checkpoint.
    Started {
        update: u64,
        updates: u64,
        num_tokens: u64,
    },
    /// The reference was asked about this many of the micro-batches.
    Referenced {
        batches: usize,
        of: usize,
    },
    /// A micro-batch is done; `tokens` of this process so far, in `seconds` of computing.
    Progress {
        update: u64,
        updates: u64,
        tokens: u64,
        seconds: f64,
    },
    /// So many more tokens have been or are about to be read by the model and its reference, in training and in
    /// evaluations, and read and written for the answers that evaluations show.
    Read {
        tokens: u64,
    },
    /// The micro-batch as it was computed, before its update.
    Computed {
        update: u64,
        batch: &'a MicroBatch,
        observed: &'a crate::Observed,
        scale: Scale,
    },
    /// Gradients of an update before clipping, with the weights they were taken at.
    Gradients {
        update: u64,
        gradients: &'a Gradients,
        parameters: &'a [crate::Parameter],
    },
    /// After an update.
    Updated {
        update: u64,
        parameters: &'a [crate::Parameter],
        adam: &'a AdamW,
    },
    Logged {
        update: u64,
        metrics: &'a Metrics,
    },
    Evaluated {
        update: u64,
        metrics: &'a Metrics,
    },
    Alarm(&'a Alarm),
    Saved(&'a std::path::Path),
    Note(String),
}

/// How training ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    Finished {
        updates: u64,
    },
    /// No improvement any more.
    StoppedEarly {
        updates: u64,
        best: u64,
    },
    /// It was asked to stop; it can go on from here.
    Interrupted {
        updates: u64,
    },
}

/// What an update's micro-batches came to.
struct Pass {
    gradients: Gradients,
    loss: f64,
    /// By size, of the rewards.
    largest_reward: f32,
    metrics: Vec<Metrics>,
}

type Sink<'a> = &'a mut dyn FnMut(Event<'_>) -> Result<(), TrainError>;

/// A training run.
#[derive(Debug)]
pub struct Trainer<'a> {
    options: TrainerOptions,
    batching: Batching,
    data: &'a Prepared,
    evaluation: Option<&'a Prepared>,
    references: ReferenceStore,
    checkpoints: Checkpoints,
    adam: AdamW,
    state: TrainerState,
    means: Means,
    /// Sum of the losses of the updates since the last log line, and their number.
    losses: (f64, u64),
    previous: Option<Previous>,
    /// The micro-batches of the epoch under way.
    epoch: (Option<u64>, Vec<Vec<usize>>),
    /// Checkpoints are due to be removed once the last one's weights have shown a loss.
    unpruned: bool,
    /// To be told when the run begins.
    notes: Vec<String>,
    /// Tokens that the model has read and that were not told of.
    read: u64,
}

/// Micro-batches after which the reference's answers are put on disk while they are asked for beforehand.
const KEEP_EVERY: usize = 64;

impl<'a> Trainer<'a> {
    /// # Errors
    /// The output directory cannot be used; a checkpoint in it is of another run.
    pub fn new(
        options: TrainerOptions,
        batching: Batching,
        (data, evaluation): (&'a Prepared, Option<&'a Prepared>),
        references: ReferenceStore,
        learner: &mut dyn Learner,
    ) -> Result<Self, TrainError> {
        let checkpoints = Checkpoints::open(&options.output)?;
        let mut adam = AdamW::new(options.adam, learner.parameters());
        let mut state = TrainerState { run: options.run.clone(), ..TrainerState::default() };
        let mut notes = Vec::new();
        if let Some(last) = checkpoints.last_of(&options.run)? {
            state = checkpoints.load(last, learner, &mut adam)?;
            let now = references.digest(batching.seen(last).into_iter().map(|item| &data.items[item]));
            if state.reference.is_some() && now.is_some() && state.reference != now {
                notes.push(
                    "the log-probabilities of the reference are others than before: another run computed them anew"
                        .to_owned(),
                );
            }
        }
        let losses = pending_losses(&mut state.pending);
        let means = Means::from_parts(std::mem::take(&mut state.pending));
        Ok(Self {
            options,
            batching,
            data,
            evaluation,
            references,
            checkpoints,
            adam,
            state,
            means,
            losses,
            previous: None,
            epoch: (None, Vec::new()),
            unpruned: true,
            notes,
            read: 0,
        })
    }

    /// Updates done.
    #[must_use]
    pub fn updates(&self) -> u64 {
        self.state.update
    }

    /// Asks the reference about everything that is trained on, so that its memory and time are not needed later. False:
    /// it was asked to stop; what was computed is kept.
    ///
    /// # Errors
    /// Computing or writing fails.
    pub fn precompute_references(
        &mut self,
        learner: &mut dyn Learner,
        stop: &AtomicBool,
        sink: Sink<'_>,
    ) -> Result<bool, TrainError> {
        let batches = self.batching.epoch(0);
        for (done, items) in (1..).zip(&batches) {
            if stop.load(Ordering::Relaxed) {
                self.references.keep()?;
                return Ok(false);
            }
            if self.references.of(&micro_batch(self.data, items), learner)?.is_none() {
                break;
            }
            sink(Event::Referenced { batches: done, of: batches.len() })?;
            self.tell_read(sink)?;
            if done.is_multiple_of(KEEP_EVERY) {
                self.references.keep()?;
            }
        }
        self.references.keep()?;
        Ok(true)
    }

    /// Trains to the end, or until `stop` is set. The final weights lie in the output directory afterwards.
    ///
    /// # Errors
    /// Computing or writing fails; loss or gradient is not finite: the last weights with a finite loss are then in a
    /// checkpoint.
    pub fn run(
        &mut self,
        learner: &mut dyn Learner,
        stop: &AtomicBool,
        sink: Sink<'_>,
    ) -> Result<Ending, TrainError> {
        let (update, updates) = (self.state.update, self.options.updates);
        sink(Event::Started { update, updates, num_tokens: self.state.num_tokens })?;
        for note in std::mem::take(&mut self.notes) {
            sink(Event::Note(note))?;
        }
        if update < updates {
            self.check_metric(learner, sink)?;
        }
        if update == 0 && self.options.eval_on_start && self.options.eval_steps.is_some() {
            self.evaluate_and_tell(learner, sink)?;
        }
        let (mut tokens, started) = (0u64, Instant::now());
        while self.state.update < self.options.updates {
            let mut progress = |trainer: &Self, batch: &MicroBatch, sink: Sink<'_>| {
                tokens += batch.tokens();
                sink(Event::Progress {
                    update: trainer.state.update,
                    updates: trainer.options.updates,
                    tokens,
                    seconds: started.elapsed().as_secs_f64(),
                })
            };
            self.update(learner, &mut progress, sink)?;
            if self.after_update(learner, sink)? {
                return self.stopped_early(learner, sink);
            }
            if stop.load(Ordering::Relaxed) && self.state.update < self.options.updates {
                self.save(learner, sink)?;
                return Ok(Ending::Interrupted { updates: self.state.update });
            }
        }
        if self.options.save_steps.is_some() {
            self.save(learner, sink)?;
        }
        self.prune()?;
        self.references.keep()?;
        if self.options.early_stopping.as_ref().is_some_and(|stopping| stopping.load_best) {
            self.load_best(learner, sink)?;
        }
        write_learner(&self.options.output, learner)?;
        Ok(Ending::Finished { updates: self.state.update })
    }

    /// One update: gradients of its micro-batches, clip, AdamW.
    fn update(
        &mut self,
        learner: &mut dyn Learner,
        progress: &mut dyn FnMut(&Self, &MicroBatch, Sink<'_>) -> Result<(), TrainError>,
        sink: Sink<'_>,
    ) -> Result<(), TrainError> {
        let number = self.state.update;
        let batches = self.next_batches();
        let Pass { mut gradients, loss, largest_reward, metrics } =
            self.pass(&batches, learner, progress, sink)?;
        let norm = gradient_norm(&gradients);
        if !norm.is_finite() {
            let kept = self.keep_weights(learner, sink)?;
            let what = "the norm of the gradients".to_owned();
            return Err(TrainError::NotFinite { update: number + 1, what, value: norm, kept });
        }
        self.check_start((loss, largest_reward), &gradients, learner.parameters())?;
        // The weights have shown a loss: those before them are needed no more.
        self.prune()?;
        sink(Event::Gradients {
            update: number + 1,
            gradients: &gradients,
            parameters: learner.parameters(),
        })?;
        if let Some(max_norm) = self.options.max_grad_norm {
            clip(&mut gradients, norm, max_norm);
        }
        self.remember_previous(learner);
        let rate = self.options.schedule.rate(number);
        self.adam.update(learner.parameters_mut(), &gradients, rate);
        self.check_weights(learner, sink)?;
        learner.parameters_changed()?;
        self.state.update += 1;
        self.state.num_tokens += batches.iter().map(MicroBatch::tokens).sum::<u64>();
        for metrics in &metrics {
            self.means.add(metrics, 1.0);
        }
        self.losses = (self.losses.0 + loss, self.losses.1 + 1);
        sink(Event::Updated {
            update: self.state.update,
            parameters: learner.parameters(),
            adam: &self.adam,
        })?;
        if self.state.update.is_multiple_of(self.options.logging_steps)
            || self.state.update == self.options.updates
        {
            self.log(norm, rate, sink)?;
        }
        Ok(())
    }

    /// Of the update under way.
    fn next_batches(&mut self) -> Vec<MicroBatch> {
        let (epoch, place) = self.batching.place(self.state.update);
        if self.epoch.0 != Some(epoch) {
            self.epoch = (Some(epoch), self.batching.epoch(epoch));
        }
        let parts = self.batching.part(&self.epoch.1, place);
        parts.iter().map(|items| micro_batch(self.data, items)).collect()
    }

    /// Loss and gradients of an update's micro-batches.
    fn pass(
        &mut self,
        batches: &[MicroBatch],
        learner: &mut dyn Learner,
        progress: &mut dyn FnMut(&Self, &MicroBatch, Sink<'_>) -> Result<(), TrainError>,
        sink: Sink<'_>,
    ) -> Result<Pass, TrainError> {
        let number = self.state.update;
        let scales = scales(batches, self.options.accumulation, self.options.purpose);
        let gradients = Gradients::zeros(learner.parameters());
        let mut pass = Pass { gradients, loss: 0.0, largest_reward: 0.0, metrics: Vec::new() };
        for (batch, scale) in batches.iter().zip(scales) {
            let reference = self.reference_of(batch, learner)?;
            self.tell_reading(batch, sink)?;
            let observed = learner.backward(batch, reference.as_ref(), scale, number, &mut pass.gradients)?;
            if !observed.loss.is_finite() {
                let kept = self.keep_previous_weights(learner, sink)?;
                let what = "the loss".to_owned();
                return Err(TrainError::NotFinite { update: number + 1, what, value: observed.loss, kept });
            }
            pass.loss += observed.loss;
            let rewards = observed.rewards.iter().map(|reward| reward.abs());
            pass.largest_reward = rewards.fold(pass.largest_reward, f32::max);
            pass.metrics.push(of_batch(self.options.purpose, batch, &observed));
            sink(Event::Computed { update: number + 1, batch, observed: &observed, scale })?;
            progress(self, batch, sink)?;
        }
        Ok(pass)
    }

    fn log(&mut self, norm: f64, rate: f64, sink: Sink<'_>) -> Result<(), TrainError> {
        let (sum, updates) = std::mem::take(&mut self.losses);
        let mut metrics = Metrics::default();
        metrics.set("loss", sum / updates.max(1) as f64);
        metrics.set("grad_norm", norm);
        metrics.set("learning_rate", rate);
        for (name, value) in self.means.take().iter() {
            metrics.set(name, value);
        }
        metrics.set("num_tokens", self.state.num_tokens as f64);
        metrics.set("epoch", self.batching.epochs_after(self.state.update));
        sink(Event::Logged { update: self.state.update, metrics: &metrics })?;
        for alarm in self.state.alarms.logged(self.state.update, &metrics) {
            sink(Event::Alarm(&alarm))?;
        }
        Ok(())
    }

    /// Evaluation and checkpoint where they are due. True: it is time to stop.
    fn after_update(&mut self, learner: &mut dyn Learner, sink: Sink<'_>) -> Result<bool, TrainError> {
        let due = |steps: Option<u64>| steps.is_some_and(|steps| self.state.update.is_multiple_of(steps));
        let last = self.state.update == self.options.updates;
        let (evaluation_due, save_due) = (
            due(self.options.eval_steps) || (last && self.options.eval_steps.is_some()),
            due(self.options.save_steps),
        );
        let mut stop = false;
        if evaluation_due && let Some(metrics) = self.evaluate_and_tell(learner, sink)? {
            stop = self.remember_best(&metrics, learner, sink)?;
        }
        if save_due && !last {
            self.save(learner, sink)?;
        }
        Ok(stop && !last)
    }
}

pub(crate) fn micro_batch(data: &Prepared, items: &[usize]) -> MicroBatch {
    MicroBatch {
        rows: items.iter().map(|item| data.rows[*item]).collect(),
        items: items.iter().map(|item| data.items[*item].clone()).collect(),
    }
}

/// What each micro-batch of an update counts.
pub(crate) fn scales(batches: &[MicroBatch], accumulation: Accumulation, purpose: Purpose) -> Vec<Scale> {
    let share = |count: u64| 1.0 / (count.max(1) as f32);
    let total = |count: &dyn Fn(&MicroBatch) -> u64| -> u64 { batches.iter().map(count).sum() };
    let items = |batch: &MicroBatch| batch.items.len() as u64;
    let labels = MicroBatch::likelihood_labels;
    let (all_items, all_labels) = (total(&items), total(&labels));
    let weigh = |batch: &MicroBatch| match (accumulation, purpose) {
        (Accumulation::Exact, _) | (_, Purpose::Sft) => {
            Scale { items: share(all_items), labels: share(all_labels) }
        }
        (Accumulation::MeanOfMeans, _) => {
            let parts = batches.len() as u64;
            Scale { items: share(items(batch) * parts), labels: share(labels(batch) * parts) }
        }
    };
    batches.iter().map(weigh).collect()
}

/// Items of a list of items, for messages.
impl Prepared {
    /// Tokens of each item.
    #[must_use]
    pub fn lengths(&self) -> Vec<usize> {
        self.items.iter().map(Item::tokens).collect()
    }
}
