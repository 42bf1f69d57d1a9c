use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::checkpoint::write_synced;
use crate::{Alarm, Metrics, TrainError};

/// A line of `metrics.jsonl`: `step`, and the metrics or an alarm.
pub type Line = Map<String, Value>;

/// One JSON object a line. It holds nothing that depends on when or how fast something ran, so that a run that was
/// resumed has the same lines as one that was not.
#[derive(Debug)]
pub(super) struct MetricsLog {
    path: PathBuf,
    file: fs_err::File,
}

impl MetricsLog {
    pub(super) fn open(path: &Path) -> Result<Self, TrainError> {
        let file = fs_err::OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// Drops the lines of later updates, which are going to be done again; before the first update, all.
    pub(super) fn cut_after(&mut self, update: u64) -> Result<(), TrainError> {
        let kept: String = read_metrics(&self.path)?
            .into_iter()
            .filter(|line| {
                line.get("step").and_then(Value::as_u64).is_some_and(|step| 0 < update && step <= update)
            })
            .map(|line| format!("{}\n", Value::Object(line)))
            .collect();
        write_synced(&self.path, kept.as_bytes())?;
        self.file = fs_err::OpenOptions::new().append(true).open(&self.path)?;
        Ok(())
    }

    pub(super) fn metrics(&mut self, update: u64, metrics: &Metrics) -> Result<(), TrainError> {
        let mut line = Line::from_iter([("step".to_owned(), json!(update))]);
        line.extend(metrics.iter().map(|(name, value)| (name.to_owned(), json!(value))));
        self.write(line)
    }

    pub(super) fn alarm(&mut self, alarm: &Alarm) -> Result<(), TrainError> {
        let mut line = Line::from_iter([("step".to_owned(), json!(alarm.update))]);
        line.insert("alarm".to_owned(), json!(alarm.kind));
        line.insert("message".to_owned(), json!(alarm.message));
        self.write(line)
    }

    fn write(&mut self, line: Line) -> Result<(), TrainError> {
        Ok(self.file.write_all(format!("{}\n", Value::Object(line)).as_bytes())?)
    }
}

/// The lines of a run; one that was cut off in the middle is left out.
///
/// # Errors
/// The file cannot be read.
pub fn read_metrics(path: &Path) -> Result<Vec<Line>, TrainError> {
    let text = match fs_err::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    Ok(text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}
