use std::sync::Arc;

use evalign_core::{ModelIdentity, Prompt, Request, RequestKind, Seconds};
use evalign_lm::DateTime;

use crate::model::{Capabilities, Intake, Model, TokenCount};
use crate::replies::Replies;
use crate::reward::RewardModel;

/// A model around another one: it changes what is asked or answered, and says of everything else what the other one
/// says.
pub trait Decorator: Send + Sync {
    type Inner: Model + ?Sized;

    /// The model that this one asks.
    fn inner(&self) -> &Self::Inner;

    /// [`Model::submit`], or where `is_streamed` [`Model::submit_streamed`].
    fn answer(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        self.ask_inner(requests, is_streamed)
    }

    /// What the other model answers.
    fn ask_inner(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        match is_streamed {
            true => self.inner().submit_streamed(requests),
            false => self.inner().submit(requests),
        }
    }
}

/// A model that is shared changes nothing.
impl<M: Model + ?Sized> Decorator for Arc<M> {
    type Inner = M;

    fn inner(&self) -> &M {
        self
    }
}

impl<D: Decorator> Model for D {
    fn identity(&self) -> &ModelIdentity {
        self.inner().identity()
    }

    fn context_length(&self) -> Option<usize> {
        self.inner().context_length()
    }

    fn capabilities(&self) -> Capabilities {
        self.inner().capabilities()
    }

    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount> {
        self.inner().count_tokens(kind)
    }

    fn render(&self, prompt: &Prompt) -> Option<String> {
        self.inner().render(prompt)
    }

    fn clock(&self) -> Option<DateTime> {
        self.inner().clock()
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        self.answer(requests, false)
    }

    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        self.answer(requests, true)
    }

    fn intake(&self) -> Intake {
        self.inner().intake()
    }

    fn wind_down(&self) -> bool {
        self.inner().wind_down()
    }

    fn timing(&self) -> Seconds {
        self.inner().timing()
    }

    fn notes(&self) -> Vec<String> {
        self.inner().notes()
    }

    fn special_tokens(&self) -> Vec<String> {
        self.inner().special_tokens()
    }

    fn reward_model(&self) -> Option<&dyn RewardModel> {
        self.inner().reward_model()
    }
}
