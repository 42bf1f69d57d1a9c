//! The OpenAI-compatible endpoint for local models.

pub(crate) mod chat;
pub(crate) mod completions;
mod echo;
pub(crate) mod embeddings;
pub(crate) mod models;
mod sampling;
mod schema;
mod stream;
mod writing;

use evalign_core::{FinishReason, Output, Response, TokenLogprob, Usage};
use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult, Code};

/// A generated text.
pub(crate) struct Generated {
    pub(crate) text: String,
    pub(crate) finish: &'static str,
    pub(crate) logprobs: Option<Vec<TokenLogprob>>,
    pub(crate) usage: Usage,
}

impl Generated {
    fn of(response: Response) -> ApiResult<Self> {
        let Output::Text { text, finish, logprobs, .. } = response.output else {
            return Err(ApiError::internal("the model answered with something else than text"));
        };
        let finish = match finish {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
            FinishReason::ContentFilter => "content_filter",
        };
        Ok(Self { text, finish, logprobs, usage: response.usage.unwrap_or_default() })
    }
}

/// Tokens of prompts and of answers. Of several answers to one prompt the prompt counts once.
fn sum(usage: impl Iterator<Item = (bool, Usage)>) -> (u64, u64) {
    usage.fold((0, 0), |(prompt, generated), (is_first, usage)| {
        let more = if is_first { usage.prompt_tokens } else { 0 };
        (prompt + more, generated + usage.generated_tokens)
    })
}

/// What was used, as OpenAI tells it.
fn told((prompt, generated): (u64, u64)) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated})
}

/// A field that is understood and not supported, unless it says what is the case anyway.
fn unsupported(field: &str, why: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("`{field}` is not supported here: {why}")).about(field)
}

fn unix_secs() -> u64 {
    crate::app::now_ms() / 1000
}
