use std::collections::BTreeMap;

use evalign_bench::{JudgingReport, KeptResults, MeasuredResults, Measures, caveats};
use evalign_core::{
    MetricResult, Output as ModelOutput, Prompt, RequestKind, RunResults, RunStatus, SampleRecord,
};
use evalign_store::SampleFilter;

use crate::Verdict;
use crate::args::{DataArgs, ShowArgs};
use crate::commands::context::{find_to_read, scoreboard};
use crate::commands::judge;
use crate::commands::measures;
use crate::commands::repeats::repeats_text;
use crate::commands::sensitivity::sensitivity_text;
use crate::commands::spending::spent_text;
use crate::output::{Failure, Output, Table, estimate, percent_or_number, precision};

pub(super) fn show(args: &ShowArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, run) = find_to_read(&args.run)?;
    if args.samples {
        let filter = SampleFilter {
            task: args.task.clone(),
            outcome: args.outcome,
            limit: Some(args.limit),
            after: None,
        };
        let records: Vec<SampleRecord> = store.samples(&id, filter)?.collect::<Result<_, _>>()?;
        if args.json {
            output.json(&records)?;
        } else if records.is_empty() {
            output.note("no samples fit");
        } else {
            output.result(&records.iter().map(sample_text).collect::<Vec<_>>().join("\n\n"))?;
        }
        return Ok(Verdict::Good);
    }
    // What runs of several steps come to is a report of their own kind.
    if run.request.get("procedure").is_some() {
        let report = run.results.as_ref().ok_or_else(|| {
            let hint = format!("go on with `evalign resume {id}`; `--samples` shows what is there");
            Failure::new(format!("{id} is not finished and has no report yet"), hint)
        })?;
        output.json(report)?;
        return Ok(Verdict::Good);
    }
    // A finished run's kept results are shown as they were; any other is aggregated as far as it is now.
    let mut kept: KeptResults = match &run.results {
        Some(kept) if run.status == RunStatus::Completed => {
            serde_json::from_value(kept.clone()).map_err(anyhow::Error::from)?
        }
        _ => KeptResults {
            results: scoreboard(&run, &DataArgs::default(), true)?.aggregate(&store, &id)?,
            judging: BTreeMap::new(),
        },
    };
    if let Some(task) = &args.task {
        kept.retain_task(task);
    }
    let measures = if args.measures.any() {
        let board = scoreboard(&run, &DataArgs::default(), true)?;
        args.measures.of(&board, (&store, &id), args.task.as_deref())?
    } else {
        Measures::default()
    };
    if args.json {
        output.json(&MeasuredResults { kept, measures })?;
    } else {
        let measures = measures::text(&measures);
        let gap = if measures.is_empty() { "" } else { "\n\n" };
        let judges = judges_text(&kept.judging);
        output.result(&format!("{}{judges}{gap}{measures}", results_text(&kept.results)))?;
    }
    Ok(Verdict::Good)
}

/// What the judges of each task are like, below its results.
pub(super) fn judges_text(judging: &BTreeMap<String, JudgingReport>) -> String {
    let about = |(task, report): (&String, &JudgingReport)| {
        format!("\n\nverdicts on the answers to {task}\n{}", judge::judging_text(report))
    };
    judging.iter().map(about).collect()
}

/// The table of a run: groups first, then leaf tasks.
pub(super) fn results_text(results: &RunResults) -> String {
    let mut table = Table::new(
        &["task", "version", "shots", "filter", "metric", "value", "± stderr", "95 % interval", "n", "notes"],
        &[2, 5, 6, 8],
    );
    for result in &results.results {
        for metric in &result.metrics {
            let [value, stderr, interval, n] = estimate(&metric.estimate);
            table.push(vec![
                result.task.clone(),
                result.version.clone(),
                result.shots.to_string(),
                metric.filter.clone(),
                metric.name.clone(),
                value,
                stderr,
                interval,
                n,
                notes(result.truncated_prompts, metric),
            ]);
        }
    }
    let model = &results.model;
    format!(
        "{}\n{}{} on {}{} ({}), rule book: {}, seed {}\n\
         {}\n\
         {} ({})",
        table.text(),
        repeats_text(&results.repeats) + &sensitivity_text(results),
        model.reference,
        model.device,
        precision(model),
        model.digest.short(),
        results.mode.name(),
        results.seed,
        spent_text(results),
        results.run_id,
        results.status.name(),
    )
}

/// What the number alone does not say: undecided samples with the bounds they leave, fragile items, cut
/// prompts.
pub(super) fn notes(truncated_prompts: u64, metric: &MetricResult) -> String {
    let mut notes = caveats(truncated_prompts, metric);
    if let Some([low, high]) = metric.bounds.filter(|[low, high]| low < high) {
        notes.push(format!("could be {} to {}", percent_or_number(low), percent_or_number(high)));
    }
    notes.join(", ")
}

fn sample_text(record: &SampleRecord) -> String {
    let mut lines = vec![format!("── {} ──", record.key)];
    let prompt = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Chat(messages) => {
            messages.iter().map(|m| format!("[{:?}] {}", m.role, m.content)).collect::<Vec<_>>().join("\n")
        }
    };
    match &record.request.kind {
        RequestKind::LogLikelihood { context, continuations } => {
            lines.push(prompt(context));
            if let Some(ModelOutput::LogLikelihood { choices }) = &record.output {
                for (continuation, choice) in continuations.iter().zip(choices) {
                    lines.push(format!("  {:>12.5}  {continuation:?}", choice.sum));
                }
            }
        }
        RequestKind::Generate { prompt: asked, .. } => lines.push(prompt(asked)),
        RequestKind::Perplexity { text } => lines.push(text.clone()),
    }
    match &record.output {
        Some(ModelOutput::Text { text, finish, .. }) => lines.push(format!("answer ({finish:?}): {text}")),
        Some(ModelOutput::Perplexity { sum, tokens }) => {
            lines.push(format!("log-likelihood {sum:.5} over {tokens} tokens"));
        }
        Some(ModelOutput::LogLikelihood { .. }) | None => {}
    }
    if let Some(error) = &record.error {
        lines.push(format!("error: {error}"));
    }
    lines.push(format!("target: {}", record.target));
    for score in &record.scores {
        let answer = score.answer.as_ref().map(|a| format!(", answer {a:?}")).unwrap_or_default();
        lines.push(format!("{} ({}): {}{answer}", score.metric, score.filter, score.outcome.name()));
    }
    lines.join("\n")
}
