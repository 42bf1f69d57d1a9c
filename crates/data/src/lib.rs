//! Rows in and out: datasets as people and the hub publish them (parquet through polars, JSON lines and CSV
//! line by line, so that an error has its line), and the tables evalign writes.
//!
//! A dataset is named by a [`DatasetSpec`] (`openai/gsm8k`, config `main`, split `test`, or a local
//! file). [`open`] finds its files (a path on this machine, then the data root, the hub's cache, the
//! hub), hashes them, and returns a [`Dataset`] of [`Row`]s: JSON objects whose fields keep the order
//! of the file's columns.
//!
//! The one decision made here: a dataset *is* its bytes. Its digest is the SHA-256 over the files in
//! order, computed on opening and never trusted from a name, so that a run can say exactly what it was
//! measured on, and a changed file is a different dataset.
//!
//! Files of ordinary size are held in memory and shared between all tasks that use them; of larger ones
//! the blocks of rows that were used last are. Everything that comes from a file is bounded (row, field and
//! decompressed size) and every error names the file and, where there is one, the row and the field.
//!
//! This crate knows nothing of tasks, models or runs.

mod cell;
mod csv;
mod dataset;
mod error;
mod guard;
mod hub;
mod jsonl;
mod limits;
mod lines;
mod locate;
mod parquet;
mod partial;
mod preference;
mod records;
mod source;
mod spec;
mod table;
mod table_records;
mod texts;
mod time;
mod unpack;

pub use dataset::{Dataset, Rows, open};
pub use error::DataError;
pub use guard::{guarded, panic_is_caught};
pub use jsonl::read_jsonl;
pub use limits::Limits;
pub use preference::{
    Example, FileKind, Layout, Misfit, NumberedRows, ORIGIN_COLUMNS, PreferenceWriter, Style, column_text,
    numbered_rows,
};
pub use records::TextKind;
pub use spec::{ColumnEquals, DataRoots, DatasetSpec, OpenFiles};
pub use table::{Column, ColumnKind, JsonlWriter, ParquetTable, write_jsonl, write_parquet};
pub use table_records::{TableRecord, TableRecords, VerbatimPart, table_records};
pub use texts::{TextCounts, TextPart, holds_texts, read_texts};
pub use unpack::{unpacked, unpacked_bytes};

/// One row: field names in the order of the file's columns, values as JSON.
pub type Row = serde_json::Map<String, serde_json::Value>;

#[cfg(test)]
mod tests;
