use std::path::Path;

use crate::lines::Lines;
use crate::{DataError, Limits, Row, csv, jsonl};

/// How records lie in a text file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextKind {
    Jsonl,
    Csv,
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
        Some(match kind {
            TextKind::Jsonl => jsonl::parse(record, (path, line), limits),
            TextKind::Csv => csv::parse(record, header, (path, line), limits),
        })
    }
}

/// Reads a text file in blocks of whole records.
pub(crate) struct RecordReader {
    lines: Lines,
    kind: TextKind,
}

impl RecordReader {
    /// From the first record on, which in a CSV file is behind the header; and the columns of a CSV file.
    pub(crate) fn open(
        path: &Path,
        limits: &Limits,
        kind: TextKind,
    ) -> Result<(Self, Vec<String>), DataError> {
        let mut reader = Self { lines: Lines::open(path, limits)?, kind };
        let mut columns = Vec::new();
        if kind == TextKind::Csv {
            let mut first = Vec::new();
            if reader.append(&mut first)?.is_some() {
                columns = csv::header(&first, path)?;
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
    fn append(&mut self, out: &mut Vec<u8>) -> Result<Option<u64>, DataError> {
        let start = out.len();
        while self.lines.append(out, start)? {
            if out[start..].trim_ascii().is_empty() {
                out.truncate(start);
                continue;
            }
            let first_line = self.lines.line;
            // A byte order mark is no part of the first cell.
            let mark = if first_line == 1 && out[start..].starts_with(b"\xef\xbb\xbf") { 3 } else { 0 };
            let mut state = csv::State::default().after(&out[start + mark..]);
            while self.kind == TextKind::Csv && state == csv::State::Quoted {
                let so_far = out.len();
                if !self.lines.append(out, start)? {
                    break;
                }
                state = state.after(&out[so_far..]);
            }
            return Ok(Some(first_line));
        }
        Ok(None)
    }
}
