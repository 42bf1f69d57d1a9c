//! Room on the disk, made sure of before the engine needs it.
//!
//! The engine (0.7) maps files that are mostly holes into memory. Where the disk has no room for a hole that is
//! written to (on a memory disk: that is read), the kernel ends the process at once (SIGBUS), without a word. So
//! nothing is mapped and nothing written unless every hole of that collection could be filled; others on the same disk
//! are not reckoned with.

use std::fs::Metadata;
use std::path::Path;

use walkdir::WalkDir;

use crate::RagError;

/// What the engine makes for a collection without points: files of 144 MB with the fields that are indexed here,
/// nearly all of it holes.
const EMPTY_BYTES: u64 = 150_000_000;

/// Most that one write adds beside the holes: the largest request of the server, and what is written together here
/// is smaller.
const WRITE_BYTES: u64 = 32 << 20;

/// Bytes of a directory's files that lie on the disk, and those that may yet have to.
#[derive(Debug, Default, PartialEq)]
struct Extent {
    used: u64,
    holes: u64,
}

impl Extent {
    /// What vanishes meanwhile (the engine swaps what it has optimised) needs no room.
    fn of(path: &Path) -> Self {
        let files = WalkDir::new(path).into_iter().filter_map(|entry| entry.ok()?.metadata().ok());
        files.filter(Metadata::is_file).fold(Self::default(), |sum, file| {
            let used = used_bytes(&file);
            Self { used: sum.used + used, holes: sum.holes + file.len().saturating_sub(used) }
        })
    }
}

/// In blocks of 512 bytes, whatever those of the file system are (`st_blocks` on Linux, BSD, macOS).
#[cfg(unix)]
fn used_bytes(file: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::blocks(file) * 512
}

#[cfg(not(unix))]
fn used_bytes(file: &Metadata) -> u64 {
    file.len()
}

/// And to write to it: the fields that are indexed are said one by one.
pub(super) fn to_create(path: &Path) -> Result<(), RagError> {
    check(path, EMPTY_BYTES + WRITE_BYTES)
}

pub(super) fn to_open(path: &Path) -> Result<(), RagError> {
    check(path, Extent::of(path).holes)
}

pub(super) fn to_write(path: &Path) -> Result<(), RagError> {
    check(path, Extent::of(path).holes + WRITE_BYTES)
}

/// Segments are written anew beside the old ones, in the worst case all of them.
pub(super) fn to_optimise(path: &Path) -> Result<(), RagError> {
    let Extent { used, holes } = Extent::of(path);
    check(path, used + holes)
}

fn check(path: &Path, needed: u64) -> Result<(), RagError> {
    let free = fs4::available_space(path).map_err(|error| RagError::disk(path, error))?;
    if free >= needed {
        return Ok(());
    }
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    let message = format!(
        "no space left: its disk has {} MB free, and an index maps {} MB more than it holds",
        free / 1_000_000,
        megabytes(needed)
    );
    Err(RagError::disk(path, message))
}

#[cfg(test)]
mod tests {
    use evalign_core::Hint;

    use super::*;

    #[test]
    fn holes_are_what_a_file_is_longer_than_what_lies_on_the_disk() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("below")).unwrap();
        let file = std::fs::File::create(directory.path().join("below/sparse")).unwrap();
        file.set_len(64 << 20).unwrap();
        let Extent { used, holes } = Extent::of(directory.path());
        assert_eq!(used + holes, 64 << 20, "{used} {holes}");
        assert!(used < 1 << 20, "{used}");
    }

    #[test]
    fn what_the_disk_has_no_room_for_is_refused_with_the_numbers() {
        let directory = tempfile::tempdir().unwrap();
        check(directory.path(), 0).unwrap();
        let error = check(directory.path(), u64::MAX).unwrap_err();
        assert!(
            error.to_string().contains("no space left") && error.to_string().contains("MB free"),
            "{error}"
        );
        assert!(error.hint().unwrap().contains("EVALIGN_HOME"));
    }
}
