//! What indexes take of the bytes that a tenant may keep, and how they get fewer.

use evalign_core::Tenant;
use evalign_rag::ingest::{IndexSettings, Ingest, IngestRequest};
use evalign_store::{IndexSize, Store};
use tokio::sync::OwnedMutexGuard;

use super::names::own_name;
use super::{Found, found};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};

/// What an index is called among the things that a tenant keeps.
pub(super) fn kept_as(stored: &str) -> String {
    format!("index {stored}")
}

/// What an index takes, about: its texts, whole and in chunks, and a vector of `f32` for each chunk.
pub(super) fn bytes_of(settings: &IndexSettings, size: &IndexSize) -> u64 {
    let vector = 4 * settings.embedder.dimension as u64;
    size.text_bytes.saturating_mul(2).saturating_add(size.chunks.saturating_mul(vector))
}

impl App {
    /// Notes what an index takes of the bytes that its tenant may keep.
    pub(super) fn note_bytes(&self, store: &Store, id: &str) -> ApiResult<()> {
        let Found { stored, settings } = found(store, id)?;
        let settings: IndexSettings = serde_json::from_value(settings).map_err(ApiError::internal)?;
        let size = store.index_size(&stored, store.tenant().as_str())?;
        Ok(store.keep_bytes(&kept_as(&stored), bytes_of(&settings, &size))?)
    }

    /// Notes what indexes take of which that was never noted: an older version, or the command line, has filled them.
    pub(crate) fn note_indexes(&self) -> ApiResult<()> {
        for stored in self.store.indexes()? {
            for tenant in self.store.index_tenants(&stored)? {
                // The command line takes other names for tenants too.
                let Ok(tenant) = tenant.parse::<Tenant>() else { continue };
                let view = self.store.for_tenant(&tenant);
                let Some(id) = own_name(&tenant, &stored) else { continue };
                if self.ending.is_cancelled() {
                    return Ok(());
                }
                // Who writes into it notes it.
                if view.kept_bytes(&kept_as(&stored))?.is_none()
                    && let Ok(_only) = self.only_writer(&stored)
                    && let Err(error) = self.note_bytes(&view, id)
                {
                    tracing::warn!(index = stored, error = error.message, "what an index takes is not noted");
                }
            }
        }
        Ok(())
    }

    /// Who writes into an index, unless somebody does.
    pub(super) fn only_writer(&self, stored: &str) -> ApiResult<OwnedMutexGuard<()>> {
        self.retrieval.filling(stored).try_lock_owned().map_err(|_| {
            let message = "documents are being added to this index: wait for that run, or cancel it";
            ApiError::new(Code::RunActive, message).retry_after(5)
        })
    }

    /// Removes a document from an index.
    pub(crate) async fn remove_document(&self, store: &Store, id: &str, document: &str) -> ApiResult<()> {
        let Found { stored, settings } = found(store, id)?;
        let tenant = store.tenant().to_string();
        if store.indexed_document(&stored, &tenant, document)?.is_none() {
            return Err(ApiError::not_found("document", document));
        }
        let _only = self.only_writer(&stored)?;
        let embedder = self.embedder_of(&stored, &settings).await?;
        let settings = serde_json::from_value(settings).map_err(ApiError::internal)?;
        let request = IngestRequest {
            index: stored,
            tenant,
            inputs: Vec::new(),
            named: Vec::new(),
            allow_urls: false,
            settings,
            delete_missing: false,
        };
        let vectors = self.vectors().await?;
        let ingest = Ingest::new(store, vectors.as_ref(), embedder, &|_| {});
        ingest.remove(&request, &[document.to_owned()]).await?;
        self.note_bytes(store, id)
    }
}
