use std::path::Path;

use crate::source::Source;
use crate::unpack::extension;
use crate::{DataError, Limits, Row, read_jsonl};

/// Rows of a JSONL file (`.gz` and `.zst` are unpacked) or a parquet file one after the other, in the memory of one
/// row (or a block of parquet).
///
/// # Errors
/// A file that cannot be opened or is of another kind.
pub fn numbered_rows(path: &Path, limits: &Limits) -> Result<NumberedRows, DataError> {
    let rows = if extension(path) == "parquet" {
        // One block at a time is enough: rows are read in order.
        let limits = Limits { memory_bytes: limits.memory_bytes.min(64 << 20), ..*limits };
        Kind::Parquet { source: Box::new(Source::open(vec![path.to_owned()], &limits)?), next: 0 }
    } else {
        let inner = match extension(path) {
            "gz" | "zst" => path.file_stem().map(Path::new).map_or("", extension),
            plain => plain,
        };
        if !matches!(inner, "jsonl" | "ndjson" | "json") {
            return Err(DataError::unfit(
                path,
                "preference files are .jsonl (also .gz and .zst) or .parquet",
                "convert the file to one of these, or name it for what it is",
            ));
        }
        Kind::Jsonl(read_jsonl(path, limits)?)
    };
    Ok(NumberedRows(rows))
}

/// See [`numbered_rows`]: each row with its line (of a parquet file its number, counted from 1). A line that is no
/// row is an error, and the next one follows.
#[derive(Debug)]
pub struct NumberedRows(Kind);

#[derive(Debug)]
enum Kind {
    Jsonl(crate::jsonl::JsonlRows),
    Parquet { source: Box<Source>, next: u64 },
}

impl NumberedRows {
    /// What rows are counted in, for messages.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        match &self.0 {
            Kind::Jsonl(_) => "line",
            Kind::Parquet { .. } => "row",
        }
    }
}

impl Iterator for NumberedRows {
    type Item = (u64, Result<Row, DataError>);

    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.0 {
            Kind::Jsonl(rows) => {
                let row = rows.next()?;
                if matches!(row, Err(DataError::Row { .. })) {
                    rows.go_on();
                }
                Some((rows.line(), row))
            }
            Kind::Parquet { source, next } => {
                let row = source.row(*next)?;
                *next += 1;
                Some((*next, row))
            }
        }
    }
}
