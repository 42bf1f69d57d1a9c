//! Which way of searching suits a collection: found on half of its queries, shown on the other half.
//!
//! Each stage is done once: documents are cut and embedded once for each way of cutting, a query's legs are asked once
//! for all ways of fusing them, a hit is judged once for all depths of the reranker. Only a candidate with feedback
//! asks again, for what its own first hits lead to.

mod candidates;
mod parts;
mod progress;
mod stages;

use serde::Serialize;

use crate::beir::{BeirCollection, BeirEvaluation};
use crate::bm25::dimension;
use crate::chunker::ChunkSettings;
use crate::diff::{MetricDifference, difference};
use crate::{Embedder, PerQuery, RagError, Reranker, RetrievalMetrics, SearchWay, VectorStore};
use candidates::candidates;
pub use parts::{TunePart, TunedPart};
pub use progress::{TimeLeft, TuneStep, TuneSteps};
use stages::Trial;

/// The collection of vectors that a sweep writes, one way of cutting after the other.
const COLLECTION: &str = "tune";

/// What is tried.
#[derive(Debug)]
pub struct TuneRequest<'a> {
    /// What is to become better, by its name.
    pub metric: &'a str,
    /// Ways of cutting documents, besides leaving them whole.
    pub chunkings: Vec<ChunkSettings>,
    /// Judges the first hits of plain hybrid search and of the best way without it.
    pub reranker: Option<&'a Reranker>,
    /// How many of them; each depth is tried.
    pub rerank_depths: &'a [usize],
}

/// A way of searching and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuneCandidate {
    #[serde(flatten)]
    pub way: SearchWay,
    /// Over the queries that were tuned on.
    pub tuned: RetrievalMetrics,
    /// Over the others.
    pub held_out: RetrievalMetrics,
    /// Median of one query, embedding and judging included.
    pub seconds_p50: f64,
    /// No other candidate is both better (on the queries tuned on) and faster.
    pub on_front: bool,
}

/// What a sweep found.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuneReport {
    pub n_tuned: u64,
    pub n_held_out: u64,
    /// The best first, by the metric that was asked for, over the queries tuned on.
    pub candidates: Vec<TuneCandidate>,
    /// The best against plain hybrid search over whole documents, over the queries held out.
    pub gain: Vec<MetricDifference>,
    /// The same of the best way that has each part, where one was tried.
    pub parts: Vec<TunedPart>,
}

/// Whether a query is one to tune on: its id's hash is even.
#[must_use]
pub(crate) fn is_tuned_on(query: &str) -> bool {
    dimension(query).is_multiple_of(2)
}

impl TuneRequest<'_> {
    /// First hits that are judged where nobody says how many.
    pub const RERANK_DEPTHS: [usize; 3] = [10, 20, 50];

    /// Steps that a sweep of the collection reports.
    #[must_use]
    pub fn steps(&self, collection: &BeirCollection) -> TuneSteps {
        let (documents, queries) = (collection.documents.len() as u64, collection.queries.len() as u64);
        let cuts = self.chunkings.len() as u64 + 1;
        let judged = if self.reranker.is_some() { queries } else { 0 };
        TuneSteps { documents: cuts * documents, queries: cuts * queries, judged: cuts * judged }
    }

    /// What would be refused, before anything is done.
    ///
    /// # Errors
    /// [`RagError::Invalid`] for a metric that is none, chunks that the embedder would cut, titles that are not there, a
    /// reranker that nothing is given to, or where either half has no query.
    pub fn check(&self, collection: &BeirCollection, embedder: &dyn Embedder) -> Result<(), RagError> {
        if RetrievalMetrics::default().get(self.metric).is_none() {
            return Err(RagError::invalid(
                format!("metric `{}`", self.metric),
                "is not known",
                format!("one of {}", RetrievalMetrics::NAMES.join(", ")),
            ));
        }
        let tuned = collection.queries.iter().filter(|query| is_tuned_on(&query.id)).count();
        if tuned == 0 || tuned == collection.queries.len() {
            return Err(RagError::invalid(
                "the collection",
                "has too few queries to tune on one half and to show on the other",
                "take a collection with more judged queries",
            ));
        }
        if self.reranker.is_some() && !self.rerank_depths.iter().any(|depth| *depth > 0) {
            return Err(RagError::invalid("--rerank-depth", "names no hits to judge", "give 1 or more"));
        }
        let limit = embedder.identity().max_tokens;
        self.chunkings.iter().try_for_each(|chunking| collection.check_cut(*chunking, limit))
    }
}

/// Sweeps over a collection, which is written to the store and removed from it.
///
/// # Errors
/// As [`TuneRequest::check`]; what the store, the embedder and the reranker report.
pub async fn tune(
    collection: &BeirCollection,
    (store, embedder): (&dyn VectorStore, &dyn Embedder),
    request: &TuneRequest<'_>,
    advance: &(dyn Fn(TuneStep, u64) + Sync),
) -> Result<TuneReport, RagError> {
    request.check(collection, embedder)?;
    let mut trials = Vec::new();
    for chunking in std::iter::once(None).chain(request.chunkings.iter().copied().map(Some)) {
        let whole = BeirEvaluation::new(collection, (store, COLLECTION), Some(embedder));
        let evaluation = match chunking {
            Some(chunking) => whole.cut(chunking, embedder)?,
            None => whole,
        };
        evaluation.ingest(&|more| advance(TuneStep::Document, more)).await?;
        let tried = sweep(&evaluation, chunking, request, advance).await;
        evaluation.clean_up().await?;
        trials.extend(tried?);
    }
    report(&trials, request.metric)
}

/// Everything that is tried of one way of cutting; plain hybrid search is the first.
async fn sweep(
    evaluation: &BeirEvaluation<'_>,
    chunking: Option<ChunkSettings>,
    request: &TuneRequest<'_>,
    advance: &(dyn Fn(TuneStep, u64) + Sync),
) -> Result<Vec<Trial>, RagError> {
    let asked = stages::ask(evaluation, &|more| advance(TuneStep::Query, more)).await?;
    let mut trials = Vec::new();
    for options in candidates() {
        let way = SearchWay { chunking, options, rerank_depth: None };
        trials.push(stages::search(evaluation, &asked, way).await?);
    }
    let Some(reranker) = request.reranker else { return Ok(trials) };
    let best = order(&trials, request.metric).first().copied().unwrap_or_default();
    let ways: Vec<SearchWay> = match best {
        0 => vec![trials[0].way.clone()],
        best => vec![trials[0].way.clone(), trials[best].way.clone()],
    };
    let judge = (reranker, request.rerank_depths);
    let advance = |more| advance(TuneStep::Judged, more);
    trials.extend(stages::rerank(evaluation, &asked, &ways, judge, &advance).await?);
    Ok(trials)
}

/// Metrics of the queries that are tuned on, or of the others.
fn half(per_query: &PerQuery, tuned: bool) -> PerQuery {
    let of_half = per_query.iter().filter(|(id, _)| is_tuned_on(id) == tuned);
    of_half.map(|(id, metrics)| (id.clone(), *metrics)).collect()
}

fn mean(per_query: &PerQuery) -> RetrievalMetrics {
    RetrievalMetrics::mean(per_query.values()).unwrap_or_default()
}

/// Places of the trials, the best first on the queries tuned on. Among equals the one that was tried first, which is
/// the simpler one.
fn order(trials: &[Trial], metric: &str) -> Vec<usize> {
    let values: Vec<f64> = (trials.iter())
        .map(|trial| mean(&half(&trial.per_query, true)).get(metric).unwrap_or_default())
        .collect();
    let mut order: Vec<usize> = (0..trials.len()).collect();
    order.sort_by(|a, b| values[*b].total_cmp(&values[*a]));
    order
}

fn report(trials: &[Trial], metric: &str) -> Result<TuneReport, RagError> {
    let order = order(trials, metric);
    let held_out = |place: usize| half(&trials[place].per_query, false);
    let gain = difference(&held_out(0), &held_out(order[0]))?;
    let parts = parts::best(trials, &order)?;
    let candidate = |place: &usize| {
        let trial = &trials[*place];
        TuneCandidate {
            way: trial.way.clone(),
            tuned: mean(&half(&trial.per_query, true)),
            held_out: mean(&held_out(*place)),
            seconds_p50: trial.seconds_p50(),
            on_front: false,
        }
    };
    let mut candidates: Vec<TuneCandidate> = order.iter().map(candidate).collect();
    mark_front(&mut candidates, metric);
    let n_tuned = half(&trials[0].per_query, true).len() as u64;
    let n_held_out = trials[0].per_query.len() as u64 - n_tuned;
    Ok(TuneReport { n_tuned, n_held_out, candidates, gain, parts })
}

/// From the best value down, what is faster than everything before it; of equal values the fastest.
fn mark_front(candidates: &mut [TuneCandidate], metric: &str) {
    let value = |candidate: &TuneCandidate| candidate.tuned.get(metric).unwrap_or_default();
    let mut places: Vec<&mut TuneCandidate> = candidates.iter_mut().collect();
    places.sort_by(|a, b| value(b).total_cmp(&value(a)).then(a.seconds_p50.total_cmp(&b.seconds_p50)));
    let mut fastest = f64::INFINITY;
    for candidate in places {
        candidate.on_front = candidate.seconds_p50 < fastest;
        fastest = fastest.min(candidate.seconds_p50);
    }
}

#[cfg(test)]
mod tests;
