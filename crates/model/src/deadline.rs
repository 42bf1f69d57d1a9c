//! No call lasts for ever.

#[cfg(test)]
mod tests;

use std::time::Duration;

use evalign_core::{Request, Response};
use futures::future::BoxFuture;

use crate::call::{Call, Listener};
use crate::error::{ModelError, TransportFailure};

/// Calls that fail when they are not answered in full within a time.
#[derive(Debug)]
pub struct Deadlined<C> {
    call: C,
    /// What messages call the server.
    server: String,
    total: Duration,
}

impl<C: Call> Deadlined<C> {
    pub fn new(call: C, server: impl Into<String>, total: Duration) -> Self {
        Self { call, server: server.into(), total }
    }
}

impl<C: Call> Call for Deadlined<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(within(self.total, &self.server, self.call.call_aloud(request, listener)))
    }
}

/// An exchange with a server that is to be over within a time.
pub(crate) async fn within<T>(
    total: Duration,
    server: &str,
    exchange: impl Future<Output = Result<T, ModelError>>,
) -> Result<T, ModelError> {
    tokio::time::timeout(total, exchange).await.unwrap_or_else(|_| {
        Err(ModelError::Transport {
            server: server.to_owned(),
            failure: TransportFailure::Timeout,
            detail: format!("no complete answer within {} s", total.as_secs_f64()),
        })
    })
}
