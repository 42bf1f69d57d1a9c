use std::io::Read;
use std::path::{Path, PathBuf};

use evalign_core::Digest;
use polars::prelude::DataFrame;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::cell::{json_of, row_of};
use crate::csv::CsvFrames;
use crate::jsonl::{JsonlRows, check_field, read_jsonl};
use crate::parquet::{self, ParquetShape};
use crate::unpack::extension;
use crate::{DataError, Limits, Row};

/// Rows decoded together when a parquet file is streamed.
const STREAM_ROWS: usize = 16_384;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Parquet,
    Jsonl,
    Csv,
}

/// Opened files of one split, in order.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) digest: Digest,
    pub(crate) columns: Vec<String>,
    pub(crate) rows: u64,
    storage: Storage,
    format: Format,
    limits: Limits,
}

#[derive(Debug)]
enum Storage {
    /// One frame per file, and the index of its first row.
    Frames(Vec<(u64, DataFrame)>),
    Rows(Vec<Row>),
    /// Too large for memory: read again on every pass.
    OnDisk,
}

impl Source {
    /// Hashes, measures and, where they fit, loads the files.
    pub(crate) fn open(files: Vec<PathBuf>, limits: &Limits) -> Result<Self, DataError> {
        let format = format_of(&files)?;
        let digest = digest_of(&files)?;
        let mut source = Self {
            files,
            digest,
            columns: Vec::new(),
            rows: 0,
            storage: Storage::OnDisk,
            format,
            limits: *limits,
        };
        match format {
            Format::Parquet => source.load_parquet()?,
            Format::Jsonl => source.load_jsonl()?,
            Format::Csv => source.load_csv()?,
        }
        Ok(source)
    }

    /// A row held in memory; `None` where the source is streamed or the index is too large.
    pub(crate) fn row_in_memory(&self, index: u64) -> Option<Result<Row, DataError>> {
        match &self.storage {
            Storage::Rows(rows) => rows.get(usize::try_from(index).ok()?).cloned().map(Ok),
            Storage::Frames(frames) => {
                let at = frames.partition_point(|(start, _)| *start <= index).checked_sub(1)?;
                let (start, frame) = &frames[at];
                let offset = usize::try_from(index - start).ok()?;
                (offset < frame.height()).then(|| self.convert(at, frame, offset, *start))
            }
            Storage::OnDisk => None,
        }
    }

    /// One column's values as JSON without building whole rows; `None` where rows are not in frames.
    pub(crate) fn column(&self, name: &str) -> Option<impl Iterator<Item = Value>> {
        let Storage::Frames(frames) = &self.storage else { return None };
        let columns: Option<Vec<_>> = frames.iter().map(|(_, frame)| frame.column(name).ok()).collect();
        Some(
            columns?
                .into_iter()
                .flat_map(|c| c.as_materialized_series().iter().map(|v| json_of(&v)).collect::<Vec<_>>()),
        )
    }

    pub(crate) fn in_memory(&self) -> bool {
        !matches!(self.storage, Storage::OnDisk)
    }

    /// One pass over all rows, from disk.
    pub(crate) fn stream(&self) -> SourceRows<'_> {
        SourceRows { source: self, file: 0, part: Part::Done, failed: false }
    }

    fn convert(&self, file: usize, frame: &DataFrame, offset: usize, start: u64) -> Result<Row, DataError> {
        let place = |field: String, message: String| DataError::Row {
            path: self.files[file].clone(),
            unit: "row",
            row: start + offset as u64 + 1,
            field: Some(field),
            message,
        };
        let row = row_of(frame, offset).map_err(|(field, message)| place(field, message))?;
        for (field, value) in &row {
            check_field(value, &self.limits).map_err(|message| place(field.clone(), message))?;
        }
        Ok(row)
    }

    fn load_parquet(&mut self) -> Result<(), DataError> {
        let shapes: Vec<ParquetShape> =
            self.files.iter().map(|f| parquet::shape(f, &self.limits)).collect::<Result<_, _>>()?;
        for shape in &shapes {
            self.same_columns(&shape.path, shape.columns.clone())?;
            self.rows += shape.groups.iter().sum::<usize>() as u64;
        }
        if shapes.iter().map(|s| s.unpacked_bytes).sum::<u64>() > self.limits.memory_bytes {
            return Ok(());
        }
        let mut frames = Vec::new();
        let mut start = 0;
        for shape in &shapes {
            let frame = parquet::read(&shape.path, 0, usize::MAX)?;
            let rows = frame.height() as u64;
            frames.push((start, frame));
            start += rows;
        }
        self.rows = start;
        self.storage = Storage::Frames(frames);
        Ok(())
    }

    fn load_jsonl(&mut self) -> Result<(), DataError> {
        let keep = self.fits_in_memory(8)?;
        let mut rows = Vec::new();
        for file in self.files.clone() {
            for row in read_jsonl(&file, &self.limits)? {
                let row = row?;
                if self.columns.is_empty() {
                    self.columns = row.keys().cloned().collect();
                }
                self.rows += 1;
                if keep {
                    rows.push(row);
                }
            }
        }
        if keep {
            self.storage = Storage::Rows(rows);
        }
        Ok(())
    }

    fn load_csv(&mut self) -> Result<(), DataError> {
        let keep = self.fits_in_memory(8)?;
        let mut frames = Vec::new();
        for file in self.files.clone() {
            for frame in CsvFrames::open(&file, &self.limits, keep)? {
                let frame = frame?;
                self.same_columns(
                    &file,
                    frame.get_column_names().into_iter().map(ToString::to_string).collect(),
                )?;
                let start = self.rows;
                self.rows += frame.height() as u64;
                if keep {
                    frames.push((start, frame));
                }
            }
        }
        if keep {
            self.storage = Storage::Frames(frames);
        }
        Ok(())
    }

    /// Judged by file sizes: `.gz` and `.zst` count as `packing` times their size.
    fn fits_in_memory(&self, packing: u64) -> Result<bool, DataError> {
        let mut bytes = 0;
        for file in &self.files {
            let size = fs_err::metadata(file).map_err(|e| DataError::file(file, e))?.len();
            bytes +=
                if matches!(extension(file), "gz" | "zst") { size.saturating_mul(packing) } else { size };
        }
        Ok(bytes <= self.limits.memory_bytes)
    }

    fn same_columns(&mut self, path: &Path, columns: Vec<String>) -> Result<(), DataError> {
        if self.columns.is_empty() {
            self.columns = columns;
            return Ok(());
        }
        if self.columns != columns {
            return Err(DataError::file(
                path,
                format!(
                    "its columns ({}) differ from the first file's ({})",
                    columns.join(", "),
                    self.columns.join(", ")
                ),
            ));
        }
        Ok(())
    }
}

fn format_of(files: &[PathBuf]) -> Result<Format, DataError> {
    let mut found = None;
    for path in files {
        let inner = match extension(path) {
            "gz" | "zst" => path.file_stem().map(Path::new).map_or("", extension),
            plain => plain,
        };
        let format = match inner {
            "parquet" if inner == extension(path) => Format::Parquet,
            "jsonl" | "json" | "ndjson" => Format::Jsonl,
            "csv" => Format::Csv,
            other => {
                return Err(DataError::file(
                    path,
                    format!(
                        "unknown kind of file `.{other}` (parquet, jsonl, csv; jsonl and csv also as .gz or .zst)"
                    ),
                ));
            }
        };
        if found.is_some_and(|first| first != format) {
            return Err(DataError::file(path, "a dataset cannot mix kinds of files"));
        }
        found = Some(format);
    }
    found.ok_or_else(|| DataError::Empty { dataset: String::new(), filter: None, files: Vec::new() })
}

/// SHA-256 over the bytes of all files in order.
fn digest_of(files: &[PathBuf]) -> Result<Digest, DataError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    for path in files {
        let mut file = fs_err::File::open(path).map_err(|e| DataError::file(path, e))?;
        loop {
            let read = file.read(&mut buffer).map_err(|e| DataError::file(path, e))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
        }
    }
    Ok(Digest::from_raw(&hasher.finalize()))
}

/// What is being read of the current file.
enum Part {
    Done,
    Jsonl(JsonlRows),
    Csv(CsvFrames),
    Parquet {
        slices: std::vec::IntoIter<(usize, usize)>,
    },
    /// Rows of one decoded frame; `start` is the file's row its first row is.
    Frame {
        frame: DataFrame,
        next: usize,
        start: u64,
        rest: Box<Self>,
    },
}

/// Rows of a [`Source`] read from disk; ends after the first error.
pub(crate) struct SourceRows<'a> {
    source: &'a Source,
    /// Index of the next file to open.
    file: usize,
    part: Part,
    failed: bool,
}

impl SourceRows<'_> {
    fn open_next(&mut self) -> Result<Part, DataError> {
        let path = &self.source.files[self.file];
        self.file += 1;
        Ok(match self.source.format {
            Format::Jsonl => Part::Jsonl(read_jsonl(path, &self.source.limits)?),
            Format::Csv => Part::Csv(CsvFrames::open(path, &self.source.limits, false)?),
            Format::Parquet => {
                let shape = parquet::shape(path, &self.source.limits)?;
                Part::Parquet { slices: slices(&shape.groups).into_iter() }
            }
        })
    }

    /// The next row of the current part, or `None` when it is used up.
    fn advance(&mut self) -> Option<Result<Row, DataError>> {
        loop {
            match std::mem::replace(&mut self.part, Part::Done) {
                Part::Done => return None,
                Part::Jsonl(mut rows) => {
                    let row = rows.next()?;
                    self.part = Part::Jsonl(rows);
                    return Some(row);
                }
                Part::Csv(mut frames) => match frames.next()? {
                    Ok(frame) => {
                        self.part =
                            Part::Frame { frame, next: 0, start: 0, rest: Box::new(Part::Csv(frames)) }
                    }
                    Err(error) => return Some(Err(error)),
                },
                Part::Parquet { mut slices } => {
                    let (start, rows) = slices.next()?;
                    match parquet::read(&self.source.files[self.file - 1], start, rows) {
                        Ok(frame) => {
                            let rest = Box::new(Part::Parquet { slices });
                            self.part = Part::Frame { frame, next: 0, start: start as u64, rest };
                        }
                        Err(error) => return Some(Err(error)),
                    }
                }
                Part::Frame { frame, next, start, rest } => {
                    if next == frame.height() {
                        self.part = *rest;
                        continue;
                    }
                    let row = self.source.convert(self.file - 1, &frame, next, start);
                    self.part = Part::Frame { frame, next: next + 1, start, rest };
                    return Some(row);
                }
            }
        }
    }
}

/// Cuts row groups into slices that fit in memory; a slice never spans two groups, so that no group is
/// decoded for a neighbour's sake.
fn slices(groups: &[usize]) -> Vec<(usize, usize)> {
    let mut cut = Vec::new();
    let mut start = 0;
    for rows in groups {
        let end = start + rows;
        while start < end {
            let taken = STREAM_ROWS.min(end - start);
            cut.push((start, taken));
            start += taken;
        }
    }
    cut
}

impl Iterator for SourceRows<'_> {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        loop {
            if let Some(row) = self.advance() {
                self.failed = row.is_err();
                return Some(row);
            }
            if self.file == self.source.files.len() {
                return None;
            }
            match self.open_next() {
                Ok(part) => self.part = part,
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
    }
}
