use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::source::Source;
use crate::{DataError, Limits};

/// Keep only the rows in which `column` equals `value` exactly (same JSON type and content).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ColumnEquals {
    pub column: String,
    pub value: Value,
}

/// Which rows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatasetSpec {
    /// `ORG/NAME` as on the hub, or the path of a local directory.
    pub path: String,
    /// The hub's config (subset) name, for example `main` or `all`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub config: Option<String>,
    pub split: String,
    /// A file instead of the hub's layout: absolute, or relative to an include path or to `path`. `*`
    /// matches any characters within its last component.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub files: Option<String>,
    /// Branch, tag or commit on the hub; `main` if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revision: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub filter: Option<ColumnEquals>,
}

impl DatasetSpec {
    /// For messages: `openai/gsm8k (main, test)`, and just the file where one is named.
    #[must_use]
    pub fn describe(&self) -> String {
        let name = match (&self.files, self.path.as_str()) {
            (Some(files), "") => files.clone(),
            (Some(files), path) => format!("{path}/{files}"),
            (None, path) => path.to_owned(),
        };
        let parts = [self.config.as_deref().unwrap_or_default(), &self.split];
        let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if parts.is_empty() { name } else { format!("{name} ({})", parts.join(", ")) }
    }
}

/// Where datasets are looked for, in this order: include paths, data root, hub cache, hub.
#[derive(Clone, Debug, Default)]
pub struct DataRoots {
    /// Holds hub-shaped paths: `openai/gsm8k/main/test-00000-of-00001.parquet`.
    pub data_root: Option<PathBuf>,
    /// Directories that [`DatasetSpec::files`] may be relative to.
    pub include_paths: Vec<PathBuf>,
    /// The hub's cache directory, for example `~/.cache/huggingface/hub`. Absent: not looked into.
    pub hub_cache: Option<PathBuf>,
    /// Absent: the hub is not asked.
    pub hub: Option<Arc<evalign_fetch::Hub>>,
    /// Never ask the hub.
    pub offline: bool,
    pub limits: Limits,
    /// Files already open, shared by all tasks that read them.
    pub open_files: OpenFiles,
}

impl DataRoots {
    /// The roots of this process: `data_root` (else `EVALIGN_DATA_ROOT`), then the hub's cache and the hub
    /// as the environment configures them.
    ///
    /// # Errors
    /// The hub's variables make no sense.
    pub fn from_env(
        data_root: Option<PathBuf>,
        include_paths: Vec<PathBuf>,
        offline: bool,
    ) -> Result<Self, DataError> {
        let hub = evalign_fetch::Hub::from_env().map_err(|error| DataError::Fetch {
            dataset: "any".to_owned(),
            hint: evalign_core::Hint::hint(&error),
            message: error.to_string(),
        })?;
        let from_variable =
            || std::env::var_os("EVALIGN_DATA_ROOT").filter(|v| !v.is_empty()).map(PathBuf::from);
        Ok(Self {
            data_root: data_root.or_else(from_variable),
            include_paths,
            hub_cache: Some(hub.config().cache.clone()),
            offline: offline || hub.config().offline,
            hub: Some(Arc::new(hub)),
            ..Self::default()
        })
    }
}

/// Files that were opened through one [`DataRoots`], kept so that the 57 subjects of one benchmark read
/// and hash their common file once. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct OpenFiles(Arc<Mutex<BTreeMap<Vec<PathBuf>, Arc<Source>>>>);

impl OpenFiles {
    pub(crate) fn get(&self, files: &[PathBuf]) -> Option<Arc<Source>> {
        self.lock().get(files).cloned()
    }

    pub(crate) fn put(&self, files: Vec<PathBuf>, source: Arc<Source>) {
        self.lock().insert(files, source);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<Vec<PathBuf>, Arc<Source>>> {
        // A panic elsewhere leaves the map whole: its entries are only ever inserted.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
