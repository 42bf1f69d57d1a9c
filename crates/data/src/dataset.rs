use std::sync::Arc;

use evalign_core::Digest;
use serde_json::Value;

use crate::source::{Source, SourceRows};
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
    if !source.columns.contains(&filter.column) {
        return Err(DataError::NoColumn {
            path: source.files.first().cloned().unwrap_or_default(),
            column: filter.column.clone(),
            columns: source.columns.clone(),
        });
    }
    if let Some(values) = source.column(&filter.column) {
        return Ok(positions(values.map(Ok), &filter.value)?.into());
    }
    let values = source.stream().map(|row| Ok(row?.remove(&filter.column).unwrap_or(Value::Null)));
    Ok(positions(values, &filter.value)?.into())
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

    /// Row `index`, counted from 0 after the filter. On a dataset too large for memory this reads the
    /// files up to that row: prefer [`Dataset::iter`] there.
    ///
    /// # Errors
    /// An index past the end, an unreadable file.
    pub fn get(&self, index: u64) -> Result<Row, DataError> {
        let out_of_range = || DataError::OutOfRange { dataset: self.name.clone(), index, rows: self.rows() };
        let position = match &self.selected {
            Some(selected) => {
                *usize::try_from(index).ok().and_then(|i| selected.get(i)).ok_or_else(out_of_range)?
            }
            None => index,
        };
        if self.source.in_memory() {
            return self.source.row_in_memory(position).unwrap_or_else(|| Err(out_of_range()));
        }
        row_after(&mut self.source.stream(), position).unwrap_or_else(|| Err(out_of_range()))
    }

    /// All rows in order, one at a time.
    #[must_use]
    pub fn iter(&self) -> Rows<'_> {
        let stream = (!self.source.in_memory()).then(|| self.source.stream());
        Rows { dataset: self, index: 0, stream: stream.map(|rows| (0, rows)) }
    }
}

impl<'a> IntoIterator for &'a Dataset {
    type Item = Result<Row, DataError>;
    type IntoIter = Rows<'a>;

    fn into_iter(self) -> Rows<'a> {
        self.iter()
    }
}

/// Rows of a [`Dataset`] in order.
pub struct Rows<'a> {
    dataset: &'a Dataset,
    index: u64,
    /// Position of the next row of the stream, and the stream.
    stream: Option<(u64, SourceRows<'a>)>,
}

impl std::fmt::Debug for Rows<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rows")
            .field("dataset", &self.dataset.name)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Iterator for Rows<'_> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.index >= self.dataset.rows() {
            return None;
        }
        let index = self.index;
        self.index += 1;
        let Some((next, rows)) = &mut self.stream else { return Some(self.dataset.get(index)) };
        let position = self.dataset.selected.as_ref().map_or(index, |s| s[index as usize]);
        let skip = position - *next;
        *next = position + 1;
        row_after(rows, skip)
    }
}

/// The row after `skip` others, or the first error on the way.
fn row_after(rows: &mut SourceRows<'_>, skip: u64) -> Option<Result<Row, DataError>> {
    for _ in 0..skip {
        if let Err(error) = rows.next()? {
            return Some(Err(error));
        }
    }
    rows.next()
}
