use std::path::Path;

use crate::lines::{Lines, UTF8_MARK};
use crate::{DataError, Limits, Row, csv, jsonl};

/// How records lie in a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextKind {
    Jsonl,
    Csv,
    /// As CSV, with tabs between the cells.
    Tsv,
}

impl TextKind {
    /// What stands between cells. Objects have none.
    pub(crate) fn separator(self) -> Option<char> {
        match self {
            Self::Jsonl => None,
            Self::Csv => Some(','),
            Self::Tsv => Some('\t'),
        }
    }

    /// The row that a record holds. `header`: the columns, where the file begins with them.
    pub(crate) fn row(
        self,
        record: &[u8],
        header: &[String],
        place: (&Path, u64),
        limits: &Limits,
    ) -> Result<Row, DataError> {
        match self.separator() {
            None => jsonl::parse(record, place, limits),
            Some(separator) => csv::parse(record, (header, separator), place, limits),
        }
    }
}

/// Records of a text file as they are written, and where each begins.
#[derive(Debug, Default)]
pub(crate) struct Records {
    text: Vec<u8>,
    /// First byte in `text`, and line in the file counted from 1.
    starts: Vec<(usize, u64)>,
}

impl Records {
    pub(crate) fn len(&self) -> usize {
        self.starts.len()
    }

    /// Memory taken, in bytes.
    pub(crate) fn bytes(&self) -> u64 {
        (self.text.len() + size_of_val(self.starts.as_slice())) as u64
    }

    /// The row that record `index` holds. `header`: the columns, of a CSV file.
    pub(crate) fn row(
        &self,
        index: usize,
        (kind, header): (TextKind, &[String]),
        path: &Path,
        limits: &Limits,
    ) -> Option<Result<Row, DataError>> {
        let (start, line) = *self.starts.get(index)?;
        let end = self.starts.get(index + 1).map_or(self.text.len(), |(next, _)| *next);
        let record = &self.text[start..end];
        Some(kind.row(record, header, (path, line), limits))
    }
}

/// Reads a text file in blocks of whole records.
pub(crate) struct RecordReader<'t> {
    lines: Lines<'t>,
    kind: TextKind,
}

impl<'t> RecordReader<'t> {
    /// From the first record on, which in a CSV file is behind the header; and the columns of a CSV file.
    pub(crate) fn open(
        path: &Path,
        limits: &Limits,
        kind: TextKind,
    ) -> Result<(Self, Vec<String>), DataError> {
        Self::behind_header(Lines::open(path, limits)?, kind)
    }

    /// As [`RecordReader::open`], of a file's unpacked text.
    pub(crate) fn of(
        path: &Path,
        limits: &Limits,
        kind: TextKind,
        text: &'t [u8],
    ) -> Result<(Self, Vec<String>), DataError> {
        Self::behind_header(Lines::of(path, limits, text), kind)
    }

    fn behind_header(lines: Lines<'t>, kind: TextKind) -> Result<(Self, Vec<String>), DataError> {
        let mut reader = Self { lines, kind };
        let mut columns = Vec::new();
        if let Some(separator) = kind.separator() {
            let mut first = Vec::new();
            if reader.append(&mut first)?.is_some() {
                columns = csv::header(&first, separator, &reader.lines.path)?;
            }
        }
        Ok((reader, columns))
    }

    /// From where [`RecordReader::place`] was before.
    pub(crate) fn open_at(
        path: &Path,
        limits: &Limits,
        kind: TextKind,
        (offset, line): (u64, u64),
    ) -> Result<Self, DataError> {
        Ok(Self { lines: Lines::open_at(path, limits, offset, line)?, kind })
    }

    /// Unpacked bytes, and lines, read so far.
    pub(crate) fn place(&self) -> (u64, u64) {
        (self.lines.offset, self.lines.line)
    }

    /// The records up to about `bytes`; none at the end of the file. From the same place they are the same.
    pub(crate) fn block(&mut self, bytes: usize) -> Result<Records, DataError> {
        let mut records = Records::default();
        while records.text.len() < bytes {
            let start = records.text.len();
            match self.append(&mut records.text)? {
                Some(line) => records.starts.push((start, line)),
                None => break,
            }
        }
        Ok(records)
    }

    /// Appends the next record and returns its first line; empty lines are skipped.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>) -> Result<Option<u64>, DataError> {
        let start = out.len();
        while self.lines.append(out, start)? {
            if out[start..].trim_ascii().is_empty() {
                out.truncate(start);
                continue;
            }
            let first_line = self.lines.line;
            // A byte order mark is no part of the first cell.
            let is_marked = first_line == 1 && out[start..].starts_with(UTF8_MARK);
            let mark = if is_marked { UTF8_MARK.len() } else { 0 };
            if let Some(separator) = self.kind.separator() {
                let mut state = csv::State::default().after(&out[start + mark..], separator);
                while state == csv::State::Quoted {
                    let so_far = out.len();
                    if !self.lines.append(out, start)? {
                        break;
                    }
                    state = state.after(&out[so_far..], separator);
                }
            }
            return Ok(Some(first_line));
        }
        Ok(None)
    }
}
