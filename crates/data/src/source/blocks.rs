//! Blocks of rows: where they lie on disk, and those that are kept in memory.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use polars::prelude::DataFrame;

use crate::DataError;
use crate::parquet::GroupBlock;
use crate::records::{RecordReader, Records};

/// Text that is read together.
pub(super) const TEXT_BYTES: usize = 1 << 20;
pub(super) const CHANGED: &str = "it has changed since it was opened";
pub(super) const AGAIN: &str = "start again, and leave the file as it is meanwhile";

#[derive(Debug)]
pub(super) struct Block {
    pub(super) file: usize,
    /// Among the rows of all files.
    pub(super) first_row: u64,
    pub(super) rows: usize,
    pub(super) place: Place,
}

#[derive(Debug)]
pub(super) enum Place {
    Groups(GroupBlock),
    /// Unpacked bytes and lines in front of it.
    Text {
        offset: u64,
        line: u64,
    },
}

#[derive(Debug)]
pub(super) enum Content {
    Frame(DataFrame),
    Records(Records),
}

impl Content {
    fn bytes(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.estimated_size() as u64,
            Self::Records(records) => records.bytes(),
        }
    }
}

/// Size and time of a file, to see that it is still the one that was hashed and checked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    bytes: u64,
    /// Absent where the file system keeps none.
    modified: Option<SystemTime>,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Result<Self, DataError> {
        let metadata = fs_err::metadata(path).map_err(|e| DataError::file(path, e))?;
        Ok(Self { bytes: metadata.len(), modified: metadata.modified().ok() })
    }

    pub(super) fn check(&self, path: &Path) -> Result<(), DataError> {
        if Self::of(path)? == *self { Ok(()) } else { Err(DataError::unfit(path, CHANGED, AGAIN)) }
    }
}

/// The blocks that were used last.
#[derive(Default)]
pub(super) struct Shelf(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    blocks: BTreeMap<usize, KeptBlock>,
    bytes: u64,
    /// Counts uses.
    clock: u64,
    /// The text file that was read last, by its index.
    cursor: Option<(usize, RecordReader<'static>)>,
}

struct KeptBlock {
    content: Arc<Content>,
    bytes: u64,
    used: u64,
}

impl std::fmt::Debug for Shelf {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shelf").finish_non_exhaustive()
    }
}

impl Shelf {
    /// Block `at`, by `load` where it is not here. One is loaded at a time: two that are would want the memory
    /// and the disk of both.
    pub(super) fn get(
        &self,
        at: usize,
        limit_bytes: u64,
        load: impl FnOnce(&mut Option<(usize, RecordReader<'static>)>) -> Result<Content, DataError>,
    ) -> Result<Arc<Content>, DataError> {
        let mut kept = self.lock();
        kept.clock += 1;
        let now = kept.clock;
        if let Some(block) = kept.blocks.get_mut(&at) {
            block.used = now;
            return Ok(block.content.clone());
        }
        let content = Arc::new(load(&mut kept.cursor)?);
        kept.put(at, content.clone(), limit_bytes);
        Ok(content)
    }

    pub(super) fn put(&self, at: usize, content: Content, limit_bytes: u64) {
        self.lock().put(at, Arc::new(content), limit_bytes);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Kept> {
        // What a panic elsewhere leaves is whole: a block is put in after everything that can fail.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Puts a block in and takes out those that were not used for longest, until the rest fits; the new one
    /// stays in any case.
    fn put(&mut self, at: usize, content: Arc<Content>, limit_bytes: u64) {
        let bytes = content.bytes();
        while self.bytes.saturating_add(bytes) > limit_bytes {
            let oldest = self.blocks.iter().min_by_key(|(_, block)| block.used).map(|(at, _)| *at);
            let Some(gone) = oldest.and_then(|oldest| self.blocks.remove(&oldest)) else { break };
            self.bytes -= gone.bytes;
        }
        self.clock += 1;
        let used = self.clock;
        self.bytes += bytes;
        self.blocks.insert(at, KeptBlock { content, bytes, used });
    }
}
