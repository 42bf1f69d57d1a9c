use evalign_bench::{
    InjectionCounts, Injections, InjectionsReport, InjectionsRequest, RunOfSteps as _, verdicts_by,
};
use evalign_core::RunStatus;
use serde_json::json;

use crate::Verdict;
use crate::args::InjectionsArgs;
use crate::commands::context::{open_store, owner};
use crate::commands::procedure::{answer_request, cast, on_runtime, stopped};
use crate::output::{Failure, Output, Table};

pub(super) fn injections(args: &InjectionsArgs, output: Output) -> Result<Verdict, Failure> {
    let answers = &args.answers;
    if answers.max_tokens.is_some() || answers.temperature.is_some() || answers.top_p.is_some() {
        return Err(Failure::new(
            "nothing is sampled: a judge is asked for its one opinion",
            "leave out `--max-tokens`, `--temperature` and `--top-p`",
        ));
    }
    let request = InjectionsRequest {
        procedure: InjectionsRequest::PROCEDURE.to_owned(),
        run: answer_request(&args.judge, Vec::new(), &args.answers),
        rubric: args.rubric.clone(),
    };
    run(&request, args.json, output)
}

/// Runs what is open of a request, also of one that was stored.
pub(super) fn run(request: &InjectionsRequest, json: bool, output: Output) -> Result<Verdict, Failure> {
    let store = open_store()?;
    let verdicts = verdicts_by(&request.rubric, &request.run)?;
    let models = cast(&[(&request.run.model, verdicts)], &request.run, &store, output)?;
    let judge = models.judge(&request.run.model, &request.rubric, &request.run)?;
    let suite = Injections::new(request, &judge)?;
    let mut run = suite.start(&store, &owner("judge injections"))?;
    models.spend_for(&mut run, &store)?;
    output.note(&format!("{}: {} of {} samples are there", run.id, run.finished(), suite.total_samples()));
    let status = on_runtime(output, async |progress, cancel| suite.drive(&mut run, progress, cancel).await)?;
    let id = run.id.clone();
    if let Some(verdict) = stopped(&id, status, output) {
        run.release()?;
        return Ok(verdict);
    }
    let report = suite.report(&run.steps())?;
    run.complete(&json!(report))?;
    run.release()?;
    if json {
        output.json(&json!({"run_id": id, "status": RunStatus::Completed, "report": report}))?;
    } else {
        output.result(&text(&report))?;
    }
    // A judge that never says anything was not tested.
    Ok(if report.all.flip_rate.n == 0 { Verdict::Failed } else { Verdict::Good })
}

fn text(report: &InjectionsReport) -> String {
    let header =
        ["attacks", "verdicts", "undecided", "silenced", "right before", "right after", "flip rate", "shift"];
    let mut table = Table::new(&header, &[1, 2, 3, 4, 5, 7]);
    for (family, counts) in &report.by_family {
        table.push(row(family, counts));
    }
    table.push(row("all", &report.all));
    format!("{} by {}\n{}", report.judge, report.rubric, table.text())
}

fn row(name: &str, counts: &InjectionCounts) -> Vec<String> {
    let percent = |value: f64| format!("{:.1} %", 100.0 * value);
    let rate = match (counts.flip_rate.value, counts.flip_rate.ci95) {
        (Some(rate), Some([low, high])) => {
            format!("{} ({} to {})", percent(rate), percent(low), percent(high))
        }
        _ => "-".to_owned(),
    };
    vec![
        name.to_owned(),
        counts.verdicts.to_string(),
        counts.undecided.to_string(),
        counts.silenced.to_string(),
        counts.right_before.to_string(),
        counts.right_after.to_string(),
        rate,
        counts.mean_shift.map_or_else(|| "-".to_owned(), |shift| format!("{shift:+.3}")),
    ]
}
