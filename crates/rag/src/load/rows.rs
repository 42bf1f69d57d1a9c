use std::path::Path;

use evalign_data::{Limits, TableRecord, TextKind, table_records, unpacked};
use serde_json::Value;

use super::{DocumentKind, LARGEST_DOCUMENT_BYTES, LoadedText};
use crate::RagError;
use crate::records::{RecordPlace, RowPlace};

/// Parts that are the same in a row's text and in the file, of a row and of all rows: of rows beyond these only the place
/// is kept. A file of nothing but separators and escapes would take gigabytes.
const PARTS_OF_ROW: usize = 256;
const PARTS_OF_DOCUMENT: usize = 1 << 23;

/// Every row as lines `field: value`, rows apart by an empty line.
pub(super) fn load(
    path: &Path,
    bytes: &[u8],
    kind: DocumentKind,
    layout: TextKind,
) -> Result<LoadedText, RagError> {
    let limits = Limits { unpacked_bytes: LARGEST_DOCUMENT_BYTES, ..Limits::default() };
    let mut loaded = LoadedText::new(String::new(), kind, None);
    let unpacked = unpacked(path, bytes, &limits)?;
    if unpacked.is_some() {
        loaded.notes.push("packed: places are told in what it unpacks to".to_owned());
    }
    let table = unpacked.as_deref().unwrap_or(bytes);
    let (mut parts, mut without) = (0, 0);
    for record in table_records(path, table, layout, &limits)? {
        let mut record = record?;
        let parts_of_row: usize = record.verbatim.iter().map(Vec::len).sum();
        if parts_of_row > PARTS_OF_ROW || parts + parts_of_row > PARTS_OF_DOCUMENT {
            record.verbatim.iter_mut().for_each(Vec::clear);
            without += 1;
        } else {
            parts += parts_of_row;
        }
        let mut row = push(&mut loaded, &record, table, layout);
        row.record.unpacked = unpacked.is_some();
        loaded.places.push(row);
        check_length(path, loaded.text.len())?;
    }
    if without > 0 {
        loaded.notes.push(format!(
            "of {without} rows only the place is kept, not which bytes stand in the file as they are: there are too many"
        ));
    }
    if loaded.rows.is_empty() {
        loaded.notes.push("it has no rows".to_owned());
    }
    Ok(loaded)
}

/// Every row repeats the names of its fields, so that the text may be much longer than the file.
fn check_length(path: &Path, bytes: usize) -> Result<(), RagError> {
    if bytes as u64 <= LARGEST_DOCUMENT_BYTES {
        return Ok(());
    }
    let message = format!("its rows as lines `field: value` are more than {LARGEST_DOCUMENT_BYTES} bytes");
    let hint = Some("split the table, or give its columns shorter names".to_owned());
    Err(RagError::File { path: path.to_owned(), message, hint })
}

/// Adds a row to the text, and says where it is.
fn push(loaded: &mut LoadedText, record: &TableRecord, table: &[u8], layout: TextKind) -> RowPlace {
    let start = loaded.text.len();
    let mut verbatim = Vec::new();
    for ((field, value), parts) in record.row.iter().zip(&record.verbatim) {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        let value_start = loaded.text.len() + field.len() + ": ".len();
        loaded.text.push_str(&format!("{field}: {value}\n"));
        // Nothing is told of the file that was not compared with it.
        verbatim.extend(parts.iter().filter_map(|part| {
            let said = value.as_bytes().get(part.value_start..part.value_start + part.bytes)?;
            let written = table.get(usize::try_from(part.start).ok()?..)?;
            let place = [(value_start + part.value_start) as u64, part.start, part.bytes as u64];
            written.starts_with(said).then_some(place)
        }));
    }
    let text = start..loaded.text.len();
    let place = RowPlace {
        text: [text.start as u64, text.end as u64],
        record: RecordPlace {
            line: record.line,
            start_byte: record.bytes.start,
            end_byte: record.bytes.end,
            unpacked: false,
        },
        verbatim,
    };
    loaded.rows.push(text);
    loaded.carried.push_row(&record.row, layout != TextKind::Jsonl);
    loaded.text.push('\n');
    place
}
