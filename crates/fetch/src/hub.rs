//! The hub: what a repository holds, and its files through the shared cache.

use std::path::{Path, PathBuf};

use evalign_core::Digest;
use reqwest::header::{CONTENT_LENGTH, ETAG, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;

use crate::cache::RepoCache;
use crate::client::{Call, HttpClient};
use crate::download::{Download, number};
use crate::files::{FileLock, blocking, check_file, create_dir, publish};
use crate::names::{is_plain_name, nearest};
use crate::{FetchError, HubConfig, Progress, Repo, RepoKind, RepoPath, RetryPolicy, Revision};

const COMMIT: &str = "x-repo-commit";
const LINKED_ETAG: &str = "x-linked-etag";
const LINKED_SIZE: &str = "x-linked-size";
/// A listing of a hundred thousand files fits.
const MAX_LISTING_BYTES: usize = 64 << 20;

/// A client of one hub endpoint and its cache directory.
#[derive(Debug)]
pub struct Hub {
    config: HubConfig,
    client: HttpClient,
}

/// What the hub says about a revision of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoInfo {
    /// The commit the revision means now.
    pub commit: String,
    /// Sorted by path. Names no path can be made of are left out.
    pub files: Vec<RepoFile>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepoFile {
    pub path: RepoPath,
    pub bytes: Option<u64>,
}

/// A file that is now in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubFile {
    /// In the snapshot directory, under its own name.
    pub path: PathBuf,
    pub commit: String,
    pub bytes: u64,
    /// Known, and checked, for large files (the hub keeps them by content).
    pub sha256: Option<Digest>,
}

/// What the caller knows or wants beyond the defaults.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileOptions {
    /// Pinned digest: anything else is refused, before downloading where the hub says so.
    pub(crate) sha256: Option<Digest>,
    /// Try to reach the hub only once; the caller has another source.
    pub(crate) one_try: bool,
}

/// What a HEAD request tells.
#[derive(Debug)]
struct Metadata {
    commit: String,
    etag: String,
    bytes: Option<u64>,
    sha256: Option<Digest>,
    /// As sent, where the file is served under this address itself.
    if_range: Option<HeaderValue>,
}

#[derive(Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
    size: Option<u64>,
}

impl Hub {
    #[must_use]
    pub fn new(config: HubConfig) -> Self {
        Self { client: HttpClient::new(&config), config }
    }

    /// With the configuration of the environment.
    ///
    /// # Errors
    /// See [`HubConfig::from_env`].
    pub fn from_env() -> Result<Self, FetchError> {
        Ok(Self::new(HubConfig::from_env()?))
    }

    #[must_use]
    pub fn config(&self) -> &HubConfig {
        &self.config
    }

    pub(crate) fn cache(&self, repo: &Repo) -> RepoCache {
        RepoCache::new(&self.config.cache, repo)
    }

    /// Lists a revision's files.
    ///
    /// # Errors
    /// [`FetchError::Offline`], [`FetchError::NotFound`], [`FetchError::Denied`], [`FetchError::Network`].
    pub async fn info(&self, repo: &Repo, revision: &Revision) -> Result<RepoInfo, FetchError> {
        let what = format!("`{repo}@{revision}`");
        self.require_online(&what)?;
        let kind = match repo.kind() {
            RepoKind::Model => "models",
            RepoKind::Dataset => "datasets",
        };
        let mut url = self.address(&["api", kind], repo, &["revision", revision.as_str()])?;
        url.set_query(Some("blobs=true"));
        let call = Call::new(Method::GET, url.clone(), &what);
        let response = self.client.send(&call, |_| false, &self.config.retry).await?;
        let body = self.client.body(response, MAX_LISTING_BYTES).await?;
        let listing: Listing = serde_json::from_slice(&body)
            .map_err(|error| self.client.network(&url, &format!("this is not a hub's answer: {error}")))?;
        if !is_plain_name(&listing.sha) {
            return Err(self.client.network(&url, "the hub names an impossible commit"));
        }
        let mut files: Vec<RepoFile> = listing
            .siblings
            .into_iter()
            .filter_map(|file| {
                Some(RepoFile { path: RepoPath::new(&file.rfilename).ok()?, bytes: file.size })
            })
            .collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(RepoInfo { commit: listing.sha, files })
    }

    /// A file from the cache alone; `None` where the revision or the file is not there.
    ///
    /// # Errors
    /// [`FetchError::Corrupt`] for a link that leads out of the cache.
    pub fn cached_file(
        &self,
        repo: &Repo,
        revision: &Revision,
        file: &RepoPath,
    ) -> Result<Option<PathBuf>, FetchError> {
        let cache = self.cache(repo);
        cache.commit(revision).map_or(Ok(None), |commit| cache.file(&commit, file))
    }

    /// A file's current version, downloaded unless the cache has it. A file that is there is checked
    /// against the hub's length and digest, and replaced if damaged.
    ///
    /// # Errors
    /// All of [`FetchError`] except those about built-in models.
    pub async fn file(
        &self,
        repo: &Repo,
        revision: &Revision,
        file: &RepoPath,
        progress: Progress<'_>,
    ) -> Result<HubFile, FetchError> {
        let found = self.file_with(repo, revision, file, FileOptions::default(), progress).await;
        let Err(FetchError::NotFound { what, place, nearest: None }) = found else { return found };
        // The listing costs a request, but "did you mean" saves the user a search.
        let listing = self.info(repo, revision).await.ok();
        let nearest =
            listing.and_then(|info| nearest(file.as_str(), info.files.iter().map(|f| f.path.as_str())));
        Err(FetchError::NotFound { what, place, nearest })
    }

    pub(crate) async fn file_with(
        &self,
        repo: &Repo,
        revision: &Revision,
        file: &RepoPath,
        options: FileOptions,
        progress: Progress<'_>,
    ) -> Result<HubFile, FetchError> {
        let what = format!("`{file}` of `{repo}@{revision}`");
        self.require_online(&what)?;
        let policy = if options.one_try { self.config.retry.once() } else { self.config.retry.clone() };
        let meta = self.metadata(repo, revision, file, &what, &policy).await?;
        if let (Some(pinned), Some(offered)) = (&options.sha256, &meta.sha256)
            && pinned != offered
        {
            let reason = format!("the hub now has sha256 {offered} there, not {pinned}");
            return Err(FetchError::Corrupt { path: PathBuf::from(file.as_str()), reason });
        }
        let sha256 = meta.sha256.clone().or(options.sha256);
        let bytes = self.fill_blob(repo, file, &meta, sha256.as_ref(), progress).await?;
        let cache = self.cache(repo);
        let path = cache.link(&meta.commit, file, &meta.etag)?;
        cache.set_commit(revision, &meta.commit)?;
        Ok(HubFile { path, commit: meta.commit, bytes, sha256 })
    }

    /// A file of a data set: from the cache where it has the revision, else from the hub.
    ///
    /// # Errors
    /// See [`Hub::file`]; [`FetchError::Offline`] where it is not cached and the hub is switched off.
    pub async fn dataset_file(
        &self,
        repo: &str,
        revision: Option<&str>,
        file: &str,
        progress: Progress<'_>,
    ) -> Result<PathBuf, FetchError> {
        let (repo, file) = (Repo::dataset(repo)?, RepoPath::new(file)?);
        let revision = revision.map_or_else(|| Ok(Revision::default()), Revision::new)?;
        match self.cached_file(&repo, &revision, &file)? {
            Some(path) => Ok(path),
            None => Ok(self.file(&repo, &revision, &file, progress).await?.path),
        }
    }

    /// Paths of a data set's files: from the hub, or offline those that are in the cache.
    ///
    /// # Errors
    /// See [`Hub::info`].
    pub async fn dataset_files(&self, repo: &str, revision: Option<&str>) -> Result<Vec<String>, FetchError> {
        let repo = Repo::dataset(repo)?;
        let revision = revision.map_or_else(|| Ok(Revision::default()), Revision::new)?;
        if self.config.offline {
            let cache = self.cache(&repo);
            let commit =
                cache.commit(&revision).ok_or_else(|| offline(&format!("data set `{repo}@{revision}`")))?;
            return Ok(cache.files(&commit).into_iter().map(|file| file.file.as_str().to_owned()).collect());
        }
        let info = self.info(&repo, &revision).await?;
        Ok(info.files.into_iter().map(|file| file.path.as_str().to_owned()).collect())
    }

    fn require_online(&self, what: &str) -> Result<(), FetchError> {
        if self.config.offline { Err(offline(what)) } else { Ok(()) }
    }

    /// `ENDPOINT/before.../REPO/after...`, every segment escaped (a `/` in a revision becomes `%2F`).
    fn address(&self, before: &[&str], repo: &Repo, after: &[&str]) -> Result<Url, FetchError> {
        let mut url = self.config.endpoint.clone();
        match url.path_segments_mut() {
            Ok(mut path) => {
                path.pop_if_empty().extend(before).extend(repo.id().split('/')).extend(after);
            }
            Err(()) => {
                return Err(self
                    .client
                    .network(&self.config.endpoint, "nothing can be appended to this address"));
            }
        }
        Ok(url)
    }

    fn resolve_address(&self, repo: &Repo, revision: &str, file: &RepoPath) -> Result<Url, FetchError> {
        let before: &[&str] = match repo.kind() {
            RepoKind::Model => &[],
            RepoKind::Dataset => &["datasets"],
        };
        let after: Vec<&str> = ["resolve", revision].into_iter().chain(file.as_str().split('/')).collect();
        self.address(before, repo, &after)
    }

    async fn metadata(
        &self,
        repo: &Repo,
        revision: &Revision,
        file: &RepoPath,
        what: &str,
        policy: &RetryPolicy,
    ) -> Result<Metadata, FetchError> {
        let url = self.resolve_address(repo, revision.as_str(), file)?;
        let call = Call::new(Method::HEAD, url.clone(), what);
        // Large files answer with a redirect to the storage, and only the redirect describes them.
        let enough = |headers: &HeaderMap| headers.contains_key(LINKED_ETAG) && headers.contains_key(COMMIT);
        let response = self.client.send(&call, enough, policy).await?;
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let raw_etag = text(LINKED_ETAG).or_else(|| text(ETAG.as_str()));
        let etag = raw_etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let (Some(etag), Some(commit)) = (etag, text(COMMIT)) else {
            return Err(self
                .client
                .network(&url, "this does not answer like a hub (no ETag or X-Repo-Commit)"));
        };
        if !is_plain_name(&etag) || !is_plain_name(commit) {
            return Err(self.client.network(&url, "the hub answered with an impossible ETag or commit"));
        }
        let served_here = response.status().is_success() && response.url() == &url;
        Ok(Metadata {
            commit: commit.to_owned(),
            bytes: number(headers, LINKED_SIZE)
                .or_else(|| number(headers, CONTENT_LENGTH).filter(|_| response.status().is_success())),
            sha256: Digest::parse(&etag),
            etag,
            if_range: headers
                .get(ETAG)
                .filter(|tag| served_here && !tag.as_bytes().starts_with(b"W/"))
                .cloned(),
        })
    }

    /// Makes sure the blob is in the cache and right; returns its length in bytes.
    async fn fill_blob(
        &self,
        repo: &Repo,
        file: &RepoPath,
        meta: &Metadata,
        sha256: Option<&Digest>,
        progress: Progress<'_>,
    ) -> Result<u64, FetchError> {
        let cache = self.cache(repo);
        let (blob, part) = (cache.blob(&meta.etag), cache.part(&meta.etag));
        if let Some(dir) = blob.parent() {
            create_dir(dir)?;
        }
        let _lock = FileLock::acquire(&cache.lock(&meta.etag), progress).await?;
        if blob.exists() {
            match check_blob(&blob, meta.bytes, sha256).await {
                Ok(bytes) => return Ok(bytes),
                Err(FetchError::Corrupt { path, reason }) => {
                    let note = format!("{} is damaged ({reason}); fetching it again", path.display());
                    progress(crate::Event::Note(&note));
                }
                Err(error) => return Err(error),
            }
        }
        let download = Download {
            name: file.as_str(),
            // By commit, so that a branch that moves meanwhile cannot mix two versions.
            url: self.resolve_address(repo, &meta.commit, file)?,
            part: &part,
            bytes: meta.bytes,
            sha256,
            etag: meta.if_range.clone(),
        };
        let bytes = download.run(&self.client, &self.config.retry, progress).await?;
        publish(&part, &blob)?;
        Ok(bytes)
    }
}

async fn check_blob(blob: &Path, bytes: Option<u64>, sha256: Option<&Digest>) -> Result<u64, FetchError> {
    let (blob, sha256) = (blob.to_owned(), sha256.cloned());
    blocking(move || {
        check_file(&blob, bytes, sha256.as_ref())?;
        Ok(std::fs::metadata(&blob).map_err(FetchError::io("read", &blob))?.len())
    })
    .await
}

pub(crate) fn offline(what: &str) -> FetchError {
    FetchError::Offline { what: what.to_owned(), switch: "HF_HUB_OFFLINE" }
}
