use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use evalign_core::Response;
use tokio::sync::mpsc;

use crate::error::ModelError;

/// An answer and the index of the request it belongs to.
pub type Reply = (usize, Result<Response, ModelError>);

/// Answers that may wait for the caller before a provider pauses.
const WAITING: usize = 1024;

/// The answers to one submission, as they come. Dropping it cancels what is not yet answered.
pub struct Replies {
    ready: VecDeque<Reply>,
    source: Source,
}

enum Source {
    Channel(mpsc::Receiver<Reply>),
    Mapped(Box<Replies>, Box<dyn FnMut(Reply) -> Reply + Send>),
}

impl Replies {
    /// The two ends of one submission.
    #[must_use]
    pub fn channel() -> (ReplySender, Self) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (ReplySender(sender), Self { ready: VecDeque::new(), source: Source::Channel(receiver) })
    }

    /// The next answer; `None` once all have come (or the model has died). Cancel-safe: an answer is
    /// lost only with the whole of `Replies`.
    pub async fn next(&mut self) -> Option<Reply> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Replies::next`] as a poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        if let Some(reply) = self.ready.pop_front() {
            return Poll::Ready(Some(reply));
        }
        match &mut self.source {
            Source::Channel(receiver) => receiver.poll_recv(context),
            Source::Mapped(inner, change) => inner.poll_next(context).map(|reply| reply.map(change)),
        }
    }

    /// Puts answers that are there already before the others.
    #[must_use]
    pub fn preceded_by(mut self, ready: impl IntoIterator<Item = Reply>) -> Self {
        self.ready.extend(ready);
        self
    }

    /// Changes every answer as it passes, for decorators.
    #[must_use]
    pub fn map(self, change: impl FnMut(Reply) -> Reply + Send + 'static) -> Self {
        Self { ready: VecDeque::new(), source: Source::Mapped(Box::new(self), Box::new(change)) }
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies").field("ready", &self.ready.len()).finish_non_exhaustive()
    }
}

/// A provider's end of a submission. When all clones are dropped the submission has ended.
#[derive(Clone, Debug)]
pub struct ReplySender(mpsc::Sender<Reply>);

impl ReplySender {
    /// Hands over an answer from a thread of the provider's own (not from async code), waiting while the
    /// caller has enough to do. `Break` when nobody wants the answers any more.
    pub fn send(&self, index: usize, result: Result<Response, ModelError>) -> ControlFlow<()> {
        match self.0.blocking_send((index, result)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// [`ReplySender::send`] for async code, in two steps: waits while the caller has enough to do, and
    /// what comes back takes one answer. Cancel-safe.
    pub async fn room(&self) -> ControlFlow<(), Room<'_>> {
        match self.0.reserve().await {
            Ok(permit) => ControlFlow::Continue(Room(permit)),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Waits until the caller has dropped its [`Replies`].
    pub async fn cancelled(&self) {
        self.0.closed().await;
    }

    /// The caller has dropped its [`Replies`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.is_closed()
    }

    /// `Break` when it [is cancelled](ReplySender::is_cancelled).
    pub(crate) fn still_wanted(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Room for one answer; see [`ReplySender::room`].
#[derive(Debug)]
pub struct Room<'a>(mpsc::Permit<'a, Reply>);

impl Room<'_> {
    pub fn send(self, reply: Reply) {
        self.0.send(reply);
    }
}
