//! A model for tests: its answers are a function of the request.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use evalign_core::{
    Digest, FinishReason, ModelIdentity, ModelRef, Output, Prompt, Provider, Request, RequestKind, Response,
    Seconds, Usage,
};
use evalign_model::{Capabilities, Model, ModelError, Replies, TokenCount};

use crate::{Judge, JudgeOptions, Prompts, Rubric};

/// `None` leaves a request unanswered.
pub(crate) type Answer = Option<Result<Response, ModelError>>;

pub(crate) struct FakeModel<F> {
    identity: ModelIdentity,
    pub(crate) capabilities: Capabilities,
    pub(crate) wound_down: AtomicBool,
    answer: F,
}

impl<F: Fn(&Request) -> Answer + Send + Sync> FakeModel<F> {
    pub(crate) fn new(answer: F) -> Self {
        let identity = ModelIdentity {
            reference: ModelRef { provider: Provider::Scripted, name: "fake".to_owned(), adapter: None },
            weights: Digest::of("fake"),
            tokenizer: Digest::of("none"),
            chat_template: None,
            adapter: None,
            trained_on: None,
            dtype: "none".to_owned(),
            device: "none".to_owned(),
        };
        let capabilities = Capabilities {
            log_likelihood: false,
            chat_log_likelihood: false,
            generate: true,
            perplexity: false,
            chat: true,
            completion: true,
        };
        Self { identity, capabilities, wound_down: AtomicBool::new(false), answer }
    }
}

impl<F: Fn(&Request) -> Answer + Send + Sync> Model for FakeModel<F> {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn context_length(&self) -> Option<usize> {
        None
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    fn count_tokens(&self, _: &RequestKind) -> Option<TokenCount> {
        None
    }

    fn render(&self, _: &Prompt) -> Option<String> {
        None
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        let answers: Vec<_> = requests
            .iter()
            .enumerate()
            .filter_map(|(index, request)| Some((index, (self.answer)(request)?)))
            .collect();
        Replies::channel().1.preceded_by(answers)
    }

    fn wind_down(&self) -> bool {
        self.wound_down.store(true, Ordering::SeqCst);
        true
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }

    fn special_tokens(&self) -> Vec<String> {
        vec!["<custom>".to_owned()]
    }
}

pub(crate) fn said(text: &str) -> Response {
    let finish = FinishReason::Stop;
    let output = Output::Text { text: text.to_owned(), finish, logprobs: None, reasoning: None };
    Response { output, usage: Some(Usage::default()), truncated_tokens: 0, cached: false, latency: None }
}

/// A judge of helpfulness that explains nothing.
pub(crate) fn judge(model: Arc<dyn Model>, options: &JudgeOptions) -> Judge {
    let rubric = Rubric::find("helpfulness", &[]).unwrap();
    let options = JudgeOptions { explanation_tokens: Some(0), ..*options };
    Judge::new(model, rubric, Arc::new(Prompts::load(&[]).unwrap()), options).unwrap()
}
