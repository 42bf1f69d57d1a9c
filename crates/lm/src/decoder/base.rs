//! A model's own weights.

use crate::LmError;
use crate::backend::{Backend, Linear};
use crate::config::{LayerAttention, ModelConfig};
use crate::weights::{Part, RawTensor, Weights};

use super::Site;

/// All weights of a model as its files have them. Nothing is written to them once they are read, so any number of
/// models, each with an adapter of its own, compute with one copy; whoever trains them takes others in their place.
/// A clone is a list of handles: it shares the matrices.
#[derive(Clone, Debug)]
pub(crate) struct Base<M, V> {
    pub(crate) embedding: M,
    /// Absent where the embedding table is the head.
    pub(crate) head: Option<M>,
    pub(crate) final_norm: V,
    pub(crate) blocks: Vec<Block<M, V>>,
}

pub(crate) type BaseOf<B> = Base<<B as Backend>::Matrix, <B as Backend>::Vector>;

/// One layer, in the order of the forward pass. Query, key and value projections are stacked in one
/// matrix, gate and up projections in another.
#[derive(Clone, Debug)]
pub(crate) struct Block<M, V> {
    pub(crate) attention: LayerAttention,
    pub(crate) attention_norm: V,
    pub(crate) qkv: Linear<M, V>,
    pub(crate) query_norm: Option<V>,
    pub(crate) key_norm: Option<V>,
    pub(crate) output: Linear<M, V>,
    pub(crate) mlp_norm: V,
    pub(crate) gate_up: Linear<M, V>,
    pub(crate) down: Linear<M, V>,
}

impl<M, V> Block<M, V> {
    pub(crate) fn linear(&self, site: Site) -> &Linear<M, V> {
        match site {
            Site::Qkv => &self.qkv,
            Site::Output => &self.output,
            Site::GateUp => &self.gate_up,
            Site::Down => &self.down,
        }
    }

    pub(crate) fn linear_mut(&mut self, site: Site) -> &mut Linear<M, V> {
        match site {
            Site::Qkv => &mut self.qkv,
            Site::Output => &mut self.output,
            Site::GateUp => &mut self.gate_up,
            Site::Down => &mut self.down,
        }
    }
}

impl<M: Send, V: Send> Base<M, V> {
    /// Reads every tensor the configuration asks for, layers in parallel on `threads` threads.
    ///
    /// # Errors
    /// The first tensor that is missing, misshapen or of a type the backend cannot hold.
    pub(crate) fn read<B: Backend<Matrix = M, Vector = V>>(
        backend: &B,
        config: &ModelConfig,
        weights: &Weights,
        threads: usize,
    ) -> Result<Self, LmError> {
        let loader = Loader { backend, config, weights };
        std::thread::scope(|scope| {
            // The embedding is as large as many layers, so it starts first and alone.
            let outside = scope.spawn(|| loader.outside());
            let blocks =
                crate::parallel::map(threads.saturating_sub(1).max(1), config.layers.len(), |layer| {
                    loader.block(layer)
                });
            let outside = outside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (embedding, head, final_norm) = outside?;
            Ok(Self { embedding, head, final_norm, blocks: blocks? })
        })
    }
}

impl<M, V> Base<M, V> {
    /// What turns hidden states into logits.
    pub(crate) fn head(&self) -> &M {
        self.head.as_ref().unwrap_or(&self.embedding)
    }
}

/// Finds tensors by role and hands them to the backend.
struct Loader<'a, B> {
    backend: &'a B,
    config: &'a ModelConfig,
    weights: &'a Weights,
}

type Outside<B> = (<B as Backend>::Matrix, Option<<B as Backend>::Matrix>, <B as Backend>::Vector);

impl<B: Backend> Loader<'_, B> {
    fn raw(&self, part: Part, layer: usize, rows: usize, columns: usize) -> Result<RawTensor<'_>, LmError> {
        self.weights.tensor(&self.weights.naming.weight(part, layer), rows, columns)
    }

    fn outside(&self) -> Result<Outside<B>, LmError> {
        let (vocabulary, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let embedding = self.backend.load_matrix(&[self.raw(Part::Embedding, 0, vocabulary, hidden)?])?;
        // A sequence classifier may come without a vocabulary head, whatever its configuration says.
        let classifies = self.weights.contains(crate::adapter::HEAD)
            && !self.weights.contains(&self.weights.naming.weight(Part::Head, 0));
        let head = match self.config.tied_head || classifies {
            true => None,
            false => Some(self.backend.load_matrix(&[self.raw(Part::Head, 0, vocabulary, hidden)?])?),
        };
        Ok((embedding, head, self.norm(Part::FinalNorm, 0, hidden)?))
    }

    fn norm(&self, part: Part, layer: usize, width: usize) -> Result<B::Vector, LmError> {
        self.backend.load_vector(&[self.raw(part, layer, 1, width)?])
    }

    /// Stacks the weights (and biases) of projections with the same input.
    fn linear(&self, layer: usize, site: Site) -> Result<Linear<B::Matrix, B::Vector>, LmError> {
        let (config, modules) = (self.config, site.modules());
        let weights: Vec<RawTensor<'_>> = modules
            .iter()
            .map(|module| self.raw(module.part(), layer, module.outputs(config), module.inputs(config)))
            .collect::<Result<_, _>>()?;
        let biases: Vec<RawTensor<'_>> = modules
            .iter()
            .filter(|module| module.has_bias(config))
            .map(|module| {
                let name = self.weights.naming.bias(module.part(), layer);
                self.weights.tensor(&name, 1, module.outputs(config))
            })
            .collect::<Result<_, _>>()?;
        let bias = if biases.is_empty() { None } else { Some(self.backend.load_vector(&biases)?) };
        Ok(Linear { weight: self.backend.load_matrix(&weights)?, bias })
    }

    fn block(&self, layer: usize) -> Result<Block<B::Matrix, B::Vector>, LmError> {
        let (config, hidden) = (self.config, self.config.hidden_size);
        let head_norm = |part| config.qk_norm.then(|| self.norm(part, layer, config.head_dim)).transpose();
        Ok(Block {
            attention: config.layers[layer],
            attention_norm: self.norm(Part::AttentionNorm, layer, hidden)?,
            qkv: self.linear(layer, Site::Qkv)?,
            query_norm: head_norm(Part::QueryNorm)?,
            key_norm: head_norm(Part::KeyNorm)?,
            output: self.linear(layer, Site::Output)?,
            mlp_norm: self.norm(Part::MlpNorm, layer, hidden)?,
            gate_up: self.linear(layer, Site::GateUp)?,
            down: self.linear(layer, Site::Down)?,
        })
    }
}
