//! Requests that change something. While another process has the database locked, each of them waits on a thread: were they
//! let, they would hold all threads that block, and nobody who reads were answered.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{ApiError, ApiResult, Code};

/// Threads that wait for the store and for files: what a server's runtime has to have, at least.
pub const BLOCKING_THREADS: usize = 64;

/// Threads that requests which change something have at once.
const AT_ONCE: usize = BLOCKING_THREADS / 2;

/// How long they wait for one.
const PATIENCE: Duration = Duration::from_secs(5);

tokio::task_local! {
    static CHANGES: ();
}

/// Answers a request that changes something: what blocks of it takes its turn.
pub(crate) async fn changing<T>(answer: impl Future<Output = T>) -> T {
    CHANGES.scope((), answer).await
}

pub(crate) struct Writes(Arc<Semaphore>);

impl Default for Writes {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl Writes {
    /// Waits for the turn of the request that is being answered, without a thread. One that only reads needs none, nor
    /// does the server's own work.
    pub(crate) async fn begin(&self) -> ApiResult<Option<OwnedSemaphorePermit>> {
        if CHANGES.try_with(|()| ()).is_err() {
            return Ok(None);
        }
        let Ok(turn) = tokio::time::timeout(PATIENCE, self.0.clone().acquire_owned()).await else {
            let message = "too many requests wait to be stored";
            return Err(ApiError::new(Code::Unavailable, message).retry_after(5));
        };
        turn.map(Some).map_err(ApiError::internal)
    }
}
