use std::sync::Arc;

use evalign_core::{ModelIdentity, Prompt, Request, RequestKind, Seconds};
use evalign_lm::DateTime;

use crate::replies::Replies;
use crate::reward::RewardModel;

/// What a model can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Answers [`RequestKind::LogLikelihood`] after [`Prompt::Text`].
    pub log_likelihood: bool,
    /// Answers [`RequestKind::LogLikelihood`] after [`Prompt::Chat`].
    pub chat_log_likelihood: bool,
    pub generate: bool,
    pub perplexity: bool,
    /// Takes [`Prompt::Chat`].
    pub chat: bool,
    /// Takes [`Prompt::Text`].
    pub completion: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCount {
    /// Tokens of the prompt, and of the continuations to be scored, as if nothing were shared.
    pub prompt: u64,
}

/// How a model likes to be given its requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Intake {
    /// Requests to submit together.
    pub together: usize,
    /// The next ones are wanted when no more than this many are unanswered.
    pub ahead: usize,
}

/// A language model that answers sets of requests.
///
/// A model around another one names it ([`Model::inner`]): what it does not say itself, the other one says.
pub trait Model: Send + Sync {
    /// The model that this one asks, where it is around one.
    fn inner(&self) -> Option<&dyn Model> {
        None
    }

    /// What the model is, as far as its answers depend on it.
    fn identity(&self) -> &ModelIdentity;

    /// Most tokens of prompt and answer together, where known.
    fn context_length(&self) -> Option<usize>;

    fn capabilities(&self) -> Capabilities;

    /// Tokens a request would take. `None` where only the server knows, or where the request cannot be
    /// turned into tokens at all (submitting it says why).
    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount>;

    /// The text the model sees: the text itself, or the conversation in the model's chat template.
    /// `None` where the server renders, or where rendering fails (submitting it says why).
    fn render(&self, prompt: &Prompt) -> Option<String>;

    /// What the chat template takes for the present, where it asks for it; `None` where conversations do
    /// not depend on the day. Given to [`crate::LoadOptions::now`], it makes them what they were.
    fn clock(&self) -> Option<DateTime> {
        self.inner()?.clock()
    }

    /// Starts answering and returns at once. Each request is answered exactly once, in any order, by its
    /// index; only a model that dies ends the replies early. Submit everything together: what is known
    /// at once can share work.
    fn submit(&self, requests: Vec<Request>) -> Replies;

    /// As [`Model::submit`], for callers that show texts as they are written: [`Replies::next_update`] has
    /// pieces too, of models that tell them.
    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        self.submit(requests)
    }

    /// How a long list of requests is best handed over. By default in large sets, one when the other is
    /// answered: within a set the local engine shares the work of common prompt beginnings.
    fn intake(&self) -> Intake {
        self.inner().map_or(Intake { together: 16_384, ahead: 0 }, Model::intake)
    }

    /// Nothing more is wanted of this model but what is being answered at this moment: those replies still
    /// come, the others end early. `false` where nothing is lost by dropping the replies instead, which is
    /// everywhere but where answers are paid for.
    fn wind_down(&self) -> bool {
        self.inner().is_some_and(Model::wind_down)
    }

    /// Time spent so far by this model: loading, reading prompts, generating. Zero for servers.
    fn timing(&self) -> Seconds;

    /// What the user should know about how this model is asked, one sentence each.
    fn notes(&self) -> Vec<String> {
        self.inner().map_or_else(Vec::new, Model::notes)
    }

    /// Spellings that become special tokens wherever they stand in a prompt, as far as they are known:
    /// whoever quotes text that others wrote has to break them up.
    fn special_tokens(&self) -> Vec<String> {
        self.inner().map_or_else(Vec::new, Model::special_tokens)
    }

    /// Where the model has a reward head: what it thinks of answers.
    fn reward_model(&self) -> Option<&dyn RewardModel> {
        self.inner()?.reward_model()
    }
}

impl<M: Model + ?Sized> Model for Arc<M> {
    fn inner(&self) -> Option<&dyn Model> {
        (**self).inner()
    }

    fn identity(&self) -> &ModelIdentity {
        (**self).identity()
    }

    fn context_length(&self) -> Option<usize> {
        (**self).context_length()
    }

    fn capabilities(&self) -> Capabilities {
        (**self).capabilities()
    }

    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount> {
        (**self).count_tokens(kind)
    }

    fn render(&self, prompt: &Prompt) -> Option<String> {
        (**self).render(prompt)
    }

    fn clock(&self) -> Option<DateTime> {
        (**self).clock()
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        (**self).submit(requests)
    }

    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        (**self).submit_streamed(requests)
    }

    fn intake(&self) -> Intake {
        (**self).intake()
    }

    fn wind_down(&self) -> bool {
        (**self).wind_down()
    }

    fn timing(&self) -> Seconds {
        (**self).timing()
    }

    fn notes(&self) -> Vec<String> {
        (**self).notes()
    }

    fn special_tokens(&self) -> Vec<String> {
        (**self).special_tokens()
    }

    fn reward_model(&self) -> Option<&dyn RewardModel> {
        (**self).reward_model()
    }
}
