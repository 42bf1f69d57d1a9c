use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use evalign_core::{MOST_TOP_LOGPROBS, Message, Prompt, RequestKind, Role, TokenLogprob};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{JsonBody, Tenanted};
use crate::openai::sampling::{Sampling, Stop, out_of_range};
use crate::openai::schema::AnswerFormat;
use crate::openai::stream::{self, Chunks, StreamedChunk};
use crate::openai::writing::{Part as Written, Writing};
use crate::openai::{Generated, check_alternatives, spelled, unix_secs, unsupported};
use crate::openapi::{ErrorAnswers, Refusals};

/// Tokens of an answer where nothing is said.
const DEFAULT_TOKENS: u32 = 512;

#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChatRole {
    System,
    /// The same as `system`.
    Developer,
    User,
    Assistant,
}

/// Text, or parts of it.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Part {
    Text { text: String },
}

#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChatMessage {
    role: ChatRole,
    content: Content,
    #[serde(default)]
    #[expect(dead_code, reason = "accepted, and without effect")]
    name: Option<String>,
    /// Of harnesses that tell what a message is; has no effect.
    #[serde(default, rename = "type")]
    #[expect(dead_code, reason = "accepted, and without effect")]
    kind: Option<String>,
}

/// What OpenAI's chat completions take, as far as it applies to a local model.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2", "messages": [{"role": "user", "content": "Say hello."}], "max_tokens": 20}))]
pub(crate) struct ChatBody {
    pub(crate) model: String,
    #[schema(min_items = 1)]
    pub(crate) messages: Vec<ChatMessage>,
    #[schema(minimum = 1)]
    pub(crate) max_tokens: Option<u32>,
    /// The same as `max_tokens`.
    #[schema(minimum = 1)]
    pub(crate) max_completion_tokens: Option<u32>,
    #[schema(minimum = 0, maximum = 2)]
    pub(crate) temperature: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) top_p: Option<f64>,
    #[schema(minimum = 1, maximum = 16)]
    pub(crate) n: Option<u32>,
    pub(crate) seed: Option<i64>,
    pub(crate) stop: Option<Stop>,
    #[serde(default)]
    pub(crate) stream: Option<bool>,
    #[schema(value_type = Option<Object>)]
    pub(crate) stream_options: Option<StreamOptions>,
    pub(crate) logprobs: Option<bool>,
    /// With `logprobs`: so many of the likeliest tokens at each place, with the model's own probabilities: before
    /// temperature, `top_p` and what `response_format` forbids.
    #[schema(maximum = 20)]
    pub(crate) top_logprobs: Option<u32>,
    pub(crate) response_format: Option<AnswerFormat>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    /// Has no effect.
    #[expect(dead_code, reason = "accepted, and without effect")]
    pub(crate) user: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct StreamOptions {
    #[serde(default)]
    pub(crate) include_usage: bool,
}

impl ChatBody {
    fn prompt(&self) -> ApiResult<Prompt> {
        if self.messages.is_empty() {
            return Err(ApiError::new(Code::InvalidRequest, "there is no message").about("messages"));
        }
        let message = |message: &ChatMessage| {
            let content = match &message.content {
                Content::Text(text) => text.clone(),
                Content::Parts(parts) => parts.iter().map(|Part::Text { text }| text.as_str()).collect(),
            };
            let role = match message.role {
                ChatRole::System | ChatRole::Developer => Role::System,
                ChatRole::User => Role::User,
                ChatRole::Assistant => Role::Assistant,
            };
            Message { role, content }
        };
        Ok(Prompt::Chat(self.messages.iter().map(message).collect()))
    }

    fn kinds(&self, most_tokens: u32) -> ApiResult<Vec<RequestKind>> {
        let alternatives = self.top_logprobs.unwrap_or(0);
        if alternatives > MOST_TOP_LOGPROBS {
            return Err(out_of_range("top_logprobs", &format!("from 0 to {MOST_TOP_LOGPROBS}")));
        }
        let logprobs = self.logprobs.unwrap_or(false).then_some(alternatives);
        if alternatives > 0 && logprobs.is_none() {
            return Err(unsupported("top_logprobs", "only together with `logprobs`"));
        }
        let sampling = Sampling {
            max_tokens: self.max_completion_tokens.or(self.max_tokens),
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            stop: self.stop.clone(),
            n: self.n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logprobs,
        };
        let prompt = self.prompt()?;
        let mut kinds = Vec::new();
        for mut params in sampling.params(DEFAULT_TOKENS, most_tokens)? {
            params.form = match &self.response_format {
                Some(format) => format.form()?,
                None => None,
            };
            kinds.push(RequestKind::Generate { prompt: prompt.clone(), params });
        }
        Ok(kinds)
    }
}

/// Goes on with a conversation.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "models", request_body = ChatBody,
    responses((status = 200, description = "A chat completion, or with `stream` its chunks",
        content((Object = "application/json"), (StreamedChunk = "text/event-stream"))), ErrorAnswers, Refusals))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Tenanted { caller, store }: Tenanted,
    JsonBody { value: body, .. }: JsonBody<ChatBody>,
) -> ApiResult<Response> {
    let started = Instant::now();
    let kinds = body.kinds(app.settings.max_tokens)?;
    let served = app.served(&store, &body.model).await?;
    check_alternatives(&served, "top_logprobs", body.top_logprobs.unwrap_or(0))?;
    if !served.model.capabilities().chat {
        let message = "this model has no chat template; ask it through /v1/completions";
        return Err(ApiError::new(Code::InvalidRequest, message).about("model"));
    }
    let completion = Completion {
        id: format!("chatcmpl-{}", uuid::Uuid::now_v7().simple()),
        created: unix_secs(),
        include_usage: body.stream_options.unwrap_or_default().include_usage,
        model: body.model.clone(),
        logprobs: body.logprobs.unwrap_or(false),
    };
    // All answers are to one prompt.
    let choices = kinds.len();
    let writing = Writing::begin(app, caller.key, served, started, kinds, choices)?;
    if body.stream.unwrap_or(false) {
        return Ok(stream::streamed(stream::chunks(completion, writing)));
    }
    let (choices, usage) = writing.whole().await?;
    Ok(Json(completion.whole(&choices, &usage)).into_response())
}

struct Completion {
    id: String,
    created: u64,
    model: String,
    include_usage: bool,
    logprobs: bool,
}

impl Completion {
    fn head(&self, object: &str) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }

    fn whole(&self, choices: &[Generated], usage: &Value) -> Value {
        let mut body = self.head("chat.completion");
        let choice = |(index, choice): (usize, &Generated)| {
            json!({
                "index": index,
                "message": {"role": "assistant", "content": choice.text, "refusal": null},
                "logprobs": choice.logprobs.as_deref().map(logprobs),
                "finish_reason": choice.finish,
            })
        };
        body["choices"] = choices.iter().enumerate().map(choice).collect();
        body["usage"] = usage.clone();
        body
    }

    fn chunk_of(&self, choices: Value, usage: Value) -> Value {
        let mut chunk = self.head("chat.completion.chunk");
        chunk["choices"] = choices;
        if self.include_usage {
            chunk["usage"] = usage;
        }
        chunk
    }
}

impl Chunks for Completion {
    fn chunk(&mut self, part: Written) -> Value {
        let choice = match part {
            Written::Text { index, is_first, piece } => {
                let mut delta = json!({"content": piece.text});
                if is_first {
                    delta["role"] = "assistant".into();
                }
                let logprobs = self.logprobs.then(|| logprobs(&piece.logprobs));
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": null})
            }
            Written::End { index, finish } => {
                json!({"index": index, "delta": {}, "logprobs": null, "finish_reason": finish})
            }
        };
        self.chunk_of(json!([choice]), Value::Null)
    }

    fn last(&mut self, usage: Value) -> Option<Value> {
        self.include_usage.then(|| self.chunk_of(json!([]), usage))
    }
}

fn logprobs(tokens: &[TokenLogprob]) -> Value {
    let told = |text: &str, bytes: Option<&[u8]>, logprob: f64| {
        json!({
            "token": spelled(text, bytes),
            "logprob": logprob,
            "bytes": bytes.unwrap_or(text.as_bytes()),
        })
    };
    let entry = |token: &TokenLogprob| {
        let top = token.top.iter().map(|top| told(&top.token, top.bytes.as_deref(), top.logprob));
        let mut entry = told(&token.token, token.bytes.as_deref(), token.logprob);
        entry["top_logprobs"] = top.collect();
        entry
    };
    json!({"content": tokens.iter().map(entry).collect::<Vec<_>>(), "refusal": null})
}
