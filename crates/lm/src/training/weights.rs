//! Weights on their way in and out: other forms for the backward pass, adapters, trained weights.

use std::sync::Arc;

use super::gradients::WeightId;
use crate::backend::DecoderBackend;
use crate::decoder::{Backward, BaseOf, Decoder, LowRankWeights, Module, Site};
use crate::language_model::Engine;
use crate::parallel;
use crate::weights::RawTensor;
use crate::{LanguageModel, LmError};

/// One adapted module, in Hugging Face's layout.
#[derive(Clone, Copy, Debug)]
pub struct AdapterWeights<'a> {
    pub rank: usize,
    /// What `B A x` is multiplied with.
    pub scale: f32,
    /// `[rank, inputs]`.
    pub a: &'a [f32],
    /// `[outputs, rank]`.
    pub b: &'a [f32],
    /// `[outputs]`, in DoRA.
    pub magnitude: Option<&'a [f32]>,
}

/// Which adapter a module has.
pub type AdapterOf<'a> = &'a (dyn Fn(usize, Module) -> Option<AdapterWeights<'a>> + Sync);
/// Which values a weight has now; `None`: those that it was loaded with.
pub type ValuesOf<'a> = &'a (dyn Fn(WeightId) -> Option<&'a [f32]> + Sync);

/// A matrix and its other forms.
type Forms<M> = (M, Backward<M>);

pub(super) fn not_prepared() -> LmError {
    LmError::Request("the model was not prepared for training".to_owned())
}

impl LanguageModel {
    /// Makes the forms of the weights that the backward pass needs.
    ///
    /// # Errors
    /// The device does not hold them.
    pub fn prepare_training(&mut self) -> Result<(), LmError> {
        let threads = self.threads();
        match &mut self.engine {
            Engine::Cpu(decoder) => decoder.prepare(threads),
            Engine::Candle(decoder) => decoder.prepare(threads),
        }
    }

    /// Sets the adapter of every module, none where `adapter` has none.
    ///
    /// # Errors
    /// Shapes that do not fit, or the device does not hold them.
    pub fn adapt(&mut self, adapter: AdapterOf<'_>) -> Result<(), LmError> {
        let threads = self.threads();
        match &mut self.engine {
            Engine::Cpu(decoder) => decoder.set_adapter(threads, adapter),
            Engine::Candle(decoder) => decoder.set_adapter(threads, adapter),
        }
    }

    /// Replaces the model's own weights.
    ///
    /// # Errors
    /// As [`LanguageModel::adapt`].
    pub fn set_weights(&mut self, values: ValuesOf<'_>) -> Result<(), LmError> {
        let threads = self.threads();
        match &mut self.engine {
            Engine::Cpu(decoder) => decoder.set_weights(threads, values),
            Engine::Candle(decoder) => decoder.set_weights(threads, values),
        }
    }

    /// Every weight of the model's own, with its shape, in the order of the forward pass.
    #[must_use]
    pub fn weights(&self) -> Vec<(WeightId, Vec<usize>)> {
        match &self.engine {
            Engine::Cpu(decoder) => decoder.weight_ids(),
            Engine::Candle(decoder) => decoder.weight_ids(),
        }
    }

    /// A weight's values in Hugging Face's layout, without its adapter.
    ///
    /// # Errors
    /// The model has no such weight, or the device fails.
    pub fn weight_values(&self, id: WeightId) -> Result<Vec<f32>, LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => decoder.weight_values(id),
            Engine::Candle(decoder) => decoder.weight_values(id),
        }
    }

    /// The name of a weight that holds something else than finite numbers.
    ///
    /// # Errors
    /// The device fails.
    pub fn broken_weight(&self) -> Result<Option<String>, LmError> {
        for (id, _) in self.weights() {
            if !self.weight_values(id)?.iter().all(|value| value.is_finite()) {
                return Ok(Some(id.name()));
            }
        }
        Ok(None)
    }

    /// A module's weights `[outputs, inputs]` in the order in which the model's file has them.
    pub(crate) fn stored_order(&self, module: Module, values: &[f32]) -> Vec<f32> {
        let [_, inputs] = self.module_shape(module);
        match &self.engine {
            Engine::Cpu(decoder) => decoder.in_stored_order(module, values, inputs),
            Engine::Candle(decoder) => decoder.in_stored_order(module, values, inputs),
        }
    }

    /// Outputs and inputs of a linear layer, and how many layers there are.
    #[must_use]
    pub fn module_shape(&self, module: Module) -> [usize; 2] {
        let config = self.engine.config();
        [module.outputs(config), module.inputs(config)]
    }

    /// Blocks of the decoder.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.engine.config().layers.len()
    }

    /// Width of the hidden states.
    #[must_use]
    pub fn hidden_size(&self) -> usize {
        self.engine.config().hidden_size
    }
}

impl<B: DecoderBackend> Decoder<B> {
    fn backward_form(&self, matrix: &B::Matrix) -> Result<Backward<B::Matrix>, LmError> {
        Ok(Backward { transposed: self.backend.transposed(matrix)?, exact: self.backend.exact(matrix) })
    }

    fn prepare(&mut self, threads: usize) -> Result<(), LmError> {
        let forms = parallel::map(threads, self.additions.len(), |layer| {
            let form = |site| self.backward_form(&self.projection(layer, site).base.weight);
            Ok::<_, LmError>([form(Site::Qkv)?, form(Site::Output)?, form(Site::GateUp)?, form(Site::Down)?])
        })?;
        for (addition, form) in self.additions.iter_mut().flatten().zip(forms.into_iter().flatten()) {
            addition.backward = Some(form);
            if let Some(low_rank) = &mut addition.low_rank {
                low_rank.prepare(&self.backend)?;
            }
        }
        self.head_backward = Some(self.backward_form(self.head())?);
        Ok(())
    }

    fn set_adapter(&mut self, threads: usize, adapter: AdapterOf<'_>) -> Result<(), LmError> {
        for layer in 0..self.additions.len() {
            for module in Module::ALL {
                let Some(found) = adapter(layer, module) else { continue };
                let [outputs, inputs] = [module.outputs(&self.config), module.inputs(&self.config)];
                let fits = found.a.len() == found.rank * inputs
                    && found.b.len() == outputs * found.rank
                    && found.magnitude.is_none_or(|values| values.len() == outputs);
                if !fits || found.rank == 0 {
                    let path = module.path(layer);
                    return Err(LmError::Request(format!(
                        "an adapter of `{path}` does not fit {outputs} x {inputs} weights"
                    )));
                }
            }
        }
        self.adapt(threads, &|layer, module| {
            adapter(layer, module).map(|found| LowRankWeights {
                rank: found.rank,
                scale: found.scale,
                a: found.a,
                b: found.b,
                magnitude: found.magnitude,
            })
        })
    }

    /// Whether a module's outputs are held in another order than Hugging Face's.
    pub(super) fn reorders(&self, module: Module) -> bool {
        module.is_rotated() && self.config.rope.pairing == crate::rope::RopePairing::Interleaved
    }

    pub(super) fn weight_ids(&self) -> Vec<(WeightId, Vec<usize>)> {
        let config = &self.config;
        let table = vec![config.vocab_size, config.hidden_size];
        let mut ids = vec![(WeightId::Embedding, table.clone())];
        for layer in 0..self.base.blocks.len() {
            ids.push((WeightId::AttentionNorm(layer), vec![config.hidden_size]));
            for module in Module::ALL {
                if module == Module::Gate {
                    ids.push((WeightId::MlpNorm(layer), vec![config.hidden_size]));
                }
                ids.push((
                    WeightId::Weight(layer, module),
                    vec![module.outputs(config), module.inputs(config)],
                ));
                if module.has_bias(config) {
                    ids.push((WeightId::Bias(layer, module), vec![module.outputs(config)]));
                }
            }
            if config.qk_norm {
                ids.push((WeightId::QueryNorm(layer), vec![config.head_dim]));
                ids.push((WeightId::KeyNorm(layer), vec![config.head_dim]));
            }
        }
        ids.push((WeightId::FinalNorm, vec![config.hidden_size]));
        if self.base.head.is_some() {
            ids.push((WeightId::Head, table));
        }
        ids
    }

    fn weight_values(&self, id: WeightId) -> Result<Vec<f32>, LmError> {
        let missing = || LmError::Request(format!("this model has no `{}`", id.name()));
        let base = &self.base;
        let block = |layer: usize| base.blocks.get(layer).ok_or_else(missing);
        let vector = |vector: Option<&B::Vector>| self.backend.vector_to_host(vector.ok_or_else(missing)?);
        match id {
            WeightId::Embedding => self.backend.rows_to_host(&base.embedding, 0..self.config.vocab_size),
            WeightId::Head => {
                self.backend.rows_to_host(base.head.as_ref().ok_or_else(missing)?, 0..self.config.vocab_size)
            }
            WeightId::FinalNorm => vector(Some(&base.final_norm)),
            WeightId::AttentionNorm(layer) => vector(Some(&block(layer)?.attention_norm)),
            WeightId::MlpNorm(layer) => vector(Some(&block(layer)?.mlp_norm)),
            WeightId::QueryNorm(layer) => vector(block(layer)?.query_norm.as_ref()),
            WeightId::KeyNorm(layer) => vector(block(layer)?.key_norm.as_ref()),
            WeightId::Weight(layer, module) => {
                let matrix = &block(layer)?.linear(module.site()).weight;
                let stored = self.backend.rows_to_host(matrix, module.columns(&self.config))?;
                Ok(self.in_file_order(module, &stored, module.inputs(&self.config)))
            }
            WeightId::Bias(layer, module) => {
                let bias = block(layer)?.linear(module.site()).bias.as_ref();
                let stored = vector(bias)?;
                Ok(self.in_file_order(module, &stored[module.columns(&self.config)], 1))
            }
            WeightId::LowRankA(..) | WeightId::LowRankB(..) | WeightId::Magnitude(..) => Err(missing()),
        }
    }

    /// Rows of `width` values from the order in which they are held to Hugging Face's.
    fn in_file_order(&self, module: Module, stored: &[f32], width: usize) -> Vec<f32> {
        let mut values = vec![0.0; stored.len()];
        for (stored, row) in stored.chunks_exact(width).zip(self.stored_rows(module)) {
            values[row * width..(row + 1) * width].copy_from_slice(stored);
        }
        values
    }

    /// The opposite of [`Decoder::in_file_order`].
    fn in_stored_order(&self, module: Module, values: &[f32], width: usize) -> Vec<f32> {
        self.stored_rows(module)
            .flat_map(|row| values[row * width..(row + 1) * width].iter().copied())
            .collect()
    }

    /// The weights, no longer shared with other models: those that are replaced stay as they are for them.
    fn own(&mut self) -> &mut BaseOf<B> {
        Arc::make_mut(&mut self.base)
    }

    fn set_weights(&mut self, threads: usize, values: ValuesOf<'_>) -> Result<(), LmError> {
        let sites = parallel::map(threads, self.additions.len(), |layer| {
            let matrix = |site| self.new_matrix(layer, site, values);
            Ok::<_, LmError>([
                matrix(Site::Qkv)?,
                matrix(Site::Output)?,
                matrix(Site::GateUp)?,
                matrix(Site::Down)?,
            ])
        })?;
        for (layer, matrices) in sites.into_iter().enumerate() {
            for (site, matrix) in Site::ALL.into_iter().zip(matrices) {
                let bias = self.new_bias(layer, site, values)?;
                let linear = self.own().blocks[layer].linear_mut(site);
                if bias.is_some() {
                    linear.bias = bias;
                }
                if let Some((weight, form)) = matrix {
                    linear.weight = weight;
                    self.additions[layer][site.index()].backward = Some(form);
                }
            }
            self.set_norms(layer, values)?;
        }
        let vector = |id| {
            values(id).map(|values| self.backend.load_vector(&[RawTensor::of_host(values, 1, values.len())]))
        };
        if let Some(norm) = vector(WeightId::FinalNorm).transpose()? {
            self.own().final_norm = norm;
        }
        let hidden = self.config.hidden_size;
        let table = |id| {
            values(id).map(|values| {
                self.backend.load_matrix(&[RawTensor::of_host(values, values.len() / hidden, hidden)])
            })
        };
        let (embedding, head) = (table(WeightId::Embedding).transpose()?, table(WeightId::Head).transpose()?);
        let changed = head.is_some() || (self.base.head.is_none() && embedding.is_some());
        if let Some(embedding) = embedding {
            self.own().embedding = embedding;
        }
        if head.is_some() {
            self.own().head = head;
        }
        if changed {
            self.head_backward = Some(self.backward_form(self.head())?);
        }
        Ok(())
    }

    /// A site's matrix with new values, where any of its modules has some.
    fn new_matrix(
        &self,
        layer: usize,
        site: Site,
        values: ValuesOf<'_>,
    ) -> Result<Option<Forms<B::Matrix>>, LmError> {
        if site.modules().iter().all(|module| values(WeightId::Weight(layer, *module)).is_none()) {
            return Ok(None);
        }
        let mut parts = Vec::new();
        for module in site.modules() {
            let id = WeightId::Weight(layer, *module);
            let inputs = module.inputs(&self.config);
            let rows = match values(id) {
                Some(values) => self.in_stored_order(*module, values, inputs),
                None => self.in_stored_order(*module, &self.weight_values(id)?, inputs),
            };
            parts.push((rows, inputs));
        }
        let parts: Vec<RawTensor<'_>> = parts
            .iter()
            .map(|(rows, inputs)| RawTensor::of_host(rows, rows.len() / inputs, *inputs))
            .collect();
        let matrix = self.backend.load_matrix(&parts)?;
        let form = self.backward_form(&matrix)?;
        Ok(Some((matrix, form)))
    }

    fn new_bias(&self, layer: usize, site: Site, values: ValuesOf<'_>) -> Result<Option<B::Vector>, LmError> {
        if site.modules().iter().all(|module| values(WeightId::Bias(layer, *module)).is_none()) {
            return Ok(None);
        }
        let mut bias = Vec::new();
        for module in site.modules() {
            let id = WeightId::Bias(layer, *module);
            match values(id) {
                Some(values) => bias.extend(self.in_stored_order(*module, values, 1)),
                None => bias.extend(self.in_stored_order(*module, &self.weight_values(id)?, 1)),
            }
        }
        Ok(Some(self.backend.load_vector(&[RawTensor::of_host(&bias, 1, bias.len())])?))
    }

    fn set_norms(&mut self, layer: usize, values: ValuesOf<'_>) -> Result<(), LmError> {
        let vector = |id| -> Result<Option<B::Vector>, LmError> {
            let Some(values) = values(id) else { return Ok(None) };
            Ok(Some(self.backend.load_vector(&[RawTensor::of_host(values, 1, values.len())])?))
        };
        let (attention, mlp) = (vector(WeightId::AttentionNorm(layer))?, vector(WeightId::MlpNorm(layer))?);
        let (query, key) = (vector(WeightId::QueryNorm(layer))?, vector(WeightId::KeyNorm(layer))?);
        let block = &mut self.own().blocks[layer];
        if let Some(norm) = attention {
            block.attention_norm = norm;
        }
        if let Some(norm) = mlp {
            block.mlp_norm = norm;
        }
        block.query_norm = query.or(block.query_norm.take());
        block.key_norm = key.or(block.key_norm.take());
        Ok(())
    }
}
