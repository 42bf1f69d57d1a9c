use evalign_core::{Request, Response};
use futures::future::BoxFuture;

use crate::error::ModelError;
use crate::teller::Teller;

/// Who hears an answer while it is written, if anybody does.
pub type Listener<'a> = Option<&'a mut Teller>;

/// One request to a server: the seam between a provider and what stands around it (deadlines, limits on
/// concurrency, retries). [`crate::Remote`] makes a [`crate::Model`] of it.
///
/// A call asks once: whoever wants it asked again wraps it. Dropping the future cancels it, and the
/// connection it used is closed at once.
pub trait Call: Send + Sync {
    /// The answer comes whole.
    ///
    /// # Errors
    /// [`ModelError::kind`] says whether the request is at fault, the moment, or the server.
    fn call<'a>(&'a self, request: &'a Request) -> BoxFuture<'a, Result<Response, ModelError>> {
        self.call_aloud(request, None)
    }

    /// As [`Call::call`]. Where somebody listens, a text is told as it comes; what is returned is the same.
    ///
    /// # Errors
    /// As [`Call::call`]. What was told of an answer that failed is taken up, or withdrawn, by the next attempt.
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>>;
}

impl<C: Call + ?Sized> Call for std::sync::Arc<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        (**self).call_aloud(request, listener)
    }
}
