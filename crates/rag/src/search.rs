//! From a question to hits: legs, fusion, diversity, and why each hit is where it is.

mod choices;
mod copies;
mod expand;
mod explain;
mod feedback;
mod lists;
mod lookup;
mod plan;
mod ranked;
mod reranked;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

pub use choices::{NamedFusion, NamedWay, NoEffect, SearchChoices};
pub use copies::HitCopy;
pub use expand::Expansion;
pub use explain::TermShare;
pub use feedback::Feedback;
pub use lookup::{LookedUp, Lookup};
pub use plan::{DenseText, LegKind, QueryPlan};
pub use reranked::{RerankShare, rerank};

pub(crate) use lists::Searched;
use lists::leg_share;

use crate::fusion::Fused;
use crate::mmr::Diverse;
use crate::{Analyzer, Embedder, Fusion, Leg, RagError, Scope, Scored, VectorStore, With};
use ranked::Ranked;

/// Which legs are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SearchMode {
    Bm25,
    Dense,
    #[default]
    Hybrid,
}

/// How to search.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SearchOptions {
    pub mode: SearchMode,
    /// Hits returned.
    pub limit: usize,
    /// Hits of each leg that are fused.
    pub depth: usize,
    pub fusion: Fusion,
    /// What a hit of a leg of words counts against one of a leg of vectors (which counts 1).
    pub bm25_weight: f64,
    /// Scans all vectors instead of using an approximate index.
    pub exact: bool,
    /// Trades relevance (1) against difference from what was picked before (0); see [`Diverse`].
    pub mmr: Option<f64>,
    /// Looks a second time, from nearer to the first hits.
    #[serde(default)]
    pub feedback: Option<Feedback>,
    /// Says for each hit what each query term gave.
    pub explain: bool,
}

impl Default for SearchOptions {
    fn default() -> Self {
        Self {
            mode: SearchMode::default(),
            limit: 10,
            depth: 100,
            fusion: Fusion::default(),
            bm25_weight: 1.0,
            exact: false,
            mmr: None,
            feedback: None,
            explain: false,
        }
    }
}

impl SearchOptions {
    /// The way that was found best: both legs, fused by scores, with feedback. Chosen on the queries with an even
    /// hash of four public collections and shown on the others.
    #[must_use]
    pub fn recommended() -> Self {
        let feedback = Feedback { hits: 5, weight: 0.3 };
        Self { fusion: Fusion::Dbsf, feedback: Some(feedback), ..Self::default() }
    }
}

/// What was found, and why.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hit {
    pub id: Uuid,
    /// From 1.
    pub rank: usize,
    /// Fused; with a single leg that leg's own score.
    pub score: f64,
    pub legs: Vec<LegShare>,
    /// Filled by [`SearchOptions::explain`]; the greatest contribution first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub terms: Vec<TermShare>,
    /// Filled by [`rerank()`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rerank: Option<RerankShare>,
    /// Filled by [`Searcher::search`].
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<HitCopy>,
    pub payload: Map<String, Value>,
}

/// What one leg gave to a hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LegShare {
    pub leg: LegKind,
    /// Which of several queries the leg looked for, from 0.
    pub query: usize,
    pub rank: usize,
    /// The leg's own; of a leg whose vector was moved, against the moved one.
    pub score: f64,
    pub share: f64,
    /// The vector that was looked for is not the query's own but moved towards the first hits ([`Feedback`]).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub moved: bool,
}

/// Searches collections of one store.
pub struct Searcher<'a> {
    store: &'a dyn VectorStore,
    embedder: Option<&'a dyn Embedder>,
    analyzer: Analyzer,
}

impl std::fmt::Debug for Searcher<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searcher").field("store", &self.store.place()).finish_non_exhaustive()
    }
}

/// More hits than asked for are taken from a leg, to see where its ties at the cut end.
const TIE_MARGIN: usize = 16;

impl<'a> Searcher<'a> {
    /// Without an embedder only [`SearchMode::Bm25`] can be asked for.
    #[must_use]
    pub fn new(store: &'a dyn VectorStore, embedder: Option<&'a dyn Embedder>) -> Self {
        Self { store, embedder, analyzer: Analyzer::english() }
    }

    /// The best hits with their payload, every text once: the first hit that says it names the others in
    /// [`Hit::copies`], as far as they are among the first twice as many hits as are asked for (or more, where it takes
    /// more to find so many different ones).
    ///
    /// # Errors
    /// [`RagError::Invalid`] for a query without words, a mode that needs an embedder where there is none; what the
    /// store and the embedder report.
    pub async fn search(
        &self,
        collection: &str,
        scope: &Scope,
        plan: &QueryPlan,
        options: &SearchOptions,
    ) -> Result<Vec<Hit>, RagError> {
        plan.check(options.mode)?;
        let place = (collection, scope);
        let mut ranked = self.ordered(place, plan, options).await?;
        let mut hits = Vec::new();
        while hits.len() < options.limit {
            let (next, rest) = ranked.next(options.limit.saturating_mul(2)).await?;
            ranked = rest;
            if next.is_empty() {
                break;
            }
            copies::fold(&mut hits, self.present(place, plan, options, next).await?);
        }
        hits.truncate(options.limit);
        self.finished(place, plan, options, hits).await
    }

    /// The fused list, diversified as it is taken where that is asked for.
    async fn ordered(
        &self,
        (collection, scope): (&str, &Scope),
        plan: &QueryPlan,
        options: &SearchOptions,
    ) -> Result<Ranked, RagError> {
        let fused = self.rank(collection, scope, plan, options).await?;
        let Some(lambda) = options.mmr else { return Ok(Ranked::ByScore(fused.into_iter())) };
        let ids: Vec<Uuid> = fused.iter().map(|hit| hit.id).collect();
        let with = With { payload: false, vectors: true };
        let records = self.store.retrieve(collection, scope, &ids, with).await?;
        let mut vectors: HashMap<Uuid, Option<Vec<f32>>> =
            records.into_iter().map(|record| (record.id, record.dense)).collect();
        let item = |hit: Fused| {
            let vector = vectors.remove(&hit.id).flatten();
            let relevance = hit.score;
            (hit, relevance, vector)
        };
        Ok(Ranked::Diverse(Diverse::of(fused.into_iter().map(item).collect(), lambda)))
    }

    /// What was ranked, with its payload. A point that was deleted since is no hit.
    async fn present(
        &self,
        (collection, scope): (&str, &Scope),
        plan: &QueryPlan,
        options: &SearchOptions,
        fused: Vec<Fused>,
    ) -> Result<Vec<Hit>, RagError> {
        let legs = plan.legs(options.mode);
        let ids: Vec<Uuid> = fused.iter().map(|hit| hit.id).collect();
        let with = With { payload: true, vectors: false };
        let records = self.store.retrieve(collection, scope, &ids, with).await?;
        let mut payloads: BTreeMap<Uuid, Map<String, Value>> =
            records.into_iter().map(|record| (record.id, record.payload)).collect();
        let hit = |(payload, hit): (Map<String, Value>, Fused)| Hit {
            id: hit.id,
            rank: 0,
            score: hit.score,
            legs: hit.shares.iter().map(|share| leg_share(&legs, share, options)).collect(),
            terms: Vec::new(),
            rerank: None,
            copies: Vec::new(),
            payload,
        };
        let present = fused.into_iter().filter_map(|hit| Some((payloads.remove(&hit.id)?, hit)));
        Ok(present.map(hit).collect())
    }

    /// Hits with their ranks, and with what each term gave where that is asked for.
    async fn finished(
        &self,
        (collection, scope): (&str, &Scope),
        plan: &QueryPlan,
        options: &SearchOptions,
        mut hits: Vec<Hit>,
    ) -> Result<Vec<Hit>, RagError> {
        for (position, hit) in hits.iter_mut().enumerate() {
            hit.rank = position + 1;
        }
        if options.explain && options.mode != SearchMode::Dense {
            self.explain_terms(collection, scope, plan, &mut hits).await?;
        }
        Ok(hits)
    }

    /// The fused list without payloads, as long as the legs together make it.
    ///
    /// # Errors
    /// As [`Self::search`].
    pub async fn rank(
        &self,
        collection: &str,
        scope: &Scope,
        plan: &QueryPlan,
        options: &SearchOptions,
    ) -> Result<Vec<Fused>, RagError> {
        Ok(self.lists(collection, scope, plan, options).await?.fuse(options))
    }

    /// What each leg finds, not fused yet.
    pub(crate) async fn lists(
        &self,
        collection: &str,
        scope: &Scope,
        plan: &QueryPlan,
        options: &SearchOptions,
    ) -> Result<Searched, RagError> {
        let (legs, mut searched) = self.first_lists(collection, scope, plan, options).await?;
        self.feed_back((collection, scope), &legs, &mut searched, options).await?;
        Ok(searched)
    }

    /// The same before any feedback, and what was asked.
    pub(crate) async fn first_lists(
        &self,
        collection: &str,
        scope: &Scope,
        plan: &QueryPlan,
        options: &SearchOptions,
    ) -> Result<(Vec<Leg>, Searched), RagError> {
        let depth = options.depth.max(options.limit);
        let mut legs = plan.word_legs(options, &self.analyzer);
        // Words are not looked up meanwhile: the encoder uses every core, and waits for the one that it has to share.
        legs.extend(plan.vector_legs(options, self.embedder).await?);
        let lists = self.stable(collection, scope, &legs, depth).await?;
        Ok((legs, Searched { legs: plan.legs(options.mode), lists }))
    }

    /// The first `depth` of each leg, the same ones on any engine: where there are ties at the cut, all of
    /// them are seen before some are left out.
    async fn stable(
        &self,
        collection: &str,
        scope: &Scope,
        legs: &[Leg],
        depth: usize,
    ) -> Result<Vec<Vec<Scored>>, RagError> {
        if legs.is_empty() {
            return Ok(Vec::new());
        }
        let mut limit = depth + TIE_MARGIN;
        loop {
            let asked = legs.iter().cloned().map(|leg| with_limit(leg, limit)).collect();
            let mut lists = self.store.legs(collection, scope, asked).await?;
            let open = |hits: &Vec<Scored>| match (hits.get(depth.saturating_sub(1)), hits.last()) {
                (Some(cut), Some(last)) => hits.len() >= limit && near(cut.score, last.score),
                _ => false,
            };
            if !lists.iter().any(open) {
                for hits in &mut lists {
                    hits.truncate(depth);
                }
                return Ok(lists);
            }
            limit *= 2;
        }
    }
}

/// Whether a score is not greater than another by more than what an engine's own sums may be off: those decide
/// what it returns.
fn near(score: f32, other: f32) -> bool {
    score - other <= 1e-5 * score.abs()
}

fn with_limit(leg: Leg, limit: usize) -> Leg {
    match leg {
        Leg::Dense { vector, exact, .. } => Leg::Dense { vector, limit, exact },
        Leg::Sparse { vector, .. } => Leg::Sparse { vector, limit },
    }
}

#[cfg(test)]
mod tests;
