//! Models on their way out: an adapter merged into its base, as a Hugging Face directory or a GGUF file.
//!
//! Everything is added up in f64 and rounded once, to f32; the result is loaded again and its logits are compared with
//! those of the base and its adapter before anything is called done.

mod description;
mod gguf;
mod tensors;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::quantized::GgmlDType;
use evalign_core::Dtype;

use crate::adapter::{Adapter, TEMPLATE_FILE};
use crate::training::{Module, WeightId};
use crate::{LanguageModel, LmError, LoadOptions};

/// Texts whose logits are compared: words, code, digits and other scripts.
const PROBES: [&str; 3] = [
    "The capital of France is Paris, and the river that flows through it is the Seine.",
    "def add(a, b):\n    return a + b\n\nprint(add(19, 23))  # 42",
    "Question: 12 * 7 = ?\nAnswer: 84. Größe, naïve, 東京, Москва.",
];
/// Largest difference of two logits that counts as rounding, as a share of the largest logit.
const TOLERANCE: f64 = 1e-4;

/// What a merged model is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergedForm {
    /// `config.json`, tokeniser and `model.safetensors` in f32.
    HuggingFace,
    /// One GGUF file; the base must be one too, whose metadata it takes over. Merged matrices are held in this type.
    Gguf(GgmlDType),
}

impl MergedForm {
    /// A GGUF file of this type: `f32`, `f16`, `q8_0`, ...
    #[must_use]
    pub fn gguf(kind: &str) -> Option<Self> {
        let kind = match kind {
            "f32" => GgmlDType::F32,
            "f16" => GgmlDType::F16,
            "q8_0" => GgmlDType::Q8_0,
            "q5_1" => GgmlDType::Q5_1,
            "q5_0" => GgmlDType::Q5_0,
            "q4_1" => GgmlDType::Q4_1,
            "q4_0" => GgmlDType::Q4_0,
            _ => return None,
        };
        Some(Self::Gguf(kind))
    }
}

/// What was written, and how well it agrees.
#[derive(Clone, Debug, PartialEq)]
pub struct Merged {
    pub path: PathBuf,
    /// Matrices that the adapter changed.
    pub merged: usize,
    /// Largest difference between the logits of base and adapter and those of what was written, over the probes.
    pub largest_difference: f64,
    pub largest_logit: f64,
    /// Positions compared.
    pub positions: usize,
}

/// Merges the adapter in a directory into the model it belongs to. `None` where `stop` was raised before its end: it is
/// looked at between matrices and steps.
///
/// # Errors
/// The adapter does not fit, `out` exists already, files cannot be written, or (in f32) the logits do not agree. Nothing
/// is left behind then, nor where it was stopped.
pub fn merge(
    base: &Path,
    adapter: &Path,
    out: &Path,
    form: MergedForm,
    stop: &AtomicBool,
) -> Result<Option<Merged>, LmError> {
    if out.exists() {
        let hint = "give another path as `--out`, or remove what is there";
        return Err(LmError::misplaced(out, "exists already", hint));
    }
    let unfinished = unfinished(out);
    let made = make(base, &Adapter::read(adapter)?, (out, &unfinished), form, stop);
    if made.is_err() {
        remove(&unfinished)?;
    }
    match made {
        Err(_) if stop.load(Ordering::Relaxed) => Ok(None),
        made => made.map(Some),
    }
}

/// Makes the merged model in the second of these places, checks it, and moves it to the first.
fn make(
    base: &Path,
    adapter: &Adapter,
    (out, unfinished): (&Path, &Path),
    form: MergedForm,
    stop: &AtomicBool,
) -> Result<Merged, LmError> {
    let plain = LoadOptions { dtype: Some(Dtype::F32), ..LoadOptions::default() };
    let mut model = LanguageModel::load(base, &plain)?;
    adapter.fits(&model)?;
    let changes = Changes { model: &model, adapter, stop };
    let matrices = write(base, &changes, unfinished, form)?;
    model.apply(adapter)?;
    let found = LanguageModel::load(unfinished, &plain)?;
    let merged = Merged { path: out.to_owned(), merged: matrices, ..compare(&model, &found, stop)? };
    let lossless = !matches!(form, MergedForm::Gguf(kind) if kind != GgmlDType::F32);
    if lossless && merged.largest_difference > TOLERANCE * merged.largest_logit.max(1.0) {
        let problem = format!(
            "the merged model's logits are up to {} from those of base and adapter (largest logit {})",
            merged.largest_difference, merged.largest_logit
        );
        return Err(LmError::format(out, problem));
    }
    go_on(stop)?;
    fs_err::rename(unfinished, out)?;
    Ok(merged)
}

/// An error where the work is to end, which [`merge`] knows by the flag.
fn go_on(stop: &AtomicBool) -> Result<(), LmError> {
    match stop.load(Ordering::Relaxed) {
        true => Err(std::io::Error::from(std::io::ErrorKind::Interrupted).into()),
        false => Ok(()),
    }
}

/// What lies beside `model.safetensors` in a Hugging Face directory (`config.json`, the tokeniser), as it is for the model
/// in `base`, so that weights trained from it can be loaded: names and contents of files.
///
/// # Errors
/// A file cannot be read, or the model is of a family that has no such description here.
pub fn description(base: &Path, model: &LanguageModel) -> Result<Vec<(String, Vec<u8>)>, LmError> {
    description::files(base, model)
}

/// A place beside `out` that the result is made in.
fn unfinished(out: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".unfinished-");
    name.push(out.file_name().unwrap_or_default());
    out.with_file_name(name)
}

fn remove(path: &Path) -> Result<(), LmError> {
    match fs_err::symlink_metadata(path) {
        Ok(found) if found.is_dir() => Ok(fs_err::remove_dir_all(path)?),
        Ok(_) => Ok(fs_err::remove_file(path)?),
        Err(_) => Ok(()),
    }
}

/// Writes the merged model and says how many matrices the adapter changed.
fn write(base: &Path, changes: &Changes<'_>, out: &Path, form: MergedForm) -> Result<usize, LmError> {
    remove(out)?;
    match form {
        MergedForm::HuggingFace => {
            fs_err::create_dir_all(out)?;
            for (name, contents) in description::files(base, changes.model)? {
                fs_err::write(out.join(name), contents)?;
            }
            if let Some(template) = &changes.adapter.chat_template {
                fs_err::write(out.join(TEMPLATE_FILE), template)?;
            }
            tensors::write(changes, &out.join("model.safetensors"))
        }
        MergedForm::Gguf(kind) => gguf::write(base, changes, out, kind),
    }
}

/// What a merge changes, until it is stopped.
struct Changes<'a> {
    model: &'a LanguageModel,
    adapter: &'a Adapter,
    stop: &'a AtomicBool,
}

impl Changes<'_> {
    /// A weight with its adapter added: `W + scale B A`, in DoRA rescaled to the magnitudes. Added up in f64, rounded
    /// once. With it, whether the adapter changes it.
    fn values(&self, id: WeightId) -> Result<(Vec<f32>, bool), LmError> {
        go_on(self.stop)?;
        let values = self.model.weight_values(id)?;
        let WeightId::Weight(layer, module) = id else { return Ok((values, false)) };
        let [_, inputs] = self.model.module_shape(module);
        let Some(found) = self.adapter.module(layer, module, inputs) else { return Ok((values, false)) };
        let scale = f64::from(found.scale);
        let mut merged = Vec::with_capacity(values.len());
        let mut row = vec![0.0f64; inputs];
        for (output, weights) in values.chunks_exact(inputs).enumerate() {
            row.iter_mut().zip(weights).for_each(|(row, weight)| *row = f64::from(*weight));
            let b = &found.b[output * found.rank..(output + 1) * found.rank];
            for (b, a) in b.iter().zip(found.a.chunks_exact(inputs)) {
                let factor = scale * f64::from(*b);
                row.iter_mut().zip(a).for_each(|(row, a)| *row += factor * f64::from(*a));
            }
            let gain = found.magnitude.map_or(1.0, |magnitude| {
                let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
                f64::from(magnitude[output]) / norm
            });
            merged.extend(row.iter().map(|value| (value * gain) as f32));
        }
        Ok((merged, true))
    }
}

/// Compares two models' logits on the probes.
fn compare(expected: &LanguageModel, found: &LanguageModel, stop: &AtomicBool) -> Result<Merged, LmError> {
    let mut result =
        Merged { path: PathBuf::new(), merged: 0, largest_difference: 0.0, largest_logit: 0.0, positions: 0 };
    for probe in PROBES {
        go_on(stop)?;
        let tokens = expected.tokenizer().encode(probe, true)?;
        let (a, b) = (expected.logits(&tokens)?, found.logits(&tokens)?);
        for (a, b) in a.iter().zip(&b) {
            let difference = f64::from((a - b).abs());
            // What is no number is as far off as can be.
            let difference = if difference.is_nan() { f64::INFINITY } else { difference };
            result.largest_difference = result.largest_difference.max(difference);
            result.largest_logit = result.largest_logit.max(f64::from(a.abs()));
        }
        result.positions += tokens.len();
    }
    Ok(result)
}

/// The matrices that a merge may change, by their ids.
fn matrices(model: &LanguageModel) -> impl Iterator<Item = WeightId> {
    let layers = model.layers();
    (0..layers).flat_map(|layer| Module::ALL.map(|module| WeightId::Weight(layer, module)))
}
