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

impl Capabilities {
    pub const ALL: Self = Self {
        log_likelihood: true,
        chat_log_likelihood: true,
        generate: true,
        perplexity: true,
        chat: true,
        completion: true,
    };
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

/// A language model that answers sets of requests. A model around another one is a [`crate::Decorator`].
pub trait Model: Send + Sync {
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
        None
    }

    /// Starts answering and returns at once. Each request is answered exactly once, in any order, by its
    /// index; only a model that dies ends the replies early. Submit everything together: what is known
    /// at once can share work.
    fn submit(&self, requests: Vec<Request>) -> Replies;

    /// As [`Model::submit`], for callers that show texts as they are written: [`Replies::next_update`] has
    /// pieces too, of models that tell them. The answers are the same.
    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        self.submit(requests)
    }

    /// How a long list of requests is best handed over. By default in large sets, one when the other is
    /// answered: within a set the local engine shares the work of common prompt beginnings.
    fn intake(&self) -> Intake {
        Intake { together: 16_384, ahead: 0 }
    }

    /// Nothing more is wanted of this model but what is being answered at this moment: those replies still
    /// come, the others end early. `false` where nothing is lost by dropping the replies instead, which is
    /// everywhere but where answers are paid for.
    fn wind_down(&self) -> bool {
        false
    }

    /// Time spent so far by this model: loading, reading prompts, generating. Zero for servers.
    fn timing(&self) -> Seconds;

    /// What the user should know about how this model is asked, one sentence each.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Spellings that become special tokens wherever they stand in a prompt, as far as they are known:
    /// whoever quotes text that others wrote has to break them up.
    fn special_tokens(&self) -> Vec<String> {
        Vec::new()
    }

    /// Where the model has a reward head: what it thinks of answers.
    fn reward_model(&self) -> Option<&dyn RewardModel> {
        None
    }
}
