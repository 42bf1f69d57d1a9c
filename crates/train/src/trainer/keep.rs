//! What is kept of a run: checkpoints, and the weights from before an update that ruined them.

use std::path::PathBuf;

use super::{Event, Sink, Trainer};
use crate::checkpoint::TrainerState;
use crate::metrics::Means;
use crate::optimizer::AdamW;
use crate::{Learner, Parameter, TrainError};

/// The run before an update.
#[derive(Debug)]
pub(super) struct Previous {
    pub(super) weights: Vec<Vec<f32>>,
    pub(super) adam: AdamW,
    pub(super) state: TrainerState,
    pub(super) means: Means,
    pub(super) losses: (f64, u64),
}

/// Among the pending means: the losses, which are means over updates.
const PENDING_LOSS: &str = "loss";

pub(super) fn pending_losses(pending: &mut Vec<(String, f64, f64)>) -> (f64, u64) {
    match pending.iter().position(|(name, ..)| name == PENDING_LOSS) {
        Some(at) => {
            let (_, sum, updates) = pending.remove(at);
            (sum, updates as u64)
        }
        None => (0.0, 0),
    }
}

impl Trainer<'_> {
    pub(super) fn save(&mut self, learner: &dyn Learner, sink: Sink<'_>) -> Result<(), TrainError> {
        self.references.keep()?;
        let mut state = self.state.clone();
        state.pending = self.means.parts().to_vec();
        state.pending.push((PENDING_LOSS.to_owned(), self.losses.0, self.losses.1 as f64));
        let seen = self.batching.seen(state.update);
        state.reference = self.references.digest(seen.into_iter().map(|item| &self.data.items[item]));
        let path = self.checkpoints.save(learner, &self.adam, state)?;
        self.unpruned = true;
        sink(Event::Saved(&path))
    }

    /// Removes what is beyond the limit of checkpoints. Not right after one is written: its weights may turn out to be
    /// ruined, and then the one before it is what is left.
    pub(super) fn prune(&mut self) -> Result<(), TrainError> {
        match self.options.save_total_limit {
            Some(limit) if std::mem::take(&mut self.unpruned) => {
                self.checkpoints.prune(limit, self.state.best.map(|(_, update)| update))
            }
            Some(_) | None => Ok(()),
        }
    }

    /// Before an update, where that is wanted.
    pub(super) fn remember_previous(&mut self, learner: &dyn Learner) {
        if self.options.keep_previous {
            self.previous = Some(Previous {
                weights: learner.parameters().iter().map(|parameter| parameter.data.clone()).collect(),
                adam: self.adam.clone(),
                state: self.state.clone(),
                means: self.means.clone(),
                losses: self.losses,
            });
        }
    }

    /// Keeps weights whose loss is a number.
    pub(super) fn keep_weights(
        &mut self,
        learner: &dyn Learner,
        sink: Sink<'_>,
    ) -> Result<Option<PathBuf>, TrainError> {
        if self.state.update == 0 {
            return Ok(None);
        }
        self.save(learner, sink)?;
        Ok(Some(self.checkpoints.path(self.state.update)))
    }

    /// Weights that are no numbers are neither kept nor used.
    pub(super) fn check_weights(
        &mut self,
        learner: &mut dyn Learner,
        sink: Sink<'_>,
    ) -> Result<(), TrainError> {
        let ruined = |parameter: &Parameter| parameter.data.iter().copied().find(|value| !value.is_finite());
        let found = learner.parameters().iter().find_map(|found| Some((found.name.clone(), ruined(found)?)));
        let Some((name, value)) = found else { return Ok(()) };
        self.state.update += 1;
        let update = self.state.update;
        let kept = self.keep_previous_weights(learner, sink)?;
        Err(TrainError::NotFinite {
            update,
            what: format!("a value of `{name}`"),
            value: f64::from(value),
            kept,
        })
    }

    /// The loss is no number, so the last update ruined the weights: keeps those from before it.
    pub(super) fn keep_previous_weights(
        &mut self,
        learner: &mut dyn Learner,
        sink: Sink<'_>,
    ) -> Result<Option<PathBuf>, TrainError> {
        // A checkpoint of the ruined weights is none to go on from.
        if self.checkpoints.path(self.state.update).exists() {
            self.checkpoints.remove(self.state.update)?;
        }
        let Some(previous) = self.previous.take() else {
            return Ok(self.checkpoints.updates()?.pop().map(|last| self.checkpoints.path(last)));
        };
        for (parameter, weights) in learner.parameters_mut().iter_mut().zip(previous.weights) {
            parameter.data = weights;
        }
        learner.parameters_changed()?;
        (self.adam, self.state, self.means, self.losses) =
            (previous.adam, previous.state, previous.means, previous.losses);
        self.keep_weights(learner, sink)
    }
}
