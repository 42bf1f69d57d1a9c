use super::Trainer;
use crate::{Gradients, Learner, MicroBatch, Parameter, ReferenceLogps, TrainError};

/// What the first update has to show where nothing is trained yet: anything else means that reference, adapter or masks
/// are not what they should be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// The loss, if it is a constant.
    pub loss: Option<f64>,
    /// Policy and reference are the same, so rewards and margins are zero.
    pub zero_rewards: bool,
    /// Indices of parameters whose gradients are zero, exactly: LoRA's `A` while `B` is zero.
    pub zero_gradients: Vec<usize>,
    /// Differences of losses and rewards that rounding alone makes where policy and reference are computed in different
    /// ways.
    pub tolerance: f64,
    /// A text's numbers depend on what is computed beside it (on GPUs): the first update asks the reference itself, for
    /// what it said about other batches may differ by more than `tolerance`.
    pub depends_on_batch: bool,
}

impl Trainer<'_> {
    pub(super) fn reference_of(
        &mut self,
        batch: &MicroBatch,
        learner: &mut dyn Learner,
    ) -> Result<Option<ReferenceLogps>, TrainError> {
        match self.options.start.depends_on_batch && self.state.update == 0 {
            true => {
                let found = learner.reference(batch)?;
                self.read += found.as_ref().map_or(0, |_| batch.tokens());
                Ok(found)
            }
            false => self.references.of(batch, learner),
        }
    }

    /// `largest_reward` is the largest of the update's rewards, by size.
    pub(super) fn check_start(
        &self,
        (loss, largest_reward): (f64, f32),
        gradients: &Gradients,
        parameters: &[Parameter],
    ) -> Result<(), TrainError> {
        let start = &self.options.start;
        if self.state.update > 0 {
            return Ok(());
        }
        let wrong = |what: String| {
            Err(TrainError::Unsupported {
                what,
                hint: "the reference has to be the model that training starts from; check `--ref-model`, or leave it out"
                    .to_owned(),
            })
        };
        if let Some(expected) = start.loss
            && (loss - expected).abs() > start.tolerance * expected.max(1.0)
        {
            return wrong(format!(
                "the first loss is {loss}, not {expected}: policy and reference differ before anything is trained"
            ));
        }
        if start.zero_rewards && f64::from(largest_reward) > start.tolerance {
            return wrong(format!(
                "a reward is {largest_reward} before anything is trained: policy and reference differ"
            ));
        }
        let is_zero =
            |index: &usize| gradients.0.get(*index).is_none_or(|values| values.iter().all(|g| *g == 0.0));
        match start
            .zero_gradients
            .iter()
            .find(|index| !is_zero(index))
            .and_then(|index| parameters.get(*index))
        {
            Some(parameter) => wrong(format!(
                "`{}` has a gradient although what it feeds is zero: the adapter is not a new one",
                parameter.name
            )),
            None => Ok(()),
        }
    }
}
