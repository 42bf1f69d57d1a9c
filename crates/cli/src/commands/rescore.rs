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
    let extractor = args.extractor.as_deref();
    let rescored = score_again(&store, &id, &board, extractor, &owner("rescore"))?;
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
