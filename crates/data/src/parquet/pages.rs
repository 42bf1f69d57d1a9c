//! A walk over the headers of all pages, before anything is decoded.
//!
//! The decoder reserves memory for as many values and bytes as headers promise, and a process that cannot
//! get it is ended by the system: no error, nothing to catch. So every count and size is held against what
//! surrounds it first. Format: <https://github.com/apache/parquet-format>, `parquet.thrift`.

use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use polars::io::parquet::read::FileMetadata;

use super::thrift::{Structure, structure};
use super::unreadable;
use crate::DataError;

/// The magic number in front and behind, and the footer's length.
const MAGIC: &[u8; 4] = b"PAR1";
const TAIL_BYTES: u64 = 8;

/// Checks that every length and count in the footer fits into it.
pub(super) fn check_footer(path: &Path, file: &mut std::fs::File) -> Result<(), DataError> {
    let failed = |error: std::io::Error| DataError::file(path, error);
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let cut = || unreadable(path, "it is too short: was it copied to its end?");
    let mut tail = [0; TAIL_BYTES as usize];
    file.seek(SeekFrom::Start(size.checked_sub(TAIL_BYTES).ok_or_else(cut)?)).map_err(failed)?;
    file.read_exact(&mut tail).map_err(failed)?;
    let [a, b, c, d, magic @ ..] = tail;
    if magic != *MAGIC {
        return Err(unreadable(path, "it does not end as one does: was it copied to its end?"));
    }
    let length = u64::from(u32::from_le_bytes([a, b, c, d]));
    let start = size.checked_sub(TAIL_BYTES + length).ok_or_else(cut)?;
    file.seek(SeekFrom::Start(start)).map_err(failed)?;
    let mut footer = Vec::new();
    file.take(length).read_to_end(&mut footer).map_err(failed)?;
    structure(&footer)
        .map(drop)
        .map_err(|reason| unreadable(path, &format!("its footer is damaged: {reason}")))
}

/// Checks the pages of every column of every row group.
pub(super) fn check_pages(
    path: &Path,
    file: &mut std::fs::File,
    metadata: &FileMetadata,
) -> Result<(), DataError> {
    let failed = |error: std::io::Error| DataError::file(path, error);
    let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
    let mut bytes = Vec::new();
    for group in &metadata.row_groups {
        for column in group.parquet_columns() {
            let damaged = |reason: &str| {
                let name = column.descriptor().path_in_schema.join(".");
                unreadable(path, &format!("column `{name}` is damaged: {reason}"))
            };
            let range = column.byte_range();
            if range.start > range.end || range.end > size.saturating_sub(TAIL_BYTES) {
                return Err(damaged("it lies outside the file"));
            }
            bytes.clear();
            file.seek(SeekFrom::Start(range.start)).map_err(failed)?;
            file.by_ref().take(range.end - range.start).read_to_end(&mut bytes).map_err(failed)?;
            let chunk = Chunk { values: column.num_values(), unpacked: column.uncompressed_size().max(0) };
            chunk.check(&bytes).map_err(damaged)?;
        }
    }
    Ok(())
}

/// What the footer says of one column of a row group.
struct Chunk {
    values: i64,
    /// All pages before compression, headers included, in bytes.
    unpacked: i64,
}

impl Chunk {
    fn check(&self, mut bytes: &[u8]) -> Result<(), &'static str> {
        let mut values = 0_i64;
        let mut first = !bytes.is_empty();
        while first || values < self.values {
            first = false;
            let (header, used) = structure(bytes)?;
            bytes = &bytes[used..];
            let page = Page::of(&header)?;
            let content = usize::try_from(page.packed).ok().and_then(|length| bytes.split_at_checked(length));
            let (content, rest) = content.ok_or("a page is longer than its column")?;
            bytes = rest;
            self.check_page(&page)?;
            if page.checksum.is_some_and(|sum| sum != checksum(content)) {
                return Err("a page does not have the checksum its header gives");
            }
            values = values.saturating_add(page.values);
        }
        if values == self.values { Ok(()) } else { Err("its pages hold other values than its footer says") }
    }

    fn check_page(&self, page: &Page) -> Result<(), &'static str> {
        // Some writers count the headers in, some do not.
        const SLACK: i64 = 1 << 20;
        if page.unpacked < 0 || page.unpacked > self.unpacked.saturating_mul(2).saturating_add(SLACK) {
            return Err("a page unpacks to more than its column");
        }
        if page.levels < 0 || page.levels > page.packed.min(page.unpacked) {
            return Err("the levels of a page are longer than the page");
        }
        if page.values < 0 || page.entries < 0 || page.entries > page.unpacked {
            return Err("a page promises more values than fit into it");
        }
        Ok(())
    }
}

/// What the header of a page says.
struct Page {
    packed: i64,
    unpacked: i64,
    /// Of a data page.
    values: i64,
    /// Of a dictionary.
    entries: i64,
    /// Bytes of levels in front of the values, where the header gives them.
    levels: i64,
    checksum: Option<u32>,
}

impl Page {
    fn of(header: &Structure) -> Result<Self, &'static str> {
        const MISSING: &str = "the header of a page lacks something";
        const DATA: i64 = 0;
        const DICTIONARY: i64 = 2;
        const DATA_V2: i64 = 3;
        let kind = header.integer(1).ok_or(MISSING)?;
        let part = |id| header.structure(id).ok_or(MISSING);
        let count = |part: &Structure, id| part.integer(id).ok_or(MISSING);
        let mut page = Self {
            unpacked: header.integer(2).ok_or(MISSING)?,
            packed: header.integer(3).ok_or(MISSING)?,
            values: 0,
            entries: 0,
            levels: 0,
            checksum: header.integer(4).map(|sum| sum as u32),
        };
        match kind {
            DATA => page.values = count(part(5)?, 1)?,
            DICTIONARY => page.entries = count(part(7)?, 1)?,
            DATA_V2 => {
                let part = part(8)?;
                let (nulls, rows) = (count(part, 2)?, count(part, 3)?);
                page.values = count(part, 1)?;
                let (definition, repetition) = (count(part, 5)?, count(part, 6)?);
                if nulls < 0 || rows < 0 || definition < 0 || repetition < 0 || nulls.max(rows) > page.values
                {
                    return Err("the counts of a page contradict each other");
                }
                page.levels = definition.saturating_add(repetition);
            }
            _ => return Err("a page is of no known kind"),
        }
        Ok(page)
    }
}

/// CRC-32 as gzip has it, over the page as it lies in the file.
fn checksum(content: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(content);
    crc.sum()
}
