use std::io::{BufWriter, Write};
use std::path::Path;

use polars::prelude::{
    Column as PolarsColumn, DataFrame, DataType, Field, IntoSeries, NamedFrom, ParquetWriter, Schema, Series,
    StructChunked,
};
use serde_json::Value;

use crate::partial::Partial;
use crate::{DataError, Row};

/// Rows written to a parquet file as one row group.
const GROUP_ROWS: usize = 8192;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    Text,
    Integer,
    Number,
    Boolean,
    /// A list of messages: `[{"role": "user", "content": "..."}]`, as a list of structs.
    Messages,
    /// Anything else: its JSON as text.
    Json,
}

/// A column of a table to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    pub kind: ColumnKind,
}

impl Column {
    #[must_use]
    pub fn new(name: &str, kind: ColumnKind) -> Self {
        Self { name: name.to_owned(), kind }
    }
}

/// Writes a parquet file row by row, in bounded memory. The file appears under its name only when
/// [`ParquetTable::finish`] has put it on disk.
pub struct ParquetTable {
    columns: Vec<Column>,
    rows: Vec<Row>,
    writer: polars::io::parquet::write::BatchedWriter<std::fs::File>,
    file: Partial,
}

impl std::fmt::Debug for ParquetTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetTable")
            .field("path", &self.file.path())
            .field("columns", &self.columns)
            .finish_non_exhaustive()
    }
}

impl ParquetTable {
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, columns: &[Column]) -> Result<Self, DataError> {
        let (partial, file) = Partial::create(path)?;
        let fields = columns.iter().map(|c| Field::new(c.name.as_str().into(), data_type(c.kind)));
        let writer = ParquetWriter::new(file.into_file())
            .batched(&Schema::from_iter(fields))
            .map_err(|e| DataError::file(path, e))?;
        Ok(Self { columns: columns.to_vec(), rows: Vec::new(), writer, file: partial })
    }

    /// Adds a row; absent fields are null, fields without a column are left out.
    ///
    /// # Errors
    /// A value that does not fit its column's kind, a failed write.
    pub fn push(&mut self, row: Row) -> Result<(), DataError> {
        self.rows.push(row);
        if self.rows.len() == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), DataError> {
        let columns = self.columns.iter().map(|column| self.series(column)).collect::<Result<Vec<_>, _>>()?;
        let frame =
            DataFrame::new(self.rows.len(), columns).map_err(|e| DataError::file(self.file.path(), e))?;
        self.writer.write_batch(&frame).map_err(|e| DataError::file(self.file.path(), e))?;
        self.rows.clear();
        Ok(())
    }

    fn series(&self, column: &Column) -> Result<PolarsColumn, DataError> {
        let cells = || self.rows.iter().map(|row| row.get(&column.name).filter(|v| !v.is_null()));
        let misfit = |cell: &Value| {
            DataError::file(
                self.file.path(),
                format!("{cell} does not fit the column `{}` ({:?})", column.name, column.kind),
            )
        };
        /// Each present cell through `convert`; one that does not convert is an error.
        fn typed<'a, T>(
            cells: impl Iterator<Item = Option<&'a Value>>,
            convert: impl Fn(&'a Value) -> Option<T>,
            misfit: impl Fn(&Value) -> DataError,
        ) -> Result<Vec<Option<T>>, DataError> {
            cells.map(|cell| cell.map(|v| convert(v).ok_or_else(|| misfit(v))).transpose()).collect()
        }
        let name = column.name.as_str().into();
        let series = match column.kind {
            ColumnKind::Text => Series::new(name, typed(cells(), |v| v.as_str(), misfit)?),
            ColumnKind::Integer => Series::new(name, typed(cells(), Value::as_i64, misfit)?),
            ColumnKind::Number => Series::new(name, typed(cells(), Value::as_f64, misfit)?),
            ColumnKind::Boolean => Series::new(name, typed(cells(), Value::as_bool, misfit)?),
            ColumnKind::Messages => {
                let cells = typed(cells(), messages, misfit)?;
                // Of rows without any messages the type is not seen.
                Series::new(name, cells)
                    .cast(&data_type(ColumnKind::Messages))
                    .map_err(|e| DataError::file(self.file.path(), e))?
            }
            ColumnKind::Json => Series::new(name, typed(cells(), |v| Some(v.to_string()), misfit)?),
        };
        Ok(series.into())
    }

    /// Writes what is left and puts the file in place.
    ///
    /// # Errors
    /// A failed write.
    pub fn finish(mut self) -> Result<(), DataError> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        self.writer.finish().map_err(|e| DataError::file(self.file.path(), e))?;
        self.file.put_in_place()
    }
}

fn data_type(kind: ColumnKind) -> DataType {
    match kind {
        ColumnKind::Text | ColumnKind::Json => DataType::String,
        ColumnKind::Integer => DataType::Int64,
        ColumnKind::Number => DataType::Float64,
        ColumnKind::Boolean => DataType::Boolean,
        ColumnKind::Messages => DataType::List(Box::new(DataType::Struct(message_fields()))),
    }
}

/// The fields of a message, in the order in which they are written.
const MESSAGE_FIELDS: [&str; 2] = ["role", "content"];

fn message_fields() -> Vec<Field> {
    MESSAGE_FIELDS.map(|name| Field::new(name.into(), DataType::String)).into()
}

/// A list of messages as a series of structs; `None` for anything else.
fn messages(value: &Value) -> Option<Series> {
    let items = value.as_array()?;
    let field = |name: &str| {
        let texts: Option<Vec<&str>> = items.iter().map(|item| item.get(name)?.as_str()).collect();
        Some(Series::new(name.into(), texts?))
    };
    let fields = MESSAGE_FIELDS.iter().map(|name| field(name)).collect::<Option<Vec<_>>>()?;
    let series = StructChunked::from_series("item".into(), items.len(), fields.iter()).ok()?;
    Some(series.into_series())
}

/// Writes one JSON document a line, in bounded memory. The file appears under its name only when
/// [`JsonlWriter::finish`] has put it on disk.
#[derive(Debug)]
pub struct JsonlWriter {
    out: BufWriter<fs_err::File>,
    file: Partial,
}

impl JsonlWriter {
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let (partial, file) = Partial::create(path)?;
        Ok(Self { out: BufWriter::new(file), file: partial })
    }

    /// # Errors
    /// A failed write.
    pub fn push(&mut self, value: &impl serde::Serialize) -> Result<(), DataError> {
        serde_json::to_writer(&mut self.out, value).map_err(|e| DataError::file(self.file.path(), e))?;
        self.out.write_all(b"\n").map_err(|e| DataError::file(self.file.path(), e))
    }

    /// # Errors
    /// A failed write.
    pub fn finish(mut self) -> Result<(), DataError> {
        self.out.flush().map_err(|e| DataError::file(self.file.path(), e))?;
        self.file.put_in_place()
    }
}

/// All rows as JSONL.
///
/// # Errors
/// A failed write.
pub fn write_jsonl<'a>(path: &Path, rows: impl IntoIterator<Item = &'a Row>) -> Result<(), DataError> {
    let mut out = JsonlWriter::create(path)?;
    for row in rows {
        out.push(row)?;
    }
    out.finish()
}

/// All rows as parquet.
///
/// # Errors
/// As [`ParquetTable::push`].
pub fn write_parquet(
    path: &Path,
    columns: &[Column],
    rows: impl IntoIterator<Item = Row>,
) -> Result<(), DataError> {
    let mut table = ParquetTable::create(path, columns)?;
    for row in rows {
        table.push(row)?;
    }
    table.finish()
}
