mod kinds;
mod pages;
mod thrift;

pub(crate) use self::kinds::CONVERT;

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polars::io::parquet::read::FileMetadata;
use polars::prelude::{DataFrame, ParallelStrategy, ParquetReader, SerReader};

use crate::guard::guarded;
use crate::unpack::OverLimit;
use crate::{DataError, Limits};

/// Most rows that are decoded together.
const BLOCK_ROWS: usize = 65_536;

/// A parquet file that was found whole, and what it says about itself.
#[derive(Clone, Debug)]
pub(crate) struct ParquetFile {
    pub(crate) path: PathBuf,
    /// The columns that are read, and where they stand among all.
    pub(crate) columns: Vec<String>,
    positions: Vec<usize>,
    /// The columns that are not, and their types.
    pub(crate) unread: Vec<(String, &'static str)>,
    pub(crate) unpacked_bytes: u64,
    metadata: Arc<FileMetadata>,
}

/// Rows that are decoded together: of whole row groups, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct GroupBlock {
    groups: Range<usize>,
    /// First row, counted from the first one of `groups`.
    start: usize,
    pub(crate) rows: usize,
}

impl ParquetFile {
    /// Reads the footer, and the headers of all pages: afterwards what a damaged file promises cannot make the
    /// decoder reserve memory that is not there. (What lies inside the pages, it checks itself.)
    pub(crate) fn open(path: &Path, limits: &Limits) -> Result<Self, DataError> {
        decoding(path, || {
            pages::check_footer(path, &mut file(path)?)?;
            let mut reader = ParquetReader::new(file(path)?);
            let metadata = reader.get_metadata().map_err(|e| unreadable(path, &e.to_string()))?.clone();
            distinct(path, &metadata)?;
            let schema = reader.schema().map_err(|e| unreadable(path, &e.to_string()))?;
            let mut found = Self {
                path: path.to_owned(),
                columns: Vec::new(),
                positions: Vec::new(),
                unread: Vec::new(),
                unpacked_bytes: metadata.row_groups.iter().map(|g| g.total_byte_size() as u64).sum(),
                metadata,
            };
            for (position, (name, field)) in schema.iter().enumerate() {
                match kinds::unread(&field.dtype) {
                    None => {
                        found.columns.push(name.to_string());
                        found.positions.push(position);
                    }
                    Some(kind) => found.unread.push((name.to_string(), kind)),
                }
            }
            found.check(limits)?;
            Ok(found)
        })
    }

    fn check(&self, limits: &Limits) -> Result<(), DataError> {
        let path = &self.path;
        if let ([], Some((column, kind))) = (self.columns.as_slice(), self.unread.first()) {
            let message = format!("none of its columns is read (column `{column}` has type {kind})");
            return Err(DataError::unfit(path, message, kinds::CONVERT));
        }
        plausible(path, &self.metadata)?;
        pages::check_pages(path, &mut file(path)?, &self.metadata)?;
        let packed = fs_err::metadata(path).map_err(|e| DataError::file(path, e))?.len().max(1);
        let unpacked = self.unpacked_bytes;
        let dense = unpacked > limits.ratio_from_bytes && unpacked / packed > limits.unpack_ratio;
        if unpacked > limits.unpacked_bytes || dense {
            let OverLimit { what, limit } = OverLimit::new(unpacked, packed, limits);
            return Err(DataError::TooLarge { path: path.clone(), what, limit });
        }
        Ok(())
    }

    /// Cuts the file into blocks of at most about `bytes` unpacked. Small row groups are joined; a large one
    /// is cut, but no block has a part of one and rows of another, so that nothing is decoded for a neighbour.
    pub(crate) fn blocks(&self, bytes: u64) -> Vec<GroupBlock> {
        let mut blocks: Vec<GroupBlock> = Vec::new();
        // Of the last block, while more groups may join it.
        let mut joined_bytes = None;
        for (index, group) in self.metadata.row_groups.iter().enumerate() {
            let (rows, size) = (group.num_rows(), group.total_byte_size() as u64);
            let whole = rows <= BLOCK_ROWS && size <= bytes;
            if let (true, Some(before), Some(last)) = (whole, joined_bytes, blocks.last_mut())
                && size.saturating_add(before) <= bytes
                && last.rows + rows <= BLOCK_ROWS
            {
                last.groups.end = index + 1;
                last.rows += rows;
                joined_bytes = Some(before + size);
                continue;
            }
            joined_bytes = whole.then_some(size);
            let parts = size.div_ceil(bytes.max(1)).max(rows.div_ceil(BLOCK_ROWS) as u64).max(1);
            let part = rows.div_ceil(usize::try_from(parts).unwrap_or(usize::MAX)).max(1);
            let groups = index..index + 1;
            blocks.extend((0..rows).step_by(part).map(|start| GroupBlock {
                groups: groups.clone(),
                start,
                rows: part.min(rows - start),
            }));
        }
        blocks
    }

    /// The rows of a block as one contiguous frame.
    pub(crate) fn read(&self, block: &GroupBlock) -> Result<DataFrame, DataError> {
        self.decode(block, self.positions.clone())
    }

    /// One column of a block: `column` counts in [`ParquetFile::columns`].
    pub(crate) fn read_column(&self, block: &GroupBlock, column: usize) -> Result<DataFrame, DataError> {
        self.decode(block, self.positions.get(column).copied().into_iter().collect())
    }

    fn decode(&self, block: &GroupBlock, positions: Vec<usize>) -> Result<DataFrame, DataError> {
        let path = &self.path;
        decoding(path, || {
            // The reader walks over all groups that it knows of.
            let groups = self.metadata.row_groups[block.groups.clone()].to_vec();
            let num_rows = groups.iter().map(|group| group.num_rows()).sum();
            let metadata = FileMetadata { num_rows, row_groups: groups, ..(*self.metadata).clone() };
            let mut reader = ParquetReader::new(file(path)?)
                .with_slice(Some((block.start, block.rows)))
                .with_projection(Some(positions))
                // On this thread: see `guarded`.
                .read_parallel(ParallelStrategy::None);
            reader.set_metadata(Arc::new(metadata));
            let mut frame = reader.finish().map_err(|e| unreadable(path, &e.to_string()))?;
            if frame.height() != block.rows {
                let message = format!("{} rows where its footer says {}", frame.height(), block.rows);
                return Err(unreadable(path, &message));
            }
            frame.rechunk_mut();
            Ok(frame)
        })
    }
}

/// The decoder finds columns by their names.
fn distinct(path: &Path, metadata: &FileMetadata) -> Result<(), DataError> {
    let names: Vec<&str> = metadata.schema().fields().iter().map(|field| field.name()).collect();
    match (1..names.len()).find(|at| names[..*at].contains(&names[*at])) {
        Some(at) => Err(DataError::unfit(
            path,
            format!("two columns are called `{}`", names[at]),
            "write it again with a name of its own for each column",
        )),
        None => Ok(()),
    }
}

/// Every row has at least one value in each column; a run-length encoding may hold any number of values in a
/// few bytes, but not so many that there is no memory for them.
fn plausible(path: &Path, metadata: &FileMetadata) -> Result<(), DataError> {
    const MOST_VALUES: i64 = 1 << 31;
    const VALUES_PER_BYTE: i64 = 4096;
    /// A gigabyte of the decoder's largest values.
    const FEW_VALUES: i64 = 1 << 26;
    for group in &metadata.row_groups {
        let rows = i64::try_from(group.num_rows()).unwrap_or(i64::MAX);
        for column in group.parquet_columns() {
            let values = column.num_values();
            let bytes = column.uncompressed_size().max(0);
            let most = rows.saturating_add(bytes.saturating_mul(VALUES_PER_BYTE)).max(FEW_VALUES);
            let nested = column.descriptor().descriptor.max_rep_level > 0;
            if values < rows || values > most.min(MOST_VALUES) || (!nested && values != rows) {
                return Err(unreadable(path, &format!("a column of {rows} rows with {values} values")));
            }
        }
    }
    Ok(())
}

fn file(path: &Path) -> Result<std::fs::File, DataError> {
    Ok(fs_err::File::open(path).map_err(|e| DataError::file(path, e))?.into_file())
}

fn unreadable(path: &Path, detail: &str) -> DataError {
    DataError::file(path, format!("not a readable parquet file ({detail})"))
}

/// A bad file must be an error like any other, also where the decoder panics.
fn decoding<T>(path: &Path, read: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    guarded(read).unwrap_or_else(|| Err(unreadable(path, "the decoder gave up")))
}
