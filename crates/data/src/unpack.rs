use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::{DataError, Limits};

/// Opens a text file for reading, decompressing `.gz` and `.zst` as the name says.
pub(crate) fn open_text(path: &Path, limits: &Limits) -> Result<Box<dyn BufRead + Send>, DataError> {
    let file = fs_err::File::open(path).map_err(|e| DataError::file(path, e))?;
    let packed_bytes = file.metadata().map_err(|e| DataError::file(path, e))?.len();
    let capped = |unpacked: Box<dyn Read + Send>| -> Box<dyn BufRead + Send> {
        Box::new(BufReader::with_capacity(
            1 << 16,
            Capped {
                inner: unpacked,
                path: path.to_owned(),
                packed_bytes,
                unpacked_bytes: 0,
                limits: *limits,
            },
        ))
    };
    Ok(match extension(path) {
        "gz" => capped(Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file)))),
        "zst" => {
            capped(Box::new(zstd::stream::read::Decoder::new(file).map_err(|e| DataError::file(path, e))?))
        }
        _ => Box::new(BufReader::with_capacity(1 << 16, file)),
    })
}

/// The last extension in lower case spelling as found in file names; empty where there is none.
pub(crate) fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

/// Ends in an error where a compressed file unpacks to more than the limits allow.
struct Capped {
    inner: Box<dyn Read + Send>,
    path: PathBuf,
    packed_bytes: u64,
    unpacked_bytes: u64,
    limits: Limits,
}

impl Read for Capped {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.unpacked_bytes += read as u64;
        let too_much = self.unpacked_bytes > self.limits.unpacked_bytes;
        let too_dense = self.unpacked_bytes > self.limits.ratio_from_bytes
            && self.unpacked_bytes / self.packed_bytes.max(1) > self.limits.unpack_ratio;
        if too_much || too_dense {
            return Err(io::Error::other(format!(
                "{} unpacks to more than {}",
                self.path.display(),
                if too_much {
                    format!("{} bytes", self.limits.unpacked_bytes)
                } else {
                    format!("{} times its size", self.limits.unpack_ratio)
                }
            )));
        }
        Ok(read)
    }
}
