//! Texts to vectors: a BERT encoder on the same backends as the decoder.
//!
//! Texts of a call are laid one after the other (no padding), cut into steps of a fixed token budget. On the
//! CPU a text's vector does not depend on what shares its step, bit for bit.

mod config;
mod forward;
mod onnx;
mod quantise;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use evalign_core::{Digest, Dtype};

use crate::backend::{CandleBackend, CandleBuffer, CpuBackend, CpuBuffer};
use crate::weights::open_encoder;
use crate::{DeviceSpec, LmError, LoadOptions, Tokenizer};
use config::EncoderConfig;
pub use config::{Pooling, SentenceConfig};
use forward::{Encoder, Workspace};
pub use onnx::{ONNX_WEIGHTS, export_onnx};
pub use quantise::{QUANTISED_WEIGHTS, quantise_encoder};

/// Files of an encoder beside its weights.
const BESIDE_WEIGHTS: &[&str] = &[
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "1_Pooling/config.json",
    "special_tokens_map.json",
    "tokenizer_config.json",
    "tokenizer.json",
];

/// Tokens computed together: enough to keep all cores busy, few enough for activations to stay near them.
const STEP_TOKENS: usize = 1024;

/// What an encoder is, as far as its vectors depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncoderIdentity {
    /// SHA-256 of `config.json` followed by the weights.
    pub weights: Digest,
    pub tokenizer: Digest,
    pub dimensions: usize,
    /// Most tokens of one text, special ones included.
    pub max_tokens: usize,
    pub pooling: Pooling,
    /// Vectors have length 1.
    pub normalised: bool,
    pub dtype: Dtype,
    /// `cpu`, `cuda:0`, `metal`.
    pub device: String,
}

/// A text as the encoder reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EncodedText {
    /// With the special tokens around it; at most [`EncoderIdentity::max_tokens`].
    pub ids: Vec<u32>,
    /// Tokens at the end of the text that did not fit.
    pub dropped_tokens: usize,
}

#[derive(Debug)]
enum Engine {
    Cpu(Box<Encoder<CpuBackend>>, Mutex<Workspace<CpuBuffer>>),
    Candle(Encoder<CandleBackend>, Mutex<Workspace<CandleBuffer>>),
}

/// A text encoder, ready to embed.
#[derive(Debug)]
pub struct TextEncoder {
    engine: Engine,
    identity: EncoderIdentity,
    tokenizer: Tokenizer,
    vocab_size: usize,
}

impl TextEncoder {
    /// Loads a directory as sentence-transformers saves it (`config.json`, `modules.json`, tokeniser, and
    /// weights as `model.safetensors` or as [`quantise_encoder`] writes them).
    ///
    /// # Errors
    /// Missing or inconsistent files, an architecture, activation or pooling that is not implemented, or a
    /// device this build or machine does not have.
    pub fn load(directory: &Path, options: &LoadOptions) -> Result<Self, LmError> {
        let config = EncoderConfig::read(directory)?;
        let sentence = SentenceConfig::read(directory)?;
        let weights = open_encoder(directory)?;
        let tokenizer = Tokenizer::from_directory(directory).map_err(|error| error.in_model(directory))?;
        let dtype = options.dtype.unwrap_or(match (weights.is_quantised(), options.device) {
            (true, _) => Dtype::Q,
            (false, DeviceSpec::Cpu) => Dtype::F32,
            (false, DeviceSpec::Cuda(_) | DeviceSpec::Metal) => Dtype::Bf16,
        });
        let engine = match options.device {
            DeviceSpec::Cpu => {
                let backend = CpuBackend::new(options.threads, dtype)?;
                Engine::Cpu(Box::new(Encoder::load(backend, &config, &weights)?), Mutex::default())
            }
            DeviceSpec::Cuda(_) | DeviceSpec::Metal => {
                let backend = CandleBackend::new(options.device, dtype)?;
                Engine::Candle(Encoder::load(backend, &config, &weights)?, Mutex::default())
            }
        };
        let device = match &engine {
            Engine::Cpu(encoder, _) => encoder.device_name(),
            Engine::Candle(encoder, _) => encoder.device_name(),
        };
        let identity = EncoderIdentity {
            weights: weights.digest(),
            tokenizer: tokenizer.digest().clone(),
            dimensions: config.hidden_size,
            max_tokens: sentence.max_tokens,
            pooling: sentence.pooling,
            normalised: sentence.normalised,
            dtype,
            device,
        };
        Ok(Self { engine, identity, tokenizer, vocab_size: config.vocab_size })
    }

    #[must_use]
    pub fn identity(&self) -> &EncoderIdentity {
        &self.identity
    }

    /// Token ids of a text, cut at the end to what the encoder was made for; what was cut is counted.
    ///
    /// # Errors
    /// [`LmError::Tokenizer`] when the pipeline fails on the text.
    pub fn tokenise(&self, text: &str) -> Result<EncodedText, LmError> {
        let mut ids = self.tokenizer.encode(text, true)?;
        let dropped_tokens = ids.len().saturating_sub(self.identity.max_tokens);
        if dropped_tokens > 0 {
            // What the tokeniser puts after a text stays there.
            let suffix = self.tokenizer.suffix();
            ids.truncate(self.identity.max_tokens.saturating_sub(suffix.len()));
            ids.extend_from_slice(suffix);
        }
        Ok(EncodedText { ids, dropped_tokens })
    }

    /// Tokens of a text, special ones included, however long it is.
    ///
    /// # Errors
    /// As [`TextEncoder::tokenise`].
    pub fn count_tokens(&self, text: &str) -> Result<usize, LmError> {
        Ok(self.tokenizer.encode(text, true)?.len())
    }

    /// One vector of [`EncoderIdentity::dimensions`] numbers for each text, in their order.
    ///
    /// # Errors
    /// [`LmError::Request`] for a text that is empty, too long or holds a token the vocabulary does not have.
    pub fn embed(&self, texts: &[Vec<u32>]) -> Result<Vec<Vec<f32>>, LmError> {
        for (index, ids) in texts.iter().enumerate() {
            self.check(index, ids)?;
        }
        let mut vectors = Vec::with_capacity(texts.len());
        for step in steps(texts) {
            let mut tokens = Vec::new();
            let mut sequences = Vec::new();
            for ids in &texts[step] {
                sequences.push(tokens.len()..tokens.len() + ids.len());
                tokens.extend_from_slice(ids);
            }
            match &self.engine {
                Engine::Cpu(encoder, work) => {
                    let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                    self.pool(encoder.forward(&tokens, &sequences, &mut work)?, &sequences, &mut vectors);
                }
                Engine::Candle(encoder, work) => {
                    let mut work = work.lock().unwrap_or_else(PoisonError::into_inner);
                    self.pool(encoder.forward(&tokens, &sequences, &mut work)?, &sequences, &mut vectors);
                }
            }
        }
        match &self.engine {
            Engine::Cpu(encoder, _) => encoder.rest(),
            Engine::Candle(encoder, _) => encoder.rest(),
        }
        Ok(vectors)
    }

    fn check(&self, index: usize, ids: &[u32]) -> Result<(), LmError> {
        let most = self.identity.max_tokens;
        if ids.is_empty() || ids.len() > most {
            return Err(LmError::Request(format!("text {index} has {} tokens, not 1 to {most}", ids.len())));
        }
        match ids.iter().find(|id| **id as usize >= self.vocab_size) {
            Some(id) => Err(LmError::Request(format!("text {index} holds token {id}, which does not exist"))),
            None => Ok(()),
        }
    }

    /// Hidden states of sequences to vectors.
    fn pool(&self, hidden: &[f32], sequences: &[Range<usize>], vectors: &mut Vec<Vec<f32>>) {
        let width = self.identity.dimensions;
        for rows in sequences {
            let rows = hidden[rows.start * width..rows.end * width].chunks_exact(width);
            let mut sums = vec![0.0_f64; width];
            let counted = match self.identity.pooling {
                Pooling::Mean => rows.len(),
                Pooling::Cls => 1,
            };
            for row in rows.take(counted) {
                sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += f64::from(*value));
            }
            let length = sums.iter().map(|sum| sum * sum).sum::<f64>().sqrt();
            // A vector of zeros has no direction: it stays what it is.
            let scale = match self.identity.normalised {
                true if length > 0.0 => length,
                _ => counted as f64,
            };
            vectors.push(sums.into_iter().map(|sum| (sum / scale) as f32).collect());
        }
    }
}

/// Copies what belongs to an encoder besides its weights, as far as it is there.
fn copy_beside_weights(directory: &Path, target: &Path) -> Result<(), LmError> {
    fs_err::create_dir_all(target)?;
    // A file that is copied onto itself is lost.
    if fs_err::canonicalize(directory)? == fs_err::canonicalize(target)? {
        return Ok(());
    }
    for file in BESIDE_WEIGHTS {
        let (from, to) = (directory.join(file), target.join(file));
        if from.is_file() {
            if let Some(parent) = to.parent() {
                fs_err::create_dir_all(parent)?;
            }
            fs_err::copy(from, to)?;
        }
    }
    Ok(())
}

/// Cuts texts into runs of [`STEP_TOKENS`] tokens; a longer text is a step of its own.
fn steps(texts: &[Vec<u32>]) -> Vec<Range<usize>> {
    let mut steps = Vec::new();
    let (mut start, mut tokens) = (0, 0);
    for (index, ids) in texts.iter().enumerate() {
        if index > start && tokens + ids.len() > STEP_TOKENS {
            steps.push(start..index);
            (start, tokens) = (index, 0);
        }
        tokens += ids.len();
    }
    if start < texts.len() {
        steps.push(start..texts.len());
    }
    steps
}
