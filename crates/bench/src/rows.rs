//! Where a task's rows come from: an embedded sample set, a file beside the task file, or a dataset.

use std::path::{Component, Path};

use evalign_core::{Digest, Hint as _};
use evalign_data::{ColumnEquals, DataError, DataRoots, Dataset, DatasetSpec};
use serde_json::{Map, Value};

use crate::error::BenchError;
use crate::task::{EmbeddedRows, RowFilter, TaskDefinition, embedded_rows, is_generated};

/// An opened split.
#[derive(Clone, Debug)]
pub(crate) enum RowSource {
    Embedded { name: String, rows: std::sync::Arc<[Map<String, Value>]>, digest: Digest },
    Dataset { name: String, dataset: Dataset },
}

impl RowSource {
    /// The rows to evaluate. `directory` is where the task file lies, `None` for an embedded one.
    pub(crate) fn evaluated(
        task: &TaskDefinition,
        directory: Option<&Path>,
        roots: &DataRoots,
    ) -> Result<Self, BenchError> {
        let source = &task.dataset;
        Self::open(task, directory, roots, source.file.as_deref(), source.split.as_deref())
    }

    /// The rows that worked examples are taken from, or `None` where the task names none.
    pub(crate) fn shots(
        task: &TaskDefinition,
        directory: Option<&Path>,
        roots: &DataRoots,
    ) -> Result<Option<Self>, BenchError> {
        let source = &task.dataset;
        if source.shots_file.is_none() && source.shots_split.is_none() {
            return Ok(None);
        }
        Self::open(task, directory, roots, source.shots_file.as_deref(), source.shots_split.as_deref())
            .map(Some)
    }

    fn open(
        task: &TaskDefinition,
        directory: Option<&Path>,
        roots: &DataRoots,
        file: Option<&str>,
        split: Option<&str>,
    ) -> Result<Self, BenchError> {
        let source = &task.dataset;
        let spec = match (file, directory) {
            (Some(file), None) => return Self::embedded(task, file, source.filter.as_ref()),
            // Rows that are made need no file: a task of one's own can name them too.
            (Some(file), Some(directory)) if is_generated(file) && !directory.join(file).exists() => {
                return Self::embedded(task, file, source.filter.as_ref());
            }
            (Some(file), Some(directory)) => DatasetSpec {
                files: Some(inside(task, directory, file)?),
                split: split.unwrap_or_default().to_owned(),
                ..DatasetSpec::default()
            },
            (None, _) => DatasetSpec {
                path: source.path.clone().unwrap_or_default(),
                config: source.config.clone(),
                split: split.unwrap_or_default().to_owned(),
                revision: source.revision.clone(),
                ..DatasetSpec::default()
            },
        };
        let filter = source.filter.as_ref();
        let spec = DatasetSpec {
            filter: filter.map(|filter| ColumnEquals {
                column: filter.column.clone(),
                value: Value::String(filter.value.clone()),
            }),
            ..spec
        };
        let name = match filter {
            Some(filter) => format!("{} where {} is {}", spec.describe(), filter.column, filter.value),
            None => spec.describe(),
        };
        match evalign_data::open(roots, &spec) {
            Ok(dataset) => Ok(Self::Dataset { name, dataset }),
            Err(error) => Err(unreadable(&task.name, &name, error)),
        }
    }

    fn embedded(task: &TaskDefinition, name: &str, filter: Option<&RowFilter>) -> Result<Self, BenchError> {
        let wrong =
            |message: String| BenchError::Rows { task: task.name.clone(), dataset: name.to_owned(), message };
        let EmbeddedRows { rows, text } =
            embedded_rows(name).ok_or_else(|| wrong("no such sample set is embedded".to_owned()))?;
        let kept = |row: &Map<String, Value>| {
            filter.is_none_or(|f| row.get(&f.column).and_then(Value::as_str) == Some(f.value.as_str()))
        };
        let rows: Vec<_> = rows.map_err(wrong)?.into_iter().filter(kept).collect();
        if rows.is_empty() {
            return Err(wrong("there are no rows".to_owned()));
        }
        Ok(Self::Embedded { name: name.to_owned(), rows: rows.into(), digest: Digest::of(text.as_bytes()) })
    }

    pub(crate) fn len(&self) -> u64 {
        match self {
            Self::Embedded { rows, .. } => rows.len() as u64,
            Self::Dataset { dataset, .. } => dataset.rows(),
        }
    }

    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Self::Embedded { digest, .. } => digest,
            Self::Dataset { dataset, .. } => dataset.digest(),
        }
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Embedded { name, .. } | Self::Dataset { name, .. } => name.clone(),
        }
    }

    pub(crate) fn columns(&self) -> Vec<String> {
        match self {
            Self::Embedded { rows, .. } => {
                rows.first().map(|row| row.keys().cloned().collect()).unwrap_or_default()
            }
            Self::Dataset { dataset, .. } => dataset.columns().to_vec(),
        }
    }

    /// Why a column cannot be used that is there.
    pub(crate) fn unread_column(&self, task: &str, column: &str) -> Option<BenchError> {
        let Self::Dataset { name, dataset } = self else { return None };
        dataset.unread_column(column).map(|error| unreadable(task, name, error))
    }

    /// Row `index`, counted from 0.
    pub(crate) fn get(&self, task: &str, index: u64) -> Result<Map<String, Value>, BenchError> {
        match self {
            Self::Embedded { rows, name, .. } => {
                let row = usize::try_from(index).ok().and_then(|index| rows.get(index));
                row.cloned().ok_or_else(|| BenchError::Rows {
                    task: task.to_owned(),
                    dataset: name.clone(),
                    message: format!("there is no row {index}, only {}", rows.len()),
                })
            }
            Self::Dataset { name, dataset } => {
                dataset.get(index).map_err(|error| unreadable(task, name, error))
            }
        }
    }
}

fn unreadable(task: &str, dataset: &str, error: DataError) -> BenchError {
    BenchError::Dataset {
        task: task.to_owned(),
        dataset: dataset.to_owned(),
        hint: error.hint(),
        source: Box::new(error),
    }
}

/// The path of `file` below `directory`; nothing outside can be named.
fn inside(task: &TaskDefinition, directory: &Path, file: &str) -> Result<String, BenchError> {
    let wrong = |message: &str| BenchError::Rows {
        task: task.name.clone(),
        dataset: file.to_owned(),
        message: message.to_owned(),
    };
    let plain = Path::new(file).components().all(|part| matches!(part, Component::Normal(_)));
    if !plain || file.contains('*') {
        return Err(wrong("a file of a task is named relative to the task file, and lies below it"));
    }
    let root = fs_err::canonicalize(directory).map_err(|error| wrong(&error.to_string()))?;
    if !root.join(file).is_file() {
        let missing = format!("there is no file {}", root.join(file).display());
        return Err(BenchError::Dataset {
            task: task.name.clone(),
            dataset: file.to_owned(),
            source: Box::new(std::io::Error::new(std::io::ErrorKind::NotFound, missing)),
            hint: Some(
                "the files that a task names lie beside its task file, or in a folder there".to_owned(),
            ),
        });
    }
    let path = fs_err::canonicalize(root.join(file)).map_err(|error| wrong(&error.to_string()))?;
    if !path.starts_with(&root) {
        return Err(wrong("the file lies outside the directory of the task file"));
    }
    path.to_str().map(str::to_owned).ok_or_else(|| wrong("the path is not UTF-8"))
}
