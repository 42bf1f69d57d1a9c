//! Training: forward and backward passes over batches of token trees.
//!
//! The blocks are those that answer requests ([`crate::LanguageModel`]), so a trained model and a served one cannot differ.
//! A pass keeps what the backward pass needs (or only the blocks' inputs, and computes each block again), reads
//! log-probabilities or hidden states at chosen rows, asks what the loss's derivatives by them are, and adds the gradients
//! of the weights that are trained to host buffers. Weights that are not trained get none.
//!
//! Tokens that several sequences of a tree share go through the model once, forward and backward.
//!
//! On the CPU a pass is a function of its inputs, bit for bit, whatever the number of threads.

mod backward;
mod forward;
mod gradients;
mod plan;
mod readout;
mod space;
mod weights;

pub use gradients::{GradientBuffers, WeightId};
pub use plan::{MemoryPlan, Recompute};
pub use space::TrainingSpace;
pub use weights::{AdapterOf, AdapterWeights, ValuesOf};

pub use crate::decoder::Module;
pub use crate::kernels::gradient::LabelStatistics;

use crate::backend::Dropped;
use crate::decoder::Mode;
use crate::language_model::Engine;
use crate::{LanguageModel, LmError};

/// Sequences that share their first tokens. Rows of a batch are counted tree by tree: trunk, then branches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTree {
    pub trunk: Vec<u32>,
    pub branches: Vec<Vec<u32>>,
}

impl TokenTree {
    /// Tokens that go through the model.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.trunk.len() + self.branches.iter().map(Vec::len).sum::<usize>()
    }
}

/// A token whose log-probability is asked for, predicted by a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    pub row: usize,
    pub token: u32,
}

/// What is read of the model.
#[derive(Clone, Copy, Debug)]
pub enum Readout<'a> {
    Labels(&'a [Label]),
    /// Hidden states of these rows after the last norm.
    Hidden(&'a [usize]),
    /// All logits of these rows. Nothing can be learned from them.
    Logits(&'a [usize]),
}

/// What was read.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Labels(Vec<LabelStatistics>),
    /// `[rows, hidden]`.
    Hidden(Vec<f32>),
    /// `[rows, vocabulary]`.
    Logits(Vec<f32>),
}

/// Inputs of adapters that are dropped, as a function of `key` and of a key for each row.
#[derive(Clone, Copy, Debug)]
pub struct Dropout<'a> {
    pub rate: f32,
    pub key: u64,
    pub row_keys: &'a [u64],
}

/// One pass through the model.
#[derive(Clone, Copy, Debug)]
pub struct Lesson<'a> {
    pub trees: &'a [TokenTree],
    pub readout: Readout<'a>,
    /// The model without its adapter: the reference of preference losses.
    pub without_adapter: bool,
    pub dropout: Option<Dropout<'a>>,
    pub recompute: Recompute,
}

impl<'a> Lesson<'a> {
    /// A lesson without dropout that keeps what fits.
    #[must_use]
    pub fn new(trees: &'a [TokenTree], readout: Readout<'a>) -> Self {
        Self { trees, readout, without_adapter: false, dropout: None, recompute: Recompute::Never }
    }

    fn mode(&self) -> Mode<'a> {
        let dropped = self.dropout.filter(|dropout| dropout.rate > 0.0).map(|dropout| Dropped {
            rate: dropout.rate,
            key: dropout.key,
            row_keys: dropout.row_keys,
        });
        Mode { without_adapter: self.without_adapter, exact: true, dropped }
    }
}

impl LanguageModel {
    /// Reads without gradients.
    ///
    /// # Errors
    /// A token or row outside, a sequence longer than the context, or computing fails.
    pub fn read(&self, lesson: &Lesson<'_>, space: &mut TrainingSpace) -> Result<Reading, LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => decoder.read(lesson, space.cpu()),
            Engine::Candle(decoder) => decoder.read(lesson, space.candle()),
        }
    }

    /// All logits of a text, `[tokens, vocabulary]`.
    ///
    /// # Errors
    /// As [`LanguageModel::read`].
    pub fn logits(&self, tokens: &[u32]) -> Result<Vec<f32>, LmError> {
        let trees = [TokenTree { trunk: tokens.to_vec(), branches: Vec::new() }];
        let rows: Vec<usize> = (0..tokens.len()).collect();
        match self.read(&Lesson::new(&trees, Readout::Logits(&rows)), &mut TrainingSpace::default())? {
            Reading::Logits(logits) => Ok(logits),
            Reading::Labels(_) | Reading::Hidden(_) => Ok(Vec::new()),
        }
    }

    /// Reads, asks `respond` for the loss's derivatives (by each label's log-probability, or by each hidden state), and
    /// adds the gradients of those weights that `gradients` has buffers for.
    ///
    /// # Errors
    /// As [`LanguageModel::read`]; also when the model was not loaded for training.
    pub fn learn(
        &self,
        lesson: &Lesson<'_>,
        space: &mut TrainingSpace,
        respond: &mut dyn FnMut(&Reading) -> Vec<f32>,
        gradients: &mut GradientBuffers<'_>,
    ) -> Result<(), LmError> {
        match &self.engine {
            Engine::Cpu(decoder) => decoder.learn(lesson, space.cpu(), respond, gradients),
            Engine::Candle(decoder) => decoder.learn(lesson, space.candle(), respond, gradients),
        }
    }
}
