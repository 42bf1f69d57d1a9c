//! The way of clients' requests to a model.
//!
//! Nobody waits for company: a request is submitted as it comes, and the engine takes it into what it is writing, so
//! that all share its forward passes. So many may be under way; and who goes away takes their request along.

use std::sync::Arc;

use evalign_core::{Request, RequestKind, SampleKey};
use evalign_model::{Model, Replies, Update};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::error::{ApiError, ApiResult, Code};

/// The way to a model. Clones lead to the same one.
#[derive(Clone)]
pub(crate) struct Queue {
    model: Arc<dyn Model>,
    places: Arc<Semaphore>,
    max_waiting: usize,
}

/// What comes of requests that were asked together. Dropping it cancels what is not yet answered.
pub(crate) struct Answers(mpsc::UnboundedReceiver<Update>);

impl Answers {
    /// The next answer, or more of one; `None` once all have come, or the model has stopped.
    pub(crate) async fn next(&mut self) -> Option<Update> {
        self.0.recv().await
    }
}

impl Queue {
    pub(crate) fn new(model: Arc<dyn Model>, max_waiting: usize) -> Self {
        Self { model, places: Arc::new(Semaphore::new(max_waiting)), max_waiting }
    }

    /// Puts these to the model. All are taken or none. Has to be called on the runtime's threads.
    pub(crate) fn ask(&self, kinds: Vec<RequestKind>) -> ApiResult<Answers> {
        let (asked, most) = (kinds.len(), self.max_waiting);
        if asked > most {
            let message =
                format!("this asks for {asked} answers (prompts times `n`); at most {most} are given");
            return Err(ApiError::new(Code::InvalidRequest, message).about("n"));
        }
        let places = u32::try_from(asked).unwrap_or(u32::MAX);
        let permit = self.places.clone().try_acquire_many_owned(places).map_err(|_| {
            let message = "too many requests wait for this model";
            ApiError::new(Code::QueueFull, message).retry_after(2)
        })?;
        let request = |(index, kind): (usize, RequestKind)| Request {
            key: SampleKey { task: "completion".to_owned(), doc: index as u64, repeat: 0 },
            kind,
        };
        let requests = kinds.into_iter().enumerate().map(request).collect();
        // Not bounded, as the engine must not wait for a client that reads slowly; what a client may ask for is.
        let (told, answers) = mpsc::unbounded_channel();
        tokio::spawn(hand_on(self.model.submit_streamed(requests), told, permit));
        Ok(Answers(answers))
    }
}

/// Hands on what comes, as long as there is somebody to take it.
async fn hand_on(mut replies: Replies, told: mpsc::UnboundedSender<Update>, _places: OwnedSemaphorePermit) {
    loop {
        let update = tokio::select! {
            update = replies.next_update() => update,
            () = told.closed() => return,
        };
        let Some(update) = update else { return };
        if told.send(update).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
