//! The loop around a model so small that every number can be followed: a text's reward is the sum of the weights of
//! its tokens.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use super::*;
use crate::{
    Gradients, Observed, Order, Parameter, ReferenceLogps, ScheduleKind, Sequence, SequenceObserved,
};

const VOCABULARY: usize = 16;

struct Toy {
    parameters: Vec<Parameter>,
    /// From this update on the loss is no number.
    breaks_at: Option<u64>,
    /// Micro-batches that the reference was asked about, where there is one.
    asked: Option<usize>,
}

impl Toy {
    fn new() -> Self {
        let data = (0..VOCABULARY).map(|id| 0.01 * id as f32).collect();
        let parameters =
            vec![Parameter { name: "w".to_owned(), shape: vec![VOCABULARY], data, decays: true }];
        Self { parameters, breaks_at: None, asked: None }
    }

    fn reward(&self, text: &Sequence) -> f32 {
        text.ids.iter().map(|id| self.parameters[0].data[*id as usize]).sum()
    }

    /// Bradley-Terry; adds gradients where they are wanted.
    fn pass(&self, batch: &MicroBatch, scale: Scale, mut gradients: Option<&mut Gradients>) -> Observed {
        let mut observed = Observed::default();
        let mut rejected_rewards = Vec::new();
        for item in &batch.items {
            let Item::Pair { chosen, rejected, .. } = item else { panic!("pairs only") };
            let margin = self.reward(chosen) - self.reward(rejected);
            let probability = 1.0 / (1.0 + (-margin).exp());
            observed.loss -= f64::from(scale.items) * f64::from(probability).ln();
            if let Some(gradients) = gradients.as_deref_mut() {
                let slope = scale.items * (probability - 1.0);
                chosen.ids.iter().for_each(|id| gradients.0[0][*id as usize] += slope);
                rejected.ids.iter().for_each(|id| gradients.0[0][*id as usize] -= slope);
            }
            let seen =
                |text| SequenceObserved { reward: Some(self.reward(text)), ..SequenceObserved::default() };
            observed.sequences.push(seen(chosen));
            rejected_rewards.push(seen(rejected));
        }
        observed.sequences.extend(rejected_rewards);
        observed
    }
}

impl Learner for Toy {
    fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    fn parameters_mut(&mut self) -> &mut [Parameter] {
        &mut self.parameters
    }

    fn weights_name(&self) -> &str {
        "toy.safetensors"
    }

    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, TrainError> {
        Ok(vec![("toy.json".to_owned(), b"{}".to_vec())])
    }

    fn parameters_changed(&mut self) -> Result<(), TrainError> {
        Ok(())
    }

    fn backward(
        &mut self,
        batch: &MicroBatch,
        _: Option<&ReferenceLogps>,
        scale: Scale,
        update: u64,
        gradients: &mut Gradients,
    ) -> Result<Observed, TrainError> {
        let mut observed = self.pass(batch, scale, Some(gradients));
        if self.breaks_at.is_some_and(|at| update >= at) {
            observed.loss = f64::NAN;
        }
        Ok(observed)
    }

    fn forward(
        &mut self,
        batch: &MicroBatch,
        _: Option<&ReferenceLogps>,
        scale: Scale,
    ) -> Result<Observed, TrainError> {
        Ok(self.pass(batch, scale, None))
    }

    fn reference(&mut self, batch: &MicroBatch) -> Result<Option<ReferenceLogps>, TrainError> {
        let Some(asked) = &mut self.asked else { return Ok(None) };
        *asked += 1;
        Ok(Some(ReferenceLogps { per_label: vec![vec![-1.0]; 2 * batch.items.len()] }))
    }

    fn answers(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<crate::Answer>, TrainError> {
        Ok(vec![crate::Answer { text: String::new(), tokens: 5 }; prompts.len()])
    }
}

/// Pairs whose chosen side has the smaller ids: learnable.
fn pairs(count: usize) -> Prepared {
    let text = |ids: Vec<u32>| Sequence::new(ids, 0);
    let item = |row: usize| {
        let low = (row * 5 % 8) as u32;
        Item::Pair {
            chosen: text(vec![low, (low + 3) % 8]),
            rejected: text(vec![low + 8, low + 7, 9]),
            margin: None,
            label: None,
        }
    };
    Prepared {
        rows: (0..count as u64).collect(),
        items: (0..count).map(item).collect(),
        report: crate::Report::default(),
    }
}

fn options(output: &Path) -> TrainerOptions {
    let schedule = Schedule {
        kind: ScheduleKind::Cosine,
        peak: 0.05,
        updates: 20,
        warmup: 3,
        decay_updates: 0,
        decay: crate::Decay::Cosine,
        smallest_ratio: 0.0,
    };
    TrainerOptions {
        purpose: Purpose::Reward,
        updates: 20,
        schedule,
        adam: AdamWOptions { weight_decay: 0.01, ..AdamWOptions::default() },
        max_grad_norm: Some(0.5),
        accumulation: Accumulation::Exact,
        logging_steps: 3,
        eval_steps: None,
        eval_batch_size: 4,
        save_steps: Some(5),
        save_total_limit: None,
        early_stopping: None,
        output: output.to_owned(),
        run: "run".to_owned(),
        keep_previous: true,
        start: Start::default(),
        eval_on_start: true,
        answer_prompts: vec![vec![1]],
    }
}

fn batching(data: &Prepared, batch_size: usize, accumulation: usize) -> Batching {
    Batching { order: Order::Shuffled, batch_size, accumulation, seed: 1, lengths: data.lengths() }
}

/// Trains until the end or until `interrupt_after` updates; returns how it ended and the lines of the log.
fn train(
    learner: &mut Toy,
    options: TrainerOptions,
    batching: Batching,
    (data, evaluation): (&Prepared, Option<&Prepared>),
    interrupt_after: Option<u64>,
) -> Result<(Ending, Vec<String>), TrainError> {
    let stop = AtomicBool::new(false);
    let mut lines = Vec::new();
    let mut trainer =
        Trainer::new(options, batching, (data, evaluation), ReferenceStore::default(), learner)?;
    let ending = trainer.run(learner, &stop, &mut |event| {
        match event {
            Event::Logged { update, metrics } => lines.push(format!("{update} {metrics:?}")),
            Event::Updated { update, .. } if Some(update) == interrupt_after => {
                stop.store(true, Ordering::Relaxed);
            }
            _ => {}
        }
        Ok(())
    })?;
    Ok((ending, lines))
}

fn bytes(directory: &Path, name: &str) -> Vec<u8> {
    fs_err::read(directory.join(name)).unwrap()
}

#[test]
fn promise_17_a_resumed_run_ends_with_the_same_bytes_and_the_same_log() {
    let data = pairs(13);
    let whole = tempfile::tempdir().unwrap();
    let mut learner = Toy::new();
    let (ending, log) =
        train(&mut learner, options(whole.path()), batching(&data, 2, 2), (&data, None), None).unwrap();
    assert_eq!(ending, Ending::Finished { updates: 20 });
    for interrupt_after in [1, 7, 10, 19] {
        let parts = tempfile::tempdir().unwrap();
        let run = |learner: &mut Toy, interrupt| {
            train(learner, options(parts.path()), batching(&data, 2, 2), (&data, None), interrupt).unwrap()
        };
        let (ending, mut first) = run(&mut Toy::new(), Some(interrupt_after));
        assert_eq!(ending, Ending::Interrupted { updates: interrupt_after });
        let (ending, second) = run(&mut Toy::new(), None);
        assert_eq!(ending, Ending::Finished { updates: 20 });
        first.extend(second);
        assert_eq!(first, log);
        for name in
            ["toy.safetensors", "checkpoint-20/toy.safetensors", "checkpoint-20/optimizer.safetensors"]
        {
            assert_eq!(
                bytes(parts.path(), name),
                bytes(whole.path(), name),
                "{name} after {interrupt_after}"
            );
        }
        assert_eq!(
            bytes(parts.path(), "checkpoint-20/trainer_state.json"),
            bytes(whole.path(), "checkpoint-20/trainer_state.json")
        );
    }
}

#[test]
fn accumulating_equals_the_big_batch() {
    let data = pairs(12);
    let weights = |batch_size, accumulation| {
        let output = tempfile::tempdir().unwrap();
        let mut learner = Toy::new();
        train(
            &mut learner,
            options(output.path()),
            batching(&data, batch_size, accumulation),
            (&data, None),
            None,
        )
        .unwrap();
        learner.parameters.remove(0).data
    };
    let big = weights(4, 1);
    assert!(big.iter().zip(Toy::new().parameters[0].data.iter()).any(|(a, b)| (a - b).abs() > 0.1));
    for (one, other) in weights(1, 4).iter().zip(&big) {
        assert!((one - other).abs() < 1e-6, "{one} is not {other}");
    }
}

#[test]
fn promise_17_a_loss_that_is_no_number_stops_and_keeps_the_weights() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    let mut learner = Toy { breaks_at: Some(7), ..Toy::new() };
    let error =
        train(&mut learner, options(output.path()), batching(&data, 4, 1), (&data, None), None).unwrap_err();
    let TrainError::NotFinite { update, kept: Some(kept), .. } = error else { panic!("{error:?}") };
    // The seventh update made the weights whose loss is no number.
    assert_eq!((update, kept.as_path()), (8, output.path().join("checkpoint-6").as_path()));
    assert!(learner.parameters[0].data.iter().all(|value| value.is_finite()));
    // With what was wrong mended, the run goes on from there as if nothing had been.
    let straight = tempfile::tempdir().unwrap();
    for output in [output.path(), straight.path()] {
        train(&mut Toy::new(), options(output), batching(&data, 4, 1), (&data, None), None).unwrap();
    }
    assert_eq!(bytes(output.path(), "toy.safetensors"), bytes(straight.path(), "toy.safetensors"));
}

#[test]
fn what_was_read_in_vain_is_told_too() {
    let (data, evaluation, output) = (pairs(4), pairs(6), tempfile::tempdir().unwrap());
    let options = TrainerOptions { eval_steps: Some(1), ..options(output.path()) };
    let mut learner = Toy { breaks_at: Some(0), ..Toy::new() };
    let parts = (&data, Some(&evaluation));
    let references = ReferenceStore::default();
    let mut trainer = Trainer::new(options, batching(&data, 4, 1), parts, references, &mut learner).unwrap();
    let mut told = Vec::new();
    let broken = trainer.run(&mut learner, &AtomicBool::new(false), &mut |event| {
        if let Event::Read { tokens } = event {
            told.push(tokens);
        }
        Ok(())
    });
    assert!(matches!(broken, Err(TrainError::NotFinite { .. })));
    // A pair has 5 tokens: the evaluation in two batches, a prompt of 1 with an answer of 5, and the first batch.
    assert_eq!(told, [20, 10, 6, 20]);
}

#[test]
fn without_improvement_training_stops_and_the_best_weights_stay() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    // What is learnt from `data` makes the evaluation worse: its pairs are turned round.
    let mut reversed = pairs(6);
    for item in &mut reversed.items {
        if let Item::Pair { chosen, rejected, .. } = item {
            std::mem::swap(chosen, rejected);
        }
    }
    let stopping = EarlyStopping {
        metric: "eval_loss".to_owned(),
        greater_is_better: false,
        patience: Some(2),
        threshold: 0.0,
        load_best: true,
    };
    let options =
        TrainerOptions { eval_steps: Some(2), early_stopping: Some(stopping), ..options(output.path()) };
    let mut learner = Toy::new();
    let (ending, _) =
        train(&mut learner, options, batching(&data, 4, 1), (&data, Some(&reversed)), None).unwrap();
    assert_eq!(ending, Ending::StoppedEarly { updates: 6, best: 2 });
    assert_eq!(bytes(output.path(), "toy.safetensors"), bytes(output.path(), "checkpoint-2/toy.safetensors"));
}

/// With nothing kept in memory (full fine-tuning) the last checkpoint before the ruined weights is what is left, and the
/// same command goes on from it, also where only one checkpoint is to be kept.
#[test]
fn without_a_copy_in_memory_the_last_good_checkpoint_is_left() {
    for (save_steps, limit, good) in [(5, None, 5), (1, None, 6), (1, Some(1), 6), (7, None, 0)] {
        let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
        let options = || TrainerOptions {
            keep_previous: false,
            save_steps: Some(save_steps),
            save_total_limit: limit,
            ..options(output.path())
        };
        let mut learner = Toy { breaks_at: Some(7), ..Toy::new() };
        let error = train(&mut learner, options(), batching(&data, 4, 1), (&data, None), None).unwrap_err();
        let TrainError::NotFinite { update: 8, kept, .. } = error else { panic!("{error:?}") };
        let checkpoints = Checkpoints::open(output.path()).unwrap();
        assert_eq!(kept, (good > 0).then(|| checkpoints.path(good)), "saved every {save_steps}");
        assert_eq!(checkpoints.updates().unwrap().last().copied().unwrap_or(0), good);
        // What was wrong is mended: the run goes on from there.
        let mut learner = Toy::new();
        train(&mut learner, options(), batching(&data, 4, 1), (&data, None), None).unwrap();
    }
}

/// The weights after an update are looked at before anything is done with them, also after the last.
#[test]
fn weights_that_are_no_numbers_are_not_kept() {
    for keep_previous in [true, false] {
        let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
        let run = |peak, interrupt| {
            let mut options =
                TrainerOptions { updates: 4, keep_previous, save_steps: Some(1), ..options(output.path()) };
            options.schedule.peak = peak;
            train(&mut Toy::new(), options, batching(&data, 4, 1), (&data, None), interrupt)
        };
        assert_eq!(run(0.05, Some(3)).unwrap().0, Ending::Interrupted { updates: 3 });
        let error = run(1e39, None).unwrap_err();
        let checkpoints = Checkpoints::open(output.path()).unwrap();
        let TrainError::NotFinite { update: 4, kept, .. } = error else { panic!("{error:?}") };
        assert_eq!(kept, Some(checkpoints.path(3)));
        assert_eq!(checkpoints.updates().unwrap(), [1, 2, 3]);
        assert!(!output.path().join("toy.safetensors").exists());
    }
}

/// Every checkpoint but one is removed: neither the best, which is wanted at the end, nor the one just written.
#[test]
fn the_last_checkpoint_is_never_removed() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    let mut reversed = pairs(6);
    for item in &mut reversed.items {
        if let Item::Pair { chosen, rejected, .. } = item {
            std::mem::swap(chosen, rejected);
        }
    }
    let stopping = EarlyStopping {
        metric: "eval_loss".to_owned(),
        greater_is_better: false,
        patience: None,
        threshold: 0.0,
        load_best: true,
    };
    let options = || TrainerOptions {
        eval_steps: Some(2),
        save_steps: Some(2),
        save_total_limit: Some(1),
        early_stopping: Some(stopping.clone()),
        ..options(output.path())
    };
    let run = |interrupt| {
        train(&mut Toy::new(), options(), batching(&data, 4, 1), (&data, Some(&reversed)), interrupt)
            .unwrap()
            .0
    };
    let checkpoints = Checkpoints::open(output.path()).unwrap();
    assert_eq!(run(Some(9)), Ending::Interrupted { updates: 9 });
    // The one before is kept until the weights of the last have shown a loss.
    assert_eq!(checkpoints.updates().unwrap(), [2, 8, 9]);
    assert_eq!(run(None), Ending::Finished { updates: 20 });
    assert_eq!(checkpoints.updates().unwrap(), [2, 20]);
}

#[test]
fn a_metric_that_is_not_there_is_named_before_anything_is_trained() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    let stopping = EarlyStopping {
        metric: "eval_accuracies".to_owned(),
        greater_is_better: true,
        patience: Some(1),
        threshold: 0.0,
        load_best: false,
    };
    let options = TrainerOptions {
        eval_steps: Some(2),
        eval_on_start: false,
        early_stopping: Some(stopping),
        ..options(output.path())
    };
    let mut learner = Toy::new();
    let error = train(&mut learner, options, batching(&data, 4, 1), (&data, Some(&data)), None).unwrap_err();
    let TrainError::Config { hint, .. } = &error else { panic!("{error:?}") };
    assert!(hint.contains("eval_accuracy"), "{hint}");
    assert_eq!(learner.parameters, Toy::new().parameters);
}

/// What the reference said before an interrupt is there for the next session.
#[test]
fn references_that_were_asked_for_are_kept() {
    let (data, output) = (pairs(8), tempfile::tempdir().unwrap());
    let ask = |stop_after: usize| {
        let store = ReferenceStore::open(output.path(), &evalign_core::Digest::of("model")).unwrap();
        let mut learner = Toy { asked: Some(0), ..Toy::new() };
        let batching = batching(&data, 2, 1);
        let mut trainer =
            Trainer::new(options(output.path()), batching, (&data, None), store, &mut learner).unwrap();
        let (stop, mut read) = (AtomicBool::new(false), 0);
        let mut sink = |event: Event<'_>| {
            match event {
                Event::Read { tokens } => read += tokens,
                Event::Referenced { batches, of } => {
                    assert_eq!(of, 4);
                    stop.store(batches == stop_after, Ordering::Relaxed);
                }
                event => panic!("{event:?}"),
            }
            Ok(())
        };
        let whole = trainer.precompute_references(&mut learner, &stop, &mut sink).unwrap();
        assert_eq!(read > 0, learner.asked != Some(0), "what the reference reads is told");
        (whole, learner.asked)
    };
    assert_eq!(ask(2), (false, Some(2)));
    assert_eq!(ask(usize::MAX), (true, Some(2)));
    assert_eq!(ask(usize::MAX), (true, Some(0)));
}

#[test]
fn another_runs_checkpoint_is_refused() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    train(&mut Toy::new(), options(output.path()), batching(&data, 4, 1), (&data, None), Some(3)).unwrap();
    let other = TrainerOptions { run: "another".to_owned(), ..options(output.path()) };
    let error = train(&mut Toy::new(), other, batching(&data, 4, 1), (&data, None), None).unwrap_err();
    assert!(matches!(error, TrainError::File { .. }), "{error:?}");
}

#[test]
fn a_damaged_checkpoint_is_named_and_an_unfinished_one_ignored() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    let run = |interrupt| {
        train(&mut Toy::new(), options(output.path()), batching(&data, 4, 1), (&data, None), interrupt)
    };
    run(Some(7)).unwrap();
    fs_err::create_dir(output.path().join(".partial-9")).unwrap();
    let moments = output.path().join("checkpoint-7/optimizer.safetensors");
    let whole = fs_err::read(&moments).unwrap();
    fs_err::write(&moments, &whole[..whole.len() - 1]).unwrap();
    let error = run(None).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    fs_err::write(&moments, whole).unwrap();
    assert_eq!(run(None).unwrap().0, Ending::Finished { updates: 20 });
    assert!(!output.path().join(".partial-9").exists());
}

#[test]
fn old_checkpoints_go_and_the_best_stays() {
    let (data, output) = (pairs(12), tempfile::tempdir().unwrap());
    let options = TrainerOptions { save_steps: Some(2), save_total_limit: Some(2), ..options(output.path()) };
    train(&mut Toy::new(), options, batching(&data, 4, 1), (&data, None), None).unwrap();
    assert_eq!(Checkpoints::open(output.path()).unwrap().updates().unwrap(), [18, 20]);
}
