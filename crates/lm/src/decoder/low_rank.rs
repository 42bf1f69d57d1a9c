//! Low-rank additions to the projections of a block.

use std::ops::Range;

use super::{Decoder, Module, Site, neighbour_order};
use crate::LmError;
use crate::backend::{Backend, DecoderBackend, Dropped, Linear, Part, Write};
use crate::rope::RopePairing;
use crate::weights::RawTensor;

/// One or several stacked projections with the same input.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Projection<'a, M, V> {
    pub(crate) base: &'a Linear<M, V>,
    pub(crate) backward: Option<&'a Backward<M>>,
    pub(crate) low_rank: Option<&'a LowRank<M, V>>,
}

type ProjectionOf<'a, B> = Projection<'a, <B as Backend>::Matrix, <B as Backend>::Vector>;

/// What a model has beside the weights of a projection.
#[derive(Debug)]
pub(crate) struct Addition<M, V> {
    /// Takes gradients back; only where the model is trained.
    pub(crate) backward: Option<Backward<M>>,
    pub(crate) low_rank: Option<LowRank<M, V>>,
}

impl<M, V> Default for Addition<M, V> {
    fn default() -> Self {
        Self { backward: None, low_rank: None }
    }
}

/// Other forms of a projection's weights.
#[derive(Debug)]
pub(crate) struct Backward<M> {
    pub(crate) transposed: M,
    /// Where products with the base round its input: those that the gradient belongs to.
    pub(crate) exact: Option<M>,
}

impl<'a, M, V> Projection<'a, M, V> {
    /// The weights that give exact products.
    pub(crate) fn exact(&self) -> &'a M {
        self.backward.and_then(|backward| backward.exact.as_ref()).unwrap_or(&self.base.weight)
    }
}

/// `y += scale * B A x` for some of the stacked projections (Hu et al. 2021, arXiv 2106.09685, equation 3).
#[derive(Debug)]
pub(crate) struct LowRank<M, V> {
    /// The `A` of all of them, stacked: `[sum of ranks, inputs]`.
    pub(crate) down: M,
    /// Its transposed; only where the model is trained.
    pub(crate) down_back: Option<M>,
    pub(crate) ups: Vec<Up<M>>,
    /// Factor of every output, in DoRA (Liu et al. 2024, arXiv 2402.09353, equation 5): magnitude over norm.
    pub(crate) gain: Option<V>,
}

type LowRankOf<B> = LowRank<<B as Backend>::Matrix, <B as Backend>::Vector>;

#[derive(Debug)]
pub(crate) struct Up<M> {
    pub(crate) module: Module,
    /// Outputs, in the stack.
    pub(crate) columns: Range<usize>,
    /// Rows of `down`.
    pub(crate) ranks: Range<usize>,
    pub(crate) scale: f32,
    /// `scale * B`, rows in the order of the base's.
    pub(crate) weight: M,
    /// Its transposed; only where the model is trained.
    pub(crate) back: Option<M>,
    /// In DoRA: the norm of each output's adapted weights.
    pub(crate) norms: Vec<f32>,
}

/// The weights of one adapted module, in Hugging Face's layout.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowRankWeights<'a> {
    pub(crate) rank: usize,
    pub(crate) scale: f32,
    /// `[rank, inputs]`.
    pub(crate) a: &'a [f32],
    /// `[outputs, rank]`.
    pub(crate) b: &'a [f32],
    /// `[outputs]`, in DoRA.
    pub(crate) magnitude: Option<&'a [f32]>,
}

/// How a projection is computed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Mode<'a> {
    /// Adapters are left out.
    pub(crate) without_adapter: bool,
    /// With the weights' exact values, as the backward pass needs it.
    pub(crate) exact: bool,
    /// Adapters' inputs are dropped. The key is that of the layer.
    pub(crate) dropped: Option<Dropped<'a>>,
}

impl Mode<'_> {
    /// Every site drops inputs of its own.
    pub(crate) fn dropped_at(&self, layer: usize, site: Site) -> Option<Dropped<'_>> {
        self.dropped.map(|dropped| Dropped {
            key: dropped.key
                ^ ((layer * Site::ALL.len() + site.index()) as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15),
            ..dropped
        })
    }
}

/// Buffers of adapted projections.
#[derive(Debug, Default)]
pub(crate) struct LowRankSpace<T> {
    /// `x A^T` of each site, `[rows, sum of ranks]`.
    pub(crate) low: [T; 4],
    pub(crate) dropped: T,
    pub(crate) spare: T,
}

impl<M, V> LowRank<M, V> {
    /// Makes the forms that take gradients back.
    pub(crate) fn prepare<B: DecoderBackend<Matrix = M, Vector = V>>(
        &mut self,
        backend: &B,
    ) -> Result<(), LmError> {
        self.down_back = Some(backend.transposed(&self.down)?);
        for up in &mut self.ups {
            up.back = Some(backend.transposed(&up.weight)?);
        }
        Ok(())
    }
}

impl<B: DecoderBackend> Decoder<B> {
    pub(crate) fn projection(&self, layer: usize, site: Site) -> ProjectionOf<'_, B> {
        let addition = &self.additions[layer][site.index()];
        Projection {
            base: self.base.blocks[layer].linear(site),
            backward: addition.backward.as_ref(),
            low_rank: addition.low_rank.as_ref(),
        }
    }

    /// A projection of `layer`, with its adapter: `out = x W^T + bias + ...`, or added to `out`.
    pub(super) fn project(
        &self,
        (layer, site): (usize, Site),
        x: &B::Buffer,
        (out, write): (&mut B::Buffer, Write),
        space: &mut LowRankSpace<B::Buffer>,
        mode: Mode<'_>,
    ) -> Result<(), LmError> {
        let projection = self.projection(layer, site);
        let low_rank = projection.low_rank.filter(|_| !mode.without_adapter);
        let gain = low_rank.and_then(|low_rank| low_rank.gain.as_ref());
        let weight = if mode.exact { projection.exact() } else { &projection.base.weight };
        if std::ptr::eq(weight, &projection.base.weight) && gain.is_none() {
            self.backend.linear(x, projection.base, out, write)?;
            if let Some(low_rank) = low_rank {
                self.add_low_rank(low_rank, mode.dropped_at(layer, site), site, x, out, space)?;
            }
            return Ok(());
        }
        let mut sum = std::mem::take(&mut space.spare);
        self.backend.product(x, weight, &mut sum, Write::Replace)?;
        if let Some(low_rank) = low_rank {
            self.add_low_rank(low_rank, mode.dropped_at(layer, site), site, x, &mut sum, space)?;
        }
        if let Some(gain) = gain {
            self.backend.scale_columns(&mut sum, gain)?;
        }
        self.backend.finish_linear(&sum, projection.base.bias.as_ref(), out, write)?;
        space.spare = sum;
        Ok(())
    }

    fn add_low_rank(
        &self,
        low_rank: &LowRank<B::Matrix, B::Vector>,
        dropped: Option<Dropped<'_>>,
        site: Site,
        x: &B::Buffer,
        out: &mut B::Buffer,
        space: &mut LowRankSpace<B::Buffer>,
    ) -> Result<(), LmError> {
        self.low_products(low_rank, dropped, site, x, space)?;
        for up in &low_rank.ups {
            let part = Part { buffer: &space.low[site.index()], columns: up.ranks.clone() };
            self.backend.add_linear_part(part, &up.weight, out, up.columns.clone())?;
        }
        Ok(())
    }

    /// `x A^T` of a site, with dropout on the way in.
    pub(crate) fn low_products(
        &self,
        low_rank: &LowRank<B::Matrix, B::Vector>,
        dropped: Option<Dropped<'_>>,
        site: Site,
        x: &B::Buffer,
        space: &mut LowRankSpace<B::Buffer>,
    ) -> Result<(), LmError> {
        let low = &mut space.low[site.index()];
        match dropped {
            Some(dropped) => {
                self.backend.drop_out(x, dropped, &mut space.dropped)?;
                self.backend.product(&space.dropped, &low_rank.down, low, Write::Replace)
            }
            None => self.backend.product(x, &low_rank.down, low, Write::Replace),
        }
    }

    /// Sets the adapters of all layers: those of `weights`, none where it has none.
    ///
    /// # Errors
    /// The device cannot take them.
    pub(crate) fn adapt<'a>(
        &mut self,
        threads: usize,
        weights: &(dyn Fn(usize, Module) -> Option<LowRankWeights<'a>> + Sync),
    ) -> Result<(), LmError> {
        let layers = crate::parallel::map(threads, self.additions.len(), |layer| {
            let of_site = |site: Site| self.low_rank(layer, site, &|module| weights(layer, module));
            Ok::<_, LmError>([
                of_site(Site::Qkv)?,
                of_site(Site::Output)?,
                of_site(Site::GateUp)?,
                of_site(Site::Down)?,
            ])
        })?;
        for (addition, low_rank) in self.additions.iter_mut().flatten().zip(layers.into_iter().flatten()) {
            addition.low_rank = low_rank;
        }
        Ok(())
    }

    fn low_rank<'a>(
        &self,
        layer: usize,
        site: Site,
        weights: &dyn Fn(Module) -> Option<LowRankWeights<'a>>,
    ) -> Result<Option<LowRankOf<B>>, LmError> {
        let adapted: Vec<(Module, LowRankWeights<'a>)> =
            site.modules().iter().filter_map(|module| Some((*module, weights(*module)?))).collect();
        let Some((first, _)) = adapted.first() else { return Ok(None) };
        let inputs = first.inputs(&self.config);
        let parts: Vec<RawTensor<'_>> =
            adapted.iter().map(|(_, weights)| RawTensor::of_host(weights.a, weights.rank, inputs)).collect();
        let down = self.backend.load_exact(&parts)?;
        let mut ups = Vec::with_capacity(adapted.len());
        let mut rank = 0;
        for (module, weights) in &adapted {
            ups.push(self.up(*module, weights, rank)?);
            rank += weights.rank;
        }
        let mut low_rank = LowRank { down, down_back: None, ups, gain: None };
        if self.head_backward.is_some() {
            low_rank.prepare(&self.backend)?;
        }
        if adapted.iter().any(|(_, weights)| weights.magnitude.is_some()) {
            self.set_gain(layer, site, &adapted, &mut low_rank)?;
        }
        Ok(Some(low_rank))
    }

    fn up(
        &self,
        module: Module,
        weights: &LowRankWeights<'_>,
        first_rank: usize,
    ) -> Result<Up<B::Matrix>, LmError> {
        let (outputs, rank) = (module.outputs(&self.config), weights.rank);
        let scaled: Vec<f32> = self
            .stored_rows(module)
            .flat_map(|row| weights.b[row * rank..(row + 1) * rank].iter().map(|value| value * weights.scale))
            .collect();
        let weight = self.backend.load_exact(&[RawTensor::of_host(&scaled, outputs, rank)])?;
        Ok(Up {
            module,
            columns: module.columns(&self.config),
            ranks: first_rank..first_rank + rank,
            scale: weights.scale,
            weight,
            back: None,
            norms: Vec::new(),
        })
    }

    /// Which output of Hugging Face's layout each stored output of a module is.
    pub(crate) fn stored_rows(&self, module: Module) -> Box<dyn Iterator<Item = usize>> {
        let outputs = module.outputs(&self.config);
        match self.config.rope.pairing {
            RopePairing::Interleaved if module.is_rotated() => {
                Box::new(neighbour_order(outputs, self.config.head_dim))
            }
            RopePairing::Interleaved | RopePairing::Half => Box::new(0..outputs),
        }
    }

    /// DoRA's factors: `m / ||W + scale B A||` of each output. The norm of the sum is expanded, so that the sum itself is
    /// never formed: `||w||^2 + 2 scale b . (A w) + scale^2 b^T (A A^T) b`.
    fn set_gain(
        &self,
        layer: usize,
        site: Site,
        adapted: &[(Module, LowRankWeights<'_>)],
        low_rank: &mut LowRank<B::Matrix, B::Vector>,
    ) -> Result<(), LmError> {
        let width: usize = site.modules().iter().map(|module| module.outputs(&self.config)).sum();
        let projection = self.projection(layer, site);
        let squares = self.backend.row_squares(projection.exact())?;
        let mut gains = vec![1.0f32; width];
        for ((module, weights), up) in adapted.iter().zip(&mut low_rank.ups) {
            let Some(magnitude) = weights.magnitude else { continue };
            let inputs = module.inputs(&self.config);
            let (mut rows, mut product, mut products) =
                (B::Buffer::default(), B::Buffer::default(), Vec::new());
            self.backend.upload(weights.a, inputs, &mut rows)?;
            self.backend.product(&rows, projection.exact(), &mut product, Write::Replace)?;
            self.backend.to_host(&product, &mut products)?;
            let gram = gram(weights.a, weights.rank, inputs);
            for (place, row) in self.stored_rows(*module).enumerate() {
                let column = up.columns.start + place;
                let b = &weights.b[row * weights.rank..(row + 1) * weights.rank];
                let cross: f64 = b
                    .iter()
                    .enumerate()
                    .map(|(r, b)| f64::from(*b) * f64::from(products[r * width + column]))
                    .sum();
                let own: f64 = (0..weights.rank)
                    .flat_map(|r| (0..weights.rank).map(move |s| (r, s)))
                    .map(|(r, s)| f64::from(b[r]) * gram[r * weights.rank + s] * f64::from(b[s]))
                    .sum();
                let scale = f64::from(weights.scale);
                let norm = (squares[column] + 2.0 * scale * cross + scale * scale * own).max(0.0).sqrt();
                // In f32, so that the gain of an adapter that changes nothing is 1.
                up.norms.push(norm as f32);
                gains[column] = magnitude[row] / norm as f32;
            }
        }
        low_rank.gain = Some(self.backend.load_vector(&[RawTensor::of_host(&gains, 1, width)])?);
        Ok(())
    }
}

/// `A A^T`, `[rank, rank]`.
fn gram(a: &[f32], rank: usize, inputs: usize) -> Vec<f64> {
    let row = |index: usize| &a[index * inputs..(index + 1) * inputs];
    let dot =
        |r: usize, s: usize| row(r).iter().zip(row(s)).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum();
    (0..rank * rank).map(|index| dot(index / rank, index % rank)).collect()
}
