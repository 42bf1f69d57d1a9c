//! Models with an adapter that was trained here. There may be any number of them, so they do not stay as those that
//! are served do.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evalign_core::{ModelRef, ScoringMode};
use evalign_model::{DateTime, Model};

use crate::error::{ApiError, ApiResult, Code};
use crate::models::{Models, Served};

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

/// Models that are a served one with an adapter, and that clients talk to. They compute with the weights of the served
/// one, on the CPU; each has its adapter, and keys and values while it answers
/// ([`evalign_model::EngineOptions::memory_bytes`] of each).
const MOST_ADAPTERS: usize = 8;
/// Models all of whose weights were trained: each has weights of its own in memory.
const MOST_WHOLE: usize = 2;

/// Those that were asked last, the last one last. None goes while it answers somebody.
type Recent = Vec<(ModelRef, Arc<Served>)>;

#[derive(Clone, Default)]
pub(super) struct Talking {
    recent: Arc<Mutex<Recent>>,
    /// Held by who loads one: however many ask, one loads.
    loading: Arc<tokio::sync::Mutex<()>>,
}

impl Talking {
    fn lock(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self, reference: &ModelRef) -> Option<Arc<Served>> {
        let mut recent = self.lock();
        let place = recent.iter().position(|(known, _)| known == reference)?;
        let found = recent.remove(place);
        let served = found.1.clone();
        recent.push(found);
        Some(served)
    }

    /// Makes room for this one, as more may not fit.
    fn make_room(&self, wanted: &ModelRef) -> ApiResult<()> {
        let mut recent = self.lock();
        let alike = |known: &ModelRef| known.adapter.is_some() == wanted.adapter.is_some();
        let most = if wanted.adapter.is_some() { MOST_ADAPTERS } else { MOST_WHOLE };
        if recent.iter().filter(|(known, _)| alike(known)).count() < most {
            return Ok(());
        }
        // Whoever gets one gets it under this lock: one that only the list holds answers nobody.
        let idle = |(known, served): &(ModelRef, Arc<Served>)| alike(known) && Arc::strong_count(served) == 1;
        let Some(idle) = recent.iter().position(idle) else {
            let message = "as many trained models as there may be are answering others";
            return Err(ApiError::new(Code::Unavailable, message).retry_after(2));
        };
        let gone = recent.remove(idle);
        drop(recent);
        drop(gone);
        Ok(())
    }

    async fn get(
        &self,
        reference: &ModelRef,
        load: impl FnOnce() -> ApiResult<Served> + Send + 'static,
    ) -> ApiResult<Arc<Served>> {
        if let Some(served) = self.known(reference) {
            return Ok(served);
        }
        let only = self.loading.clone().lock_owned().await;
        if let Some(served) = self.known(reference) {
            return Ok(served);
        }
        let (talking, reference) = (self.clone(), reference.clone());
        let load = move || {
            // Also when its client leaves.
            let _only = only;
            talking.make_room(&reference)?;
            let served = Arc::new(load()?);
            talking.lock().push((reference, served.clone()));
            Ok(served)
        };
        tokio::task::spawn_blocking(load).await?
    }
}

impl Models {
    /// The model to talk to that an adapter makes of the one that is served under this name, loaded if it is not yet.
    pub(crate) async fn served_adapted(&self, name: &str, reference: &ModelRef) -> ApiResult<Arc<Served>> {
        let (name, adapted) = (name.to_owned(), reference.clone());
        let (offline, max_waiting) = (self.offline, self.max_waiting);
        let load = move || Served::load(name, &adapted, offline, max_waiting);
        self.talking_adapted.get(reference, load).await
    }
}

#[cfg(test)]
mod tests;
