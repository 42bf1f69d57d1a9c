//! Quotes with their place, verified before anybody sees them.

use std::collections::BTreeMap;

use evalign_core::Digest;
use evalign_store::Store;
use serde::{Deserialize, Serialize};

use crate::{DocumentId, RagError};

/// A quote and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    pub document: DocumentId,
    /// Digest of the document's bytes.
    pub revision: Digest,
    /// Of the quote within the document's text, end exclusive. That is the file only where `file_start_byte` is given.
    pub start_byte: u64,
    pub end_byte: u64,
    /// Of the quote within the file, where the text is a part of the file's bytes.
    pub file_start_byte: Option<u64>,
    pub page: Option<u32>,
    pub section: Vec<String>,
    pub quote: String,
    /// Other places with the same quote in the same text, each verified too. They have no copies of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Self>,
}

/// Reads the texts that quotes are held against.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    state: &'a Store,
    index: &'a str,
    tenant: &'a str,
    texts: BTreeMap<DocumentId, Option<Source>>,
}

#[derive(Debug)]
struct Source {
    revision: Digest,
    text: String,
    source_start: Option<u64>,
}

impl<'a> Sources<'a> {
    pub(crate) fn new(state: &'a Store, index: &'a str, tenant: &'a str) -> Self {
        Self { state, index, tenant, texts: BTreeMap::new() }
    }

    /// The citation, if its quote stands at its place or at that of a copy; copies where it does not stand are left out.
    ///
    /// # Errors
    /// What the store reports.
    pub(crate) fn verified(&mut self, mut citation: Citation) -> Result<Option<Citation>, RagError> {
        let copies = std::mem::take(&mut citation.copies);
        let mut standing = Vec::new();
        for place in std::iter::once(citation).chain(copies) {
            standing.extend(self.standing(place)?);
        }
        let mut standing = standing.into_iter();
        Ok(standing.next().map(|first| Citation { copies: standing.collect(), ..first }))
    }

    /// One place, if the quote stands there in the text of that revision, byte for byte. A document that was indexed
    /// anew since the search has another revision: then nothing can be said, and it is not shown.
    fn standing(&mut self, mut citation: Citation) -> Result<Option<Citation>, RagError> {
        if !self.texts.contains_key(&citation.document) {
            let source = self.read(&citation.document)?;
            self.texts.insert(citation.document.clone(), source);
        }
        let Some(Some(source)) = self.texts.get(&citation.document) else { return Ok(None) };
        let place = || {
            let (start, end) =
                (usize::try_from(citation.start_byte).ok()?, usize::try_from(citation.end_byte).ok()?);
            source.text.get(start..end)
        };
        if source.revision != citation.revision || place() != Some(citation.quote.as_str()) {
            return Ok(None);
        }
        citation.file_start_byte = source.source_start.map(|start| start + citation.start_byte);
        Ok(Some(citation))
    }

    fn read(&self, document: &DocumentId) -> Result<Option<Source>, RagError> {
        let Some(record) = self.state.indexed_document(self.index, self.tenant, &document.0)? else {
            return Ok(None);
        };
        let Some(digest) = record.text else { return Ok(None) };
        let Some(text) = self.state.text(&digest)? else { return Ok(None) };
        // Somebody may have written to the file that holds them.
        if Digest::of(&text) != digest {
            return Ok(None);
        }
        let source_start = record.details["source_start"].as_u64();
        Ok(Some(Source { revision: record.revision, text, source_start }))
    }
}
