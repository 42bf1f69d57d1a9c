//! Weight files as one flat table of memory-mapped tensors, whatever the format.

mod gguf;
mod mapped_file;
mod names;
mod safetensors;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use evalign_core::Digest;
use sha2::{Digest as _, Sha256};

use crate::LmError;
pub(crate) use gguf::open_gguf;
use mapped_file::MappedFile;
pub(crate) use names::{Naming, Part};
pub(crate) use safetensors::{open_encoder, open_safetensors};

/// A tensor as it lies in its file: rows of `columns` elements, row-major, perhaps in quantised blocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RawTensor<'a> {
    pub(crate) path: &'a Path,
    pub(crate) name: &'a str,
    pub(crate) kind: GgmlDType,
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    pub(crate) bytes: &'a [u8],
}

impl<'a> RawTensor<'a> {
    /// Values that are in memory already: an adapter's, or weights that are being trained.
    pub(crate) fn of_host(values: &'a [f32], rows: usize, columns: usize) -> Self {
        let bytes = bytemuck::cast_slice(values);
        Self { path: Path::new(""), name: "", kind: GgmlDType::F32, rows, columns, bytes }
    }
}

impl RawTensor<'_> {
    pub(crate) fn error(&self, problem: impl std::fmt::Display) -> LmError {
        LmError::tensor(self.path, self.name, problem)
    }

    /// Bytes of one row. Rows are whole blocks: checked when the file was opened.
    pub(crate) fn row_bytes(&self) -> usize {
        self.columns / self.kind.block_size() * self.kind.type_size()
    }
}

#[derive(Debug)]
struct Entry {
    file: usize,
    kind: GgmlDType,
    shape: Vec<usize>,
    range: Range<usize>,
}

/// All tensors of a model.
#[derive(Debug)]
pub(crate) struct Weights {
    files: Vec<MappedFile>,
    tensors: BTreeMap<String, Entry>,
    pub(crate) naming: Naming,
    /// Hashed before the files: what else decides what the weights compute (`config.json`).
    prefix: Vec<u8>,
}

impl Weights {
    fn new(naming: Naming, prefix: Vec<u8>) -> Self {
        Self { files: Vec::new(), tensors: BTreeMap::new(), naming, prefix }
    }

    /// Registers a tensor after checking that it lies inside its file, in whole blocks.
    fn insert(
        &mut self,
        file: usize,
        name: String,
        kind: GgmlDType,
        shape: Vec<usize>,
        offset: u64,
    ) -> Result<(), LmError> {
        let path = &self.files[file].path;
        let available = self.files[file].bytes().len();
        let columns = shape.last().copied().unwrap_or(1);
        if !columns.is_multiple_of(kind.block_size()) {
            let problem = format!("rows of {columns} are not whole blocks of {}", kind.block_size());
            return Err(LmError::tensor(path, &name, problem));
        }
        let elements = shape.iter().try_fold(1usize, |product, size| product.checked_mul(*size));
        let range = elements
            .and_then(|elements| (elements / kind.block_size()).checked_mul(kind.type_size()))
            .and_then(|size| {
                usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(size)?))
            });
        let Some(range) = range else {
            let problem = format!("{shape:?} at byte {offset} is more than a file can hold");
            return Err(LmError::tensor(path, &name, problem));
        };
        if range.end > available {
            let end = range.end;
            let problem = format!("tensor `{name}` ends at byte {end}, the file has {available} bytes");
            return Err(LmError::format(path, format!("truncated: {problem}")));
        }
        if !range.start.is_multiple_of(kind_alignment(kind)) {
            return Err(LmError::tensor(path, &name, format!("misaligned at byte {offset}")));
        }
        self.tensors.insert(name, Entry { file, kind, shape, range });
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        self.files.first().map_or(Path::new(""), |file| &file.path)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor that must be there with exactly this shape: `[rows, columns]`, or `[columns]` when
    /// `rows` is 1.
    ///
    /// # Errors
    /// Missing, or another shape; both name the file and the tensor.
    pub(crate) fn tensor(&self, name: &str, rows: usize, columns: usize) -> Result<RawTensor<'_>, LmError> {
        let Some((name, entry)) = self.tensors.get_key_value(name) else {
            return Err(LmError::tensor(self.path(), name, "missing"));
        };
        let file = &self.files[entry.file];
        let fits = match entry.shape.as_slice() {
            [only] => rows == 1 && *only == columns,
            [first, second] => *first == rows && *second == columns,
            _ => false,
        };
        if !fits {
            let problem = format!("shape {:?}, expected [{rows}, {columns}]", entry.shape);
            return Err(LmError::tensor(&file.path, name, problem));
        }
        let bytes = &file.bytes()[entry.range.clone()];
        Ok(RawTensor { path: &file.path, name, kind: entry.kind, rows, columns, bytes })
    }

    /// The one output of a sequence classifier (transformers' `score`), if there is one.
    pub(crate) fn reward_head(&self, hidden: usize) -> Result<Option<Vec<f32>>, LmError> {
        if !self.contains(crate::adapter::HEAD) {
            return Ok(None);
        }
        let raw = self.tensor(crate::adapter::HEAD, 1, hidden)?;
        let mut values = vec![0.0; hidden];
        crate::kernels::dequantise(raw.kind, raw.bytes, &mut values).map_err(|error| raw.error(error))?;
        Ok(Some(values))
    }

    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(name).map(|entry| entry.shape.as_slice())
    }

    /// Name, rows and columns of every tensor that [`Weights::tensor`] can give, in order of their names.
    pub(crate) fn matrices(&self) -> impl Iterator<Item = (String, usize, usize)> {
        self.tensors.iter().filter_map(|(name, entry)| match *entry.shape.as_slice() {
            [columns] => Some((name.clone(), 1, columns)),
            [rows, columns] => Some((name.clone(), rows, columns)),
            _ => None,
        })
    }

    /// Number of weights in all tensors.
    pub(crate) fn parameters(&self) -> u64 {
        self.tensors.values().map(|entry| entry.shape.iter().product::<usize>() as u64).sum()
    }

    /// Size of everything that [`Weights::digest`] is of.
    pub(crate) fn bytes(&self) -> u64 {
        (self.prefix.len() + self.files.iter().map(|file| file.bytes().len()).sum::<usize>()) as u64
    }

    /// True when any tensor is held in quantised blocks.
    pub(crate) fn is_quantised(&self) -> bool {
        self.tensors.values().any(|entry| entry.kind.block_size() > 1)
    }

    /// SHA-256 over the bytes of a GGUF file; for a directory over `config.json` followed by the weight
    /// files in name order, because the configuration decides what the weights compute.
    pub(crate) fn digest(&self) -> Digest {
        let mut hasher = Sha256::new();
        hasher.update(&self.prefix);
        for file in &self.files {
            hasher.update(file.bytes());
        }
        Digest::from_raw(&hasher.finalize())
    }
}

/// Alignment candle's block structs need: their scales are f16, except for the 8-bit K blocks.
fn kind_alignment(kind: GgmlDType) -> usize {
    match kind {
        GgmlDType::F32 | GgmlDType::Q8K => 4,
        _ => 2,
    }
}
