//! Requests that plan a run before they are answered. They read datasets and load models, which may take minutes: were
//! they let, they would hold all threads that block, and nobody else's request were answered.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};

/// Runs that are planned at once: far fewer than there are threads.
const AT_ONCE: usize = 4;

/// Requests that plan or wait for it: half of those that are in flight at most where nothing else is said.
const MOST: usize = 256;

pub(crate) struct Planning {
    places: Arc<Semaphore>,
    threads: Arc<Semaphore>,
}

impl Default for Planning {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(MOST)), threads: Arc::new(Semaphore::new(AT_ONCE)) }
    }
}

impl Planning {
    /// Waits for its turn, without a thread.
    async fn begin(&self) -> ApiResult<[OwnedSemaphorePermit; 2]> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            let message = "too many runs wait to be planned";
            ApiError::new(Code::Unavailable, message).retry_after(5)
        })?;
        let thread = self.threads.clone().acquire_owned().await.map_err(ApiError::internal)?;
        Ok([place, thread])
    }
}

impl App {
    /// As [`App::blocking`], for what plans a run.
    pub(crate) async fn plan<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self) -> ApiResult<T> + Send + 'static,
    ) -> ApiResult<T> {
        let turn = self.planning.begin().await?;
        self.blocking(move |app| {
            // Also when its client has left.
            let _turn = turn;
            work(app)
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn some_plan_some_wait_and_more_are_refused() {
        let planning = Planning::default();
        let mut planned: Vec<_> = (0..AT_ONCE).map(|_| planning.begin().now_or_never().unwrap()).collect();
        let mut waiting: Vec<_> = (AT_ONCE..MOST).map(|_| Box::pin(planning.begin())).collect();
        assert!(waiting.iter_mut().all(|turn| turn.now_or_never().is_none()));
        let refused = planning.begin().now_or_never().unwrap().unwrap_err();
        assert_eq!((refused.code, refused.retry_after_secs), (Code::Unavailable, Some(5)));
        drop(planned.pop());
        assert!(waiting.remove(0).now_or_never().is_some_and(|turn| turn.is_ok()));
        // Who leaves while it waits gives its place back.
        waiting.clear();
        drop(planned);
        assert!(planning.begin().now_or_never().is_some_and(|turn| turn.is_ok()));
    }
}
