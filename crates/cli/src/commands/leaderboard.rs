use evalign_bench::{Board, BoardBlock, BoardQuery, board_page, leaderboard as board};
use evalign_core::ModelSummary;
use evalign_store::Store;

use crate::Verdict;
use crate::args::{LeaderboardArgs, TableFormat};
use crate::commands::context::open_store_to_read;
use crate::commands::show::notes;
use crate::output::{Failure, Output, Table, csv, estimate, json_text, markdown};

pub(super) fn leaderboard(args: &LeaderboardArgs, output: Output) -> Result<Verdict, Failure> {
    let query = BoardQuery { task: args.task.clone(), all: args.all, run: None };
    let Board { blocks, runs, without_results } = board(&open_store_to_read()?, &query)?;
    for run in without_results {
        // Its process died between the last sample and the results.
        output.note(&format!(
            "{run} is finished but has no results, and is left out\nhint: `evalign rescore {run}` computes them"
        ));
    }
    if blocks.is_empty() && args.format == TableFormat::Table {
        output.note(&match &args.task {
            Some(task) if runs > 0 => {
                format!("no finished run measured `{task}`\nhint: `evalign leaderboard --all` shows what was measured")
            }
            _ => "no finished runs to compare\nhint: `evalign quickstart` makes one".to_owned(),
        });
        return Ok(Verdict::Good);
    }
    let text = match args.format {
        TableFormat::Html => board_page(&blocks),
        TableFormat::Markdown => markdown(&table(&blocks)),
        TableFormat::Csv => csv(&table(&blocks)),
        TableFormat::Table => table(&blocks).text(),
        TableFormat::Json => json_text(&blocks)?,
    };
    match &args.out {
        Some(path) => output.file(path, &text)?,
        None => output.result(&text)?,
    }
    Ok(Verdict::Good)
}

/// The board of one run, for people.
pub(super) fn of_run(store: &Store, run: &evalign_core::RunId) -> Result<String, Failure> {
    let query = BoardQuery { all: true, run: Some(run.clone()), ..BoardQuery::default() };
    Ok(table(&board(store, &query)?.blocks).text())
}

/// Prints what is comparable side by side: numbers measured by the same protocol form one block, best
/// first, and blocks are never mixed.
fn table(blocks: &[BoardBlock]) -> Table {
    let rows = || blocks.iter().flat_map(|block| &block.rows);
    let costs = rows().any(|row| row.cost_usd.is_some());
    let latencies = rows().any(|row| row.latency.is_some());
    let mut headings = vec![
        "task",
        "protocol",
        "shots",
        "metric",
        "filter",
        "rank",
        "model",
        "dtype",
        "value",
        "± stderr",
        "95 % interval",
        "n",
    ];
    let mut numbers = vec![2, 5, 8, 9, 11];
    if costs {
        numbers.push(headings.len());
        headings.push("USD");
    }
    if latencies {
        numbers.extend([headings.len(), headings.len() + 1]);
        headings.extend(["p50 ms", "first token ms"]);
    }
    headings.push("notes");
    let mut table = Table::new(&headings, &numbers);
    for block in blocks {
        for row in &block.rows {
            let [value, stderr, interval, n] = estimate(&row.result.estimate);
            let mut cells = vec![
                block.task.clone(),
                protocol(block),
                row.shots.to_string(),
                block.metric.clone(),
                block.filter.clone(),
                row.rank_text(),
                named(&row.model),
                row.model.dtype.clone(),
                value,
                stderr,
                interval,
                n,
            ];
            if costs {
                cells.push(row.cost_text().unwrap_or_else(|| "-".to_owned()));
            }
            if latencies {
                cells.extend(row.latency_texts().map(|ms| ms.unwrap_or_else(|| "-".to_owned())));
            }
            cells.push(notes(row.truncated_prompts, &row.result));
            table.push(cells);
        }
    }
    table
}

/// With what its adapter was trained on: two adapters in one place are two models.
fn named(model: &ModelSummary) -> String {
    match &model.trained_on {
        Some(data) => format!("{} (trained on {})", model.reference, data.short()),
        None => model.reference.clone(),
    }
}

/// `4dbc33a91a3b (default)`, with the chat template where one was used.
fn protocol(block: &BoardBlock) -> String {
    let template = if block.chat_template { ", chat" } else { "" };
    format!("{} ({}{template})", block.protocol.short(), block.compat.name())
}
