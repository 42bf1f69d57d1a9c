//! Any server with OpenAI's interface: chat completions, completions, embeddings, whole or streamed.
//!
//! ```text
//! options, settings file, environment -> endpoint -> client (async-openai over our own HTTP) -> probe
//!     -> shape of requests -> OpenAi: one call, one request
//! ```
//!
//! What a server can do is not assumed: `probe` asks it before the first sample.

mod client;
mod embeddings;
mod endpoint;
mod events;
mod generate;
mod likelihood;
mod probe;
mod reasoning;
mod refusal;
mod server;
mod settings;
mod wire;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use evalign_core::{
    Digest, Latency, ModelIdentity, ModelRef, Output, Prompt, Request, RequestKind, Response,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::de::DeserializeOwned;
use serde_json::json;
use tracing::Instrument;

use crate::call::{Call, Listener};
use crate::error::{ModelError, TransportFailure};
use crate::model::Capabilities;
use client::{Client, Document};
use endpoint::{Endpoint, Keyless, Shape};
use generate::Refusals;
use likelihood::likelihood;
use probe::{Findings, echo_fields, find_out};
use refusal::{not_a_model_server, refusal_in_answer};
use wire::{Answer, Ask, Prompts, WireUsage};

pub use embeddings::Embeddings;
pub use endpoint::CallDeadlines;
pub use events::{EventDecoder, EventTooLong};
pub use probe::Needs;
pub use server::{ServerKind, TokenLimit};
pub use settings::{ModelSettings, Parameter, SystemRole};

/// Which server, and how it is reached.
#[derive(Clone, Debug, Default)]
pub struct OpenAiOptions {
    /// `--base-url` or the environment's; before the settings file's and the preset's.
    pub base_url: Option<String>,
    pub server: Option<ServerKind>,
    pub settings: ModelSettings,
    /// What the model will be asked.
    pub needs: Needs,
}

/// A model on a server. A call is one HTTP request, without limit and without a deadline in all; see
/// [`crate::Call`]. Several likelihoods in one call are several prompts in one request: where the server does
/// not take that ([`OpenAi::takes_many_prompts`]), [`crate::Split`] asks for them one by one.
pub struct OpenAi {
    reference: ModelRef,
    client: Client,
    shape: Shape,
    findings: Findings,
    /// The first `system_fingerprint` the server named.
    fingerprint: OnceLock<String>,
    fingerprint_changed: AtomicBool,
    /// An answer was longer than asked for.
    overlong: AtomicBool,
    /// What it does not take where somebody listens.
    refusals: Refusals,
}

impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAi").field("endpoint", self.client.endpoint()).finish_non_exhaustive()
    }
}

impl OpenAi {
    /// Connects: finds the address and the key, and asks the server what it can do.
    ///
    /// # Errors
    /// No address, no such server, no such model, a key that is refused.
    pub async fn connect(reference: &ModelRef, options: &OpenAiOptions) -> Result<Self, ModelError> {
        Self::connect_with(reference, options, &|name| std::env::var(name).ok()).await
    }

    /// [`OpenAi::connect`] with the variables of another environment.
    ///
    /// # Errors
    /// As [`OpenAi::connect`].
    pub async fn connect_with(
        reference: &ModelRef,
        options: &OpenAiOptions,
        env: &(dyn Fn(&str) -> Option<String> + Sync),
    ) -> Result<Self, ModelError> {
        let base_url = options.base_url.as_deref();
        let endpoint =
            Endpoint::resolve(reference, base_url, options.server, &options.settings, &|name| env(name))?;
        let client = Client::new(Arc::new(endpoint))?;
        let findings = find_out(&client, &options.needs).await?;
        let model = Self {
            reference: reference.clone(),
            client,
            shape: findings.shape.clone(),
            findings,
            fingerprint: OnceLock::new(),
            fingerprint_changed: AtomicBool::new(false),
            overlong: AtomicBool::new(false),
            refusals: Refusals::default(),
        };
        model.check(&options.needs)?;
        Ok(model)
    }

    /// What can be known to fail before anything is asked.
    fn check(&self, needs: &Needs) -> Result<(), ModelError> {
        needs.generate.iter().try_for_each(|params| self.check_extensions(params))
    }

    #[must_use]
    pub fn capabilities(&self) -> Capabilities {
        Capabilities {
            log_likelihood: self.findings.log_likelihood,
            // No server returns the tokens of a conversation it rendered itself.
            chat_log_likelihood: false,
            generate: self.findings.chat || self.findings.completion,
            // The first token of a text has no log-probability here.
            perplexity: false,
            chat: self.findings.chat,
            completion: self.findings.completion,
        }
    }

    #[must_use]
    pub fn context_length(&self) -> Option<usize> {
        self.findings.context_length
    }

    /// Whether the likelihoods of several texts can be asked for in one request.
    #[must_use]
    pub fn takes_many_prompts(&self) -> bool {
        self.findings.batch
    }

    /// What the user should know about how this server is asked.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let withheld = match &self.client.endpoint().keyless {
            Some(keyless @ Keyless::Withheld(_)) => Some(keyless.to_string()),
            // Most servers of one's own have no keys.
            Some(Keyless::Unset(_)) | None => None,
        };
        self.findings.notes.iter().cloned().chain(withheld).collect()
    }

    #[must_use]
    pub fn deadlines(&self) -> CallDeadlines {
        self.client.endpoint().deadlines
    }

    /// Whose limits a request counts against: the same for all models of one server and key. Nothing
    /// about the key can be read from it.
    #[must_use]
    pub fn account(&self) -> Digest {
        self.client.endpoint().account()
    }

    /// What is known of the model's identity, which is not its weights: the address, the name, and every
    /// setting that answers depend on. The field `weights` is the digest of that, `tokenizer` the digest
    /// of the fact that it is not known, and `device` the address. What the server does behind the name
    /// cannot be seen; a change of its `system_fingerprint` during a run is logged.
    #[must_use]
    pub fn identity(&self) -> ModelIdentity {
        let endpoint = self.client.endpoint();
        let known = json!({
            "kind": "a model on a server: weights and tokenizer are not known",
            "base_url": endpoint.base.as_str(),
            "query": endpoint.query,
            "model": endpoint.model,
            "requests": generate::identity(&self.shape),
        });
        ModelIdentity {
            reference: self.reference.clone(),
            weights: Digest::of_json(&known),
            tokenizer: Digest::of("the tokenizer of a server is not known"),
            chat_template: None,
            adapter: None,
            trained_on: None,
            dtype: "unknown".to_owned(),
            device: endpoint.place.clone(),
        }
    }

    async fn log_likelihood(
        &self,
        context: &Prompt,
        continuations: &[String],
    ) -> Result<Response, ModelError> {
        let Prompt::Text(context) = context else {
            return Err(self.unable("does not give likelihoods of answers in a chat", "--no-chat-template"));
        };
        if !self.findings.log_likelihood {
            return Err(
                self.unable("does not return the log-probabilities of a prompt", "--generated-choices")
            );
        }
        let started = Instant::now();
        let prompts: Vec<String> =
            continuations.iter().map(|continuation| format!("{context}{continuation}")).collect();
        let answer = self.echo(&prompts).await?;
        let mut choices = Vec::with_capacity(prompts.len());
        for (position, continuation) in continuations.iter().enumerate() {
            let found = answer.choices.iter().flatten().find(|choice| choice.index.unwrap_or(0) == position);
            let logprobs = found.and_then(|choice| choice.logprobs.as_ref());
            let logprobs =
                logprobs.ok_or_else(|| self.odd("the answer lacks the log-probabilities of a prompt"))?;
            // The same request gives the same tokens: asking again would not help.
            let scored = likelihood(logprobs, context, continuation)
                .map_err(|why| ModelError::Request(format!("{}: {why}", self.client.endpoint().place)))?;
            choices.push(scored);
        }
        self.client.prove();
        Ok(self.response(Output::LogLikelihood { choices }, answer.usage, started))
    }

    async fn echo(&self, prompts: &[String]) -> Result<Answer, ModelError> {
        let prompt = if let [one] = prompts { Prompts::One(one) } else { Prompts::Many(prompts) };
        let (model, body) = (&self.client.endpoint().model, &self.shape.body);
        let ask = Ask { model, messages: None, prompt: Some(prompt), fields: echo_fields(), body };
        let answer: Answer = self.read(&self.client.completion(&ask).await?)?;
        self.watch_fingerprint(answer.system_fingerprint.as_deref());
        match answer.error.filter(|error| !error.is_null()) {
            Some(error) => Err(refusal_in_answer(self.client.endpoint(), &error)),
            None => Ok(Answer { error: None, ..answer }),
        }
    }

    /// Reads a document. One of another form is an accident of a server that is known.
    fn read<T: DeserializeOwned>(&self, document: &Document) -> Result<T, ModelError> {
        serde_json::from_str(document.get()).map_err(|error| self.odd(&error.to_string()))
    }

    fn odd(&self, what: &str) -> ModelError {
        if self.client.is_proven() {
            self.transport(TransportFailure::Malformed, what)
        } else {
            not_a_model_server(self.client.endpoint(), 200, what)
        }
    }

    fn transport(&self, failure: TransportFailure, detail: &str) -> ModelError {
        let endpoint = self.client.endpoint();
        ModelError::Transport { server: endpoint.place.clone(), failure, detail: endpoint.shown(detail) }
    }

    fn unable(&self, what: &str, instead: &str) -> ModelError {
        ModelError::Unsupported {
            model: self.reference.to_string(),
            what: format!("the server {what}"),
            hint: Some(format!("run it with `{instead}`")),
        }
    }

    fn response(&self, output: Output, usage: Option<WireUsage>, started: Instant) -> Response {
        let total_ms = started.elapsed().as_secs_f64() * 1000.0;
        Response {
            output,
            usage: usage.and_then(WireUsage::usage),
            truncated_tokens: 0,
            cached: false,
            latency: Some(Latency { total_ms, first_token_ms: None, attempts: 1 }),
        }
    }

    /// Says once that the server changed under a run.
    fn watch_fingerprint(&self, fingerprint: Option<&str>) {
        let Some(fingerprint) = fingerprint.filter(|fingerprint| !fingerprint.is_empty()) else { return };
        if self.fingerprint.get_or_init(|| fingerprint.to_owned()) != fingerprint
            && !self.fingerprint_changed.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(
                model = %self.reference,
                "the server's system_fingerprint changed: answers come from more than one version of the model"
            );
        }
    }
}

impl Call for OpenAi {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        listener: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        let span = self.span(&request.kind);
        let answer = async move {
            match &request.kind {
                RequestKind::Generate { prompt, params } => self.generate((prompt, params), listener).await,
                RequestKind::LogLikelihood { context, continuations } => {
                    self.log_likelihood(context, continuations).await
                }
                RequestKind::Perplexity { .. } => {
                    Err(self.unable("gives no log-probability for the first token of a text", "local/MODEL"))
                }
            }
        };
        let told = |answer: Result<Response, ModelError>| {
            if let Ok(Response { usage: Some(usage), .. }) = &answer {
                tracing::Span::current()
                    .record("gen_ai.usage.input_tokens", usage.prompt_tokens)
                    .record("gen_ai.usage.output_tokens", usage.generated_tokens);
            }
            answer
        };
        Box::pin(answer.map(told).instrument(span))
    }
}

impl OpenAi {
    /// The span of one request, named as OpenTelemetry's conventions for generative AI name it. What is asked and answered
    /// is no part of it.
    fn span(&self, kind: &RequestKind) -> tracing::Span {
        let operation = match kind {
            RequestKind::Generate { prompt: Prompt::Chat(_), .. } => "chat",
            RequestKind::Generate { .. }
            | RequestKind::LogLikelihood { .. }
            | RequestKind::Perplexity { .. } => "text_completion",
        };
        tracing::info_span!(
            "ask",
            otel.name = format!("{operation} {}", self.reference.name),
            otel.kind = "client",
            gen_ai.operation.name = operation,
            gen_ai.provider.name = "openai",
            gen_ai.request.model = self.reference.name,
            gen_ai.usage.input_tokens = tracing::field::Empty,
            gen_ai.usage.output_tokens = tracing::field::Empty,
        )
    }
}
