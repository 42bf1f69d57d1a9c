use evalign_data::Dataset;
use evalign_train::{Job, Report, preview as as_text};
use serde_json::{Value, json};

use crate::Verdict;
use crate::output::{Failure, Output};

/// Rows that are named in a message.
const NAMED: usize = 5;

/// Says what was not taken as it was written.
pub(super) fn tell_report(report: &Report, rows: &Dataset, output: Output) {
    let kinds: [(&[u64], &str); 7] = [
        (
            &report.too_long,
            "left out: too long for --max-length (a prompt alone, or the whole of a reward model's text)",
        ),
        (&report.cut, "cut to --max-length"),
        (
            &report.boundary_moved,
            "have tokens that merge over the end of the prompt: the completion begins with them",
        ),
        (
            &report.rendered_apart,
            "have a prompt that the chat template does not render as the beginning of the conversation: the completion \
             begins where the two part (look at `--preview`)",
        ),
        (&report.empty, "have an empty text: what is trained of it is the end-of-text token"),
        (&report.identical, "have the same text on both sides: nothing can be learnt from them"),
        (&report.unended, "do not end in an end-of-text token: the model is not taught to stop after them"),
    ];
    for (found, what) in kinds.into_iter().filter(|(found, _)| !found.is_empty()) {
        let named: Vec<String> = found.iter().take(NAMED).map(|row| (row + 1).to_string()).collect();
        let more = if found.len() > NAMED { ", ..." } else { "" };
        output.note(&format!(
            "note: {} of {} rows of {} {what} (rows {}{more})",
            found.len(),
            report.rows,
            rows.name(),
            named.join(", ")
        ));
    }
}

/// The same as a document, with every row; rows count from 1.
fn reported(report: &Report) -> Value {
    let rows = |found: &[u64]| found.iter().map(|row| row + 1).collect::<Vec<_>>();
    json!({
        "rows": report.rows,
        "too_long": rows(&report.too_long),
        "cut": rows(&report.cut),
        "boundary_moved": rows(&report.boundary_moved),
        "rendered_apart": rows(&report.rendered_apart),
        "empty": rows(&report.empty),
        "identical": rows(&report.identical),
        "unended": rows(&report.unended),
    })
}

pub(super) fn preview(job: &Job, items: usize, output: Output) -> Result<Verdict, Failure> {
    for (item, row) in job.data.items.iter().zip(&job.data.rows).take(items) {
        let text = as_text(item, job.policy.model().tokenizer())?;
        output.result(&format!("row {}\n{text}", row + 1))?;
    }
    Ok(Verdict::Good)
}

/// What a run would do, as a document.
pub(super) fn document(job: &Job) -> Value {
    let memory = &job.memory;
    let lengths = &job.batching.lengths;
    json!({
        "run": job.run,
        "items": job.data.items.len(),
        "evaluation_items": job.evaluation.as_ref().map_or(0, |data| data.items.len()),
        "report": reported(&job.data.report),
        "evaluation_report": job.evaluation.as_ref().map(|data| reported(&data.report)),
        "tokens_per_epoch": lengths.iter().sum::<usize>(),
        "longest_item_tokens": lengths.iter().max(),
        "updates_per_epoch": job.batching.updates_per_epoch(),
        "updates": job.updates,
        "trained_weights": job.policy.trained(),
        "memory_bytes": {
            "weights": memory.weights,
            "optimiser": memory.optimiser,
            "block_inputs": memory.block_inputs,
            "kept_activations": memory.kept,
            "workspace": memory.workspace,
            "total": memory.total(),
        },
        "recomputed_layers": memory.recomputed_layers,
        "settings": job.identity,
    })
}

/// The plan in a few lines.
pub(super) fn text(job: &Job) -> String {
    let memory = &job.memory;
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / 1e6);
    let recomputed = match memory.recomputed_layers {
        0 => "all activations are kept".to_owned(),
        layers => format!("the activations of {layers} layers are computed again"),
    };
    [
        format!(
            "{} items ({} tokens), {} to evaluate on",
            job.data.items.len(),
            job.batching.lengths.iter().sum::<usize>(),
            job.evaluation.as_ref().map_or(0, |data| data.items.len())
        ),
        format!(
            "{} updates, {} an epoch, of {} x {} items",
            job.updates,
            job.batching.updates_per_epoch(),
            job.batching.accumulation,
            job.batching.batch_size
        ),
        format!("{} weights are trained", job.policy.trained()),
        format!(
            "memory {}: weights {}, optimiser {}, block inputs {}, activations {}, workspace {}; {recomputed}",
            megabytes(memory.total()),
            megabytes(memory.weights),
            megabytes(memory.optimiser),
            megabytes(memory.block_inputs),
            megabytes(memory.kept),
            megabytes(memory.workspace)
        ),
    ]
    .join("\n")
}

pub(super) fn dry_run(job: &Job, as_json: bool, output: Output) -> Result<Verdict, Failure> {
    if as_json {
        output.json(&document(job))?;
    } else {
        output.result(&text(job))?;
    }
    Ok(Verdict::Good)
}
