use std::path::Path;

use evalign_bench::{Asked, FileJudging, FileJudgingRequest, JudgedSource, JudgingReport, RunOfSteps as _};
use evalign_core::RunStatus;
use serde_json::json;

use super::{asked, diagram, text};
use crate::Verdict;
use crate::args::{AnswerArgs, JudgeArgs, JudgeCalibrateArgs, JudgeScoreArgs};
use crate::commands::context::{absolute, open_store, open_store_to_read, owner};
use crate::commands::procedure::{answer_request, cast, located, on_runtime, stopped};
use crate::output::{Failure, Output};

/// What is wanted of a judged file.
#[derive(Clone, Copy, Debug, Default)]
pub(in crate::commands) struct Wanted<'a> {
    pub(in crate::commands) json: bool,
    /// Without a label the run fails.
    pub(in crate::commands) labels: bool,
    pub(in crate::commands) diagram: Option<&'a Path>,
}

pub(super) fn score(args: &JudgeScoreArgs, output: Output) -> Result<Verdict, Failure> {
    if args.repeats > 1 && args.judge.judge_temperature == 0.0 {
        output.note("note: repeats of the likeliest verdict are the same verdict; set `--judge-temperature`");
    }
    let request = request(&args.source, &args.judge, args.repeats, &args.answers)?;
    run_file(&request, Wanted { json: args.json, ..Wanted::default() }, output)
}

pub(super) fn calibrate(args: &JudgeCalibrateArgs, output: Output) -> Result<Verdict, Failure> {
    let request = request(&args.labels.display().to_string(), &args.judge, 1, &args.answers)?;
    run_file(&request, Wanted { json: args.json, labels: true, diagram: args.diagram.as_deref() }, output)
}

fn request(
    source: &str,
    judge: &JudgeArgs,
    repeats: u32,
    answers: &AnswerArgs,
) -> Result<FileJudgingRequest, Failure> {
    let first = judge.judge.first();
    let first = first.ok_or_else(|| Failure::new("no judge is named", "name a model with `--judge`"))?;
    let mut run = answer_request(first, Vec::new(), answers);
    run.repeats = Some(repeats);
    Ok(FileJudgingRequest {
        procedure: FileJudgingRequest::PROCEDURE.to_owned(),
        asked: json!(asked(judge, answers.seed)?),
        judges: judge.judge.iter().map(located).collect(),
        source: source_of(source)?,
        run,
    })
}

/// A file, where there is one or what is typed looks like one; else a run of the store.
fn source_of(source: &str) -> Result<JudgedSource, Failure> {
    let path = Path::new(source);
    if path.exists() || path.extension().is_some() || path.components().count() > 1 {
        return Ok(JudgedSource::File(absolute(path)));
    }
    Ok(JudgedSource::Run(open_store_to_read()?.find_run(source)?))
}

/// Runs what is open of a judged file, also of one that was stored.
pub(in crate::commands) fn run_file(
    request: &FileJudgingRequest,
    wanted: Wanted<'_>,
    output: Output,
) -> Result<Verdict, Failure> {
    let asked = Asked::read(&request.asked)?;
    let verdicts = asked.verdicts(&request.run.include_path)?;
    let store = open_store()?;
    let parts: Vec<_> = request.judges.iter().map(|judge| (judge, verdicts.clone())).collect();
    let models = cast(&parts, &request.run, &store, output)?;
    let judges = asked.judges(&request.judges, &models, &request.run.include_path)?;
    let judging = FileJudging::new(request, &judges, &store)?;
    if wanted.labels && judging.rows().iter().all(|row| row.label.is_none()) {
        return Err(Failure::new(
            format!("{}: no row has a label", request.source),
            "give rows a `label`: A, B or tie for two answers, a score or true or false for one",
        ));
    }
    let mut run = judging.start(&store, &owner("judge"))?;
    models.spend_for(&mut run, &store)?;
    let (done, total) = (run.finished(), judging.total_samples());
    output.note(&format!("{} in {}: {done} of {total} samples are there", run.id, store.path().display()));
    let status =
        on_runtime(output, async |progress, cancel| judging.drive(&mut run, progress, cancel).await)?;
    let id = run.id.clone();
    if let Some(verdict) = stopped(&id, status, output) {
        run.release()?;
        return Ok(verdict);
    }
    let report = judging.report(&run.steps(), asked.aggregate)?;
    run.complete(&json!(report))?;
    run.release()?;
    if let (Some(path), Some(calibration)) = (wanted.diagram, &report.calibration) {
        output.file(path, &diagram::reliability(calibration))?;
    }
    if wanted.json {
        output.json(&json!({"run_id": id, "status": RunStatus::Completed, "report": report}))?;
    } else {
        output.result(&text::judging(&report))?;
    }
    Ok(verdict(&report, output))
}

fn verdict(report: &JudgingReport, output: Output) -> Verdict {
    if report.decided > 0 {
        return Verdict::Good;
    }
    output.note(
        "no row has a verdict: everything is unscored\n\
         hint: `evalign show last --samples` shows what the judge wrote; try another judge or rubric",
    );
    Verdict::Failed
}
