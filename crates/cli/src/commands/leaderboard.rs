use std::collections::BTreeMap;

use evalign_core::{MetricResult, RunResults, RunStatus, TaskResult};
use serde_json::json;

use crate::Verdict;
use crate::args::{LeaderboardArgs, TableFormat};
use crate::commands::context::open_store_to_read;
use crate::commands::show::notes;
use crate::output::{Failure, Output, Table, csv, estimate, markdown};

/// Runs that are looked at, the newest first.
const MOST_RUNS: u32 = 10_000;

pub(super) fn leaderboard(args: &LeaderboardArgs, output: Output) -> Result<Verdict, Failure> {
    let store = open_store_to_read()?;
    let mut kept = Vec::new();
    for run in store.runs(MOST_RUNS)? {
        // An interrupted run has measured whichever samples came first: no number to rank by.
        match (run.status, run.results) {
            (RunStatus::Completed, Some(results)) => {
                kept.push(serde_json::from_value(results).map_err(anyhow::Error::from)?);
            }
            // Its process died between the last sample and the results.
            (RunStatus::Completed, None) => output.note(&format!(
                "{} is finished but has no results, and is left out\nhint: `evalign rescore {}` computes them",
                run.id, run.id
            )),
            _ => {}
        }
    }
    print(&kept, args.task.as_deref(), args.all, args.format, output)?;
    Ok(Verdict::Good)
}

/// One line of the board.
struct Row<'a> {
    run: &'a RunResults,
    result: &'a TaskResult,
    metric: &'a MetricResult,
}

/// Prints what is comparable side by side: numbers measured by the same protocol form one block, best
/// first, and blocks are never mixed.
pub(super) fn print(
    runs: &[RunResults],
    task: Option<&str>,
    all: bool,
    format: TableFormat,
    output: Output,
) -> Result<(), Failure> {
    let mut blocks: BTreeMap<(&str, &str, &str, &str), Vec<Row<'_>>> = BTreeMap::new();
    for run in runs {
        let members: Vec<&String> = run.results.iter().flat_map(|result| &result.members).collect();
        for result in &run.results {
            let wanted = match task {
                Some(task) => result.task == task,
                None => all || !members.contains(&&result.task),
            };
            for metric in result.metrics.iter().filter(|_| wanted) {
                let key = (
                    result.task.as_str(),
                    result.protocol.as_str(),
                    metric.name.as_str(),
                    metric.filter.as_str(),
                );
                blocks.entry(key).or_default().push(Row { run, result, metric });
            }
        }
    }
    for rows in blocks.values_mut() {
        keep_best_measured(rows);
    }
    match format {
        TableFormat::Json => output.json(&as_json(&blocks)),
        TableFormat::Table if blocks.is_empty() => {
            output.note(&match task {
                Some(task) if !runs.is_empty() => {
                    format!("no finished run measured `{task}`\nhint: `evalign leaderboard --all` shows what was measured")
                }
                _ => "no finished runs to compare\nhint: `evalign quickstart` makes one".to_owned(),
            });
            Ok(())
        }
        TableFormat::Table => output.result(&table(&blocks).text()),
        TableFormat::Markdown => output.result(&markdown(&table(&blocks))),
        TableFormat::Csv => output.result(&csv(&table(&blocks))),
    }
}

/// Per model the run over most samples (the newest of equals), best value first.
fn keep_best_measured(rows: &mut Vec<Row<'_>>) {
    let mut best: Vec<Row<'_>> = Vec::new();
    for row in rows.drain(..) {
        let same = |other: &Row<'_>| other.run.model == row.run.model;
        match best.iter_mut().find(|other| same(other)) {
            Some(known) if known.metric.estimate.n < row.metric.estimate.n => *known = row,
            Some(_) => {}
            None => best.push(row),
        }
    }
    let lower_is_better = |name: &str| name.ends_with("perplexity") || name == "bits_per_byte";
    best.sort_by(|a, b| {
        let (a_value, b_value) = (a.metric.estimate.value, b.metric.estimate.value);
        let order = b_value.unwrap_or(f64::NEG_INFINITY).total_cmp(&a_value.unwrap_or(f64::NEG_INFINITY));
        if lower_is_better(&a.metric.name) { order.reverse() } else { order }
    });
    *rows = best;
}

type Blocks<'a> = BTreeMap<(&'a str, &'a str, &'a str, &'a str), Vec<Row<'a>>>;

fn table(blocks: &Blocks<'_>) -> Table {
    let headings = [
        "task",
        "protocol",
        "shots",
        "metric",
        "filter",
        "model",
        "dtype",
        "value",
        "± stderr",
        "95 % interval",
        "n",
        "notes",
    ];
    let mut table = Table::new(&headings, &[2, 7, 8, 10]);
    for row in blocks.values().flatten() {
        let [value, stderr, interval, n] = estimate(&row.metric.estimate);
        table.push(vec![
            row.result.task.clone(),
            format!("{} ({})", row.result.protocol.short(), row.run.mode.name()),
            row.result.shots.to_string(),
            row.metric.name.clone(),
            row.metric.filter.clone(),
            row.run.model.reference.clone(),
            row.run.model.dtype.clone(),
            value,
            stderr,
            interval,
            n,
            notes(row.result, row.metric),
        ]);
    }
    table
}

fn as_json(blocks: &Blocks<'_>) -> serde_json::Value {
    let block = |((task, protocol, metric, filter), rows): (&(&str, &str, &str, &str), &Vec<Row<'_>>)| {
        let rows: Vec<_> = rows
            .iter()
            .map(|row| {
                json!({"run_id": row.run.run_id, "model": row.run.model, "shots": row.result.shots,
                       "compat": row.run.mode, "result": row.metric})
            })
            .collect();
        json!({"task": task, "protocol": protocol, "metric": metric, "filter": filter, "rows": rows})
    };
    blocks.iter().map(block).collect()
}
