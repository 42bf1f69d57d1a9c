//! Whether what is recorded is in the store at hand. SQLite knows what is indexed and not where: an index may have
//! been written to another store, and a server may have lost its collection.

use std::collections::{BTreeMap, BTreeSet};

use evalign_store::{IndexedDocument, Store};

use super::{Run, shown};
use crate::{RagError, Scope, VectorStore};

/// To be asked where nothing was found: that there is nothing is only true of a store that has the tenant's chunks.
///
/// # Errors
/// [`RagError::Index`] where documents with chunks are recorded and this store has none of them; what the stores report.
pub async fn check_presence(
    state: &Store,
    vectors: &dyn VectorStore,
    (index, tenant): (&str, &str),
) -> Result<(), RagError> {
    let scope = Scope::of(tenant).visible(shown());
    let is_there = vectors.collections().await?.iter().any(|name| name == index);
    if is_there && vectors.count(index, &scope).await? > 0 {
        return Ok(());
    }
    let recorded = state.index_size(index, tenant)?;
    if recorded.chunks == 0 {
        return Ok(());
    }
    Err(RagError::index(
        index,
        format!(
            "recorded documents: {}; none of their chunks is in this vector store ({})",
            recorded.documents,
            vectors.place()
        ),
        "choose the store that has them with `--store` and `QDRANT_URL`, or run `evalign rag index` again: it writes \
         them here",
    ))
}

impl Run<'_, '_> {
    /// Names of recorded documents of which this store shows fewer chunks than were recorded.
    pub(super) async fn absent(&self) -> Result<BTreeSet<String>, RagError> {
        if self.known.is_empty() {
            return Ok(BTreeSet::new());
        }
        let (index, scope) = (self.request.index.as_str(), self.scope().visible(shown()));
        // There are no more versions than points.
        let points = self.ingest.vectors.count(index, &scope).await?;
        let most = usize::try_from(points).unwrap_or(usize::MAX);
        let versions: BTreeMap<String, u64> = match most {
            0 => BTreeMap::new(),
            _ => self.ingest.vectors.facet(index, &scope, "version", most).await?.into_iter().collect(),
        };
        let is_short = |document: &&IndexedDocument| {
            versions.get(document.version.as_str()).is_none_or(|found| *found < document.chunks)
                && document.chunks > 0
        };
        Ok(self.known.values().filter(is_short).map(|document| document.document.clone()).collect())
    }
}
