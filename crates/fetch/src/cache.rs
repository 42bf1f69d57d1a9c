//! The hub's cache directory, laid out as Python's `huggingface_hub` does, so that both share it:
//! `models--ORG--NAME/{blobs/ETAG, refs/REVISION, snapshots/COMMIT/FILE -> ../../blobs/ETAG}`.

use std::path::{Path, PathBuf};

use evalign_core::Digest;

use crate::files::{create_dir, publish, temporary_beside, write_atomic};
use crate::names::is_plain_name;
use crate::{FetchError, Repo, RepoKind, RepoPath, Revision};

/// One repository's part of the cache.
#[derive(Clone, Debug)]
pub(crate) struct RepoCache {
    root: PathBuf,
    folder: String,
}

/// A file of a snapshot as it lies in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CachedFile {
    pub(crate) file: RepoPath,
    pub(crate) path: PathBuf,
    /// Absent where the snapshot's link points nowhere.
    pub(crate) bytes: Option<u64>,
    /// Known for large files only: the hub names those by their content.
    pub(crate) sha256: Option<Digest>,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, repo: &Repo) -> Self {
        Self { root: cache.to_owned(), folder: repo.folder() }
    }

    fn dir(&self) -> PathBuf {
        self.root.join(&self.folder)
    }

    /// `etag` must have passed [`is_plain_name`].
    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(etag)
    }

    pub(crate) fn part(&self, etag: &str) -> PathBuf {
        self.dir().join("blobs").join(format!("{etag}.incomplete"))
    }

    pub(crate) fn lock(&self, etag: &str) -> PathBuf {
        self.root.join(".locks").join(&self.folder).join(format!("{etag}.lock"))
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.dir().join("snapshots").join(commit)
    }

    /// The commit a revision last meant, from the cache alone.
    pub(crate) fn commit(&self, revision: &Revision) -> Option<String> {
        let stored = fs_err::read_to_string(self.dir().join("refs").join(revision.as_str())).ok();
        let commit =
            stored.map(|text| text.trim().to_owned()).unwrap_or_else(|| revision.as_str().to_owned());
        (is_plain_name(&commit) && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    /// Records what a branch or tag means now. Commits need no record.
    pub(crate) fn set_commit(&self, revision: &Revision, commit: &str) -> Result<(), FetchError> {
        let path = self.dir().join("refs").join(revision.as_str());
        let known = fs_err::read_to_string(&path).is_ok_and(|text| text == commit);
        if revision.as_str() == commit || known { Ok(()) } else { write_atomic(&path, commit) }
    }

    /// Branches and tags with the commits they meant, sorted by name.
    pub(crate) fn refs(&self) -> Vec<(String, String)> {
        let mut found = Vec::new();
        let refs = self.dir().join("refs");
        for path in walk(&refs, 4) {
            if let (Ok(name), Ok(commit)) = (path.strip_prefix(&refs), fs_err::read_to_string(&path)) {
                found.push((name.to_string_lossy().replace('\\', "/"), commit.trim().to_owned()));
            }
        }
        found.sort();
        found
    }

    /// Commits with a snapshot, sorted.
    pub(crate) fn commits(&self) -> Vec<String> {
        entries(&self.dir().join("snapshots")).into_iter().filter(|name| is_plain_name(name)).collect()
    }

    /// A file of a snapshot, if it is complete and lies inside this repository's cache.
    ///
    /// # Errors
    /// [`FetchError::Corrupt`] where a planted link leads out of the cache.
    pub(crate) fn file(&self, commit: &str, file: &RepoPath) -> Result<Option<PathBuf>, FetchError> {
        let path = self.snapshot(commit).join(file.to_path());
        let Ok(real) = path.canonicalize() else { return Ok(None) };
        let inside = self.dir().canonicalize().is_ok_and(|dir| real.starts_with(dir));
        if !inside {
            return Err(FetchError::Corrupt {
                path,
                reason: "its link leads out of the hub cache".to_owned(),
            });
        }
        Ok(real.is_file().then_some(path))
    }

    /// All files of a snapshot, sorted by name.
    pub(crate) fn files(&self, commit: &str) -> Vec<CachedFile> {
        let snapshot = self.snapshot(commit);
        let mut files: Vec<CachedFile> = walk(&snapshot, 8)
            .into_iter()
            .filter_map(|path| {
                let name = path.strip_prefix(&snapshot).ok()?.to_str()?.replace('\\', "/");
                let file = RepoPath::new(&name).ok()?;
                let real = self.file(commit, &file).ok().flatten().and_then(|path| path.canonicalize().ok());
                let bytes = real.as_ref().and_then(|path| Some(path.metadata().ok()?.len()));
                let sha256 = real.as_ref().and_then(|path| Digest::parse(path.file_name()?.to_str()?));
                Some(CachedFile { file, path, bytes, sha256 })
            })
            .collect();
        files.sort_by(|a, b| a.file.cmp(&b.file));
        files
    }

    /// Makes `snapshots/COMMIT/FILE` point at a blob.
    pub(crate) fn link(&self, commit: &str, file: &RepoPath, etag: &str) -> Result<PathBuf, FetchError> {
        let path = self.snapshot(commit).join(file.to_path());
        // From the file's directory up to the repository's: the file's depth, then `snapshots/COMMIT`.
        let mut target: PathBuf = std::iter::repeat_n("..", file.depth() + 1).collect();
        target.push("blobs");
        target.push(etag);
        if std::fs::read_link(&path).is_ok_and(|found| found == target) {
            return Ok(path);
        }
        if let Some(dir) = path.parent() {
            create_dir(dir)?;
        }
        let temporary = temporary_beside(&path);
        place_link(&target, &self.blob(etag), &temporary).map_err(FetchError::io("link", &path))?;
        publish(&temporary, &path)?;
        Ok(path)
    }
}

#[cfg(unix)]
fn place_link(target: &Path, _blob: &Path, link: &Path) -> std::io::Result<()> {
    std::os::unix::fs::symlink(target, link)
}

/// Where links need a privilege the snapshot holds the file itself, as Python does there.
#[cfg(not(unix))]
fn place_link(_target: &Path, blob: &Path, link: &Path) -> std::io::Result<()> {
    std::fs::hard_link(blob, link).or_else(|_| std::fs::copy(blob, link).map(|_| ()))
}

/// Repositories of one kind in the cache, sorted.
pub(crate) fn repositories(cache: &Path, kind: RepoKind) -> Vec<Repo> {
    entries(cache).iter().filter_map(|name| Repo::from_folder(kind, name)).collect()
}

/// Names in a directory, sorted; none where it does not exist.
fn entries(dir: &Path) -> Vec<String> {
    let Ok(read) = std::fs::read_dir(dir) else { return Vec::new() };
    let mut names: Vec<String> =
        read.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

/// Files and links below a directory, links not followed.
fn walk(dir: &Path, depth: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for name in entries(dir) {
        let path = dir.join(name);
        let is_dir = path.symlink_metadata().is_ok_and(|meta| meta.is_dir());
        match (is_dir, depth) {
            (true, 0) => {}
            (true, _) => found.extend(walk(&path, depth - 1)),
            (false, _) => found.push(path),
        }
    }
    found
}
