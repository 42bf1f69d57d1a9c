//! The engine in this process.

mod chat;
mod encode;
mod engine;
mod generating;
mod tokens;

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use evalign_core::{ModelIdentity, ModelRef, Prompt, Request, RequestKind, Seconds};
use evalign_lm::{ChatTemplate, DateTime, LanguageModel};

use crate::error::ModelError;
use crate::model::{Capabilities, Model, TokenCount};
use crate::replies::Replies;
use crate::reward::{self, RewardModel, Rewards};
use encode::Encoder;
use engine::{Engine, Job, Submission};
pub use generating::EngineLoad;
use generating::Load;
pub use tokens::{ScoredText, ScoredToken};

/// What to do with a prompt that is longer than the context.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverlongPrompt {
    /// An error of that request ([`ModelError::TooLong`]). A generation may still be shorter than asked
    /// for where the prompt leaves less room.
    #[default]
    Refuse,
    /// Cut it from the left, as lm-evaluation-harness does, and report how much
    /// ([`evalign_core::Response::truncated_tokens`]). Room for the whole generation is kept free.
    CutLeft,
}

/// How to load a local model.
#[derive(Clone, Debug, Default)]
pub struct LocalOptions {
    pub engine: evalign_lm::LoadOptions,
    pub overlong: OverlongPrompt,
}

/// A language model of `lm`. The engine works on a thread of its own: texts of all submissions are written
/// together, everything else one submission after the other.
pub struct Local {
    identity: ModelIdentity,
    model: Arc<LanguageModel>,
    overlong: OverlongPrompt,
    jobs: mpsc::Sender<Job>,
    timing: Arc<Mutex<Seconds>>,
    load: Arc<Load>,
}

impl fmt::Debug for Local {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Local").field("identity", &self.identity).finish_non_exhaustive()
    }
}

impl Local {
    /// Loads a GGUF file or a Hugging Face directory. `reference` is what the user calls it.
    ///
    /// # Errors
    /// [`ModelError::Engine`] where the files are not a model this engine runs.
    pub fn load(reference: &ModelRef, path: &Path, options: &LocalOptions) -> Result<Self, ModelError> {
        let started = Instant::now();
        let model = Arc::new(LanguageModel::load(path, &options.engine)?);
        let seconds = started.elapsed().as_secs_f64();
        let timing = Arc::new(Mutex::new(Seconds { load: seconds, total: seconds, ..Seconds::default() }));
        let identity = model.identity();
        let identity = ModelIdentity {
            reference: reference.clone(),
            weights: identity.weights.clone(),
            tokenizer: identity.tokenizer.clone(),
            chat_template: identity.chat_template.clone(),
            adapter: identity.adapter.clone(),
            trained_on: identity.trained_on.clone(),
            dtype: identity.dtype.name().to_owned(),
            device: identity.device.clone(),
        };
        let (jobs, waiting) = mpsc::channel();
        let load = Arc::<Load>::default();
        let engine = Engine {
            model: model.clone(),
            overlong: options.overlong,
            timing: timing.clone(),
            load: load.clone(),
        };
        std::thread::Builder::new()
            .name("evalign-engine".to_owned())
            .spawn(move || engine.serve(&waiting))
            .map_err(evalign_lm::LmError::Io)?;
        Ok(Self { identity, model, overlong: options.overlong, jobs, timing, load })
    }

    /// What the engine writes, and has done.
    #[must_use]
    pub fn engine_load(&self) -> EngineLoad {
        self.load.now()
    }

    fn encoder(&self) -> Encoder<'_> {
        Encoder::new(&self.model, self.overlong)
    }

    fn put(&self, requests: Vec<Request>, is_streamed: bool) -> Replies {
        let (sender, replies) = Replies::with_room(requests.len());
        // Should the engine's thread be gone, the job and its sender are dropped and the replies end.
        drop(self.jobs.send(Job::Requests(Submission { requests, replies: sender, is_streamed })));
        replies
    }
}

impl RewardModel for Local {
    fn rewards(&self, answers: &[(Prompt, String)]) -> Result<Rewards, ModelError> {
        reward::rewards(&self.model, answers)
    }
}

impl Model for Local {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn context_length(&self) -> Option<usize> {
        Some(self.model.identity().context_length)
    }

    fn capabilities(&self) -> Capabilities {
        let chats = self.model.chat_template().is_some();
        Capabilities { chat_log_likelihood: chats, chat: chats, ..Capabilities::ALL }
    }

    fn count_tokens(&self, kind: &RequestKind) -> Option<TokenCount> {
        self.encoder().encode(kind).ok().map(|encoded| TokenCount { prompt: encoded.prompt_tokens() })
    }

    fn render(&self, prompt: &Prompt) -> Option<String> {
        chat::render(self.model.chat_template(), prompt).ok().map(std::borrow::Cow::into_owned)
    }

    fn clock(&self) -> Option<DateTime> {
        self.model.chat_template().and_then(ChatTemplate::clock)
    }

    fn special_tokens(&self) -> Vec<String> {
        self.model.tokenizer().special_tokens()
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        self.put(requests, false)
    }

    fn submit_streamed(&self, requests: Vec<Request>) -> Replies {
        self.put(requests, true)
    }

    fn reward_model(&self) -> Option<&dyn RewardModel> {
        self.model.reward_head().map(|_| self as &dyn RewardModel)
    }

    fn timing(&self) -> Seconds {
        *self.timing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
