use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::task::{Context, Poll};

use evalign_core::Response;
use evalign_lm::Piece;
use tokio::sync::mpsc;

use crate::error::ModelError;

/// An answer and the index of the request it belongs to.
pub type Reply = (usize, Result<Response, ModelError>);

/// What comes of a submission.
#[derive(Clone, Debug)]
pub enum Update {
    /// More of the text of an answer that is being written, with the index of its request. Put together, the
    /// pieces are the beginning of the answer's text: what is missing comes with the answer alone. Those of servers
    /// have no log-probabilities; the answer has.
    Piece(usize, Piece),
    /// What was told of this answer is void: it is written from the beginning, and otherwise.
    Withdrawn(usize),
    Answer(Reply),
}

/// Answers that may wait for the caller before a provider pauses.
const WAITING: usize = 1024;

/// The answers to one submission, as they come. Dropping it cancels what is not yet answered.
pub struct Replies {
    ready: VecDeque<Reply>,
    source: Source,
}

enum Source {
    Channel(mpsc::Receiver<Update>),
    Mapped(Box<Replies>, Box<dyn FnMut(Update) -> Update + Send>),
}

impl Replies {
    /// The two ends of one submission.
    #[must_use]
    pub fn channel() -> (ReplySender, Self) {
        Self::with_room(WAITING / 2)
    }

    /// [`Replies::channel`] with room for this many answers, so that a provider of which no more are wanted never
    /// waits: one thread that answers everybody must not, because one of them has stopped reading.
    pub(crate) fn with_room(answers: usize) -> (ReplySender, Self) {
        let (sender, receiver) = mpsc::channel(answers + WAITING / 2);
        (ReplySender { sender, answers }, Self { ready: VecDeque::new(), source: Source::Channel(receiver) })
    }

    /// The next answer; `None` once all have come (or the model has died). Cancel-safe: an answer is
    /// lost only with the whole of `Replies`.
    pub async fn next(&mut self) -> Option<Reply> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// [`Replies::next`] as a poll.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Reply>> {
        loop {
            match std::task::ready!(self.poll_update(context)) {
                Some(Update::Piece(..) | Update::Withdrawn(_)) => {}
                Some(Update::Answer(reply)) => return Poll::Ready(Some(reply)),
                None => return Poll::Ready(None),
            }
        }
    }

    /// The next answer, or more of one that is being written, of what was
    /// [submitted so](crate::Model::submit_streamed); otherwise as [`Replies::next`].
    pub async fn next_update(&mut self) -> Option<Update> {
        std::future::poll_fn(|context| self.poll_update(context)).await
    }

    fn poll_update(&mut self, context: &mut Context<'_>) -> Poll<Option<Update>> {
        if let Some(reply) = self.ready.pop_front() {
            return Poll::Ready(Some(Update::Answer(reply)));
        }
        match &mut self.source {
            Source::Channel(receiver) => receiver.poll_recv(context),
            Source::Mapped(inner, change) => inner.poll_update(context).map(|update| update.map(change)),
        }
    }

    /// Puts answers that are there already before the others.
    #[must_use]
    pub fn preceded_by(mut self, ready: impl IntoIterator<Item = Reply>) -> Self {
        self.ready.extend(ready);
        self
    }

    /// Changes everything as it passes, for decorators.
    #[must_use]
    pub fn map(self, change: impl FnMut(Update) -> Update + Send + 'static) -> Self {
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
pub struct ReplySender {
    sender: mpsc::Sender<Update>,
    /// Room that is kept for these.
    answers: usize,
}

impl ReplySender {
    /// Hands over an answer from a thread of the provider's own (not from async code), waiting while the
    /// caller has enough to do. `Break` when nobody wants the answers any more.
    pub fn send(&self, index: usize, result: Result<Response, ModelError>) -> ControlFlow<()> {
        match self.sender.blocking_send(Update::Answer((index, result))) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Hands over more of an answer's text, unless the caller has enough to do: then it comes back. Whoever reads
    /// slowly gets fewer and larger pieces, and nobody waits for them: room is kept for answers.
    ///
    /// # Errors
    /// The piece, where there is no room for it.
    pub fn piece(&self, index: usize, piece: Piece) -> Result<(), Piece> {
        match self.spare_room() {
            Some(room) => {
                room.send(Update::Piece(index, piece));
                Ok(())
            }
            None => Err(piece),
        }
    }

    /// Takes back what was told of an answer; `false` where there is no room to say so.
    pub(crate) fn withdraw(&self, index: usize) -> bool {
        self.spare_room().map(|room| room.send(Update::Withdrawn(index))).is_some()
    }

    /// Room for what is not an answer.
    fn spare_room(&self) -> Option<mpsc::Permit<'_, Update>> {
        self.sender.try_reserve().ok().filter(|_| self.sender.capacity() >= self.answers)
    }

    /// [`ReplySender::send`] for async code, in two steps: waits while the caller has enough to do, and
    /// what comes back takes one answer. Cancel-safe.
    pub async fn room(&self) -> ControlFlow<(), Room<'_>> {
        match self.sender.reserve().await {
            Ok(permit) => ControlFlow::Continue(Room(permit)),
            Err(_) => ControlFlow::Break(()),
        }
    }

    /// Waits until the caller has dropped its [`Replies`].
    pub async fn cancelled(&self) {
        self.sender.closed().await;
    }

    /// The caller has dropped its [`Replies`].
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.sender.is_closed()
    }

    /// `Break` when it [is cancelled](ReplySender::is_cancelled).
    pub(crate) fn still_wanted(&self) -> ControlFlow<()> {
        if self.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Room for one answer; see [`ReplySender::room`].
#[derive(Debug)]
pub struct Room<'a>(mpsc::Permit<'a, Update>);

impl Room<'_> {
    pub fn send(self, reply: Reply) {
        self.0.send(Update::Answer(reply));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_room_for_every_answer_before_any_is_read() {
        let many = 3 * WAITING;
        let (sender, _replies) = Replies::with_room(many);
        while sender.piece(0, Piece::default()).is_ok() {}
        for index in 0..many {
            assert!(sender.sender.capacity() > 0, "answer {index} would wait");
            assert!(sender.send(index, Err(ModelError::Request("none".to_owned()))).is_continue());
        }
    }
}
