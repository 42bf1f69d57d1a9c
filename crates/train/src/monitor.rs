//! What a run leaves behind for people: `metrics.jsonl`, TensorBoard event files and `report.html`.

mod chart;
mod jsonl;
mod report;
mod tensorboard;
#[cfg(test)]
mod tests;

use std::path::Path;

pub use jsonl::{Line, read_metrics};
pub use report::{Facts, SampledText, charts, last_values, write_report};

use crate::{Event, TrainError};
use jsonl::MetricsLog;
use tensorboard::EventFile;

/// Writes metrics down as they come.
#[derive(Debug)]
pub struct Monitor {
    log: MetricsLog,
    events: EventFile,
}

impl Monitor {
    /// Files in `directory`. `host` is part of the event file's name.
    ///
    /// # Errors
    /// A file cannot be created.
    pub fn open(directory: &Path, host: &str) -> Result<Self, TrainError> {
        Ok(Self {
            log: MetricsLog::open(&directory.join("metrics.jsonl"))?,
            events: EventFile::create(&directory.join("runs"), host)?,
        })
    }

    /// # Errors
    /// A file cannot be written.
    pub fn event(&mut self, event: &Event<'_>) -> Result<(), TrainError> {
        match event {
            Event::Started { update, .. } => {
                self.log.cut_after(*update)?;
                self.events.start_at(*update)
            }
            Event::Logged { update, metrics } | Event::Evaluated { update, metrics } => {
                self.log.metrics(*update, metrics)?;
                self.events.scalars(*update, metrics, tag)
            }
            Event::Alarm(alarm) => self.log.alarm(alarm),
            Event::Referenced { .. }
            | Event::Progress { .. }
            | Event::Read { .. }
            | Event::Computed { .. }
            | Event::Gradients { .. }
            | Event::Updated { .. }
            | Event::Saved(_)
            | Event::Note(_) => Ok(()),
        }
    }
}

/// transformers' names for TensorBoard: `train/loss`, `eval/loss`.
fn tag(name: &str) -> String {
    match name.strip_prefix("eval_") {
        Some(name) => format!("eval/{name}"),
        None => format!("train/{name}"),
    }
}
