use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Identifies a run: `run_` and a UUIDv7, so that ids sort by creation time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// A fresh id for the current time.
    #[must_use]
    pub fn new() -> Self {
        Self(format!("run_{}", uuid::Uuid::now_v7().simple()))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for RunId {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for RunId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let valid = text
            .strip_prefix("run_")
            .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_hexdigit()));
        valid
            .then(|| Self(text.to_owned()))
            .ok_or_else(|| format!("`{text}` is not a run id (they look like run_0199...)"))
    }
}

/// Identifies a sample within a run: which task, which document, which repeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SampleKey {
    /// Leaf task name, for example `mmlu_anatomy`.
    pub task: String,
    /// Index of the document in the evaluated split, before `--limit` or `--samples`.
    pub doc: u64,
    /// 0 unless the task asks for several answers per document.
    pub repeat: u32,
}

impl fmt::Display for SampleKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}[{}]", self.task, self.doc)?;
        if self.repeat > 0 {
            write!(f, "#{}", self.repeat)?;
        }
        Ok(())
    }
}
