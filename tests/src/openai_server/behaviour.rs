use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::fault::{Fault, RetryAfter};

/// How a [`super::ScriptedServer`] behaves: the JSON of a `--script` file. Everything is optional; the
/// default is a quick server that can do all and never fails.
///
/// ```json
/// {
///   "seed": 1,
///   "models": ["scripted"],
///   "api_key": "sk-test",
///   "rules": [{"match": "capital of France", "text": "Paris"}],
///   "capabilities": {"logprobs": false, "max_tokens": "max_completion_tokens"},
///   "latency_ms": 20, "latency_jitter": 0.25, "cliff": 64,
///   "faults": [
///     {"when": {"first_attempts": 1}, "what": {"kind": "status", "status": 503, "retry_after": {"seconds": 1}}},
///     {"when": {"text": "poison"}, "what": {"kind": "reset"}},
///     {"when": {"probability": 0.1}, "what": {"kind": "truncate_body"}}
///   ]
/// }
/// ```
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// Of made-up answers and vectors, latencies and faults by chance.
    pub seed: u64,
    /// Models there are; any other is 404 `model_not_found`.
    pub models: Vec<String>,
    /// Key that requests must carry. The refusal quotes the wrong key in full, as some servers do.
    pub api_key: Option<String>,
    /// The first rule whose text occurs in the prompt decides the answer.
    pub rules: Vec<Rule>,
    pub capabilities: Capabilities,
    /// Numbers of a vector are off by up to this, otherwise for each request, as those of servers are that compute in
    /// batches of any size.
    pub embedding_noise: f64,
    /// Time from a request's arrival to the answer's first byte.
    pub latency_ms: f64,
    /// Latencies are drawn evenly from `latency * (1 ± jitter)`, by the request's content.
    pub latency_jitter: f64,
    /// Requests in flight above which the server answers 429 at once.
    pub cliff: Option<usize>,
    /// What those 429 carry.
    pub cliff_retry_after: Option<RetryAfter>,
    /// The first fault that applies to a request happens to it.
    pub faults: Vec<Fault>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            seed: 0,
            models: vec!["scripted".to_owned()],
            api_key: None,
            rules: Vec::new(),
            capabilities: Capabilities::default(),
            embedding_noise: 0.0,
            latency_ms: 0.0,
            latency_jitter: 0.0,
            cliff: None,
            cliff_retry_after: None,
            faults: Vec::new(),
        }
    }
}

impl Behaviour {
    /// With one more fault, after those there are.
    #[must_use]
    pub fn fault(mut self, fault: Fault) -> Self {
        self.faults.push(fault);
        self
    }

    /// With one more rule, after those there are.
    #[must_use]
    pub fn rule(mut self, text_in_prompt: &str, text: &str) -> Self {
        let rule = Rule { text_in_prompt: text_in_prompt.to_owned(), text: text.to_owned() };
        self.rules.push(rule);
        self
    }

    /// Latency of a request, given a number in [0, 1) that its content decides.
    pub(super) fn latency(&self, draw: f64) -> Duration {
        let factor = 1.0 + self.latency_jitter * (2.0 * draw - 1.0);
        Duration::from_secs_f64((self.latency_ms * factor / 1000.0).max(0.0))
    }
}

/// An answer to prompts that contain a text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    #[serde(rename = "match")]
    pub text_in_prompt: String,
    pub text: String,
}

/// What the server can do. What it cannot is refused as the servers that cannot do it refuse it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// `/v1/chat/completions` is there.
    pub chat: bool,
    /// `/v1/completions` is there.
    pub completions: bool,
    /// `/v1/embeddings` is there.
    pub embeddings: bool,
    /// `/v1/models` is there.
    pub list_models: bool,
    pub logprobs: Support,
    pub echo: Support,
    pub seed: Support,
    pub stop: Support,
    pub top_p: Support,
    /// Answers in the form of a JSON Schema.
    pub response_format: Support,
    pub stream: Support,
    pub stream_options: Support,
    /// Several prompts in one request.
    pub many_prompts: bool,
    /// More than one choice.
    pub n: Support,
    /// A system message; `ignored` drops it.
    pub system_role: Support,
    /// A temperature other than the default.
    pub temperature: Support,
    pub max_tokens: MaxTokens,
    /// Most stop strings a request may carry (4 at OpenAI).
    pub max_stops: Option<usize>,
    /// `usage` is part of answers.
    pub usage: bool,
    /// Share of prompt tokens said to come from the server's cache.
    pub cached_share: f64,
    pub reasoning: Reasoning,
}

impl Default for Capabilities {
    fn default() -> Self {
        Self {
            chat: true,
            completions: true,
            embeddings: true,
            list_models: true,
            logprobs: Support::Yes,
            echo: Support::Yes,
            seed: Support::Yes,
            stop: Support::Yes,
            top_p: Support::Yes,
            response_format: Support::Yes,
            stream: Support::Yes,
            stream_options: Support::Yes,
            many_prompts: true,
            n: Support::Yes,
            system_role: Support::Yes,
            temperature: Support::Yes,
            max_tokens: MaxTokens::Either,
            max_stops: None,
            usage: true,
            cached_share: 0.0,
            reasoning: Reasoning::None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Support {
    Yes,
    /// The field is taken and has no effect.
    Ignored,
    /// 400 that names the field.
    Refused,
}

/// The name of the token limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MaxTokens {
    Either,
    MaxTokens,
    MaxCompletionTokens,
}

/// Where a reasoning model's thoughts are put.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reasoning {
    None,
    /// `message.reasoning_content` (DeepSeek, SGLang, llama.cpp).
    ReasoningContent,
    /// `message.reasoning` (OpenRouter, newer vLLM).
    Reasoning,
    /// `<think>...</think>` in front of the content.
    Inline,
    /// Only counted, as at OpenAI.
    Hidden,
}
