use std::future::Future;
use std::time::Duration;

use qdrant_client::QdrantError;
use tonic::Code;

use super::QdrantStore;
use crate::{RagError, StoreFault};

impl QdrantStore {
    /// Calls until it succeeds, fails for good, or the policy's attempts are used up.
    pub(super) async fn call<T, F>(&self, request: impl Fn() -> F) -> Result<T, RagError>
    where
        F: Future<Output = Result<T, QdrantError>>,
    {
        let mut failures = 0;
        loop {
            let error = match request().await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            };
            failures += 1;
            let fault = fault(&self.place, &error);
            if failures >= self.retry.attempts || !passes(&fault) {
                return Err(fault);
            }
            let delay = self.retry.delay(failures, retry_after(&error));
            tracing::warn!(error = %fault, failures, ?delay, "trying again");
            tokio::time::sleep(delay).await;
        }
    }
}

fn passes(error: &RagError) -> bool {
    matches!(error, RagError::Store { kind: StoreFault::Unavailable, .. })
}

fn retry_after(error: &QdrantError) -> Option<Duration> {
    match error {
        QdrantError::ResourceExhaustedError { retry_after_seconds, .. } => {
            Some(Duration::from_secs(*retry_after_seconds))
        }
        _ => None,
    }
}

/// How the client reports, as an internal error, that nobody answers at the address; the address, user name
/// and password included, follows.
const NOT_REACHED: &str = "Failed to connect to";

/// Codes of https://grpc.io/docs/guides/status-codes/. The message is the server's; its headers, which a
/// proxy may have filled with anything, stay out.
pub(super) fn fault(place: &str, error: &QdrantError) -> RagError {
    let (message, kind) = match error {
        QdrantError::ResponseError { status } if status.message().contains(NOT_REACHED) => {
            ("it cannot be reached".to_owned(), StoreFault::Unavailable)
        }
        QdrantError::ResponseError { status } | QdrantError::ResourceExhaustedError { status, .. } => {
            let kind = match status.code() {
                Code::Unavailable
                | Code::DeadlineExceeded
                | Code::ResourceExhausted
                | Code::Aborted
                | Code::Cancelled
                | Code::Unknown => StoreFault::Unavailable,
                Code::Unauthenticated | Code::PermissionDenied => StoreFault::Denied,
                Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::OutOfRange
                | Code::Unimplemented => StoreFault::Refused,
                Code::Ok | Code::Internal | Code::DataLoss => StoreFault::Broken,
            };
            (format!("{}: {}", status.code(), status.message()), kind)
        }
        QdrantError::InvalidUri(_) | QdrantError::ConversionError(_) => {
            (error.to_string(), StoreFault::Refused)
        }
        QdrantError::Io(io) => (io.to_string(), StoreFault::Unavailable),
        other => (other.to_string(), StoreFault::Broken),
    };
    RagError::Store { place: place.to_owned(), message, kind }
}
