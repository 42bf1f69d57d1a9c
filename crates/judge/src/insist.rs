//! Asking again where an answer is not in the form that was asked for.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use evalign_core::{Message, Output, Prompt, Request, RequestKind, Response, Role};
use evalign_model::{Decorator, ErrorKind, Model, ModelError, Replies, Reply, ReplySender};
use futures::executor::block_on;
use futures::future::{Either, select};

use crate::fence::harmless;
use crate::prompts::Prompts;
use crate::verdict::Verdict;

/// A judge's model that is told so when its answer is no verdict, and asked again. The last answer counts,
/// and the tokens of all of them. Every request bears the form of its verdict; a model that is not to be held to it
/// is not shown it. A prompt of which the model saw only a part is an error: a rubric without its beginning is none.
#[derive(Clone)]
pub(crate) struct Insisting {
    model: Arc<dyn Model>,
    prompts: Arc<Prompts>,
    retries: u32,
    constrained: bool,
    special_tokens: Arc<[String]>,
}

impl Insisting {
    pub(crate) fn new(
        model: Arc<dyn Model>,
        prompts: Arc<Prompts>,
        (retries, constrained): (u32, bool),
    ) -> Self {
        let special_tokens = model.special_tokens().into();
        Self { model, prompts, retries, constrained, special_tokens }
    }

    fn for_model(&self, request: &Request) -> Request {
        let mut request = request.clone();
        if let RequestKind::Generate { params, .. } = &mut request.kind
            && !self.constrained
        {
            params.form = None;
        }
        request
    }

    /// The request that asks again; `None` where the answer is in its form, or no form was asked for.
    fn correction(&self, request: &Request, response: &Response) -> Option<RequestKind> {
        let RequestKind::Generate { prompt, params } = &request.kind else { return None };
        let format = params.form.as_ref()?.fields()?;
        if Verdict::read(format, &response.output).is_ok() {
            return None;
        }
        let Output::Text { text, .. } = &response.output else { return None };
        // It may quote what it was to judge.
        let said = harmless(text, &self.special_tokens);
        let again = self.prompts.again(format).ok()?;
        let prompt = match prompt {
            Prompt::Text(asked) => Prompt::Text(format!("{asked}{said}\n\n{again}\n\n")),
            Prompt::Chat(messages) => {
                let mut messages = messages.clone();
                messages.push(Message { role: Role::Assistant, content: said });
                messages.push(Message { role: Role::User, content: again });
                Prompt::Chat(messages)
            }
        };
        Some(RequestKind::Generate { prompt, params: params.clone() })
    }
}

/// One submission on its way: who is waiting.
struct Insistence {
    judge: Insisting,
    replies: ReplySender,
}

/// A request that is asked (again), with its place in the submission and what was answered so far.
struct Asked {
    index: usize,
    request: Request,
    spent: Option<Response>,
}

impl Insistence {
    fn run(&self, requests: Vec<Request>) -> ControlFlow<()> {
        let asked = |(index, request)| Asked { index, request, spent: None };
        let mut open: Vec<Asked> = requests.into_iter().enumerate().map(asked).collect();
        for round in 0..=self.judge.retries {
            open = self.ask(open, round < self.judge.retries)?;
            if open.is_empty() {
                break;
            }
        }
        ControlFlow::Continue(())
    }

    /// Asks and passes on what is a verdict, or all of it in the last round. Gives back what to ask again. What the
    /// model leaves unanswered, because nothing more is wanted of it, stays unanswered.
    fn ask(&self, asked: Vec<Asked>, again: bool) -> ControlFlow<(), Vec<Asked>> {
        let requests = asked.iter().map(|asked| self.judge.for_model(&asked.request)).collect();
        let mut waiting: Vec<Option<Asked>> = asked.into_iter().map(Some).collect();
        let mut inner = self.judge.model.submit(requests);
        let mut open = Vec::new();
        while let Some((position, answer)) = self.next(&mut inner)? {
            let Some(asked) = waiting.get_mut(position).and_then(Option::take) else { continue };
            match self.settle(asked, answer, again) {
                Settled::Again(asked) => open.push(*asked),
                Settled::Done(index, answer) => self.replies.send(index, *answer)?,
            }
        }
        ControlFlow::Continue(open)
    }

    /// The model's next answer, unless nobody wants it any more.
    fn next(&self, inner: &mut Replies) -> ControlFlow<(), Option<Reply>> {
        block_on(async {
            match select(pin!(inner.next()), pin!(self.replies.cancelled())).await {
                Either::Left((reply, _)) => ControlFlow::Continue(reply),
                Either::Right(_) => ControlFlow::Break(()),
            }
        })
    }

    fn settle(&self, asked: Asked, answer: Result<Response, ModelError>, again: bool) -> Settled {
        let Asked { index, request, spent } = asked;
        let response = match answer.and_then(whole) {
            Ok(response) => response,
            // What was answered before counts where asking again makes no sense. Where it does, at another time
            // or with a larger budget, nothing is settled.
            Err(error) => {
                let settled = spent.filter(|_| error.kind() == ErrorKind::Permanent);
                return Settled::Done(index, Box::new(settled.ok_or(error)));
            }
        };
        let response = match spent {
            Some(earlier) => after(response, &earlier),
            None => response,
        };
        match self.judge.correction(&request, &response).filter(|_| again) {
            Some(kind) => {
                let request = Request { kind, ..request };
                Settled::Again(Box::new(Asked { index, request, spent: Some(response) }))
            }
            None => Settled::Done(index, Box::new(Ok(response))),
        }
    }
}

/// An answer to the whole prompt.
fn whole(response: Response) -> Result<Response, ModelError> {
    match response.truncated_tokens {
        0 => Ok(response),
        cut => Err(ModelError::Request(format!(
            "{cut} tokens of what is to be judged do not fit into the judge's context"
        ))),
    }
}

/// The last answer, with what those before it took. A sum of which a part is unknown is unknown.
fn after(mut response: Response, earlier: &Response) -> Response {
    response.usage = response.usage.zip(earlier.usage).map(|(mut usage, earlier)| {
        usage += earlier;
        usage
    });
    response.cached &= earlier.cached;
    response.latency = match (response.latency, earlier.latency) {
        (Some(mut latency), Some(earlier)) => {
            latency.total_ms += earlier.total_ms;
            latency.attempts += earlier.attempts;
            Some(latency)
        }
        (latency, earlier) => latency.or(earlier),
    };
    response
}

enum Settled {
    Again(Box<Asked>),
    Done(usize, Box<Result<Response, ModelError>>),
}

impl Decorator for Insisting {
    type Inner = dyn Model;

    fn inner(&self) -> &(dyn Model + 'static) {
        self.model.as_ref()
    }

    /// Never in pieces: an answer may be asked for again.
    fn answer(&self, requests: Vec<Request>, _is_streamed: bool) -> Replies {
        let (sender, replies) = Replies::channel();
        let insistence = Insistence { judge: self.clone(), replies: sender };
        // A thread of its own: waiting for the second answer must not stop the caller from taking the first.
        let thread = std::thread::Builder::new().name("evalign-judge".to_owned());
        let spawned = thread.spawn(move || {
            let _cancelled = insistence.run(requests);
        });
        // Without a thread the replies end at once, as if the model had died.
        drop(spawned);
        replies
    }
}

#[cfg(test)]
mod tests;
