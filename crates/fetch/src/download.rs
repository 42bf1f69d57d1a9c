//! One file from the network to disk: continued where it stopped, checked, never half in place.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evalign_core::Digest;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, RANGE,
};
use reqwest::{Method, Response, StatusCode, Url};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncSeekExt, AsyncWriteExt, BufWriter};

use crate::client::{Call, Failure, HttpClient, error_chain};
use crate::files::resume_hash;
use crate::{Event, FetchError, Progress, RetryPolicy};

const BUFFER_BYTES: usize = 1 << 18;
const REPORT_EVERY: Duration = Duration::from_millis(200);
/// A file of unknown length stops here; no model shard is larger.
const MAX_FILE_BYTES: u64 = 1 << 40;

/// What to download and what it must turn out to be.
#[derive(Debug)]
pub(crate) struct Download<'a> {
    /// How people call it.
    pub(crate) name: &'a str,
    pub(crate) url: Url,
    /// Where bytes collect. It stays after a failure, for the next attempt or process.
    pub(crate) part: &'a Path,
    pub(crate) bytes: Option<u64>,
    pub(crate) sha256: Option<&'a Digest>,
    /// Entity tag of the address itself, for `If-Range`; absent where it redirects elsewhere.
    pub(crate) etag: Option<HeaderValue>,
}

impl Download<'_> {
    /// Downloads until `part` is complete, synced and checked. Returns its length in bytes.
    ///
    /// # Errors
    /// The last failure once the policy is exhausted (`part` stays), [`FetchError::Corrupt`] where the
    /// content is not what was announced (`part` is removed).
    pub(crate) async fn run(
        mut self,
        client: &HttpClient,
        policy: &RetryPolicy,
        progress: Progress<'_>,
    ) -> Result<u64, FetchError> {
        let mut part = Part::open(self.part, self.bytes).await?;
        progress(Event::Started { file: self.name, done: part.length, total: self.bytes });
        let mut resumed = part.length > 0;
        let (mut failures, mut furthest) = (0, part.length);
        loop {
            if self.bytes != Some(part.length) || self.bytes == Some(0) {
                let transfer = self.transfer(client, &mut part, progress).await;
                part.flush().await?;
                if let Err(failure) = transfer {
                    failures = if part.length > furthest { 1 } else { failures + 1 };
                    furthest = furthest.max(part.length);
                    client.wait_or_give_up(failure, failures, policy, &self.url).await?;
                    continue;
                }
            }
            match part.check(self.bytes, self.sha256) {
                Ok(()) => break,
                // The old beginning may have been the bad piece: one fresh start decides.
                Err(_) if resumed => {
                    resumed = false;
                    part.reset().await?;
                }
                Err(reason) => return Err(self.spoiled(part, reason).await),
            }
        }
        part.sync().await?;
        progress(Event::Finished { file: self.name, bytes: part.length });
        Ok(part.length)
    }

    async fn spoiled(&self, part: Part, reason: String) -> FetchError {
        drop(part);
        // What is wrong must not be continued; failing to remove it changes nothing about the error.
        let _ = tokio::fs::remove_file(self.part).await;
        FetchError::Corrupt { path: PathBuf::from(self.name), reason: format!("after downloading, {reason}") }
    }

    /// One request, and its body to the end.
    async fn transfer(
        &mut self,
        client: &HttpClient,
        part: &mut Part,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let what = format!("file `{}`", self.name);
        let mut call = Call::new(Method::GET, self.url.clone(), &what);
        if part.length > 0 {
            insert(&mut call.headers, RANGE, &format!("bytes={}-", part.length));
            if let Some(etag) = &self.etag {
                call.headers.insert(IF_RANGE, etag.clone());
            }
        }
        let response = client.once(&call, |_| false).await?;
        if self.begin(client, part, &response).await? {
            return Ok(());
        }
        self.receive(client, part, response, progress).await
    }

    /// Decides from the headers where the body goes. `true` means there is nothing left to receive.
    async fn begin(
        &mut self,
        client: &HttpClient,
        part: &mut Part,
        response: &Response,
    ) -> Result<bool, Failure> {
        let (status, headers) = (response.status(), response.headers());
        let transient = |reason: String| Failure::Transient { reason, retry_after: None };
        if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
            return Err(Failure::Final(
                client.network(response.url(), "the server sent the file re-encoded"),
            ));
        }
        if status == StatusCode::RANGE_NOT_SATISFIABLE {
            let total = content_range(headers).and_then(|(_, total)| total);
            if self.bytes.is_none() && part.length > 0 && total == Some(part.length) {
                return Ok(true);
            }
            part.reset().await.map_err(Failure::Final)?;
            return Err(transient("the server could not continue the download".to_owned()));
        }
        let mut announced = number(headers, CONTENT_LENGTH);
        if status == StatusCode::PARTIAL_CONTENT {
            let (start, total) = content_range(headers).unwrap_or((0, None));
            if part.length == 0 || start != part.length {
                part.reset().await.map_err(Failure::Final)?;
                return Err(transient("the server continued at the wrong place".to_owned()));
            }
            announced = total.or_else(|| announced.map(|rest| rest + start));
        } else if part.length > 0 {
            // The whole file again: no ranges here, or the file behind the address has changed.
            part.reset().await.map_err(Failure::Final)?;
        }
        match (self.bytes, announced) {
            (Some(expected), Some(announced)) if expected != announced => {
                let reason = format!("the server offers {announced} bytes, not {expected}");
                return Err(Failure::Final(FetchError::Corrupt { path: PathBuf::from(self.name), reason }));
            }
            (None, Some(announced)) => self.bytes = Some(announced),
            (Some(_) | None, _) => {}
        }
        // `If-Range` needs a strong tag (RFC 9110, section 13.1.5).
        let etag = headers.get(ETAG).filter(|etag| !etag.as_bytes().starts_with(b"W/"));
        self.etag = etag.cloned();
        Ok(false)
    }

    async fn receive(
        &self,
        client: &HttpClient,
        part: &mut Part,
        mut response: Response,
        progress: Progress<'_>,
    ) -> Result<(), Failure> {
        let most = self.bytes.unwrap_or(MAX_FILE_BYTES);
        let mut reported: Option<Instant> = None;
        loop {
            match response.chunk().await {
                Ok(Some(chunk)) => {
                    if part.length + chunk.len() as u64 > most {
                        let reason = format!("the server sends more than {most} bytes");
                        return Err(Failure::Final(FetchError::Corrupt {
                            path: PathBuf::from(self.name),
                            reason,
                        }));
                    }
                    part.append(&chunk).await.map_err(Failure::Final)?;
                    if reported.is_none_or(|at| at.elapsed() >= REPORT_EVERY) {
                        reported = Some(Instant::now());
                        progress(Event::Advanced { file: self.name, done: part.length, total: self.bytes });
                    }
                }
                Ok(None) if self.bytes.is_some_and(|total| part.length < total) => {
                    let reason = format!("the connection closed after {} of {most} bytes", part.length);
                    return Err(Failure::Transient { reason, retry_after: None });
                }
                Ok(None) => return Ok(()),
                Err(error) => {
                    let reason = crate::redact::text(&error_chain(&error.without_url()), client.token());
                    return Err(Failure::Transient { reason, retry_after: None });
                }
            }
        }
    }
}

/// The growing file, its length and the hash of what is in it.
#[derive(Debug)]
struct Part {
    path: PathBuf,
    file: BufWriter<tokio::fs::File>,
    length: u64,
    hasher: Sha256,
}

impl Part {
    async fn open(path: &Path, expected_bytes: Option<u64>) -> Result<Self, FetchError> {
        let mut options = tokio::fs::OpenOptions::new();
        options.create(true).truncate(false).read(true).write(true);
        let file = options.open(path).await.map_err(FetchError::io("open", path))?;
        let (hasher, length) = resume_hash(path.to_owned()).await?;
        let mut part = Self {
            path: path.to_owned(),
            file: BufWriter::with_capacity(BUFFER_BYTES, file),
            length,
            hasher,
        };
        if expected_bytes.is_some_and(|expected| length > expected) {
            part.reset().await?;
        } else {
            let end = std::io::SeekFrom::Start(length);
            part.file.seek(end).await.map_err(FetchError::io("continue", path))?;
        }
        Ok(part)
    }

    async fn append(&mut self, chunk: &[u8]) -> Result<(), FetchError> {
        self.file.write_all(chunk).await.map_err(FetchError::io("write", &self.path))?;
        self.hasher.update(chunk);
        self.length += chunk.len() as u64;
        Ok(())
    }

    async fn reset(&mut self) -> Result<(), FetchError> {
        self.flush().await?;
        self.file.get_mut().set_len(0).await.map_err(FetchError::io("truncate", &self.path))?;
        self.file.seek(std::io::SeekFrom::Start(0)).await.map_err(FetchError::io("restart", &self.path))?;
        self.length = 0;
        self.hasher = Sha256::new();
        Ok(())
    }

    async fn flush(&mut self) -> Result<(), FetchError> {
        self.file.flush().await.map_err(FetchError::io("write", &self.path))
    }

    async fn sync(&mut self) -> Result<(), FetchError> {
        self.flush().await?;
        self.file.get_mut().sync_all().await.map_err(FetchError::io("sync", &self.path))
    }

    fn check(&self, bytes: Option<u64>, sha256: Option<&Digest>) -> Result<(), String> {
        if let Some(expected) = bytes
            && expected != self.length
        {
            return Err(format!("it has {} bytes, not {expected}", self.length));
        }
        if let Some(expected) = sha256 {
            let found = Digest::from_raw(&self.hasher.clone().finalize());
            if found != *expected {
                return Err(format!("its sha256 is {found}, not {expected}"));
            }
        }
        Ok(())
    }
}

fn insert(headers: &mut HeaderMap, name: reqwest::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

pub(crate) fn number(headers: &HeaderMap, name: impl reqwest::header::AsHeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// `bytes 5-9/10` gives (5, Some(10)); `bytes */10` gives (0, Some(10)).
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let start = match range.split_once('-') {
        Some((start, _)) => start.trim().parse().ok()?,
        None => 0,
    };
    Some((start, total.trim().parse().ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            insert(&mut headers, CONTENT_RANGE, text);
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((5, None)));
        assert_eq!(read("bytes */10"), Some((0, Some(10))));
        assert_eq!(read("lines 1-2/3"), None);
        assert_eq!(read("bytes x-2/3"), None);
    }
}
