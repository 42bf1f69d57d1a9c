use std::io::BufRead;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::unpack::open_text;
use crate::{DataError, Limits, Row};

/// Streams the objects of a JSONL file (`.gz` and `.zst` are unpacked), one per line, empty lines
/// skipped. Memory: one line.
///
/// # Errors
/// Opening fails; afterwards each item may be an error naming file and line.
pub fn read_jsonl(path: &Path, limits: &Limits) -> Result<JsonlRows, DataError> {
    Ok(JsonlRows {
        path: path.to_owned(),
        reader: open_text(path, limits)?,
        limits: *limits,
        line: 0,
        buffer: Vec::new(),
        failed: false,
    })
}

/// The iterator [`read_jsonl`] returns; it ends after the first error.
pub struct JsonlRows {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    limits: Limits,
    line: u64,
    buffer: Vec<u8>,
    failed: bool,
}

impl std::fmt::Debug for JsonlRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonlRows")
            .field("path", &self.path)
            .field("line", &self.line)
            .finish_non_exhaustive()
    }
}

impl JsonlRows {
    #[expect(clippy::needless_pass_by_value, reason = "called with errors straight from `map_err`")]
    fn error(&self, field: Option<String>, message: impl ToString) -> DataError {
        DataError::Row {
            path: self.path.clone(),
            unit: "line",
            row: self.line,
            field,
            message: message.to_string(),
        }
    }

    /// Reads one line into the buffer, without its line end; false at the end of the file.
    fn next_line(&mut self) -> Result<bool, DataError> {
        self.buffer.clear();
        self.line += 1;
        loop {
            let chunk = match self.reader.fill_buf() {
                Ok(chunk) => chunk,
                Err(error) => return Err(self.error(None, error)),
            };
            if chunk.is_empty() {
                return Ok(!self.buffer.is_empty());
            }
            let end = chunk.iter().position(|b| *b == b'\n');
            let taken = end.unwrap_or(chunk.len());
            self.buffer.extend_from_slice(&chunk[..taken]);
            self.reader.consume(end.map_or(taken, |e| e + 1));
            if self.buffer.len() as u64 > self.limits.row_bytes {
                return Err(self.error(None, format!("longer than {} bytes", self.limits.row_bytes)));
            }
            if end.is_some() {
                return Ok(true);
            }
        }
    }

    fn parse(&self) -> Result<Row, DataError> {
        let bytes = self.buffer.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&self.buffer);
        let text = std::str::from_utf8(bytes)
            .map_err(|e| self.error(None, format!("not UTF-8 at byte {}", e.valid_up_to() + 1)))?;
        // serde_json refuses nesting deeper than 128 levels by itself.
        let row = match serde_json::from_str(text).map_err(|e| self.error(None, e))? {
            Value::Object(row) => row,
            other => return Err(self.error(None, format!("expected an object, found {}", kind(&other)))),
        };
        for (field, value) in &row {
            check_field(value, &self.limits).map_err(|message| self.error(Some(field.clone()), message))?;
        }
        Ok(row)
    }
}

impl Iterator for JsonlRows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            let row = match self.next_line() {
                Ok(false) => return None,
                Ok(true) if self.buffer.iter().all(u8::is_ascii_whitespace) => continue,
                Ok(true) => self.parse(),
                Err(error) => Err(error),
            };
            self.failed = row.is_err();
            return Some(row);
        }
        None
    }
}

/// Whether one value is small enough to hold.
pub(crate) fn check_field(value: &Value, limits: &Limits) -> Result<(), String> {
    fn size(value: &Value) -> u64 {
        match value {
            Value::String(text) => text.len() as u64,
            Value::Array(items) => items.iter().map(size).sum(),
            Value::Object(map) => map.iter().map(|(k, v)| k.len() as u64 + size(v)).sum(),
            Value::Null | Value::Bool(_) | Value::Number(_) => 8,
        }
    }
    if size(value) > limits.field_bytes {
        return Err(format!("larger than {} bytes", limits.field_bytes));
    }
    Ok(())
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
