//! What clients say and are told of indexes.

use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::ingest::IndexSettings;
use evalign_rag::{EmbedderIdentity, SearchMode};
use evalign_store::IndexedDocument;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ApiResult, Code};

/// Hits of a query.
const MOST_HITS: usize = 100;

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
            scalar_quantisation: false,
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
    /// `hybrid` (words and vectors), `bm25` (words), `dense` (vectors).
    #[serde(default = "SearchMode::default")]
    #[schema(value_type = String, pattern = "^(hybrid|bm25|dense)$")]
    pub(crate) mode: SearchMode,
    /// Say for each hit what each word of the query gave.
    #[serde(default)]
    pub(crate) explain: bool,
}

fn hits() -> usize {
    10
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
    /// Score of the best statement below which nothing is answered.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) min_confidence: Option<f64>,
}

pub(super) fn check_limit(limit: usize) -> ApiResult<()> {
    if (1..=MOST_HITS).contains(&limit) {
        return Ok(());
    }
    let message = format!("`limit` is a number from 1 to {MOST_HITS}");
    Err(ApiError::new(Code::InvalidRequest, message).about("limit"))
}

pub(super) fn check_text(text: &str, field: &str) -> ApiResult<()> {
    if (1..=10_000).contains(&text.len()) && !text.trim().is_empty() {
        return Ok(());
    }
    let message = format!("`{field}` has 1 to 10000 bytes");
    Err(ApiError::new(Code::InvalidRequest, message).about(field))
}
