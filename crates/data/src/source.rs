mod blocks;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use evalign_core::Digest;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use self::blocks::{Block, Content, Place, Shelf, Stamp};
use crate::cell::{cell_of, row_of};
use crate::jsonl::{TOO_LARGE, check_field};
use crate::parquet::ParquetFile;
use crate::records::{RecordReader, Records, TextKind};
use crate::unpack::extension;
use crate::{DataError, Limits, Row};

/// Opened files of one split, in order: checked once and cut into blocks of rows, each of which can be read
/// without the others. The blocks used last are kept, as far as the memory limit goes: all of a file of
/// ordinary size.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) digest: Digest,
    pub(crate) columns: Vec<String>,
    /// Columns that are not read, and their types.
    pub(crate) unread: BTreeMap<String, &'static str>,
    pub(crate) rows: u64,
    format: Format,
    blocks: Vec<Block>,
    /// The files as they were when they were checked.
    stamps: Vec<Stamp>,
    limits: Limits,
    shelf: Shelf,
}

#[derive(Debug)]
enum Format {
    Parquet(Vec<ParquetFile>),
    Text(TextKind),
}

impl Source {
    /// Hashes, checks and measures the files, and loads them where they fit.
    pub(crate) fn open(files: Vec<PathBuf>, limits: &Limits) -> Result<Self, DataError> {
        let text = text_kind(&files)?;
        let stamps = files.iter().map(|file| Stamp::of(file)).collect::<Result<_, _>>()?;
        let digest = digest_of(&files)?;
        let mut source = Self {
            files,
            digest,
            columns: Vec::new(),
            unread: BTreeMap::new(),
            rows: 0,
            format: text.map_or_else(|| Format::Parquet(Vec::new()), Format::Text),
            blocks: Vec::new(),
            stamps,
            limits: *limits,
            shelf: Shelf::default(),
        };
        match text {
            Some(kind) => source.open_text(kind)?,
            None => source.open_parquet()?,
        }
        Ok(source)
    }

    /// Row `index`; `None` behind the last one.
    pub(crate) fn row(&self, index: u64) -> Option<Result<Row, DataError>> {
        let at = self.blocks.partition_point(|block| block.first_row <= index).checked_sub(1)?;
        let block = &self.blocks[at];
        let offset = usize::try_from(index - block.first_row).ok().filter(|offset| *offset < block.rows)?;
        match self.content(at) {
            Ok(content) => self.row_of(block, &content, offset),
            Err(error) => Some(Err(error)),
        }
    }

    /// One column's values as JSON, in order; null where a row lacks it.
    pub(crate) fn column(&self, name: &str) -> impl Iterator<Item = Result<Value, DataError>> {
        self.blocks.iter().enumerate().flat_map(move |(at, block)| match self.content(at) {
            Ok(content) => (0..block.rows).map(|offset| self.value(block, &content, offset, name)).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// A value of a column without the row's others, where they lie apart.
    fn value(&self, block: &Block, content: &Content, row: usize, name: &str) -> Result<Value, DataError> {
        if let Content::Frame(frame) = content {
            let Ok(column) = frame.column(name) else { return Ok(Value::Null) };
            return cell_of(column, row).map_err(|m| self.cell_error(block, row, name.to_owned(), m, None));
        }
        let row = self.row_of(block, content, row).transpose()?;
        Ok(row.and_then(|mut row| row.remove(name)).unwrap_or(Value::Null))
    }

    fn content(&self, at: usize) -> Result<std::sync::Arc<Content>, DataError> {
        self.shelf.get(at, self.limits.memory_bytes, |cursor| self.load(&self.blocks[at], cursor))
    }

    /// Reads a block from disk. `cursor` is the text file that was read last, which goes on where it stands.
    fn load(
        &self,
        block: &Block,
        cursor: &mut Option<(usize, RecordReader<'static>)>,
    ) -> Result<Content, DataError> {
        let path = &self.files[block.file];
        self.stamps[block.file].check(path)?;
        let changed = || DataError::unfit(path, blocks::CHANGED, blocks::AGAIN);
        match (&block.place, &self.format) {
            (Place::Groups(groups), Format::Parquet(files)) => {
                files[block.file].read(groups).map(Content::Frame)
            }
            (Place::Text { offset, line }, Format::Text(kind)) => {
                let place = (*offset, *line);
                let mut reader = match cursor.take() {
                    Some((file, reader)) if file == block.file && reader.place() == place => reader,
                    _ => RecordReader::open_at(path, &self.limits, *kind, place)?,
                };
                let records = reader.block(blocks::TEXT_BYTES)?;
                *cursor = Some((block.file, reader));
                if records.len() == block.rows { Ok(Content::Records(records)) } else { Err(changed()) }
            }
            _ => Err(changed()),
        }
    }

    fn row_of(&self, block: &Block, content: &Content, offset: usize) -> Option<Result<Row, DataError>> {
        match (content, &self.format) {
            (Content::Records(records), Format::Text(kind)) => {
                records.row(offset, (*kind, &self.columns), &self.files[block.file], &self.limits)
            }
            (Content::Frame(frame), _) => {
                let row = row_of(frame, offset)
                    .map_err(|(field, m)| self.cell_error(block, offset, field, m, None));
                Some(row.and_then(|row| {
                    for (field, value) in &row {
                        check_field(value, &self.limits).map_err(|message| {
                            self.cell_error(block, offset, field.clone(), message, Some(TOO_LARGE))
                        })?;
                    }
                    Ok(row)
                }))
            }
            (Content::Records(_), Format::Parquet(_)) => None,
        }
    }

    fn cell_error(
        &self,
        block: &Block,
        offset: usize,
        field: String,
        message: String,
        mend: Option<&str>,
    ) -> DataError {
        let before: u64 = self.blocks.iter().filter(|b| b.file < block.file).map(|b| b.rows as u64).sum();
        DataError::Row {
            path: self.files[block.file].clone(),
            unit: "row",
            row: block.first_row - before + offset as u64 + 1,
            field: Some(field),
            message,
            mend: Some(mend.unwrap_or(crate::parquet::CONVERT).to_owned()),
        }
    }

    fn open_parquet(&mut self) -> Result<(), DataError> {
        let files: Vec<ParquetFile> =
            self.files.iter().map(|f| ParquetFile::open(f, &self.limits)).collect::<Result<_, _>>()?;
        let block_bytes = self.limits.block_bytes();
        for (index, file) in files.iter().enumerate() {
            self.same_columns(&file.path, file.columns.clone())?;
            self.unread.extend(file.unread.iter().cloned());
            for groups in file.blocks(block_bytes) {
                let rows = groups.rows;
                self.blocks.push(Block {
                    file: index,
                    first_row: self.rows,
                    rows,
                    place: Place::Groups(groups),
                });
                self.rows += rows as u64;
            }
        }
        let unpacked: u64 = files.iter().map(|file| file.unpacked_bytes).sum();
        self.format = Format::Parquet(files);
        if unpacked <= self.limits.memory_bytes {
            for at in 0..self.blocks.len() {
                self.content(at)?;
            }
        }
        Ok(())
    }

    fn open_text(&mut self, kind: TextKind) -> Result<(), DataError> {
        for (file, path) in self.files.clone().into_iter().enumerate() {
            let (mut reader, header) = RecordReader::open(&path, &self.limits, kind)?;
            if kind.separator().is_some() {
                self.same_columns(&path, header)?;
            }
            loop {
                let (offset, line) = reader.place();
                let records = reader.block(blocks::TEXT_BYTES)?;
                if records.len() == 0 {
                    break;
                }
                self.check_records(&records, kind, &path)?;
                let rows = records.len();
                let place = Place::Text { offset, line };
                self.blocks.push(Block { file, first_row: self.rows, rows, place });
                self.rows += rows as u64;
                self.shelf.put(self.blocks.len() - 1, Content::Records(records), self.limits.memory_bytes);
            }
        }
        Ok(())
    }

    /// Reads every record once: an error shows before anything is measured.
    fn check_records(&mut self, records: &Records, kind: TextKind, path: &Path) -> Result<(), DataError> {
        for index in 0..records.len() {
            let row = records.row(index, (kind, &self.columns), path, &self.limits).transpose()?;
            if let (true, Some(row)) = (self.columns.is_empty(), row) {
                self.columns = row.keys().cloned().collect();
            }
        }
        Ok(())
    }

    fn same_columns(&mut self, path: &Path, columns: Vec<String>) -> Result<(), DataError> {
        if self.columns.is_empty() {
            self.columns = columns;
            return Ok(());
        }
        if self.columns != columns {
            let (here, first) = (columns.join(", "), self.columns.join(", "));
            return Err(DataError::unfit(
                path,
                format!("its columns ({here}) differ from the first file's ({first})"),
                "the files of a split have the same columns in the same order: write them so, or name one file",
            ));
        }
        Ok(())
    }
}

/// How the text in the files lies; `None` for parquet.
fn text_kind(files: &[PathBuf]) -> Result<Option<TextKind>, DataError> {
    const KINDS: &str =
        "name the file for what it is: parquet, jsonl, csv; jsonl and csv also as .gz or .zst";
    let mut found = None;
    for path in files {
        let inner = match extension(path) {
            "gz" | "zst" => path.file_stem().map(Path::new).map_or("", extension),
            plain => plain,
        };
        let kind = match inner {
            "parquet" if inner == extension(path) => None,
            "jsonl" | "json" | "ndjson" => Some(TextKind::Jsonl),
            "csv" => Some(TextKind::Csv),
            other => {
                let message = format!(
                    "unknown kind of file `.{other}` (parquet, jsonl, csv; jsonl and csv also as .gz or .zst)"
                );
                return Err(DataError::unfit(path, message, KINDS));
            }
        };
        if found.is_some_and(|first| first != kind) {
            return Err(DataError::unfit(
                path,
                "a dataset cannot mix kinds of files",
                "name files of one kind",
            ));
        }
        found = Some(kind);
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
