//! The OpenAI-compatible endpoint for local models.

pub(crate) mod chat;
pub(crate) mod completions;
mod echo;
pub(crate) mod embeddings;
pub(crate) mod models;
mod sampling;
mod schema;
pub(crate) mod stream;
mod writing;

use std::borrow::Cow;
use std::fmt::Write;

use evalign_core::{FinishReason, Output, Response, TokenLogprob, Usage};
use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult, Code};
use crate::models::Served;

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

/// A token as it is told: its text, or where it is part of a character what it writes, as OpenAI spells it
/// (`\xf0\x9f`).
fn spelled<'a>(text: &'a str, bytes: Option<&[u8]>) -> Cow<'a, str> {
    let Some(bytes) = bytes else { return text.into() };
    let mut spelling = String::new();
    for chunk in bytes.utf8_chunks() {
        spelling.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _infallible = write!(spelling, "\\x{byte:02x}");
        }
    }
    spelling.into()
}

/// Whether so many of the likeliest tokens can be told, as `field` asks for.
fn check_alternatives(served: &Served, field: &str, count: u32) -> ApiResult<()> {
    match served.local {
        None if count > 1 => Err(unsupported(field, "this model tells of no other tokens than its own")),
        _ => Ok(()),
    }
}

/// A field that is understood and not supported, unless it says what is the case anyway.
fn unsupported(field: &str, why: &str) -> ApiError {
    ApiError::new(Code::InvalidRequest, format!("`{field}` is not supported here: {why}")).about(field)
}

fn unix_secs() -> u64 {
    crate::app::now_ms() / 1000
}
