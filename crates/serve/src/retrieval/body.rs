//! What clients say of evaluations of search and answers.

use evalign_rag::{Fusion, SearchMode, SearchOptions};
use serde::Deserialize;

use super::of_field;
use crate::error::ApiResult;

/// Hits that are judged again, or chunks that are looked at.
const MOST_HITS: usize = 100;

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

/// A second look at the first hits.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RerankBody {
    /// A served model that judges them.
    pub(super) model: String,
    /// Hits that are judged.
    #[serde(default = "twenty")]
    #[schema(minimum = 1, maximum = 100)]
    depth: usize,
}

fn twenty() -> usize {
    20
}

impl RerankBody {
    pub(super) fn depth(&self) -> ApiResult<usize> {
        check_hits(self.depth, "rerank.depth")
    }
}

/// A way of searching, to be measured on a collection.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct EvaluationBody {
    pub(super) collection: CollectionBody,
    /// An embedding model of `GET /v1/models`; absent: the server's own.
    pub(super) embedder: Option<String>,
    /// By words (`bm25`), by meaning (`dense`), both (`hybrid`), or both and by meaning once more from nearer to the first
    /// hits (`feedback`).
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(bm25|dense|hybrid|feedback)$")]
    mode: Mode,
    /// How the lists of words and of meaning become one: `rrf`, `min-max` or `dbsf`; absent: `rrf`, and `dbsf` with
    /// `feedback`.
    #[schema(value_type = Option<String>, pattern = "^(rrf|min-max|dbsf)$")]
    fusion: Option<FusionKind>,
    /// Cut documents into chunks of so many of the embedder's tokens; each counts by its best chunk. Absent: whole.
    #[schema(minimum = 8)]
    pub(super) chunk_tokens: Option<usize>,
    /// Tokens at the end of a chunk that the next one repeats.
    #[serde(default)]
    pub(super) chunk_overlap: usize,
    pub(super) rerank: Option<RerankBody>,
    /// Take vectors of documents that were computed before; the time of the ingest then leaves them out.
    #[serde(default)]
    pub(super) reuse_vectors: bool,
    /// A new run even where the same was measured before.
    #[serde(default)]
    pub(super) fork: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Bm25,
    Dense,
    Hybrid,
    #[default]
    Feedback,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum FusionKind {
    Rrf,
    MinMax,
    Dbsf,
}

impl EvaluationBody {
    pub(super) fn options(&self) -> ApiResult<SearchOptions> {
        let plain = SearchOptions::default();
        let start = match self.mode {
            Mode::Bm25 => SearchOptions { mode: SearchMode::Bm25, ..plain },
            Mode::Dense => SearchOptions { mode: SearchMode::Dense, ..plain },
            Mode::Hybrid => SearchOptions { mode: SearchMode::Hybrid, ..plain },
            Mode::Feedback => SearchOptions::recommended(),
        };
        if self.chunk_tokens.is_none() && self.chunk_overlap > 0 {
            return Err(of_field("chunk_overlap", "`chunk_overlap` goes with `chunk_tokens`"));
        }
        Ok(SearchOptions { fusion: self.fusion.map_or(start.fusion, FusionKind::fusion), ..start })
    }
}

impl FusionKind {
    fn fusion(self) -> Fusion {
        match self {
            Self::Rrf => Fusion::default(),
            Self::MinMax => Fusion::MinMax,
            Self::Dbsf => Fusion::Dbsf,
        }
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
    /// Also let a served model judge the first hits, at several depths.
    pub(super) rerank: Option<String>,
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
    /// The same seed takes the chunks in the same order.
    #[serde(default)]
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

impl AnswersBody {
    pub(super) fn limit(&self) -> ApiResult<usize> {
        check_hits(self.limit, "limit")
    }

    pub(super) fn min_confidence(&self) -> ApiResult<Option<f64>> {
        match self.min_confidence {
            Some(least) if !(0.0..=1.0).contains(&least) => {
                Err(of_field("min_confidence", "`min_confidence` is a number from 0 to 1"))
            }
            least => Ok(least),
        }
    }
}

fn check_hits(count: usize, field: &str) -> ApiResult<usize> {
    if (1..=MOST_HITS).contains(&count) {
        return Ok(count);
    }
    Err(of_field(field, format!("`{field}` is a number from 1 to {MOST_HITS}")))
}
