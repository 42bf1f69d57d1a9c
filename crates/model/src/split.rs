//! One request, one answer to be scored: for servers that take no more.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use evalign_core::{ChoiceLogLikelihood, Latency, Output, Prompt, Request, RequestKind, Response, Usage};
use futures::future::{BoxFuture, join_all};

use crate::call::{Call, Listener};
use crate::error::{ErrorKind, ModelError};

/// Calls for the likelihoods of several continuations, made as one call for each. Stands outside of the
/// retries and of everything else that counts requests, so that a call inside is one HTTP request. All of
/// them are waited for: what was sent is paid for, and whoever keeps a budget has to hear of it.
#[derive(Debug)]
pub struct Split<C>(C);

impl<C: Call> Split<C> {
    pub fn new(call: C) -> Self {
        Self(call)
    }

    async fn each(&self, parts: Vec<Request>) -> Result<Response, ModelError> {
        join(join_all(parts.iter().map(|part| self.0.call(part))).await)
    }
}

impl<C: Call> Call for Split<C> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        match &request.kind {
            RequestKind::LogLikelihood { context, continuations } if continuations.len() > 1 => {
                Box::pin(self.each(parts(request, context, continuations)))
            }
            _ => self.0.call_aloud(request, listener),
        }
    }
}

fn parts(request: &Request, context: &Prompt, continuations: &[String]) -> Vec<Request> {
    let part = |continuation: &String| Request {
        key: request.key.clone(),
        kind: RequestKind::LogLikelihood {
            context: context.clone(),
            continuations: vec![continuation.clone()],
        },
    };
    continuations.iter().map(part).collect()
}

/// One answer of many. Where one is missing there is none; what stops every request goes before what is
/// wrong with one.
fn join(results: Vec<Result<Response, ModelError>>) -> Result<Response, ModelError> {
    let parts = results.len();
    let made = |result: &Result<Response, ModelError>| match result {
        Ok(response) => response.latency.map_or(1, |latency| latency.attempts),
        Err(error) => error.attempts(),
    };
    let requests = results.iter().map(made).fold(0, u32::saturating_add);
    let mut answered: Vec<Response> = Vec::with_capacity(parts);
    let mut failed: Option<ModelError> = None;
    for result in results {
        match result {
            Ok(response) => answered.push(response),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => drop(failed.get_or_insert(error)),
        }
    }
    if let Some(why) = failed {
        return Err(ModelError::Part { parts, requests, why: Arc::new(why) });
    }
    let usage = answered.iter().try_fold(Usage::default(), |mut sum, response| {
        sum += response.usage?;
        Some(sum)
    });
    let slowest = answered.iter().filter_map(|response| response.latency).map(|latency| latency.total_ms);
    let latency = slowest.reduce(f64::max).map(|total_ms| Latency {
        total_ms,
        first_token_ms: None,
        attempts: requests,
    });
    let truncated_tokens = answered.iter().map(|response| response.truncated_tokens).sum();
    let choices = answered.into_iter().map(only_choice).collect::<Result<_, _>>()?;
    let output = Output::LogLikelihood { choices };
    Ok(Response { output, usage, truncated_tokens, cached: false, latency })
}

fn only_choice(response: Response) -> Result<ChoiceLogLikelihood, ModelError> {
    match response.output {
        Output::LogLikelihood { choices } if choices.len() == 1 => Ok(choices[0]),
        _ => Err(ModelError::Request("a likelihood was asked for, and something else answered".to_owned())),
    }
}
