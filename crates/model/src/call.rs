use evalign_core::{Request, Response};
use futures::future::BoxFuture;

use crate::error::ModelError;

/// One request to a server: the seam between a provider and what stands around it (deadlines, limits on
/// concurrency, retries). [`crate::Remote`] makes a [`crate::Model`] of it.
///
/// A call asks once: whoever wants it asked again wraps it. Dropping the future cancels it, and the
/// connection it used is closed at once.
pub trait Call: Send + Sync {
    /// # Errors
    /// [`ModelError::kind`] says whether the request is at fault, the moment, or the server.
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Response, ModelError>>;
}

impl<C: Call + ?Sized> Call for std::sync::Arc<C> {
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Response, ModelError>> {
        (**self).call(request)
    }
}
