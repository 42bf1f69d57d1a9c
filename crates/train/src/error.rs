use std::path::PathBuf;

use evalign_core::Hint;
use evalign_data::DataError;
use evalign_lm::LmError;

/// Why training could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    #[error(transparent)]
    Data(Box<DataError>),
    #[error(transparent)]
    Model(#[from] LmError),
    #[error("input/output: {0}")]
    Io(#[from] std::io::Error),
    /// A row of the training data that cannot be used. `row` counts from 1: for text files it is the line.
    #[error("{}, row {row}, field `{field}`: {problem}", path.display())]
    Row { path: PathBuf, row: u64, field: String, problem: String, hint: String },
    /// A setting, by flag or in the configuration file `path`.
    #[error("{}`{setting}`: {problem}", path.as_ref().map(|path| format!("{}, ", path.display())).unwrap_or_default())]
    Config { path: Option<PathBuf>, setting: String, problem: String, hint: String },
    /// A checkpoint, an adapter or another file of tensors.
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: String, hint: String },
    /// What was asked for cannot be done with this model or on this device.
    #[error("{what}")]
    Unsupported { what: String, hint: String },
    /// The memory plan does not fit.
    #[error("this training needs {needed_bytes} bytes of memory, {available_bytes} are allowed")]
    Memory { needed_bytes: u64, available_bytes: u64, hint: String },
    /// Loss or gradient left the numbers; the weights are those from before this update.
    #[error("update {update}: {what} is {value}")]
    NotFinite { update: u64, what: String, value: f64, kept: Option<PathBuf> },
}

impl From<DataError> for TrainError {
    fn from(error: DataError) -> Self {
        Self::Data(Box::new(error))
    }
}

impl Hint for TrainError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Data(error) => error.hint(),
            Self::Model(error) => error.hint(),
            Self::Io(_) => None,
            Self::Row { hint, .. }
            | Self::Config { hint, .. }
            | Self::File { hint, .. }
            | Self::Unsupported { hint, .. }
            | Self::Memory { hint, .. } => Some(hint.clone()),
            Self::NotFinite { update: 1, kept: None, .. } => Some(
                "lower `--learning-rate`; if no update was made yet, hold the weights in f32 (`--dtype f32`)"
                    .to_owned(),
            ),
            Self::NotFinite { kept, .. } => Some(match kept {
                Some(path) => format!(
                    "the last good weights are in {}; lower `--learning-rate` or add `--warmup-steps`, and start anew or \
                     from them (`--adapter`)",
                    path.display()
                ),
                None => "lower `--learning-rate`, or add `--warmup-steps`".to_owned(),
            }),
        }
    }
}
