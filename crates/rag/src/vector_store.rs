use std::collections::BTreeMap;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{Filter, RagError};

/// Payload field that says whose point it is. The store writes it from [`Point::tenant`]; a payload that
/// brings it along is refused.
pub const TENANT_FIELD: &str = "tenant";

/// Names of the two vectors of a point.
pub(crate) const DENSE: &str = "dense";
pub(crate) const SPARSE: &str = "bm25";

/// What a collection is made for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionSpec {
    /// Length of the dense vectors (compared by cosine); `None` for a collection searched by words only.
    pub dimension: Option<usize>,
    /// Payload fields that filters will use. The tenant's is always indexed.
    pub indexed_fields: Vec<(String, FieldKind)>,
    /// Keeps dense vectors as one byte per number for the search; the first hits are scored again with
    /// the full vectors.
    pub scalar_quantisation: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FieldKind {
    Keyword,
    Integer,
    Float,
    Bool,
}

/// Term weights: dimension (a hash of the term, see [`crate::Analyzer`]) and weight, ascending, no
/// dimension twice.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SparseVector {
    pub indices: Vec<u32>,
    pub values: Vec<f32>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    pub id: Uuid,
    pub tenant: String,
    /// As long as the collection's dimension; absent where it has none.
    pub dense: Option<Vec<f32>>,
    pub sparse: SparseVector,
    pub payload: Map<String, Value>,
}

/// Whose points are read or deleted. There is no way to ask a store for points without naming the tenant.
#[derive(Clone, Debug, PartialEq)]
pub struct Scope {
    pub tenant: String,
    /// What counts as being in the collection for this tenant: what is not yet or no longer visible is
    /// neither found nor counted in the statistics of BM25.
    pub visible: Filter,
    /// What the user asked for. Narrows the hits, not the statistics.
    pub filter: Filter,
}

impl Scope {
    #[must_use]
    pub fn of(tenant: &str) -> Self {
        Self { tenant: tenant.to_owned(), visible: Filter::default(), filter: Filter::default() }
    }

    #[must_use]
    pub fn visible(mut self, visible: Filter) -> Self {
        self.visible = self.visible.and(visible);
        self
    }

    #[must_use]
    pub fn filter(mut self, filter: Filter) -> Self {
        self.filter = self.filter.and(filter);
        self
    }

    /// What the statistics of BM25 are taken over.
    pub(crate) fn corpus(&self) -> Filter {
        Filter::equals(TENANT_FIELD, self.tenant.as_str()).and(self.visible.clone())
    }

    /// What may be found.
    pub(crate) fn all(&self) -> Filter {
        self.corpus().and(self.filter.clone())
    }
}

/// One way to look for points. The hits of a leg come best first; among equal scores the smaller id.
#[derive(Clone, Debug, PartialEq)]
pub enum Leg {
    /// `exact` scans everything; otherwise an approximate index is used where there is one.
    Dense { vector: Vec<f32>, limit: usize, exact: bool },
    /// Weights are multiplied by the inverse document frequency among the visible points of the tenant.
    Sparse { vector: SparseVector, limit: usize },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scored {
    pub id: Uuid,
    pub score: f32,
}

impl Scored {
    /// Best first, and among equal scores the smaller id: engines leave that order open.
    pub(crate) fn sort(hits: &mut [Self]) {
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
    }
}

/// What to bring along with a point.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct With {
    pub payload: bool,
    pub vectors: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub id: Uuid,
    /// Empty unless asked for; without the tenant's field.
    pub payload: Map<String, Value>,
    pub dense: Option<Vec<f32>>,
    pub sparse: Option<SparseVector>,
}

impl Record {
    /// The records in the order of `ids`.
    pub(crate) fn in_order(records: Vec<Self>, ids: &[Uuid]) -> Vec<Self> {
        let mut by_id: BTreeMap<Uuid, Self> = records.into_iter().map(|record| (record.id, record)).collect();
        ids.iter().filter_map(|id| by_id.remove(id)).collect()
    }
}

/// Points in the order of their ids.
#[derive(Clone, Debug, PartialEq)]
pub struct Page {
    pub records: Vec<Record>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CollectionInfo {
    pub points: u64,
    /// Points that an approximate index covers; the others are scanned.
    pub indexed: u64,
    pub dimension: Option<usize>,
    /// Paths of the payload fields that are indexed, sorted.
    pub indexed_fields: Vec<String>,
}

/// Where vectors live: [`crate::EdgeStore`] in this process, [`crate::QdrantStore`] on a server.
///
/// All writes are idempotent, so a caller may repeat whatever failed. What was written is searched at
/// once, and survives the process after [`Self::flush`].
#[async_trait]
pub trait VectorStore: Send + Sync {
    /// For messages: what and where it is, without secrets.
    fn place(&self) -> String;

    /// Makes the collection if it is not there.
    ///
    /// # Errors
    /// [`RagError::Index`] where it is there with vectors of another length.
    async fn ensure(&self, collection: &str, spec: &CollectionSpec) -> Result<(), RagError>;

    /// Collections there are, sorted.
    async fn collections(&self) -> Result<Vec<String>, RagError>;

    /// Removes a collection with all tenants' points. Nothing happens where it is not there.
    async fn drop_collection(&self, collection: &str) -> Result<(), RagError>;

    /// Writes points; one with an id that is already there replaces it.
    ///
    /// # Errors
    /// [`RagError::Index`] for vectors of another length than the collection's. Points of the same call
    /// may have been written.
    async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<(), RagError>;

    /// Replaces the term weights of points that are there: after the mean length has drifted.
    async fn update_sparse(
        &self,
        collection: &str,
        scope: &Scope,
        vectors: Vec<(Uuid, SparseVector)>,
    ) -> Result<(), RagError>;

    /// Sets fields of the payload of every point in scope, leaving the other fields.
    async fn set_payload(
        &self,
        collection: &str,
        scope: &Scope,
        payload: Map<String, Value>,
    ) -> Result<(), RagError>;

    /// Deletes every point in scope.
    async fn delete(&self, collection: &str, scope: &Scope) -> Result<(), RagError>;

    /// The hits of each leg, in the order of the legs.
    async fn legs(
        &self,
        collection: &str,
        scope: &Scope,
        legs: Vec<Leg>,
    ) -> Result<Vec<Vec<Scored>>, RagError>;

    /// Points by id, in the order of `ids`; those that are not there or not in scope are left out.
    async fn retrieve(
        &self,
        collection: &str,
        scope: &Scope,
        ids: &[Uuid],
        with: With,
    ) -> Result<Vec<Record>, RagError>;

    /// At most `limit` points in the order of their ids, from `from` on.
    async fn scroll(
        &self,
        collection: &str,
        scope: &Scope,
        from: Option<Uuid>,
        limit: usize,
        with: With,
    ) -> Result<Page, RagError>;

    async fn count(&self, collection: &str, scope: &Scope) -> Result<u64, RagError>;

    /// Values of an indexed keyword field with their number of points, the most frequent first, then by
    /// value.
    async fn facet(
        &self,
        collection: &str,
        scope: &Scope,
        field: &str,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, RagError>;

    /// Returns when everything written so far survives a crash of the process.
    async fn flush(&self, collection: &str) -> Result<(), RagError>;

    /// Builds the approximate index where there is enough to index, and cleans up what was deleted.
    /// Searching and writing go on meanwhile.
    async fn optimise(&self, collection: &str) -> Result<(), RagError>;

    async fn info(&self, collection: &str) -> Result<CollectionInfo, RagError>;
}

/// Collections become directory names: `[a-z0-9][a-z0-9._-]{0,63}`.
pub(crate) fn check_name(name: &str) -> Result<(), RagError> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = name.bytes();
    let fits = name.len() <= 64
        && bytes.next().is_some_and(plain)
        && bytes.all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'));
    if fits {
        return Ok(());
    }
    Err(RagError::invalid(
        format!("index name `{}`", name.escape_debug()),
        "is not usable",
        "use lower-case letters, digits, `.`, `_` and `-`, at most 64, beginning with a letter or digit",
    ))
}

/// Vectors of one collection all have one length, or there are none.
pub(crate) fn check_dimension(
    collection: &str,
    has: Option<usize>,
    brings: Option<usize>,
) -> Result<(), RagError> {
    if has == brings {
        return Ok(());
    }
    let numbers = |length: Option<usize>| match length {
        Some(length) => format!("vectors of {length} numbers"),
        None => "no vectors".to_owned(),
    };
    Err(RagError::index(
        collection,
        format!("it holds {}, and these points have {}", numbers(has), numbers(brings)),
        "index with the embedder that the index was made with, or make a new index",
    ))
}

/// The tenant is the store's to write.
pub(crate) fn check_payload(payload: &Map<String, Value>) -> Result<(), RagError> {
    if !payload.contains_key(TENANT_FIELD) {
        return Ok(());
    }
    Err(RagError::invalid(
        format!("metadata field `{TENANT_FIELD}`"),
        "is reserved",
        "give the field another name; whose a document is, `--tenant` says",
    ))
}
