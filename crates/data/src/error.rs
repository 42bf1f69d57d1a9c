use std::path::{Path, PathBuf};

use evalign_core::Hint;

/// Why rows could not be found, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// No file anywhere that could be this dataset.
    #[error("no files for dataset `{dataset}`")]
    NotFound { dataset: String, looked: Vec<String>, offline: bool },
    /// The hub was asked and did not deliver.
    #[error("dataset `{dataset}` could not be fetched: {message}")]
    Fetch { dataset: String, message: String, hint: Option<String> },
    /// The name leaves the directories datasets may come from.
    #[error("`{0}` is not a dataset name")]
    BadName(String),
    /// `mend` says what can be done, where that is more than getting the file again.
    #[error("{}: {message}", path.display())]
    File { path: PathBuf, message: String, mend: Option<String> },
    /// `row` counts from 1: for text files it is the line.
    #[error("{}, {unit} {row}{}: {message}", path.display(), field.as_ref().map(|f| format!(", field `{f}`")).unwrap_or_default())]
    Row {
        path: PathBuf,
        unit: &'static str,
        row: u64,
        field: Option<String>,
        message: String,
        mend: Option<String>,
    },
    #[error("{}: no column `{column}`", path.display())]
    NoColumn { path: PathBuf, column: String, columns: Vec<String> },
    /// A column that is there, of a type that is not read.
    #[error("{}: column `{column}` has type {kind}, which is not read", path.display())]
    Unread { path: PathBuf, column: String, kind: &'static str },
    #[error("dataset `{dataset}` has no rows{}", filter.as_ref().map(|f| format!(" where {f}")).unwrap_or_default())]
    Empty { dataset: String, filter: Option<String>, files: Vec<PathBuf> },
    #[error("row {index} was asked for, dataset `{dataset}` has {rows}")]
    OutOfRange { dataset: String, index: u64, rows: u64 },
    /// A limit on what an input may make us hold; see [`crate::Limits`].
    #[error("{}: {what}, at most {limit} are read", path.display())]
    TooLarge { path: PathBuf, what: String, limit: String },
}

impl DataError {
    #[expect(clippy::needless_pass_by_value, reason = "called with errors straight from `map_err`")]
    pub(crate) fn file(path: &Path, message: impl ToString) -> Self {
        Self::File { path: path.to_owned(), message: message.to_string(), mend: None }
    }

    /// A file that is whole, but not as we read it.
    pub(crate) fn unfit(path: &Path, message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self::File { path: path.to_owned(), message: message.into(), mend: Some(mend.into()) }
    }
}

impl Hint for DataError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::NotFound { looked, offline, .. } => Some(format!(
                "looked for {}{}; give its directory with `--data-root` (or EVALIGN_DATA_ROOT)",
                looked.join(", "),
                if *offline { " (offline: the hub was not asked)" } else { "" }
            )),
            Self::Fetch { hint, .. } => hint.clone(),
            Self::BadName(_) => Some("write ORG/NAME, or the path of a file".to_owned()),
            Self::NoColumn { columns, .. } => Some(format!("its columns are {}", columns.join(", "))),
            Self::File { mend: Some(mend), .. } | Self::Row { mend: Some(mend), .. } => Some(mend.clone()),
            Self::Empty { filter: Some(_), files, .. } => {
                Some(format!("{} has rows, but none with this value: check the filter", listed(files)))
            }
            Self::Empty { filter: None, files, .. } => Some(format!(
                "{} is there, but holds none: check that it was written to its end",
                listed(files)
            )),
            Self::File { path, .. } if !path.exists() => Some("check the path".to_owned()),
            Self::File { path, .. } | Self::Row { path, .. } => Some(format!(
                "mend {}, or get it again: a file that was cut off while it was copied looks like this",
                path.display()
            )),
            Self::Unread { .. } => Some(crate::parquet::CONVERT.to_owned()),
            Self::OutOfRange { .. } => None,
            Self::TooLarge { .. } => Some(
                "if the file is what you expect, unpack it or write it with less compression (parquet: snappy or \
                 none), or split it"
                    .to_owned(),
            ),
        }
    }
}

fn listed(files: &[PathBuf]) -> String {
    files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(", ")
}
