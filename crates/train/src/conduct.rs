//! A session of training from its first answer to its report: what every front end does.

mod samples;

use std::fs::TryLockError;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use samples::Samples;

use crate::{
    Checkpoints, Ending, Event, Facts, Job, Metrics, Monitor, Sources, TrainError, read_metrics, write_report,
};

/// Where a session writes.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Checkpoints, metrics, reports and what was trained; a run that was interrupted goes on from what is there.
    pub out: &'a Path,
    /// Begin anew: what an earlier run left in `out` is removed.
    pub fresh: bool,
    /// Directory in which log-probabilities of references are kept.
    pub references: Option<&'a Path>,
    /// Name of this machine, for TensorBoard's files.
    pub host: &'a str,
}

/// How a session came out.
#[derive(Debug)]
pub struct Conducted {
    /// `None`: interrupted before the first update, while the reference was asked.
    pub ending: Option<Ending>,
    /// The last value of each metric, earlier sessions' included.
    pub last: Metrics,
    /// 0 where nothing was left to do.
    pub tokens_per_second: f64,
}

/// Trains what is open of a job. `told` hears of everything, with the last value of each metric; `stop` ends it after
/// the update under way, with everything kept.
///
/// # Errors
/// The directory cannot be used, holds another run, or another process trains into it; what [`crate::Trainer::run`] reports. The report is written all
/// the same.
pub fn conduct(
    job: &mut Job,
    sources: &Sources,
    place: Place<'_>,
    stop: &AtomicBool,
    told: &mut dyn FnMut(&Event<'_>, &Metrics),
) -> Result<Conducted, TrainError> {
    let _held = hold(place.out)?;
    if place.fresh {
        remove_earlier(place.out)?;
    }
    job.check_output(place.out)?;
    let mut texts = Samples::before(job, place.out)?;
    told(&Event::Read { tokens: texts.take_read() }, &Metrics::default());
    let facts = facts(job, sources);
    let (precompute, updates) = (job.config.precompute_reference, job.updates);
    let (mut trainer, policy) = job.trainer(place.out, place.references)?;
    let was_finished = trainer.updates() == updates;
    if precompute && !was_finished {
        let mut sink = |event: Event<'_>| {
            told(&event, &Metrics::default());
            Ok(())
        };
        if !trainer.precompute_references(policy, stop, &mut sink)? {
            return Ok(Conducted { ending: None, last: Metrics::default(), tokens_per_second: 0.0 });
        }
    }
    let mut monitor = Monitor::open(place.out, place.host)?;
    let mut last = last_values(place.out)?;
    let mut measured = (0.0, 0u64);
    let ending = trainer.run(policy, stop, &mut |event| {
        monitor.event(&event)?;
        match &event {
            Event::Logged { metrics, .. } | Event::Evaluated { metrics, .. } => last.update(metrics),
            Event::Progress { seconds, tokens, .. } => measured = (*seconds, *tokens),
            _ => {}
        }
        told(&event, &last);
        Ok(())
    });
    let is_done = matches!(ending, Ok(Ending::Finished { .. } | Ending::StoppedEarly { .. }));
    if is_done {
        let alarm = texts.after(job, place.out)?;
        told(&Event::Read { tokens: texts.take_read() }, &last);
        if let Some(alarm) = alarm.filter(|_| !was_finished) {
            monitor.event(&Event::Alarm(&alarm))?;
            told(&Event::Alarm(&alarm), &last);
        }
    }
    report(place.out, &facts, &texts, &mut |note| told(&Event::Note(note), &last));
    let tokens_per_second = measured.1 as f64 / f64::max(measured.0, 1e-9);
    let ending = ending.map_err(|error| explained(error, job, sources))?;
    Ok(Conducted { ending: Some(ending), last, tokens_per_second })
}

/// Before any update, a loss that is no number may be the model's own fault: its weight is named then.
fn explained(error: TrainError, job: &Job, sources: &Sources) -> TrainError {
    let at_start = matches!(error, TrainError::NotFinite { update: 1, kept: None, .. });
    if at_start && let Ok(Some(name)) = job.policy.model().broken_weight() {
        return TrainError::File {
            path: sources.model.clone(),
            problem: format!("the tensor `{name}` holds values that are not numbers"),
            hint: "fetch or save the model again".to_owned(),
        };
    }
    error
}

/// One session at a time writes into a directory; released when the file is closed.
fn hold(out: &Path) -> Result<std::fs::File, TrainError> {
    fs_err::create_dir_all(out)?;
    let file = fs_err::File::create(out.join(".lock"))?.into_parts().0;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(TrainError::File {
            path: out.to_owned(),
            problem: "another process trains into this directory".to_owned(),
            hint: "wait until it has finished, or give another `--out`".to_owned(),
        }),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// What a run leaves beside its adapter or model, which the next one overwrites.
fn remove_earlier(out: &Path) -> Result<(), TrainError> {
    let checkpoints = Checkpoints::open(out)?;
    for update in checkpoints.updates()? {
        checkpoints.remove(update)?;
    }
    let removed = ["metrics.jsonl", "samples.json", "report.html"]
        .map(|name| fs_err::remove_file(out.join(name)))
        .into_iter()
        .chain([fs_err::remove_dir_all(out.join("runs"))]);
    for removed in removed {
        match removed {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// The last value of each metric that an earlier session logged.
fn last_values(out: &Path) -> Result<Metrics, TrainError> {
    let lines = read_metrics(&out.join("metrics.jsonl"))?;
    let values = lines.into_iter().flatten().filter(|(name, _)| name != "step");
    let mut last = Metrics::default();
    for (name, value) in values {
        last.update(&value.as_f64().map(|value| (name, value)).into_iter().collect());
    }
    Ok(last)
}

/// The report is for people; a run does not fail for it.
fn report(out: &Path, facts: &Facts, texts: &Samples, note: &mut dyn FnMut(String)) {
    let title =
        out.file_name().map_or_else(|| "training".to_owned(), |name| name.to_string_lossy().into_owned());
    if let Err(error) = write_report(out, &title, facts, &texts.texts) {
        note(format!("note: the report could not be written: {error}"));
    }
}

fn facts(job: &Job, sources: &Sources) -> Facts {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("model", sources.model_name.clone()),
        fact("data", format!("{} (sha256 {})", sources.rows.name(), sources.rows.digest().short())),
        fact("loss", job.config.objective.to_string()),
        fact(
            "adapter",
            match (&sources.adapter, &job.config.lora) {
                (Some(adapter), _) => format!("goes on from {}", adapter.display()),
                (None, Some(lora)) => lora.to_string(),
                (None, None) => "none: all weights".to_owned(),
            },
        ),
        fact(
            "items",
            format!(
                "{}, {} to evaluate on",
                job.data.items.len(),
                job.evaluation.as_ref().map_or(0, |data| data.items.len())
            ),
        ),
        fact("left out, cut", format!("{}, {}", job.data.report.too_long.len(), job.data.report.cut.len())),
        fact(
            "updates",
            format!("{} of {} x {} items", job.updates, job.batching.accumulation, job.batching.batch_size),
        ),
        fact("run", job.run.to_string()),
    ]
}
