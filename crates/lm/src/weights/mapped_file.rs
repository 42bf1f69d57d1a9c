use std::path::{Path, PathBuf};

use memmap2::Mmap;

use crate::LmError;

/// A read-only memory map that remembers its path.
#[derive(Debug)]
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    map: Mmap,
}

impl MappedFile {
    #[expect(unsafe_code, reason = "memory maps are one of the two places where unsafe is allowed")]
    pub(super) fn open(path: &Path) -> Result<Self, LmError> {
        let file = fs_err::File::open(path)?;
        if file.metadata()?.len() == 0 {
            return Err(LmError::format(path, "the file is empty"));
        }
        // SAFETY: the map is read-only and private to this struct. Model files are replaced by rename
        // (`fetch` never writes in place), so the mapped inode does not change under the map; a program
        // that truncates it in place ends this process with SIGBUS, which is the documented limit.
        let map = unsafe { Mmap::map(file.file()) }?;
        Ok(Self { path: path.to_owned(), map })
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.map
    }
}
