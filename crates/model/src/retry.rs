//! Asking again.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use evalign_core::{Request, Response};
use evalign_fetch::{Jitter, RetryPolicy};
use futures::future::BoxFuture;

use crate::call::{Call, Listener};
use crate::error::{ErrorKind, ModelError};

/// Calls that are made again when they fail in passing: after a wait drawn from zero up to a bound that
/// doubles (full jitter: Brooker, "Exponential Backoff And Jitter", 2015), and not before the time that
/// the server names. Stands outside of the limit on concurrency, so that waiting holds no slot. The only
/// layer that asks again: a call makes at most [`RetryPolicy::attempts`] requests.
#[derive(Debug)]
pub struct Retrying<C> {
    call: C,
    policy: RetryPolicy,
    jitter: Jitter,
    answered: AtomicU64,
}

impl<C: Call> Retrying<C> {
    pub fn new(call: C, policy: RetryPolicy, jitter: Jitter) -> Self {
        Self { call, policy, jitter, answered: AtomicU64::new(0) }
    }

    async fn attempt(&self, request: &Request, mut listener: Listener<'_>) -> Result<Response, ModelError> {
        let mut attempts = 1;
        // Since the first failure: before it, the call may have waited for a slot while others were answered.
        let mut answered_before = None;
        loop {
            let error = match self.call.call_aloud(request, listener.as_deref_mut()).await {
                Ok(mut response) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                    if let Some(latency) = &mut response.latency {
                        latency.attempts += attempts - 1;
                    }
                    return Ok(response);
                }
                Err(error) if error.kind() != ErrorKind::Retryable => return Err(error),
                Err(error) => error,
            };
            let answered = self.answered.load(Ordering::Relaxed);
            let answered_before = *answered_before.get_or_insert(answered);
            if attempts >= self.policy.attempts {
                // Whether a connection can be had does not depend on the request: when nobody was answered in
                // all that time, there is no server any more.
                let gone = error.is_no_connection() && answered == answered_before;
                return Err(ModelError::GaveUp { attempts, last: Arc::new(error), gone });
            }
            let wait = self.policy.wait(attempts, error.retry_after(), self.jitter.draw());
            tracing::debug!(sample = %request.key, %error, attempts, ?wait, "asking again");
            tokio::time::sleep(wait).await;
            attempts += 1;
        }
    }
}

impl<C: Call> Call for Retrying<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(self.attempt(request, listener))
    }
}
