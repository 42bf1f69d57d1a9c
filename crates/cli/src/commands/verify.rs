use std::collections::BTreeMap;

use evalign_bench::{Verification, VerifyOptions, verify as compare};

use crate::Verdict;
use crate::args::VerifyArgs;
use crate::commands::context::{find_to_read, scoreboard};
use crate::output::{Failure, Output};

/// Divergences that are printed of each file; `--json` has all.
const SHOWN: usize = 5;

pub(super) fn verify(args: &VerifyArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, run) = find_to_read(&args.run)?;
    let board = scoreboard(&run, &args.data, true)?;
    let options =
        VerifyOptions { tolerance: args.tolerance, task: args.task.clone(), ..VerifyOptions::default() };
    let mut found = Vec::new();
    for file in &args.against {
        found.push(compare(&store, &id, &board, file, &options)?);
    }
    if args.json {
        output.json(&found)?;
    } else {
        for verification in &found {
            output.result(&text(verification))?;
        }
    }
    let agrees = found.iter().all(|verification| verification.divergences.is_empty());
    Ok(if agrees { Verdict::Good } else { Verdict::Failed })
}

fn text(found: &Verification) -> String {
    let mut lines = vec![format!(
        "{}: {} of {} items equal to {}",
        found.task,
        found.equal,
        found.items,
        found.file.display()
    )];
    if found.outside > 0 {
        lines.push(format!("  {} more are about documents that the run leaves out", found.outside));
    }
    if let Some(difference) = found.largest_difference {
        lines.push(format!("  largest difference of a log-likelihood: {difference:.2e}"));
    }
    if found.within_margin > 0 {
        lines.push(format!(
            "  {} of them decided differently, with a margin within the tolerance",
            found.within_margin
        ));
    }
    let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
    for divergence in &found.divergences {
        *causes.entry(divergence.cause.name()).or_default() += 1;
    }
    for (cause, count) in causes {
        lines.push(format!("  {count} part in the step: {cause}"));
    }
    if let Some(first) = found.divergences.first() {
        lines.push(format!("  first divergence: document {}, {}", first.doc, first.cause.name()));
    }
    for divergence in found.divergences.iter().take(SHOWN) {
        lines.push(format!(
            "    document {}, {}: {}",
            divergence.doc,
            divergence.cause.name(),
            divergence.detail
        ));
    }
    lines.join("\n")
}
