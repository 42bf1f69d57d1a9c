//! Text from a server: how it is asked for, and what its answer means.

mod streamed;

use std::borrow::Cow;
use std::sync::atomic::Ordering;
use std::time::Instant;

use evalign_core::{
    AnswerForm, FinishReason, GenerateParams, Message, Output, Prompt, Response, Role, TokenLogprob,
    TopLogprob,
};
use serde_json::{Value, json};

use super::OpenAi;
use super::client::Document;
use super::endpoint::Shape;
use super::reasoning::part;
use super::refusal::refusal_in_answer;
use super::server::{Continues, TokenLimit};
use super::settings::{Parameter, SystemRole};
use super::wire::{
    Answer, Ask, ChatLogprob, Choice, Content, Fields, Logprobs, Prompts, StreamOptions, Turn, WireUsage,
};
use crate::call::Listener;
use crate::error::{ModelError, TransportFailure};
use streamed::Hearing;
pub(super) use streamed::{Refusals, without_begun};

/// Alternatives that are asked for with each token: the most that OpenAI gives.
const ALTERNATIVES: u32 = 20;

/// An answer being put together, in one piece or many.
#[derive(Debug, Default)]
struct Written {
    text: String,
    reasoning: String,
    refused: bool,
    finish: Option<String>,
    logprobs: Vec<TokenLogprob>,
    usage: Option<WireUsage>,
    fingerprint: Option<String>,
    any_choice: bool,
}

impl OpenAi {
    /// Answers [`evalign_core::RequestKind::Generate`].
    pub(super) async fn generate(
        &self,
        (prompt, params): (&Prompt, &GenerateParams),
        mut listener: Listener<'_>,
    ) -> Result<Response, ModelError> {
        let mut ask = self.ask(prompt, params)?;
        if listener.as_ref().is_some_and(|teller| teller.wants_pieces()) && self.may_be_asked_for_pieces() {
            self.refusals.ask_for_pieces(&mut ask.fields, &self.shape);
        }
        let chat = matches!(prompt, Prompt::Chat(_));
        let started = Instant::now();
        let hearing = Hearing { chat, params, started, listener: listener.as_deref_mut() };
        let (written, first_token) = self.written(&mut ask, hearing).await?;
        self.client.prove();
        self.watch_fingerprint(written.fingerprint.as_deref());
        let usage = written.usage;
        self.watch_length(usage, params);
        let output = self.output(written, chat, params)?;
        if let (Output::Text { text, .. }, Some(teller)) = (&output, listener) {
            teller.tell(text);
        }
        let mut response = self.response(output, usage, started);
        if let Some(latency) = &mut response.latency {
            latency.first_token_ms = first_token;
        }
        Ok(response)
    }

    fn ask<'a>(&'a self, prompt: &'a Prompt, params: &'a GenerateParams) -> Result<Ask<'a>, ModelError> {
        let shape = &self.shape;
        self.check_extensions(params)?;
        let mut fields = fields(shape, params, matches!(prompt, Prompt::Chat(_)));
        // A form of our own is read with care where nobody holds the answer to it; a caller's schema is a promise.
        if matches!(params.form, Some(AnswerForm::Schema(_))) && fields.response_format.is_none() {
            return Err(self.lacks("the server is not known to hold answers to a JSON Schema"));
        }
        let (messages, prompt) = match prompt {
            Prompt::Text(text) => (None, Some(Prompts::One(text))),
            Prompt::Chat(messages) => {
                if messages.last().is_some_and(|last| last.role == Role::Assistant) {
                    self.continue_answer(&mut fields)?;
                }
                (Some(turns(messages, shape.system_role)), None)
            }
        };
        Ok(Ask { model: &self.client.endpoint().model, messages, prompt, fields, body: &shape.body })
    }

    /// That the server is known to take what a request of this kind needs beyond OpenAI's own fields.
    ///
    /// # Errors
    /// [`ModelError::Unsupported`], naming the first field that it is not known to take.
    pub(super) fn check_extensions(&self, params: &GenerateParams) -> Result<(), ModelError> {
        let has = &self.shape.extensions;
        // Greedy decoding leaves nothing to choose between.
        let drawn = params.temperature > 0.0;
        let penalised = params.repetition_penalty.is_some_and(|penalty| penalty != 1.0);
        let lacking = [
            (drawn && params.top_k.is_some() && !has.top_k, "top_k"),
            (drawn && params.min_p.is_some() && !has.min_p, "min_p"),
            (penalised && has.repetition_penalty.is_none(), "repetition_penalty"),
        ];
        match lacking.into_iter().find(|(lacks, _)| *lacks) {
            Some((_, field)) => Err(self.lacks(&format!("the server is not known to take `{field}`"))),
            None => Ok(()),
        }
    }

    fn continue_answer(&self, fields: &mut Fields<'_>) -> Result<(), ModelError> {
        match self.shape.extensions.continues {
            Continues::Always => {}
            Continues::WhenAsked => {
                fields.continue_final_message = Some(true);
                fields.add_generation_prompt = Some(false);
            }
            Continues::No => {
                return Err(self.lacks(
                    "the task begins the answer itself, and the server is not known to go on with a begun answer",
                ));
            }
        }
        Ok(())
    }

    /// Something this server cannot be asked: true of all requests of the task.
    fn lacks(&self, what: &str) -> ModelError {
        ModelError::Unsupported {
            model: self.reference.to_string(),
            what: what.to_owned(),
            hint: Some(
                "if it does, name its kind with `--server` (vllm, sglang, llama.cpp, ...); otherwise leave the option out"
                    .to_owned(),
            ),
        }
    }

    /// Says once that the server does not keep to the limit on tokens.
    fn watch_length(&self, usage: Option<WireUsage>, params: &GenerateParams) {
        let tokens = usage.and_then(|usage| usage.completion_tokens).unwrap_or(0);
        if tokens > u64::from(params.max_tokens) && !self.overlong.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                model = %self.reference,
                tokens,
                max_tokens = params.max_tokens,
                "the server's answers are longer than the request allows"
            );
        }
    }

    fn whole(&self, document: &Document) -> Result<Written, ModelError> {
        let mut written = Written::default();
        self.add(document, &mut written)?;
        Ok(written)
    }

    /// Adds a whole answer, or a piece of one.
    fn add(&self, document: &Document, written: &mut Written) -> Result<(), ModelError> {
        let answer: Answer = self.read(document)?;
        if let Some(error) = answer.error.filter(|error| !error.is_null()) {
            return Err(refusal_in_answer(self.client.endpoint(), &error));
        }
        written.usage = answer.usage.or(written.usage);
        written.fingerprint = answer.system_fingerprint.or_else(|| written.fingerprint.take());
        let choice =
            answer.choices.and_then(|choices| choices.into_iter().find(|c| c.index.unwrap_or(0) == 0));
        if let Some(choice) = choice {
            written.any_choice = true;
            written.add(choice);
        }
        Ok(())
    }

    fn output(&self, written: Written, chat: bool, params: &GenerateParams) -> Result<Output, ModelError> {
        if !written.any_choice {
            return Err(self.odd("the answer has no choices"));
        }
        let finish = self.finish(&written, params)?;
        let (mut reasoning, mut text) = (written.reasoning, written.text);
        if chat && reasoning.is_empty() {
            let parted = part(text, &self.shape.think_tags);
            reasoning = parted.reasoning.unwrap_or_default();
            text = parted.text;
        }
        // In what takes the place of an answer, a stop string says nothing.
        let answered = finish != FinishReason::ContentFilter;
        let finish = match first_stop(&text, params).filter(|_| answered) {
            Some(end) => {
                text.truncate(end);
                FinishReason::Stop
            }
            None => finish,
        };
        Ok(Output::Text {
            text,
            finish,
            logprobs: params.logprobs.then_some(written.logprobs).filter(|logprobs| !logprobs.is_empty()),
            reasoning: Some(reasoning).filter(|reasoning| !reasoning.is_empty()),
        })
    }

    /// Servers name the ends of answers differently. Where one does not say, the count of tokens does.
    fn finish(&self, written: &Written, params: &GenerateParams) -> Result<FinishReason, ModelError> {
        if written.refused {
            return Ok(FinishReason::ContentFilter);
        }
        let tokens = written.usage.and_then(|usage| usage.completion_tokens);
        match written.finish.as_deref() {
            Some("length" | "max_tokens" | "model_length") => Ok(FinishReason::Length),
            Some("content_filter" | "safety" | "SAFETY") => Ok(FinishReason::ContentFilter),
            Some(reason @ ("abort" | "error" | "cancelled")) => Err(self.transport(
                TransportFailure::Truncated,
                &format!("the server gave up on the answer (`{reason}`)"),
            )),
            Some("stop" | "eos" | "eos_token" | "stop_sequence" | "end_turn") => Ok(FinishReason::Stop),
            Some(_) | None if tokens.is_some_and(|tokens| tokens >= u64::from(params.max_tokens)) => {
                Ok(FinishReason::Length)
            }
            Some(_) | None => Ok(FinishReason::Stop),
        }
    }
}

impl Written {
    fn add(&mut self, choice: Choice) {
        let message = choice.message.unwrap_or_default();
        let content = message.content.map(Content::into_text).or(choice.text);
        if let Some(refusal) = message.refusal.filter(|refusal| !refusal.is_empty()) {
            self.refused = true;
            self.text.push_str(&refusal);
        }
        append(&mut self.text, content);
        append(&mut self.reasoning, message.reasoning_content.or(message.reasoning));
        self.finish = choice.finish_reason.or_else(|| self.finish.take());
        self.logprobs.extend(choice.logprobs.map(generated_logprobs).unwrap_or_default());
    }
}

/// Where the first stop string begins.
fn first_stop(text: &str, params: &GenerateParams) -> Option<usize> {
    let stop = params.stop.iter().filter(|stop| !stop.is_empty());
    stop.filter_map(|stop| text.find(stop.as_str())).min()
}

/// The first piece is usually all there is, and is taken as it is.
fn append(text: &mut String, piece: Option<String>) {
    match piece {
        Some(piece) if text.is_empty() => *text = piece,
        Some(piece) => text.push_str(&piece),
        None => {}
    }
}

/// What an answer is held to, as OpenAI, vLLM, SGLang, llama.cpp and Ollama take it.
fn response_format(params: &GenerateParams) -> Option<Value> {
    let (name, schema) = match params.form.as_ref()? {
        AnswerForm::Fields(format) => (&format.name, format.json_schema()),
        AnswerForm::Schema(asked) => (&asked.name, asked.schema.clone()),
    };
    Some(json!({"type": "json_schema", "json_schema": {"name": name, "strict": true, "schema": schema}}))
}

fn generated_logprobs(logprobs: Logprobs) -> Vec<TokenLogprob> {
    if let Some(content) = logprobs.content {
        return content.into_iter().map(generated_token).collect();
    }
    let (tokens, values) = (logprobs.tokens.unwrap_or_default(), logprobs.token_logprobs.unwrap_or_default());
    let pairs = tokens.into_iter().zip(values);
    pairs.filter_map(|(token, logprob)| Some(TokenLogprob::new(token, logprob?))).collect()
}

fn generated_token(token: ChatLogprob) -> TokenLogprob {
    let top = token.top_logprobs.unwrap_or_default().into_iter();
    TokenLogprob {
        top: top.map(|top| TopLogprob::new(top.token, top.logprob)).collect(),
        ..TokenLogprob::new(token.token, token.logprob)
    }
}

/// The fields of a request that its parameters decide: the same for real requests and for those that find out
/// whether the server takes them.
pub(super) fn fields<'a>(shape: &Shape, params: &'a GenerateParams, chat: bool) -> Fields<'a> {
    let takes = |parameter| !shape.omit.contains(&parameter);
    let drawn = params.temperature > 0.0;
    // The old interface knows only the old name.
    let new_limit = chat && shape.limit == TokenLimit::MaxCompletionTokens;
    // Said even when it is none: llama-cpp-python's default is 1.1, vLLM's is the model's own.
    let penalty = params.repetition_penalty.unwrap_or(1.0);
    let named = |name: &str| (shape.extensions.repetition_penalty == Some(name)).then_some(penalty);
    let count = params.stop.len().min(shape.stop_strings);
    // A stop string inside the thoughts would end them before the answer; it is looked for here.
    let stop = Some(&params.stop[..count]).filter(|stop| !stop.is_empty() && !shape.reasoning);
    let logprobs = params.logprobs.then(|| if chat { json!(true) } else { json!(1) });
    let logprobs = logprobs.filter(|_| takes(Parameter::Logprobs));
    // The labels of a form are among the most probable tokens, and what they are worth is asked for.
    let labels = params.form.as_ref().is_some_and(|form| form.fields().is_some());
    let alternatives = if labels { ALTERNATIVES } else { params.top_logprobs };
    let logprobs_of_chat = chat && logprobs.is_some();
    Fields {
        max_tokens: (!new_limit).then_some(params.max_tokens),
        max_completion_tokens: new_limit.then_some(params.max_tokens),
        temperature: Some(params.temperature).filter(|_| takes(Parameter::Temperature)),
        top_p: params.top_p.filter(|_| drawn && takes(Parameter::TopP)),
        top_k: params.top_k.filter(|_| drawn && shape.extensions.top_k),
        min_p: params.min_p.filter(|_| drawn && shape.extensions.min_p),
        repetition_penalty: named("repetition_penalty"),
        repeat_penalty: named("repeat_penalty"),
        seed: Some(params.seed).filter(|_| takes(Parameter::Seed)),
        stop: stop.filter(|_| takes(Parameter::Stop)),
        logprobs,
        top_logprobs: Some(alternatives).filter(|count| logprobs_of_chat && *count > 0),
        response_format: response_format(params).filter(|_| chat && takes(Parameter::ResponseFormat)),
        stream: shape.stream.then_some(true),
        stream_options: (shape.stream && takes(Parameter::StreamOptions))
            .then_some(StreamOptions { include_usage: true }),
        ..Fields::default()
    }
}

/// Azure refuses what its filter does not like with a status; that is an answer: none.
fn withheld(error: ModelError) -> Result<Written, ModelError> {
    match &error {
        ModelError::Server(server)
            if server.status == 400 && server.code.as_deref() == Some("content_filter") =>
        {
            Ok(Written { any_choice: true, refused: true, ..Written::default() })
        }
        _ => Err(error),
    }
}

/// Messages for a server. Without a role for the system, what it says goes in front of the first user
/// message, an empty line between.
fn turns(messages: &[Message], system_role: SystemRole) -> Vec<Turn<'_>> {
    let mut waiting = String::new();
    let mut turns = Vec::with_capacity(messages.len());
    for message in messages {
        let content = message.content.as_str();
        match (message.role, system_role) {
            (Role::System, SystemRole::User) => {
                waiting.push_str(content);
                waiting.push_str("\n\n");
            }
            (Role::System, SystemRole::System) => turns.push(turn("system", content)),
            (Role::System, SystemRole::Developer) => turns.push(turn("developer", content)),
            (Role::User, _) if !waiting.is_empty() => {
                waiting.push_str(content);
                turns.push(Turn { role: "user", content: Cow::Owned(std::mem::take(&mut waiting)) });
            }
            (Role::User, _) => turns.push(turn("user", content)),
            (Role::Assistant, _) => turns.push(turn("assistant", content)),
        }
    }
    if !waiting.is_empty() {
        turns.push(Turn { role: "user", content: Cow::Owned(waiting.trim_end().to_owned()) });
    }
    turns
}

fn turn<'a>(role: &'static str, content: &'a str) -> Turn<'a> {
    Turn { role, content: Cow::Borrowed(content) }
}

/// The fields of a shape that answers depend on, for the model's identity.
pub(super) fn identity(shape: &Shape) -> Value {
    json!({
        "system_role": shape.system_role,
        "omit": shape.omit.iter().filter(|p| **p != Parameter::StreamOptions).collect::<Vec<_>>(),
        "think_tags": shape.think_tags,
        "reasoning": shape.reasoning,
        "body": shape.body,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(role: Role, content: &str) -> Message {
        Message { role, content: content.to_owned() }
    }

    #[test]
    fn system_messages_go_where_the_server_takes_them() {
        let messages = [
            message(Role::System, "Be brief."),
            message(Role::User, "Q1"),
            message(Role::Assistant, "A1"),
            message(Role::User, "Q2"),
        ];
        let shown = |role| {
            let turns = turns(&messages, role);
            turns.iter().map(|t| format!("{}:{}", t.role, t.content)).collect::<Vec<_>>().join("|")
        };
        assert_eq!(shown(SystemRole::System), "system:Be brief.|user:Q1|assistant:A1|user:Q2");
        assert_eq!(shown(SystemRole::Developer), "developer:Be brief.|user:Q1|assistant:A1|user:Q2");
        assert_eq!(shown(SystemRole::User), "user:Be brief.\n\nQ1|assistant:A1|user:Q2");
        let alone = [message(Role::System, "Be brief.")];
        assert_eq!(turns(&alone, SystemRole::User)[0].content, "Be brief.");
    }
}
