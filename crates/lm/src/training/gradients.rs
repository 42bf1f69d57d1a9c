use std::collections::BTreeMap;

use crate::decoder::Module;

/// A weight that can be trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WeightId {
    Embedding,
    Head,
    FinalNorm,
    /// Norms of a layer.
    AttentionNorm(usize),
    MlpNorm(usize),
    QueryNorm(usize),
    KeyNorm(usize),
    /// A linear layer's weight `[outputs, inputs]` and bias.
    Weight(usize, Module),
    Bias(usize, Module),
    /// An adapter's `A` `[rank, inputs]`, `B` `[outputs, rank]`, and DoRA's magnitudes.
    LowRankA(usize, Module),
    LowRankB(usize, Module),
    Magnitude(usize, Module),
}

impl WeightId {
    /// Its name in transformers' files, or in PEFT's without `base_model.model.`.
    #[must_use]
    pub fn name(self) -> String {
        use crate::weights::{Naming, Part};
        let norm = |part, layer| Naming::HuggingFace.weight(part, layer);
        match self {
            Self::Embedding => norm(Part::Embedding, 0),
            Self::Head => norm(Part::Head, 0),
            Self::FinalNorm => norm(Part::FinalNorm, 0),
            Self::AttentionNorm(layer) => norm(Part::AttentionNorm, layer),
            Self::MlpNorm(layer) => norm(Part::MlpNorm, layer),
            Self::QueryNorm(layer) => norm(Part::QueryNorm, layer),
            Self::KeyNorm(layer) => norm(Part::KeyNorm, layer),
            Self::Weight(layer, module) => format!("{}.weight", module.path(layer)),
            Self::Bias(layer, module) => format!("{}.bias", module.path(layer)),
            Self::LowRankA(layer, module) => format!("{}.lora_A.weight", module.path(layer)),
            Self::LowRankB(layer, module) => format!("{}.lora_B.weight", module.path(layer)),
            Self::Magnitude(layer, module) => format!("{}.lora_magnitude_vector", module.path(layer)),
        }
    }
}

/// Where gradients are added: one host buffer for each trained weight, in Hugging Face's layout.
#[derive(Debug)]
pub struct GradientBuffers<'a> {
    places: &'a BTreeMap<WeightId, usize>,
    buffers: &'a mut [Vec<f32>],
}

impl<'a> GradientBuffers<'a> {
    /// `places` says which buffer is whose.
    pub fn new(places: &'a BTreeMap<WeightId, usize>, buffers: &'a mut [Vec<f32>]) -> Self {
        Self { places, buffers }
    }

    pub(super) fn wants(&self, id: WeightId) -> bool {
        self.places.contains_key(&id)
    }

    pub(super) fn get(&mut self, id: WeightId) -> Option<&mut [f32]> {
        let place = *self.places.get(&id)?;
        self.buffers.get_mut(place).map(Vec::as_mut_slice)
    }
}
