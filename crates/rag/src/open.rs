use std::path::Path;
use std::sync::Arc;

use evalign_fetch::Secret;

use crate::{EdgeStore, QdrantOptions, QdrantStore, RagError, VectorStore};

/// Where vectors lie: on the server at `address` (with its key), else in this process, below `directory`.
///
/// # Errors
/// The server cannot be reached.
pub async fn open_vector_store(
    directory: &Path,
    server: Option<(&str, Option<Secret>)>,
) -> Result<Arc<dyn VectorStore>, RagError> {
    match server {
        None => Ok(Arc::new(EdgeStore::new(directory.to_owned()))),
        Some((address, key)) => Ok(Arc::new(QdrantStore::connect(&QdrantOptions::new(address, key)).await?)),
    }
}
