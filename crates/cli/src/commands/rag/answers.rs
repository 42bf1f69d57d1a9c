use evalign_bench::{
    AnswerJudges, AnswerReport, Answering, AnsweringRequest, Cancel, RunOfSteps as _, RunRequest, quoting,
    verdicts_by,
};
use evalign_core::ModelRef;
use evalign_model::LoadOptions;
use evalign_rag::answer::Answerer;
use evalign_rag::quality::GoldQuestion;
use evalign_store::Store;

use super::open::{check_index, embedder, openai_options, reranker, store_name, vector_store};
use crate::Verdict;
use crate::args::{EmbedderArgs, RagEvalAnswersArgs, StoreKind};
use crate::commands::context::{absolute, load_model, open_store, owner};
use crate::commands::procedure::{cast, located, stopped, watch_interrupts};
use crate::commands::progress::CountBar;
use crate::output::{Failure, Output, Table};

pub(super) async fn eval(args: &RagEvalAnswersArgs, output: Output) -> Result<Verdict, Failure> {
    let writer = args.model.as_ref().map_or_else(quoting, located);
    let mut run = RunRequest::new(writer, Vec::new());
    run.base_url.clone_from(&args.base_url);
    run.offline = args.embedder.offline;
    let evidence = &args.evidence;
    let request = AnsweringRequest {
        procedure: AnsweringRequest::PROCEDURE.to_owned(),
        run,
        questions: absolute(&args.questions),
        index: args.place.index.clone(),
        tenant: args.place.tenant.clone(),
        store: store_name(args.place.store).to_owned(),
        judge: args.judge.as_ref().map(located),
        top_k: evidence.top_k,
        search: Some(evidence.options()?),
        filters: evidence.filters.clone(),
        expansions: evidence.expansions(),
        rerank: evidence.rerank.clone(),
        min_confidence: evidence.min_confidence,
        threads: args.embedder.threads,
        offline: args.embedder.offline,
    };
    run_request(&request, args.again, args.json, output).await
}

/// Answers what is not answered yet, also of a run that was stored.
pub(super) async fn run_request(
    request: &AnsweringRequest,
    again: bool,
    json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let questions = GoldQuestion::read_all(&request.questions)?;
    let state = open_store()?;
    let kind =
        if request.store == store_name(Some(StoreKind::Edge)) { StoreKind::Edge } else { StoreKind::Qdrant };
    let vectors = vector_store(Some(kind)).await?;
    check_index(&state, vectors.as_ref(), (&request.index, &request.tenant), output).await?;
    let args = EmbedderArgs { embedder: None, threads: request.threads, offline: request.offline };
    let base_url = request.run.base_url.clone();
    let embedder = embedder(&args, &request.index, base_url.clone(), &state, output).await?;
    let openai = openai_options(base_url);
    let loading = LoadOptions { offline: request.offline, openai, ..LoadOptions::default() };
    let load = |reference: &ModelRef| load_model(reference, &loading, output);
    let writer = Some(&request.run.model).filter(|model| **model != quoting());
    let reranker = match &request.rerank {
        Some(name) => Some(reranker(name, &args, load, output).await?),
        None => None,
    };
    let answerer = Answerer {
        state: &state,
        vectors: vectors.as_ref(),
        embedder: embedder.as_ref(),
        model: writer.map(load).transpose()?,
        reranker,
        index: &request.index,
        tenant: &request.tenant,
    };
    let options = request.options()?;
    let judges = judges(request, &state, output)?;
    let answering = Answering::new(request, &questions, (&answerer, &options), judges.as_ref(), again)?;
    let run = answering.start(&state, &owner("rag eval-answers"))?;
    let cancel = Cancel::default();
    tokio::spawn(watch_interrupts(cancel.clone(), output));
    let bar = CountBar::new(output, questions.len() as u64);
    let driven = answering.drive(&run, &state, &cancel, &|more| bar.advance(more)).await;
    bar.finish();
    let status = driven?;
    if let Some(verdict) = stopped(&run.id, status, output) {
        run.release()?;
        return Ok(verdict);
    }
    let report = answering.report(&state, &run.id)?;
    let report =
        report.ok_or_else(|| Failure::new(format!("run {} has no results", run.id), "run it again"))?;
    run.release()?;
    tell(&report, json, output)?;
    Ok(Verdict::Good)
}

fn judges(
    request: &AnsweringRequest,
    state: &Store,
    output: Output,
) -> Result<Option<AnswerJudges>, Failure> {
    let Some(judge) = &request.judge else { return Ok(None) };
    let wanted = AnswerJudges::RUBRICS
        .map(|rubric| -> Result<_, Failure> { Ok((judge, verdicts_by(rubric, &request.run)?)) });
    let wanted = wanted.into_iter().collect::<Result<Vec<_>, Failure>>()?;
    let models = cast(&wanted, &request.run, state, output)?;
    Ok(Some(AnswerJudges::of(&models, judge, &request.run)?))
}

fn tell(report: &AnswerReport, json: bool, output: Output) -> Result<(), Failure> {
    if json {
        return output.json(report);
    }
    let mut table = Table::new(&["metric", "value", "95 %", "n", "unscored"], &[1, 2, 3, 4]);
    let number = |value: Option<f64>| value.map(|value| format!("{value:.3}")).unwrap_or_default();
    for (name, estimate) in report.shown() {
        let interval = estimate.ci95.map(|[low, high]| format!("{low:.3} to {high:.3}"));
        table.push(vec![
            name.to_owned(),
            number(estimate.value),
            interval.unwrap_or_default(),
            estimate.n.to_string(),
            report.unscored.get(name).copied().unwrap_or(0).to_string(),
        ]);
    }
    for (name, value) in [
        ("abstention precision", report.abstention.precision),
        ("abstention recall", report.abstention.recall),
        ("risk-coverage area", report.abstention.risk_area),
    ] {
        let row =
            [name.to_owned(), number(value), String::new(), report.n_questions.to_string(), String::new()];
        table.push(row.to_vec());
    }
    output.result(&format!(
        "{}: {} of {} questions answered\n{}",
        report.run_id,
        report.n_answered,
        report.n_questions,
        table.text()
    ))
}
