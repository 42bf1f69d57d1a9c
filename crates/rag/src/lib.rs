//! Documents in, cited answers out: load, chunk, embed, index, search, rerank, pack, answer, and its metrics.
//!
//! The one decision made here: **a store is asked for legs, never for answers**. [`VectorStore`] finds the
//! nearest points by vector and by words; fusing the two lists, breaking ties, packing and citing are done
//! here, so that both stores rank alike and every hit can say why it is where it is.
//!
//! ```text
//! documents -> chunks -> vectors + term weights -> upsert, flush        (index)
//! query -> legs -> fuse -> rerank -> hits -> pack -> answer -> citations verified   (query)
//! ```
//!
//! Who may see what is decided by a [`Scope`], without which nothing can be read: it names the tenant, and
//! the statistics of BM25 are taken among the points it makes visible, so a tenant's words leave no trace
//! in another tenant's scores.
//!
//! This crate knows nothing of runs.

pub mod abstain;
pub mod answer;
mod beir;
mod bm25;
mod chunk;
pub mod chunker;
mod citation;
mod diff;
mod edge;
pub mod embed;
mod embedder;
mod error;
mod evidence;
mod filter;
mod fusion;
pub mod generate_tests;
pub mod ingest;
mod injection;
pub mod load;
mod metadata;
mod metrics;
mod mmr;
mod open;
mod pack;
mod qdrant;
pub mod quality;
mod records;
mod rerank;
mod search;
mod sentences;
mod serve_qdrant;
mod sources;
mod tune;
mod unused;
mod vector_store;
mod way;

pub use beir::{
    BeirAnswer, BeirCollection, BeirDocument, BeirEvaluation, BeirMeasured, BeirQuery, BeirReport,
    BeirSeconds, PerQuery,
};
pub use bm25::{Analyzer, Bm25, LengthStatistics};
pub use chunk::{Chunk, DocumentId, STAGED_FIELD};
pub use citation::{Citation, Standing};
pub use diff::{MetricDifference, difference};
pub use edge::EdgeStore;
pub use embedder::{Embedder, EmbedderIdentity, Pooling, Probe, TextRole, as_recorded};
pub use error::{RagError, StoreFault};
pub use evidence::Evidence;
pub use filter::{Bounds, Condition, Filter};
pub use fusion::{Fused, Fusion, Share};
pub use injection::orders_in;
pub use metrics::{Judgements, RetrievalMetrics};
pub use open::open_vector_store;
pub use pack::pack;
pub use qdrant::{QdrantOptions, QdrantStore};
pub use records::{CitedRecord, RecordPlace, VerbatimBytes};
pub use rerank::Reranker;
pub use search::{
    DenseText, Expansion, Feedback, Hit, HitCopy, LegKind, LegShare, LookedUp, Lookup, NamedFusion, NamedWay,
    NoEffect, QueryPlan, RerankShare, SearchChoices, SearchMode, SearchOptions, Searcher, TermShare, rerank,
};
pub use serve_qdrant::QdrantServer;
pub use tune::{
    TimeLeft, TuneCandidate, TunePart, TuneReport, TuneRequest, TuneStep, TuneSteps, TunedPart, tune,
};
pub use unused::drop_unused_vectors;
pub use vector_store::{
    CollectionInfo, CollectionSpec, FieldKind, Leg, Page, Point, Record, Scope, Scored, SparseVector,
    TENANT_FIELD, VectorStore, With,
};
pub use way::SearchWay;
