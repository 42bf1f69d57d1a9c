use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evalign_fetch::Home;
use evalign_train::{
    Alarm, Checkpoints, Ending, Event, Facts, Job, Metrics, Monitor, Sources, TrainError, read_metrics,
    write_report,
};
use serde_json::json;

use super::plan;
use super::samples::Samples;
use crate::Verdict;
use crate::args::TrainArgs;
use crate::commands::progress::TrainBar;
use crate::output::{Failure, Output, Table};

/// Trains, with everything that is told and written on the way.
pub(super) fn run(
    job: &mut Job,
    sources: &Sources,
    out: &Path,
    args: &TrainArgs,
    output: Output,
) -> Result<Verdict, Failure> {
    if args.fresh {
        remove_earlier(out)?;
    }
    let started = Instant::now();
    output.note(&plan::text(job));
    job.check_output(out)?;
    let mut texts = Samples::before(job, out)?;
    let facts = facts(job, sources);
    let references = Home::from_env()?.path().join("reference-logps");
    let (precompute, updates) = (job.config.precompute_reference, job.updates);
    let (mut trainer, policy) = job.trainer(out, Some(references.as_path()))?;
    let was_finished = trainer.updates() == updates;
    let bar = TrainBar::new(output);
    let stop = watch_interrupts(output)?;
    if precompute && !was_finished {
        let mut sink = |event: Event<'_>| {
            bar.event(&event, &Metrics::default());
            Ok(())
        };
        if !trainer.precompute_references(policy, &stop, &mut sink)? {
            bar.finish();
            output.note(
                "interrupted before the first update; what the reference said is kept\n\
                 hint: give the same command again to go on",
            );
            return Ok(Verdict::Interrupted);
        }
    }
    let mut monitor = Monitor::open(out, &host())?;
    let mut last = last_values(out)?;
    let mut seconds_per_token = (0.0, 0u64);
    let ending = trainer.run(policy, &stop, &mut |event| {
        monitor.event(&event)?;
        match &event {
            Event::Logged { metrics, .. } => last.update(metrics),
            Event::Evaluated { update, metrics } => {
                last.update(metrics);
                output.note(&format!("update {update}: {}", line(metrics)));
            }
            Event::Progress { seconds, tokens, .. } => seconds_per_token = (*seconds, *tokens),
            Event::Alarm(alarm) => output.note(&format!("alarm: update {}: {}", alarm.update, alarm.message)),
            Event::Note(note) => output.note(note),
            Event::Saved(path) => output.note(&format!("checkpoint {}", path.display())),
            Event::Started { .. }
            | Event::Referenced { .. }
            | Event::Computed { .. }
            | Event::Gradients { .. }
            | Event::Updated { .. } => {}
        }
        bar.event(&event, &last);
        Ok(())
    });
    bar.finish();
    let ending = match ending {
        Ok(ending) => ending,
        Err(error) => {
            report(out, &facts, &texts, output);
            return Err(error.into());
        }
    };
    if let Ending::Interrupted { updates } = ending {
        report(out, &facts, &texts, output);
        output.note(&format!(
            "interrupted after update {updates}; everything is kept in {}\nhint: give the same command again to go on",
            out.display()
        ));
        return Ok(Verdict::Interrupted);
    }
    if let Some(alarm) = texts.after(job, out)?
        && !was_finished
    {
        told_at_the_end(&mut monitor, &alarm, output)?;
    }
    report(out, &facts, &texts, output);
    let speed = seconds_per_token.1 as f64 / seconds_per_token.0.max(1e-9);
    tell_end(job, &ending, &last, out, (started.elapsed(), speed), args.json, output)?;
    Ok(Verdict::Good)
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

fn told_at_the_end(monitor: &mut Monitor, alarm: &Alarm, output: Output) -> Result<(), TrainError> {
    output.note(&format!("alarm: {}", alarm.message));
    monitor.event(&Event::Alarm(alarm))
}

/// The report is for people; a run does not fail for it.
fn report(out: &Path, facts: &Facts, texts: &Samples, output: Output) {
    let title =
        out.file_name().map_or_else(|| "training".to_owned(), |name| name.to_string_lossy().into_owned());
    if let Err(error) = write_report(out, &title, facts, &texts.texts) {
        output.note(&format!("note: the report could not be written: {error}"));
    }
}

fn tell_end(
    job: &Job,
    ending: &Ending,
    last: &Metrics,
    out: &Path,
    (elapsed, tokens_per_second): (Duration, f64),
    as_json: bool,
    output: Output,
) -> Result<(), Failure> {
    let (updates, best) = match ending {
        Ending::Finished { updates } | Ending::Interrupted { updates } => (*updates, None),
        Ending::StoppedEarly { updates, best } => (*updates, Some(*best)),
    };
    if as_json {
        let metrics: serde_json::Map<String, serde_json::Value> =
            last.iter().map(|(name, value)| (name.to_owned(), json!(value))).collect();
        return output.json(&json!({
            "out": out,
            "updates": updates,
            "best_update": best,
            "metrics": metrics,
            "tokens_per_second": tokens_per_second,
            "seconds": elapsed.as_secs_f64(),
            "plan": plan::document(job),
        }));
    }
    let mut table = Table::new(&["metric", "last value"], &[1]);
    for (name, value) in last.iter() {
        table.push(vec![name.to_owned(), format!("{value:.6}")]);
    }
    output.result(&table.text())?;
    if let Some(best) = best {
        output.note(&format!("stopped after update {updates}: nothing better since update {best}"));
    }
    let speed = match tokens_per_second {
        speed if speed > 0.0 => format!("{speed:.0} tokens/s"),
        _ => "it was finished before; `--fresh` starts over".to_owned(),
    };
    output.note(&format!("{speed}; curves and samples: {}", out.join("report.html").display()));
    output.result(&out.display().to_string())
}

/// A line of metrics for people.
fn line(metrics: &Metrics) -> String {
    let shown = metrics.iter().map(|(name, value)| format!("{name} {value:.4}"));
    shown.collect::<Vec<_>>().join(", ")
}

fn facts(job: &Job, sources: &Sources) -> Facts {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    vec![
        fact("model", sources.model_name.clone()),
        fact("data", format!("{} (sha256 {})", sources.rows.name(), sources.rows.digest().short())),
        fact("loss", format!("{:?}", job.config.objective)),
        fact(
            "adapter",
            match (&sources.adapter, &job.config.lora) {
                (Some(adapter), _) => format!("goes on from {}", adapter.display()),
                (None, Some(lora)) => format!("{lora:?}"),
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

/// Removes checkpoints and logs of an earlier run, and nothing that is not one's own.
fn remove_earlier(out: &Path) -> Result<(), Failure> {
    if !out.exists() {
        return Ok(());
    }
    let checkpoints = Checkpoints::open(out)?;
    for update in checkpoints.updates()? {
        checkpoints.remove(update)?;
    }
    for name in ["metrics.jsonl", "samples.json", "report.html"] {
        match fs_err::remove_file(out.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::from_io(error));
            }
            _ => {}
        }
    }
    match fs_err::remove_dir_all(out.join("runs")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::from_io(error)),
        _ => Ok(()),
    }
}

/// Name of this machine, for TensorBoard's files.
fn host() -> String {
    let name = fs_err::read_to_string("/etc/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// The first Ctrl-C (or SIGTERM) ends the run after the update under way; killing it outright loses no more than the
/// updates since the last checkpoint.
fn watch_interrupts(output: Output) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from_io)?;
    std::thread::spawn(move || {
        if runtime.block_on(crate::commands::procedure::interrupted()).is_ok() {
            raised.store(true, Ordering::Relaxed);
            output.note("stopping after this step; what is done is kept");
        }
    });
    Ok(stop)
}
