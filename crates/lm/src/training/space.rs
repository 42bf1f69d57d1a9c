use crate::backend::{Backend, CandleBackend, CpuBackend};
use crate::decoder::Workspace;

/// Activations and gradients of passes, kept from one to the next so that their memory is.
#[derive(Debug, Default)]
pub struct TrainingSpace {
    cpu: Option<Box<Space<CpuBackend>>>,
    candle: Option<Box<Space<CandleBackend>>>,
}

impl TrainingSpace {
    pub(super) fn cpu(&mut self) -> &mut Space<CpuBackend> {
        self.cpu.get_or_insert_default()
    }

    pub(super) fn candle(&mut self) -> &mut Space<CandleBackend> {
        self.candle.get_or_insert_default()
    }
}

pub(super) type Space<B> = Buffers<<B as Backend>::Buffer>;

/// All buffers of a pass.
#[derive(Debug)]
pub(super) struct Buffers<T> {
    pub(super) work: Workspace<T>,
    /// Of each layer.
    pub(super) kept: Vec<Kept<T>>,
    /// Of the layer that is being computed again.
    pub(super) again: Kept<T>,
    pub(super) readout: ReadoutBuffers<T>,
    pub(super) slope: Slopes<T>,
    /// Layers kept whole in the pass before.
    whole: usize,
}

/// What the backward pass needs of a layer.
#[derive(Debug, Default)]
pub(super) struct Kept<T> {
    /// The residual stream before the layer and between its halves.
    pub(super) input: T,
    pub(super) middle: T,
    pub(super) qkv: T,
    pub(super) raw_heads: T,
    pub(super) attended: T,
    pub(super) gate_up: T,
    /// `x A^T` of each site.
    pub(super) low: [T; 4],
}

#[derive(Debug, Default)]
pub(super) struct ReadoutBuffers<T> {
    /// The last layer's output at the rows read, and after the norm.
    pub(super) selected: T,
    pub(super) hidden: T,
    /// Derivatives of the log-probabilities by the hidden states.
    pub(super) unit: T,
    pub(super) chunk: T,
    pub(super) logits: T,
    pub(super) part: T,
}

/// Gradients of activations.
#[derive(Debug, Default)]
pub(super) struct Slopes<T> {
    /// Of the residual stream.
    pub(super) x: T,
    pub(super) normed: T,
    pub(super) qkv: T,
    pub(super) attended: T,
    pub(super) gated: T,
    pub(super) gate_up: T,
    pub(super) scratch: Scratch<T>,
}

/// Of one projection.
#[derive(Debug, Default)]
pub(super) struct Scratch<T> {
    /// Of the low-rank products.
    pub(super) low: T,
    pub(super) through: T,
    pub(super) spare: T,
    pub(super) scaled: T,
}

impl<T: Default> Default for Buffers<T> {
    fn default() -> Self {
        Self {
            work: Workspace::default(),
            kept: Vec::new(),
            again: Kept::default(),
            readout: ReadoutBuffers::default(),
            slope: Slopes::default(),
            whole: 0,
        }
    }
}

impl<T: Default> Buffers<T> {
    pub(super) fn reserve_layers(&mut self, layers: usize) {
        self.kept.resize_with(layers, Kept::default);
    }

    /// A pass keeps so many layers whole. When it was another number before, the batch was of another size: the buffers of
    /// both together would be more than either is allowed.
    pub(super) fn keep_layers(&mut self, whole: usize) {
        if std::mem::replace(&mut self.whole, whole) == whole {
            return;
        }
        for kept in &mut self.kept {
            *kept = Kept { input: std::mem::take(&mut kept.input), ..Kept::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Buffers of layers that a batch of another size kept are given back, or both together exceed the budget.
    #[test]
    fn a_batch_of_another_size_starts_with_empty_buffers() {
        let mut space = Buffers::<Vec<f32>>::default();
        space.reserve_layers(3);
        let fill = |space: &mut Buffers<Vec<f32>>| {
            space.kept.iter_mut().for_each(|kept| (kept.input, kept.qkv) = (vec![0.0; 2], vec![0.0; 9]));
        };
        let held =
            |space: &Buffers<Vec<f32>>| space.kept.iter().map(|kept| kept.qkv.capacity()).sum::<usize>();
        space.keep_layers(3);
        fill(&mut space);
        space.keep_layers(3);
        assert_eq!(held(&space), 27);
        space.keep_layers(1);
        assert_eq!(held(&space), 0);
        assert!(space.kept.iter().all(|kept| kept.input.len() == 2));
    }
}
