//! What clients say and are told of indexes.

use evalign_rag::answer::AnswerOptions;
use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::ingest::IndexSettings;
use evalign_rag::{EmbedderIdentity, LookedUp, NamedWay};
use evalign_store::IndexedDocument;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{ApiError, ApiResult, Code};
use crate::evidence::{RerankBody, SearchWayBody, Wanted, check_share};
use crate::routes::List;

/// An index to be made.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"name": "handbook"}))]
pub(crate) struct NewIndexBody {
    /// What it is called, which is also its id.
    #[schema(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    pub(super) name: String,
    /// An embedding model of `GET /v1/models`; absent: the server's own.
    pub(super) embedder: Option<String>,
    /// How documents are cut: `structure` (by their own), `lines`, `sentences`.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(structure|lines|sentences)$")]
    chunk_by: ChunkBy,
    /// Most tokens of a chunk, counted by the embedder.
    #[serde(default = "chunk_tokens")]
    #[schema(minimum = 8)]
    chunk_tokens: usize,
    /// Tokens at the end of a chunk that the next one repeats.
    #[serde(default)]
    chunk_overlap: usize,
    /// Search each chunk together with its document's title and the headings above it.
    #[serde(default)]
    prefix: bool,
    /// Keep one byte per number of a vector for the search; the first hits are scored again in full.
    #[serde(default)]
    scalar_quantisation: bool,
}

fn chunk_tokens() -> usize {
    200
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ChunkBy {
    #[default]
    Structure,
    Lines,
    Sentences,
}

impl NewIndexBody {
    pub(super) fn settings(&self, embedder: &EmbedderIdentity) -> IndexSettings {
        IndexSettings {
            embedder: embedder.clone(),
            chunking: ChunkSettings {
                strategy: match self.chunk_by {
                    ChunkBy::Structure => Strategy::Auto,
                    ChunkBy::Lines => Strategy::Recursive,
                    ChunkBy::Sentences => Strategy::Sentence,
                },
                max_tokens: self.chunk_tokens,
                overlap_tokens: self.chunk_overlap,
                prefix: self.prefix,
            },
            scalar_quantisation: self.scalar_quantisation,
        }
    }
}

/// An index as clients see it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct IndexObject {
    #[schema(pattern = "^index$")]
    pub(super) object: &'static str,
    pub(crate) id: String,
    pub(crate) documents: u64,
    pub(crate) chunks: u64,
    /// What it counts among the bytes that a tenant may keep: texts, as documents and as chunks, and vectors.
    pub(crate) bytes: u64,
    /// The embedding model that it is made with.
    pub(crate) embedder: String,
    pub(crate) chunk_tokens: u64,
}

/// A document of an index.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct DocumentObject {
    #[schema(pattern = "^document$")]
    object: &'static str,
    pub(crate) id: String,
    pub(crate) sha256: String,
    pub(crate) chunks: u64,
    pub(crate) title: Option<String>,
    /// The document that has the same bytes.
    pub(crate) duplicate_of: Option<String>,
}

impl From<IndexedDocument> for DocumentObject {
    fn from(document: IndexedDocument) -> Self {
        Self {
            object: "document",
            sha256: document.revision.as_str().to_owned(),
            chunks: document.chunks,
            title: document.details["title"].as_str().map(str::to_owned),
            duplicate_of: document.duplicate_of,
            id: document.document,
        }
    }
}

/// Documents to be added: files that were uploaded. A file takes the place of an earlier one of its name.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct DocumentsBody {
    /// Ids of uploaded files.
    #[schema(min_items = 1, max_items = 1000)]
    pub(crate) files: Vec<String>,
}

/// What to look for.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"query": "How long does the battery last?"}))]
pub(crate) struct SearchBody {
    #[schema(min_length = 1, max_length = 10000)]
    pub(crate) query: String,
    #[serde(default = "hits")]
    #[schema(minimum = 1, maximum = 100)]
    pub(crate) limit: usize,
    #[serde(default)]
    pub(crate) search: SearchWayBody,
    /// A served model that thinks up what `search.expand` names.
    #[serde(default)]
    pub(crate) model: Option<String>,
    #[serde(default)]
    pub(crate) rerank: Option<RerankBody>,
    /// Say for each hit what each word of the query gave.
    #[serde(default)]
    pub(crate) explain: bool,
}

fn hits() -> usize {
    10
}

impl SearchBody {
    pub(crate) fn of(query: String, limit: usize, mode: NamedWay) -> Self {
        Self { query, limit, search: SearchWayBody::of(mode), model: None, rerank: None, explain: false }
    }

    pub(super) fn wanted(&self) -> ApiResult<Wanted> {
        check_text(&self.query, "query")?;
        let mut wanted = self.search.in_index(self.limit, self.model.is_some())?;
        wanted.options.explain = self.explain;
        Ok(wanted)
    }
}

/// What a search has found: all of it, on one page.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct FoundObject {
    #[schema(pattern = "^list$")]
    object: &'static str,
    /// As `evalign rag search --json` prints them.
    #[schema(value_type = Vec<Object>)]
    data: Vec<Value>,
    /// What was looked for beside the query, each with the number that the `legs` of hits have.
    added: Vec<String>,
    /// What of `search.expand` came to nothing.
    notes: Vec<String>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

impl FoundObject {
    pub(crate) fn of(found: LookedUp) -> ApiResult<Self> {
        let LookedUp { hits, added, notes } = found;
        let hits = hits.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
        let id = |hit: &Value| hit["id"].as_str().unwrap_or_default().to_owned();
        let List { object, data, first_id, last_id, has_more } =
            List::whole(hits.map_err(ApiError::internal)?, id);
        Ok(Self { object, data, added, notes, first_id, last_id, has_more })
    }
}

/// A question.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"question": "How long does the battery last?"}))]
pub(crate) struct AnswerBody {
    #[schema(min_length = 1, max_length = 10000)]
    pub(crate) question: String,
    /// A model that writes the answer; each of its claims is held against the documents. Absent: the answer
    /// quotes.
    #[serde(default)]
    pub(crate) model: Option<String>,
    #[serde(default = "hits")]
    #[schema(minimum = 1, maximum = 100)]
    pub(crate) limit: usize,
    #[serde(default)]
    pub(crate) search: SearchWayBody,
    /// A served model that judges the hits first; the answer is from the better half.
    #[serde(default)]
    pub(crate) rerank: Option<String>,
    /// Score of the best statement below which nothing is answered.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) min_confidence: Option<f64>,
    /// Say for each hit what each word of the question gave.
    #[serde(default)]
    pub(crate) explain: bool,
    /// Tell each claim as soon as it is verified, and the answer at the end.
    #[serde(default)]
    pub(crate) stream: bool,
}

impl AnswerBody {
    pub(crate) fn of(question: String, model: Option<String>, limit: usize) -> Self {
        Self {
            question,
            model,
            limit,
            search: SearchWayBody::default(),
            rerank: None,
            min_confidence: None,
            explain: false,
            stream: false,
        }
    }

    pub(super) fn options(&self) -> ApiResult<AnswerOptions> {
        check_text(&self.question, "question")?;
        let Wanted { mut options, filter, expansions } =
            self.search.in_index(self.limit, self.model.is_some())?;
        options.explain = self.explain;
        let defaults = AnswerOptions::default();
        let threshold = check_share(self.min_confidence, "min_confidence")?.unwrap_or(defaults.threshold);
        Ok(AnswerOptions { search: options, filter, expansions, threshold, ..defaults })
    }
}

fn check_text(text: &str, field: &str) -> ApiResult<()> {
    if (1..=10_000).contains(&text.len()) && !text.trim().is_empty() {
        return Ok(());
    }
    let message = format!("`{field}` has 1 to 10000 bytes");
    Err(ApiError::new(Code::InvalidRequest, message).about(field))
}
