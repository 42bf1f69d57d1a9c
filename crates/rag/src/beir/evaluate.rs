mod depth;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use evalign_core::Digest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, json};
use uuid::{Builder, Uuid};

use super::{BeirCollection, BeirDocument, BeirQuery};
use crate::chunk::{context_of, in_context, point_id};
use crate::chunker::{ChunkPlace, ChunkSettings, chunks};
use crate::fusion::Fused;
use crate::load::{DocumentKind, LoadedText};
use crate::metrics::RetrievalMetrics;
use crate::{
    Analyzer, Bm25, CollectionSpec, Embedder, LengthStatistics, Point, RagError, Reranker, Scope, SearchMode,
    SearchOptions, TextRole, VectorStore, With,
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
    /// How documents were cut; absent: each was searched whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chunking: Option<ChunkSettings>,
    /// First hits that a reranker put in another order.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerank_depth: Option<usize>,
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
    /// Document ids with the scores of the search; a reranker's judgement changes only their order.
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
    /// How documents are cut, and whose tokens count.
    cut: Option<(ChunkSettings, &'a dyn Embedder)>,
    /// Judges so many first hits again.
    reranker: Option<(&'a Reranker, usize)>,
    /// How many hits of a leg queries needed for each document that they were to find.
    hits_per_document: AtomicUsize,
}

/// A part of a document, which is a point.
struct Piece {
    document: usize,
    range: Range<usize>,
    /// Searched before the text.
    context: Option<String>,
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
        Self {
            collection,
            store,
            embedder,
            name: name.to_owned(),
            cut: None,
            reranker: None,
            hits_per_document: AtomicUsize::new(1),
        }
    }

    /// Cuts documents; each then counts by its best chunk (Dai and Callan 2019, arXiv 1905.09217, MaxP), and lists are
    /// as many documents deep as they are of whole ones. Tokens are `counter`'s.
    ///
    /// # Errors
    /// As [`BeirCollection::check_cut`].
    pub fn cut(mut self, chunking: ChunkSettings, counter: &'a dyn Embedder) -> Result<Self, RagError> {
        self.collection.check_cut(chunking, counter.identity().max_tokens)?;
        self.cut = Some((chunking, counter));
        Ok(self)
    }

    /// Lets the first `depth` hits of a query be judged again, and orders them by that.
    #[must_use]
    pub fn reranked(mut self, reranker: &'a Reranker, depth: usize) -> Self {
        self.reranker = Some((reranker, depth));
        self
    }

    /// Writes every document, one point each or one for each chunk; whatever an interrupted evaluation left is replaced.
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
        let pieces = self.pieces();
        let mut lengths = LengthStatistics::default();
        for piece in &pieces {
            lengths.add(analyzer.terms(&self.searched_text(piece)).len() as u64);
        }
        let bm25 = Bm25::new(lengths.mean().unwrap_or_default());
        let (mut cut, mut done) = (0, 0);
        for batch in pieces.chunks(BATCH) {
            let texts: Vec<String> = batch.iter().map(|piece| self.searched_text(piece)).collect();
            let mut vectors = Vec::new();
            if let Some(embedder) = self.embedder {
                let limit = embedder.identity().max_tokens;
                cut += texts.iter().filter(|text| embedder.count_tokens(text) > limit).count() as u64;
                vectors = embedder.embed(&texts, TextRole::Passage).await?;
            }
            let mut vectors = vectors.into_iter();
            let points = batch.iter().zip(&texts).map(|(piece, text)| Point {
                id: self.id(piece),
                tenant: TENANT.to_owned(),
                dense: vectors.next(),
                sparse: bm25.document(&analyzer.terms(text)),
                payload: self.payload(piece),
            });
            self.store.upsert(&self.name, points.collect()).await?;
            let reached = batch.last().map_or(done, |piece| piece.document + 1);
            advance((reached - done) as u64);
            done = reached;
        }
        advance((self.collection.documents.len() - done) as u64);
        self.store.flush(&self.name).await?;
        self.store.optimise(&self.name).await?;
        Ok(cut)
    }

    /// Documents whole, or their chunks, in the order of the file.
    fn pieces(&self) -> Vec<Piece> {
        let documents = self.collection.documents.iter().enumerate();
        let Some((settings, counter)) = self.cut else {
            let whole = |(place, document): (usize, &BeirDocument)| Piece {
                document: place,
                range: 0..document.text.len(),
                context: None,
            };
            return documents.map(whole).collect();
        };
        let special = counter.count_tokens("");
        let count = |text: &str| counter.count_tokens(text).saturating_sub(special);
        let mut pieces = Vec::new();
        for (place, BeirDocument { title, text, .. }) in documents {
            let loaded = LoadedText::new(text.clone(), DocumentKind::Text, Some(0));
            let has_context = settings.prefix && !title.is_empty();
            let piece = |ChunkPlace { range, section, .. }| {
                let context = has_context.then(|| context_of(title, &section, &text[range.clone()], counter));
                Piece { document: place, range, context: context.flatten() }
            };
            pieces.extend(chunks(&loaded, settings, &count).into_iter().map(piece));
        }
        pieces
    }

    fn searched_text(&self, piece: &Piece) -> String {
        in_context(piece.context.as_deref(), self.text(piece))
    }

    fn text(&self, piece: &Piece) -> &'a str {
        &self.collection.documents[piece.document].text[piece.range.clone()]
    }

    /// Where a chunk stands in its document; of a whole one there is nothing to say.
    fn payload(&self, piece: &Piece) -> Map<String, serde_json::Value> {
        let Range { start, end } = piece.range;
        let place = self.cut.map(|_| [("start", json!(start)), ("end", json!(end))]);
        place.into_iter().flatten().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Ids whose order is that of the documents: equal scores rank in the order of the file, on any store.
    fn id(&self, piece: &Piece) -> Uuid {
        let document = &self.collection.documents[piece.document];
        let start = self.cut.map(|_| piece.range.start.to_string());
        let parts = [self.name.as_str(), &document.id, self.text(piece)];
        let parts: Vec<&str> = parts.into_iter().chain(start.as_deref()).collect();
        let mut bytes = point_id(&parts).into_bytes();
        bytes[..6].copy_from_slice(&(piece.document as u64).to_be_bytes()[2..]);
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
        Ok(self.named(&self.fuse(self.lists(query, options).await?, options)))
    }

    /// Documents by their best hit.
    fn named(&self, hits: &[Fused]) -> Vec<(&'a str, f64)> {
        let mut seen = BTreeSet::new();
        hits.iter()
            .filter_map(|hit| {
                let position = Self::position(hit.id);
                let document = self.collection.documents.get(position)?;
                seen.insert(position).then_some((document.id.as_str(), hit.score))
            })
            .collect()
    }

    /// What a reranker reads of hits, in their order.
    ///
    /// # Errors
    /// What the store reports.
    pub(crate) async fn passages(&self, ids: &[Uuid]) -> Result<Vec<&'a str>, RagError> {
        let with = With { payload: true, vectors: false };
        let records = match self.cut {
            Some(_) => self.store.retrieve(&self.name, &Scope::of(TENANT), ids, with).await?,
            None => Vec::new(),
        };
        let places: BTreeMap<Uuid, Map<String, serde_json::Value>> =
            records.into_iter().map(|record| (record.id, record.payload)).collect();
        let passage = |id: &Uuid| {
            let text = self.collection.documents.get(Self::position(*id))?.text.as_str();
            let byte = |name| usize::try_from(places.get(id)?.get(name)?.as_u64()?).ok();
            match self.cut {
                Some(_) => text.get(byte("start")?..byte("end")?),
                None => Some(text),
            }
        };
        Ok(ids.iter().map(|id| passage(id).unwrap_or_default()).collect())
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
        let mut hits = self.fuse(self.lists(&query.text, options).await?, options);
        if let Some((reranker, depth)) = self.reranker {
            let ids: Vec<Uuid> = hits.iter().take(depth).map(|hit| hit.id).collect();
            let relevance = reranker.relevance(&query.text, &self.passages(&ids).await?).await?;
            reorder(&mut hits, &relevance);
        }
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
            chunking: self.cut.map(|(chunking, _)| chunking),
            rerank_depth: self.reranker.map(|(_, depth)| depth),
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

/// Puts the first hits in the order of their relevance, one number each; the others follow as they were.
pub(crate) fn reorder(hits: &mut [Fused], relevance: &[f64]) {
    let first = hits.len().min(relevance.len());
    let mut judged: Vec<(f64, Fused)> = relevance.iter().copied().zip(hits[..first].to_vec()).collect();
    // Stable: among equals the one that stood higher.
    judged.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    for (place, (_, hit)) in hits.iter_mut().zip(judged) {
        *place = hit;
    }
}
