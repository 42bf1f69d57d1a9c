use evalign_bench::way_of_searching;
use evalign_rag::{
    BeirCollection, EdgeStore, MetricDifference, Reranker, RetrievalMetrics, TuneReport, TuneRequest,
    TunedPart, tune as sweep,
};
use evalign_store::Store;

use super::evaluate::{compared, local};
use super::open::{self, embedder_of};
use crate::Verdict;
use crate::args::RagTuneArgs;
use crate::commands::context::open_store;
use crate::commands::progress::SweepBar;
use crate::output::{Failure, Output, Table};

pub(super) async fn tune(args: &RagTuneArgs, output: Output) -> Result<Verdict, Failure> {
    let mut collection = BeirCollection::open(&args.collection.beir, &args.collection.split)?;
    if let Some(most) = args.queries {
        collection = collection.with_queries(most);
    }
    let store = open_store()?;
    let embedder = embedder_of(&args.embedder, Some(store.clone()), output).await?;
    // What is compared is ways of searching, which rank alike in any store.
    let directory = tempfile::tempdir().map_err(anyhow::Error::from)?;
    let vectors = EdgeStore::new(directory.path().to_owned());
    let reranker = reranker(args, store, output).await?;
    let depths = match args.rerank_depth.as_slice() {
        [] => &TuneRequest::RERANK_DEPTHS[..],
        depths => depths,
    };
    // 0 leaves them whole.
    let tokens: Vec<usize> = args.chunk_tokens.iter().copied().filter(|tokens| *tokens > 0).collect();
    let request = TuneRequest {
        metric: &args.metric,
        chunkings: BeirCollection::cuts(&tokens, &args.chunk_overlap, args.prefix),
        reranker: reranker.as_ref(),
        rerank_depths: depths,
    };
    let bar = SweepBar::new(output, request.steps(&collection));
    let advance = |step, more| bar.advance(step, more);
    let report = sweep(&collection, (&vectors, embedder.as_ref()), &request, &advance).await;
    bar.finish();
    let report = report?;
    if args.json {
        output.json(&report)?;
    } else {
        output.result(&swept_text(&report, &args.metric))?;
    }
    Ok(Verdict::Good)
}

async fn reranker(args: &RagTuneArgs, store: Store, output: Output) -> Result<Option<Reranker>, Failure> {
    let Some(name) = &args.rerank else { return Ok(None) };
    let load = local(&args.embedder, output);
    Ok(Some(open::reranker(name, &args.embedder, load, output).await?.keeping(store)))
}

/// The front, and whether its best, and the best with each part, are better than plain hybrid search on queries that
/// nobody has tuned on.
fn swept_text(report: &TuneReport, metric: &str) -> String {
    let headings = ["way", "tuned on", "held out", "ms"];
    let mut table = Table::new(&headings, &[1, 2, 3]);
    for candidate in report.candidates.iter().filter(|candidate| candidate.on_front) {
        let value = |metrics: &RetrievalMetrics| format!("{:.4}", metrics.get(metric).unwrap_or_default());
        table.push(vec![
            way_of_searching(&candidate.way, None).name,
            value(&candidate.tuned),
            value(&candidate.held_out),
            format!("{:.2}", candidate.seconds_p50 * 1e3),
        ]);
    }
    format!(
        "Pareto front of {metric} ({} queries tuned on, {} held out):\n{}\nThe best against plain hybrid search over \
         whole documents, on the queries held out:\n{}\nThe best with each part, {metric}, against the same:\n{}",
        report.n_tuned,
        report.n_held_out,
        table.text(),
        compared(&report.gain),
        parts_text(&report.parts, metric)
    )
}

fn parts_text(parts: &[TunedPart], metric: &str) -> String {
    let headings = ["part", "way", "n", "plain", "this", "difference", "95 % interval", "p"];
    let mut table = Table::new(&headings, &[2, 3, 4, 5, 6, 7]);
    let of_metric = |found: &&MetricDifference| found.metric == metric;
    for tuned in parts {
        let Some(found) = tuned.gain.iter().find(of_metric) else { continue };
        let interval = found.interval.map(|[low, high]| format!("{low:+.4} to {high:+.4}"));
        table.push(vec![
            tuned.part.name().to_owned(),
            way_of_searching(&tuned.way, None).name,
            found.n.to_string(),
            format!("{:.4}", found.a),
            format!("{:.4}", found.b),
            format!("{:+.4}", found.difference),
            interval.unwrap_or_default(),
            format!("{:.4}", found.p),
        ]);
    }
    table.text()
}
