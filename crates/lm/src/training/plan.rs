//! How much memory training takes.

use crate::LanguageModel;
use crate::backend::DecoderBackend;
use crate::decoder::{Decoder, Site};
use crate::language_model::Engine;

/// Whether a layer's activations are kept for the backward pass or computed again from the layer's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    Never,
    /// Memory is bounded by the inputs of all blocks plus one block.
    Always,
    /// The last layers are kept, as many as fit.
    Within {
        bytes: u64,
    },
}

/// Bytes of a training step, as counted before it runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The model and what the backward pass needs of it.
    pub weights: u64,
    /// Of the trained weights: values, gradients and two moments, f32 on the host.
    pub optimiser: u64,
    /// Inputs of all blocks.
    pub block_inputs: u64,
    /// Activations kept beside them.
    pub kept: u64,
    /// Workspace of one block and of the vocabulary.
    pub workspace: u64,
    /// Layers whose activations are computed again.
    pub recomputed_layers: usize,
}

impl MemoryPlan {
    #[must_use]
    pub fn total(&self) -> u64 {
        self.weights + self.optimiser + self.block_inputs + self.kept + self.workspace
    }
}

/// Bytes of one number of an activation.
const ACTIVATION: u64 = 4;

impl<B: DecoderBackend> Decoder<B> {
    /// Bytes of one layer that is kept whole, its input not counted.
    pub(super) fn kept_bytes(&self, rows: usize) -> u64 {
        let config = &self.config;
        let qkv = config.query_size() + 2 * config.kv_size();
        let raw = if config.qk_norm { config.query_size() + config.kv_size() } else { 0 };
        let values = config.hidden_size + qkv + raw + config.query_size() + 2 * config.intermediate_size;
        (rows * (values + self.ranks())) as u64 * ACTIVATION
    }

    /// Sum of the ranks of the first block's adapters.
    fn ranks(&self) -> usize {
        let first = self.additions.first().into_iter().flatten();
        let low_ranks = first.filter_map(|addition| addition.low_rank.as_ref());
        low_ranks.flat_map(|low_rank| &low_rank.ups).map(|up| up.ranks.len()).sum()
    }

    fn weight_bytes(&self) -> u64 {
        let (backend, base) = (&self.backend, &self.base);
        let mut bytes = backend.matrix_bytes(&base.embedding);
        bytes += base.head.as_ref().map_or(0, |head| backend.matrix_bytes(head));
        for (layer, site) in (0..base.blocks.len()).flat_map(|layer| Site::ALL.map(|site| (layer, site))) {
            let projection = self.projection(layer, site);
            bytes += backend.matrix_bytes(&projection.base.weight);
            bytes += projection.backward.map_or(0, |other| backend.matrix_bytes(&other.transposed));
        }
        bytes + self.head_backward.as_ref().map_or(0, |other| backend.matrix_bytes(&other.transposed))
    }

    fn plan(&self, rows: usize, labels: usize, trained: usize, recompute: Recompute) -> MemoryPlan {
        let config = &self.config;
        let layers = self.base.blocks.len();
        let whole = self.layers_kept(rows, recompute);
        let wide = 2 * (config.query_size() + 2 * config.kv_size()) + 6 * config.intermediate_size;
        let of_block = rows * (wide + 8 * config.hidden_size);
        let of_head = labels * 4 * config.hidden_size
            + super::readout::label_rows(config.vocab_size) * config.vocab_size;
        let again = if whole < layers { self.kept_bytes(rows) } else { 0 };
        MemoryPlan {
            weights: self.weight_bytes(),
            optimiser: 4 * trained as u64 * 4,
            block_inputs: (layers * rows * config.hidden_size) as u64 * ACTIVATION,
            kept: whole as u64 * self.kept_bytes(rows),
            workspace: (of_block + of_head) as u64 * ACTIVATION + again,
            recomputed_layers: layers - whole,
        }
    }
}

impl LanguageModel {
    /// Memory of a step over batches of at most `rows` tokens (shared ones once) and `labels` labels, with `trained`
    /// weights.
    #[must_use]
    pub fn training_memory(
        &self,
        rows: usize,
        labels: usize,
        trained: usize,
        recompute: Recompute,
    ) -> MemoryPlan {
        match &self.engine {
            Engine::Cpu(decoder) => decoder.plan(rows, labels, trained, recompute),
            Engine::Candle(decoder) => decoder.plan(rows, labels, trained, recompute),
        }
    }
}
