use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use candle_core::quantized::GgmlDType;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::gguf::map_gguf;
use super::mapped_file::MappedFile;
use super::{Naming, Weights};
use crate::LmError;
use crate::config::{ModelConfig, from_hugging_face};
use crate::encoder::QUANTISED_WEIGHTS;

/// Largest JSON header accepted. The crate's own cap is 100 MB; a header of a hundred thousand tensors
/// stays under this one.
const LARGEST_HEADER_BYTES: u64 = 32 << 20;

#[derive(Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

/// Opens a Hugging Face model directory: `config.json` and `model.safetensors`, or the shards that
/// `model.safetensors.index.json` names.
///
/// # Errors
/// A file is missing, malformed or truncated, names another directory, or holds a tensor in another type
/// than f32, f16 or bf16.
pub(crate) fn open_safetensors(directory: &Path) -> Result<(Weights, ModelConfig), LmError> {
    let config_path = directory.join("config.json");
    if !config_path.exists() {
        let problem = match file_with_extension(directory, "gguf")? {
            None => "there is no `config.json`".to_owned(),
            Some(name) => format!("a directory without `config.json`; name the file `{name}` in it instead"),
        };
        return Err(LmError::format(directory, problem));
    }
    let text = fs_err::read_to_string(&config_path)?;
    let config = from_hugging_face(&config_path, &text)?;
    Ok((map_directory(directory, text)?, config))
}

/// The weights of an encoder's directory: those of [`quantise_encoder`](crate::quantise_encoder) where there
/// are no others.
///
/// # Errors
/// As [`open_safetensors`].
pub(crate) fn open_encoder(directory: &Path) -> Result<Weights, LmError> {
    let text = fs_err::read_to_string(directory.join("config.json"))?;
    let quantised = directory.join(QUANTISED_WEIGHTS);
    if quantised.is_file() && !directory.join("model.safetensors").exists() {
        let weights = Weights::new(Naming::HuggingFace, text.into_bytes());
        return Ok(map_gguf(&quantised, weights)?.0);
    }
    map_directory(directory, text)
}

/// Maps `model.safetensors`, or the shards that `model.safetensors.index.json` names.
fn map_directory(directory: &Path, config: String) -> Result<Weights, LmError> {
    let mut weights = Weights::new(Naming::HuggingFace, config.into_bytes());
    let single = directory.join("model.safetensors");
    let index_path = directory.join("model.safetensors.index.json");
    if !single.exists() && !index_path.exists() {
        let mut problem =
            "there is neither `model.safetensors` nor `model.safetensors.index.json`".to_owned();
        if let Some(name) = file_with_extension(directory, "bin")? {
            problem += &format!(
                "; `{name}` is not read: save the model anew with `save_pretrained` of transformers"
            );
        }
        return Err(LmError::format(directory, problem));
    }
    if single.exists() {
        add_file(&mut weights, &single, None)?;
        return Ok(weights);
    }
    let index: Index = serde_json::from_str(&fs_err::read_to_string(&index_path)?)
        .map_err(|error| LmError::format(&index_path, error))?;
    let shards: BTreeSet<&String> = index.weight_map.values().collect();
    for shard in shards {
        if shard.contains(['/', '\\']) || shard.starts_with('.') {
            return Err(LmError::format(&index_path, format!("`{shard}` is not a file name")));
        }
        add_file(&mut weights, &directory.join(shard), Some((&index, shard)))?;
    }
    if let Some((name, shard)) = index.weight_map.iter().find(|(name, _)| !weights.contains(name)) {
        return Err(LmError::tensor(&directory.join(shard), name, "missing, though the index lists it"));
    }
    Ok(weights)
}

/// Name of the first file with this extension.
fn file_with_extension(directory: &Path, extension: &str) -> Result<Option<String>, LmError> {
    let mut first: Option<String> = None;
    for entry in fs_err::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let fits = Path::new(&name).extension().is_some_and(|found| found.eq_ignore_ascii_case(extension));
        if fits && first.as_ref().is_none_or(|known| name < *known) {
            first = Some(name);
        }
    }
    Ok(first)
}

/// Maps one file and registers its tensors; with an index, only those the index places in this file.
fn add_file(weights: &mut Weights, path: &Path, index: Option<(&Index, &str)>) -> Result<(), LmError> {
    let file = MappedFile::open(path)?;
    let declared = file.bytes().first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    match declared {
        None => return Err(LmError::format(path, "truncated: shorter than a safetensors header")),
        Some(length) if length > LARGEST_HEADER_BYTES => {
            return Err(LmError::format(
                path,
                format!("header of {length} bytes, at most {LARGEST_HEADER_BYTES}"),
            ));
        }
        Some(_) => {}
    }
    let (header_bytes, metadata) = SafeTensors::read_metadata(file.bytes())
        .map_err(|error| LmError::format(path, format!("not a readable safetensors file: {error}")))?;
    let data_start = (header_bytes + 8) as u64;
    let index_in_table = weights.files.len();
    weights.files.push(file);
    for name in metadata.offset_keys() {
        let Some(info) = metadata.info(&name) else { continue };
        // 0, 1, 2 and so on, which older versions of transformers saved with every BERT.
        if name.ends_with("embeddings.position_ids") {
            continue;
        }
        if index.is_some_and(|(index, shard)| index.weight_map.get(&name).is_none_or(|file| file != shard)) {
            continue;
        }
        let kind = match info.dtype {
            Dtype::F32 => GgmlDType::F32,
            Dtype::F16 => GgmlDType::F16,
            Dtype::BF16 => GgmlDType::BF16,
            other => {
                return Err(LmError::tensor(path, &name, format!("type {other:?} is not f32, f16 or bf16")));
            }
        };
        let offset = data_start + info.data_offsets.0 as u64;
        weights.insert(index_in_table, name, kind, info.shape.clone(), offset)?;
    }
    Ok(())
}
