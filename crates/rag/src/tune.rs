//! Which way of searching suits a collection: found on half of its queries, shown on the other half.
//!
//! The legs of a query do not depend on how they are fused, so they are asked once, and every candidate
//! fuses the same lists: a sweep costs little more than one evaluation. Only a candidate with feedback asks
//! again, for what its own first hits lead to.

use std::time::Instant;

use serde::Serialize;

use crate::beir::BeirEvaluation;
use crate::bm25::dimension;
use crate::diff::{MetricDifference, difference};
use crate::search::Searched;
use crate::{Feedback, Fusion, Leg, PerQuery, RagError, RetrievalMetrics, SearchMode, SearchOptions};

/// Hits of each leg that are fused. The lists of the last are kept for the sweep.
const DEPTHS: [usize; 3] = [50, 100, 200];

/// A way of searching and what it is worth.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TuneCandidate {
    pub options: SearchOptions,
    /// Over the queries that were tuned on.
    pub tuned: RetrievalMetrics,
    /// Over the others.
    pub held_out: RetrievalMetrics,
    /// Median of one query, embedding included.
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
    /// The best against plain hybrid search, over the queries held out.
    pub gain: Vec<MetricDifference>,
}

/// Whether a query is one to tune on: its id's hash is even.
#[must_use]
pub(crate) fn is_tuned_on(query: &str) -> bool {
    dimension(query).is_multiple_of(2)
}

/// What is tried: each mode, and for hybrid search every fusion with some weights of the words.
#[must_use]
pub(crate) fn candidates() -> Vec<SearchOptions> {
    let of = |mode, fusion, bm25_weight, depth| SearchOptions {
        mode,
        fusion,
        bm25_weight,
        depth,
        exact: true,
        ..SearchOptions::default()
    };
    let mut all = vec![of(SearchMode::Hybrid, Fusion::default(), 1.0, 100)];
    all.extend([SearchMode::Bm25, SearchMode::Dense].map(|mode| of(mode, Fusion::default(), 1.0, 100)));
    let ranks = [10.0, 30.0, 60.0, 100.0].map(|k| Fusion::Rrf { k });
    for fusion in ranks.into_iter().chain([Fusion::MinMax, Fusion::Dbsf]) {
        for bm25_weight in [0.5, 0.75, 1.0, 1.33, 2.0] {
            for depth in DEPTHS {
                all.push(of(SearchMode::Hybrid, fusion, bm25_weight, depth));
            }
        }
    }
    for fusion in [Fusion::default(), Fusion::MinMax, Fusion::Dbsf] {
        for (hits, weight) in [(3, 0.2), (5, 0.2), (5, 0.3), (5, 0.5), (10, 0.3)] {
            let feedback = Some(Feedback { hits, weight });
            all.push(SearchOptions { feedback, ..of(SearchMode::Hybrid, fusion, 1.0, 100) });
        }
    }
    all
}

/// Sweeps over an ingested collection.
///
/// # Errors
/// [`RagError::Invalid`] for a metric that is none, or where either half has no query; what the store and
/// the embedder report.
pub async fn tune(
    evaluation: &BeirEvaluation<'_>,
    metric: &str,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<TuneReport, RagError> {
    if RetrievalMetrics::default().get(metric).is_none() {
        return Err(RagError::invalid(
            format!("metric `{metric}`"),
            "is not known",
            format!("one of {}", RetrievalMetrics::NAMES.join(", ")),
        ));
    }
    let asked = ask(evaluation, advance).await?;
    let all = candidates();
    let mut answers: Vec<(PerQuery, f64)> = Vec::with_capacity(all.len());
    for options in &all {
        answers.push(answer(evaluation, &asked, options).await?);
    }
    let mut found = Vec::with_capacity(all.len());
    for (options, (per_query, seconds_p50)) in all.iter().zip(&answers) {
        let half = |tuned: bool| {
            RetrievalMetrics::mean(
                per_query.iter().filter(|(id, _)| is_tuned_on(id) == tuned).map(|(_, m)| m),
            )
        };
        let (Some(tuned), Some(held_out)) = (half(true), half(false)) else {
            return Err(RagError::invalid(
                "the collection",
                "has too few queries to tune on one half and to show on the other",
                "take a collection with more judged queries",
            ));
        };
        let options = options.clone();
        found.push(TuneCandidate { options, tuned, held_out, seconds_p50: *seconds_p50, on_front: false });
    }
    let held_out = |position: usize| -> PerQuery {
        answers[position]
            .0
            .iter()
            .filter(|(id, _)| !is_tuned_on(id))
            .map(|(id, m)| (id.clone(), *m))
            .collect()
    };
    let value = |candidate: &TuneCandidate| candidate.tuned.get(metric).unwrap_or_default();
    let mut order: Vec<usize> = (0..found.len()).collect();
    // Among equals the one that was listed first, which is the simpler one.
    order.sort_by(|a, b| value(&found[*b]).total_cmp(&value(&found[*a])));
    let gain = difference(&held_out(0), &held_out(order[0]))?;
    let mut best: Vec<TuneCandidate> = order.into_iter().map(|position| found[position].clone()).collect();
    mark_front(&mut best, metric);
    let n_tuned = answers[0].0.keys().filter(|id| is_tuned_on(id)).count() as u64;
    let n_held_out = answers[0].0.len() as u64 - n_tuned;
    Ok(TuneReport { n_tuned, n_held_out, candidates: best, gain })
}

/// The legs of one query, their lists, and how long the legs of words and of vectors took at each depth.
struct Asked {
    legs: Vec<Leg>,
    hybrid: Searched,
    seconds: [[f64; 2]; DEPTHS.len()],
}

async fn ask(
    evaluation: &BeirEvaluation<'_>,
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Asked>, RagError> {
    let mut asked = Vec::new();
    for query in evaluation.queries() {
        let legs = async |mode, depth| {
            let start = Instant::now();
            let options = SearchOptions { mode, depth, exact: true, ..SearchOptions::default() };
            let found = evaluation.first_lists(&query.text, &options).await?;
            Ok::<_, RagError>((found, start.elapsed().as_secs_f64()))
        };
        let deepest = DEPTHS[DEPTHS.len() - 1];
        // Not timed: the first to ask for a term has its frequency counted.
        let ((mut both, words), _) = legs(SearchMode::Bm25, deepest).await?;
        let ((more, vectors), _) = legs(SearchMode::Dense, deepest).await?;
        both.extend(more);
        let mut seconds = [[0.0; 2]; DEPTHS.len()];
        for (taken, depth) in seconds.iter_mut().zip(DEPTHS) {
            *taken = [legs(SearchMode::Bm25, depth).await?.1, legs(SearchMode::Dense, depth).await?.1];
        }
        asked.push(Asked { legs: both, hybrid: words.join(vectors), seconds });
        advance(1);
    }
    Ok(asked)
}

async fn answer(
    evaluation: &BeirEvaluation<'_>,
    asked: &[Asked],
    options: &SearchOptions,
) -> Result<(PerQuery, f64), RagError> {
    let mut per_query = PerQuery::new();
    let mut seconds = Vec::with_capacity(asked.len());
    for (query, asked) in evaluation.queries().iter().zip(asked) {
        let start = Instant::now();
        let mut searched = asked.hybrid.of(options.mode);
        // Feedback is tried with both legs only, whose places are those of `asked.legs`.
        evaluation.feed_back(&asked.legs, &mut searched, options).await?;
        let fused = searched.fuse(options);
        let place = DEPTHS.iter().position(|depth| *depth >= options.depth).unwrap_or(DEPTHS.len() - 1);
        let [words, vectors] = asked.seconds[place];
        let legs = match options.mode {
            SearchMode::Bm25 => words,
            SearchMode::Dense => vectors,
            SearchMode::Hybrid => words + vectors,
        };
        seconds.push(legs + start.elapsed().as_secs_f64());
        if let Some(metrics) = evaluation.judge(&query.id, &fused) {
            per_query.insert(query.id.clone(), metrics);
        }
    }
    seconds.sort_by(f64::total_cmp);
    Ok((per_query, evalign_stats::quantile(&seconds, 0.5).unwrap_or_default()))
}

/// `candidates` come best first.
fn mark_front(candidates: &mut [TuneCandidate], metric: &str) {
    let mut fastest = f64::INFINITY;
    let mut last = f64::INFINITY;
    for candidate in candidates {
        let value = candidate.tuned.get(metric).unwrap_or_default();
        candidate.on_front = candidate.seconds_p50 < fastest && value < last;
        if candidate.on_front {
            (fastest, last) = (candidate.seconds_p50, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats_in_both() {
        let of = |value, seconds_p50| TuneCandidate {
            options: SearchOptions::default(),
            tuned: RetrievalMetrics { map: value, ..RetrievalMetrics::default() },
            held_out: RetrievalMetrics::default(),
            seconds_p50,
            on_front: false,
        };
        let mut candidates =
            [of(0.9, 3.0), of(0.9, 4.0), of(0.8, 3.5), of(0.7, 1.0), of(0.6, 2.0), of(0.5, 0.5)];
        mark_front(&mut candidates, "map");
        let front: Vec<bool> = candidates.iter().map(|candidate| candidate.on_front).collect();
        assert_eq!(front, [true, false, false, true, false, true]);
    }

    #[test]
    fn the_first_candidate_is_plain_hybrid_search_and_halves_are_about_even() {
        let first = &candidates()[0];
        assert_eq!(
            (first.mode, first.fusion, first.bm25_weight),
            (SearchMode::Hybrid, Fusion::Rrf { k: 60.0 }, 1.0)
        );
        let even = (0..1000).filter(|query| is_tuned_on(&query.to_string())).count();
        assert!((430..570).contains(&even), "{even}");
    }
}
