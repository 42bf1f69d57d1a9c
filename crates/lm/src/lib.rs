//! A causal language model on the local machine: load it, ask for log-probabilities or text. Beside it, on the
//! same kernels, a text encoder: texts to vectors.
//!
//! What this crate owns: weight files (GGUF, safetensors), the tokeniser and chat template that belong
//! to them, one decoder definition driven by the model's own configuration, and the three operations
//! everything else is built from: log-likelihood of continuations, generation, perplexity.
//!
//! The one decision: requests come as a whole set, and the set is walked as a *prefix tree*. A token
//! that many requests share (task description, worked examples, question) goes through the model once;
//! its keys and values live in pages of a bounded pool that all descendants read. Work is cut into
//! ragged steps of a fixed token budget, so memory never depends on the number of requests.
//!
//! A token's result depends on the tokens before it and on nothing else: neither on what shares its
//! batch, nor on where a prefix was cut, nor on the memory budget. On the CPU this holds bit for bit.
//!
//! State of a call: `plan` (sorted walk) -> `step` (prefill, pages fill) -> `score`/`generate` (rows
//! projected, results handed out as soon as an item has all of its rows) -> pages freed.
//!
//! This crate must not know tasks, runs, storage or HTTP. Everything here is synchronous; `unsafe` is
//! confined to `kernels` and to memory maps.

pub mod adapter;
mod backend;
mod chat_template;
mod config;
mod constraint;
mod decoder;
mod encoder;
mod error;
pub mod export;
mod generate;
pub mod kernels;
mod kv;
mod language_model;
mod memory;
mod options;
mod parallel;
mod perplexity;
mod plan;
mod request;
mod reward;
mod rope;
mod sample;
mod score;
mod step;
mod tensor_file;
#[cfg(test)]
mod tests;
mod text_watch;
mod tokenizer;
pub mod training;
mod walk;
mod weights;

pub use chat_template::ChatTemplate;
pub use encoder::{
    EncodedText, EncoderIdentity, ONNX_WEIGHTS, Pooling, QUANTISED_WEIGHTS, SentenceConfig, TextEncoder,
    export_onnx, quantise_encoder,
};
pub use error::LmError;
pub use generate::{Feed, Piece};
pub use jiff::civil::DateTime;
pub use language_model::{Identity, LanguageModel};
pub use memory::available_memory_bytes;
pub use options::{DeviceSpec, LoadOptions};
pub use perplexity::rolling_windows;
pub use request::{
    ChoiceScore, EngineStats, Event, GenerateItem, GenerateOutput, PerplexityOutput, ScoreItem, ScoreOutput,
    TokenScore, statistics,
};
pub use reward::{pooled_index, reward_of};
pub use tensor_file::write_tensors;
pub use tokenizer::Tokenizer;
