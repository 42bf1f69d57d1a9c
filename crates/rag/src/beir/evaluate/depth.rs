//! How far lists are read. Several chunks of one document are one hit of a ranking: lists of as many chunks as there are
//! hits of whole documents would be judged over fewer documents. So lists end where enough documents are in them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::{BeirEvaluation, TENANT};
use crate::fusion::Fused;
use crate::search::Searched;
use crate::{Leg, QueryPlan, RagError, Scope, Scored, SearchOptions, Searcher};

impl BeirEvaluation<'_> {
    /// The lists of a query, each with as many documents as the options ask for hits where there are so many, after
    /// any feedback.
    pub(super) async fn lists(&self, query: &str, options: &SearchOptions) -> Result<Searched, RagError> {
        let (legs, mut searched) = self.first_lists(query, options).await?;
        self.feed_back(&legs, &mut searched, options).await?;
        Ok(searched)
    }

    /// The lists before any feedback, and the legs that found them.
    pub(crate) async fn first_lists(
        &self,
        query: &str,
        options: &SearchOptions,
    ) -> Result<(Vec<Leg>, Searched), RagError> {
        let searcher = Searcher::new(self.store, self.embedder);
        let (scope, plan) = (Scope::of(TENANT), QueryPlan::of(query));
        let mut deeper = self.deeper(options, 0);
        loop {
            let (legs, mut found) = searcher.first_lists(&self.name, &scope, &plan, &deeper).await?;
            if is_deep(&found, options, deeper.depth) {
                cut(&mut found, options);
                return Ok((legs, found));
            }
            deeper = self.twice(&deeper, options);
        }
    }

    /// The lists after the feedback that the options ask for.
    pub(crate) async fn feed_back(
        &self,
        legs: &[Leg],
        searched: &mut Searched,
        options: &SearchOptions,
    ) -> Result<(), RagError> {
        let searcher = Searcher::new(self.store, self.embedder);
        cut(searched, options);
        let mut deeper = self.deeper(options, searched.longest());
        while options.feedback.is_some() {
            let mut found = searched.clone();
            searcher.feed_back((&self.name, &Scope::of(TENANT)), legs, &mut found, &deeper).await?;
            if is_deep(&found, options, deeper.depth) {
                cut(&mut found, options);
                *searched = found;
                break;
            }
            deeper = self.twice(&deeper, options);
        }
        Ok(())
    }

    /// One list of all.
    pub(crate) fn fuse(&self, mut searched: Searched, options: &SearchOptions) -> Vec<Fused> {
        cut(&mut searched, options);
        let depth = depth(options).max(searched.longest());
        searched.fuse(&SearchOptions { depth, ..options.clone() })
    }

    /// The options with so many hits of a leg as queries before needed to find enough documents. That saves time and
    /// changes nothing that is found: lists end where they have enough.
    fn deeper(&self, options: &SearchOptions, at_least: usize) -> SearchOptions {
        let depth = depth(options).saturating_mul(self.hits_per_document.load(Ordering::Relaxed));
        SearchOptions { depth: depth.max(at_least), ..options.clone() }
    }

    fn twice(&self, tried: &SearchOptions, options: &SearchOptions) -> SearchOptions {
        let deeper = tried.depth.saturating_mul(2);
        self.hits_per_document.fetch_max(deeper.div_ceil(depth(options).max(1)), Ordering::Relaxed);
        SearchOptions { depth: deeper, ..tried.clone() }
    }
}

/// Documents that a list shall have.
fn depth(options: &SearchOptions) -> usize {
    options.depth.max(options.limit)
}

/// How many hits hold so many documents; `None` where there are fewer in them.
fn reach(hits: &[Scored], depth: usize) -> Option<usize> {
    if depth == 0 {
        return Some(0);
    }
    let mut documents = BTreeSet::new();
    let last = hits.iter().position(|hit| {
        documents.insert(BeirEvaluation::position(hit.id));
        documents.len() >= depth
    });
    last.map(|last| last + 1)
}

/// Whether every list that was read to `read` hits has enough documents, or all there is.
fn is_deep(searched: &Searched, options: &SearchOptions, read: usize) -> bool {
    let depth = depth(options);
    searched.lists().iter().all(|hits| hits.len() < read || reach(hits, depth).is_some())
}

/// Ends each list where it has enough documents.
fn cut(searched: &mut Searched, options: &SearchOptions) {
    let depth = depth(options);
    searched.truncate(|hits| reach(hits, depth).unwrap_or(hits.len()));
}
