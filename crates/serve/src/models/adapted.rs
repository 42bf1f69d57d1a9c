//! Models with an adapter that was trained here. There may be any number of them, so they do not stay as those that
//! are served do.

use std::sync::{Arc, Mutex, PoisonError};

use evalign_core::{ModelRef, ScoringMode};
use evalign_model::{DateTime, Model};

use crate::error::ApiResult;

/// The one that was asked for last. A run asks twice, when it is planned and when it is done, and so do equal
/// requests: however many come at once, one of them loads.
#[derive(Default)]
pub(crate) struct Adapted(Mutex<Option<Last>>);

struct Last {
    reference: ModelRef,
    mode: ScoringMode,
    model: Arc<dyn Model>,
}

impl Adapted {
    /// Blocks while it, or another one, is loaded. `now` is what its prompts have to take for the present, if that
    /// matters.
    pub(crate) fn get(
        &self,
        (reference, mode): (&ModelRef, ScoringMode),
        now: Option<DateTime>,
        load: impl FnOnce() -> ApiResult<Arc<dyn Model>>,
    ) -> ApiResult<Arc<dyn Model>> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(last) = &*last
            && (&last.reference, last.mode) == (reference, mode)
            && now.is_none_or(|now| last.model.clock() == Some(now))
        {
            return Ok(last.model.clone());
        }
        // Before the next one is loaded: two of them may not fit.
        *last = None;
        let model = load()?;
        *last = Some(Last { reference: reference.clone(), mode, model: model.clone() });
        Ok(model)
    }
}

#[cfg(test)]
mod tests;
