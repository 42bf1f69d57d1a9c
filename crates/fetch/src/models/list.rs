use std::path::PathBuf;

use evalign_core::Digest;

use super::Models;
use super::built_in::{entry_path, find};
use super::hub_model::complete;
use crate::cache::{CachedFile, RepoCache, repositories};
use crate::files::check_file;
use crate::names::{RepoKind, RepoPath};
use crate::selection::choose;
use crate::{FetchError, Repo};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelKind {
    BuiltIn,
    /// In the hub's shared cache, whoever put it there.
    Hub,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelState {
    /// Complete; for built-in models (and with `verify`) every digest was compared.
    Present,
    Absent,
    /// Some of its files are missing, for example after an interrupted pull.
    Incomplete {
        reason: String,
    },
    Corrupt {
        file: PathBuf,
        reason: String,
    },
}

/// One line of `models list`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelEntry {
    /// What to write after `local/`.
    pub name: String,
    pub kind: ModelKind,
    pub about: String,
    pub state: ModelState,
    /// On disk; for an absent built-in model what it will take.
    pub bytes: u64,
    /// Of the weights, where they are one file with a known digest.
    pub weights_sha256: Option<Digest>,
    /// What to load; absent unless the model is there.
    pub path: Option<PathBuf>,
}

impl Models {
    /// The built-in models with their state, then the models in the hub's cache, sorted by name.
    /// Nothing is requested from the network. `verify` compares the digests of cached files too, which
    /// reads every byte of them.
    ///
    /// # Errors
    /// [`FetchError::Io`] where a file that is there cannot be read.
    pub fn list(&self, verify: bool) -> Result<Vec<ModelEntry>, FetchError> {
        let mut entries = Vec::new();
        for model in self.built_ins {
            let found = find(model, &self.built_in_dirs(model)?)?;
            entries.push(ModelEntry {
                name: model.alias.to_owned(),
                kind: ModelKind::BuiltIn,
                about: format!("{} ({})", model.about, model.license),
                path: (found.state == ModelState::Present).then(|| entry_path(model, &found.dir)),
                state: found.state,
                bytes: model.bytes(),
                weights_sha256: Digest::parse(model.weights_sha256()),
            });
        }
        for repo in repositories(&self.hub.config().cache, RepoKind::Model) {
            self.list_snapshots(&repo, verify, &mut entries)?;
        }
        Ok(entries)
    }

    fn list_snapshots(
        &self,
        repo: &Repo,
        verify: bool,
        entries: &mut Vec<ModelEntry>,
    ) -> Result<(), FetchError> {
        let cache = self.hub.cache(repo);
        let refs = cache.refs();
        for commit in cache.commits() {
            // The pinned snapshot of a built-in model is listed under its alias.
            let hubs = || self.built_ins.iter().flat_map(|model| model.hub);
            if hubs().any(|hub| hub.repo == repo.id() && hub.revision == commit) {
                continue;
            }
            let names: Vec<&str> =
                refs.iter().filter(|(_, c)| *c == commit).map(|(name, _)| name.as_str()).collect();
            let name = match names.as_slice() {
                names if names.contains(&"main") => repo.to_string(),
                [first, ..] => format!("{repo}@{first}"),
                [] => format!("{repo}@{commit}"),
            };
            entries.extend(self.list_snapshot(&cache, repo, &commit, &name, verify)?);
        }
        Ok(())
    }

    /// One entry for a directory model, or one for each GGUF file where there are several.
    fn list_snapshot(
        &self,
        cache: &RepoCache,
        repo: &Repo,
        commit: &str,
        name: &str,
        verify: bool,
    ) -> Result<Vec<ModelEntry>, FetchError> {
        let files = cache.files(commit);
        let names: Vec<RepoPath> = files.iter().map(|file| file.file.clone()).collect();
        let ggufs: Vec<&CachedFile> =
            files.iter().filter(|file| file.file.as_str().ends_with(".gguf")).collect();
        if ggufs.len() > 1 && !names.iter().any(|file| file.as_str().ends_with(".safetensors")) {
            return ggufs
                .into_iter()
                .map(|file| {
                    let state = files_state(&[file], verify)?;
                    let (repo_name, revision) =
                        name.split_once('@').map_or((name, None), |(r, v)| (r, Some(v)));
                    let revision = revision.map(|revision| format!("@{revision}")).unwrap_or_default();
                    Ok(hub_entry(
                        format!("{repo_name}/{}{revision}", file.file),
                        &[file],
                        state,
                        file.path.clone(),
                    ))
                })
                .collect();
        }
        let all: Vec<&CachedFile> = files.iter().collect();
        let (state, path) =
            match choose(repo.id(), &names, None).and_then(|chosen| complete(cache, commit, &chosen)) {
                Ok(Some(path)) => (files_state(&all, verify)?, path),
                Ok(None) => (incomplete(&all, "weight files are missing"), PathBuf::new()),
                Err(FetchError::Corrupt { path, reason }) => {
                    (ModelState::Corrupt { file: path, reason }, PathBuf::new())
                }
                Err(FetchError::Invalid { reason, .. }) => (incomplete(&all, &reason), PathBuf::new()),
                Err(error) => return Err(error),
            };
        Ok(vec![hub_entry(name.to_owned(), &all, state, path)])
    }
}

fn hub_entry(name: String, files: &[&CachedFile], state: ModelState, path: PathBuf) -> ModelEntry {
    let is_weights = |file: &&&CachedFile| {
        file.file.as_str().ends_with(".safetensors") || file.file.as_str().ends_with(".gguf")
    };
    let mut weights = files.iter().filter(is_weights);
    let weights_sha256 = match (weights.next(), weights.next()) {
        (Some(only), None) => only.sha256.clone(),
        (Some(_) | None, _) => None,
    };
    ModelEntry {
        name,
        kind: ModelKind::Hub,
        about: "hub cache".to_owned(),
        path: (state == ModelState::Present).then_some(path),
        state,
        bytes: files.iter().filter_map(|file| file.bytes).sum(),
        weights_sha256,
    }
}

fn incomplete(files: &[&CachedFile], reason: &str) -> ModelState {
    let dangling = files.iter().find(|file| file.bytes.is_none());
    let reason = dangling.map_or_else(|| reason.to_owned(), |file| format!("{} is missing", file.file));
    ModelState::Incomplete { reason }
}

fn files_state(files: &[&CachedFile], verify: bool) -> Result<ModelState, FetchError> {
    if files.iter().any(|file| file.bytes.is_none()) {
        return Ok(incomplete(files, "files are missing"));
    }
    for file in files.iter().filter(|file| verify && file.sha256.is_some()) {
        match check_file(&file.path, None, file.sha256.as_ref()) {
            Ok(()) => {}
            Err(FetchError::Corrupt { path, reason }) => {
                return Ok(ModelState::Corrupt { file: path, reason });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(ModelState::Present)
}
