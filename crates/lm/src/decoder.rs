//! The one decoder definition: Llama, Mistral, SmolLM, Qwen2, Qwen3, driven by [`ModelConfig`].

mod base;
mod held;
mod low_rank;
mod module;

use std::ops::Range;
use std::sync::Arc;

use crate::LmError;
use crate::backend::{AttentionSpec, Backend, DecoderBackend, Job, KvShape, Rotation, Write};
use crate::config::{LayerAttention, ModelConfig};
use crate::kernels::{Target, TargetScores};
use crate::kv::KvStore;
use crate::rope::Rope;
use crate::step::Step;
pub(crate) use base::{Base, BaseOf, Block};
pub(crate) use held::{Form, HeldWeights};
pub(crate) use low_rank::{Addition, Backward, LowRank, LowRankSpace, LowRankWeights, Mode};
pub use module::Module;
pub(crate) use module::{Site, neighbour_order};

/// A loaded model on one backend.
#[derive(Debug)]
pub(crate) struct Decoder<B: Backend> {
    pub(crate) backend: B,
    pub(crate) config: ModelConfig,
    pub(crate) rope: Rope,
    /// Perhaps shared with other models.
    pub(crate) base: Arc<Base<B::Matrix, B::Vector>>,
    /// What this model has beside it, at the sites of each layer.
    pub(crate) additions: Vec<[Addition<B::Matrix, B::Vector>; Site::ALL.len()]>,
    /// Other forms of the head; only where the model is trained.
    pub(crate) head_backward: Option<Backward<B::Matrix>>,
}

/// Activations of a step, reused from step to step.
#[derive(Debug)]
pub(crate) struct Workspace<T> {
    /// The residual stream; after a step, the last layer's output.
    pub(crate) x: T,
    pub(crate) normed: T,
    pub(crate) qkv: T,
    /// Queries and keys before their norms, where these exist.
    pub(crate) raw_heads: T,
    pub(crate) attended: T,
    pub(crate) gate_up: T,
    pub(crate) gated: T,
    pub(crate) low_rank: LowRankSpace<T>,
    pub(crate) rotation: Rotation<T>,
    selected: T,
    cos: Vec<f32>,
    sin: Vec<f32>,
}

impl<T: Default> Default for Workspace<T> {
    fn default() -> Self {
        Self {
            x: T::default(),
            normed: T::default(),
            qkv: T::default(),
            raw_heads: T::default(),
            attended: T::default(),
            gate_up: T::default(),
            gated: T::default(),
            low_rank: LowRankSpace::default(),
            rotation: Rotation { cos: T::default(), sin: T::default() },
            selected: T::default(),
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }
}

impl<B: DecoderBackend> Decoder<B> {
    /// A model of these weights, without an adapter.
    pub(crate) fn new(backend: B, config: ModelConfig, base: Arc<BaseOf<B>>) -> Self {
        let rope = Rope::new(&config.rope, config.head_dim);
        let additions = base.blocks.iter().map(|_| Default::default()).collect();
        Self { backend, config, rope, base, additions, head_backward: None }
    }

    /// A model with weights of its own.
    #[cfg(test)]
    pub(crate) fn load(
        backend: B,
        config: ModelConfig,
        weights: &crate::weights::Weights,
        threads: usize,
    ) -> Result<Self, LmError> {
        let base = Base::read(&backend, &config, weights, threads)?;
        Ok(Self::new(backend, config, Arc::new(base)))
    }

    pub(crate) fn kv_shape(&self) -> KvShape {
        KvShape::of(&self.config)
    }

    /// Floating-point operations of rows through all blocks, as architecture.md counts them.
    pub(crate) fn block_flops(&self, rows: u64, key_reads: u64) -> f64 {
        2.0 * self.config.block_weights() as f64 * rows as f64
            + 4.0 * self.config.query_size() as f64 * key_reads as f64
    }

    /// Floating-point operations of the vocabulary projection.
    pub(crate) fn head_flops(&self, positions: u64) -> f64 {
        2.0 * (self.config.hidden_size * self.config.vocab_size) as f64 * positions as f64
    }

    /// Keys that these rows of a step read, summed over rows and layers.
    pub(crate) fn key_reads(&self, step: &Step, rows: Range<usize>) -> u64 {
        let full = step.visible_keys(rows.clone(), None);
        let reads = |layer: &LayerAttention| match layer.window {
            None => full,
            window => step.visible_keys(rows.clone(), window),
        };
        self.config.layers.iter().map(reads).sum()
    }

    /// Runs a step through all blocks. Keys and values are appended to the spans' nodes; the last layer's
    /// output stays in the workspace for [`Decoder::score`] and [`Decoder::logits`].
    pub(crate) fn forward(
        &self,
        store: &mut KvStore<B::Kv>,
        step: &Step,
        work: &mut Workspace<B::Buffer>,
    ) -> Result<(), LmError> {
        self.begin(step, work)?;
        for layer in 0..self.base.blocks.len() {
            self.attention((layer, layer), store, step, work, Mode::default())?;
            self.feed_forward(layer, work, Mode::default())?;
        }
        Ok(())
    }

    /// Embeddings and rotations of a step.
    pub(crate) fn begin(&self, step: &Step, work: &mut Workspace<B::Buffer>) -> Result<(), LmError> {
        self.backend.embed(&self.base.embedding, &step.tokens, &mut work.x)?;
        work.cos.clear();
        work.sin.clear();
        self.rope.rotations(step.positions.iter().copied(), &mut work.cos, &mut work.sin);
        let half = self.config.head_dim / 2;
        self.backend.upload(&work.cos, half, &mut work.rotation.cos)?;
        self.backend.upload(&work.sin, half, &mut work.rotation.sin)
    }

    /// Columns of queries, keys and values in their common matrix.
    pub(crate) fn qkv_columns(&self) -> [Range<usize>; 3] {
        [Module::Query, Module::Key, Module::Value].map(|module| module.columns(&self.config))
    }

    pub(crate) fn attention_spec(&self, (layer, kv_layer): (usize, usize), exact: bool) -> AttentionSpec {
        let config = &self.config;
        AttentionSpec {
            layer: kv_layer,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            window: self.base.blocks[layer].attention.window,
            exact,
        }
    }

    /// The first half of a block, added to the residual stream. `kv_layer` is where the nodes keep this layer's keys and
    /// values.
    pub(crate) fn attention(
        &self,
        (layer, kv_layer): (usize, usize),
        store: &mut KvStore<B::Kv>,
        step: &Step,
        work: &mut Workspace<B::Buffer>,
        mode: Mode<'_>,
    ) -> Result<(), LmError> {
        let (backend, config, block) = (&self.backend, &self.config, &self.base.blocks[layer]);
        let [queries, keys, values] = self.qkv_columns();
        backend.rms_norm(&work.x, &block.attention_norm, config.norm_eps, &mut work.normed)?;
        let out = (&mut work.qkv, Write::Replace);
        self.project((layer, Site::Qkv), &work.normed, out, &mut work.low_rank, mode)?;
        if mode.exact && config.qk_norm {
            backend.take_columns(&work.qkv, queries.start..keys.end, &mut work.raw_heads)?;
        }
        if let Some(norm) = &block.query_norm {
            backend.norm_heads(&mut work.qkv, queries.clone(), norm, config.norm_eps)?;
        }
        if let Some(norm) = &block.key_norm {
            backend.norm_heads(&mut work.qkv, keys.clone(), norm, config.norm_eps)?;
        }
        if block.attention.rope {
            let rotated = queries.start..keys.end;
            backend.rotate(&mut work.qkv, rotated, config.head_dim, &work.rotation, self.rope.pairing)?;
        }
        for span in &step.spans {
            let Some(node) = span.path.last().and_then(|node| store.get_mut(node)) else { continue };
            backend.append_kv(node, kv_layer, &work.qkv, span.rows.clone(), keys.clone(), values.clone())?;
        }
        let jobs: Vec<Job<'_, B::Kv>> = step
            .spans
            .iter()
            .map(|span| Job {
                rows: span.rows.clone(),
                first_position: step.positions[span.rows.start],
                nodes: span.path.nodes().filter_map(|node| store.get(node)).collect(),
            })
            .collect();
        let spec = self.attention_spec((layer, kv_layer), mode.exact);
        backend.attend(&spec, &work.qkv, &jobs, &mut work.attended)?;
        let out = (&mut work.x, Write::Add);
        self.project((layer, Site::Output), &work.attended, out, &mut work.low_rank, mode)
    }

    /// The second half of a block, added to the residual stream.
    pub(crate) fn feed_forward(
        &self,
        layer: usize,
        work: &mut Workspace<B::Buffer>,
        mode: Mode<'_>,
    ) -> Result<(), LmError> {
        self.gate_up(layer, work, mode)?;
        self.backend.gate(&work.gate_up, self.config.intermediate_size, &mut work.gated)?;
        let out = (&mut work.x, Write::Add);
        self.project((layer, Site::Down), &work.gated, out, &mut work.low_rank, mode)
    }

    /// The norm and the first projections of a block's second half.
    pub(crate) fn gate_up(
        &self,
        layer: usize,
        work: &mut Workspace<B::Buffer>,
        mode: Mode<'_>,
    ) -> Result<(), LmError> {
        let norm = &self.base.blocks[layer].mlp_norm;
        self.backend.rms_norm(&work.x, norm, self.config.norm_eps, &mut work.normed)?;
        let out = (&mut work.gate_up, Write::Replace);
        self.project((layer, Site::GateUp), &work.normed, out, &mut work.low_rank, mode)
    }

    /// Log-probabilities of tokens at rows of the last step: `targets[i].row` indexes `rows`. `counts`: how many of the
    /// likeliest tokens are named with each of `rows`; without any, of none.
    pub(crate) fn score(
        &self,
        work: &mut Workspace<B::Buffer>,
        rows: &[usize],
        targets: &[Target],
        counts: &[usize],
    ) -> Result<TargetScores, LmError> {
        self.normed_rows(work, rows)?;
        // The likeliest of all is known with the sums.
        let mut beyond: Vec<usize> = counts.iter().map(|count| if *count > 1 { *count } else { 0 }).collect();
        if beyond.iter().all(|count| *count == 0) {
            beyond.clear();
        }
        let mut scores = self.backend.score(&work.normed, self.head(), targets, &beyond)?;
        scores.most_probable.resize(counts.len(), Vec::new());
        let found = scores.most_probable.iter_mut().zip(&scores.rows).zip(counts);
        for ((found, row), _) in found.filter(|(_, count)| **count == 1) {
            found.push(row.likeliest());
        }
        Ok(scores)
    }

    /// All logits at rows of the last step, `[rows.len(), vocabulary]`.
    pub(crate) fn logits(
        &self,
        work: &mut Workspace<B::Buffer>,
        rows: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<(), LmError> {
        self.normed_rows(work, rows)?;
        self.backend.logits(&work.normed, self.head(), out)
    }

    /// Only the rows asked for pass the final norm.
    fn normed_rows(&self, work: &mut Workspace<B::Buffer>, rows: &[usize]) -> Result<(), LmError> {
        self.backend.select(&work.x, rows, &mut work.selected)?;
        self.backend.rms_norm(&work.selected, &self.base.final_norm, self.config.norm_eps, &mut work.normed)
    }

    pub(crate) fn head(&self) -> &B::Matrix {
        self.base.head()
    }
}

impl<B: DecoderBackend> Decoder<B> {
    /// Refuses a sequence that the model or the budget cannot hold, before anything is computed. Each of
    /// `parts` has a node of its own: their lengths add up to the sequence's.
    pub(crate) fn check_sequence<'t>(
        &self,
        parts: &[usize],
        tokens: impl IntoIterator<Item = &'t u32>,
        budget_bytes: u64,
    ) -> Result<(), LmError> {
        let (length, context) = (parts.iter().sum(), self.config.context_length);
        if length > context {
            return Err(LmError::Request(format!("{length} tokens, the context holds {context}")));
        }
        let vocabulary = self.config.vocab_size;
        if let Some(token) = tokens.into_iter().find(|token| **token as usize >= vocabulary) {
            return Err(LmError::Request(format!(
                "token {token} is not in the model's vocabulary of {vocabulary}"
            )));
        }
        let needed_bytes = parts.iter().map(|part| self.backend.kv_bytes(self.kv_shape(), *part)).sum();
        if needed_bytes > budget_bytes {
            return Err(LmError::Memory { tokens: length, needed_bytes, budget_bytes });
        }
        Ok(())
    }

    /// The error of a sequence that does not fit although nothing else is held.
    pub(crate) fn too_large(&self, tokens: usize, store: &KvStore<B::Kv>) -> LmError {
        LmError::Memory {
            tokens,
            needed_bytes: self.backend.kv_bytes(self.kv_shape(), tokens),
            budget_bytes: store.budget_bytes(),
        }
    }
}
