use std::path::Path;

use serde_json::Value;

use crate::lines::{self, Lines, UTF8_MARK};
use crate::{DataError, Limits, Row};

/// Streams the objects of a JSONL file (`.gz` and `.zst` are unpacked), one per line, empty lines
/// skipped. Memory: one line.
///
/// # Errors
/// Opening fails; afterwards each item may be an error naming file and line.
pub fn read_jsonl(path: &Path, limits: &Limits) -> Result<JsonlRows, DataError> {
    Ok(JsonlRows { lines: Lines::open(path, limits)?, buffer: Vec::new(), failed: false })
}

/// The iterator [`read_jsonl`] returns; it ends after the first error.
pub struct JsonlRows {
    lines: Lines<'static>,
    buffer: Vec<u8>,
    failed: bool,
}

impl JsonlRows {
    /// The line of the row handed out last, counted from 1.
    #[must_use]
    pub fn line(&self) -> u64 {
        self.lines.line
    }

    /// After an error in one line: the next line is read as if nothing had been wrong.
    pub(crate) fn go_on(&mut self) {
        self.failed = false;
    }
}

impl std::fmt::Debug for JsonlRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JsonlRows")
            .field("path", &self.lines.path)
            .field("line", &self.lines.line)
            .finish_non_exhaustive()
    }
}

impl Iterator for JsonlRows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            self.buffer.clear();
            let row = match self.lines.append(&mut self.buffer, 0) {
                Ok(false) => return None,
                Ok(true) if self.buffer.trim_ascii().is_empty() => continue,
                Ok(true) => parse(&self.buffer, (&self.lines.path, self.lines.line), &self.lines.limits),
                Err(error) => Err(error),
            };
            self.failed = row.is_err();
            return Some(row);
        }
        None
    }
}

/// The object that a line holds.
pub(crate) fn parse(line: &[u8], place: (&Path, u64), limits: &Limits) -> Result<Row, DataError> {
    let text = lines::text(line.strip_prefix(UTF8_MARK).unwrap_or(line), place)?;
    // serde_json refuses nesting deeper than 128 levels by itself.
    let value =
        serde_json::from_str(text).map_err(|e| lines::error(place, e.to_string(), advice(&e, text)))?;
    let row = match value {
        Value::Object(row) => row,
        other => {
            let message = format!("expected an object, found {}", kind(&other));
            return Err(lines::error(place, message, advice_on_kind(&other)));
        }
    };
    for (field, value) in &row {
        check_field(value, limits).map_err(|message| DataError::Row {
            path: place.0.to_owned(),
            unit: "line",
            row: place.1,
            field: Some(field.clone()),
            message,
            mend: Some(TOO_LARGE.to_owned()),
        })?;
    }
    Ok(row)
}

/// What can be done about a value larger than the limit.
pub(crate) const TOO_LARGE: &str = "a value this large is rarely meant: check how the file was written";

const ONE_A_LINE: &str =
    "each line holds one whole object: `jq -c .` writes objects so, `jq -c '.[]'` a list of them";

fn advice(error: &serde_json::Error, text: &str) -> String {
    let said = error.to_string();
    if said.contains("recursion limit") {
        return "lists and objects are read up to 128 levels deep: write what lies deeper as text".to_owned();
    }
    if error.is_eof() {
        return format!("{ONE_A_LINE}; or the file was cut off here while it was copied");
    }
    if said.contains("trailing characters") {
        return ONE_A_LINE.to_owned();
    }
    let at = text.char_indices().nth(error.column().saturating_sub(1)).map_or("", |(at, _)| &text[at..]);
    if ["NaN", "Inf", "-Inf", "aN", "nf"].iter().any(|start| at.starts_with(start)) {
        return "JSON has no NaN and no Infinity: write null".to_owned();
    }
    "mend the line: it is not JSON".to_owned()
}

fn advice_on_kind(value: &Value) -> &'static str {
    match value {
        Value::Array(_) => ONE_A_LINE,
        _ => "each line holds one object, with a field for each column: {\"question\": \"...\"}",
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
