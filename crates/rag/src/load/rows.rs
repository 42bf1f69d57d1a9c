use std::path::Path;

use evalign_data::{DataRoots, DatasetSpec, Limits, Row, open, read_jsonl};
use serde_json::Value;

use super::{DocumentKind, LoadedText};
use crate::RagError;

/// Every row as lines `field: value`, rows apart by an empty line.
pub(super) fn load(path: &Path, kind: DocumentKind) -> Result<LoadedText, RagError> {
    let mut loaded = LoadedText::new(String::new(), kind, None);
    if kind == DocumentKind::Jsonl {
        for row in read_jsonl(path, &Limits::default())? {
            push(&mut loaded, &row?);
        }
        return Ok(loaded);
    }
    let spec = DatasetSpec { files: Some(path.display().to_string()), ..DatasetSpec::default() };
    let table = open(&DataRoots { offline: true, ..DataRoots::default() }, &spec)?;
    for row in table.iter() {
        push(&mut loaded, &row?);
    }
    Ok(loaded)
}

fn push(loaded: &mut LoadedText, row: &Row) {
    let start = loaded.text.len();
    for (field, value) in row {
        let value = match value {
            Value::Null => continue,
            Value::String(text) => text.clone(),
            other => other.to_string(),
        };
        loaded.text.push_str(&format!("{field}: {value}\n"));
    }
    loaded.rows.push(start..loaded.text.len());
    loaded.text.push('\n');
}
