use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};

use super::{HubReference, Models, PulledModel, Source};
use crate::cache::RepoCache;
use crate::hub::HubFile;
use crate::names::{RepoPath, Revision};
use crate::selection::{Selection, choose, shards};
use crate::{FetchError, Progress};

/// Files of one model fetched at the same time: enough to fill a line, few enough for any server.
const PARALLEL_FILES: usize = 4;

impl Models {
    pub(crate) async fn pull_from_hub(
        &self,
        model: &HubReference,
        progress: Progress<'_>,
    ) -> Result<PulledModel, FetchError> {
        if self.hub_is_off() {
            return match self.cached_model(model)? {
                Some(path) => Ok(self.cached(model, path)),
                None => Err(self.offline_error(&format!("`{model}`"))),
            };
        }
        let info = self.hub.info(&model.repo, &model.revision).await?;
        let names: Vec<RepoPath> = info.files.iter().map(|file| file.path.clone()).collect();
        let selection = choose(model.repo.id(), &names, model.file.as_ref())?;
        // Everything by commit: the branch may move while we fetch.
        let commit = Revision::new(&info.commit)?;
        let (first, index) = match &selection {
            Selection::Gguf(file) => (vec![file.clone()], None),
            Selection::Directory { files, index } => (files.clone(), index.clone()),
        };
        let mut fetched = self.fetch_all(model, &commit, first, progress).await?;
        let cache = self.hub.cache(&model.repo);
        let snapshot = cache.snapshot(&info.commit);
        if let Some(index) = index {
            fetched.extend(
                self.fetch_all(model, &commit, shards(&snapshot.join(index.to_path()))?, progress).await?,
            );
        }
        // Last, so that an interrupted pull leaves the revision on what is complete.
        cache.set_commit(&model.revision, &info.commit)?;
        let mut digests =
            fetched.iter().filter(|file| is_weights(&file.path)).map(|file| file.sha256.clone());
        let weights_sha256 = match (digests.next(), digests.next()) {
            (Some(digest), None) => digest,
            (Some(_) | None, _) => None,
        };
        Ok(PulledModel {
            name: model.to_string(),
            path: entry_path(&selection, &snapshot),
            source: Source::Hub,
            bytes: fetched.iter().map(|file| file.bytes).sum(),
            weights_sha256,
            commit: Some(info.commit),
        })
    }

    async fn fetch_all(
        &self,
        model: &HubReference,
        commit: &Revision,
        files: Vec<RepoPath>,
        progress: Progress<'_>,
    ) -> Result<Vec<HubFile>, FetchError> {
        futures::stream::iter(files)
            .map(|file| async move { self.hub.file(&model.repo, commit, &file, progress).await })
            .buffered(PARALLEL_FILES)
            .try_collect()
            .await
    }

    fn cached(&self, model: &HubReference, path: PathBuf) -> PulledModel {
        let cache = self.hub.cache(&model.repo);
        let commit = cache.commit(&model.revision);
        let bytes = commit
            .as_ref()
            .map_or(0, |commit| cache.files(commit).iter().filter_map(|file| file.bytes).sum());
        PulledModel {
            name: model.to_string(),
            path,
            source: Source::AlreadyHere,
            bytes,
            weights_sha256: None,
            commit,
        }
    }

    /// The model's path if the cache holds all of it; lengths and digests are not read here.
    ///
    /// # Errors
    /// [`FetchError::Invalid`] where the cached repository has several models to choose from,
    /// [`FetchError::Corrupt`] for links out of the cache and unreadable weight indexes.
    pub(crate) fn cached_model(&self, model: &HubReference) -> Result<Option<PathBuf>, FetchError> {
        let cache = self.hub.cache(&model.repo);
        let Some(commit) = cache.commit(&model.revision) else { return Ok(None) };
        let present: Vec<RepoPath> = cache
            .files(&commit)
            .into_iter()
            .filter(|file| file.bytes.is_some())
            .map(|file| file.file)
            .collect();
        match choose(model.repo.id(), &present, model.file.as_ref()) {
            Ok(selection) => complete(&cache, &commit, &selection),
            // Another tool may have cached only the configuration: that is no model yet. Several GGUF
            // files, on the other hand, are for the user to choose from.
            Err(error @ FetchError::Invalid { hint: Some(_), .. }) => Err(error),
            Err(_) => Ok(None),
        }
    }
}

/// `None` where a weight file the index names is missing.
pub(crate) fn complete(
    cache: &RepoCache,
    commit: &str,
    selection: &Selection,
) -> Result<Option<PathBuf>, FetchError> {
    let snapshot = cache.snapshot(commit);
    let files = match selection {
        Selection::Gguf(file) => vec![file.clone()],
        Selection::Directory { index: Some(index), .. } => shards(&snapshot.join(index.to_path()))?,
        Selection::Directory { files, index: None } => files.clone(),
    };
    for file in &files {
        if cache.file(commit, file)?.is_none() {
            return Ok(None);
        }
    }
    Ok(Some(entry_path(selection, &snapshot)))
}

fn entry_path(selection: &Selection, snapshot: &Path) -> PathBuf {
    match selection {
        Selection::Gguf(file) => snapshot.join(file.to_path()),
        Selection::Directory { .. } => snapshot.to_owned(),
    }
}

fn is_weights(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "safetensors" || ending == "gguf")
}
