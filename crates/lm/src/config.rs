//! What a decoder looks like, read from `config.json` or from GGUF metadata.

mod gguf;
mod hugging_face;

pub(crate) use gguf::{TensorFacts, from_gguf};
pub(crate) use hugging_face::from_hugging_face;

use crate::rope::RopeConfig;

/// What can be done about an architecture that is none of those this engine knows.
const HINT_ARCHITECTURE: &str = "supported are decoders of the Llama family: Llama, Mistral, SmolLM, Qwen2, \
                                 Qwen2.5 and Qwen3, from a GGUF file or a Hugging Face directory";
/// What can be done about a member of the family with a part that this engine does not know.
const HINT_PART: &str =
    "this engine computes decoders of the Llama family without this variation; use another model";

/// More layers than any model has: keeps a malformed file from allocating.
const MOST_LAYERS: usize = 1 << 12;

/// One layer's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayerAttention {
    /// SmolLM3 leaves positions out of every fourth layer (NoPE).
    pub(crate) rope: bool,
    /// A position sees this many keys, itself included. `None`: all before it.
    pub(crate) window: Option<usize>,
}

/// The whole shape of a decoder of the Llama family: pre-norm RMSNorm, RoPE, grouped-query attention,
/// SwiGLU. Everything that differs between members is a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ModelConfig {
    pub(crate) architecture: String,
    pub(crate) vocab_size: usize,
    pub(crate) hidden_size: usize,
    pub(crate) intermediate_size: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) context_length: usize,
    pub(crate) norm_eps: f32,
    pub(crate) rope: RopeConfig,
    pub(crate) layers: Vec<LayerAttention>,
    /// Bias on the query, key and value projections (Qwen2).
    pub(crate) qkv_bias: bool,
    /// Bias on the attention output projection (Llama with `attention_bias`).
    pub(crate) output_bias: bool,
    /// Bias on the three projections of the feed-forward block (Llama with `mlp_bias`).
    pub(crate) mlp_bias: bool,
    /// RMSNorm over each query and key head before RoPE (Qwen3).
    pub(crate) qk_norm: bool,
    /// The vocabulary projection is the embedding table.
    pub(crate) tied_head: bool,
}

impl ModelConfig {
    /// Width of the concatenated query heads.
    pub(crate) fn query_size(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Width of the concatenated key (or value) heads.
    pub(crate) fn kv_size(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Weights of the linear layers of all blocks: what a token is multiplied with, embedding and
    /// vocabulary projection not counted.
    pub(crate) fn block_weights(&self) -> u64 {
        let attention = self.hidden_size * (self.query_size() * 2 + self.kv_size() * 2);
        let feed_forward = 3 * self.hidden_size * self.intermediate_size;
        (self.layers.len() * (attention + feed_forward)) as u64
    }

    /// Why the numbers cannot be a decoder, or `Ok`. A file is not trusted to be consistent.
    fn check(&self) -> Result<(), String> {
        let positive = [
            ("vocabulary size", self.vocab_size),
            ("hidden size", self.hidden_size),
            ("intermediate size", self.intermediate_size),
            ("number of layers", self.layers.len()),
            ("number of attention heads", self.heads),
            ("number of key/value heads", self.kv_heads),
            ("head size", self.head_dim),
            ("context length", self.context_length),
        ];
        // Keeps products of two sizes inside usize and absurd allocations out.
        const LARGEST: usize = 1 << 24;
        for (name, value) in positive {
            if value == 0 || value > LARGEST {
                return Err(format!("{name} is {value}"));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            return Err(format!(
                "{} heads are not a multiple of {} key/value heads",
                self.heads, self.kv_heads
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(format!("head size {} is odd", self.head_dim));
        }
        if !(self.norm_eps.is_finite() && self.norm_eps > 0.0) {
            return Err(format!("norm epsilon is {}", self.norm_eps));
        }
        Ok(())
    }
}
