//! The backward pass through the blocks, last to first.

use super::forward::Rows;
use super::gradients::{GradientBuffers, WeightId};
use super::space::{Kept, Scratch, Slopes, Space};
use super::{Lesson, weights};
use crate::LmError;
use crate::backend::{DecoderBackend, Part, Rotation, Write};
use crate::decoder::{Block, Decoder, LowRank, Mode, Module, Site, Workspace};
use crate::kernels::gradient::AttentionTree;

/// One layer on the way back.
struct Layer<'a, B: DecoderBackend> {
    decoder: &'a Decoder<B>,
    block: &'a Block<B::Matrix, B::Vector>,
    layer: usize,
    mode: Mode<'a>,
    trees: &'a [AttentionTree],
    /// Rotations by the opposite angles: the transposed of a rotation (times its scale).
    back: &'a Rotation<B::Buffer>,
}

/// What went into a projection and the gradient of what came out.
struct Flow<'a, T> {
    x: &'a T,
    /// `x A^T`, as the forward pass had it.
    low: &'a T,
    dy: &'a T,
}

impl<B: DecoderBackend> Decoder<B> {
    /// From the gradient of the last layer's output to those of all trained weights.
    pub(super) fn backward(
        &self,
        rows: &mut Rows<B>,
        space: &mut Space<B>,
        lesson: &Lesson<'_>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let mode = lesson.mode();
        let back = self.reversed_rotation(rows)?;
        let whole = self.layers_kept(rows.step.rows(), lesson.recompute);
        for (layer, block) in self.base.blocks.iter().enumerate().rev() {
            let is_whole = layer + whole >= self.base.blocks.len();
            if !is_whole {
                self.forward_again(layer, rows, space, mode)?;
                std::mem::swap(&mut space.again.input, &mut space.kept[layer].input);
            }
            let place = Layer { decoder: self, block, layer, mode, trees: &rows.trees, back: &back };
            let kept = if is_whole { &space.kept[layer] } else { &space.again };
            place.feed_forward(kept, &mut space.work, &mut space.slope, gradients)?;
            place.attention(kept, &mut space.work, &mut space.slope, gradients)?;
        }
        match gradients.get(WeightId::Embedding) {
            Some(out) => self.backend.add_embedding_gradient(&space.slope.x, &rows.step.tokens, out),
            None => Ok(()),
        }
    }

    fn reversed_rotation(&self, rows: &Rows<B>) -> Result<Rotation<B::Buffer>, LmError> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        self.rope.rotations(rows.step.positions.iter().copied(), &mut cos, &mut sin);
        sin.iter_mut().for_each(|sin| *sin = -*sin);
        let half = self.config.head_dim / 2;
        let mut back = Rotation { cos: B::Buffer::default(), sin: B::Buffer::default() };
        self.backend.upload(&cos, half, &mut back.cos)?;
        self.backend.upload(&sin, half, &mut back.sin)?;
        Ok(back)
    }
}

impl<B: DecoderBackend> Layer<'_, B> {
    fn feed_forward(
        &self,
        kept: &Kept<B::Buffer>,
        work: &mut Workspace<B::Buffer>,
        slope: &mut Slopes<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, config) = (&self.decoder.backend, &self.decoder.config);
        backend.gate(&kept.gate_up, config.intermediate_size, &mut work.gated)?;
        let flow = Flow { x: &work.gated, low: &kept.low[Site::Down.index()], dy: &slope.x };
        self.projection(Site::Down, &flow, Some(&mut slope.gated), &mut slope.scratch, gradients)?;
        backend.gate_gradient(&kept.gate_up, config.intermediate_size, &slope.gated, &mut slope.gate_up)?;
        backend.rms_norm(&kept.middle, &self.block.mlp_norm, config.norm_eps, &mut work.normed)?;
        let flow = Flow { x: &work.normed, low: &kept.low[Site::GateUp.index()], dy: &slope.gate_up };
        self.projection(Site::GateUp, &flow, Some(&mut slope.normed), &mut slope.scratch, gradients)?;
        self.norm(WeightId::MlpNorm(self.layer), &kept.middle, &self.block.mlp_norm, slope, gradients)
    }

    fn attention(
        &self,
        kept: &Kept<B::Buffer>,
        work: &mut Workspace<B::Buffer>,
        slope: &mut Slopes<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, config) = (&self.decoder.backend, &self.decoder.config);
        let flow = Flow { x: &kept.attended, low: &kept.low[Site::Output.index()], dy: &slope.x };
        self.projection(Site::Output, &flow, Some(&mut slope.attended), &mut slope.scratch, gradients)?;
        let spec = self.decoder.attention_spec((self.layer, 0), true);
        let out = (&kept.attended, &slope.attended);
        backend.attend_gradient(&spec, &kept.qkv, self.trees, out, &mut slope.qkv)?;
        if self.block.attention.rope {
            let [queries, keys, _] = self.decoder.qkv_columns();
            let (rotated, pairing) = (queries.start..keys.end, self.decoder.rope.pairing);
            backend.rotate(&mut slope.qkv, rotated, config.head_dim, self.back, pairing)?;
        }
        self.head_norms(kept, slope, gradients)?;
        backend.rms_norm(&kept.input, &self.block.attention_norm, config.norm_eps, &mut work.normed)?;
        // Before the first layer, perhaps nothing is trained.
        let norm = WeightId::AttentionNorm(self.layer);
        let goes_on = self.layer > 0 || gradients.wants(WeightId::Embedding) || gradients.wants(norm);
        let flow = Flow { x: &work.normed, low: &kept.low[Site::Qkv.index()], dy: &slope.qkv };
        let dx = goes_on.then_some(&mut slope.normed);
        self.projection(Site::Qkv, &flow, dx, &mut slope.scratch, gradients)?;
        match goes_on {
            true => self.norm(norm, &kept.input, &self.block.attention_norm, slope, gradients),
            false => Ok(()),
        }
    }

    /// Adds to the residual stream's gradient what comes through a norm (from `slope.normed`).
    fn norm(
        &self,
        id: WeightId,
        x: &B::Buffer,
        weight: &B::Vector,
        slope: &mut Slopes<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, config) = (&self.decoder.backend, &self.decoder.config);
        if let Some(out) = gradients.get(id) {
            let columns = 0..config.hidden_size;
            let x = Part { buffer: x, columns: columns.clone() };
            backend.add_norm_weight_gradient(
                x,
                Part { buffer: &slope.normed, columns },
                config.norm_eps,
                out,
            )?;
        }
        backend.rms_norm_gradient(x, weight, config.norm_eps, &slope.normed, &mut slope.x)
    }

    /// Through the norms of queries and keys, where there are any.
    fn head_norms(
        &self,
        kept: &Kept<B::Buffer>,
        slope: &mut Slopes<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, eps) = (&self.decoder.backend, self.decoder.config.norm_eps);
        let [queries, keys, _] = self.decoder.qkv_columns();
        let norms = [
            (WeightId::QueryNorm(self.layer), &self.block.query_norm, queries),
            (WeightId::KeyNorm(self.layer), &self.block.key_norm, keys),
        ];
        for (id, weight, columns) in norms {
            let Some(weight) = weight else { continue };
            if let Some(out) = gradients.get(id) {
                let x = Part { buffer: &kept.raw_heads, columns: columns.clone() };
                let dy = Part { buffer: &slope.qkv, columns: columns.clone() };
                backend.add_norm_weight_gradient(x, dy, eps, out)?;
            }
            backend.take_columns(&kept.raw_heads, columns.clone(), &mut slope.scratch.spare)?;
            backend.norm_heads_gradient(&slope.scratch.spare, weight, eps, &mut slope.qkv, columns)?;
        }
        Ok(())
    }

    /// Through a projection: the gradients of its weights and adapter, and of its input if asked for.
    fn projection(
        &self,
        site: Site,
        flow: &Flow<'_, B::Buffer>,
        dx: Option<&mut B::Buffer>,
        scratch: &mut Scratch<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let backend = &self.decoder.backend;
        self.base_weights(site, flow, gradients)?;
        let projection = self.decoder.projection(self.layer, site);
        let low_rank = projection.low_rank.filter(|_| !self.mode.without_adapter);
        if let Some(low_rank) = low_rank.filter(|low_rank| low_rank.gain.is_some()) {
            self.magnitudes(site, low_rank, flow, scratch, gradients)?;
            if let Some(gain) = &low_rank.gain {
                backend.copy(flow.dy, &mut scratch.scaled)?;
                backend.scale_columns(&mut scratch.scaled, gain)?;
            }
        }
        let scaled = std::mem::take(&mut scratch.scaled);
        let has_gain = low_rank.is_some_and(|low_rank| low_rank.gain.is_some());
        let dy = if has_gain { &scaled } else { flow.dy };
        let mut dx = dx;
        if let Some(dx) = &mut dx {
            let transposed = projection.backward.map(|other| &other.transposed);
            backend.product(dy, transposed.ok_or_else(weights::not_prepared)?, dx, Write::Replace)?;
        }
        if let Some(low_rank) = low_rank {
            let flow = Flow { dy, ..*flow };
            self.low_rank(site, low_rank, &flow, dx, scratch, gradients)?;
        }
        scratch.scaled = scaled;
        Ok(())
    }

    /// Gradients of a projection's own weights and biases, where they are trained.
    fn base_weights(
        &self,
        site: Site,
        flow: &Flow<'_, B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, config) = (&self.decoder.backend, &self.decoder.config);
        for module in site.modules() {
            let (columns, inputs) = (module.columns(config), module.inputs(config));
            if let Some(out) = gradients.get(WeightId::Weight(self.layer, *module)) {
                self.in_order(*module, inputs, out, |out| {
                    let dy = Part { buffer: flow.dy, columns: columns.clone() };
                    backend.add_weight_gradient(dy, Part { buffer: flow.x, columns: 0..inputs }, 1.0, out)
                })?;
            }
            if let Some(out) = gradients.get(WeightId::Bias(self.layer, *module)) {
                self.in_order(*module, 1, out, |out| {
                    backend.add_bias_gradient(Part { buffer: flow.dy, columns: columns.clone() }, out)
                })?;
            }
        }
        Ok(())
    }

    /// Gradients of an adapter, and what of the input's comes through it.
    fn low_rank(
        &self,
        site: Site,
        low_rank: &LowRank<B::Matrix, B::Vector>,
        flow: &Flow<'_, B::Buffer>,
        dx: Option<&mut B::Buffer>,
        scratch: &mut Scratch<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let (backend, config) = (&self.decoder.backend, &self.decoder.config);
        let rank = low_rank.ups.last().map_or(0, |up| up.ranks.end);
        backend.zeros_like(flow.dy, rank, &mut scratch.low)?;
        let dropped = self.mode.dropped_at(self.layer, site);
        if let Some(dropped) = dropped {
            backend.drop_out(flow.x, dropped, &mut scratch.spare)?;
        }
        for up in &low_rank.ups {
            let dy = Part { buffer: flow.dy, columns: up.columns.clone() };
            let back = up.back.as_ref().ok_or_else(weights::not_prepared)?;
            backend.add_linear_part(dy, back, &mut scratch.low, up.ranks.clone())?;
            if let Some(out) = gradients.get(WeightId::LowRankB(self.layer, up.module)) {
                self.in_order(up.module, up.ranks.len(), out, |out| {
                    let dy = Part { buffer: flow.dy, columns: up.columns.clone() };
                    let low = Part { buffer: flow.low, columns: up.ranks.clone() };
                    backend.add_weight_gradient(dy, low, up.scale, out)
                })?;
            }
            if let Some(out) = gradients.get(WeightId::LowRankA(self.layer, up.module)) {
                let x = if dropped.is_some() { &scratch.spare } else { flow.x };
                let d_low = Part { buffer: &scratch.low, columns: up.ranks.clone() };
                let x = Part { buffer: x, columns: 0..up.module.inputs(config) };
                backend.add_weight_gradient(d_low, x, 1.0, out)?;
            }
        }
        let Some(dx) = dx else { return Ok(()) };
        let down_back = low_rank.down_back.as_ref().ok_or_else(weights::not_prepared)?;
        match dropped {
            None => backend.product(&scratch.low, down_back, dx, Write::Add),
            Some(dropped) => {
                backend.product(&scratch.low, down_back, &mut scratch.through, Write::Replace)?;
                backend.drop_out(&scratch.through, dropped, &mut scratch.spare)?;
                backend.finish_linear(&scratch.spare, None, dx, Write::Add)
            }
        }
    }

    /// Gradients of DoRA's magnitudes: `sum over rows of dy z / norm` with `z` the projection before its gain. The norm
    /// counts as a constant (arXiv 2402.09353, section 4.3).
    fn magnitudes(
        &self,
        site: Site,
        low_rank: &LowRank<B::Matrix, B::Vector>,
        flow: &Flow<'_, B::Buffer>,
        scratch: &mut Scratch<B::Buffer>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        let backend = &self.decoder.backend;
        let exact = self.decoder.projection(self.layer, site).exact();
        backend.product(flow.x, exact, &mut scratch.scaled, Write::Replace)?;
        for up in &low_rank.ups {
            let low = Part { buffer: flow.low, columns: up.ranks.clone() };
            backend.add_linear_part(low, &up.weight, &mut scratch.scaled, up.columns.clone())?;
        }
        for up in low_rank.ups.iter().filter(|up| !up.norms.is_empty()) {
            let Some(out) = gradients.get(WeightId::Magnitude(self.layer, up.module)) else { continue };
            let factors: Vec<f32> = up.norms.iter().map(|norm| 1.0 / norm).collect();
            self.in_order(up.module, 1, out, |out| {
                let dy = Part { buffer: flow.dy, columns: up.columns.clone() };
                let z = Part { buffer: &scratch.scaled, columns: up.columns.clone() };
                backend.add_product_sums(dy, z, &factors, out)
            })?;
        }
        Ok(())
    }

    /// Has `add` add to rows of `width` values in the order in which the model holds a module's outputs, and puts them
    /// into Hugging Face's.
    fn in_order(
        &self,
        module: Module,
        width: usize,
        out: &mut [f32],
        add: impl FnOnce(&mut [f32]) -> Result<(), LmError>,
    ) -> Result<(), LmError> {
        if !self.decoder.reorders(module) {
            return add(out);
        }
        let mut stored = vec![0.0; out.len()];
        add(&mut stored)?;
        for (values, row) in stored.chunks_exact(width).zip(self.decoder.stored_rows(module)) {
            let out = &mut out[row * width..(row + 1) * width];
            out.iter_mut().zip(values).for_each(|(out, value)| *out += value);
        }
        Ok(())
    }
}
