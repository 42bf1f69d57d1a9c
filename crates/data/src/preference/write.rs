use std::path::Path;

use super::columns::ORIGIN_COLUMNS;
use crate::{Column, ColumnKind, DataError, Example, JsonlWriter, Layout, ParquetTable, Row, Style};

/// How a file of rows is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileKind {
    #[default]
    Jsonl,
    Parquet,
}

impl FileKind {
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Jsonl => "jsonl",
            Self::Parquet => "parquet",
        }
    }
}

/// Writes rows of one layout with [`ORIGIN_COLUMNS`] beside it. Every row has every column, null where nothing is
/// known: `datasets` takes a column's type from all rows of a file.
#[derive(Debug)]
pub struct PreferenceWriter {
    path: std::path::PathBuf,
    layout: Layout,
    style: Style,
    file: File,
    rows: u64,
}

#[derive(Debug)]
enum File {
    Jsonl(JsonlWriter),
    Parquet(Box<ParquetTable>),
}

impl PreferenceWriter {
    /// # Errors
    /// The file cannot be created.
    pub fn create(path: &Path, kind: FileKind, layout: Layout, style: Style) -> Result<Self, DataError> {
        let file = match kind {
            FileKind::Jsonl => File::Jsonl(JsonlWriter::create(path)?),
            FileKind::Parquet => {
                File::Parquet(Box::new(ParquetTable::create(path, &columns(layout, style))?))
            }
        };
        Ok(Self { path: path.to_owned(), layout, style, file, rows: 0 })
    }

    /// Adds a row. Of `origin` the known columns are written.
    ///
    /// # Errors
    /// A row of another layout or that cannot be written in this style, a failed write.
    pub fn push(&mut self, example: &Example, origin: &Row) -> Result<(), DataError> {
        if example.layout() != self.layout {
            let message = format!("a row of the layout {} in a file of {}", example.layout(), self.layout);
            return Err(DataError::file(&self.path, message));
        }
        let mut row = example.to_row(self.style).map_err(|misfit| DataError::Row {
            path: self.path.clone(),
            unit: "row",
            row: self.rows + 1,
            field: Some(misfit.field),
            message: misfit.message,
            mend: Some(misfit.mend.to_owned()),
        })?;
        for (name, _) in ORIGIN_COLUMNS {
            row.insert(name.to_owned(), origin.get(name).cloned().unwrap_or_default());
        }
        self.rows += 1;
        match &mut self.file {
            File::Jsonl(file) => file.push(&row),
            File::Parquet(file) => file.push(row),
        }
    }

    /// Rows so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts the file in place.
    ///
    /// # Errors
    /// A failed write.
    pub fn finish(self) -> Result<u64, DataError> {
        match self.file {
            File::Jsonl(file) => file.finish()?,
            File::Parquet(file) => file.finish()?,
        }
        Ok(self.rows)
    }
}

fn columns(layout: Layout, style: Style) -> Vec<Column> {
    let kind = match style {
        Style::Conversational => ColumnKind::Messages,
        Style::Standard => ColumnKind::Text,
    };
    let texts = layout.columns(style).iter().map(|name| Column::new(name, kind));
    let label = (layout == Layout::Unpaired).then(|| Column::new("label", ColumnKind::Boolean));
    let origin = ORIGIN_COLUMNS.iter().map(|(name, kind)| Column::new(name, *kind));
    texts.chain(label).chain(origin).collect()
}
