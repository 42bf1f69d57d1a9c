use evalign_core::ModelRef;
use evalign_train::{RewardAccuracy, RewardScore, ScoreOptions, score_rewards};
use serde_json::json;

use super::run::watch_interrupts;
use super::{open, resolve};
use crate::Verdict;
use crate::args::ScoreArgs;
use crate::output::{Failure, Output, Table, percent_or_number};

pub(super) fn score(args: &ScoreArgs, output: Output) -> Result<Verdict, Failure> {
    let compat_trl = match args.compat.as_deref() {
        None => false,
        Some("trl") => true,
        Some(other) => return Err(Failure::new(format!("there is no `--compat {other}`"), "use trl")),
    };
    let reference: ModelRef = args.model.parse()?;
    let path = resolve(&reference, args.offline, output)?;
    let dataset = open(&args.data, args.data_root.as_deref(), args.offline)?;
    let options = ScoreOptions { category: &args.category, max_length: args.max_length, compat_trl };
    let stop = watch_interrupts(output, "nothing of it is kept")?;
    let scored = score_rewards(&path, reference.adapter.as_deref(), &dataset, &options, &stop, &mut |_| {})?;
    let Some(RewardScore { left_out, results: found }) = scored else { return Ok(Verdict::Interrupted) };
    if left_out > 0 {
        output
            .note(&format!("{left_out} pairs are longer than {} tokens and were left out", args.max_length));
    }
    if args.json {
        output.json(&json!({ "model": reference.to_string(), "left_out": left_out, "results": found }))?;
    } else {
        output.result(&text(&found))?;
    }
    let low = args.at_least.is_some_and(|least| found.first().is_none_or(|all| all.accuracy < least));
    Ok(if low { Verdict::Failed } else { Verdict::Good })
}

fn text(found: &[RewardAccuracy]) -> String {
    let mut table =
        Table::new(&["category", "pairs", "accuracy", "95 %", "ties", "margin"], &[1, 2, 3, 4, 5]);
    for row in found {
        let interval = row.interval.map_or_else(
            || "-".to_owned(),
            |[low, high]| format!("{} – {}", percent_or_number(low), percent_or_number(high)),
        );
        table.push(vec![
            row.category.clone().unwrap_or_else(|| "all".to_owned()),
            row.pairs.to_string(),
            percent_or_number(row.accuracy),
            interval,
            row.ties.to_string(),
            percent_or_number(row.margin),
        ]);
    }
    table.text()
}
