//! Names that come from users and servers, checked before they become paths or addresses.

use std::fmt;
use std::path::PathBuf;

use crate::FetchError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RepoKind {
    Model,
    Dataset,
}

/// A repository on the hub: `ORG/NAME` (data sets may have no organisation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repo {
    kind: RepoKind,
    id: String,
}

impl Repo {
    /// # Errors
    /// [`FetchError::Invalid`] unless the name follows the hub's rules: one or two parts of letters,
    /// digits, `-`, `_`, `.`, none starting or ending with `-` or `.`, without `--` and `..`.
    pub fn new(kind: RepoKind, id: &str) -> Result<Self, FetchError> {
        let parts: Vec<&str> = id.split('/').collect();
        let part_ok = |part: &&str| {
            !part.is_empty()
                && part.len() <= 96
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
                && !part.starts_with(['-', '.'])
                && !part.ends_with(['-', '.'])
                && !part.contains("--")
                && !part.contains("..")
        };
        let count_ok = parts.len() == 2 || (parts.len() == 1 && kind == RepoKind::Dataset);
        if count_ok && parts.iter().all(part_ok) {
            return Ok(Self { kind, id: id.to_owned() });
        }
        Err(FetchError::invalid(
            "repository name",
            id,
            "it must look like ORG/REPO (letters, digits, `-`, `_`, `.`)",
        ))
    }

    /// # Errors
    /// See [`Repo::new`].
    pub fn model(id: &str) -> Result<Self, FetchError> {
        Self::new(RepoKind::Model, id)
    }

    /// # Errors
    /// See [`Repo::new`].
    pub fn dataset(id: &str) -> Result<Self, FetchError> {
        Self::new(RepoKind::Dataset, id)
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    #[must_use]
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// Directory of this repository in the hub cache, for example `models--ORG--NAME`.
    pub(crate) fn folder(&self) -> String {
        let kind = match self.kind {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        format!("{kind}--{}", self.id.replace('/', "--"))
    }

    /// The inverse of [`Repo::folder`]; `None` for directories that are not a repository of `kind`.
    pub(crate) fn from_folder(kind: RepoKind, folder: &str) -> Option<Self> {
        let prefix = match kind {
            RepoKind::Model => "models--",
            RepoKind::Dataset => "datasets--",
        };
        Self::new(kind, &folder.strip_prefix(prefix)?.replace("--", "/")).ok()
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.id)
    }
}

/// A branch, tag or commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision(String);

impl Revision {
    /// # Errors
    /// [`FetchError::Invalid`] where the text could not be a git revision or would leave its directory.
    pub fn new(text: &str) -> Result<Self, FetchError> {
        let ok = text.len() <= 200
            && text
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'/' | b'+'))
            && text
                .split('/')
                .all(|part| !part.is_empty() && !part.starts_with(['.', '-']) && !part.contains(".."));
        if ok {
            Ok(Self(text.to_owned()))
        } else {
            Err(FetchError::invalid("revision", text, "not a branch, tag or commit name"))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for Revision {
    fn default() -> Self {
        Self("main".to_owned())
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A file inside a repository: relative, with `/`, and unable to leave its root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RepoPath(String);

impl RepoPath {
    /// # Errors
    /// [`FetchError::Invalid`] for absolute paths, `.` and `..`, backslashes, drive letters, control
    /// characters and names over 255 bytes a part.
    pub fn new(text: &str) -> Result<Self, FetchError> {
        let part_ok = |part: &str| {
            !part.is_empty()
                && part != "."
                && part != ".."
                && part.len() <= 255
                && !part.chars().any(|c| c.is_control() || matches!(c, '\\' | ':'))
        };
        if text.len() <= 1024 && text.split('/').all(part_ok) {
            Ok(Self(text.to_owned()))
        } else {
            Err(FetchError::invalid("file name", text, "it must be a relative path inside the repository"))
        }
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn to_path(&self) -> PathBuf {
        self.0.split('/').collect()
    }

    pub(crate) fn depth(&self) -> usize {
        self.0.split('/').count()
    }
}

impl fmt::Display for RepoPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a server's word (an etag, a commit) may become a file name.
pub(crate) fn is_plain_name(text: &str) -> bool {
    (1..=128).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        && !text.starts_with('.')
        && !text.contains("..")
}

/// The closest of `names` to what was typed, if it is close enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(typed: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let typed = typed.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&typed, &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn repositories_follow_the_hubs_rules() {
        for id in ["HuggingFaceTB/SmolLM2-135M", "a/b", "a_b/c.d-e"] {
            let repo = Repo::model(id).unwrap();
            assert_eq!(Repo::from_folder(RepoKind::Model, &repo.folder()), Some(repo));
        }
        assert_eq!(Repo::dataset("squad").unwrap().folder(), "datasets--squad");
        for id in [
            "gpt2", "", "/", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a/.b", "a/b ", "a/ü", "a\\b/c",
            "a/b\n",
        ] {
            assert!(Repo::model(id).is_err(), "{id:?}");
        }
    }

    #[test]
    fn odd_revisions_are_refused() {
        for text in ["main", "v1.0", "refs/pr/3", "607a30d783dfa663caf39e06633721c8d4cfcd7e"] {
            assert!(Revision::new(text).is_ok());
        }
        for text in ["", "..", "a/../b", "/a", "a/", "a//b", ".git", "-x", "a b", "a?b", "a%2e"] {
            assert!(Revision::new(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn near_names_are_found() {
        assert_eq!(
            nearest("smollm2-135m-instuct", ["all-minilm-l6-v2", "smollm2-135m-instruct"]).as_deref(),
            Some("smollm2-135m-instruct")
        );
        assert_eq!(nearest("zzz", ["abc"]), None);
    }

    proptest! {
        #[test]
        fn no_accepted_path_leaves_its_root(text in r"(\.|/|\\|[a-c]|:|\.\.|\x00){0,12}") {
            if let Ok(path) = RepoPath::new(&text) {
                let relative = path.to_path();
                prop_assert!(relative.is_relative());
                let all_normal = relative.components().all(|c| matches!(c, std::path::Component::Normal(_)));
                prop_assert!(all_normal);
            }
        }

        #[test]
        fn no_accepted_revision_or_name_leaves_its_root(text in r"(\.|/|\\|[a-c]|:|\.\.){0,12}") {
            if let Ok(revision) = Revision::new(&text) {
                let all_normal = std::path::Path::new(revision.as_str()).components().all(|c| matches!(c, std::path::Component::Normal(_)));
                prop_assert!(all_normal);
            }
            prop_assert!(!is_plain_name(&text) || (!text.contains('/') && !text.contains("..")));
        }
    }
}
