//! What clients say and are told of indexes.

use evalign_rag::answer::AnswerOptions;
use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::ingest::IndexSettings;
use evalign_rag::{EmbedderIdentity, NamedWay, SearchOptions};
use evalign_store::IndexedDocument;
use serde::{Deserialize, Serialize};

use crate::error::{ApiError, ApiResult, Code};
use crate::evidence::{NamedExpansion, RerankBody, SearchWayBody, check_hits, check_share, filter, mmr};

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
    /// Only chunks whose fields are so: `kind=markdown`, `page>=3`, `document!=old.md`.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub(crate) filters: Vec<String>,
    /// Prefer hits that differ from those above them: 1 is relevance alone, 0 difference alone.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) mmr: Option<f64>,
    /// Let `model` think up other ways to look for it: `multi-query`, `decompose`, `hyde`.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 3)]
    pub(crate) expand: Vec<NamedExpansion>,
    /// A served model that thinks them up.
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
        Self {
            query,
            limit,
            search: SearchWayBody::of(mode),
            filters: Vec::new(),
            mmr: None,
            expand: Vec::new(),
            model: None,
            rerank: None,
            explain: false,
        }
    }

    pub(super) fn options(&self) -> ApiResult<SearchOptions> {
        Ok(SearchOptions {
            limit: check_hits(self.limit, "limit")?,
            mmr: mmr(self.mmr)?,
            explain: self.explain,
            ..self.search.options(!self.expand.is_empty())?
        })
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
    /// Only chunks whose fields are so: `kind=markdown`, `page>=3`, `document!=old.md`.
    #[serde(default)]
    #[schema(max_items = 16)]
    pub(crate) filters: Vec<String>,
    /// Prefer chunks that differ from those found before: 1 is relevance alone, 0 difference alone.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) mmr: Option<f64>,
    /// Let `model` think up other ways to look for it: `multi-query`, `decompose`, `hyde`.
    #[serde(default)]
    #[schema(value_type = Vec<String>, max_items = 3)]
    pub(crate) expand: Vec<NamedExpansion>,
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
}

impl AnswerBody {
    pub(crate) fn of(question: String, model: Option<String>, limit: usize) -> Self {
        Self {
            question,
            model,
            limit,
            search: SearchWayBody::default(),
            filters: Vec::new(),
            mmr: None,
            expand: Vec::new(),
            rerank: None,
            min_confidence: None,
            explain: false,
        }
    }

    pub(super) fn options(&self) -> ApiResult<AnswerOptions> {
        let expansions = NamedExpansion::all(&self.expand, self.model.is_some())?;
        let defaults = AnswerOptions::default();
        Ok(AnswerOptions {
            search: SearchOptions {
                limit: check_hits(self.limit, "limit")?,
                mmr: mmr(self.mmr)?,
                explain: self.explain,
                ..self.search.options(!expansions.is_empty())?
            },
            filter: filter(&self.filters)?,
            expansions,
            threshold: check_share(self.min_confidence, "min_confidence")?.unwrap_or(defaults.threshold),
            ..defaults
        })
    }
}

pub(super) fn check_text(text: &str, field: &str) -> ApiResult<()> {
    if (1..=10_000).contains(&text.len()) && !text.trim().is_empty() {
        return Ok(());
    }
    let message = format!("`{field}` has 1 to 10000 bytes");
    Err(ApiError::new(Code::InvalidRequest, message).about(field))
}
