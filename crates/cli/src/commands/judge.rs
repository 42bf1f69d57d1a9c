mod diagram;
mod score;
mod text;
mod vote;

pub(super) use score::{Wanted, run_file};
pub(super) use text::{bias as bias_text, judging as judging_text};

use evalign_bench::{Arena, ArenaRequest, Asked, RunOfSteps as _};
use evalign_core::RunStatus;
use evalign_judge::{JudgeOptions, Rubric};
use evalign_model::Model;
use serde_json::json;

use crate::Verdict;
use crate::args::{JudgeArgs, JudgeCommand, JudgeCompareArgs};
use crate::commands::context::{absolute, open_store, owner};
use crate::commands::injections;
use crate::commands::procedure::{answer_request, cast, located, on_runtime, stopped};
use crate::output::{Failure, Output};

pub(super) fn judge(command: JudgeCommand, output: Output) -> Result<Verdict, Failure> {
    match command {
        JudgeCommand::Score(args) => score::score(&args, output),
        JudgeCommand::Compare(args) => compare(&args, output),
        JudgeCommand::Calibrate(args) => score::calibrate(&args, output),
        JudgeCommand::Vote(args) => vote::vote(&args, output),
        JudgeCommand::Injections(args) => injections::injections(&args, output),
        JudgeCommand::Rubrics { schema: true } => {
            output.json(&Rubric::schema())?;
            Ok(Verdict::Good)
        }
        JudgeCommand::Rubrics { schema: false } => {
            output.result(&text::rubrics()?)?;
            Ok(Verdict::Good)
        }
    }
}

/// How judges are asked, as far as it is typed.
fn asked(args: &JudgeArgs, seed: u64) -> Result<Asked, Failure> {
    if !(args.judge_temperature.is_finite() && args.judge_temperature >= 0.0) {
        let message = format!("`--judge-temperature` is {}", args.judge_temperature);
        return Err(Failure::new(message, "use 0 or more"));
    }
    let options = JudgeOptions {
        seed,
        temperature: args.judge_temperature,
        explanation_tokens: args.explanation_tokens,
        retries: args.verdict_retries,
        constrained: !args.free_form,
    };
    Ok(Asked { rubric: rubric_place(&args.rubric), options, aggregate: args.aggregate })
}

/// A file is named by where it is, so that the run can be resumed from another directory.
fn rubric_place(rubric: &str) -> String {
    let path = std::path::Path::new(rubric);
    if path.is_relative() && path.is_file() {
        absolute(path).display().to_string()
    } else {
        rubric.to_owned()
    }
}

fn compare(args: &JudgeCompareArgs, output: Output) -> Result<Verdict, Failure> {
    let Some(first) = args.models.first() else {
        return Err(Failure::new("no model is named", "name two models or more"));
    };
    let asked = asked(&args.judge, args.answers.seed)?;
    let request = ArenaRequest {
        procedure: ArenaRequest::PROCEDURE.to_owned(),
        run: answer_request(first, Vec::new(), &args.answers),
        competitors: args.models.iter().map(located).collect(),
        judges: args.judge.judge.iter().map(located).collect(),
        asked: json!(asked),
        prompts: absolute(&args.prompts),
        weights: Vec::new(),
    };
    run_arena(request, args.json, output)
}

/// Runs what is open of an arena, also of one that was stored.
pub(super) fn run_arena(request: ArenaRequest, as_json: bool, output: Output) -> Result<Verdict, Failure> {
    let asked = Asked::read(&request.asked)?;
    // Whatever can fail without weights fails before they are loaded.
    ArenaRequest::check_competitors(&request.competitors)?;
    let verdicts = asked.verdicts(&request.run.include_path)?;
    let store = open_store()?;
    let competitors = request.competitors.iter().map(|model| (model, request.generation()));
    let judges = request.judges.iter().map(|judge| (judge, verdicts.clone()));
    let parts: Vec<_> = competitors.chain(judges).collect();
    let models = cast(&parts, &request.run, &store, output)?;
    let judges = asked.judges(&request.judges, &models, &request.run.include_path)?;
    let competitors = models.all(&request.competitors)?;
    let competitors: Vec<&dyn Model> = competitors.iter().map(|model| &**model).collect();
    let arena = Arena::new(request, &competitors, &judges)?;
    let mut run = arena.start(&store, &owner("judge compare"))?;
    models.spend_for(&mut run, &store)?;
    let (done, total) = (run.finished(), arena.total_samples());
    output.note(&format!("{} in {}: {done} of {total} samples are there", run.id, store.path().display()));
    let status = on_runtime(output, async |progress, cancel| {
        arena.drive(&mut run, &competitors, progress, cancel).await
    })?;
    let id = run.id.clone();
    if let Some(verdict) = stopped(&id, status, output) {
        run.release()?;
        return Ok(verdict);
    }
    let outcome = arena.outcome(&store, &run.steps(), asked.aggregate)?;
    run.complete(&json!(outcome))?;
    run.release()?;
    if as_json {
        output.json(&json!({"run_id": id, "status": RunStatus::Completed, "report": outcome}))?;
    } else {
        output.result(&text::arena(&outcome))?;
    }
    for judge in &outcome.judges {
        if judge.bias.flip_rate.as_ref().is_some_and(|flips| flips.value > 0.5) {
            output
                .note(&format!("note: {} goes by the order: most of its verdicts flip with it", judge.judge));
        }
    }
    if outcome.judges.is_empty() && outcome.votes == 0 {
        output.note(&format!("nobody has judged yet\nhint: `evalign judge vote {id}` asks you, blind"));
        return Ok(Verdict::Good);
    }
    // Equal answers are a tie without anybody's verdict.
    let judged: u64 = outcome.judges.iter().map(|judge| judge.bias.pairs).sum();
    let unscored: u64 = outcome.judges.iter().map(|judge| judge.bias.unscored).sum();
    let silent = judged > 0 && unscored == judged && outcome.votes == 0;
    let undecided = silent || outcome.report.standings.iter().all(|standing| standing.battles == 0);
    if undecided {
        output.note("no comparison has a verdict: nobody is rated\nhint: try another judge or rubric");
        return Ok(Verdict::Failed);
    }
    Ok(Verdict::Good)
}
