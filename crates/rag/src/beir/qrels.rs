use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::RagError;
use crate::metrics::Judgements;

/// `qrels/SPLIT.tsv`.
///
/// # Errors
/// [`RagError::File`] with the splits that are there.
pub(super) fn find(directory: &Path, split: &str) -> Result<PathBuf, RagError> {
    let qrels = directory.join("qrels");
    let path = qrels.join(format!("{split}.tsv"));
    if path.is_file() {
        return Ok(path);
    }
    let mut there: Vec<String> = match fs_err::read_dir(&qrels) {
        Ok(entries) => {
            let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
            names.filter_map(|name| Some(name.strip_suffix(".tsv")?.to_owned())).collect()
        }
        Err(_) => Vec::new(),
    };
    there.sort();
    let hint = match there.as_slice() {
        [] => "a collection holds corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv".to_owned(),
        splits => format!("name a split that is there: --split {}", splits.join(", --split ")),
    };
    Err(RagError::File { path, message: "there is no such file".to_owned(), hint: Some(hint) })
}

/// `query-id corpus-id score`, separated by tabs, under a header (which may be missing). Of two judgements of
/// the same document the last counts.
pub(super) fn judgements(path: &Path) -> Result<BTreeMap<String, Judgements>, RagError> {
    let text = fs_err::read_to_string(path).map_err(|error| RagError::file(path, error))?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let mut judgements: BTreeMap<String, Judgements> = BTreeMap::new();
    for (line, row) in (1..).zip(text.lines()).filter(|(_, row)| !row.trim().is_empty()) {
        let error = |field: Option<&str>, message: &str| RagError::Row {
            path: path.to_owned(),
            line,
            field: field.map(str::to_owned),
            message: message.to_owned(),
        };
        let cells: Vec<String> = row.split('\t').map(unquoted).collect();
        match <[String; 3]>::try_from(cells) {
            Ok([query, document, score]) => match grade(&score) {
                Some(grade) => {
                    judgements.entry(query).or_default().insert(document, grade);
                }
                None if line == 1 => {}
                None => return Err(error(Some("score"), "is not an integer")),
            },
            Err(_) if line == 1 => {}
            Err(_) => return Err(error(None, "expected three columns separated by tabs")),
        }
    }
    Ok(judgements)
}

/// Whole numbers, also as `2.0`.
fn grade(score: &str) -> Option<i64> {
    let score = score.trim();
    score.parse().ok().or_else(|| score.strip_suffix(".0")?.parse().ok())
}

/// What Python's `csv` module, which writes and reads these files, makes of a cell: one that begins with a
/// quotation mark is quoted, with quotation marks in it doubled.
fn unquoted(cell: &str) -> String {
    let inner = cell.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match inner {
        Some(inner) => inner.replace("\"\"", "\""),
        None => cell.to_owned(),
    }
}
