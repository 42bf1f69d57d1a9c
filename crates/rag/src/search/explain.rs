use std::collections::BTreeMap;

use serde::Serialize;
use uuid::Uuid;

use super::{Hit, LegKind, QueryPlan, Searcher};
use crate::{Bm25, Filter, Leg, RagError, Scope};

/// What one term of the question gave to a hit's BM25 score.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TermShare {
    /// Stemmed, as it is looked for.
    pub term: String,
    /// How often the question says it.
    pub count: usize,
    pub contribution: f64,
}

impl Searcher<'_> {
    /// Asks the store for each term alone among the hits: what comes back is the very number that the
    /// store added, not a reconstruction of it.
    pub(super) async fn explain_terms(
        &self,
        collection: &str,
        scope: &Scope,
        plan: &QueryPlan,
        hits: &mut [Hit],
    ) -> Result<(), RagError> {
        // Terms of the first query explain the first leg of words.
        let Some(question) = plan.words.first() else { return Ok(()) };
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for term in self.analyzer.terms(question) {
            *counts.entry(term).or_default() += 1;
        }
        let found = |hit: &&mut Hit| hit.legs.iter().any(|leg| leg.leg == LegKind::Bm25);
        let mut found: BTreeMap<Uuid, &mut Hit> =
            hits.iter_mut().filter(found).map(|hit| (hit.id, hit)).collect();
        if found.is_empty() || counts.is_empty() {
            return Ok(());
        }
        let legs = counts.iter().map(|(term, count)| Leg::Sparse {
            vector: Bm25::query(&vec![term.clone(); *count]),
            limit: found.len(),
        });
        let among = scope.clone().filter(Filter::ids(found.keys().copied().collect()));
        let lists = self.store.legs(collection, &among, legs.collect()).await?;
        for ((term, count), list) in counts.iter().zip(lists) {
            for scored in list {
                if let Some(hit) = found.get_mut(&scored.id) {
                    let contribution = f64::from(scored.score);
                    hit.terms.push(TermShare { term: term.clone(), count: *count, contribution });
                }
            }
        }
        for hit in found.into_values() {
            hit.terms.sort_by(|a, b| b.contribution.total_cmp(&a.contribution));
        }
        Ok(())
    }
}
