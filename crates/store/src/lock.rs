use std::fs::TryLockError;
use std::path::Path;

use evalign_core::RunId;

/// The lock file of a run, held by the process that works on it. The operating system frees it when the
/// process ends, however it ends, so a crashed owner is told from a busy one at once and on every
/// platform, without asking whether a process id still means the same process.
#[derive(Debug)]
pub(crate) struct RunLock {
    // Held for its lifetime only; the file stays behind, empty. (Deleting it would let two processes
    // lock two files of the same name.)
    _file: std::fs::File,
}

impl RunLock {
    /// `None` where another holder is alive, or where the file system has no locks: then only the
    /// lease's end decides.
    pub(crate) fn try_take(store: &Path, run: &RunId) -> Option<Self> {
        let dir = store.parent()?.join("locks");
        let path = dir.join(run.as_str());
        let open = || {
            fs_err::create_dir_all(&dir)?;
            fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(&path)
        };
        let file = match open() {
            Ok(file) => file.into_file(),
            Err(error) => {
                tracing::warn!(%error, "no lock file: should this process crash, the run stays leased for its term");
                return None;
            }
        };
        match file.try_lock() {
            Ok(()) => Some(Self { _file: file }),
            Err(TryLockError::WouldBlock) => None,
            Err(TryLockError::Error(error)) => {
                tracing::warn!(%error, path = %path.display(), "file locks do not work here");
                None
            }
        }
    }
}
