use std::sync::Arc;

use evalign_model::Model;
use evalign_store::Store;

use super::{Expansion, Hit, QueryPlan, SearchOptions, Searcher, rerank};
use crate::ingest::{check_metadata, check_presence, shown};
use crate::{Filter, RagError, Reranker, Scope};

/// A question to an index: looked for also in other words, among chunks that fit a filter, the first hits judged again.
pub struct Lookup<'a> {
    pub state: &'a Store,
    pub searcher: Searcher<'a>,
    pub index: &'a str,
    pub tenant: &'a str,
    pub filter: Filter,
    pub expansions: &'a [Expansion],
    /// Who thinks up the expansions.
    pub model: Option<&'a Arc<dyn Model>>,
    /// What judges this many of the first hits.
    pub rerank: Option<(&'a Reranker, usize)>,
}

/// What a [`Lookup`] comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct LookedUp {
    pub hits: Vec<Hit>,
    /// What was looked for beside the question, under the numbers that [`super::LegShare::query`] has.
    pub added: Vec<String>,
    /// Expansions that came to nothing, documents that a filter cannot find.
    pub notes: Vec<String>,
}

impl std::fmt::Debug for Lookup<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lookup").field("index", &self.index).finish_non_exhaustive()
    }
}

impl Lookup<'_> {
    /// The best hits, each text once ([`Searcher::search`]).
    ///
    /// # Errors
    /// As [`Searcher::search`]; expansions without a model; a filter on metadata that nothing carries; an index that is recorded here and lies in another store;
    /// what the model or the reranker report.
    pub async fn hits(&self, query: &str, options: &SearchOptions) -> Result<LookedUp, RagError> {
        let (filter, untold) = check_metadata(self.state, (self.index, self.tenant), &self.filter)?;
        let (plan, mut notes) = match self.model {
            _ if self.expansions.is_empty() => (QueryPlan::of(query), Vec::new()),
            Some(model) => QueryPlan::expanded(query, self.expansions, model).await?,
            None => return Err(RagError::invalid("expansions", "need a model", "name one")),
        };
        notes.extend(untold);
        let scope = Scope::of(self.tenant).visible(shown()).filter(filter);
        let judged = self.rerank.map_or(options.limit, |(_, depth)| depth.max(options.limit));
        let searched = SearchOptions { limit: judged, ..options.clone() };
        let mut hits = self.searcher.search(self.index, &scope, &plan, &searched).await?;
        if let Some((reranker, _)) = self.rerank {
            hits = rerank((self.index, self.tenant), query, reranker, hits, options.limit).await?;
        }
        if hits.is_empty() {
            check_presence(self.state, self.searcher.store, (self.index, self.tenant)).await?;
        }
        Ok(LookedUp { hits, added: plan.added(options.mode), notes })
    }
}
