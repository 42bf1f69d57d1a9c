//! The engine's log, which nobody reads.
//!
//! The engine (0.7) appends every write to `wal/` and never replays it: what was flushed lies in the segments.
//! All that the log is good for is the number of the next write, which counts on from the last part that was
//! closed. So the parts before that one are removed, or the log would keep whatever was ever written.

use std::path::{Path, PathBuf};

/// How large a part of the log grows before the next is begun.
pub(super) const PART_BYTES: usize = 4 << 20;

/// Removes all closed parts but the last, the oldest first: whatever interrupts it leaves a log without holes.
/// A part that this process has mapped gives its room on the disk back when the process ends.
pub(super) fn trim(log: &Path) -> std::io::Result<()> {
    let mut closed: Vec<(u64, PathBuf)> = Vec::new();
    for entry in fs_err::read_dir(log)? {
        let path = entry?.path();
        let start = path.file_name().and_then(|name| name.to_str()?.strip_prefix("closed-")?.parse().ok());
        closed.extend(start.map(|start| (start, path)));
    }
    closed.sort();
    closed.pop();
    closed.into_iter().try_for_each(|(_, path)| fs_err::remove_file(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_closed_part_and_the_open_one_stay() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["closed-0", "closed-9", "closed-10", "open-3", "first-index"] {
            fs_err::write(directory.path().join(name), "").unwrap();
        }
        trim(directory.path()).unwrap();
        let mut left: Vec<String> = fs_err::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["closed-10", "first-index", "open-3"]);
    }
}
