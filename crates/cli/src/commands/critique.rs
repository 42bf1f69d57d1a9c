use std::path::Path;

use evalign_bench::{
    Catalog, Critique, CritiqueReport, CritiqueRequest, Filters, PairFiles, PrincipleCounts, RunOfSteps as _,
    Steps, critique_results, verdicts_by, write_pairs,
};
use evalign_core::RunStatus;
use evalign_data::{FileKind, Layout};
use serde_json::json;

use crate::Verdict;
use crate::args::CritiqueArgs;
use crate::commands::context::{absolute, open_store, owner, roots};
use crate::commands::judge;
use crate::commands::pairs::{NO_VERDICT, Wanted, decontamination};
use crate::commands::procedure::{answer_request, cast, located, on_runtime, stopped};
use crate::output::{Failure, Output, Table};

pub(super) fn critique(args: &CritiqueArgs, output: Output) -> Result<Verdict, Failure> {
    let request = CritiqueRequest {
        procedure: CritiqueRequest::PROCEDURE.to_owned(),
        run: answer_request(&args.model, Vec::new(), &args.answers),
        prompts: absolute(&args.prompts),
        constitution: args.constitution.clone(),
        rounds: args.rounds,
        judge: located(args.judge.as_ref().unwrap_or(&args.model)),
        rubric: args.rubric.clone(),
        bound: None,
    };
    run(request, (args.out.as_deref(), args.format), args.json, output)
}

/// Runs what is open of a request, also of one that was stored.
pub(super) fn run(
    request: CritiqueRequest,
    (out, kind): (Option<&Path>, FileKind),
    json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let store = open_store()?;
    let verdicts = verdicts_by(&request.rubric, &request.run)?;
    let parts = [(&request.run.model, request.generation()), (&request.judge, verdicts)];
    let models = cast(&parts, &request.run, &store, output)?;
    let model = models.get(&request.run.model)?;
    let judge = models.judge(&request.judge, &request.rubric, &request.run)?;
    let critique = Critique::new(request, &*model, &judge)?;
    let mut run = critique.start(&store, &owner("critique"))?;
    models.spend_for(&mut run, &store)?;
    output.note(&format!(
        "{} in {}: {} of up to {} samples are there",
        run.id,
        store.path().display(),
        run.finished(),
        critique.total_samples()
    ));
    let status = on_runtime(output, async |progress, cancel| {
        critique.drive(&mut run, &*model, progress, cancel).await
    })?;
    let id = run.id.clone();
    if let Some(verdict) = stopped(&id, status, output) {
        run.release()?;
        return Ok(verdict);
    }
    let (report, _) = critique_results(&run.steps(), &critique.request)?;
    run.complete(&json!(report))?;
    run.release()?;
    if let Some(out) = out {
        // All of them in one file: `evalign pairs export` divides.
        let filters = Filters { held_out: 0.0, ..Filters::default() };
        let files = PairFiles { kind, ..PairFiles::default() };
        let wanted = Wanted { out: Some(out), filters, strategy: None, decontaminate: true, files, json };
        write(&Steps::of(&store, &id), &critique.request, &wanted, output)?;
    } else {
        output.note(&format!("hint: `evalign pairs export {id} --out DIR` writes its rows"));
    }
    if json {
        output.json(&json!({"run_id": id, "status": RunStatus::Completed, "report": report}))?;
    } else {
        output.result(&text(&report))?;
    }
    let sum = |count: fn(&PrincipleCounts) -> u64| report.by_round.values().map(count).sum::<u64>();
    let decided = sum(|counts| counts.verified + counts.lost + counts.even);
    if sum(|counts| counts.undecided) > 0 && decided == 0 {
        output.note(NO_VERDICT);
        return Ok(Verdict::Failed);
    }
    Ok(Verdict::Good)
}

/// Writes the rows of a run: pairs as asked for, the others in the one layout that fits them.
pub(super) fn write(
    steps: &Steps,
    request: &CritiqueRequest,
    wanted: &Wanted<'_>,
    output: Output,
) -> Result<(), Failure> {
    let Some(out) = wanted.out else { return Ok(()) };
    let catalog = Catalog::load(&request.run.include_path)?;
    let roots = roots(&request.run)?;
    let index = decontamination(wanted, &catalog, &roots)?;
    let (pairs, files, report) =
        critique_results(steps, request)?.1.filtered(&wanted.filters, index.as_ref());
    let divided = |held_out: bool| {
        pairs.iter().filter(move |(held, _)| *held == held_out).map(|(_, pair)| pair).collect::<Vec<_>>()
    };
    let as_layout = |layout| PairFiles { layout, ..wanted.files };
    let mut to_write = vec![("pairs", divided(false), wanted.files)];
    if wanted.filters.held_out > 0.0 {
        to_write.push(("held_out", divided(true), wanted.files));
    }
    to_write.push(("hard_negatives", files.hard_negatives.iter().collect(), as_layout(Layout::Unpaired)));
    to_write.push(("imitated", files.imitated.iter().collect(), as_layout(Layout::PromptCompletion)));
    for (name, rows, files) in to_write {
        let (path, rows) = write_pairs(out, name, rows, files)?;
        output.note(&format!("{rows} rows in {}", path.display()));
    }
    let left_out = report.pairs - report.train - report.held_out;
    if left_out > 0 {
        output.note(&format!(
            "note: {left_out} of {} pairs are left out, {} of them because a question of a task stands in them",
            report.pairs, report.dropped.contaminated
        ));
    }
    Ok(())
}

fn text(report: &CritiqueReport) -> String {
    let header =
        ["principle", "used", "verified", "lost", "even", "undecided", "unchanged", "refusals", "undid"];
    let mut table = Table::new(&header, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for (name, counts) in &report.by_principle {
        table.push(row(name, counts));
    }
    for (round, counts) in &report.by_round {
        table.push(row(&format!("round {round}"), counts));
    }
    let share = report.yield_share.map_or_else(String::new, |share| format!(" ({:.1} %)", 100.0 * share));
    let bias = report.bias.as_ref().map_or_else(String::new, |bias| judge::bias_text("the judge", bias));
    format!(
        "{}\n{} prompts, {} answered; {} revisions, {} verified gains{share} on {} prompts\n\
         met the token limit: {} answers, {} critiques (used as far as they go), {} revisions\n\
         refusals: {} of the first answers, {} of the last revisions\n{bias}",
        table.text(),
        report.prompts,
        report.answered,
        report.revisions,
        report.verified,
        report.prompts_with_gain,
        report.cut.answers,
        report.cut.critiques,
        report.cut.revisions,
        report.refusals_first,
        report.refusals_last,
    )
}

fn row(name: &str, counts: &PrincipleCounts) -> Vec<String> {
    vec![
        name.to_owned(),
        counts.used.to_string(),
        counts.verified.to_string(),
        counts.lost.to_string(),
        counts.even.to_string(),
        counts.undecided.to_string(),
        counts.unchanged.to_string(),
        format!("{} -> {}", counts.refusals_before, counts.refusals_after),
        counts.undid_gains.to_string(),
    ]
}
