mod diagram;
mod score;
mod text;
mod vote;

pub(super) use score::{Wanted, run_file};

use evalign_bench::{Arena, ArenaRequest};
use evalign_core::{GenerateParams, ModelRef, RunStatus};
use evalign_judge::{Aggregation, Judge, JudgeOptions, Prompts, Rubric};
use evalign_model::Model;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Verdict;
use crate::args::{JudgeArgs, JudgeCommand, JudgeCompareArgs};
use crate::commands::context::{absolute, open_store, owner};
use crate::commands::injections;
use crate::commands::procedure::{Models, answer_request, located, on_runtime, stopped, verdicts};
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
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Asked {
    pub(super) rubric: String,
    pub(super) options: JudgeOptions,
    pub(super) aggregate: Aggregation,
}

impl Asked {
    fn of(args: &JudgeArgs, seed: u64) -> Result<Self, Failure> {
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
        Ok(Self { rubric: rubric_place(&args.rubric), options, aggregate: args.aggregate })
    }

    /// How the judges will be asked.
    fn verdicts(&self, include_path: &[std::path::PathBuf]) -> Result<GenerateParams, Failure> {
        Ok(verdicts(&Rubric::find(&self.rubric, include_path)?, &self.options))
    }

    /// The judges, each with the rubric.
    fn judges(
        &self,
        references: &[ModelRef],
        models: &Models,
        include_path: &[std::path::PathBuf],
    ) -> Result<Vec<Judge>, Failure> {
        let rubric = Rubric::find(&self.rubric, include_path)?;
        let prompts = std::sync::Arc::new(Prompts::load(include_path)?);
        let judge = |reference: &ModelRef| -> Result<Judge, Failure> {
            let model = models.get(reference)?;
            Ok(Judge::new(model, rubric.clone(), prompts.clone(), self.options.clone())?)
        };
        references.iter().map(judge).collect()
    }
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
    let asked = Asked::of(&args.judge, args.answers.seed)?;
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
    let asked: Asked = serde_json::from_value(request.asked.clone()).map_err(anyhow::Error::from)?;
    // Whatever can fail without weights fails before they are loaded.
    let verdicts = asked.verdicts(&request.run.include_path)?;
    let store = open_store()?;
    let competitors = request.competitors.iter().map(|model| (model, request.generation()));
    let judges = request.judges.iter().map(|judge| (judge, verdicts.clone()));
    let parts: Vec<_> = competitors.chain(judges).collect();
    let models = Models::load(&parts, &request.run, &store, output)?;
    let judges = asked.judges(&request.judges, &models, &request.run.include_path)?;
    let competitors = request.competitors.iter().map(|reference| models.get(reference));
    let competitors = competitors.collect::<Result<Vec<_>, _>>()?;
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
