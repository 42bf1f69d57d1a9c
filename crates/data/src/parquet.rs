mod pages;
mod thrift;

use std::path::{Path, PathBuf};

use polars::io::parquet::read::FileMetadata;
use polars::prelude::{DataFrame, ParallelStrategy, ParquetReader, SerReader};

use crate::{DataError, Limits};

/// What a parquet file says about itself.
#[derive(Clone, Debug)]
pub(crate) struct ParquetShape {
    pub(crate) path: PathBuf,
    pub(crate) columns: Vec<String>,
    /// Rows of each row group.
    pub(crate) groups: Vec<usize>,
    pub(crate) unpacked_bytes: u64,
}

/// Reads the footer, and the headers of all pages: afterwards what a damaged file promises cannot make the
/// decoder reserve memory that is not there. (What lies inside the pages, it checks itself.)
pub(crate) fn shape(path: &Path, limits: &Limits) -> Result<ParquetShape, DataError> {
    guarded(path, || {
        pages::check_footer(path, &mut file(path)?)?;
        let mut reader = ParquetReader::new(file(path)?);
        let columns = reader
            .schema()
            .map_err(|e| unreadable(path, &e.to_string()))?
            .iter_names()
            .map(ToString::to_string)
            .collect();
        let metadata = reader.get_metadata().map_err(|e| unreadable(path, &e.to_string()))?;
        let groups: Vec<usize> = metadata.row_groups.iter().map(|g| g.num_rows()).collect();
        let unpacked: u64 = metadata.row_groups.iter().map(|g| g.total_byte_size() as u64).sum();
        plausible(path, metadata)?;
        pages::check_pages(path, &mut file(path)?, metadata)?;
        let packed = fs_err::metadata(path).map_err(|e| DataError::file(path, e))?.len().max(1);
        let dense = unpacked > limits.ratio_from_bytes && unpacked / packed > limits.unpack_ratio;
        if unpacked > limits.unpacked_bytes || dense {
            return Err(DataError::TooLarge {
                path: path.to_owned(),
                what: format!("{unpacked} bytes unpacked from {packed}"),
                limit: format!("{} bytes or {} times", limits.unpacked_bytes, limits.unpack_ratio),
            });
        }
        Ok(ParquetShape { path: path.to_owned(), columns, groups, unpacked_bytes: unpacked })
    })
}

/// Every row has at least one value in each column, and even a run-length encoding needs some bytes for its
/// values.
fn plausible(path: &Path, metadata: &FileMetadata) -> Result<(), DataError> {
    const MOST_VALUES: i64 = 1 << 31;
    const VALUES_PER_BYTE: i64 = 4096;
    for group in &metadata.row_groups {
        let rows = i64::try_from(group.num_rows()).unwrap_or(i64::MAX);
        for column in group.parquet_columns() {
            let values = column.num_values();
            let bytes = column.uncompressed_size().max(0);
            let most = rows.saturating_add(bytes.saturating_mul(VALUES_PER_BYTE)).min(MOST_VALUES);
            if values < rows || values > most {
                return Err(unreadable(path, &format!("a column of {rows} rows with {values} values")));
            }
        }
    }
    Ok(())
}

/// Rows `start .. start + rows` as one contiguous frame.
pub(crate) fn read(path: &Path, start: usize, rows: usize) -> Result<DataFrame, DataError> {
    guarded(path, || {
        let mut frame = ParquetReader::new(file(path)?)
            .with_slice(Some((start, rows)))
            .read_parallel(ParallelStrategy::Auto)
            .finish()
            .map_err(|e| unreadable(path, &e.to_string()))?;
        frame.rechunk_mut();
        Ok(frame)
    })
}

fn file(path: &Path) -> Result<std::fs::File, DataError> {
    Ok(fs_err::File::open(path).map_err(|e| DataError::file(path, e))?.into_file())
}

fn unreadable(path: &Path, detail: &str) -> DataError {
    DataError::file(path, format!("not a readable parquet file ({detail})"))
}

/// The parquet decoder checks most of what a damaged file can contain, and panics on some of the rest;
/// a bad file must be an error like any other.
fn guarded<T>(path: &Path, read: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(read))
        .unwrap_or_else(|_| Err(unreadable(path, "the decoder gave up")))
}
