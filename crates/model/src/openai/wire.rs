//! What goes over the wire, as far as we write or read it. Reading is lenient: fields that servers leave
//! out or set to null are absent, those we do not know are skipped.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

/// A request for a chat completion or a completion.
#[derive(Debug, Serialize)]
pub(super) struct Ask<'a> {
    pub(super) model: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) messages: Option<Vec<Turn<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) prompt: Option<Prompts<'a>>,
    #[serde(flatten)]
    pub(super) fields: Fields<'a>,
    /// What the settings file adds.
    #[serde(flatten)]
    pub(super) body: &'a Map<String, Value>,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Prompts<'a> {
    One(&'a str),
    Many(&'a [String]),
}

#[derive(Debug, Serialize)]
pub(super) struct Turn<'a> {
    pub(super) role: &'static str,
    pub(super) content: std::borrow::Cow<'a, str>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Fields<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) max_completion_tokens: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) temperature: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) min_p: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repetition_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) repeat_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) seed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stop: Option<&'a [String]>,
    /// True for chats, a number for completions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) logprobs: Option<Value>,
    /// Of chats: how many alternatives come with each token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) top_logprobs: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_format: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) echo: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) stream_options: Option<StreamOptions>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) continue_final_message: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) add_generation_prompt: Option<bool>,
}

#[derive(Debug, Serialize)]
pub(super) struct StreamOptions {
    pub(super) include_usage: bool,
}

/// A completion, a chat completion, or a piece of either.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    pub(super) choices: Option<Vec<Choice>>,
    #[serde(deserialize_with = "loose")]
    pub(super) usage: Option<WireUsage>,
    pub(super) system_fingerprint: Option<String>,
    pub(super) error: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Choice {
    pub(super) index: Option<usize>,
    /// Of completions.
    pub(super) text: Option<String>,
    /// Of chats; pieces of a stream call it `delta`.
    #[serde(alias = "delta")]
    pub(super) message: Option<Message>,
    pub(super) finish_reason: Option<String>,
    pub(super) logprobs: Option<Logprobs>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Message {
    pub(super) content: Option<Content>,
    /// DeepSeek, SGLang, llama.cpp, older vLLM.
    pub(super) reasoning_content: Option<String>,
    /// OpenRouter, newer vLLM, Ollama.
    pub(super) reasoning: Option<String>,
    pub(super) refusal: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Part {
    pub(super) text: Option<String>,
}

impl Content {
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Text(text) => text,
            Self::Parts(parts) => parts.into_iter().filter_map(|part| part.text).collect(),
        }
    }
}

/// Of chats `content`, of completions the parallel lists.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Logprobs {
    pub(super) content: Option<Vec<ChatLogprob>>,
    pub(super) tokens: Option<Vec<String>>,
    pub(super) token_logprobs: Option<Vec<Option<f64>>>,
    pub(super) top_logprobs: Option<Vec<Option<Top>>>,
    pub(super) text_offset: Option<Vec<i64>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct ChatLogprob {
    pub(super) token: String,
    pub(super) logprob: f64,
    #[serde(default)]
    pub(super) top_logprobs: Option<Vec<TopToken>>,
}

/// One of the most probable tokens at a place of a chat.
#[derive(Debug, Deserialize)]
pub(super) struct TopToken {
    pub(super) token: String,
    pub(super) logprob: f64,
}

/// The best log-probability at a place: the names of the tokens do not matter.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Top(pub(super) Option<f64>);

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Best;
        impl<'de> serde::de::Visitor<'de> for Best {
            type Value = Top;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a map from tokens to log-probabilities")
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
                let mut best: Option<f64> = None;
                while let Some((_, value)) = map.next_entry::<IgnoredAny, Option<f64>>()? {
                    best = match (best, value) {
                        (Some(a), Some(b)) => Some(a.max(b)),
                        (a, b) => a.or(b),
                    };
                }
                Ok(Top(best))
            }
        }
        deserializer.deserialize_map(Best)
    }
}

/// More tokens than any prompt or answer has: what says so is no count.
const MOST_TOKENS: u64 = 1 << 32;

/// What an answer took. A count that is none (negative, absurd, a text) is absent, and so is everything of
/// another form: an answer is not lost for its bookkeeping.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WireUsage {
    #[serde(deserialize_with = "count")]
    prompt_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    pub(super) completion_tokens: Option<u64>,
    #[serde(deserialize_with = "count")]
    total_tokens: Option<u64>,
    #[serde(deserialize_with = "loose")]
    prompt_tokens_details: Option<PromptDetails>,
    #[serde(deserialize_with = "loose")]
    completion_tokens_details: Option<CompletionDetails>,
    /// DeepSeek's name for cached prompt tokens.
    #[serde(deserialize_with = "count")]
    prompt_cache_hit_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct PromptDetails {
    #[serde(deserialize_with = "count")]
    cached_tokens: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
struct CompletionDetails {
    #[serde(deserialize_with = "count")]
    reasoning_tokens: Option<u64>,
}

impl WireUsage {
    /// `None` where it does not say how many tokens were read and written.
    pub(super) fn usage(self) -> Option<evalign_core::Usage> {
        let prompt_tokens = self.prompt_tokens?;
        // Some leave out what is zero; embeddings have no completion at all.
        let rest = || self.total_tokens?.checked_sub(prompt_tokens);
        let generated_tokens = self.completion_tokens.or_else(rest)?;
        let cached = self.prompt_tokens_details.and_then(|details| details.cached_tokens);
        let cached_prompt_tokens = cached.or(self.prompt_cache_hit_tokens).unwrap_or(0).min(prompt_tokens);
        Some(evalign_core::Usage {
            prompt_tokens,
            computed_prompt_tokens: prompt_tokens - cached_prompt_tokens,
            generated_tokens,
            cached_prompt_tokens,
            reasoning_tokens: self.reasoning_tokens(),
        })
    }

    pub(super) fn reasoning_tokens(&self) -> u64 {
        self.completion_tokens_details.and_then(|details| details.reasoning_tokens).unwrap_or(0)
    }
}

/// A value of the form that is expected, or none.
fn loose<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Loose<T> {
        Expected(T),
        Other(IgnoredAny),
    }
    Ok(match Loose::deserialize(deserializer)? {
        Loose::Expected(value) => Some(value),
        Loose::Other(IgnoredAny) => None,
    })
}

/// A count of tokens, or none.
fn count<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Number {
        Whole(u64),
        Real(f64),
    }
    let number: Option<Number> = loose(deserializer)?;
    Ok(match number {
        Some(Number::Whole(count)) => Some(count),
        // `5.0` is a count to JSON, and to whoever wrote it.
        Some(Number::Real(real)) if real >= 0.0 && real.fract() == 0.0 => Some(real as u64),
        Some(Number::Real(_)) | None => None,
    }
    .filter(|count| *count < MOST_TOKENS))
}

/// `GET /models`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Models {
    pub(super) data: Option<Vec<ListedModel>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ListedModel {
    pub(super) id: Option<String>,
    pub(super) owned_by: Option<String>,
    /// vLLM, SGLang.
    pub(super) max_model_len: Option<usize>,
    /// OpenRouter.
    pub(super) context_length: Option<usize>,
}

/// `POST /embeddings`.
#[derive(Debug, Serialize)]
pub(super) struct EmbeddingsAsk<'a> {
    pub(super) model: &'a str,
    pub(super) input: &'a [String],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) dimensions: Option<u32>,
    pub(super) encoding_format: &'static str,
    #[serde(flatten)]
    pub(super) body: &'a Map<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Embedded {
    pub(super) data: Option<Vec<Embedding>>,
    #[serde(deserialize_with = "loose")]
    pub(super) usage: Option<WireUsage>,
    pub(super) error: Option<Value>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Embedding {
    pub(super) index: usize,
    pub(super) embedding: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn usage(usage: &Value) -> Option<[u64; 4]> {
        let answer = json!({"choices": [], "usage": usage}).to_string();
        let answer: Answer = serde_json::from_str(&answer).unwrap();
        let usage = answer.usage.and_then(WireUsage::usage)?;
        Some([
            usage.prompt_tokens,
            usage.cached_prompt_tokens,
            usage.generated_tokens,
            usage.reasoning_tokens,
        ])
    }

    #[test]
    fn counts_that_are_none_are_absent_and_nothing_else_is_lost() {
        assert_eq!(usage(&json!({"prompt_tokens": 7, "completion_tokens": 3})), Some([7, 0, 3, 0]));
        assert_eq!(usage(&json!({"prompt_tokens": 7.0, "completion_tokens": 3})), Some([7, 0, 3, 0]));
        // Zero left out, as gateways that translate another interface do.
        assert_eq!(usage(&json!({"prompt_tokens": 7, "total_tokens": 7})), Some([7, 0, 0, 0]));
        for wrong in
            [json!(-5), json!(u64::MAX), json!(1e300), json!(0.5), json!("7"), json!([7]), json!(null)]
        {
            assert_eq!(usage(&json!({"prompt_tokens": wrong, "completion_tokens": 3})), None, "{wrong}");
            let details = json!({"cached_tokens": wrong});
            let whole = json!({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": details});
            assert_eq!(usage(&whole), Some([7, 0, 3, 0]), "{wrong}");
        }
        for wrong in [json!(null), json!("many"), json!(7), json!([])] {
            assert_eq!(usage(&wrong), None, "{wrong}");
            let whole = json!({"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": wrong});
            assert_eq!(usage(&whole), Some([7, 0, 3, 0]), "{wrong}");
        }
        // More cached than read is not believed either.
        let details = json!({"prompt_tokens": 7, "completion_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 9}, "completion_tokens_details": {"reasoning_tokens": 2}});
        assert_eq!(usage(&details), Some([7, 7, 3, 2]));
    }
}
