use std::collections::HashMap;
use std::io::Cursor;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use candle_core::quantized::gguf_file::{Content, Value};

use super::mapped_file::MappedFile;
use super::{Naming, Part, Weights};
use crate::LmError;
use crate::config::{ModelConfig, TensorFacts, from_gguf};
use crate::kernels::dequantise;

/// Key/value metadata. Looked up by key only, never iterated.
type GgufMetadata = HashMap<String, Value>;

/// Opens a GGUF file: metadata, tensor table, configuration. No tensor is read yet.
///
/// # Errors
/// Not a GGUF file, truncated, or an architecture or tensor type this engine does not implement.
pub(crate) fn open_gguf(path: &Path) -> Result<(Weights, ModelConfig, GgufMetadata), LmError> {
    let (weights, metadata) = map_gguf(path, Weights::new(Naming::Gguf, Vec::new()))?;
    let config = from_gguf(path, &metadata, facts(path, &weights)?)?;
    Ok((weights, config, metadata))
}

/// Maps the file and registers its tensors.
pub(super) fn map_gguf(path: &Path, mut weights: Weights) -> Result<(Weights, GgufMetadata), LmError> {
    let file = MappedFile::open(path)?;
    check_header(path, file.bytes())?;
    let content = read_content(file.bytes())
        .map_err(|problem| LmError::format(path, format!("not a readable GGUF file: {problem}")))?;
    weights.files.push(file);
    let mut infos: Vec<_> = content.tensor_infos.into_iter().collect();
    // From the end of the file: of a truncated one, the first tensor looked at tells the size it should have.
    infos.sort_by(|(a_name, a), (b_name, b)| b.offset.cmp(&a.offset).then_with(|| a_name.cmp(b_name)));
    for (name, info) in infos {
        if matches!(info.ggml_dtype, GgmlDType::Q8_1 | GgmlDType::Q8K) {
            return Err(LmError::tensor(
                path,
                &name,
                format!("type {:?} is not a storage type", info.ggml_dtype),
            ));
        }
        let offset = content.tensor_data_offset.saturating_add(info.offset);
        weights.insert(0, name, info.ggml_dtype, info.shape.dims().to_vec(), offset)?;
    }
    Ok((weights, content.metadata))
}

/// candle would report a wrong magic in hexadecimal.
fn check_header(path: &Path, bytes: &[u8]) -> Result<(), LmError> {
    match bytes.get(..4) {
        Some(b"GGUF") => Ok(()),
        Some(_) => Err(LmError::format(path, "not a GGUF file (it does not begin with `GGUF`)")),
        None => Err(LmError::format(path, "truncated: shorter than a GGUF header")),
    }
}

/// Parses the header. candle 0.11 divides by the declared alignment without looking at it, so a panic of
/// its reader counts as a malformed file.
fn read_content(bytes: &[u8]) -> Result<Content, String> {
    match std::panic::catch_unwind(|| Content::read(&mut Cursor::new(bytes))) {
        Ok(Ok(content)) => Ok(content),
        // candle appends a backtrace to its errors where one is enabled.
        Ok(Err(error)) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
        Err(_) => Err("its alignment or a size is out of range".to_owned()),
    }
}

fn facts(path: &Path, weights: &Weights) -> Result<TensorFacts, LmError> {
    let embedding = Naming::Gguf.weight(Part::Embedding, 0);
    let vocab_size = match weights.shape(&embedding) {
        Some([rows, _]) => *rows,
        Some(shape) => {
            return Err(LmError::tensor(path, &embedding, format!("shape {shape:?} is not a matrix")));
        }
        None => return Err(LmError::tensor(path, &embedding, "missing")),
    };
    let rope_divisors = match weights.shape("rope_freqs.weight") {
        Some(&[length]) => {
            let raw = weights.tensor("rope_freqs.weight", 1, length)?;
            let mut values = vec![0.0; length];
            dequantise(raw.kind, raw.bytes, &mut values).map_err(|error| raw.error(error))?;
            Some(values)
        }
        Some(shape) => {
            return Err(LmError::tensor(
                path,
                "rope_freqs.weight",
                format!("shape {shape:?} is not a vector"),
            ));
        }
        None => None,
    };
    let has = |part| weights.contains(&Naming::Gguf.bias(part, 0));
    Ok(TensorFacts {
        vocab_size,
        has_output: weights.contains(&Naming::Gguf.weight(Part::Head, 0)),
        has_qkv_bias: has(Part::Query),
        has_output_bias: has(Part::AttentionOutput),
        has_mlp_bias: has(Part::Gate),
        rope_divisors,
    })
}
