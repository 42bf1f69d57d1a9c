//! What a server can do, found out by asking: a list of its models, and one small request for each way it
//! will be asked, with the fields it will be asked with.

use std::cmp::Reverse;
use std::time::Duration;

use evalign_core::GenerateParams;
use futures::StreamExt;
use serde_json::Value;

use super::client::Client;
use super::endpoint::{Endpoint, Shape};
use super::generate::fields;
use super::likelihood::likelihood;
use super::refusal::{names_field, not_a_model_server, refusal_in_answer};
use super::server::ServerKind;
use super::settings::{Parameter, SystemRole};
use super::wire::{Answer, Ask, Choice, Content, Fields, Models, Prompts, Turn};
use crate::deadline::within;
use crate::error::{ErrorKind, ModelError, TransportFailure};

/// Which ways of asking a run needs: only those are tried.
#[derive(Clone, Debug, PartialEq)]
pub struct Needs {
    /// Conversations.
    pub chat: bool,
    /// Plain text that is continued.
    pub completion: bool,
    /// Likelihoods of given answers.
    pub log_likelihood: bool,
    /// With which parameters texts will be asked for. Which of them a request carries, and not what they
    /// are, decides whether a server takes it, so one request of each such kind is tried.
    pub generate: Vec<GenerateParams>,
}

impl Default for Needs {
    fn default() -> Self {
        Self { chat: true, completion: true, log_likelihood: true, generate: Vec::new() }
    }
}

/// What was found out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Findings {
    pub(super) shape: Shape,
    pub(super) chat: bool,
    pub(super) completion: bool,
    pub(super) log_likelihood: bool,
    /// Several prompts in one request for log-likelihoods.
    pub(super) batch: bool,
    pub(super) context_length: Option<usize>,
    pub(super) notes: Vec<String>,
}

/// The texts of the probes: a test's server can tell them from real requests.
const SYSTEM: &str = "Answer with one word.";
const QUESTION: &str = "What is the capital of France?";
const CONTEXT: &str = "The capital of France is";
const ANSWERS: [&str; 2] = [" Paris", " London"];

/// Room for an answer of one word. Reasoning models need more to say anything, which is not needed here.
const ANSWER_TOKENS: u32 = 16;

/// How often a request of the probe is sent while the server is busy or starting.
const ATTEMPTS: u32 = 4;

/// How long a list of models is waited for: it is useful, not needed.
const LIST_PATIENCE: Duration = Duration::from_secs(10);

/// The longest wait between two of them.
const LONGEST_WAIT: Duration = Duration::from_secs(20);

/// Asks a server and a model what they can do, as far as a run needs it.
///
/// # Errors
/// The server cannot be reached, refuses the key, does not know the model, or is no server of models.
pub(super) async fn find_out(client: &Client, needs: &Needs) -> Result<Findings, ModelError> {
    Probe::new(client).run(needs).await
}

struct Probe<'a> {
    client: &'a Client,
    endpoint: &'a Endpoint,
    found: Findings,
    listed: Vec<String>,
}

impl<'a> Probe<'a> {
    fn new(client: &'a Client) -> Self {
        let endpoint = client.endpoint();
        let found = Findings {
            shape: endpoint.shape(),
            chat: false,
            completion: false,
            log_likelihood: false,
            batch: false,
            context_length: endpoint.settings.context_length,
            notes: Vec::new(),
        };
        Self { client, endpoint, found, listed: Vec::new() }
    }

    async fn run(mut self, needs: &Needs) -> Result<Findings, ModelError> {
        self.list_models().await?;
        let mut missing = None;
        if needs.log_likelihood && self.endpoint.settings.log_likelihood != Some(false) {
            missing = self.try_log_likelihood().await?;
        }
        if needs.completion && !(self.found.completion && needs.generate.is_empty()) {
            missing = self.try_texts(needs, false).await?;
        }
        if needs.chat {
            missing = self.try_texts(needs, true).await?.or(missing);
        }
        // With nothing that works, the reason is the answer.
        match missing {
            Some(error) if !(self.found.chat || self.found.completion || self.found.log_likelihood) => {
                Err(self.with_names(error))
            }
            _ => Ok(self.found),
        }
    }

    /// Servers need not list their models; one that refuses the key or breaks the connection is told here
    /// already.
    async fn list_models(&mut self) -> Result<(), ModelError> {
        let listed = tokio::time::timeout(LIST_PATIENCE, again(self.endpoint, || self.client.models())).await;
        let Ok(listed) = listed else { return Ok(()) };
        let models = match listed {
            Ok(document) => serde_json::from_str::<Models>(document.get()).unwrap_or_default(),
            Err(error) if matches!(error.status(), Some(401)) => return Err(error),
            Err(error @ ModelError::Transport { failure: TransportFailure::Connect, .. }) => {
                return Err(error);
            }
            Err(_) => return Ok(()),
        };
        let models = models.data.unwrap_or_default();
        if self.endpoint.server == ServerKind::Other
            && let Some(kind) = models.iter().find_map(|m| ServerKind::of_owner(m.owned_by.as_deref()?))
        {
            self.found.shape.extensions = kind.preset().extensions;
        }
        if let Some(own) = models.iter().find(|m| m.id.as_deref() == Some(self.endpoint.model.as_str())) {
            self.found.context_length = self
                .found
                .context_length
                .or(own.max_model_len)
                .or(own.context_length)
                .filter(|length| *length > 0);
        }
        self.listed = models.into_iter().filter_map(|model| model.id).collect();
        Ok(())
    }

    /// Some servers answer whatever the name; that the answers come from another model must be said.
    fn tell_unlisted(&mut self) {
        let named = &self.endpoint.model;
        // Where a list is long, it may be cut; where deployments are named, it lists something else.
        if self.listed.is_empty() || self.listed.len() > 20 || self.listed.contains(named) {
            return;
        }
        if self.endpoint.server == ServerKind::Azure {
            return;
        }
        let names = self.listed.iter().map(|name| self.endpoint.shown(name)).collect::<Vec<_>>().join(", ");
        let note = format!(
            "the server answers for `{named}`, but lists only {names}: the answers may be another model's"
        );
        if !self.found.notes.contains(&note) {
            self.found.notes.push(note);
        }
    }

    fn with_names(&self, error: ModelError) -> ModelError {
        let ModelError::Server(server) = &error else { return error };
        if !server.unknown_model || self.listed.is_empty() {
            return error;
        }
        let names = self.listed.iter().take(10).map(|name| format!("`{}`", self.endpoint.shown(name)));
        let names = names.collect::<Vec<_>>().join(", ");
        let more = if self.listed.len() > 10 { ", ..." } else { "" };
        let hint = Some(format!("the server has {names}{more}"));
        crate::error::ServerError { hint, ..(**server).clone() }.into()
    }

    /// Two answers in one request, then one; with less than an echo and its numbers there is nothing.
    async fn try_log_likelihood(&mut self) -> Result<Option<ModelError>, ModelError> {
        let prompts = ANSWERS.map(|answer| format!("{CONTEXT}{answer}"));
        let mut last = None;
        for batch in [true, false] {
            let count = if batch { 2 } else { 1 };
            let answer = match self.ask_for_echo(&prompts[..count]).await {
                Ok(answer) => answer,
                // Several prompts in one request bring some servers down (llama-cpp-python answers 500).
                Err(error @ ModelError::Server(_)) if batch && error.kind() == ErrorKind::Retryable => {
                    last = Some(error);
                    continue;
                }
                Err(error) => {
                    last = Some(self.missing(error)?);
                    continue;
                }
            };
            self.found.completion = true;
            self.tell_unlisted();
            let scored = (0..count).all(|index| {
                let choice = answer.iter().find(|choice| choice.index.unwrap_or(0) == index);
                let logprobs = choice.and_then(|choice| choice.logprobs.as_ref());
                logprobs.is_some_and(|logprobs| likelihood(logprobs, CONTEXT, ANSWERS[index]).is_ok())
            });
            if scored && answer.len() == count {
                self.found.log_likelihood = true;
                self.found.batch = batch;
                return Ok(None);
            }
        }
        Ok(last)
    }

    async fn ask_for_echo(&self, prompts: &[String]) -> Result<Vec<Choice>, ModelError> {
        let prompt = if let [one] = prompts { Prompts::One(one) } else { Prompts::Many(prompts) };
        let fields = echo_fields();
        let body = &self.found.shape.body;
        let ask = Ask { model: &self.endpoint.model, messages: None, prompt: Some(prompt), fields, body };
        let document = again(self.endpoint, || self.client.completion(&ask)).await?;
        let answer = self.answer(document.get())?;
        Ok(self
            .with_choices(vec![answer])?
            .into_iter()
            .filter_map(|answer| answer.choices)
            .flatten()
            .collect())
    }

    /// One request of each kind, in chats or as plain texts.
    async fn try_texts(&mut self, needs: &Needs, chat: bool) -> Result<Option<ModelError>, ModelError> {
        for params in kinds(&needs.generate) {
            if let Some(error) = self.try_text(&params, chat).await? {
                return Ok(Some(error));
            }
        }
        Ok(None)
    }

    async fn try_text(
        &mut self,
        params: &GenerateParams,
        chat: bool,
    ) -> Result<Option<ModelError>, ModelError> {
        loop {
            let error = match self.ask_for_text(params, chat).await {
                Ok(answers) => {
                    self.note_reasoning(answers);
                    break;
                }
                Err(error) => error,
            };
            // It understood everything and had too little room to think.
            if error.status() == Some(400) && error.to_string().contains("max_tokens or model output limit") {
                self.found.shape.reasoning = self.endpoint.settings.reasoning.unwrap_or(true);
                break;
            }
            if !self.adapt(&error) {
                return self.missing(error).map(Some);
            }
        }
        self.found.chat |= chat;
        self.found.completion |= !chat;
        self.tell_unlisted();
        Ok(None)
    }

    async fn ask_for_text(&self, params: &GenerateParams, chat: bool) -> Result<Vec<Answer>, ModelError> {
        let shape = &self.found.shape;
        let role = match shape.system_role {
            SystemRole::System => Some("system"),
            SystemRole::Developer => Some("developer"),
            SystemRole::User => None,
        };
        let system = role.map(|role| Turn { role, content: SYSTEM.into() });
        let question = Turn { role: "user", content: QUESTION.into() };
        let ask = Ask {
            model: &self.endpoint.model,
            messages: chat.then(|| system.into_iter().chain([question]).collect()),
            prompt: (!chat).then_some(Prompts::One(CONTEXT)),
            fields: fields(shape, params, chat),
            body: &shape.body,
        };
        again(self.endpoint, || self.answers(&ask, chat)).await
    }

    /// The answer, in one piece or as many as its stream has.
    async fn answers(&self, ask: &Ask<'_>, chat: bool) -> Result<Vec<Answer>, ModelError> {
        let mut answers = Vec::new();
        if self.found.shape.stream {
            let mut stream = match chat {
                true => self.client.chat_stream(ask).await?,
                false => self.client.completion_stream(ask).await?,
            };
            while let Some(document) = stream.next().await {
                answers.push(self.answer(document?.get())?);
            }
        } else {
            let document = match chat {
                true => self.client.chat(ask).await?,
                false => self.client.completion(ask).await?,
            };
            answers.push(self.answer(document.get())?);
        }
        self.with_choices(answers)
    }

    /// Whether it thinks before it answers: shows its thoughts, counts them, or has said nothing yet where
    /// one word was asked for.
    fn note_reasoning(&mut self, answers: Vec<Answer>) {
        let (mut thought, mut cut) = (false, false);
        let mut text = String::new();
        for answer in answers {
            thought |= answer.usage.is_some_and(|usage| usage.reasoning_tokens() > 0);
            for choice in answer.choices.into_iter().flatten() {
                cut |= matches!(choice.finish_reason.as_deref(), Some("length" | "max_tokens"));
                let message = choice.message.unwrap_or_default();
                let shown = message.reasoning_content.or(message.reasoning);
                thought |= shown.is_some_and(|text| !text.is_empty());
                let content = message.content.map(Content::into_text).or(choice.text);
                text.push_str(&content.unwrap_or_default());
            }
        }
        let shape = &mut self.found.shape;
        let tagged = text.trim_start().starts_with(&shape.think_tags[0]);
        let silent = cut && text.trim().is_empty();
        let found = shape.reasoning || thought || tagged || silent;
        shape.reasoning = self.endpoint.settings.reasoning.unwrap_or(found);
    }

    fn answer(&self, document: &str) -> Result<Answer, ModelError> {
        let answer: Answer = serde_json::from_str(document)
            .map_err(|error| not_a_model_server(self.endpoint, 200, &error.to_string()))?;
        match answer.error.filter(|error| !error.is_null()) {
            Some(error) => Err(refusal_in_answer(self.endpoint, &error)),
            None => Ok(Answer { error: None, ..answer }),
        }
    }

    fn with_choices(&self, answers: Vec<Answer>) -> Result<Vec<Answer>, ModelError> {
        if !answers.iter().any(|answer| answer.choices.as_ref().is_some_and(|choices| !choices.is_empty())) {
            return Err(not_a_model_server(self.endpoint, 200, "its answer has no choices"));
        }
        self.client.prove();
        Ok(answers)
    }

    /// Changes the shape so that the server may take the next request. False when nothing is left.
    fn adapt(&mut self, error: &ModelError) -> bool {
        if !matches!(error.status(), Some(400 | 422)) || error.kind() == ErrorKind::Unavailable {
            return false;
        }
        let shape = &mut self.found.shape;
        let settings = &self.endpoint.settings;
        if settings.max_tokens_field.is_none()
            && shape.limit == self.endpoint.server.preset().limit
            && names_field(error, shape.limit.field())
        {
            shape.limit = shape.limit.other();
            return true;
        }
        for parameter in Parameter::ALL {
            if names_field(error, parameter.field()) && shape.omit.insert(parameter) {
                let instead = match parameter {
                    Parameter::Temperature => ", so answers are drawn at its own temperature",
                    Parameter::Stop => ", and answers are cut here",
                    Parameter::StreamOptions => ", so it may not say how many tokens were used",
                    Parameter::ResponseFormat => ", so nothing holds answers to their form",
                    Parameter::TopP | Parameter::Seed | Parameter::Logprobs => "",
                };
                self.found.notes.push(format!(
                    "the server does not take `{}`: requests are sent without it{instead}",
                    parameter.field()
                ));
                return true;
            }
        }
        if shape.stream && names_field(error, "stream") {
            shape.stream = false;
            let note =
                "the server does not take `stream`: answers come whole, without the time to the first token";
            self.found.notes.push(note.to_owned());
            return true;
        }
        let message = error.to_string().to_lowercase();
        let about_role =
            message.contains("system") && (message.contains("role") || message.contains("message"));
        if settings.system_role.is_none() && about_role && shape.system_role != SystemRole::User {
            shape.system_role = SystemRole::User;
            let note =
                "the model has no system role: system messages are put in front of the first user message";
            self.found.notes.push(note.to_owned());
            return true;
        }
        false
    }

    /// An endpoint that is not there, or does not do this; what stops everything is passed on.
    fn missing(&self, error: ModelError) -> Result<ModelError, ModelError> {
        match (&error, error.kind()) {
            // Nothing can be said about what such a server can do: asking again may help.
            (ModelError::Transport { .. }, _) | (_, ErrorKind::Retryable) => Err(error),
            (_, ErrorKind::Permanent) => Ok(error),
            (_, ErrorKind::Unavailable) if matches!(error.status(), Some(200 | 404 | 405 | 501)) => Ok(error),
            (_, ErrorKind::Unavailable) => Err(self.with_names(error)),
        }
    }
}

/// How the tokens of a prompt are asked for. One token is generated, because servers differ in what no
/// tokens mean, and not counted.
pub(super) fn echo_fields<'a>() -> Fields<'a> {
    Fields {
        max_tokens: Some(1),
        temperature: Some(0.0),
        logprobs: Some(Value::from(1)),
        echo: Some(true),
        ..Fields::default()
    }
}

/// The kinds of requests there are, with room for an answer of one word.
fn kinds(generate: &[GenerateParams]) -> Vec<GenerateParams> {
    // A server that takes more stop strings takes fewer, and none.
    let mut all: Vec<&GenerateParams> = generate.iter().collect();
    all.sort_by_key(|params| Reverse(params.stop.len()));
    let mut kinds: Vec<GenerateParams> = Vec::new();
    for params in all {
        let kind = GenerateParams { max_tokens: ANSWER_TOKENS, seed: 1, ..params.clone() };
        if !kinds.iter().any(|known| GenerateParams { stop: kind.stop.clone(), ..known.clone() } == kind) {
            kinds.push(kind);
        }
    }
    if kinds.is_empty() {
        kinds.push(GenerateParams { max_tokens: ANSWER_TOKENS, seed: 1, ..GenerateParams::default() });
    }
    kinds
}

/// A request of the probe, sent again while the failure may pass. Who waited once for a server that stalls
/// or is not there need not do so again.
async fn again<T, F: Future<Output = Result<T, ModelError>>>(
    endpoint: &Endpoint,
    mut send: impl FnMut() -> F,
) -> Result<T, ModelError> {
    for attempt in 1.. {
        let error = match within(endpoint.deadlines.total, &endpoint.place, send()).await {
            Ok(answer) => return Ok(answer),
            Err(error @ ModelError::Transport { failure: TransportFailure::Timeout, .. }) => {
                return Err(error);
            }
            Err(error) if error.kind() != ErrorKind::Retryable || attempt == ATTEMPTS => return Err(error),
            Err(error) => error,
        };
        let backoff = Duration::from_millis(250) * 2u32.pow(attempt - 1);
        let wait = error.retry_after().unwrap_or(backoff).min(LONGEST_WAIT);
        tracing::info!(%error, wait_ms = wait.as_millis() as u64, "asking what the server can do, again");
        tokio::time::sleep(wait).await;
    }
    Err(ModelError::Temporary("the server could not be asked".to_owned()))
}
