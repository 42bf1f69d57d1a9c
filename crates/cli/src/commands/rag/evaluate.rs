use std::path::Path;
use std::sync::Arc;

use evalign_bench::{
    Cancel, RerankRequest, Retrieval, RetrievalReport, RetrievalRequest, RetrievalTools, RunRequest,
    retrieval_difference, retrieval_metrics, way_of_searching,
};
use evalign_core::{Digest, ModelRef, RunStatus};
use evalign_model::{LoadOptions, Model};
use evalign_rag::{
    BeirCollection, BeirReport, Embedder, MetricDifference, PerQuery, Reranker, RetrievalMetrics, SearchMode,
    SearchWay,
};
use evalign_store::Store;

use super::open::{self, embedder_name, embedder_of, store_name, vector_store};
use crate::Verdict;
use crate::args::{EmbedderArgs, RagDiffArgs, RagEvalArgs, StoreKind};
use crate::commands::context::{absolute, find_to_read, load_model, open_store, owner};
use crate::commands::procedure::{stopped, watch_interrupts};
use crate::commands::progress::CountBar;
use crate::output::{Failure, Output, Table};

pub(super) async fn eval(args: &RagEvalArgs, output: Output) -> Result<Verdict, Failure> {
    let options = RetrievalRequest::measured(args.search.options(false)?);
    let place = &args.collection;
    let chunking =
        args.chunk_tokens.map(|tokens| BeirCollection::chunks(tokens, args.chunk_overlap, args.prefix));
    // Chunks are counted by an embedder also where words alone are searched.
    let embedder = match (options.mode, chunking) {
        (SearchMode::Bm25, None) => None,
        _ => Some(embedder_name(&args.embedder).await),
    };
    let rerank = args.rerank.reranker.clone();
    let rerank = rerank.map(|reference| RerankRequest { reference, depth: args.rerank.rerank_depth });
    let rerank_depth = rerank.as_ref().map(|rerank| rerank.depth);
    let way = SearchWay { chunking, options: options.clone(), rerank_depth };
    let request = RetrievalRequest {
        procedure: RetrievalRequest::PROCEDURE.to_owned(),
        run: RunRequest::new(way_of_searching(&way, embedder.as_deref()), Vec::new()),
        beir: absolute(&place.beir),
        split: place.split.clone(),
        store: store_name(args.store).to_owned(),
        embedder,
        probe: None,
        threads: args.embedder.threads,
        offline: args.embedder.offline,
        reuse_vectors: args.reuse_vectors,
        options,
        chunking,
        rerank,
    };
    let anew = if args.again { Anew::Always } else { Anew::Finished };
    run_request(&request, anew, args.json, output).await
}

/// What is measured as a run of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::commands) enum Anew {
    /// Nothing: a run goes on, and of one that is finished the report is given.
    Never,
    /// What was measured before to its end.
    Finished,
    Always,
}

/// Evaluates what is not evaluated yet, also of a run that was stored.
pub(in crate::commands) async fn run_request(
    request: &RetrievalRequest,
    anew: Anew,
    json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let collection = BeirCollection::open(&request.beir, &request.split)?;
    let store = open_store()?;
    let kind =
        if request.store == store_name(Some(StoreKind::Edge)) { StoreKind::Edge } else { StoreKind::Qdrant };
    let vectors = vector_store(Some(kind)).await?;
    let embedder = embedder(request, &store, output).await?;
    if let (Some(chunking), Some(embedder)) = (request.chunking, &embedder) {
        collection.check_cut(chunking, embedder.identity().max_tokens)?;
    }
    let reranker = reranker(request, output).await?;
    let tools = RetrievalTools {
        vectors: vectors.as_ref(),
        embedder: embedder.as_deref(),
        reranker: reranker.as_ref(),
    };
    let retrieval = Retrieval::new(request, &collection, tools);
    let mut run = retrieval.start(&store, &owner("rag eval"), anew == Anew::Always)?;
    if anew == Anew::Finished && store.run(&run.id)?.status == RunStatus::Completed {
        run.release()?;
        run = retrieval.start(&store, &owner("rag eval"), true)?;
    }
    let report = match retrieval.report(&store, &run.id)? {
        Some(report) => report,
        None => {
            let cancel = Cancel::default();
            tokio::spawn(watch_interrupts(cancel.clone(), output));
            let bar = CountBar::new(output, retrieval.total());
            let driven = retrieval.drive(&run, &store, &cancel, &|more| bar.advance(more)).await;
            bar.finish();
            let status = driven?;
            if let Some(verdict) = stopped(&run.id, status, output) {
                run.release()?;
                return Ok(verdict);
            }
            retrieval
                .report(&store, &run.id)?
                .ok_or_else(|| Failure::new(format!("run {} has no results", run.id), "evaluate once more"))?
        }
    };
    run.release()?;
    tell(&report, json, output)?;
    Ok(Verdict::Good)
}

async fn embedder(
    request: &RetrievalRequest,
    store: &Store,
    output: Output,
) -> Result<Option<Arc<dyn Embedder>>, Failure> {
    if request.embedder.is_none() {
        return Ok(None);
    }
    let cache = request.reuse_vectors.then(|| store.clone());
    Ok(Some(embedder_of(&embedder_args(request), cache, output).await?))
}

async fn reranker(request: &RetrievalRequest, output: Output) -> Result<Option<Reranker>, Failure> {
    let Some(rerank) = &request.rerank else { return Ok(None) };
    let args = embedder_args(request);
    Ok(Some(open::reranker(&rerank.reference, &args, local(&args, output), output).await?))
}

fn embedder_args(request: &RetrievalRequest) -> EmbedderArgs {
    EmbedderArgs { embedder: request.embedder.clone(), threads: request.threads, offline: request.offline }
}

/// Loads language models that judge.
pub(super) fn local(
    args: &EmbedderArgs,
    output: Output,
) -> impl Fn(&ModelRef) -> Result<Arc<dyn Model>, Failure> {
    let loading = LoadOptions { offline: args.offline, threads: args.threads, ..LoadOptions::default() };
    move |reference| load_model(reference, &loading, output)
}

fn tell(report: &RetrievalReport, json: bool, output: Output) -> Result<(), Failure> {
    let measured = &report.report;
    if measured.n_cut > 0 {
        output.note(&format!(
            "{} of {} documents are longer than the embedder reads: their vectors are of their beginnings",
            measured.n_cut, measured.n_documents
        ));
    }
    if json { output.json(report) } else { output.result(&format!("{}\n{}", report.run_id, text(measured))) }
}

fn text(report: &BeirReport) -> String {
    let mut table = Table::new(&["metric", "value", "n"], &[1, 2]);
    for name in RetrievalMetrics::NAMES {
        let value = report.metrics.get(name).map(|value| format!("{value:.4}"));
        table.push(vec![name.to_owned(), value.unwrap_or_default(), report.n_queries.to_string()]);
    }
    let seconds = report.seconds;
    format!(
        "{}\n{} documents in {:.1} s; {} queries in {:.1} s (median {:.1} ms, p99 {:.1} ms)",
        table.text(),
        report.n_documents,
        seconds.ingest,
        report.n_queries,
        seconds.queries,
        seconds.query_p50 * 1e3,
        seconds.query_p99 * 1e3
    )
}

pub(super) fn diff(args: &RagDiffArgs, output: Output) -> Result<Verdict, Failure> {
    let differences = retrieval_difference(&read(&args.a)?, &read(&args.b)?)?;
    let deciding = differences.iter().find(|difference| difference.metric == args.metric);
    let Some(deciding) = deciding else {
        let known = RetrievalMetrics::NAMES.join(", ");
        return Err(Failure::new(format!("`{}` is no metric", args.metric), format!("one of {known}")));
    };
    if args.json {
        output.json(&differences)?;
    } else {
        output.result(&compared(&differences))?;
    }
    let worse = deciding.significant(args.alpha).is_some_and(|difference| difference < 0.0);
    if worse {
        output.note(&format!("{} is worse in {} beyond chance", args.metric, args.b));
    }
    Ok(if worse { Verdict::Failed } else { Verdict::Good })
}

/// The metrics of each query, and of which collection: of a file, where there is one or what is typed looks like
/// one; else of a run.
fn read(typed: &str) -> Result<(Digest, PerQuery), Failure> {
    let path = Path::new(typed);
    if path.exists() || path.extension().is_some() || path.components().count() > 1 {
        let hint = "give two runs of `evalign rag eval`, or two of its outputs with `--json`";
        let text = fs_err::read_to_string(path).map_err(|error| Failure::new(error, hint))?;
        let report: Result<BeirReport, _> = serde_json::from_str(&text);
        let report = report.map_err(|error| Failure::new(format!("{typed}: {error}"), hint))?;
        return Ok((report.dataset, report.per_query));
    }
    let (store, _, run) = find_to_read(typed)?;
    Ok(retrieval_metrics(&store, &run)?)
}

pub(super) fn compared(differences: &[MetricDifference]) -> String {
    let headings = ["metric", "n", "A", "B", "B - A", "95 % interval", "p", "better", "worse"];
    let mut table = Table::new(&headings, &[1, 2, 3, 4, 5, 6, 7, 8]);
    for found in differences {
        let interval = found.interval.map(|[low, high]| format!("{low:+.4} to {high:+.4}"));
        table.push(vec![
            found.metric.to_owned(),
            found.n.to_string(),
            format!("{:.4}", found.a),
            format!("{:.4}", found.b),
            format!("{:+.4}", found.difference),
            interval.unwrap_or_default(),
            format!("{:.4}", found.p),
            found.better.to_string(),
            found.worse.to_string(),
        ]);
    }
    table.text()
}
