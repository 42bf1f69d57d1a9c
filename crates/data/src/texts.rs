use std::path::Path;

use serde_json::Value;

use crate::cell::cell_of;
use crate::jsonl::{TOO_LARGE, check_field, read_jsonl};
use crate::parquet::{CONVERT, ParquetFile};
use crate::unpack::{extension, open_text};
use crate::{DataError, Limits};

/// What [`read_texts`] hands out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextPart<'a> {
    /// The next part of a text. A long text comes in several, which may part within a word.
    Part(&'a str),
    /// The text is over.
    End,
}

/// What a file of texts held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TextCounts {
    pub texts: u64,
    /// Rows without the field, or with something else than a text in it.
    pub without: u64,
}

/// Streams the texts of a file: `.txt` is one text, the rows of `.jsonl` and `.parquet` have theirs in
/// `field`; `.gz` and `.zst` of the first two are unpacked. Bytes of `.txt` that are not UTF-8 are left
/// out. Memory: one row, or a block of parquet.
///
/// # Errors
/// A file of another kind or that cannot be read, a row that is none, no row with the field.
pub fn read_texts(
    path: &Path,
    field: &str,
    limits: &Limits,
    visit: &mut dyn FnMut(TextPart<'_>),
) -> Result<TextCounts, DataError> {
    let unpacked =
        if matches!(extension(path), "gz" | "zst") { path.with_extension("") } else { path.to_owned() };
    let packed = unpacked != path;
    // Before its name is judged: a name that is mistyped has no ending either.
    fs_err::metadata(path).map_err(|error| DataError::file(path, error))?;
    match (extension(&unpacked), packed) {
        ("txt", _) => plain(path, limits, visit),
        ("jsonl" | "ndjson", _) => rows(path, field, limits, visit),
        ("parquet", false) => columns(path, field, limits, visit),
        _ => Err(DataError::unfit(
            path,
            "texts are read from .txt and .jsonl files (also .gz and .zst) and from .parquet files",
            "convert the file to one of these, or name another",
        )),
    }
}

/// Whether [`read_texts`] knows files of this name.
#[must_use]
pub fn holds_texts(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(name);
    [".txt", ".jsonl", ".ndjson", ".parquet"].iter().any(|kind| name.ends_with(kind))
}

fn plain(path: &Path, limits: &Limits, visit: &mut dyn FnMut(TextPart<'_>)) -> Result<TextCounts, DataError> {
    let mut reader = open_text(path, limits, 0)?;
    // The beginning of a character whose other bytes are still to come.
    let mut pending: Vec<u8> = Vec::new();
    loop {
        let chunk = reader.fill_buf().map_err(|error| DataError::file(path, error))?;
        if chunk.is_empty() {
            break;
        }
        let taken = chunk.len();
        pending.extend_from_slice(chunk);
        reader.consume(taken);
        let mut cut = 0;
        for part in pending.utf8_chunks() {
            if !part.valid().is_empty() {
                visit(TextPart::Part(part.valid()));
            }
            let unfinished = std::str::from_utf8(part.invalid()).is_err_and(|e| e.error_len().is_none());
            cut = if unfinished { part.invalid().len() } else { 0 };
        }
        let keep_from = pending.len() - cut;
        pending.drain(..keep_from);
    }
    visit(TextPart::End);
    Ok(TextCounts { texts: 1, without: 0 })
}

fn rows(
    path: &Path,
    field: &str,
    limits: &Limits,
    visit: &mut dyn FnMut(TextPart<'_>),
) -> Result<TextCounts, DataError> {
    let mut counts = TextCounts::default();
    let mut first_columns = None;
    for row in read_jsonl(path, limits)? {
        let row = row?;
        one(row.get(field), &mut counts, visit);
        first_columns.get_or_insert_with(|| row.keys().cloned().collect::<Vec<_>>());
    }
    found(path, field, counts, first_columns.unwrap_or_default())
}

fn columns(
    path: &Path,
    field: &str,
    limits: &Limits,
    visit: &mut dyn FnMut(TextPart<'_>),
) -> Result<TextCounts, DataError> {
    let file = ParquetFile::open(path, limits)?;
    let Some(position) = file.columns.iter().position(|column| column == field) else {
        return Err(match file.unread.iter().find(|(column, _)| column == field) {
            Some((_, kind)) => DataError::Unread { path: path.to_owned(), column: field.to_owned(), kind },
            None => {
                DataError::NoColumn { path: path.to_owned(), column: field.to_owned(), columns: file.columns }
            }
        });
    };
    let (mut counts, mut before) = (TextCounts::default(), 0);
    for block in file.blocks(limits.block_bytes()) {
        let frame = file.read_column(&block, position)?;
        let column = frame.column(field).map_err(|error| DataError::file(path, error))?;
        for row in 0..block.rows {
            let bad = |message: String, mend: &str| DataError::Row {
                path: path.to_owned(),
                unit: "row",
                row: before + row as u64 + 1,
                field: Some(field.to_owned()),
                message,
                mend: Some(mend.to_owned()),
            };
            let value = cell_of(column, row).map_err(|message| bad(message, CONVERT))?;
            check_field(&value, limits).map_err(|message| bad(message, TOO_LARGE))?;
            one(Some(&value), &mut counts, visit);
        }
        before += block.rows as u64;
    }
    found(path, field, counts, file.columns)
}

fn one(value: Option<&Value>, counts: &mut TextCounts, visit: &mut dyn FnMut(TextPart<'_>)) {
    match value {
        Some(Value::String(text)) => {
            visit(TextPart::Part(text));
            visit(TextPart::End);
            counts.texts += 1;
        }
        Some(_) | None => counts.without += 1,
    }
}

fn found(
    path: &Path,
    field: &str,
    counts: TextCounts,
    columns: Vec<String>,
) -> Result<TextCounts, DataError> {
    if counts.texts == 0 && counts.without > 0 {
        return Err(DataError::NoColumn { path: path.to_owned(), column: field.to_owned(), columns });
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Column, ColumnKind, ParquetTable};
    use std::io::Write as _;

    fn texts(path: &Path) -> Result<(Vec<String>, TextCounts), DataError> {
        let (mut all, mut open) = (Vec::new(), String::new());
        let counts = read_texts(path, "text", &Limits::default(), &mut |part| match part {
            TextPart::Part(part) => open.push_str(part),
            TextPart::End => all.push(std::mem::take(&mut open)),
        })?;
        Ok((all, counts))
    }

    #[test]
    fn every_format_gives_its_texts() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        // Longer than a buffer, with characters of several bytes on every boundary there can be.
        let long = "añ漢🦀 ".repeat(30_000);
        fs_err::write(path("a.txt"), &long).unwrap();
        assert_eq!(texts(&path("a.txt")).unwrap(), (vec![long.clone()], TextCounts { texts: 1, without: 0 }));
        let mut broken = long.clone().into_bytes();
        broken.insert(70_000, 0xff);
        broken.extend([0xe6, 0xbc]);
        fs_err::write(path("b.txt"), broken).unwrap();
        let kept = texts(&path("b.txt")).unwrap().0.remove(0);
        assert!(kept.len() >= long.len() - 4 && kept.len() <= long.len(), "{}", kept.len());

        let lines = "{\"text\": \"one\", \"id\": 1}\n\n{\"id\": 2}\n{\"text\": null}\n{\"text\": \"two\"}\n";
        let expected = (vec!["one".to_owned(), "two".to_owned()], TextCounts { texts: 2, without: 2 });
        fs_err::write(path("c.jsonl"), lines).unwrap();
        assert_eq!(texts(&path("c.jsonl")).unwrap(), expected);
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(lines.as_bytes()).unwrap();
        fs_err::write(path("c.jsonl.gz"), gz.finish().unwrap()).unwrap();
        assert_eq!(texts(&path("c.jsonl.gz")).unwrap(), expected);
        fs_err::write(path("c.jsonl.zst"), zstd::encode_all(lines.as_bytes(), 1).unwrap()).unwrap();
        assert_eq!(texts(&path("c.jsonl.zst")).unwrap(), expected);
        let rows = lines.lines().filter(|line| !line.is_empty()).map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            row.as_object().cloned().unwrap()
        });
        let mut table =
            ParquetTable::create(&path("c.parquet"), &[Column::new("text", ColumnKind::Text)]).unwrap();
        rows.for_each(|row| table.push(row).unwrap());
        table.finish().unwrap();
        assert_eq!(texts(&path("c.parquet")).unwrap(), expected);
    }

    #[test]
    fn large_and_wide_parquet_files_give_their_texts_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.parquet");
        let columns = ["before", "text", "behind"].map(|name| Column::new(name, ColumnKind::Text));
        // More rows than are decoded together.
        let names = (0..70_000).map(|i| format!("text {i}")).collect::<Vec<_>>();
        let rows = names.iter().map(|name| {
            let row = serde_json::json!({"before": "b", "text": name, "behind": "c"});
            row.as_object().cloned().unwrap()
        });
        crate::write_parquet(&path, &columns, rows).unwrap();
        let (found, counts) = texts(&path).unwrap();
        assert_eq!(counts, TextCounts { texts: 70_000, without: 0 });
        assert!(found == names);
        let error = read_texts(&path, "body", &Limits::default(), &mut |_| ()).unwrap_err();
        assert!(matches!(&error, DataError::NoColumn { columns, .. } if columns.len() == 3), "{error}");
    }

    #[test]
    fn files_without_texts_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        fs_err::write(path("a.jsonl"), "{\"body\": \"one\"}\n").unwrap();
        let error = texts(&path("a.jsonl")).unwrap_err();
        assert!(matches!(&error, DataError::NoColumn { columns, .. } if columns == &["body"]), "{error}");
        fs_err::write(path("a.csv"), "text\none\n").unwrap();
        assert!(texts(&path("a.csv")).unwrap_err().to_string().contains(".parquet"));
        assert!(texts(&path("none.txt")).is_err());
        assert!(holds_texts(&path("x.jsonl.zst")) && !holds_texts(&path("x.csv")));
    }
}
