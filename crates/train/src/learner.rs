//! The seam between the numbers (forward, backward, losses) and the loop that drives them.

use crate::{MicroBatch, TrainError};

/// A trained tensor. The name is the one it has in its file: PEFT's
/// (`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`), or the model's own in full fine-tuning.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    pub name: String,
    pub shape: Vec<usize>,
    /// Row-major, `shape.iter().product()` values.
    pub data: Vec<f32>,
    /// Weight decay applies (transformers: not to biases and norms).
    pub decays: bool,
}

/// Gradients, one buffer for each parameter, in the same order and of the same lengths.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gradients(pub Vec<Vec<f32>>);

impl Gradients {
    /// All zero.
    #[must_use]
    pub fn zeros(parameters: &[Parameter]) -> Self {
        Self(parameters.iter().map(|parameter| vec![0.0; parameter.data.len()]).collect())
    }

    pub fn clear(&mut self) {
        for buffer in &mut self.0 {
            buffer.fill(0.0);
        }
    }
}

/// What a micro-batch counts in its update. The loss of a micro-batch is
/// `items * sum over its items (pairs) + labels * sum over its labels of single texts and chosen sides`,
/// the former for preference terms, the latter for language modelling. So the loop alone decides whether
/// gradient accumulation equals the big batch (each a share of the update's totals) or TRL's mean of means.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    pub items: f32,
    pub labels: f32,
}

/// The reference model's log-probabilities of a micro-batch, in the order of [`Observed::sequences`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceLogps {
    /// Of each sequence, its labels' log-probabilities: [labels that count].
    pub per_label: Vec<Vec<f32>>,
}

/// What one text came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SequenceObserved {
    /// Sum of the log-probabilities of the labels that count.
    pub logp: f32,
    pub reference_logp: Option<f32>,
    pub labels: usize,
    /// Of the labels that count, in order.
    pub logp_of_label: Vec<f32>,
    pub reference_of_label: Vec<f32>,
    pub entropy_of_label: Vec<f32>,
    /// Sum over labels of the mean of the logits over the vocabulary.
    pub logits_sum: f64,
    /// Labels that the model puts first.
    pub top1: usize,
    /// Reward model: the score, and the position it was read at.
    pub reward: Option<f32>,
    pub pooled_index: Option<usize>,
}

/// What one micro-batch came to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// With its [`Scale`]: the micro-batches of an update add up to the update's loss.
    pub loss: f64,
    /// TRL's order: of pairs all chosen, then all rejected; single texts in order.
    pub sequences: Vec<SequenceObserved>,
    /// Reward of each sequence as the loss sees it (beta times log-ratio), where there is one; same order.
    pub rewards: Vec<f32>,
    /// KTO's estimate of the divergence from the reference, as the loss sees it.
    pub divergence: Option<f64>,
}

/// A generated answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    pub text: String,
    pub tokens: usize,
}

impl Answer {
    /// Tokens that were read and written for answers to these prompts.
    pub(crate) fn tokens_of(prompts: &[Vec<u32>], answers: &[Self]) -> u64 {
        let written = answers.iter().map(|answer| answer.tokens);
        prompts.iter().map(Vec::len).chain(written).sum::<usize>() as u64
    }
}

/// What is trained. Deterministic: the same parameters and micro-batch give the same bits, except for dropout,
/// which is a function of `update` and the micro-batch's rows.
pub trait Learner {
    /// In a fixed order.
    fn parameters(&self) -> &[Parameter];

    /// After the values were changed, [`Learner::parameters_changed`] has to be called.
    fn parameters_mut(&mut self) -> &mut [Parameter];

    /// File name the parameters are saved under (`adapter_model.safetensors`).
    fn weights_name(&self) -> &str;

    /// What lies beside the parameters so that they can be used: names and contents of files.
    ///
    /// # Errors
    /// What describes the model cannot be written down.
    fn companions(&self) -> Result<Vec<(String, Vec<u8>)>, TrainError>;

    /// # Errors
    /// The device cannot take the new values.
    fn parameters_changed(&mut self) -> Result<(), TrainError>;

    /// Forward and backward: adds the gradients of the scaled loss to `gradients`.
    ///
    /// # Errors
    /// Computing fails. A value that is not finite is no error here: the loop looks at what comes out.
    fn backward(
        &mut self,
        batch: &MicroBatch,
        reference: Option<&ReferenceLogps>,
        scale: Scale,
        update: u64,
        gradients: &mut Gradients,
    ) -> Result<Observed, TrainError>;

    /// The same without gradients and dropout.
    ///
    /// # Errors
    /// As [`Learner::backward`].
    fn forward(
        &mut self,
        batch: &MicroBatch,
        reference: Option<&ReferenceLogps>,
        scale: Scale,
    ) -> Result<Observed, TrainError>;

    /// Log-probabilities under the reference (adapter off, frozen copy or another model); `None` for a loss
    /// that has none.
    ///
    /// # Errors
    /// As [`Learner::backward`].
    fn reference(&mut self, batch: &MicroBatch) -> Result<Option<ReferenceLogps>, TrainError>;

    /// What the model answers to these prompts, greedily.
    ///
    /// # Errors
    /// As [`Learner::backward`].
    fn answers(&mut self, prompts: &[Vec<u32>]) -> Result<Vec<Answer>, TrainError>;
}
