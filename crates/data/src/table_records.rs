//! Records of a table with their places in its text, for whoever has to say where a value stands.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::Value;
use serde_json::value::RawValue;

use crate::lines::{self, UTF8_MARK};
use crate::records::{RecordReader, TextKind};
use crate::{DataError, Limits, Row, csv};

/// A row, and where it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct TableRecord {
    pub row: Row,
    /// Its first line, counted from 1.
    pub line: u64,
    /// Bytes of the text, without byte order mark and line end: read alone they give the row.
    pub bytes: Range<u64>,
    /// For each field of the row, in its order: what of the value's text stands in the record as it is. The text of a
    /// value that is none is its JSON. Where something is escaped (quotes of CSV, escapes of JSON), parts end there.
    pub verbatim: Vec<Vec<VerbatimPart>>,
}

/// Bytes that are the same in a value's text and in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerbatimPart {
    /// In the value's text.
    pub value_start: usize,
    /// In the table's text.
    pub start: u64,
    pub bytes: usize,
}

/// The records of a table's (unpacked) text. `path` is for messages.
///
/// # Errors
/// A header that cannot be read; afterwards each item may be an error naming file and line.
pub fn table_records<'t>(
    path: &Path,
    text: &'t [u8],
    kind: TextKind,
    limits: &Limits,
) -> Result<TableRecords<'t>, DataError> {
    let (reader, columns) = RecordReader::of(path, limits, kind, text)?;
    let (path, limits) = (path.to_owned(), *limits);
    Ok(TableRecords { path, limits, kind, reader, columns, buffer: Vec::new(), failed: false })
}

/// The iterator [`table_records`] returns; it ends after the first error.
pub struct TableRecords<'t> {
    path: PathBuf,
    limits: Limits,
    kind: TextKind,
    reader: RecordReader<'t>,
    columns: Vec<String>,
    buffer: Vec<u8>,
    failed: bool,
}

impl std::fmt::Debug for TableRecords<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableRecords").field("path", &self.path).finish_non_exhaustive()
    }
}

impl TableRecords<'_> {
    fn record(&mut self) -> Result<Option<TableRecord>, DataError> {
        self.buffer.clear();
        let Some(line) = self.reader.append(&mut self.buffer)? else { return Ok(None) };
        let (end, _) = self.reader.place();
        let start = end - self.buffer.len() as u64;
        // Behind the header of other kinds there is none.
        let is_marked = self.kind == TextKind::Jsonl && self.buffer.starts_with(UTF8_MARK);
        let mark = if is_marked { UTF8_MARK.len() } else { 0 };
        let record = &self.buffer[mark..];
        let record =
            record.strip_suffix(b"\n").map_or(record, |line| line.strip_suffix(b"\r").unwrap_or(line));
        let start = start + mark as u64;
        let place = (self.path.as_path(), line);
        let row = self.kind.row(record, &self.columns, place, &self.limits)?;
        let verbatim = self.verbatim(record, &row, start, place)?;
        Ok(Some(TableRecord { row, line, bytes: start..start + record.len() as u64, verbatim }))
    }

    fn verbatim(
        &self,
        record: &[u8],
        row: &Row,
        start: u64,
        place: (&Path, u64),
    ) -> Result<Vec<Vec<VerbatimPart>>, DataError> {
        let text = lines::text(record, place)?;
        let written =
            |range: Range<usize>| Written { text: &text[range.clone()], start: start + range.start as u64 };
        let Some(separator) = self.kind.separator() else {
            let fields = members(text, place)?;
            let parts = |(name, value): (&String, &Value)| {
                fields.get(name).map_or_else(Vec::new, |range| written(range.clone()).of_json(value))
            };
            return Ok(row.iter().map(parts).collect());
        };
        let cells = csv::cells(record, separator, place)?;
        Ok(cells.into_iter().map(|cell| written(cell.written).of_cell()).collect())
    }
}

impl Iterator for TableRecords<'_> {
    type Item = Result<TableRecord, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let record = self.record().transpose();
        self.failed = matches!(record, Some(Err(_)));
        record
    }
}

/// Where the values of an object are written in its text; of a name that stands there twice the last one counts.
fn members(object: &str, place: (&Path, u64)) -> Result<BTreeMap<String, Range<usize>>, DataError> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_str(object)
        .map_err(|error| lines::error(place, error.to_string(), "mend the line: it is not JSON"))?;
    let range = |value: &RawValue| {
        let start = value.get().as_ptr().addr() - object.as_ptr().addr();
        start..start + value.get().len()
    };
    Ok(members.into_iter().map(|(name, value)| (name, range(value))).collect())
}

/// A value as it is written.
struct Written<'t> {
    text: &'t str,
    /// In the table's text.
    start: u64,
}

impl Written<'_> {
    fn of_json(&self, value: &Value) -> Vec<VerbatimPart> {
        if value.is_string() {
            return self.inner().parts('\\', escaped_in_json);
        }
        let said = value.to_string();
        (said == self.text).then(|| self.all()).into_iter().collect()
    }

    fn of_cell(&self) -> Vec<VerbatimPart> {
        match self.text.as_bytes() {
            [] => Vec::new(),
            // Within quotes a quote is written twice, and stands for one.
            [b'"', ..] => self.inner().parts('"', |_| (2, 1)),
            _ => vec![self.all()],
        }
    }

    /// Without the quotes around it.
    fn inner(&self) -> Self {
        let inner = self.text.get(1..self.text.len().saturating_sub(1)).unwrap_or_default();
        Self { text: inner, start: self.start + 1 }
    }

    fn all(&self) -> VerbatimPart {
        VerbatimPart { value_start: 0, start: self.start, bytes: self.text.len() }
    }

    /// What lies between escapes. `lengths`: of an escape at the beginning of a text, as it is written and of what it
    /// stands for.
    fn parts(&self, escape: char, lengths: fn(&str) -> (usize, usize)) -> Vec<VerbatimPart> {
        let mut parts = Vec::new();
        let (mut at, mut value_at) = (0, 0);
        while at < self.text.len() {
            let rest = &self.text[at..];
            let bytes = rest.find(escape).unwrap_or(rest.len());
            if bytes > 0 {
                parts.push(VerbatimPart { value_start: value_at, start: self.start + at as u64, bytes });
            }
            let (written, stands_for) = rest.get(bytes..).map_or((0, 0), lengths);
            at += bytes + written;
            value_at += bytes + stands_for;
        }
        parts
    }
}

/// `\n` and its like, `\uXXXX`, and pairs of these for what lies beyond U+FFFF (RFC 8259, section 7).
fn escaped_in_json(text: &str) -> (usize, usize) {
    let unit = text.strip_prefix("\\u").and_then(|digits| u32::from_str_radix(digits.get(..4)?, 16).ok());
    match unit {
        None => (2, 1),
        Some(0xd800..=0xdfff) => (12, 4),
        Some(unit) => (6, char::from_u32(unit).map_or(1, char::len_utf8)),
    }
}
