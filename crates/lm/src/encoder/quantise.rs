//! An encoder's weights in 8-bit blocks.

use std::path::Path;

use candle_core::quantized::gguf_file::{self, Value};
use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};
use evalign_core::Digest;

use super::config::{EncoderConfig, SentenceConfig};
use super::copy_beside_weights;
use crate::LmError;
use crate::kernels::dequantise;
use crate::weights::{RawTensor, open_encoder};

/// Name of the file that takes the place of `model.safetensors`.
pub const QUANTISED_WEIGHTS: &str = "model-q8_0.gguf";

/// Writes [`QUANTISED_WEIGHTS`] from a directory's `model.safetensors`, with what belongs to the model beside it,
/// and returns the file's digest. Matrices
/// become GGML's Q8_0 (blocks of 32 inputs of one output with a scale of their own); norms and biases, and
/// matrices whose rows are no whole blocks, stay f32.
///
/// The file appears under its name only when it is complete.
///
/// # Errors
/// As [`super::TextEncoder::load`]; also when the file cannot be written.
pub fn quantise_encoder(directory: &Path, target: &Path) -> Result<Digest, LmError> {
    EncoderConfig::read(directory)?;
    SentenceConfig::read(directory)?;
    let weights = open_encoder(directory)?;
    let mut tensors = Vec::new();
    for (name, rows, columns) in weights.matrices() {
        let raw = weights.tensor(&name, rows, columns)?;
        let kind = if rows > 1 && columns.is_multiple_of(GgmlDType::Q8_0.block_size()) {
            GgmlDType::Q8_0
        } else {
            GgmlDType::F32
        };
        tensors.push((name.clone(), quantised(&raw, kind)?));
    }
    let architecture = Value::String("evalign-encoder".to_owned());
    let quantisation = Value::U32(1);
    let metadata = [("general.architecture", &architecture), ("evalign.encoder.version", &quantisation)];
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    copy_beside_weights(directory, target)?;
    let path = target.join(QUANTISED_WEIGHTS);
    let unfinished = path.with_extension("incomplete");
    let mut file = std::io::BufWriter::new(fs_err::File::create(&unfinished)?);
    gguf_file::write(&mut file, &metadata, &tensors)?;
    let file = file.into_inner().map_err(std::io::IntoInnerError::into_error)?;
    file.sync_all()?;
    fs_err::rename(&unfinished, &path)?;
    Ok(Digest::of(fs_err::read(&path)?))
}

fn quantised(raw: &RawTensor<'_>, kind: GgmlDType) -> Result<QTensor, LmError> {
    let mut values = vec![0.0f32; raw.rows * raw.columns];
    dequantise(raw.kind, raw.bytes, &mut values).map_err(|error| raw.error(error))?;
    let tensor = match raw.rows {
        1 => Tensor::from_vec(values, raw.columns, &Device::Cpu)?,
        rows => Tensor::from_vec(values, (rows, raw.columns), &Device::Cpu)?,
    };
    Ok(QTensor::quantize(&tensor, kind)?)
}
