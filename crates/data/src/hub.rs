use std::path::PathBuf;

use evalign_core::Hint;
use evalign_fetch::{FetchError, Hub, block_on, silent};

use crate::locate::{glob, part_of};
use crate::{DataError, DataRoots, DatasetSpec};

/// Brings a split's files into the hub's cache and returns the snapshot directory they lie in.
pub(crate) fn fetch(roots: &DataRoots, spec: &DatasetSpec) -> Result<PathBuf, DataError> {
    let hub = roots.hub.as_ref().ok_or_else(|| DataError::NotFound {
        dataset: spec.describe(),
        looked: Vec::new(),
        offline: true,
    })?;
    let fetched = block_on(fetch_files(hub, spec));
    fetched
        .map_err(|error| DataError::Fetch {
            dataset: spec.describe(),
            hint: error.hint(),
            message: error.to_string(),
        })?
        .ok_or_else(|| DataError::NotFound {
            dataset: spec.describe(),
            looked: vec![format!("the files of {} on the hub", spec.path)],
            offline: false,
        })
}

/// `None` where the repository has no file of this split.
async fn fetch_files(hub: &Hub, spec: &DatasetSpec) -> Result<Option<PathBuf>, FetchError> {
    let revision = spec.revision.as_deref();
    let listed = hub.dataset_files(&spec.path, revision).await?;
    let mut snapshot = None;
    for file in listed.iter().filter(|file| belongs(file, spec)) {
        let path = hub.dataset_file(&spec.path, revision, file, &silent).await?;
        // The file's own path ends in its name in the repository.
        snapshot = path.ancestors().nth(file.split('/').count()).map(PathBuf::from);
    }
    Ok(snapshot)
}

/// Whether a file of the repository is part of the split; the same layouts as on disk.
fn belongs(file: &str, spec: &DatasetSpec) -> bool {
    let (folder, name) = file.rsplit_once('/').unwrap_or(("", file));
    if let Some(files) = &spec.files {
        let (wanted_folder, pattern) = files.rsplit_once('/').unwrap_or(("", files));
        return folder == wanted_folder && glob(pattern, name);
    }
    let here = match spec.config.as_deref() {
        Some(config) if config != "default" => folder == config,
        _ => matches!(folder, "data" | "default" | ""),
    };
    here && part_of(name, &spec.split).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_a_split() {
        let spec = |config: Option<&str>, split: &str| DatasetSpec {
            path: "o/d".to_owned(),
            config: config.map(str::to_owned),
            split: split.to_owned(),
            ..DatasetSpec::default()
        };
        assert!(belongs("main/test-00000-of-00001.parquet", &spec(Some("main"), "test")));
        assert!(!belongs("socratic/test-00000-of-00001.parquet", &spec(Some("main"), "test")));
        assert!(!belongs("main/train-00000-of-00001.parquet", &spec(Some("main"), "test")));
        assert!(belongs("data/validation-00000-of-00001.parquet", &spec(None, "validation")));
        assert!(!belongs("README.md", &spec(None, "validation")));
    }
}
