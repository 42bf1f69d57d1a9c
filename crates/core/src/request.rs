use serde::{Deserialize, Serialize};

use crate::{AnswerForm, Latency, SampleKey, response_format};

/// Who speaks in a chat message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    System,
    User,
    Assistant,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Message {
    pub role: Role,
    pub content: String,
}

/// What the model is shown: raw text, or a conversation its chat template turns into text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Prompt {
    Text(String),
    Chat(Vec<Message>),
}

/// How to generate. Temperature 0 is greedy decoding: then `top_p`, `top_k`, `min_p` and `seed` have no
/// effect. The repetition penalty has one at every temperature.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GenerateParams {
    /// Most tokens to generate.
    pub max_tokens: u32,
    pub temperature: f64,
    pub top_p: Option<f64>,
    pub top_k: Option<u32>,
    pub min_p: Option<f64>,
    /// Above 1 it lowers the logits of tokens seen before, ahead of all other rules; 1 leaves them alone
    /// (Keskar et al. 2019, arXiv 1909.05858, section 4.1).
    pub repetition_penalty: Option<f64>,
    /// Generation ends before the first of these; the text does not include it.
    pub stop: Vec<String>,
    /// Seed of this request's own random stream. See [`crate::sample_seed`].
    pub seed: u64,
    /// Return the log-probability of each generated token.
    pub logprobs: bool,
    /// With `logprobs`, so many of the most probable tokens at each place ([`TokenLogprob::top`]), at most
    /// [`MOST_TOP_LOGPROBS`].
    #[serde(skip_serializing_if = "is_none", default)]
    pub top_logprobs: u32,
    /// What the answer is held to. Stored under the names of its kinds, `response_format` and `json_schema`.
    #[serde(flatten, deserialize_with = "response_format::at_most_one")]
    pub form: Option<AnswerForm>,
}

/// Most tokens that are named at one place, as OpenAI's API has it.
pub const MOST_TOP_LOGPROBS: u32 = 20;

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_none(count: &u32) -> bool {
    *count == 0
}

impl Default for GenerateParams {
    fn default() -> Self {
        Self {
            max_tokens: 256,
            temperature: 0.0,
            top_p: None,
            top_k: None,
            min_p: None,
            repetition_penalty: None,
            stop: Vec::new(),
            seed: 0,
            logprobs: false,
            top_logprobs: 0,
            form: None,
        }
    }
}

/// The three things a model can be asked.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RequestKind {
    /// log P(continuation | context) for each continuation. The continuations carry their own leading
    /// delimiter.
    LogLikelihood {
        context: Prompt,
        continuations: Vec<String>,
    },
    Generate {
        prompt: Prompt,
        params: GenerateParams,
    },
    /// Sum of log P(token | everything before it) over the whole text.
    Perplexity {
        text: String,
    },
}

/// One sample's question to the model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Request {
    pub key: SampleKey,
    pub kind: RequestKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChoiceLogLikelihood {
    /// Natural logarithm, summed over the continuation's tokens.
    pub sum: f64,
    /// Tokens in the continuation.
    pub tokens: u32,
    /// Every token of the continuation is the argmax at its position.
    pub greedy: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FinishReason {
    /// A stop string or an end-of-sequence token.
    Stop,
    /// The token limit or the end of the context.
    Length,
    /// The provider withheld the answer.
    ContentFilter,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    pub token: String,
    pub logprob: f64,
    /// What it writes, where that is no text of its own: part of a character. `token` then has U+FFFD in it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<Vec<u8>>,
    /// What could have stood here, with its log-probability: the most probable tokens, likeliest first (of equal
    /// ones the lower id first), or the labels a [`crate::ResponseFormat`] offers at this place. In both cases of the
    /// model's own distribution: before penalty, temperature and filters, and before anything was masked.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub top: Vec<TopLogprob>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TopLogprob {
    pub token: String,
    pub logprob: f64,
    /// As [`TokenLogprob::bytes`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<Vec<u8>>,
}

impl TokenLogprob {
    #[must_use]
    pub fn new(token: String, logprob: f64) -> Self {
        Self { token, logprob, bytes: None, top: Vec::new() }
    }
}

impl TopLogprob {
    #[must_use]
    pub fn new(token: String, logprob: f64) -> Self {
        Self { token, logprob, bytes: None }
    }
}

/// The model's answer to a [`RequestKind`] of the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Output {
    LogLikelihood {
        choices: Vec<ChoiceLogLikelihood>,
    },
    Text {
        text: String,
        finish: FinishReason,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        logprobs: Option<Vec<TokenLogprob>>,
        /// What a reasoning model thought before it answered. Never scored.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        reasoning: Option<String>,
    },
    Perplexity {
        /// Natural logarithm, summed over all tokens.
        sum: f64,
        tokens: u32,
    },
}

impl Output {
    /// Every probability in it is a number. (JSON knows no infinity and no NaN, and no comparison with one
    /// decides anything.)
    ///
    /// # Errors
    /// Says which one is not, and what it is instead.
    pub fn check_finite(&self) -> Result<(), String> {
        let check = |number: f64, what: &dyn Fn() -> String| {
            if number.is_finite() { Ok(()) } else { Err(format!("{} is {number}", what())) }
        };
        match self {
            Self::LogLikelihood { choices } => {
                for (i, choice) in choices.iter().enumerate() {
                    check(choice.sum, &|| format!("log-likelihood of choice {i}"))?;
                }
            }
            Self::Text { logprobs, .. } => {
                for (i, token) in logprobs.iter().flatten().enumerate() {
                    check(token.logprob, &|| format!("log-probability of token {i} ({:?})", token.token))?;
                }
            }
            Self::Perplexity { sum, .. } => check(*sum, &|| "log-likelihood of the text".to_owned())?,
        }
        Ok(())
    }
}

/// Tokens spent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of all prompts (and scored continuations) as if nothing were shared.
    pub prompt_tokens: u64,
    /// Prompt tokens really pushed through the model after sharing prefixes and cached answers.
    pub computed_prompt_tokens: u64,
    /// Reasoning included.
    pub generated_tokens: u64,
    /// Of `prompt_tokens`, those the server had in its own prompt cache (and may charge less for).
    #[serde(skip_serializing_if = "is_zero", default)]
    pub cached_prompt_tokens: u64,
    /// Of `generated_tokens`, those spent on reasoning.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub reasoning_tokens: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        let sum = |a: &mut u64, b: u64| *a = a.saturating_add(b);
        sum(&mut self.prompt_tokens, other.prompt_tokens);
        sum(&mut self.computed_prompt_tokens, other.computed_prompt_tokens);
        sum(&mut self.generated_tokens, other.generated_tokens);
        sum(&mut self.cached_prompt_tokens, other.cached_prompt_tokens);
        sum(&mut self.reasoning_tokens, other.reasoning_tokens);
    }
}

/// What was spent on a server.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Spent {
    /// Those that failed included.
    pub requests: u64,
    /// Prompt and generated tokens, as far as the server says how many there were.
    pub tokens: u64,
    /// As far as prices are known.
    pub usd: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Response {
    pub output: Output,
    /// `computed_prompt_tokens` is only known for a whole batch when prefixes are shared; the local
    /// engine attributes each computed token to the first request that needed it. `None` where a server
    /// does not say: not known is not nothing.
    pub usage: Option<Usage>,
    /// Tokens cut from the left of the prompt because it was longer than the context. 0 normally.
    pub truncated_tokens: u64,
    /// Answered from the response cache.
    #[serde(default)]
    pub cached: bool,
    /// Known of servers only, and not of cached answers.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub latency: Option<Latency>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_number_is_named() {
        let choice = |sum| ChoiceLogLikelihood { sum, tokens: 1, greedy: false };
        let choices =
            |sums: &[f64]| Output::LogLikelihood { choices: sums.iter().map(|s| choice(*s)).collect() };
        assert_eq!(choices(&[-1.0, -2.0]).check_finite(), Ok(()));
        let refused = |output: Output| output.check_finite().unwrap_err();
        assert_eq!(refused(choices(&[-1.0, f64::NAN])), "log-likelihood of choice 1 is NaN");
        let text = Output::Perplexity { sum: f64::NEG_INFINITY, tokens: 3 };
        assert_eq!(refused(text), "log-likelihood of the text is -inf");
        let token = TokenLogprob::new("x".to_owned(), f64::NEG_INFINITY);
        let text = Output::Text {
            text: "x".to_owned(),
            finish: FinishReason::Stop,
            logprobs: Some(vec![token]),
            reasoning: None,
        };
        assert_eq!(refused(text), "log-probability of token 0 (\"x\") is -inf");
    }
}
