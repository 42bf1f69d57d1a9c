use std::io::{BufRead, Read};
use std::path::{Path, PathBuf};

use crate::unpack::{OverLimit, open_text};
use crate::{DataError, Limits};

/// What some programs begin a file of UTF-8 with.
pub(crate) const UTF8_MARK: &[u8] = b"\xef\xbb\xbf";

/// What to do about bytes that are no text.
const TO_UTF8: &str = "convert the file to UTF-8, for example with `iconv -t UTF-8`";

/// The lines of a text file (`.gz` and `.zst` are unpacked), counted in lines and in bytes.
pub(crate) struct Lines<'t> {
    pub(crate) path: PathBuf,
    pub(crate) limits: Limits,
    /// Lines read so far.
    pub(crate) line: u64,
    /// Unpacked bytes read so far.
    pub(crate) offset: u64,
    reader: Box<dyn BufRead + Send + 't>,
}

impl<'t> Lines<'t> {
    /// Of a file's unpacked text.
    pub(crate) fn of(path: &Path, limits: &Limits, text: &'t [u8]) -> Self {
        Self { path: path.to_owned(), limits: *limits, line: 0, offset: 0, reader: Box::new(text) }
    }

    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self, DataError> {
        Self::open_at(path, limits, 0, 0)
    }

    /// From unpacked byte `offset` on, in front of which there are `line` lines. What is packed has to be read
    /// up to there.
    pub(crate) fn open_at(path: &Path, limits: &Limits, offset: u64, line: u64) -> Result<Self, DataError> {
        let mut lines = Self {
            path: path.to_owned(),
            limits: *limits,
            line: 0,
            offset: 0,
            reader: open_text(path, limits, offset)?,
        };
        lines.line = line;
        lines.offset = offset;
        Ok(lines)
    }

    /// Appends a line with its line end; false at the end of the file. `record_start` is where in `out` the
    /// record begins that may not grow beyond the limit.
    pub(crate) fn append(&mut self, out: &mut Vec<u8>, record_start: usize) -> Result<bool, DataError> {
        let before = out.len();
        let left = self.limits.row_bytes.saturating_sub((before - record_start) as u64);
        let mut bounded = Read::take(&mut self.reader, left.saturating_add(2));
        let read = bounded.read_until(b'\n', out);
        self.line += 1;
        let read = read.map_err(|error| self.failed(&error))?;
        self.offset += read as u64;
        let content = out[before..].strip_suffix(b"\n").unwrap_or(&out[before..]);
        if content.len() as u64 > left {
            return Err(error(
                (&self.path, self.line),
                format!("longer than {} bytes", self.limits.row_bytes),
                "a row this long is rarely meant: check the file's line ends and quotes",
            ));
        }
        if read == 0 {
            self.line -= 1;
        }
        Ok(read > 0)
    }

    fn failed(&self, cause: &std::io::Error) -> DataError {
        OverLimit::of(cause, &self.path).unwrap_or_else(|| DataError::Row {
            path: self.path.clone(),
            unit: "line",
            row: self.line,
            field: None,
            message: cause.to_string(),
            mend: None,
        })
    }
}

/// An error in a line of a file, and what can be done about it.
pub(crate) fn error(
    (path, line): (&Path, u64),
    message: impl Into<String>,
    mend: impl Into<String>,
) -> DataError {
    DataError::Row {
        path: path.to_owned(),
        unit: "line",
        row: line,
        field: None,
        message: message.into(),
        mend: Some(mend.into()),
    }
}

/// Bytes as text.
pub(crate) fn text<'a>(bytes: &'a [u8], (path, line): (&Path, u64)) -> Result<&'a str, DataError> {
    std::str::from_utf8(bytes).map_err(|e| {
        let before = &bytes[..e.valid_up_to()];
        let lines = before.iter().filter(|byte| **byte == b'\n').count();
        let column = before.len() - before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        error((path, line + lines as u64), format!("not UTF-8 at byte {}", column + 1), TO_UTF8)
    })
}
