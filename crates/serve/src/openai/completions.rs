use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use evalign_core::{GenerateParams, Prompt, RequestKind, Usage};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{JsonBody, Tenanted};
use crate::models::Served;
use crate::openai::chat::StreamOptions;
use crate::openai::echo::{Token, echoed, of_generated};
use crate::openai::sampling::{Sampling, Stop};
use crate::openai::schema::AnswerFormat;
use crate::openai::{Generated, stream, unix_secs, unsupported, used};
use crate::openapi::{ErrorAnswers, Refusals};

/// Tokens of an answer where nothing is said, as OpenAI's API has it.
const DEFAULT_TOKENS: u32 = 16;

/// Most prompts in one request.
const MOST_PROMPTS: usize = 128;

/// Texts or token ids, one or several.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub(crate) enum Prompts {
    Text(String),
    Ids(Vec<u32>),
    Texts(Vec<String>),
    ManyIds(Vec<Vec<u32>>),
}

/// What a completion begins with.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    Text(String),
    Ids(Vec<u32>),
}

impl Prompts {
    fn starts(self) -> ApiResult<Vec<Start>> {
        let starts: Vec<Start> = match self {
            Self::Text(text) => vec![Start::Text(text)],
            Self::Texts(texts) => texts.into_iter().map(Start::Text).collect(),
            Self::Ids(ids) => vec![Start::Ids(ids)],
            Self::ManyIds(many) => many.into_iter().map(Start::Ids).collect(),
        };
        let is_empty = |start: &Start| matches!(start, Start::Ids(ids) if ids.is_empty());
        if starts.is_empty() || starts.len() > MOST_PROMPTS || starts.iter().any(is_empty) {
            let message = format!("`prompt` is 1 to {MOST_PROMPTS} texts or non-empty lists of token ids");
            return Err(ApiError::new(Code::InvalidRequest, message).about("prompt"));
        }
        Ok(starts)
    }
}

/// What OpenAI's completions take, as far as it applies to a local model.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2", "prompt": "The capital of France is", "max_tokens": 5, "temperature": 0}))]
pub(crate) struct CompletionBody {
    pub(crate) model: String,
    pub(crate) prompt: Prompts,
    /// 0 only with `echo`.
    pub(crate) max_tokens: Option<u32>,
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
    /// Log-probabilities of tokens; of others at most the likeliest one is told.
    #[schema(maximum = 5)]
    pub(crate) logprobs: Option<u32>,
    /// The prompt is part of the answer; its tokens are scored.
    #[serde(default)]
    pub(crate) echo: Option<bool>,
    pub(crate) response_format: Option<AnswerFormat>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    /// Only 1.
    pub(crate) best_of: Option<u32>,
    pub(crate) suffix: Option<String>,
    /// Has no effect.
    #[expect(dead_code, reason = "accepted, and without effect")]
    pub(crate) user: Option<String>,
}

impl CompletionBody {
    fn wants_echo(&self) -> bool {
        self.echo.unwrap_or(false)
    }

    /// The parameters of each answer to a prompt; none where nothing is to be generated.
    fn params(&self, most_tokens: u32) -> ApiResult<Vec<GenerateParams>> {
        if self.logprobs.is_some_and(|logprobs| logprobs > 5) {
            return Err(ApiError::new(Code::InvalidRequest, "`logprobs` is at most 5").about("logprobs"));
        }
        if self.best_of.is_some_and(|best| best != 1) {
            return Err(unsupported("best_of", "only 1"));
        }
        if self.suffix.is_some() {
            return Err(unsupported("suffix", "these models do not fill in"));
        }
        if self.wants_echo() && self.max_tokens == Some(0) {
            return Ok(Vec::new());
        }
        let sampling = Sampling {
            max_tokens: self.max_tokens,
            temperature: self.temperature,
            top_p: self.top_p,
            seed: self.seed,
            stop: self.stop.clone(),
            n: self.n,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logprobs: self.logprobs.is_some(),
        };
        let mut params = sampling.params(DEFAULT_TOKENS, most_tokens)?;
        for params in &mut params {
            params.response_format = match &self.response_format {
                Some(format) => format.clone().form(params.max_tokens)?,
                None => None,
            };
        }
        Ok(params)
    }
}

/// Goes on with a text.
#[utoipa::path(post, path = "/v1/completions", tag = "models", request_body = CompletionBody,
    responses((status = 200, description = "A completion, or with `stream` its chunks", body = Object), ErrorAnswers, Refusals))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    _: Tenanted,
    JsonBody { value: body, .. }: JsonBody<CompletionBody>,
) -> ApiResult<Response> {
    let params = body.params(app.settings.max_tokens)?;
    let starts = body.prompt.clone().starts()?;
    let served = app.models.served(&body.model).await?;
    let completion = Completion {
        id: format!("cmpl-{}", uuid::Uuid::now_v7().simple()),
        created: unix_secs(),
        started: Instant::now(),
        app,
        served,
    };
    let include_usage = body.stream_options.unwrap_or_default().include_usage;
    let is_stream = body.stream.unwrap_or(false);
    let answer = async move {
        let (choices, usage) = completion.choices(starts, params, body.wants_echo(), body.logprobs).await?;
        Ok::<_, ApiError>((completion, choices, usage))
    };
    if is_stream {
        return Ok(stream::streamed(async move {
            let (completion, choices, usage) = answer.await?;
            Ok(completion.chunks(choices, include_usage.then_some(usage)))
        }));
    }
    let (completion, choices, usage) = answer.await?;
    Ok(Json(completion.whole(choices, usage)).into_response())
}

struct Completion {
    id: String,
    created: u64,
    started: Instant,
    app: Arc<App>,
    served: Arc<Served>,
}

/// An answer before it is written down.
struct Choice {
    text: String,
    tokens: Option<Vec<Token>>,
    finish: &'static str,
    usage: Usage,
    is_first: bool,
}

impl Completion {
    /// All answers, prompt by prompt.
    async fn choices(
        &self,
        starts: Vec<Start>,
        params: Vec<GenerateParams>,
        echo: bool,
        logprobs: Option<u32>,
    ) -> ApiResult<(Vec<Value>, Value)> {
        let prefixes = if echo { Some(echoed(&self.served, &starts, &params).await?) } else { None };
        // What the scores of the prompt decide already is not asked for again.
        let decided = prefixes.as_ref().is_some_and(|prefixes| prefixes.iter().all(|p| p.next.is_some()));
        let mut choices = Vec::new();
        if params.is_empty() || decided {
            for prefix in prefixes.unwrap_or_default() {
                let (text, tokens, usage) = prefix.whole();
                choices.push(Choice { text, tokens: Some(tokens), finish: "length", usage, is_first: true });
            }
        } else {
            let generated = self.generate(&starts, &params).await?;
            for (index, answer) in generated.into_iter().enumerate() {
                let prefix = prefixes.as_ref().and_then(|prefixes| prefixes.get(index / params.len()));
                choices.push(joined(answer, prefix, index % params.len() == 0));
            }
        }
        let counts = choices.iter().map(|choice| (choice.is_first, choice.usage));
        let usage = used(&self.app, &self.served.name, self.started, counts);
        let told = choices.into_iter().enumerate().map(|(index, choice)| choice.told(index, logprobs));
        Ok((told.collect(), usage))
    }

    async fn generate(&self, starts: &[Start], params: &[GenerateParams]) -> ApiResult<Vec<Generated>> {
        let mut kinds = Vec::with_capacity(starts.len() * params.len());
        for start in starts {
            let text = match (start, &self.served.local) {
                (Start::Text(text), _) => text.clone(),
                (Start::Ids(ids), Some(local)) => local.text_of(ids)?,
                (Start::Ids(_), None) => {
                    return Err(unsupported("prompt", "this model has no tokens; send text"));
                }
            };
            let kind = |params: &GenerateParams| RequestKind::Generate {
                prompt: Prompt::Text(text.clone()),
                params: params.clone(),
            };
            kinds.extend(params.iter().map(kind));
        }
        let answers = self.served.batcher.ask(kinds).await?;
        answers.into_iter().map(|answer| Generated::of(answer?)).collect()
    }

    fn head(&self) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.served.name,
        })
    }

    fn whole(&self, choices: Vec<Value>, usage: Value) -> Value {
        let mut body = self.head();
        body["choices"] = choices.into();
        body["usage"] = usage;
        body
    }

    fn chunks(&self, choices: Vec<Value>, usage: Option<Value>) -> Vec<Value> {
        let chunk = |choices: Vec<Value>| {
            let mut chunk = self.head();
            chunk["choices"] = choices.into();
            chunk
        };
        let mut chunks: Vec<Value> = choices.into_iter().map(|choice| chunk(vec![choice])).collect();
        if let Some(usage) = usage {
            let mut last = chunk(Vec::new());
            last["usage"] = usage;
            chunks.push(last);
        }
        chunks
    }
}

fn joined(answer: Generated, prefix: Option<&crate::openai::echo::Prefix>, is_first: bool) -> Choice {
    let Generated { text, finish, logprobs, usage } = answer;
    let generated = logprobs.as_deref().map(of_generated);
    let (text, tokens) = match prefix {
        None => (text, generated),
        Some(prefix) => {
            let tokens = prefix.tokens.iter().cloned().chain(generated.unwrap_or_default()).collect();
            (format!("{}{text}", prefix.text), Some(tokens))
        }
    };
    Choice { text, tokens, finish, usage, is_first }
}

impl Choice {
    fn told(self, index: usize, logprobs: Option<u32>) -> Value {
        let logprobs =
            logprobs.map(|_| crate::openai::echo::table(self.tokens.as_deref().unwrap_or_default()));
        json!({"index": index, "text": self.text, "logprobs": logprobs, "finish_reason": self.finish})
    }
}
