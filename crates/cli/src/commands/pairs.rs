mod check;
mod export;

pub(super) use check::check;
pub(super) use export::{export, request};

use std::path::Path;

use evalign_bench::{
    Build, BuiltPair, Catalog, Decontamination, Filters, PairFiles, PairsReport, PairsRequest, Steps,
    verdicts_by, write_pairs,
};
use evalign_core::{GenerateParams, ModelRef, RunId, RunStatus};
use evalign_data::DataRoots;
use evalign_judge::Strategy;
use evalign_model::Model;
use serde_json::json;

use crate::Verdict;
use crate::args::{FileArgs, FilterArgs, PairsBuildArgs};
use crate::commands::context::{absolute, open_store, owner, roots};
use crate::commands::judge;
use crate::commands::procedure::{answer_request, cast, located, on_runtime, stopped};
use crate::output::{Failure, Output};

/// Where rows go, and which.
pub(super) struct Wanted<'a> {
    pub(super) out: Option<&'a Path>,
    pub(super) filters: Filters,
    /// Instead of the one the run was started with.
    pub(super) strategy: Option<Strategy>,
    pub(super) decontaminate: bool,
    pub(super) files: PairFiles,
    pub(super) json: bool,
}

pub(super) fn build(args: &PairsBuildArgs, output: Output) -> Result<Verdict, Failure> {
    let (Some(first), more) = (args.model.first(), args.model.get(1..).unwrap_or_default()) else {
        return Err(Failure::new("no model is named", "add `--model REF`"));
    };
    let strategy = args.filters.strategy.unwrap_or(if args.prompts.is_some() {
        Strategy::BestVsWorst
    } else {
        Strategy::RightVsWrong
    });
    let mut run = answer_request(first, args.task.clone(), &args.answers);
    run.repeats = Some(args.samples);
    if args.prompts.is_none() {
        // A task's own definition says how its answers are drawn, which is greedily: all alike.
        run.temperature.get_or_insert(0.8);
        run.shots = Some(args.shots);
    }
    let request = PairsRequest {
        procedure: PairsRequest::PROCEDURE.to_owned(),
        run,
        more_models: more.iter().map(located).collect(),
        judge: args.judge.as_ref().map(located),
        rubric: args.rubric.clone(),
        constitution: args.constitution.clone(),
        prompts: args.prompts.as_deref().map(absolute),
        strategy,
        samplers: Vec::new(),
        judge_digest: None,
        judge_weights: None,
        rubric_digest: None,
        constitution_digest: None,
    };
    let wanted = Wanted {
        out: Some(&args.out),
        filters: filters(&args.filters)?,
        strategy: None,
        decontaminate: !args.filters.no_decontamination,
        files: pair_files(&args.files),
        json: args.json,
    };
    run_request(request, &wanted, output)
}

pub(super) fn filters(args: &FilterArgs) -> Result<Filters, Failure> {
    for (name, value) in [
        ("min-margin", args.min_margin),
        ("min-probability", args.min_probability),
        ("similarity", args.similarity),
        ("held-out", args.held_out),
    ] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Failure::new(format!("`--{name}` is {value}"), "use a number from 0 to 1"));
        }
    }
    Ok(Filters {
        min_margin: args.min_margin,
        min_probability: args.min_probability,
        agreed: args.agreed,
        similarity: args.similarity,
        per_prompt: args.per_prompt.unwrap_or(usize::MAX),
        balance_length: args.balance_length,
        held_out: args.held_out,
    })
}

pub(super) fn pair_files(args: &FileArgs) -> PairFiles {
    PairFiles { layout: args.layout, style: args.style, kind: args.format }
}

/// Runs what is open of a request, also of one that was stored.
pub(super) fn run_request(
    request: PairsRequest,
    wanted: &Wanted<'_>,
    output: Output,
) -> Result<Verdict, Failure> {
    let catalog = Catalog::load(&request.run.include_path)?;
    let roots = roots(&request.run)?;
    let store = open_store()?;
    // Whatever can fail without weights fails before they are loaded.
    let generations = request.generations(&catalog, &roots)?;
    let index = decontamination(wanted, &catalog, &roots)?;
    let mut parts: Vec<(&ModelRef, GenerateParams)> = Vec::new();
    for model in std::iter::once(&request.run.model).chain(&request.more_models) {
        parts.extend(generations.iter().map(|params| (model, params.clone())));
    }
    if let Some(judge) = &request.judge {
        parts.push((judge, verdicts_by(&request.rubric, &request.run)?));
    }
    let loaded = cast(&parts, &request.run, &store, output)?;
    let judge = loaded.judges_of(&request)?;
    let samplers = loaded.all(std::iter::once(&request.run.model).chain(&request.more_models))?;
    let samplers: Vec<&dyn Model> = samplers.iter().map(|model| &**model).collect();
    let build = Build::new(request, (&catalog, &roots), &samplers, judge.as_ref())?;
    for note in build.notes() {
        output.note(&format!("note: {note}"));
    }
    let mut run = build.start(&store, &owner("pairs build"))?;
    loaded.spend_for(&mut run, &store)?;
    output.note(&format!(
        "{} in {}: {} of up to {} samples are there",
        run.id,
        store.path().display(),
        run.finished(),
        build.total_samples()
    ));
    let status = on_runtime(output, async |progress, cancel| {
        build.drive(&mut run, (&samplers, judge.as_ref()), progress, cancel).await
    })?;
    let id = run.id.clone();
    if let Some(verdict) = stopped(&id, status, output) {
        run.release()?;
        return Ok(verdict);
    }
    let (rows, report) = pairs(&run.steps(), &build.request, wanted, (&catalog, &roots), index.as_ref())?;
    run.complete(&json!(report))?;
    run.release()?;
    if let Some(out) = wanted.out {
        write(out, &rows, wanted.files, output)?;
    } else {
        output.note(&format!("hint: `evalign pairs export {id} --out DIR` writes its rows"));
    }
    tell(&id, &report, wanted, output)?;
    if report.judged.is_some_and(|judged| judged.comparisons > 0 && judged.undecided == judged.comparisons) {
        output.note(NO_VERDICT);
        return Ok(Verdict::Failed);
    }
    Ok(Verdict::Good)
}

/// How a run ends whose judge said nothing.
pub(super) const NO_VERDICT: &str = "no comparison has a verdict: nothing is preferred to anything\n\
     hint: `evalign show last --samples` shows what the judge wrote; try another judge or rubric";

/// The questions that no row may hold, where they are wanted out.
pub(super) fn decontamination(
    wanted: &Wanted<'_>,
    catalog: &Catalog,
    roots: &DataRoots,
) -> Result<Option<Decontamination>, Failure> {
    Ok(wanted.decontaminate.then(|| Decontamination::of_tasks(None, catalog, roots)).transpose()?)
}

/// The pairs of a run, from what is stored.
pub(super) fn pairs(
    steps: &Steps,
    request: &PairsRequest,
    wanted: &Wanted<'_>,
    (catalog, roots): (&Catalog, &DataRoots),
    index: Option<&Decontamination>,
) -> Result<(Vec<(bool, BuiltPair)>, PairsReport), Failure> {
    let strategy = wanted.strategy.unwrap_or(request.strategy);
    Ok(Build::pairs(steps, request, strategy, &wanted.filters, (catalog, roots), index)?)
}

/// Writes `train` and `held_out`.
pub(super) fn write(
    out: &Path,
    rows: &[(bool, BuiltPair)],
    files: PairFiles,
    output: Output,
) -> Result<(), Failure> {
    for (name, wanted) in [("train", false), ("held_out", true)] {
        let mine = rows.iter().filter(|(held_out, _)| *held_out == wanted).map(|(_, pair)| pair);
        let (path, rows) = write_pairs(out, name, mine, files)?;
        output.note(&format!("{rows} rows in {}", path.display()));
    }
    Ok(())
}

/// The first few names of a list, and how many there are.
fn some_of(names: &[String]) -> String {
    const SHOWN: usize = 4;
    match names {
        [] => "none".to_owned(),
        few if few.len() <= SHOWN => few.join(", "),
        many => format!("{} and {} more (`--json` names them)", many[..SHOWN].join(", "), many.len() - SHOWN),
    }
}

pub(super) fn tell(
    id: &RunId,
    report: &PairsReport,
    wanted: &Wanted<'_>,
    output: Output,
) -> Result<(), Failure> {
    if let Some(why) = report.nothing_balances() {
        output.note(why);
    }
    if let Some(why) = report.goes_by_order() {
        output.note(&why);
    }
    if wanted.json {
        return output.json(&json!({
            "run_id": id, "status": RunStatus::Completed, "filters": wanted.filters, "report": report,
        }));
    }
    let mut lines = vec![format!(
        "{} answers, {} finished; {} pairs on {} prompts before division: {} for training, {} held out",
        report.answers,
        report.finished_answers,
        report.pairs,
        report.prompts_with_pairs,
        report.train,
        report.held_out
    )];
    if let Some(graded) = &report.graded {
        lines.push(format!(
            "answers: {} right, {} wrong, {} undecided; {} training rows left out because they stand in the evaluated rows",
            graded.right, graded.wrong, graded.undecided, graded.rows_in_evaluation
        ));
    }
    if let Some(judged) = &report.judged {
        lines.push(format!(
            "comparisons: {} pairs of answers, {} agreed in both orders, {} flipped with the order, {} ties, {} undecided",
            judged.comparisons, judged.agreed, judged.flipped, judged.ties, judged.undecided
        ));
    }
    let dropped = &report.dropped;
    lines.push(format!(
        "left out: {} without a verdict, {} by margin, {} by probability, {} by disagreement, {} near-duplicate prompts, {} contaminated, \
         {} over the number per prompt, {} for length",
        dropped.undecided,
        dropped.margin,
        dropped.probability,
        dropped.disagreement,
        dropped.near_duplicate_prompt,
        dropped.contaminated,
        dropped.more_than_per_prompt,
        dropped.length_balance
    ));
    if let Some(share) = report.lengths.chosen_longer_share() {
        lines.push(format!(
            "the chosen side is the longer one in {:.0} % of those that differ",
            100.0 * share
        ));
    }
    lines.extend(report.bias.as_ref().map(|bias| judge::bias_text("the judge", bias)));
    if let Some(compared) = &report.decontamination {
        lines.push(format!(
            "compared with {} questions of {} tasks; not on this machine: {}",
            compared.questions,
            compared.tasks.len(),
            some_of(&compared.unavailable)
        ));
    }
    output.result(&lines.join("\n"))
}
