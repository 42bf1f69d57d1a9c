//! Where what is said of a table's rows stands in the table's file.
//!
//! A row becomes lines `field: value`, so its text is not the file's. What is known from reading it: which bytes of the
//! file its record is, and which bytes of its text are bytes of the file. Both are told beside every quote.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use evalign_core::Digest;
use evalign_store::{Store, TextPlaces};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::RagError;

/// Rows whose places are written and read together: a quote is of one or two of a million. Rows with many parts fill a
/// block sooner.
const ROWS_TOGETHER: usize = 256;
const PARTS_TOGETHER: usize = 16_384;

/// A record in the file of a table, or several that follow each other, with the empty lines between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordPlace {
    /// Its first line, counted from 1.
    pub line: u64,
    /// End exclusive; without the line's end.
    pub start_byte: u64,
    pub end_byte: u64,
    /// The file is packed: all this is counted in what it unpacks to.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unpacked: bool,
}

/// The record that a quote was put together from, and what of the quote is the file's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CitedRecord {
    #[serde(flatten)]
    pub place: RecordPlace,
    /// In order. What is not among them are names of fields, and what the file has escaped. Of rows with very many parts
    /// none are known (which `rag index` notes).
    pub verbatim: Vec<VerbatimBytes>,
}

/// Bytes that are the same in a quote and in the file, `[start, end]`, end exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerbatimBytes {
    pub quote: [u64; 2],
    pub file: [u64; 2],
}

/// `line 3, row at bytes 30 to 60`.
impl fmt::Display for RecordPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, start_byte, end_byte, unpacked } = self;
        let of = if *unpacked { " of what it unpacks to" } else { "" };
        write!(f, "line {line}, row at bytes {start_byte} to {end_byte}{of}")
    }
}

/// The place with what of it the quote holds as it is: `line 3, row at bytes 30 to 60 (as it stands: 40 to 52)`.
impl fmt::Display for CitedRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        let parts = self.verbatim.iter().map(|part| part.file.map(|byte| byte.to_string()).join(" to "));
        match parts.collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => Ok(()),
            parts => write!(f, " (as it stands: {parts})"),
        }
    }
}

impl CitedRecord {
    /// Where the quote begins in the file, if all of it stands there as it is.
    pub(crate) fn exact_start(&self, quote_bytes: u64) -> Option<u64> {
        match self.verbatim.as_slice() {
            [all] if all.quote == [0, quote_bytes] => Some(all.file[0]),
            _ => None,
        }
    }
}

/// A row in the text and in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RowPlace {
    /// In the text, end exclusive.
    pub(crate) text: [u64; 2],
    #[serde(flatten)]
    pub(crate) record: RecordPlace,
    /// What is the same in both: where it begins in the text and in the file, and its bytes.
    pub(crate) verbatim: Vec<[u64; 3]>,
}

/// The rows that a part of the text lies in, of rows in order.
fn rows_of(rows: &[RowPlace], range: Range<u64>) -> &[RowPlace] {
    let first = rows.partition_point(|row| row.text[1] <= range.start);
    let behind = rows.partition_point(|row| row.text[0] < range.end);
    rows.get(first..behind).unwrap_or_default()
}

/// The records that a part of the text was put together from.
pub(crate) fn record_of(rows: &[RowPlace], range: Range<u64>) -> Option<RecordPlace> {
    let rows = rows_of(rows, range);
    let (first, last) = (rows.first()?, rows.last()?);
    Some(RecordPlace { end_byte: last.record.end_byte, ..first.record })
}

fn cited_record(rows: &[RowPlace], quote: Range<u64>) -> Option<CitedRecord> {
    let place = record_of(rows, quote.clone())?;
    let parts = rows_of(rows, quote.clone()).iter().flat_map(|row| &row.verbatim);
    let verbatim = parts.filter_map(|[text, file, bytes]| {
        let (start, end) = ((*text).max(quote.start), (text + bytes).min(quote.end));
        let in_file = |byte: u64| file + (byte - text);
        (start < end).then(|| VerbatimBytes {
            quote: [start - quote.start, end - quote.start],
            file: [in_file(start), in_file(end)],
        })
    });
    Some(CitedRecord { place, verbatim: verbatim.collect() })
}

/// As it is stored.
#[derive(Serialize, Deserialize)]
struct Block {
    /// Of the document.
    version: Digest,
    rows: Vec<RowPlace>,
}

/// The places of a document's rows, to be recorded with it.
pub(crate) fn blocks(document: &str, version: &Digest, rows: &[RowPlace]) -> Vec<TextPlaces> {
    let block = |rows: &[RowPlace]| TextPlaces {
        document: document.to_owned(),
        start_byte: rows.first().map_or(0, |row| row.text[0]),
        places: json!({"version": version, "rows": rows}).to_string(),
    };
    together(rows).into_iter().map(block).collect()
}

fn together(rows: &[RowPlace]) -> Vec<&[RowPlace]> {
    let mut blocks = Vec::new();
    let (mut start, mut parts) = (0, 0);
    for (at, row) in rows.iter().enumerate() {
        parts += row.verbatim.len();
        if at > start && (at - start == ROWS_TOGETHER || parts > PARTS_TOGETHER) {
            blocks.push(&rows[start..at]);
            (start, parts) = (at, row.verbatim.len());
        }
    }
    if start < rows.len() {
        blocks.push(&rows[start..]);
    }
    blocks
}

/// Rows of one version of a document that were read, by where their text begins: several quotes are of the same.
#[derive(Debug, Default)]
pub(crate) struct ReadRows(BTreeMap<u64, Vec<RowPlace>>);

impl ReadRows {
    /// The record that a quote of a document's text is from; `None` where another version of the document is recorded now.
    ///
    /// # Errors
    /// What the store reports, and places that no indexer wrote.
    pub(crate) fn record(
        &mut self,
        state: &Store,
        (index, tenant, document): (&str, &str, &str),
        version: &Digest,
        quote: Range<u64>,
    ) -> Result<Option<CitedRecord>, RagError> {
        let read = self.0.range(..=quote.start).next_back().map(|(_, rows)| rows);
        let holds = |rows: &&Vec<RowPlace>| rows.last().is_some_and(|last| quote.end <= last.text[1]);
        if let Some(rows) = read.filter(holds) {
            return Ok(cited_record(rows, quote));
        }
        let mut rows = Vec::new();
        for block in state.text_places(index, tenant, document, quote.clone())? {
            let block: Block = serde_json::from_str(&block).map_err(|error| {
                let message = format!("the places of the rows of `{document}` are damaged: {error}");
                RagError::index(index, message, "make the index anew")
            })?;
            if block.version != *version {
                return Ok(None);
            }
            rows.extend(block.rows);
        }
        let record = cited_record(&rows, quote);
        if let Some(first) = rows.first() {
            self.0.insert(first.text[0], rows);
        }
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_few_rows_and_few_parts() {
        let record = RecordPlace { line: 1, start_byte: 0, end_byte: 1, unpacked: false };
        let row = |parts| RowPlace { text: [0, 1], record, verbatim: vec![[0, 0, 1]; parts] };
        let lengths = |rows: &[RowPlace]| together(rows).into_iter().map(<[_]>::len).collect::<Vec<_>>();
        assert_eq!(lengths(&vec![row(1); 600]), [256, 256, 88]);
        assert_eq!(lengths(&vec![row(PARTS_TOGETHER / 4); 9]), [4, 4, 1]);
        assert_eq!(lengths(&vec![row(PARTS_TOGETHER + 1); 2]), [1, 1]);
        assert_eq!(lengths(&[]), [0; 0]);
    }

    #[test]
    fn a_record_is_told_with_what_stands_in_it() {
        let mut place = RecordPlace { line: 3, start_byte: 30, end_byte: 60, unpacked: false };
        let verbatim = vec![VerbatimBytes { quote: [0, 12], file: [40, 52] }];
        let cited = CitedRecord { place, verbatim };
        assert_eq!(cited.to_string(), "line 3, row at bytes 30 to 60 (as it stands: 40 to 52)");
        place.unpacked = true;
        let told = CitedRecord { place, verbatim: Vec::new() }.to_string();
        assert_eq!(told, "line 3, row at bytes 30 to 60 of what it unpacks to");
    }

    #[test]
    fn a_quote_is_where_its_parts_are() {
        // `a: xy\nb: z\n\n` of `"xy",z`, and `a: \n` of a line behind a gap.
        let record = |line, start_byte, end_byte| RecordPlace { line, start_byte, end_byte, unpacked: false };
        let rows = [
            RowPlace { text: [0, 11], record: record(2, 10, 16), verbatim: vec![[3, 11, 2], [9, 15, 1]] },
            RowPlace { text: [12, 16], record: record(5, 20, 22), verbatim: vec![] },
        ];
        let cited = |range: Range<u64>| {
            let cited = cited_record(&rows, range).unwrap();
            let parts = cited.verbatim.iter().map(|part| (part.quote, part.file)).collect::<Vec<_>>();
            (cited.place.line, cited.place.start_byte, cited.place.end_byte, parts)
        };
        assert_eq!(cited(0..5), (2, 10, 16, vec![([3, 5], [11, 13])]));
        assert_eq!(cited(4..10), (2, 10, 16, vec![([0, 1], [12, 13]), ([5, 6], [15, 16])]));
        assert_eq!(cited(9..14), (2, 10, 22, vec![([0, 1], [15, 16])]));
        assert_eq!(cited(12..16), (5, 20, 22, vec![]));
        assert_eq!(cited_record(&rows, 11..12), None);
        assert_eq!(cited_record(&rows, 3..5).unwrap().exact_start(2), Some(11));
        assert_eq!(cited_record(&rows, 2..5).unwrap().exact_start(3), None);
    }
}
