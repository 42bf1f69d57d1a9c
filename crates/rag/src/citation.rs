//! Quotes with their place, verified before anybody sees them.

use std::collections::BTreeMap;

use evalign_core::Digest;
use evalign_store::Store;
use serde::{Deserialize, Serialize};

use crate::records::ReadRows;
use crate::{CitedRecord, DocumentId, RagError};

/// A quote and where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    pub document: DocumentId,
    /// Digest of the document's bytes.
    pub revision: Digest,
    /// Of the quote within the document's text, end exclusive: there it stands, byte for byte.
    pub start_byte: u64,
    pub end_byte: u64,
    /// Whether it also stands in the file, or in what the file unpacks to, byte for byte.
    pub stands_in: Standing,
    /// Of the quote within that, where it stands there.
    pub file_start_byte: Option<u64>,
    /// Of a table: the record that the quote was put together from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<CitedRecord>,
    pub page: Option<u32>,
    pub section: Vec<String>,
    pub quote: String,
    /// Other places with the same quote in the same text, each verified too. They have no copies of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Self>,
}

/// Where a quote can be found as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// In the document's text only, which was extracted from the file or put together from it.
    Text,
    /// Also in the file.
    File,
    /// Also in what the file, which is packed, unpacks to.
    Unpacked,
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
    version: Digest,
    text: String,
    source_start: Option<u64>,
    /// Where the rows are in the file is recorded.
    has_places: bool,
    rows: ReadRows,
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
        let Some(Some(source)) = self.texts.get_mut(&citation.document) else { return Ok(None) };
        let place = || {
            let (start, end) =
                (usize::try_from(citation.start_byte).ok()?, usize::try_from(citation.end_byte).ok()?);
            source.text.get(start..end)
        };
        if source.revision != citation.revision || place() != Some(citation.quote.as_str()) {
            return Ok(None);
        }
        citation.file_start_byte = source.source_start.map(|start| start + citation.start_byte);
        if source.has_places {
            let document = (self.index, self.tenant, citation.document.0.as_str());
            let quote = citation.start_byte..citation.end_byte;
            let record = source.rows.record(self.state, document, &source.version, quote)?;
            let Some(record) = record else { return Ok(None) };
            citation.file_start_byte = record.exact_start(citation.quote.len() as u64);
            citation.record = Some(record);
        }
        let is_unpacked = citation.record.as_ref().is_some_and(|record| record.place.unpacked);
        citation.stands_in = match citation.file_start_byte {
            Some(_) if is_unpacked => Standing::Unpacked,
            Some(_) => Standing::File,
            None => Standing::Text,
        };
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
        Ok(Some(Source {
            revision: record.revision,
            version: record.version,
            text,
            source_start: record.details["source_start"].as_u64(),
            has_places: record.details["has_places"].as_bool().unwrap_or(false),
            rows: ReadRows::default(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use evalign_store::{IndexCommit, IndexedDocument};
    use serde_json::json;

    use super::*;
    use crate::load::{DocumentKind, PdfReader, load};
    use crate::records::{RecordPlace, RowPlace, blocks};

    const TEXT: &str = "item: lamp\n\n";

    fn citation(text: &str, quote: &str) -> Citation {
        let start = text.find(quote).unwrap() as u64;
        Citation {
            document: DocumentId("a.csv".to_owned()),
            revision: Digest::of("file"),
            start_byte: start,
            end_byte: start + quote.len() as u64,
            stands_in: Standing::Text,
            file_start_byte: None,
            record: None,
            page: None,
            section: Vec::new(),
            quote: quote.to_owned(),
            copies: Vec::new(),
        }
    }

    /// What becomes of quotes where this is recorded of their document. `placed`: the version whose places are there.
    fn verified_all(
        text: &str,
        rows: &[RowPlace],
        quotes: &[&str],
        has_places: Option<bool>,
        placed: &str,
    ) -> Vec<Option<Citation>> {
        let directory = tempfile::tempdir().unwrap();
        let state = Store::open(directory.path()).unwrap();
        state.put_index("i", &json!({})).unwrap();
        let document = IndexedDocument {
            document: "a.csv".to_owned(),
            root: "/docs".to_owned(),
            revision: Digest::of("file"),
            version: Digest::of("now"),
            text: Some(Digest::of(text)),
            chunks: 1,
            duplicate_of: None,
            details: json!({"source_start": null, "has_places": has_places}),
        };
        let commit = IndexCommit {
            indexed: vec![document],
            texts: vec![(Digest::of(text), text.to_owned())],
            places: blocks("a.csv", &Digest::of(placed), rows),
            ..IndexCommit::default()
        };
        state.commit_documents("i", "t", commit).unwrap();
        let mut sources = Sources::new(&state, "i", "t");
        quotes.iter().map(|quote| sources.verified(citation(text, quote)).unwrap()).collect()
    }

    fn verified(quote: &str, has_places: Option<bool>, placed: &str) -> Option<Citation> {
        let record = RecordPlace { line: 2, start_byte: 5, end_byte: 9, unpacked: false };
        let row = RowPlace { text: [0, 11], record, verbatim: vec![[6, 5, 4]] };
        verified_all(TEXT, &[row], &[quote], has_places, placed).remove(0)
    }

    #[test]
    fn a_quote_of_a_row_is_told_with_its_record() {
        let told = |quote: &str| {
            let citation = verified(quote, Some(true), "now").unwrap();
            (citation.stands_in, citation.file_start_byte, citation.record.unwrap().place.line)
        };
        assert_eq!(told("lamp"), (Standing::File, Some(5), 2));
        assert_eq!(told("am"), (Standing::File, Some(6), 2));
        assert_eq!(told("item: lamp"), (Standing::Text, None, 2));
    }

    #[test]
    fn rows_are_found_in_whatever_block_they_are_plain_and_packed() {
        let rows: Vec<String> = (1..=600).map(|row| format!("lamp{row:03},pier\n")).collect();
        let csv = format!("item,place\n{}", rows.concat());
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gz, csv.as_bytes()).unwrap();
        for (file, stands_in) in
            [(csv.clone().into_bytes(), Standing::File), (gz.finish().unwrap(), Standing::Unpacked)]
        {
            let loaded = load(Path::new("a.csv"), &file, DocumentKind::Csv, &PdfReader::Here).unwrap();
            // Two rows of one block, two that lie in two, and one of a block that was read with the one before.
            let quotes =
                ["lamp001", "lamp256", "lamp256\nplace: pier\n\nitem: lamp257", "lamp257", "lamp600"];
            let told = verified_all(&loaded.text, &loaded.places, &quotes, Some(true), "now");
            for ((quote, row), citation) in quotes.iter().zip([1, 256, 256, 257, 600]).zip(told) {
                let citation = citation.unwrap();
                let record = citation.record.unwrap();
                let start = csv.find(&rows[row - 1]).unwrap() as u64;
                assert_eq!((record.place.line, record.place.start_byte), (row as u64 + 1, start), "{quote}");
                assert_eq!(record.place.unpacked, stands_in == Standing::Unpacked);
                let (expected, exact) =
                    if quote.contains('\n') { (Standing::Text, None) } else { (stands_in, Some(start)) };
                assert_eq!((citation.stands_in, citation.file_start_byte), (expected, exact), "{quote}");
            }
        }
    }

    #[test]
    fn places_are_never_those_of_another_version() {
        // Indexed anew between the search and the answer.
        assert_eq!(verified("lamp", Some(true), "later"), None);
        // As versions before there were places have written it.
        assert_eq!(verified("lamp", None, "now"), Some(citation(TEXT, "lamp")));
    }
}
