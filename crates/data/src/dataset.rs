use std::sync::Arc;

use evalign_core::Digest;
use serde_json::Value;

use crate::source::Source;
use crate::{ColumnEquals, DataError, DataRoots, DatasetSpec, Row, locate};

/// An opened split: rows by position or in order. Cheap to clone; files are shared.
#[derive(Clone, Debug)]
pub struct Dataset {
    name: String,
    source: Arc<Source>,
    /// Positions of the rows that pass the filter; absent without a filter.
    selected: Option<Arc<[u64]>>,
}

/// Finds, hashes and opens a dataset. Blocks; asks the network only where nothing local fits and
/// `roots.offline` is false.
///
/// # Errors
/// Nothing found, unreadable or oversized files, a filter on a column that is not there, no rows.
pub fn open(roots: &DataRoots, spec: &DatasetSpec) -> Result<Dataset, DataError> {
    let files = locate::files(roots, spec)?;
    let source = match roots.open_files.get(&files) {
        Some(source) => source,
        None => {
            let source = Arc::new(Source::open(files.clone(), &roots.limits)?);
            roots.open_files.put(files, source.clone());
            source
        }
    };
    let selected = spec.filter.as_ref().map(|filter| select(&source, filter)).transpose()?;
    let dataset = Dataset { name: spec.describe(), source, selected };
    if dataset.rows() == 0 {
        let filter = spec.filter.as_ref().map(|filter| format!("{} is {}", filter.column, filter.value));
        return Err(DataError::Empty { files: dataset.files().to_vec(), dataset: dataset.name, filter });
    }
    Ok(dataset)
}

fn select(source: &Source, filter: &ColumnEquals) -> Result<Arc<[u64]>, DataError> {
    if let Some(kind) = source.unread.get(&filter.column) {
        return Err(DataError::Unread { path: first_file(source), column: filter.column.clone(), kind });
    }
    if !source.columns.contains(&filter.column) {
        return Err(DataError::NoColumn {
            path: first_file(source),
            column: filter.column.clone(),
            columns: source.columns.clone(),
        });
    }
    Ok(positions(source.column(&filter.column), &filter.value)?.into())
}

/// For messages about all files.
fn first_file(source: &Source) -> std::path::PathBuf {
    source.files.first().cloned().unwrap_or_default()
}

fn positions(
    values: impl Iterator<Item = Result<Value, DataError>>,
    wanted: &Value,
) -> Result<Vec<u64>, DataError> {
    let mut found = Vec::new();
    for (index, value) in (0u64..).zip(values) {
        if value? == *wanted {
            found.push(index);
        }
    }
    Ok(found)
}

impl Dataset {
    /// Number of rows (after the filter).
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.selected.as_ref().map_or(self.source.rows, |s| s.len() as u64)
    }

    /// Column names in file order. For JSONL: the fields of the first row.
    #[must_use]
    pub fn columns(&self) -> &[String] {
        &self.source.columns
    }

    /// SHA-256 over the bytes of the files, in order. A filter does not change it.
    #[must_use]
    pub fn digest(&self) -> &Digest {
        &self.source.digest
    }

    /// For messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The files the rows come from.
    #[must_use]
    pub fn files(&self) -> &[std::path::PathBuf] {
        &self.source.files
    }

    /// Why a column cannot be used that is there; `None` for one that can, or is not there at all.
    #[must_use]
    pub fn unread_column(&self, column: &str) -> Option<DataError> {
        self.source.unread.get(column).map(|kind| DataError::Unread {
            path: first_file(&self.source),
            column: column.to_owned(),
            kind,
        })
    }

    /// Row `index`, counted from 0 after the filter. In any order: a block of rows around it is read where it
    /// is not in memory, and nothing else (of a compressed text file, what lies in front of it).
    ///
    /// # Errors
    /// An index past the end, an unreadable file, a file that is another than when it was opened.
    pub fn get(&self, index: u64) -> Result<Row, DataError> {
        let position = match &self.selected {
            Some(selected) => usize::try_from(index).ok().and_then(|index| selected.get(index)).copied(),
            None => Some(index),
        };
        position.and_then(|position| self.source.row(position)).unwrap_or_else(|| {
            Err(DataError::OutOfRange { dataset: self.name.clone(), index, rows: self.rows() })
        })
    }

    /// All rows in order, one at a time.
    #[must_use]
    pub fn iter(&self) -> Rows<'_> {
        Rows { dataset: self, index: 0 }
    }
}

impl<'a> IntoIterator for &'a Dataset {
    type Item = Result<Row, DataError>;
    type IntoIter = Rows<'a>;

    fn into_iter(self) -> Rows<'a> {
        self.iter()
    }
}

/// Rows of a [`Dataset`] in order; ends after the first error.
#[derive(Debug)]
pub struct Rows<'a> {
    dataset: &'a Dataset,
    index: u64,
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.dataset.rows() {
            return None;
        }
        let row = self.dataset.get(self.index);
        self.index = if row.is_ok() { self.index + 1 } else { u64::MAX };
        Some(row)
    }
}
