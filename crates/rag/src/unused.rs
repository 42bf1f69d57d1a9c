use std::collections::BTreeSet;

use evalign_core::Digest;
use evalign_store::Store;

use crate::embed::vector_key;
use crate::{Chunk, EmbedderIdentity, RagError, Scope, TextRole, VectorStore, With};

/// Points whose texts are looked at together.
const POINTS_TOGETHER: usize = 1000;

/// Drops kept vectors of texts that no chunk of any index has, and says how many. `None` where an index lies in another
/// store, so that nobody can tell here; then all stay.
///
/// # Errors
/// What the stores report, settings of an index that cannot be read.
pub async fn drop_unused_vectors(
    state: &Store,
    vectors: &dyn VectorStore,
) -> Result<Option<usize>, RagError> {
    let there = vectors.collections().await?;
    let indexes = state.indexes()?;
    if indexes.iter().any(|index| !there.contains(index)) {
        return Ok(None);
    }
    let mut used = BTreeSet::new();
    for index in &indexes {
        let Some(settings) = state.index_settings(index)? else { continue };
        let embedder = EmbedderIdentity::recorded(index, &settings)?;
        for tenant in state.index_tenants(index)? {
            collect(vectors, (index, &tenant), &embedder, &mut used).await?;
        }
    }
    Ok(Some(state.drop_vectors_but(used)?))
}

/// The keys of a tenant's chunks, hidden ones too.
async fn collect(
    vectors: &dyn VectorStore,
    (index, tenant): (&str, &str),
    embedder: &EmbedderIdentity,
    used: &mut BTreeSet<Digest>,
) -> Result<(), RagError> {
    let (scope, with) = (Scope::of(tenant), With { payload: true, vectors: false });
    let mut from = None;
    loop {
        let page = vectors.scroll(index, &scope, from, POINTS_TOGETHER, with).await?;
        for record in page.records {
            let chunk = Chunk::from_payload(index, record.id, tenant, &record.payload)?;
            used.insert(vector_key(embedder, &chunk.searched_text(), TextRole::Passage));
        }
        match page.next {
            Some(next) => from = Some(next),
            None => return Ok(()),
        }
    }
}
