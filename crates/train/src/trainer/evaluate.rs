//! The evaluation split, and what follows from it.

use super::{Accumulation, EarlyStopping, Ending, Event, Sink, Trainer, micro_batch, scales};
use crate::checkpoint::write_learner;
use crate::metrics::{Means, of_batch};
use crate::{Answer, Item, Learner, Metrics, MicroBatch, Prepared, TrainError};

impl Trainer<'_> {
    /// Evaluates, and tells what came out and what is alarming about it.
    pub(super) fn evaluate_and_tell(
        &mut self,
        learner: &mut dyn Learner,
        sink: Sink<'_>,
    ) -> Result<Option<Metrics>, TrainError> {
        let Some(metrics) = self.evaluate(learner, sink)? else { return Ok(None) };
        let update = self.state.update;
        if let Some(loss) = metrics.get("eval_loss").filter(|loss| !loss.is_finite()) {
            let kept = if update > 0 { self.keep_previous_weights(learner, sink)? } else { None };
            let what = "the loss of the evaluation split".to_owned();
            return Err(TrainError::NotFinite { update: update.max(1), what, value: loss, kept });
        }
        sink(Event::Evaluated { update, metrics: &metrics })?;
        let items = self.evaluation.map_or(0, |data| data.items.len() as u64);
        for alarm in self.state.alarms.evaluated(update, &metrics, items) {
            sink(Event::Alarm(&alarm))?;
        }
        Ok(Some(metrics))
    }

    /// The model is about to read this: it counts also where that fails or shows a loss that is no number.
    pub(super) fn tell_reading(&mut self, batch: &MicroBatch, sink: Sink<'_>) -> Result<(), TrainError> {
        self.read += batch.tokens();
        self.tell_read(sink)
    }

    pub(super) fn tell_read(&mut self, sink: Sink<'_>) -> Result<(), TrainError> {
        match std::mem::take(&mut self.read) + self.references.take_read() {
            0 => Ok(()),
            tokens => sink(Event::Read { tokens }),
        }
    }

    /// Whether evaluations have the metric that stopping early goes by, before anything is trained: one item of each
    /// kind tells.
    pub(super) fn check_metric(
        &mut self,
        learner: &mut dyn Learner,
        sink: Sink<'_>,
    ) -> Result<(), TrainError> {
        let (Some(stopping), Some(data)) = (self.options.early_stopping.clone(), self.evaluation) else {
            return Ok(());
        };
        let kind = |item: &Item| matches!(item, Item::Single { desirable: Some(true), .. });
        let other = (1..data.items.len()).find(|at| kind(&data.items[*at]) != kind(&data.items[0]));
        let items: Vec<usize> = data.items.first().map(|_| 0).into_iter().chain(other).collect();
        let metrics = self.evaluate_items(data, &items, learner, sink)?;
        match metrics.get(&stopping.metric) {
            Some(_) => Ok(()),
            None => Err(unknown_metric(&stopping.metric, &metrics)),
        }
    }

    /// Loss and metrics over the evaluation split, in file order, and the mean length of generated answers; `None`
    /// without a split. Micro-batches count by their items, under TRL's rule each the same (its loss excepted).
    ///
    /// # Errors
    /// Computing fails.
    fn evaluate(&mut self, learner: &mut dyn Learner, sink: Sink<'_>) -> Result<Option<Metrics>, TrainError> {
        let Some(data) = self.evaluation else { return Ok(None) };
        let items: Vec<usize> = (0..data.items.len()).collect();
        self.evaluate_items(data, &items, learner, sink).map(Some)
    }

    fn evaluate_items(
        &mut self,
        data: &Prepared,
        items: &[usize],
        learner: &mut dyn Learner,
        sink: Sink<'_>,
    ) -> Result<Metrics, TrainError> {
        let (mut means, mut losses) = (Means::default(), Means::default());
        for items in items.chunks(self.options.eval_batch_size.max(1)) {
            let batch = micro_batch(data, items);
            let scale = scales(std::slice::from_ref(&batch), Accumulation::Exact, self.options.purpose);
            let reference = self.references.of(&batch, learner)?;
            self.tell_reading(&batch, sink)?;
            let observed = learner.forward(&batch, reference.as_ref(), scale[0])?;
            let weight = items.len() as f64;
            losses.add(&[("loss".to_owned(), observed.loss)].into_iter().collect(), weight);
            let weight = if self.options.accumulation == Accumulation::MeanOfMeans { 1.0 } else { weight };
            means.add(&of_batch(self.options.purpose, &batch, &observed), weight);
        }
        let mut metrics = losses.take();
        for (name, value) in means.take().iter() {
            metrics.set(name, value);
        }
        if !self.options.answer_prompts.is_empty() {
            let answers = learner.answers(&self.options.answer_prompts)?;
            let tokens: usize = answers.iter().map(|answer| answer.tokens).sum();
            self.read += Answer::tokens_of(&self.options.answer_prompts, &answers);
            self.tell_read(sink)?;
            metrics.set("lengths/generated", tokens as f64 / answers.len().max(1) as f64);
        }
        Ok(metrics.of_evaluation())
    }

    /// Compares with the best evaluation so far. True: there was no improvement for too long.
    pub(super) fn remember_best(
        &mut self,
        metrics: &Metrics,
        learner: &dyn Learner,
        sink: Sink<'_>,
    ) -> Result<bool, TrainError> {
        let Some(stopping) = self.options.early_stopping.clone() else { return Ok(false) };
        let value = metrics.get(&stopping.metric).ok_or_else(|| unknown_metric(&stopping.metric, metrics))?;
        let better = |best: f64| {
            if stopping.greater_is_better {
                value > best + stopping.threshold
            } else {
                value < best - stopping.threshold
            }
        };
        // What is no number is no improvement.
        if value.is_finite() && self.state.best.is_none_or(|(best, _)| better(best)) {
            self.state.best = Some((value, self.state.update));
            self.state.without_improvement = 0;
            if stopping.load_best {
                self.save(learner, sink)?;
            }
            return Ok(false);
        }
        self.state.without_improvement += 1;
        Ok(stopping.patience.is_some_and(|patience| self.state.without_improvement >= patience))
    }

    pub(super) fn stopped_early(
        &mut self,
        learner: &mut dyn Learner,
        sink: Sink<'_>,
    ) -> Result<Ending, TrainError> {
        let updates = self.state.update;
        let best = self.state.best.map_or(updates, |(_, update)| update);
        self.prune()?;
        self.references.keep()?;
        if matches!(self.options.early_stopping, Some(EarlyStopping { load_best: true, .. })) {
            self.load_best(learner, sink)?;
        }
        write_learner(&self.options.output, learner)?;
        Ok(Ending::StoppedEarly { updates, best })
    }

    /// Puts the weights of the best evaluation in place.
    pub(super) fn load_best(&mut self, learner: &mut dyn Learner, sink: Sink<'_>) -> Result<(), TrainError> {
        if let Some((value, update)) = self.state.best
            && update != self.state.update
        {
            let mut adam = self.adam.clone();
            self.checkpoints.load(update, learner, &mut adam)?;
            sink(Event::Note(format!(
                "the weights are those of update {update}, the best evaluation ({value})"
            )))?;
        }
        Ok(())
    }
}

fn unknown_metric(name: &str, metrics: &Metrics) -> TrainError {
    let known: Vec<&str> = metrics.iter().map(|(name, _)| name).collect();
    TrainError::Config {
        path: None,
        setting: "metric_for_best_model".to_owned(),
        problem: format!("there is no metric `{name}`"),
        hint: format!("evaluation has {}", known.join(", ")),
    }
}
