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

/// Whose something is. Keys of the service belong to one; the command line is [`Tenant::default`].
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Tenant(String);

impl Tenant {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self("default".to_owned())
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tenant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if is_name(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("`{text}` is not a name: {NAME_FORM}"))
        }
    }
}

/// What names that come from clients look like, in words.
pub const NAME_FORM: &str =
    "1 to 64 of the characters a-z, 0-9, `.`, `_` and `-`, the first a letter or a digit";

/// Whether a text can name something (a tenant, a file, a model that is served): never a path, and the same
/// on every file system. `[a-z0-9][a-z0-9._-]{0,63}`.
#[must_use]
pub fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.len() <= 64
        && text.bytes().next().is_some_and(plain)
        && text.bytes().all(|b| plain(b) || matches!(b, b'.' | b'_' | b'-'))
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
