use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use evalign_core::{GenerateParams, Prompt, RequestKind, TokenLogprob};
use evalign_model::ScoredToken;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{JsonBody, Tenanted};
use crate::models::Served;
use crate::openai::chat::StreamOptions;
use crate::openai::echo::{Prefix, chars, echoed, of_generated, table};
use crate::openai::sampling::{Sampling, Stop, out_of_range};
use crate::openai::schema::AnswerFormat;
use crate::openai::stream::{self, Chunks, StreamedChunk};
use crate::openai::writing::{Part, Writing};
use crate::openai::{Generated, check_alternatives, sum, told, unix_secs, unsupported};
use crate::openapi::{ErrorAnswers, Refusals};

/// Tokens of an answer where nothing is said, as OpenAI's API has it.
const DEFAULT_TOKENS: u32 = 16;

/// Most tokens that are named at one place, as OpenAI's API has it.
const MOST_LOGPROBS: u32 = 5;

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
    /// Log-probabilities of the tokens, each with those of so many of the likeliest ones at its place: the model's own,
    /// before temperature, `top_p` and what `response_format` forbids. Of a prompt too, with `echo`.
    #[schema(maximum = 5)]
    pub(crate) logprobs: Option<u32>,
    /// The prompt is part of the answer; its tokens are scored.
    #[serde(default)]
    pub(crate) echo: Option<bool>,
    pub(crate) response_format: Option<AnswerFormat>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    /// Only 1.
    #[schema(minimum = 1, maximum = 1)]
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
        if self.logprobs.is_some_and(|count| count > MOST_LOGPROBS) {
            return Err(out_of_range("logprobs", &format!("from 0 to {MOST_LOGPROBS}")));
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
            logprobs: self.logprobs,
        };
        let mut params = sampling.params(DEFAULT_TOKENS, most_tokens)?;
        for params in &mut params {
            params.form = match &self.response_format {
                Some(format) => format.form()?,
                None => None,
            };
        }
        Ok(params)
    }
}

/// Goes on with a text.
#[utoipa::path(post, path = "/v1/completions", tag = "models", request_body = CompletionBody,
    responses((status = 200, description = "A completion, or with `stream` its chunks",
        content((Object = "application/json"), (StreamedChunk = "text/event-stream"))), ErrorAnswers, Refusals))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    Tenanted { caller, store }: Tenanted,
    JsonBody { value: body, .. }: JsonBody<CompletionBody>,
) -> ApiResult<Response> {
    let started = Instant::now();
    let params = body.params(app.settings.max_tokens)?;
    let starts = body.prompt.clone().starts()?;
    let served = app.served(&store, &body.model).await?;
    let alternatives = body.logprobs.unwrap_or(0);
    check_alternatives(&served, "logprobs", alternatives)?;
    let mut completion = Completion {
        id: format!("cmpl-{}", uuid::Uuid::now_v7().simple()),
        created: unix_secs(),
        model: body.model.clone(),
        served: served.name.clone(),
        logprobs: body.logprobs.is_some(),
        include_usage: body.stream_options.unwrap_or_default().include_usage,
        per_prompt: params.len().max(1),
        prefixes: match body.wants_echo() {
            true => echoed(&served, &starts, &params, alternatives).await?,
            false => Vec::new(),
        },
        offsets: Vec::new(),
    };
    let is_stream = body.stream.unwrap_or(false);
    // What the scores of the prompt decide already is not asked for again.
    let decided = !completion.prefixes.is_empty() && completion.prefixes.iter().all(|p| p.next.is_some());
    if params.is_empty() || decided {
        app.metrics.first_token(&served.name, started.elapsed());
        let (choices, usage) = completion.known(&app);
        app.count_tokens(&caller.key, usage["total_tokens"].as_u64().unwrap_or_default());
        return Ok(match is_stream {
            true => {
                let chunks = completion.chunks(choices, usage).into_iter().map(Ok);
                stream::streamed(futures::stream::iter(chunks))
            }
            false => Json(completion.whole(choices, usage)).into_response(),
        });
    }
    let kinds = kinds(&served, &starts, &params)?;
    let writing = Writing::begin(app, caller.key, served, started, kinds, completion.per_prompt)?;
    if is_stream {
        return Ok(stream::streamed(stream::chunks(completion, writing)));
    }
    let (generated, usage) = writing.whole().await?;
    let choices = generated.into_iter().enumerate().map(|(index, answer)| completion.told(index, answer));
    Ok(Json(completion.whole(choices.collect(), usage)).into_response())
}

/// What is to be written: for each prompt each answer.
fn kinds(served: &Served, starts: &[Start], params: &[GenerateParams]) -> ApiResult<Vec<RequestKind>> {
    let mut kinds = Vec::with_capacity(starts.len() * params.len());
    for start in starts {
        let text = match (start, &served.local) {
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
    Ok(kinds)
}

struct Completion {
    id: String,
    created: u64,
    model: String,
    /// The name by which its tokens are counted.
    served: String,
    logprobs: bool,
    include_usage: bool,
    /// Answers to each prompt.
    per_prompt: usize,
    /// The prompts, where they are part of the answers.
    prefixes: Vec<Prefix>,
    /// Of each answer, the characters of the tokens that were told.
    offsets: Vec<usize>,
}

impl Completion {
    /// Prompts and what is known to come after them.
    fn known(&self, app: &App) -> (Vec<Value>, Value) {
        let (mut choices, mut usages) = (Vec::new(), Vec::new());
        for (index, prefix) in self.prefixes.iter().enumerate() {
            let finish = prefix.finish();
            let (text, tokens, usage) = prefix.clone().whole();
            choices.push(self.choice(index, &text, &table(0, self.unwritten(index), &tokens), Some(finish)));
            usages.push((true, usage));
        }
        let tokens = sum(usages.into_iter());
        app.metrics.tokens(&self.served, tokens.0, tokens.1);
        (choices, told(tokens))
    }

    /// A whole answer, with its prompt where that is part of it.
    fn told(&self, index: usize, answer: Generated) -> Value {
        let Generated { text, finish, logprobs, .. } = answer;
        let (text, tokens) = self.with_prefix(index, &text, &logprobs.unwrap_or_default());
        self.choice(index, &text, &table(0, self.unwritten(index), &tokens), Some(finish))
    }

    /// Characters of an answer's first tokens that its text does not have.
    fn unwritten(&self, index: usize) -> usize {
        self.prefixes.get(index / self.per_prompt).map_or(0, |prefix| prefix.unwritten)
    }

    fn with_prefix(&self, index: usize, text: &str, logprobs: &[TokenLogprob]) -> (String, Vec<ScoredToken>) {
        let prefix = self.prefixes.get(index / self.per_prompt);
        let (before, tokens) = prefix.map_or(("", &[][..]), |prefix| (&prefix.text, &prefix.tokens));
        (format!("{before}{text}"), tokens.iter().cloned().chain(of_generated(logprobs)).collect())
    }

    fn choice(&self, index: usize, text: &str, logprobs: &Value, finish: Option<&str>) -> Value {
        let logprobs = self.logprobs.then_some(logprobs);
        json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish})
    }

    fn head(&self) -> Value {
        json!({
            "id": self.id,
            "object": "text_completion",
            "created": self.created,
            "model": self.model,
        })
    }

    fn whole(&self, choices: Vec<Value>, usage: Value) -> Value {
        let mut body = self.head();
        body["choices"] = choices.into();
        body["usage"] = usage;
        body
    }

    fn chunk_of(&self, choices: Vec<Value>) -> Value {
        let mut chunk = self.head();
        chunk["choices"] = choices.into();
        chunk
    }

    fn chunks(&mut self, choices: Vec<Value>, usage: Value) -> Vec<Value> {
        let mut chunks: Vec<Value> = choices.into_iter().map(|choice| self.chunk_of(vec![choice])).collect();
        chunks.extend(self.last(usage));
        chunks
    }
}

impl Chunks for Completion {
    fn chunk(&mut self, part: Part) -> Value {
        let choice = match part {
            Part::Text { index, is_first, piece } => {
                let (text, tokens) = match is_first {
                    true => self.with_prefix(index, &piece.text, &piece.logprobs),
                    false => (piece.text, of_generated(&piece.logprobs)),
                };
                if self.offsets.len() <= index {
                    self.offsets.resize(index + 1, 0);
                }
                let table = table(self.offsets[index], self.unwritten(index), &tokens);
                self.offsets[index] += tokens.iter().map(chars).sum::<usize>();
                self.choice(index, &text, &table, None)
            }
            Part::End { index, finish } => {
                json!({"index": index, "text": "", "logprobs": null, "finish_reason": finish})
            }
        };
        self.chunk_of(vec![choice])
    }

    fn last(&mut self, usage: Value) -> Option<Value> {
        let mut last = self.include_usage.then(|| self.chunk_of(Vec::new()))?;
        last["usage"] = usage;
        Some(last)
    }
}
