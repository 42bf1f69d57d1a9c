use serde_json::{Map, Value, json};

use super::answer::{Scored, Text, score, words, write, written_logprob};
use super::ask::{Ask, Refusal};
use super::behaviour::{Behaviour, Reasoning};
use super::form::Form;
use super::route::Route;

/// Answers do not depend on the clock.
const CREATED: u64 = 1_700_000_000;

/// An answer to a chat or a completion, before it is written as one document or as events.
#[derive(Clone, Debug)]
pub(super) struct Completion {
    chat: bool,
    model: String,
    reasoning: Reasoning,
    pub(super) choices: Vec<Choice>,
    usage: Option<Value>,
    usage_event: bool,
    /// The content of the first choice is null.
    pub(super) null_content: bool,
    /// The text of a chat is the model's refusal, and its content is null.
    pub(super) declined: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Choice {
    index: usize,
    text: Text,
    /// The prompt, where it is echoed.
    echo: Option<String>,
    logprobs: Option<Value>,
}

impl Completion {
    pub(super) fn of(route: Route, ask: &Ask, behaviour: &Behaviour, attempt: u32) -> Result<Self, Refusal> {
        let sampling = ask.sampling(route, behaviour);
        let prompts = match route {
            Route::Chat => vec![ask.text(behaviour)],
            _ => ask.texts(route)?,
        };
        let form = ask.form(behaviour).filter(|_| ask.wants_alternatives());
        let mut choices = Vec::new();
        for prompt in &prompts {
            for draw in 0..ask.choices(behaviour) {
                let text = write(behaviour, prompt, &sampling, draw, attempt);
                let echo = (route == Route::Completions && ask.echoes(behaviour)).then(|| prompt.clone());
                let logprobs = ask.wants_logprobs(behaviour).then(|| match route {
                    Route::Chat => chat_logprobs(&text, form.as_ref()),
                    _ => completion_logprobs(behaviour, echo.as_deref(), &text),
                });
                choices.push(Choice { index: choices.len(), text, echo, logprobs });
            }
        }
        let read = prompts.iter().map(|prompt| words(prompt)).sum();
        Ok(Self {
            chat: route == Route::Chat,
            model: ask.model.clone().unwrap_or_default(),
            reasoning: behaviour.capabilities.reasoning,
            usage: behaviour.capabilities.usage.then(|| usage(behaviour, read, &choices)),
            choices,
            usage_event: ask.wants_usage_event(behaviour),
            null_content: false,
            declined: false,
        })
    }

    pub(super) fn finish_with(&mut self, reason: &'static str) {
        for choice in &mut self.choices {
            choice.text.finish = reason;
        }
    }

    pub(super) fn count_as(&mut self, usage: Value) {
        self.usage = Some(usage);
    }

    fn envelope(&self, object: &str, choices: Vec<Value>) -> Map<String, Value> {
        let id = if self.chat { "chatcmpl-scripted" } else { "cmpl-scripted" };
        let mut map = Map::new();
        map.insert("id".to_owned(), json!(id));
        map.insert("object".to_owned(), json!(object));
        map.insert("created".to_owned(), json!(CREATED));
        map.insert("model".to_owned(), json!(self.model));
        map.insert("choices".to_owned(), Value::Array(choices));
        map
    }

    /// One JSON document.
    pub(super) fn document(&self) -> String {
        let choices = self.choices.iter().map(|choice| self.whole(choice)).collect();
        let object = if self.chat { "chat.completion" } else { "text_completion" };
        let mut document = self.envelope(object, choices);
        if let Some(usage) = &self.usage {
            document.insert("usage".to_owned(), usage.clone());
        }
        Value::Object(document).to_string()
    }

    fn whole(&self, choice: &Choice) -> Value {
        let content = format!("{}{}", choice.echo.as_deref().unwrap_or_default(), choice.text.content);
        let content = if self.null_content { Value::Null } else { json!(content) };
        let mut whole = json!({"index": choice.index, "finish_reason": choice.text.finish});
        whole["logprobs"] = choice.logprobs.clone().unwrap_or_default();
        if self.chat {
            whole["message"] = match self.declined {
                true => json!({"role": "assistant", "content": null, "refusal": content}),
                false => json!({"role": "assistant", "content": content}),
            };
            if let Some((field, thoughts)) = self.thoughts(choice) {
                whole["message"][field] = json!(thoughts);
            }
        } else {
            whole["text"] = content;
        }
        whole
    }

    fn thoughts<'a>(&self, choice: &'a Choice) -> Option<(&'static str, &'a str)> {
        let field = match self.reasoning {
            Reasoning::ReasoningContent => "reasoning_content",
            Reasoning::Reasoning => "reasoning",
            Reasoning::None | Reasoning::Inline | Reasoning::Hidden => return None,
        };
        choice.text.reasoning.as_deref().map(|thoughts| (field, thoughts))
    }

    /// The events of a stream, without `[DONE]`.
    pub(super) fn events(&self) -> Vec<String> {
        let mut events = Vec::new();
        for choice in &self.choices {
            let mut send = |delta: Value, finish: Option<&str>| {
                events.push(self.event(choice, delta, finish));
            };
            if self.chat {
                send(json!({"role": "assistant", "content": ""}), None);
            }
            if let Some((field, thoughts)) = self.thoughts(choice) {
                for piece in thoughts.split_inclusive(char::is_whitespace) {
                    send(json!({field: piece}), None);
                }
            }
            for piece in choice.echo.as_deref().into_iter().chain(choice.text.pieces()) {
                send(json!({(if self.declined { "refusal" } else { "content" }): piece}), None);
            }
            send(json!({}), Some(choice.text.finish));
        }
        if let Some(usage) = self.usage.as_ref().filter(|_| self.usage_event) {
            let mut last = self.envelope(self.chunk(), Vec::new());
            last.insert("usage".to_owned(), usage.clone());
            events.push(Value::Object(last).to_string());
        }
        events
    }

    fn chunk(&self) -> &'static str {
        if self.chat { "chat.completion.chunk" } else { "text_completion" }
    }

    fn event(&self, choice: &Choice, delta: Value, finish: Option<&str>) -> String {
        let mut event = json!({"index": choice.index, "finish_reason": finish});
        // All of them with the last event: a client has to gather them anyway.
        event["logprobs"] = choice.logprobs.clone().filter(|_| finish.is_some()).unwrap_or_default();
        if self.chat {
            event["delta"] = delta;
        } else {
            event["text"] = delta.get("content").cloned().unwrap_or_else(|| json!(""));
        }
        Value::Object(self.envelope(self.chunk(), vec![event])).to_string()
    }
}

fn usage(behaviour: &Behaviour, read: u64, choices: &[Choice]) -> Value {
    let written: u64 = choices.iter().map(|choice| choice.text.tokens).sum();
    let mut usage =
        json!({"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written});
    let cached = (read as f64 * behaviour.capabilities.cached_share) as u64;
    if cached > 0 {
        usage["prompt_tokens_details"] = json!({"cached_tokens": cached});
    }
    let thought: u64 = choices.iter().map(|choice| choice.text.reasoning_tokens).sum();
    if thought > 0 {
        usage["completion_tokens_details"] = json!({"reasoning_tokens": thought});
    }
    usage
}

fn chat_logprobs(text: &Text, form: Option<&Form>) -> Value {
    let said =
        |piece: &str, logprob: f64| json!({"token": piece, "logprob": logprob, "bytes": piece.as_bytes()});
    let token = |piece: &str| {
        let alternatives = form.map(|form| form.alternatives(piece)).unwrap_or_default();
        let top: Vec<Value> = alternatives.iter().map(|(text, p)| said(text, p.ln())).collect();
        let itself =
            said(piece, alternatives.first().map_or_else(|| written_logprob(piece), |(_, p)| p.ln()));
        let mut token = itself.clone();
        token["top_logprobs"] = if top.is_empty() { json!([itself]) } else { json!(top) };
        token
    };
    json!({"content": text.pieces().map(token).collect::<Vec<_>>(), "refusal": null})
}

fn completion_logprobs(behaviour: &Behaviour, echo: Option<&str>, text: &Text) -> Value {
    let mut tokens = echo.map(|prompt| score(behaviour, prompt)).unwrap_or_default();
    let mut offset = echo.map_or(0, |prompt| prompt.chars().count());
    for piece in text.pieces() {
        tokens.push(Scored { token: piece.to_owned(), logprob: Some(written_logprob(piece)), offset });
        offset += piece.chars().count();
    }
    json!({
        "tokens": tokens.iter().map(|token| token.token.as_str()).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(Scored::top).collect::<Vec<_>>(),
        "text_offset": tokens.iter().map(|token| token.offset).collect::<Vec<_>>(),
    })
}
