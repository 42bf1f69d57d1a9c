//! The forward pass of training.

use super::space::{Kept, Space};
use super::{Lesson, Recompute, TokenTree};
use crate::LmError;
use crate::backend::{Backend, DecoderBackend, KvShape};
use crate::decoder::{Decoder, Mode, Site};
use crate::kernels::gradient::AttentionTree;
use crate::kv::{KvPath, KvStore};
use crate::step::Step;

/// A batch of trees as one step, and where their keys and values go, one layer at a time.
pub(super) struct Rows<B: Backend> {
    pub(super) step: Step,
    pub(super) store: KvStore<B::Kv>,
    pub(super) trees: Vec<AttentionTree>,
}

impl<B: DecoderBackend> Rows<B> {
    pub(super) fn new(decoder: &Decoder<B>, trees: &[TokenTree]) -> Result<Self, LmError> {
        let shape = KvShape { layers: 1, ..decoder.kv_shape() };
        let mut rows = Self { step: Step::default(), store: KvStore::new(u64::MAX), trees: Vec::new() };
        for tree in trees {
            let mut path = KvPath::default();
            let trunk = rows.push(decoder, shape, &mut path, &tree.trunk)?;
            let mut branches = Vec::with_capacity(tree.branches.len());
            for branch in &tree.branches {
                branches.push(rows.push(decoder, shape, &mut path.clone(), branch)?);
            }
            rows.trees.push(AttentionTree { trunk, branches });
        }
        Ok(rows)
    }

    /// Appends tokens to the end of a path.
    fn push(
        &mut self,
        decoder: &Decoder<B>,
        shape: KvShape,
        path: &mut KvPath,
        tokens: &[u32],
    ) -> Result<std::ops::Range<usize>, LmError> {
        let first = self.step.rows();
        if !tokens.is_empty() {
            decoder.check_sequence(&[path.len() + tokens.len()], tokens, u64::MAX)?;
            let node = decoder.backend.new_kv(shape, tokens.len())?;
            path.push(self.store.add(node, 0), tokens.len());
            self.step.push(path, tokens.iter().copied());
        }
        Ok(first..self.step.rows())
    }
}

impl<B: DecoderBackend> Decoder<B> {
    /// All blocks, keeping what the backward pass needs; the last block's output stays in the workspace.
    pub(super) fn forward_keeping(
        &self,
        rows: &mut Rows<B>,
        space: &mut Space<B>,
        lesson: &Lesson<'_>,
        keep: bool,
    ) -> Result<(), LmError> {
        let mode = lesson.mode();
        space.reserve_layers(self.base.blocks.len());
        let whole = self.layers_kept(rows.step.rows(), lesson.recompute);
        if keep {
            space.keep_layers(whole);
        }
        self.begin(&rows.step, &mut space.work)?;
        for layer in 0..self.base.blocks.len() {
            let kept = &mut space.kept[layer];
            if keep {
                self.backend.copy(&space.work.x, &mut kept.input)?;
            }
            self.attention((layer, 0), &mut rows.store, &rows.step, &mut space.work, mode)?;
            self.forget_keys(rows);
            // The last layers are kept: the backward pass needs them first.
            let keep_whole = keep && layer + whole >= self.base.blocks.len();
            if keep_whole {
                self.backend.copy(&space.work.x, &mut kept.middle)?;
            }
            self.feed_forward(layer, &mut space.work, mode)?;
            if keep_whole {
                take(&mut space.work, kept);
            }
        }
        Ok(())
    }

    /// Computes a layer again from its input, as far as the backward pass needs it.
    pub(super) fn forward_again(
        &self,
        layer: usize,
        rows: &mut Rows<B>,
        space: &mut Space<B>,
        mode: Mode<'_>,
    ) -> Result<(), LmError> {
        self.backend.copy(&space.kept[layer].input, &mut space.work.x)?;
        self.attention((layer, 0), &mut rows.store, &rows.step, &mut space.work, mode)?;
        self.forget_keys(rows);
        self.backend.copy(&space.work.x, &mut space.again.middle)?;
        self.gate_up(layer, &mut space.work, mode)?;
        let low = &mut space.work.low_rank;
        if let Some(low_rank) = self.projection(layer, Site::Down).low_rank {
            // Of the last projection only what its adapter makes of its input is needed.
            self.backend.gate(&space.work.gate_up, self.config.intermediate_size, &mut space.work.gated)?;
            self.low_products(
                low_rank,
                mode.dropped_at(layer, Site::Down),
                Site::Down,
                &space.work.gated,
                low,
            )?;
        }
        take(&mut space.work, &mut space.again);
        Ok(())
    }

    fn forget_keys(&self, rows: &mut Rows<B>) {
        rows.store.nodes_mut().for_each(|node| self.backend.clear_kv(node));
    }

    /// How many layers are kept whole.
    pub(super) fn layers_kept(&self, rows: usize, recompute: Recompute) -> usize {
        let layers = self.base.blocks.len();
        match recompute {
            Recompute::Never => layers,
            Recompute::Always => 0,
            Recompute::Within { bytes } => {
                let each = self.kept_bytes(rows).max(1);
                usize::try_from(bytes / each).unwrap_or(layers).min(layers)
            }
        }
    }
}

/// Moves what was computed out of the workspace.
fn take<T>(work: &mut crate::decoder::Workspace<T>, kept: &mut Kept<T>) {
    std::mem::swap(&mut work.qkv, &mut kept.qkv);
    std::mem::swap(&mut work.raw_heads, &mut kept.raw_heads);
    std::mem::swap(&mut work.attended, &mut kept.attended);
    std::mem::swap(&mut work.gate_up, &mut kept.gate_up);
    std::mem::swap(&mut work.low_rank.low, &mut kept.low);
}
