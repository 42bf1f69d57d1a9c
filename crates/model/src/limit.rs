//! How many requests a server is sent at once.

mod controller;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use evalign_core::{Request, Response};
use futures::future::BoxFuture;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until};

use crate::call::{Call, Listener};
use crate::error::{ErrorKind, ModelError};
use controller::{Answer, Controller, Ticket};

/// Requests in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Concurrency {
    /// As many as the server takes, found out on the way.
    #[default]
    Auto,
    Fixed(NonZeroU32),
}

/// The limit of one account with one provider: everything that is sent there passes through it. Clones
/// are the same limit.
#[derive(Clone, Debug)]
pub struct Limiter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    slots: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    controller: Controller,
    /// Slots there are, taken or free. More than the limit only while requests sent under an earlier
    /// limit are in flight.
    slots: usize,
}

impl Limiter {
    #[must_use]
    pub fn new(concurrency: Concurrency) -> Self {
        let controller = Controller::new(concurrency);
        let slots = controller.limit();
        let state = State { controller, slots };
        Self(Arc::new(Inner { slots: Semaphore::new(slots), state: Mutex::new(state) }))
    }

    /// Requests that may be in flight now.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.state().controller.limit()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a slot, first come, first served. Dropping the slot gives it back.
    async fn slot(&self) -> Result<Slot<'_>, ModelError> {
        loop {
            let closed = |_| ModelError::Temporary("the limit on concurrency was closed".to_owned());
            let permit = self.0.slots.acquire().await.map_err(closed)?;
            while let Some(until) = self.paused_until() {
                sleep_until(until).await;
            }
            let mut state = self.state();
            // The limit may have been cut while this slot waited for a pause to end.
            if state.controller.in_flight() >= state.controller.limit() {
                state.slots -= 1;
                permit.forget();
                continue;
            }
            let ticket = state.controller.sent(Instant::now());
            return Ok(Slot { limiter: self, permit: Some(permit), ticket, answer: Answer::Other });
        }
    }

    fn paused_until(&self) -> Option<Instant> {
        self.state().controller.paused_until(Instant::now())
    }

    fn give_back(&self, permit: SemaphorePermit<'_>, ticket: Ticket, answer: Answer) {
        let mut state = self.state();
        state.controller.answered(ticket, answer, Instant::now());
        let limit = state.controller.limit();
        if state.slots > limit {
            permit.forget();
            state.slots -= 1;
            state.slots -= self.0.slots.forget_permits(state.slots.saturating_sub(limit));
        } else {
            drop(permit);
            self.0.slots.add_permits(limit - state.slots);
            state.slots = limit;
        }
    }
}

/// The right to send one request.
struct Slot<'a> {
    limiter: &'a Limiter,
    permit: Option<SemaphorePermit<'a>>,
    ticket: Ticket,
    answer: Answer,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            self.limiter.give_back(permit, self.ticket, self.answer);
        }
    }
}

/// The limits of all accounts in use, so that several models on one account share one.
#[derive(Clone, Debug, Default)]
pub struct Limiters(Arc<Mutex<BTreeMap<String, Limiter>>>);

impl Limiters {
    /// The limit of an account, made at first use. `account` says where requests go and on whose
    /// account, without the key itself.
    #[must_use]
    pub fn of(&self, account: &str, concurrency: Concurrency) -> Limiter {
        let mut limiters = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        limiters.entry(account.to_owned()).or_insert_with(|| Limiter::new(concurrency)).clone()
    }
}

/// Calls that wait for a slot before they are made.
#[derive(Debug)]
pub struct Limited<C> {
    call: C,
    limiter: Limiter,
}

impl<C: Call> Limited<C> {
    pub fn new(call: C, limiter: Limiter) -> Self {
        Self { call, limiter }
    }
}

impl<C: Call> Call for Limited<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            let mut slot = self.limiter.slot().await?;
            let result = self.call.call_aloud(request, listener).await;
            slot.answer = answer(&result);
            result
        })
    }
}

fn answer(result: &Result<Response, ModelError>) -> Answer {
    match result {
        Ok(_) => Answer::Accepted,
        Err(error) if error.kind() != ErrorKind::Retryable => Answer::Other,
        Err(error) if error.status() == Some(429) => Answer::Refused { retry_after: error.retry_after() },
        Err(_) => Answer::Disturbed,
    }
}
