//! The one decoder definition: Llama, Mistral, SmolLM, Qwen2, Qwen3, driven by [`ModelConfig`].

use std::ops::Range;

use crate::LmError;
use crate::backend::{AttentionSpec, Backend, Job, KvShape, Linear, Rotation, Write};
use crate::config::{LayerAttention, ModelConfig};
use crate::kernels::{Target, TargetScores};
use crate::kv::KvStore;
use crate::rope::Rope;
use crate::step::Step;
use crate::weights::{Part, RawTensor, Weights};

/// One layer, in the order of the forward pass. Query, key and value projections are stacked in one
/// matrix, gate and up projections in another.
#[derive(Debug)]
struct Block<M, V> {
    attention: LayerAttention,
    attention_norm: V,
    qkv: Linear<M, V>,
    query_norm: Option<V>,
    key_norm: Option<V>,
    output: Linear<M, V>,
    mlp_norm: V,
    gate_up: Linear<M, V>,
    down: Linear<M, V>,
}

/// A loaded model on one backend.
#[derive(Debug)]
pub(crate) struct Decoder<B: Backend> {
    pub(crate) backend: B,
    pub(crate) config: ModelConfig,
    rope: Rope,
    embedding: B::Matrix,
    /// Absent where the embedding table is the head.
    head: Option<B::Matrix>,
    final_norm: B::Vector,
    blocks: Vec<Block<B::Matrix, B::Vector>>,
}

/// Activations of a step, reused from step to step.
#[derive(Debug)]
pub(crate) struct Workspace<T> {
    /// The residual stream; after a step, the last layer's output.
    x: T,
    normed: T,
    qkv: T,
    attended: T,
    gate_up: T,
    gated: T,
    rotation: Rotation<T>,
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
            attended: T::default(),
            gate_up: T::default(),
            gated: T::default(),
            rotation: Rotation { cos: T::default(), sin: T::default() },
            selected: T::default(),
            cos: Vec::new(),
            sin: Vec::new(),
        }
    }
}

impl<B: Backend> Decoder<B> {
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
        Ok(Self { backend, config, rope, embedding, head, final_norm, blocks })
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
        self.backend.embed(&self.embedding, &step.tokens, &mut work.x)?;
        work.cos.clear();
        work.sin.clear();
        self.rope.rotations(step.positions.iter().copied(), &mut work.cos, &mut work.sin);
        let half = self.config.head_dim / 2;
        self.backend.upload(&work.cos, half, &mut work.rotation.cos)?;
        self.backend.upload(&work.sin, half, &mut work.rotation.sin)?;
        for (layer, block) in self.blocks.iter().enumerate() {
            self.attention(layer, block, store, step, work)?;
            self.feed_forward(block, work)?;
        }
        Ok(())
    }

    fn attention(
        &self,
        layer: usize,
        block: &Block<B::Matrix, B::Vector>,
        store: &mut KvStore<B::Kv>,
        step: &Step,
        work: &mut Workspace<B::Buffer>,
    ) -> Result<(), LmError> {
        let (backend, config) = (&self.backend, &self.config);
        let queries = 0..config.query_size();
        let keys = queries.end..queries.end + config.kv_size();
        let values = keys.end..keys.end + config.kv_size();
        backend.rms_norm(&work.x, &block.attention_norm, config.norm_eps, &mut work.normed)?;
        backend.linear(&work.normed, &block.qkv, &mut work.qkv, Write::Replace)?;
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
            backend.append_kv(node, layer, &work.qkv, span.rows.clone(), keys.clone(), values.clone())?;
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
        let spec = AttentionSpec {
            layer,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            window: block.attention.window,
        };
        backend.attend(&spec, &work.qkv, &jobs, &mut work.attended)?;
        backend.linear(&work.attended, &block.output, &mut work.x, Write::Add)
    }

    fn feed_forward(
        &self,
        block: &Block<B::Matrix, B::Vector>,
        work: &mut Workspace<B::Buffer>,
    ) -> Result<(), LmError> {
        let backend = &self.backend;
        backend.rms_norm(&work.x, &block.mlp_norm, self.config.norm_eps, &mut work.normed)?;
        backend.linear(&work.normed, &block.gate_up, &mut work.gate_up, Write::Replace)?;
        backend.gate(&work.gate_up, self.config.intermediate_size, &mut work.gated)?;
        backend.linear(&work.gated, &block.down, &mut work.x, Write::Add)
    }

    /// Log-probabilities of tokens at rows of the last step: `targets[i].row` indexes `rows`.
    pub(crate) fn score(
        &self,
        work: &mut Workspace<B::Buffer>,
        rows: &[usize],
        targets: &[Target],
    ) -> Result<TargetScores, LmError> {
        self.project(work, rows)?;
        self.backend.score(&work.normed, self.head(), targets)
    }

    /// All logits at rows of the last step, `[rows.len(), vocabulary]`.
    pub(crate) fn logits(
        &self,
        work: &mut Workspace<B::Buffer>,
        rows: &[usize],
        out: &mut Vec<f32>,
    ) -> Result<(), LmError> {
        self.project(work, rows)?;
        self.backend.logits(&work.normed, self.head(), out)
    }

    /// Only the rows asked for pass the final norm.
    fn project(&self, work: &mut Workspace<B::Buffer>, rows: &[usize]) -> Result<(), LmError> {
        self.backend.select(&work.x, rows, &mut work.selected)?;
        self.backend.rms_norm(&work.selected, &self.final_norm, self.config.norm_eps, &mut work.normed)
    }

    fn head(&self) -> &B::Matrix {
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
        let head = match self.config.tied_head {
            true => None,
            false => Some(self.backend.load_matrix(&[self.raw(Part::Head, 0, vocabulary, hidden)?])?),
        };
        Ok((embedding, head, self.norm(Part::FinalNorm, 0, hidden)?))
    }

    fn norm(&self, part: Part, layer: usize, width: usize) -> Result<B::Vector, LmError> {
        self.backend.load_vector(&[self.raw(part, layer, 1, width)?])
    }

    /// Stacks the weights (and biases) of projections with the same input.
    fn linear(
        &self,
        layer: usize,
        parts: &[(Part, usize)],
        inputs: usize,
        has_bias: bool,
    ) -> Result<Linear<B::Matrix, B::Vector>, LmError> {
        let weights: Vec<RawTensor<'_>> = parts
            .iter()
            .map(|(part, outputs)| self.raw(*part, layer, *outputs, inputs))
            .collect::<Result<_, _>>()?;
        let bias = match has_bias {
            false => None,
            true => {
                let biases: Vec<RawTensor<'_>> = parts
                    .iter()
                    .map(|(part, outputs)| {
                        self.weights.tensor(&self.weights.naming.bias(*part, layer), 1, *outputs)
                    })
                    .collect::<Result<_, _>>()?;
                Some(self.backend.load_vector(&biases)?)
            }
        };
        Ok(Linear { weight: self.backend.load_matrix(&weights)?, bias })
    }

    fn block(&self, layer: usize) -> Result<Block<B::Matrix, B::Vector>, LmError> {
        let config = self.config;
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (queries, keys) = (config.query_size(), config.kv_size());
        let head_norm = |part| config.qk_norm.then(|| self.norm(part, layer, config.head_dim)).transpose();
        Ok(Block {
            attention: config.layers[layer],
            attention_norm: self.norm(Part::AttentionNorm, layer, hidden)?,
            qkv: self.linear(
                layer,
                &[(Part::Query, queries), (Part::Key, keys), (Part::Value, keys)],
                hidden,
                config.qkv_bias,
            )?,
            query_norm: head_norm(Part::QueryNorm)?,
            key_norm: head_norm(Part::KeyNorm)?,
            output: self.linear(layer, &[(Part::AttentionOutput, hidden)], queries, config.output_bias)?,
            mlp_norm: self.norm(Part::MlpNorm, layer, hidden)?,
            gate_up: self.linear(
                layer,
                &[(Part::Gate, inner), (Part::Up, inner)],
                hidden,
                config.mlp_bias,
            )?,
            down: self.linear(layer, &[(Part::Down, hidden)], inner, config.mlp_bias)?,
        })
    }
}

impl<B: Backend> Decoder<B> {
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
