use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use evalign_fetch::Home;
use evalign_train::{Conducted, Ending, Event, Job, Metrics, Place, Sources, conduct};
use serde_json::json;

use super::plan;
use crate::args::TrainArgs;
use crate::commands::procedure::{ONE_PRESS, interrupted};
use crate::commands::progress::TrainBar;
use crate::output::{Failure, Output, Table};
use crate::{INTERRUPTED, Verdict};

/// Trains, with everything that is told and written on the way.
pub(super) fn run(
    job: &mut Job,
    sources: &Sources,
    out: &Path,
    args: &TrainArgs,
    output: Output,
) -> Result<Verdict, Failure> {
    let started = Instant::now();
    output.note(&plan::text(job));
    let references = Home::from_env()?.path().join("reference-logps");
    let place = Place { out, fresh: args.fresh, references: Some(&references), host: &host() };
    let bar = TrainBar::new(output);
    // Killing it outright loses no more than the updates since the last checkpoint.
    let stop = watch_interrupts(output, "what is done is kept")?;
    let conducted = conduct(job, sources, place, &stop, &mut |event, last| {
        match event {
            Event::Evaluated { update, metrics } => {
                output.note(&format!("update {update}: {}", line(metrics)));
            }
            Event::Alarm(alarm) => output.note(&format!("alarm: update {}: {}", alarm.update, alarm.message)),
            Event::Note(note) => output.note(note),
            Event::Saved(path) => output.note(&format!("checkpoint {}", path.display())),
            _ => {}
        }
        bar.event(event, last);
    });
    bar.finish();
    let Conducted { ending, last, tokens_per_second } = conducted?;
    match ending {
        None => {
            output.note(
                "interrupted before the first update; what the reference said is kept\n\
                 hint: give the same command again to go on",
            );
            Ok(Verdict::Interrupted)
        }
        Some(Ending::Interrupted { updates }) => {
            output.note(&format!(
                "interrupted after update {updates}; everything is kept in {}\nhint: give the same command again to go on",
                out.display()
            ));
            Ok(Verdict::Interrupted)
        }
        Some(ending) => {
            tell_end(job, &ending, &last, out, (started.elapsed(), tokens_per_second), args.json, output)?;
            Ok(Verdict::Good)
        }
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

/// Name of this machine, for TensorBoard's files.
fn host() -> String {
    let name = fs_err::read_to_string("/etc/hostname").unwrap_or_default();
    let name: String = name.trim().chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

/// A flag that the first Ctrl-C (or SIGTERM) raises, for work that looks at it between steps; the second ends the process.
/// `kept` says what becomes of what is done.
#[expect(clippy::exit, reason = "the work looks at nothing before its next step, which may be minutes away")]
pub(super) fn watch_interrupts(output: Output, kept: &'static str) -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let raised = Arc::clone(&stop);
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::from_io)?;
    let watch = async move {
        if interrupted().await.is_err() {
            return;
        }
        raised.store(true, Ordering::Relaxed);
        output.note(&format!("stopping after this step (again to stop at once); {kept}"));
        // One key press may come twice.
        tokio::time::sleep(ONE_PRESS).await;
        if interrupted().await.is_ok() {
            std::process::exit(INTERRUPTED.into());
        }
    };
    std::thread::spawn(move || runtime.block_on(watch));
    Ok(stop)
}
