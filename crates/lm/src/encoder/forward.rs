//! The one encoder definition: BERT (Devlin and others 2019, arXiv 1810.04805), normalised after each
//! sub-layer, over ragged batches.

use std::ops::Range;

use super::config::EncoderConfig;
use crate::LmError;
use crate::backend::{EncoderBackend, EncoderHeads, Linear, Write};
use crate::kernels::dequantise;
use crate::weights::{RawTensor, Weights};

#[derive(Debug)]
struct Norm<V> {
    weight: V,
    bias: V,
}

#[derive(Debug)]
struct Block<M, V> {
    /// Query, key and value projections stacked in one matrix.
    qkv: Linear<M, V>,
    output: Linear<M, V>,
    attention_norm: Norm<V>,
    up: Linear<M, V>,
    down: Linear<M, V>,
    output_norm: Norm<V>,
}

/// A loaded encoder on one backend.
#[derive(Debug)]
pub(super) struct Encoder<B: EncoderBackend> {
    backend: B,
    heads: EncoderHeads,
    norm_eps: f32,
    hidden_size: usize,
    /// `[vocabulary, hidden]` and `[positions, hidden]`, the latter with the vector of the first token type
    /// added: looking a row up is too little work for a device.
    words: Vec<f32>,
    positions: Vec<f32>,
    embedding_norm: Norm<B::Vector>,
    blocks: Vec<Block<B::Matrix, B::Vector>>,
}

/// Activations of a step, reused from step to step.
#[derive(Debug, Default)]
pub(super) struct Workspace<T> {
    embedded: Vec<f32>,
    x: T,
    qkv: T,
    attended: T,
    inner: T,
    hidden: Vec<f32>,
}

impl<B: EncoderBackend> Encoder<B> {
    /// # Errors
    /// The first tensor that is missing, misshapen or of a type the backend cannot hold.
    pub(super) fn load(backend: B, config: &EncoderConfig, weights: &Weights) -> Result<Self, LmError> {
        let prefix = if weights.contains("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
        let loader = Loader { backend: &backend, weights, prefix };
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let words = loader.table("embeddings.word_embeddings", config.vocab_size, hidden)?;
        let mut positions = loader.table("embeddings.position_embeddings", config.positions, hidden)?;
        let token_types = loader.table("embeddings.token_type_embeddings", config.token_types, hidden)?;
        for position in positions.chunks_exact_mut(hidden) {
            position.iter_mut().zip(&token_types).for_each(|(value, first_type)| *value += first_type);
        }
        let embedding_norm = loader.norm("embeddings.LayerNorm", hidden)?;
        let block = |layer: usize| -> Result<_, LmError> {
            let at = |name: &str| format!("encoder.layer.{layer}.{name}");
            let projections = ["query", "key", "value"].map(|name| at(&format!("attention.self.{name}")));
            Ok(Block {
                qkv: loader.linear(&projections, hidden, hidden)?,
                output: loader.linear(&[at("attention.output.dense")], hidden, hidden)?,
                attention_norm: loader.norm(&at("attention.output.LayerNorm"), hidden)?,
                up: loader.linear(&[at("intermediate.dense")], inner, hidden)?,
                down: loader.linear(&[at("output.dense")], hidden, inner)?,
                output_norm: loader.norm(&at("output.LayerNorm"), hidden)?,
            })
        };
        let blocks = (0..config.layers).map(block).collect::<Result<_, _>>()?;
        let heads = EncoderHeads { count: config.heads, dim: hidden / config.heads };
        let norm_eps = config.norm_eps;
        Ok(Self { backend, heads, norm_eps, hidden_size: hidden, words, positions, embedding_norm, blocks })
    }

    pub(super) fn device_name(&self) -> String {
        self.backend.device_name()
    }

    /// The last hidden states `[tokens, hidden]` of sequences laid one after the other.
    pub(super) fn forward<'a>(
        &self,
        tokens: &[u32],
        sequences: &[Range<usize>],
        work: &'a mut Workspace<B::Buffer>,
    ) -> Result<&'a [f32], LmError> {
        let backend = &self.backend;
        self.embed(tokens, sequences, &mut work.embedded);
        backend.upload(&work.embedded, self.hidden_size, &mut work.x)?;
        self.normalise(&mut work.x, &self.embedding_norm)?;
        for block in &self.blocks {
            backend.linear(&work.x, &block.qkv, &mut work.qkv, Write::Replace)?;
            backend.attend_within(self.heads, &work.qkv, sequences, &mut work.attended)?;
            backend.linear(&work.attended, &block.output, &mut work.x, Write::Add)?;
            self.normalise(&mut work.x, &block.attention_norm)?;
            backend.linear(&work.x, &block.up, &mut work.inner, Write::Replace)?;
            backend.gelu(&mut work.inner)?;
            backend.linear(&work.inner, &block.down, &mut work.x, Write::Add)?;
            self.normalise(&mut work.x, &block.output_norm)?;
        }
        backend.download(&work.x, &mut work.hidden)?;
        Ok(&work.hidden)
    }

    /// Leaves the cores to others: nothing more is computed for now.
    pub(super) fn rest(&self) {
        self.backend.rest();
    }

    /// Words and positions of the tokens, added.
    fn embed(&self, tokens: &[u32], sequences: &[Range<usize>], out: &mut Vec<f32>) {
        let width = self.hidden_size;
        out.clear();
        for rows in sequences {
            for (token, position) in tokens[rows.clone()].iter().zip(self.positions.chunks_exact(width)) {
                let word = &self.words[*token as usize * width..][..width];
                out.extend(word.iter().zip(position).map(|(word, position)| word + position));
            }
        }
    }

    fn normalise(&self, x: &mut B::Buffer, norm: &Norm<B::Vector>) -> Result<(), LmError> {
        self.backend.layer_norm(x, &norm.weight, &norm.bias, self.norm_eps)
    }
}

/// Finds tensors by their names in transformers' `BertModel`.
struct Loader<'a, B> {
    backend: &'a B,
    weights: &'a Weights,
    /// Before all names where the model was saved inside another one.
    prefix: &'static str,
}

impl<B: EncoderBackend> Loader<'_, B> {
    fn raw(&self, name: &str, rows: usize, columns: usize) -> Result<RawTensor<'_>, LmError> {
        self.weights.tensor(&format!("{}{name}", self.prefix), rows, columns)
    }

    fn table(&self, name: &str, rows: usize, columns: usize) -> Result<Vec<f32>, LmError> {
        let raw = self.raw(&format!("{name}.weight"), rows, columns)?;
        let mut values = vec![0.0; rows * columns];
        dequantise(raw.kind, raw.bytes, &mut values).map_err(|error| raw.error(error))?;
        Ok(values)
    }

    fn norm(&self, name: &str, width: usize) -> Result<Norm<B::Vector>, LmError> {
        let vector =
            |part: &str| self.backend.load_vector(&[self.raw(&format!("{name}.{part}"), 1, width)?]);
        Ok(Norm { weight: vector("weight")?, bias: vector("bias")? })
    }

    /// Stacks projections with the same input.
    fn linear(
        &self,
        names: &[String],
        outputs: usize,
        inputs: usize,
    ) -> Result<Linear<B::Matrix, B::Vector>, LmError> {
        let find = |part: &str, rows: usize, columns: usize| {
            let raw = |name: &String| self.raw(&format!("{name}.{part}"), rows, columns);
            names.iter().map(raw).collect::<Result<Vec<_>, _>>()
        };
        let weight = self.backend.load_matrix(&find("weight", outputs, inputs)?)?;
        let bias = Some(self.backend.load_vector(&find("bias", 1, outputs)?)?);
        Ok(Linear { weight, bias })
    }
}
