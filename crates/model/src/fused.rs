//! Once a server has said no for good, or is wanted no more, it is not asked again.

use std::sync::{Arc, OnceLock};

use evalign_core::{Request, Response};
use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::call::{Call, Listener};
use crate::error::{ErrorKind, ModelError};

/// Whether calls are still made, and how many are under way.
#[derive(Debug)]
pub struct Fuse {
    blown: OnceLock<ModelError>,
    under_way: watch::Sender<usize>,
}

impl Default for Fuse {
    fn default() -> Self {
        Self { blown: OnceLock::new(), under_way: watch::Sender::new(0) }
    }
}

impl Fuse {
    /// From now on calls fail with `why`; the first reason stays.
    pub(crate) fn blow(&self, why: ModelError) {
        if self.blown.set(why).is_ok() {
            self.under_way.send_modify(|_| ());
        }
    }

    /// Waits until it is blown and the last call under way has ended.
    pub(crate) async fn quiet(&self) {
        let mut under_way = self.under_way.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        let _ = under_way.wait_for(|under_way| *under_way == 0 && self.blown.get().is_some()).await;
    }

    fn enter(&self) -> Result<UnderWay<'_>, ModelError> {
        if let Some(error) = self.blown.get() {
            return Err(error.clone());
        }
        self.count(|under_way| under_way + 1);
        Ok(UnderWay(self))
    }

    /// Wakes those who wait for the end only when it may have come.
    fn count(&self, change: impl FnOnce(usize) -> usize) {
        self.under_way.send_if_modified(|under_way| {
            *under_way = change(*under_way);
            *under_way == 0 && self.blown.get().is_some()
        });
    }
}

/// A call under way, whether it is answered or dropped.
struct UnderWay<'a>(&'a Fuse);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.count(|under_way| under_way.saturating_sub(1));
    }
}

/// Calls that end with the first that finds the model unavailable (a wrong key, an empty account, an
/// unknown model): every later one fails with the same error and is not made. Those under way are still
/// answered. Stands inside of the limit on concurrency, so that calls that wait for a slot are stopped too.
#[derive(Debug)]
pub struct Fused<C> {
    call: C,
    fuse: Arc<Fuse>,
}

impl<C: Call> Fused<C> {
    pub fn new(call: C, fuse: Arc<Fuse>) -> Self {
        Self { call, fuse }
    }
}

impl<C: Call> Call for Fused<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            let under_way = self.fuse.enter()?;
            let result = self.call.call_aloud(request, listener).await;
            drop(under_way);
            if let Err(error) = &result
                && error.kind() == ErrorKind::Unavailable
                // Each call is told for itself that it may not be paid for.
                && !matches!(error, ModelError::BudgetExhausted(_))
            {
                self.fuse.blow(error.clone());
            }
            result
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use evalign_core::{RequestKind, SampleKey};

    use super::*;

    /// Fails with one kind of error, and counts.
    struct Failing(ErrorKind, AtomicUsize);

    impl Call for Failing {
        fn call_aloud<'a>(
            &'a self,
            _: &'a Request,
            _: Listener<'a>,
        ) -> BoxFuture<'a, Result<Response, ModelError>> {
            self.1.fetch_add(1, Ordering::Relaxed);
            let error = match self.0 {
                ErrorKind::Permanent => ModelError::Request("no".to_owned()),
                ErrorKind::Retryable => ModelError::Temporary("not now".to_owned()),
                ErrorKind::Unavailable => {
                    ModelError::Unsupported { model: "m".to_owned(), what: "gone".to_owned(), hint: None }
                }
            };
            Box::pin(async move { Err(error) })
        }
    }

    async fn calls_made(kind: ErrorKind) -> usize {
        let fused = Fused::new(Failing(kind, AtomicUsize::new(0)), Arc::default());
        let key = SampleKey { task: "t".to_owned(), doc: 0, repeat: 0 };
        let request = Request { key, kind: RequestKind::Perplexity { text: "x".to_owned() } };
        for _ in 0..3 {
            assert_eq!(fused.call(&request).await.unwrap_err().kind(), kind);
        }
        fused.call.1.load(Ordering::Relaxed)
    }

    #[tokio::test]
    async fn only_a_model_that_is_gone_is_not_asked_again() {
        assert_eq!(calls_made(ErrorKind::Unavailable).await, 1);
        assert_eq!(calls_made(ErrorKind::Permanent).await, 3);
        assert_eq!(calls_made(ErrorKind::Retryable).await, 3);
    }
}
