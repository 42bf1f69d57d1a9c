use std::collections::BTreeSet;

use evalign_store::{IndexCommit, IndexedDocument, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::Run;
use super::fields::FieldStatistics;
use crate::metadata::Fields;
use crate::{Analyzer, Bm25, Chunk, LengthStatistics, RagError, SparseVector, With};

/// Points whose weights are made again together.
const POINTS_PER_STEP: usize = 512;

/// What BM25 and filters need to know of a tenant's part of an index.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct TenantStatistics {
    pub(super) lengths: LengthStatistics,
    /// The mean length that weights are made for; absent until the first run has ended, because nobody knows
    /// the mean before.
    pub(super) mean_used: Option<f64>,
    /// Documents of which a run may have shown a version and died before it recorded it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) unrecorded: BTreeSet<String>,
    /// What filters can ask for.
    #[serde(default)]
    pub(super) fields: FieldStatistics,
}

impl TenantStatistics {
    /// What is recorded; that of nothing, where nothing is.
    ///
    /// # Errors
    /// [`RagError::Index`] for what cannot be read.
    pub(super) fn recorded(state: &Store, (index, tenant): (&str, &str)) -> Result<Self, RagError> {
        let Some(recorded) = state.index_statistics(index, tenant)? else { return Ok(Self::default()) };
        serde_json::from_value(recorded).map_err(|error| {
            RagError::index(index, format!("its statistics are damaged: {error}"), "make it anew")
        })
    }

    /// What a document's new chunks add; `terms` of all of them together, `fields` what they carry.
    pub(super) fn add(&mut self, chunks: u64, terms: u64, fields: &Fields) {
        self.lengths.documents += chunks;
        self.lengths.terms += terms;
        self.fields.add(fields);
    }

    pub(super) fn remove(&mut self, document: Option<&IndexedDocument>) {
        let Some(document) = document else { return };
        let terms = document.details["terms"].as_u64().unwrap_or(0);
        self.lengths.documents = self.lengths.documents.saturating_sub(document.chunks);
        self.lengths.terms = self.lengths.terms.saturating_sub(terms);
        self.fields.remove(document);
    }

    /// The weights to use now. In the first run the mean so far; its end makes them again.
    pub(super) fn bm25(&self) -> Bm25 {
        Bm25::new(self.mean_used.or_else(|| self.lengths.mean()).unwrap_or(1.0))
    }
}

impl Run<'_, '_> {
    /// Makes all weights again where the mean length has changed since they were made. A crash in the middle
    /// leaves the old mean recorded, so the next run does it all again.
    pub(super) async fn weigh_again(&mut self) -> Result<(), RagError> {
        let Some(mean) = self.statistics.lengths.mean() else { return Ok(()) };
        if self.statistics.mean_used.is_some_and(|used| !self.statistics.lengths.drifted(used)) {
            return Ok(());
        }
        let (index, vectors) = (self.request.index.as_str(), self.ingest.vectors);
        let (analyzer, bm25) = (Analyzer::english(), Bm25::new(mean));
        let mut next: Option<Uuid> = None;
        loop {
            let with = With { payload: true, vectors: false };
            let page = vectors.scroll(index, &self.scope(), next, POINTS_PER_STEP, with).await?;
            let weigh = |record: &crate::Record| -> Result<(Uuid, SparseVector), RagError> {
                let chunk = Chunk::from_payload(index, record.id, &self.request.tenant, &record.payload)?;
                Ok((record.id, bm25.document(&analyzer.terms(&chunk.searched_text()))))
            };
            let weights = page.records.iter().map(weigh).collect::<Result<Vec<_>, _>>()?;
            if !weights.is_empty() {
                vectors.update_sparse(index, &self.scope(), weights).await?;
            }
            next = page.next;
            if next.is_none() {
                break;
            }
        }
        vectors.flush(index).await?;
        self.statistics.mean_used = Some(mean);
        let commit = IndexCommit { statistics: json!(self.statistics), ..IndexCommit::default() };
        Ok(self.ingest.state.commit_documents(index, &self.request.tenant, commit)?)
    }
}
