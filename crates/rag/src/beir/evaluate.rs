use std::collections::BTreeMap;
use std::time::Instant;

use evalign_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::Map;
use uuid::{Builder, Uuid};

use super::{BeirCollection, BeirQuery};
use crate::chunk::point_id;
use crate::fusion::Fused;
use crate::metrics::RetrievalMetrics;
use crate::search::Searched;
use crate::{
    Analyzer, Bm25, CollectionSpec, Embedder, Leg, LengthStatistics, Point, QueryPlan, RagError, Scope,
    SearchMode, SearchOptions, Searcher, TextRole, VectorStore,
};

/// Points written at once: enough for an embedder to sort by length, few enough to hold in memory.
const BATCH: usize = 256;

/// The tenant that evaluations belong to.
const TENANT: &str = "evaluation";

/// Metrics of each query, by its id.
pub type PerQuery = BTreeMap<String, RetrievalMetrics>;

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BeirReport {
    /// See [`BeirCollection::digest`].
    pub dataset: Digest,
    pub metrics: RetrievalMetrics,
    pub n_queries: u64,
    pub n_documents: u64,
    /// Documents longer than the embedder reads: they were cut for the vector, not for the words.
    pub n_cut: u64,
    pub mode: SearchMode,
    /// Where the vectors were, for example `edge`.
    pub store: String,
    pub embedder: Option<String>,
    pub options: SearchOptions,
    pub seconds: BeirSeconds,
    pub per_query: PerQuery,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BeirSeconds {
    /// Analysing, embedding and writing all documents.
    pub ingest: f64,
    /// All queries, one after the other, embedding included.
    pub queries: f64,
    /// Of one query.
    pub query_p50: f64,
    pub query_p99: f64,
}

/// What one query found, best first, and what that is worth.
#[derive(Clone, Debug, PartialEq)]
pub struct BeirAnswer<'a> {
    /// Document ids with their scores.
    pub ranking: Vec<(&'a str, f64)>,
    /// `None` for a query without judgements.
    pub metrics: Option<RetrievalMetrics>,
    pub seconds: f64,
}

/// What a report is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BeirMeasured {
    pub n_cut: u64,
    pub ingest_seconds: f64,
    /// Seconds of each query.
    pub latencies: Vec<f64>,
    pub per_query: PerQuery,
}

/// A collection being written to a store and asked.
pub struct BeirEvaluation<'a> {
    collection: &'a BeirCollection,
    store: &'a dyn VectorStore,
    embedder: Option<&'a dyn Embedder>,
    name: String,
}

impl std::fmt::Debug for BeirEvaluation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BeirEvaluation").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<'a> BeirEvaluation<'a> {
    /// Without an embedder only words are indexed. `name`: of the collection in the store; what is there under it
    /// is replaced.
    #[must_use]
    pub fn new(
        collection: &'a BeirCollection,
        (store, name): (&'a dyn VectorStore, &str),
        embedder: Option<&'a dyn Embedder>,
    ) -> Self {
        Self { collection, store, embedder, name: name.to_owned() }
    }

    /// Writes every document, one point each; whatever an interrupted evaluation left is replaced.
    /// Returns how many documents were cut for their vector.
    ///
    /// # Errors
    /// What the store and the embedder report.
    pub async fn ingest(&self, advance: &(dyn Fn(u64) + Sync)) -> Result<u64, RagError> {
        self.store.drop_collection(&self.name).await?;
        let spec = CollectionSpec {
            dimension: self.embedder.map(|embedder| embedder.identity().dimension),
            indexed_fields: Vec::new(),
            scalar_quantisation: false,
        };
        self.store.ensure(&self.name, &spec).await?;
        let analyzer = Analyzer::english();
        let mut lengths = LengthStatistics::default();
        for document in &self.collection.documents {
            lengths.add(analyzer.terms(&document.text).len() as u64);
        }
        let bm25 = Bm25::new(lengths.mean().unwrap_or_default());
        let mut cut = 0;
        for (batch, first) in self.collection.documents.chunks(BATCH).zip((0..).step_by(BATCH)) {
            let texts: Vec<String> = batch.iter().map(|document| document.text.clone()).collect();
            let mut vectors = Vec::new();
            if let Some(embedder) = self.embedder {
                let limit = embedder.identity().max_tokens;
                cut += texts.iter().filter(|text| embedder.count_tokens(text) > limit).count() as u64;
                vectors = embedder.embed(&texts, TextRole::Passage).await?;
            }
            let mut vectors = vectors.into_iter();
            let points = (first..).zip(&texts).map(|(position, text)| Point {
                id: self.id(position),
                tenant: TENANT.to_owned(),
                dense: vectors.next(),
                sparse: bm25.document(&analyzer.terms(text)),
                payload: Map::new(),
            });
            self.store.upsert(&self.name, points.collect()).await?;
            advance(batch.len() as u64);
        }
        self.store.flush(&self.name).await?;
        self.store.optimise(&self.name).await?;
        Ok(cut)
    }

    /// Ids whose order is that of the documents: equal scores rank in the order of the file, on any store.
    fn id(&self, position: usize) -> Uuid {
        let document = &self.collection.documents[position];
        let mut bytes = point_id(&[&self.name, &document.id, &document.text]).into_bytes();
        bytes[..6].copy_from_slice(&(position as u64).to_be_bytes()[2..]);
        Builder::from_custom_bytes(bytes).into_uuid()
    }

    fn position(id: Uuid) -> usize {
        id.as_bytes()[..6].iter().fold(0, |position, byte| position << 8 | usize::from(*byte))
    }

    /// The documents found for a query with their scores, best first.
    ///
    /// # Errors
    /// What the store and the embedder report.
    pub async fn ranking(
        &self,
        query: &str,
        options: &SearchOptions,
    ) -> Result<Vec<(&'a str, f64)>, RagError> {
        Ok(self.named(&self.lists(query, options).await?.fuse(options)))
    }

    pub(crate) async fn lists(&self, query: &str, options: &SearchOptions) -> Result<Searched, RagError> {
        let searcher = Searcher::new(self.store, self.embedder);
        searcher.lists(&self.name, &Scope::of(TENANT), &QueryPlan::of(query), options).await
    }

    /// The lists before any feedback, and the legs that found them.
    pub(crate) async fn first_lists(
        &self,
        query: &str,
        options: &SearchOptions,
    ) -> Result<(Vec<Leg>, Searched), RagError> {
        let searcher = Searcher::new(self.store, self.embedder);
        searcher.first_lists(&self.name, &Scope::of(TENANT), &QueryPlan::of(query), options).await
    }

    /// The lists after the feedback that the options ask for.
    pub(crate) async fn feed_back(
        &self,
        legs: &[Leg],
        searched: &mut Searched,
        options: &SearchOptions,
    ) -> Result<(), RagError> {
        let searcher = Searcher::new(self.store, self.embedder);
        searcher.feed_back((&self.name, &Scope::of(TENANT)), legs, searched, options).await
    }

    fn named(&self, hits: &[Fused]) -> Vec<(&'a str, f64)> {
        hits.iter()
            .filter_map(|hit| {
                let document = self.collection.documents.get(Self::position(hit.id))?;
                Some((document.id.as_str(), hit.score))
            })
            .collect()
    }

    #[must_use]
    pub fn queries(&self) -> &'a [BeirQuery] {
        &self.collection.queries
    }

    /// `None` for a query without judgements.
    pub(crate) fn judge(&self, query: &str, hits: &[Fused]) -> Option<RetrievalMetrics> {
        let ids: Vec<&str> = self.named(hits).into_iter().map(|(id, _)| id).collect();
        RetrievalMetrics::of(&ids, self.collection.judgements.get(query)?)
    }

    /// Asks one query.
    ///
    /// # Errors
    /// What the store and the embedder report.
    pub async fn answer(
        &self,
        query: &BeirQuery,
        options: &SearchOptions,
    ) -> Result<BeirAnswer<'a>, RagError> {
        let start = Instant::now();
        let hits = self.lists(&query.text, options).await?.fuse(options);
        let seconds = start.elapsed().as_secs_f64();
        Ok(BeirAnswer { metrics: self.judge(&query.id, &hits), ranking: self.named(&hits), seconds })
    }

    /// The report of an evaluation with these options.
    #[must_use]
    pub fn report(&self, store: &str, options: &SearchOptions, measured: BeirMeasured) -> BeirReport {
        let mut latencies = measured.latencies;
        latencies.sort_by(f64::total_cmp);
        let quantile = |share| evalign_stats::quantile(&latencies, share).unwrap_or_default();
        BeirReport {
            dataset: self.collection.digest(),
            metrics: RetrievalMetrics::mean(measured.per_query.values()).unwrap_or_default(),
            n_queries: measured.per_query.len() as u64,
            n_documents: self.collection.documents.len() as u64,
            n_cut: measured.n_cut,
            mode: options.mode,
            store: store.to_owned(),
            embedder: self.embedder.map(|embedder| embedder.identity().name.clone()),
            options: options.clone(),
            seconds: BeirSeconds {
                ingest: measured.ingest_seconds,
                queries: latencies.iter().sum(),
                query_p50: quantile(0.5),
                query_p99: quantile(0.99),
            },
            per_query: measured.per_query,
        }
    }

    /// Removes what [`Self::ingest`] wrote.
    ///
    /// # Errors
    /// What the store reports.
    pub async fn clean_up(&self) -> Result<(), RagError> {
        self.store.drop_collection(&self.name).await
    }
}
