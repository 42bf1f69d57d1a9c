use std::io::{BufRead, Cursor};
use std::path::{Path, PathBuf};

use polars::prelude::{CsvReadOptions, DataFrame, SchemaRef, SerReader};

use crate::unpack::open_text;
use crate::{DataError, Limits};

/// Bytes of records that are parsed together when a file is streamed.
const CHUNK_BYTES: usize = 8 << 20;

/// Reads a CSV file (RFC 4180, first record is the header) in frames of whole records. Column types are
/// inferred from the first frame; a later value that does not fit is an error.
pub(crate) struct CsvFrames {
    path: PathBuf,
    reader: Box<dyn BufRead + Send>,
    limits: Limits,
    chunk_bytes: usize,
    header: Vec<u8>,
    schema: Option<SchemaRef>,
    /// Lines read so far, the header included.
    lines: u64,
}

impl CsvFrames {
    /// `whole` reads the file as one frame, so that types are inferred from all of it.
    pub(crate) fn open(path: &Path, limits: &Limits, whole: bool) -> Result<Self, DataError> {
        let mut frames = Self {
            path: path.to_owned(),
            reader: open_text(path, limits)?,
            limits: *limits,
            chunk_bytes: if whole { usize::MAX } else { CHUNK_BYTES },
            header: Vec::new(),
            schema: None,
            lines: 0,
        };
        let mut header = Vec::new();
        frames.append_record(&mut header)?;
        if header.starts_with(b"\xef\xbb\xbf") {
            header.drain(..3);
        }
        frames.header = header;
        Ok(frames)
    }

    #[expect(clippy::needless_pass_by_value, reason = "called with errors straight from `map_err`")]
    fn error(&self, row: u64, message: impl ToString) -> DataError {
        DataError::Row {
            path: self.path.clone(),
            unit: "line",
            row,
            field: None,
            message: message.to_string(),
        }
    }

    /// Appends one record; a line end inside quotes belongs to the record. False at the end.
    fn append_record(&mut self, out: &mut Vec<u8>) -> Result<bool, DataError> {
        let start = out.len();
        let first_line = self.lines + 1;
        loop {
            let before = out.len();
            let limit = self.limits.row_bytes.saturating_add(1);
            let mut bounded = std::io::Read::take(&mut self.reader, limit);
            let read = bounded.read_until(b'\n', out).map_err(|e| self.error(first_line, e))?;
            if out.len() as u64 - start as u64 > self.limits.row_bytes {
                return Err(self.error(first_line, format!("longer than {} bytes", self.limits.row_bytes)));
            }
            if read == 0 {
                return Ok(out.len() > start);
            }
            self.lines += 1;
            std::str::from_utf8(&out[before..])
                .map_err(|e| self.error(self.lines, format!("not UTF-8 at byte {}", e.valid_up_to() + 1)))?;
            // An odd number of quotes so far means that the record goes on.
            if out[start..].iter().filter(|b| **b == b'"').count().is_multiple_of(2) {
                return Ok(true);
            }
        }
    }

    fn parse(&mut self, records: Vec<u8>, first_line: u64) -> Result<DataFrame, DataError> {
        let mut text = self.header.clone();
        text.extend(records);
        let mut options = CsvReadOptions::default().with_has_header(true).with_infer_schema_length(None);
        if let Some(schema) = &self.schema {
            options = options.with_schema(Some(schema.clone()));
        }
        let mut frame = options
            .into_reader_with_file_handle(Cursor::new(text))
            .finish()
            .map_err(|e| self.error(first_line, e))?;
        frame.rechunk_mut();
        if self.schema.is_none() {
            self.schema = Some(frame.schema().clone());
        }
        Ok(frame)
    }
}

impl Iterator for CsvFrames {
    type Item = Result<DataFrame, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        let first_line = self.lines + 1;
        let mut records = Vec::new();
        while records.len() < self.chunk_bytes {
            match self.append_record(&mut records) {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => return Some(Err(error)),
            }
        }
        // A file with a header and no records still has columns: they are reported once.
        let nothing_left = records.is_empty() && (self.schema.is_some() || self.header.is_empty());
        (!nothing_left).then(|| self.parse(records, first_line))
    }
}
