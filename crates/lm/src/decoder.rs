//! The one decoder definition: Llama, Mistral, SmolLM, Qwen2, Qwen3, driven by [`ModelConfig`].

mod low_rank;
mod module;

use std::ops::Range;

use crate::LmError;
use crate::backend::{AttentionSpec, Backend, DecoderBackend, Job, KvShape, Linear, Rotation, Write};
use crate::config::{LayerAttention, ModelConfig};
use crate::kernels::{Target, TargetScores};
use crate::kv::KvStore;
use crate::rope::Rope;
use crate::step::Step;
use crate::weights::{Part, RawTensor, Weights};
pub(crate) use low_rank::{Backward, LowRank, LowRankSpace, LowRankWeights, Mode, Projection};
pub use module::Module;
pub(crate) use module::{Site, neighbour_order};

/// One layer, in the order of the forward pass. Query, key and value projections are stacked in one
/// matrix, gate and up projections in another.
#[derive(Debug)]
pub(crate) struct Block<M, V> {
    pub(crate) attention: LayerAttention,
    pub(crate) attention_norm: V,
    pub(crate) qkv: Projection<M, V>,
    pub(crate) query_norm: Option<V>,
    pub(crate) key_norm: Option<V>,
    pub(crate) output: Projection<M, V>,
    pub(crate) mlp_norm: V,
    pub(crate) gate_up: Projection<M, V>,
    pub(crate) down: Projection<M, V>,
}

impl<M, V> Block<M, V> {
    pub(crate) fn projection(&self, site: Site) -> &Projection<M, V> {
        match site {
            Site::Qkv => &self.qkv,
            Site::Output => &self.output,
            Site::GateUp => &self.gate_up,
            Site::Down => &self.down,
        }
    }

    pub(crate) fn projection_mut(&mut self, site: Site) -> &mut Projection<M, V> {
        match site {
            Site::Qkv => &mut self.qkv,
            Site::Output => &mut self.output,
            Site::GateUp => &mut self.gate_up,
            Site::Down => &mut self.down,
        }
    }
}

/// A loaded model on one backend.
#[derive(Debug)]
pub(crate) struct Decoder<B: Backend> {
    pub(crate) backend: B,
    pub(crate) config: ModelConfig,
    pub(crate) rope: Rope,
    pub(crate) embedding: B::Matrix,
    /// Absent where the embedding table is the head.
    pub(crate) head: Option<B::Matrix>,
    /// Other forms of the head; only where the model is trained.
    pub(crate) head_backward: Option<Backward<B::Matrix>>,
    pub(crate) final_norm: B::Vector,
    pub(crate) blocks: Vec<Block<B::Matrix, B::Vector>>,
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
    /// Reads every tensor the configuration asks for, layers in parallel on `threads` threads.
    ///
    /// # Errors
    /// The first tensor that is missing, misshapen or of a type the backend cannot hold.
    pub(crate) fn load(
        backend: B,
        config: ModelConfig,
        weights: &Weights,
        threads: usize,
    ) -> Result<Self, LmError> {
        let loader = Loader { backend: &backend, config: &config, weights };
        let (embedding, head, final_norm, blocks) = std::thread::scope(|scope| {
            // The embedding is as large as many layers, so it starts first and alone.
            let outside = scope.spawn(|| loader.outside());
            let blocks =
                crate::parallel::map(threads.saturating_sub(1).max(1), config.layers.len(), |layer| {
                    loader.block(layer)
                });
            let outside = outside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            let (embedding, head, final_norm) = outside?;
            Ok::<_, LmError>((embedding, head, final_norm, blocks?))
        })?;
        let rope = Rope::new(&config.rope, config.head_dim);
        Ok(Self { backend, config, rope, embedding, head, head_backward: None, final_norm, blocks })
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
        for layer in 0..self.blocks.len() {
            self.attention((layer, layer), store, step, work, Mode::default())?;
            self.feed_forward(layer, work, Mode::default())?;
        }
        Ok(())
    }

    /// Embeddings and rotations of a step.
    pub(crate) fn begin(&self, step: &Step, work: &mut Workspace<B::Buffer>) -> Result<(), LmError> {
        self.backend.embed(&self.embedding, &step.tokens, &mut work.x)?;
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
            window: self.blocks[layer].attention.window,
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
        let (backend, config, block) = (&self.backend, &self.config, &self.blocks[layer]);
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
        let norm = &self.blocks[layer].mlp_norm;
        self.backend.rms_norm(&work.x, norm, self.config.norm_eps, &mut work.normed)?;
        let out = (&mut work.gate_up, Write::Replace);
        self.project((layer, Site::GateUp), &work.normed, out, &mut work.low_rank, mode)
    }

    /// Log-probabilities of tokens at rows of the last step: `targets[i].row` indexes `rows`.
    pub(crate) fn score(
        &self,
        work: &mut Workspace<B::Buffer>,
        rows: &[usize],
        targets: &[Target],
    ) -> Result<TargetScores, LmError> {
        self.normed_rows(work, rows)?;
        self.backend.score(&work.normed, self.head(), targets)
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
        self.backend.rms_norm(&work.selected, &self.final_norm, self.config.norm_eps, &mut work.normed)
    }

    pub(crate) fn head(&self) -> &B::Matrix {
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
    fn projection(&self, layer: usize, site: Site) -> Result<Projection<B::Matrix, B::Vector>, LmError> {
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
        let base = Linear { weight: self.backend.load_matrix(&weights)?, bias };
        Ok(Projection { base, backward: None, low_rank: None })
    }

    fn block(&self, layer: usize) -> Result<Block<B::Matrix, B::Vector>, LmError> {
        let (config, hidden) = (self.config, self.config.hidden_size);
        let head_norm = |part| config.qk_norm.then(|| self.norm(part, layer, config.head_dim)).transpose();
        Ok(Block {
            attention: config.layers[layer],
            attention_norm: self.norm(Part::AttentionNorm, layer, hidden)?,
            qkv: self.projection(layer, Site::Qkv)?,
            query_norm: head_norm(Part::QueryNorm)?,
            key_norm: head_norm(Part::KeyNorm)?,
            output: self.projection(layer, Site::Output)?,
            mlp_norm: self.norm(Part::MlpNorm, layer, hidden)?,
            gate_up: self.projection(layer, Site::GateUp)?,
            down: self.projection(layer, Site::Down)?,
        })
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
