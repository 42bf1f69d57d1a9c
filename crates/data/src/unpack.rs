use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::path::Path;

use crate::{DataError, Limits};

/// Opens a text file for reading from (unpacked) byte `offset` on, decompressing `.gz` and `.zst` as the name
/// says; what is packed has to be unpacked up to there.
pub(crate) fn open_text(
    path: &Path,
    limits: &Limits,
    offset: u64,
) -> Result<Box<dyn BufRead + Send>, DataError> {
    let mut file = fs_err::File::open(path).map_err(|e| DataError::file(path, e))?;
    let packed_bytes = file.metadata().map_err(|e| DataError::file(path, e))?.len();
    let capped = |unpacked: Box<dyn Read + Send>| -> Box<dyn BufRead + Send> {
        Box::new(BufReader::with_capacity(
            1 << 16,
            Capped { inner: unpacked, packed_bytes, unpacked_bytes: 0, limits: *limits },
        ))
    };
    let mut reader = match extension(path) {
        "gz" => capped(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))),
        "zst" => {
            capped(Box::new(zstd::stream::read::Decoder::new(file).map_err(|e| DataError::file(path, e))?))
        }
        _ => {
            file.seek(SeekFrom::Start(offset)).map_err(|e| DataError::file(path, e))?;
            return Ok(Box::new(BufReader::with_capacity(1 << 16, file)));
        }
    };
    io::copy(&mut Read::take(&mut reader, offset), &mut io::sink()).map_err(|e| DataError::file(path, e))?;
    Ok(reader)
}

/// What packed bytes hold, told by how they begin (gzip, zstd); `None` for bytes that are not packed. `path` is for
/// messages.
///
/// # Errors
/// They cannot be unpacked, or to more than the limits allow.
pub fn unpacked(path: &Path, bytes: &[u8], limits: &Limits) -> Result<Option<Vec<u8>>, DataError> {
    let inner: Box<dyn Read + Send + '_> = match bytes {
        [0x1f, 0x8b, ..] => Box::new(flate2::read::MultiGzDecoder::new(bytes)),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            Box::new(zstd::stream::read::Decoder::new(bytes).map_err(|e| DataError::file(path, e))?)
        }
        _ => return Ok(None),
    };
    let packed_bytes = bytes.len() as u64;
    let mut text = Vec::new();
    Capped { inner, packed_bytes, unpacked_bytes: 0, limits: *limits }
        .read_to_end(&mut text)
        .map_err(|e| OverLimit::of(&e, path).unwrap_or_else(|| DataError::file(path, e)))?;
    Ok(Some(text))
}

/// How many bytes a text file has when it is unpacked.
///
/// # Errors
/// It cannot be read, or unpacks to more than the limits allow.
pub fn unpacked_bytes(path: &Path, limits: &Limits) -> Result<u64, DataError> {
    if !matches!(extension(path), "gz" | "zst") {
        return Ok(fs_err::metadata(path).map_err(|e| DataError::file(path, e))?.len());
    }
    let mut text = open_text(path, limits, 0)?;
    io::copy(&mut text, &mut io::sink())
        .map_err(|e| OverLimit::of(&e, path).unwrap_or_else(|| DataError::file(path, e)))
}

/// The last extension in lower case spelling as found in file names; empty where there is none.
pub(crate) fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

/// Ends in an error where a compressed file unpacks to more than the limits allow.
struct Capped<'t> {
    inner: Box<dyn Read + Send + 't>,
    packed_bytes: u64,
    unpacked_bytes: u64,
    limits: Limits,
}

impl Read for Capped<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.unpacked_bytes += read as u64;
        let too_much = self.unpacked_bytes > self.limits.unpacked_bytes;
        let too_dense = self.unpacked_bytes > self.limits.ratio_from_bytes
            && self.unpacked_bytes / self.packed_bytes.max(1) > self.limits.unpack_ratio;
        if too_much || too_dense {
            return Err(io::Error::other(OverLimit::new(
                self.unpacked_bytes,
                self.packed_bytes,
                &self.limits,
            )));
        }
        Ok(read)
    }
}

/// A file that unpacks to more than the limits allow.
#[derive(Debug, thiserror::Error)]
#[error("{what}, at most {limit} are read")]
pub(crate) struct OverLimit {
    pub(crate) what: String,
    pub(crate) limit: String,
}

impl OverLimit {
    /// What to say where a limit is why the file could not be read.
    pub(crate) fn of(cause: &io::Error, path: &Path) -> Option<DataError> {
        let Self { what, limit } = cause.get_ref()?.downcast_ref()?;
        Some(DataError::TooLarge { path: path.to_owned(), what: what.clone(), limit: limit.clone() })
    }

    pub(crate) fn new(unpacked_bytes: u64, packed_bytes: u64, limits: &Limits) -> Self {
        if unpacked_bytes > limits.unpacked_bytes {
            return Self {
                what: format!("it unpacks to {unpacked_bytes} bytes or more"),
                limit: format!("{} bytes", limits.unpacked_bytes),
            };
        }
        let ratio = unpacked_bytes / packed_bytes.max(1);
        Self {
            what: format!(
                "its {packed_bytes} bytes unpack to {unpacked_bytes} or more, {ratio} times as many"
            ),
            limit: format!("{} times as many", limits.unpack_ratio),
        }
    }
}
