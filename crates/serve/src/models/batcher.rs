//! Requests of many clients, put to the engine together.
//!
//! What waits when the engine is free becomes one submission: its sequences share forward passes, and prompts
//! that begin alike share their beginning. Nobody waits for company: a lone request is submitted at once.

use std::sync::Arc;

use evalign_core::{Request, RequestKind, Response, SampleKey};
use evalign_model::{Model, ModelError};
use tokio::sync::{mpsc, oneshot};

use crate::error::{ApiError, ApiResult, Code};

/// Most requests in one submission: those behind it wait for the whole of it.
const TOGETHER: usize = 64;

type Answer = Result<Response, ModelError>;

struct Question {
    kind: RequestKind,
    reply: oneshot::Sender<Answer>,
}

/// The way to a model. Clones lead to the same one.
#[derive(Clone)]
pub(crate) struct Batcher(mpsc::Sender<Question>);

impl Batcher {
    /// Has to be called on the runtime's threads.
    pub(crate) fn start(model: Arc<dyn Model>, max_waiting: usize) -> Self {
        let (questions, waiting) = mpsc::channel(max_waiting);
        tokio::spawn(serve(model, waiting));
        Self(questions)
    }

    /// Puts these to the model; answers in their order. All are taken or none.
    pub(crate) async fn ask(&self, kinds: Vec<RequestKind>) -> ApiResult<Vec<Answer>> {
        let full = |_| {
            let message = "too many requests wait for this model";
            ApiError::new(Code::QueueFull, message).retry_after(2)
        };
        let room = self.0.try_reserve_many(kinds.len()).map_err(full)?;
        let mut answers = Vec::with_capacity(kinds.len());
        for (permit, kind) in room.zip(kinds) {
            let (reply, answer) = oneshot::channel();
            permit.send(Question { kind, reply });
            answers.push(answer);
        }
        let mut answered = Vec::with_capacity(answers.len());
        for answer in answers {
            let gone = |_| ApiError::new(Code::Unavailable, "the model has stopped").retry_after(5);
            answered.push(answer.await.map_err(gone)?);
        }
        Ok(answered)
    }
}

async fn serve(model: Arc<dyn Model>, mut waiting: mpsc::Receiver<Question>) {
    let mut together = Vec::with_capacity(TOGETHER);
    while waiting.recv_many(&mut together, TOGETHER).await > 0 {
        answer(&*model, std::mem::take(&mut together)).await;
    }
}

/// Clients that have gone are not asked for; when all have, the model stops.
async fn answer(model: &dyn Model, questions: Vec<Question>) {
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for (index, question) in questions.into_iter().filter(|question| !question.reply.is_closed()).enumerate()
    {
        let key = SampleKey { task: "completion".to_owned(), doc: index as u64, repeat: 0 };
        requests.push(Request { key, kind: question.kind });
        replies.push(Some(question.reply));
    }
    let mut answers = model.submit(requests);
    loop {
        let next = tokio::select! {
            next = answers.next() => next,
            () = all_gone(&mut replies) => return,
        };
        let Some((index, answer)) = next else { return };
        if let Some(reply) = replies.get_mut(index).and_then(Option::take) {
            drop(reply.send(answer));
        }
    }
}

/// Waits until every client that still waits has gone.
async fn all_gone(replies: &mut [Option<oneshot::Sender<Answer>>]) {
    for reply in replies.iter_mut().flatten() {
        reply.closed().await;
    }
}

#[cfg(test)]
mod tests;
