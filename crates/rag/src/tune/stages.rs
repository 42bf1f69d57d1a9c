use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use uuid::Uuid;

use super::candidates::DEPTHS;
use crate::beir::{BeirEvaluation, BeirQuery, reorder};
use crate::fusion::Fused;
use crate::rerank::Judgement;
use crate::search::Searched;
use crate::{Leg, PerQuery, RagError, Reranker, SearchMode, SearchOptions, SearchWay};

/// One way that was tried, over all queries.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    pub(super) way: SearchWay,
    pub(super) per_query: PerQuery,
    seconds: Vec<f64>,
}

impl Trial {
    pub(super) fn new(way: SearchWay) -> Self {
        Self { way, per_query: PerQuery::new(), seconds: Vec::new() }
    }

    fn add(&mut self, evaluation: &BeirEvaluation<'_>, query: &BeirQuery, hits: &[Fused], seconds: f64) {
        self.seconds.push(seconds);
        if let Some(metrics) = evaluation.judge(&query.id, hits) {
            self.per_query.insert(query.id.clone(), metrics);
        }
    }

    pub(super) fn seconds_p50(&self) -> f64 {
        let mut seconds = self.seconds.clone();
        seconds.sort_by(f64::total_cmp);
        evalign_stats::quantile(&seconds, 0.5).unwrap_or_default()
    }
}

/// The legs of one query, their lists, and how long they took.
pub(super) struct Asked {
    legs: Vec<Leg>,
    hybrid: Searched,
    seconds: LegSeconds,
}

const MODES: [SearchMode; 3] = [SearchMode::Bm25, SearchMode::Dense, SearchMode::Hybrid];

/// Seconds of the legs of each mode at each depth. Those of both are asked at once, which takes less than one after the
/// other.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct LegSeconds([[f64; MODES.len()]; DEPTHS.len()]);

impl LegSeconds {
    pub(super) fn set(&mut self, mode: SearchMode, depth: usize, seconds: f64) {
        self.0[Self::depth(depth)][Self::mode(mode)] = seconds;
    }

    /// Of a depth between those that were timed, the seconds of the next one.
    pub(super) fn of(&self, mode: SearchMode, depth: usize) -> f64 {
        self.0[Self::depth(depth)][Self::mode(mode)]
    }

    fn depth(depth: usize) -> usize {
        DEPTHS.iter().position(|timed| *timed >= depth).unwrap_or(DEPTHS.len() - 1)
    }

    fn mode(mode: SearchMode) -> usize {
        match mode {
            SearchMode::Bm25 => 0,
            SearchMode::Dense => 1,
            SearchMode::Hybrid => 2,
        }
    }
}

/// Asks all queries for both legs.
pub(super) async fn ask(
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
        let mut seconds = LegSeconds::default();
        for depth in DEPTHS {
            for mode in MODES {
                seconds.set(mode, depth, legs(mode, depth).await?.1);
            }
        }
        asked.push(Asked { legs: both, hybrid: words.join(vectors), seconds });
        advance(1);
    }
    Ok(asked)
}

/// What options find of lists that are there, and the seconds that it would have taken from the beginning.
async fn found(
    evaluation: &BeirEvaluation<'_>,
    asked: &Asked,
    options: &SearchOptions,
) -> Result<(Vec<Fused>, f64), RagError> {
    let start = Instant::now();
    let mut searched = asked.hybrid.of(options.mode);
    // Feedback is tried with both legs only, whose places are those of `asked.legs`.
    evaluation.feed_back(&asked.legs, &mut searched, options).await?;
    let fused = evaluation.fuse(searched, options);
    let legs = asked.seconds.of(options.mode, options.depth);
    Ok((fused, legs + start.elapsed().as_secs_f64()))
}

/// Tries one way without a reranker.
pub(super) async fn search(
    evaluation: &BeirEvaluation<'_>,
    asked: &[Asked],
    way: SearchWay,
) -> Result<Trial, RagError> {
    let mut trial = Trial::new(way);
    for (query, asked) in evaluation.queries().iter().zip(asked) {
        let (hits, seconds) = found(evaluation, asked, &trial.way.options).await?;
        trial.add(evaluation, query, &hits, seconds);
    }
    Ok(trial)
}

/// Tries ways at every depth of the reranker. A hit is judged once for each query, whichever ways found it, and each
/// way is charged what its own hits took.
pub(super) async fn rerank(
    evaluation: &BeirEvaluation<'_>,
    asked: &[Asked],
    ways: &[SearchWay],
    (reranker, depths): (&Reranker, &[usize]),
    advance: &(dyn Fn(u64) + Sync),
) -> Result<Vec<Trial>, RagError> {
    let deepest = depths.iter().copied().max().unwrap_or_default();
    let at_depth =
        |way: &SearchWay, depth| Trial::new(SearchWay { rerank_depth: Some(depth), ..way.clone() });
    let of_way = |way| depths.iter().map(|depth| (*depth, at_depth(way, *depth))).collect();
    let mut trials: Vec<Vec<(usize, Trial)>> = ways.iter().map(of_way).collect();
    for (query, asked) in evaluation.queries().iter().zip(asked) {
        let mut lists = Vec::with_capacity(ways.len());
        for way in ways {
            lists.push(found(evaluation, asked, &way.options).await?);
        }
        let first = lists.iter().flat_map(|(hits, _)| hits.iter().take(deepest));
        let ids: Vec<Uuid> = first.map(|hit| hit.id).collect::<BTreeSet<_>>().into_iter().collect();
        let judged = reranker.judgements(&query.text, &evaluation.passages(&ids).await?).await?;
        let judged: BTreeMap<Uuid, Judgement> = ids.into_iter().zip(judged).collect();
        for ((hits, seconds), trials) in lists.into_iter().zip(&mut trials) {
            for (depth, trial) in trials {
                let mut hits = hits.clone();
                let first: Vec<Judgement> =
                    hits.iter().take(*depth).map_while(|hit| judged.get(&hit.id).copied()).collect();
                reorder(&mut hits, &first.iter().map(|judged| judged.relevance).collect::<Vec<_>>());
                let judging: f64 = first.iter().map(|judged| judged.seconds).sum();
                trial.add(evaluation, query, &hits, seconds + judging);
            }
        }
        advance(1);
    }
    Ok(trials.into_iter().flatten().map(|(_, trial)| trial).collect())
}
