//! What clients say of evaluations of search and answers.

use evalign_rag::SearchOptions;
use serde::Deserialize;

use super::of_field;
use crate::error::ApiResult;
use crate::evidence::{RerankBody, SearchWayBody, Wanted, check_share};

/// A collection in the layout of BEIR, in uploaded files.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "manuals", "corpus": "file_0199", "queries": "file_0200", "qrels": "file_0201"}))]
pub(crate) struct CollectionBody {
    /// What it is called in results.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    pub(super) name: String,
    /// JSONL with `_id`, `title` and `text`.
    pub(super) corpus: String,
    /// JSONL with `_id` and `text`.
    pub(super) queries: String,
    /// Tab-separated: query, document, grade.
    pub(super) qrels: String,
}

/// A way of searching, to be measured on a collection.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluationBody {
    pub(super) collection: CollectionBody,
    /// An embedding model of `GET /v1/models`; absent: the server's own.
    pub(super) embedder: Option<String>,
    #[serde(default)]
    pub(super) search: SearchWayBody,
    /// Cut documents into chunks of so many of the embedder's tokens; each counts by its best chunk. Absent: whole.
    #[schema(minimum = 8)]
    pub(super) chunk_tokens: Option<usize>,
    /// Tokens at the end of a chunk that the next one repeats.
    #[serde(default)]
    pub(super) chunk_overlap: usize,
    /// Search each chunk together with its document's title.
    #[serde(default)]
    pub(super) prefix: bool,
    pub(super) rerank: Option<RerankBody>,
    /// Take vectors of documents that were computed before; the time of the ingest then leaves them out.
    #[serde(default)]
    pub(super) reuse_vectors: bool,
    /// A new run even where the same was measured before.
    #[serde(default)]
    pub(super) fork: bool,
}

impl EvaluationBody {
    pub(super) fn options(&self) -> ApiResult<SearchOptions> {
        if self.chunk_tokens.is_none() && self.chunk_overlap > 0 {
            return Err(of_field("chunk_overlap", "`chunk_overlap` goes with `chunk_tokens`"));
        }
        if self.chunk_tokens.is_none() && self.prefix {
            return Err(of_field("prefix", "`prefix` goes with `chunk_tokens`"));
        }
        self.search.in_collection()
    }
}

/// Ways of searching, to be compared on a collection.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct TuningBody {
    pub(super) collection: CollectionBody,
    /// As for an evaluation.
    pub(super) embedder: Option<String>,
    /// What is to become better.
    #[serde(default = "ndcg_at_10")]
    pub(super) metric: String,
    /// Also cut documents into chunks of so many of the embedder's tokens.
    #[serde(default)]
    #[schema(max_items = 8)]
    pub(super) chunk_tokens: Vec<usize>,
    /// With so many tokens at the end of a chunk that the next one repeats; each with each of `chunk_tokens`. None where
    /// absent.
    #[serde(default)]
    #[schema(max_items = 8)]
    pub(super) chunk_overlap: Vec<usize>,
    /// Also search each way of cutting with the document's title before every chunk.
    #[serde(default)]
    pub(super) prefix: bool,
    /// Also let a served model judge the first hits.
    pub(super) rerank: Option<String>,
    /// Hits that are judged; each number is tried. Where absent: 10, 20 and 50.
    #[serde(default)]
    #[schema(max_items = 8)]
    pub(super) rerank_depths: Vec<usize>,
    /// Ask only so many of the queries, chosen by the digests of their ids. Absent: all.
    #[schema(minimum = 1)]
    pub(super) queries: Option<usize>,
}

fn ndcg_at_10() -> String {
    "ndcg@10".to_owned()
}

/// Questions that are to be made from an index's documents.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2", "count": 50}))]
pub(crate) struct TestsBody {
    /// The model that writes them.
    pub(super) model: String,
    #[schema(minimum = 1, maximum = 10000)]
    pub(super) count: usize,
    /// Of these, at most so many about something that no document names.
    #[serde(default)]
    #[schema(maximum = 10000)]
    pub(super) unanswerable: usize,
    /// The same seed takes the chunks in the same order; 1234 where absent.
    #[serde(default = "seed")]
    pub(super) seed: u64,
}

/// Questions that an index is to be asked, with where their answers stand.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"questions": "file_0199"}))]
pub(crate) struct AnswersBody {
    /// An uploaded file of questions, as `POST /v1/indexes/{id}/tests` makes them.
    pub(super) questions: String,
    /// A model that writes the answers; absent: the index quotes.
    pub(super) model: Option<String>,
    /// A model that judges them, claim by claim.
    pub(super) judge: Option<String>,
    /// Chunks that are looked at for an answer.
    #[serde(default = "ten")]
    #[schema(minimum = 1, maximum = 100)]
    limit: usize,
    #[serde(default)]
    pub(super) search: SearchWayBody,
    /// A served model that judges the hits first; answers are from the better half.
    pub(super) rerank: Option<String>,
    /// Score of the best statement below which nothing is answered.
    #[schema(minimum = 0, maximum = 1)]
    min_confidence: Option<f64>,
    /// A new run even where the same was measured before.
    #[serde(default)]
    pub(super) fork: bool,
}

fn ten() -> usize {
    10
}

fn seed() -> u64 {
    evalign_bench::DEFAULT_SEED
}

impl AnswersBody {
    pub(super) fn wanted(&self) -> ApiResult<Wanted> {
        self.search.in_index(self.limit, self.model.is_some())
    }

    pub(super) fn min_confidence(&self) -> ApiResult<Option<f64>> {
        check_share(self.min_confidence, "min_confidence")
    }
}
