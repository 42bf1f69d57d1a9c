use evalign_bench::rescore as score_again;

use crate::Verdict;
use crate::args::RescoreArgs;
use crate::commands::context::{find, owner, scoreboard};
use crate::commands::show::results_text;
use crate::output::{Failure, Output};

pub(super) fn rescore(args: &RescoreArgs, output: Output) -> Result<Verdict, Failure> {
    let (store, id, run) = find(&args.run)?;
    // Task files may have changed since: scoring by what they say now is the point.
    let board = scoreboard(&run, &args.data, false)?;
    let known = board.filters();
    if let Some(filter) = args.extractor.as_deref().filter(|filter| !known.contains(filter)) {
        let names: Vec<&str> = known.into_iter().collect();
        return Err(Failure::new(
            format!("the tasks of {id} have no extractor `{filter}`"),
            format!(
                "they have {}; add one under `filters` in a task file of your own (`--include-path`)",
                names.join(", ")
            ),
        ));
    }
    let mut rescored = score_again(&store, &id, &board, &owner("rescore"))?;
    if let Some(filter) = &args.extractor {
        for result in &mut rescored.results.results {
            result.metrics.retain(|metric| metric.filter == *filter);
        }
    }
    output.note(&format!("{} of {} samples are scored differently now", rescored.changed, rescored.samples));
    if rescored.other_rules {
        output.note(
            "the rules are not those the run was started with: its results stand under a protocol of their own",
        );
    }
    if args.json {
        output.json(&rescored.results)?;
    } else {
        output.result(&results_text(&rescored.results))?;
    }
    Ok(Verdict::Good)
}
