//! Files on disk: hashed, locked, and replaced in one step.

use std::fs::TryLockError;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use evalign_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::{Event, FetchError, Progress};

/// SHA-256 and length in bytes of a file.
///
/// # Errors
/// [`FetchError::Io`] with the path.
pub fn file_digest(path: &Path) -> Result<(Digest, u64), FetchError> {
    let (hasher, length) = hash_into(path, Sha256::new())?;
    Ok((Digest::from_raw(&hasher.finalize()), length))
}

fn hash_into(path: &Path, mut hasher: Sha256) -> Result<(Sha256, u64), FetchError> {
    let mut file = std::fs::File::open(path).map_err(FetchError::io("open", path))?;
    let mut buffer = vec![0u8; 1 << 20];
    let mut length = 0u64;
    loop {
        let read = file.read(&mut buffer).map_err(FetchError::io("read", path))?;
        if read == 0 {
            return Ok((hasher, length));
        }
        hasher.update(&buffer[..read]);
        length += read as u64;
    }
}

/// Hashes the beginning of a download that was interrupted, away from the async threads.
pub(crate) async fn resume_hash(path: PathBuf) -> Result<(Sha256, u64), FetchError> {
    blocking(move || hash_into(&path, Sha256::new())).await
}

/// Checks a file against what it must be; cheap when the length already differs.
///
/// # Errors
/// [`FetchError::Corrupt`] naming the difference, [`FetchError::Io`] where it cannot be read.
pub(crate) fn check_file(path: &Path, bytes: Option<u64>, sha256: Option<&Digest>) -> Result<(), FetchError> {
    let corrupt = |reason: String| Err(FetchError::Corrupt { path: path.to_owned(), reason });
    let length = std::fs::metadata(path).map_err(FetchError::io("read", path))?.len();
    if let Some(expected) = bytes
        && expected != length
    {
        return corrupt(format!("it has {length} bytes, not {expected}"));
    }
    if let Some(expected) = sha256 {
        let (found, _) = file_digest(path)?;
        if found != *expected {
            return corrupt(format!("its sha256 is {found}, not {expected}"));
        }
    }
    Ok(())
}

/// Runs blocking file work on tokio's blocking threads.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, FetchError> + Send + 'static,
) -> Result<T, FetchError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FetchError::Io {
            action: "finish the file work for",
            path: PathBuf::new(),
            source: std::io::Error::other(error),
        }),
    }
}

pub(crate) fn create_dir(path: &Path) -> Result<(), FetchError> {
    std::fs::create_dir_all(path).map_err(FetchError::io("create directory", path))
}

/// Moves a finished, synced file to its final name and makes the new name durable.
pub(crate) fn publish(part: &Path, place: &Path) -> Result<(), FetchError> {
    std::fs::rename(part, place).map_err(FetchError::io("move into place", place))?;
    sync_parent(place)
}

fn sync_parent(path: &Path) -> Result<(), FetchError> {
    // Windows cannot open directories as files; a rename is durable there without.
    if cfg!(unix)
        && let Some(dir) = path.parent()
    {
        std::fs::File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(FetchError::io("sync directory", dir))?;
    }
    Ok(())
}

/// Writes a small file so that readers see the old or the new content, never half of it.
pub(crate) fn write_atomic(path: &Path, content: &str) -> Result<(), FetchError> {
    if let Some(dir) = path.parent() {
        create_dir(dir)?;
    }
    let temporary = temporary_beside(path);
    let write = || {
        use std::io::Write as _;
        let mut file = std::fs::File::create(&temporary)?;
        file.write_all(content.as_bytes())?;
        file.sync_all()
    };
    write().map_err(FetchError::io("write", &temporary))?;
    publish(&temporary, path)
}

/// A name in the same directory that no other process uses.
pub(crate) fn temporary_beside(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// An advisory lock held on an open file: the system releases it when the process dies, so nothing
/// stale can be left behind. `flock` on Unix, which is what Python's `huggingface_hub` takes too.
#[derive(Debug)]
pub(crate) struct FileLock {
    _file: std::fs::File,
}

impl FileLock {
    /// Waits, without blocking a thread, until no other process or task holds the lock.
    pub(crate) async fn acquire(path: &Path, progress: Progress<'_>) -> Result<Self, FetchError> {
        if let Some(dir) = path.parent() {
            create_dir(dir)?;
        }
        let mut options = std::fs::OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false);
        let file = options.open(path).map_err(FetchError::io("open the lock file", path))?;
        let mut told = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Self { _file: file }),
                Err(TryLockError::WouldBlock) if told => {}
                Err(TryLockError::WouldBlock) => {
                    told = true;
                    progress(Event::Note("another process is fetching the same file; waiting for it"));
                }
                Err(TryLockError::Error(source)) => {
                    return Err(FetchError::Io { action: "lock", path: path.to_owned(), source });
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        write_atomic(&path, "abc").unwrap();
        assert!(check_file(&path, Some(3), Some(&Digest::of("abc"))).is_ok());
        let short = check_file(&path, Some(4), None).unwrap_err().to_string();
        assert!(short.ends_with("f is damaged: it has 3 bytes, not 4"), "{short}");
        let other = check_file(&path, Some(3), Some(&Digest::of("abd"))).unwrap_err().to_string();
        assert!(other.contains("sha256 is ba7816bf"), "{other}");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file may stay");
    }

    #[tokio::test]
    async fn a_lock_excludes_and_is_released() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("l.lock");
        let held = FileLock::acquire(&path, &crate::silent).await.unwrap();
        let waiting =
            tokio::time::timeout(Duration::from_millis(150), FileLock::acquire(&path, &crate::silent)).await;
        assert!(waiting.is_err());
        drop(held);
        FileLock::acquire(&path, &crate::silent).await.unwrap();
    }
}
