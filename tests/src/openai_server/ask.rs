use serde::Deserialize;
use serde_json::Value;

use super::answer::Sampling;
use super::behaviour::{Behaviour, MaxTokens, Support};
use super::form::Form;
use super::route::Route;

/// Why a request is refused with 400 or 404.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) code: &'static str,
    pub(super) param: Option<&'static str>,
    pub(super) message: String,
}

impl Refusal {
    fn new(code: &'static str, param: &'static str, message: impl Into<String>) -> Self {
        Self { status: 400, code, param: Some(param), message: message.into() }
    }

    fn unsupported(param: &'static str) -> Self {
        Self::new(
            "unsupported_parameter",
            param,
            format!("Unsupported parameter: '{param}' is not supported with this model."),
        )
    }
}

/// Everything a request may say that the server looks at; the rest is ignored.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ask {
    pub(super) model: Option<String>,
    pub(super) messages: Option<Vec<Message>>,
    pub(super) prompt: Option<OneOrMany>,
    pub(super) input: Option<OneOrMany>,
    pub(super) dimensions: Option<usize>,
    max_tokens: Option<u64>,
    max_completion_tokens: Option<u64>,
    temperature: Option<f64>,
    seed: Option<i64>,
    stop: Option<OneOrMany>,
    n: Option<usize>,
    /// A number for completions, true or false for chats.
    logprobs: Option<Value>,
    top_logprobs: Option<u64>,
    pub(super) echo: bool,
    pub(super) stream: bool,
    stream_options: Option<StreamOptions>,
    top_p: Option<f64>,
    response_format: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(super) struct Message {
    role: String,
    content: Option<Content>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum Content {
    Text(String),
    Parts(Vec<Part>),
}

#[derive(Clone, Debug, Deserialize)]
struct Part {
    #[serde(default)]
    text: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
    /// Token ids, which this server has none of.
    Other(Value),
}

impl OneOrMany {
    fn list(&self) -> Result<Vec<String>, Refusal> {
        match self {
            Self::One(one) => Ok(vec![one.clone()]),
            Self::Many(many) => Ok(many.clone()),
            Self::Other(other) => {
                let said = format!("This server takes texts, not token ids: {other}");
                Err(Refusal::new("invalid_type", "prompt", said))
            }
        }
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct StreamOptions {
    include_usage: bool,
}

impl Ask {
    pub(super) fn parse(body: &[u8]) -> Result<Self, Refusal> {
        serde_json::from_slice(body).map_err(|error| Refusal {
            status: 400,
            code: "invalid_json",
            param: None,
            message: format!("We could not parse the JSON body of your request: {error}"),
        })
    }

    /// What is to be answered, as one text: for rules, hashes and records.
    pub(super) fn text(&self, behaviour: &Behaviour) -> String {
        let join = |texts: &Option<OneOrMany>| {
            texts.as_ref().and_then(|texts| texts.list().ok()).map(|texts| texts.join("\n"))
        };
        self.messages
            .as_ref()
            .map(|messages| conversation(messages, behaviour))
            .or_else(|| join(&self.prompt))
            .or_else(|| join(&self.input))
            .unwrap_or_default()
    }

    /// The prompts of a completion, or the texts to embed.
    pub(super) fn texts(&self, route: Route) -> Result<Vec<String>, Refusal> {
        let (field, texts) = match route {
            Route::Embeddings => ("input", &self.input),
            _ => ("prompt", &self.prompt),
        };
        let missing = || Refusal::new("missing_required_parameter", field, format!("Missing '{field}'."));
        texts.as_ref().ok_or_else(missing)?.list()
    }

    pub(super) fn choices(&self, behaviour: &Behaviour) -> usize {
        match behaviour.capabilities.n {
            Support::Yes => self.n.unwrap_or(1).clamp(1, 128),
            Support::Ignored | Support::Refused => 1,
        }
    }

    pub(super) fn wants_logprobs(&self, behaviour: &Behaviour) -> bool {
        behaviour.capabilities.logprobs == Support::Yes && self.asks_for_logprobs()
    }

    pub(super) fn wants_usage_event(&self, behaviour: &Behaviour) -> bool {
        behaviour.capabilities.stream_options == Support::Yes
            && self.stream_options.as_ref().is_some_and(|options| options.include_usage)
    }

    pub(super) fn echoes(&self, behaviour: &Behaviour) -> bool {
        self.echo && behaviour.capabilities.echo == Support::Yes
    }

    fn asks_for_logprobs(&self) -> bool {
        match &self.logprobs {
            Some(Value::Bool(wanted)) => *wanted,
            Some(Value::Number(_)) => true,
            _ => false,
        }
    }

    pub(super) fn sampling(&self, route: Route, behaviour: &Behaviour) -> Sampling {
        let can = &behaviour.capabilities;
        let temperature = match can.temperature {
            Support::Yes => self.temperature.unwrap_or(1.0),
            Support::Ignored | Support::Refused => 1.0,
        };
        // The old endpoint's default.
        let default = (route == Route::Completions).then_some(16);
        Sampling {
            max_tokens: self.max_completion_tokens.or(self.max_tokens).or(default),
            temperature,
            seed: self.seed,
            stop: if can.stop == Support::Yes { self.stops() } else { Vec::new() },
            form: self.form(behaviour),
        }
    }

    /// The form that the answer is held to.
    pub(super) fn form(&self, behaviour: &Behaviour) -> Option<Form> {
        let held = behaviour.capabilities.response_format == Support::Yes;
        self.response_format.as_ref().filter(|_| held).and_then(Form::of)
    }

    pub(super) fn wants_alternatives(&self) -> bool {
        self.top_logprobs.is_some_and(|count| count > 0)
    }

    fn stops(&self) -> Vec<String> {
        self.stop.as_ref().and_then(|stop| stop.list().ok()).unwrap_or_default()
    }

    /// Refuses what this server cannot do, in the words of those that cannot do it.
    pub(super) fn check(&self, route: Route, behaviour: &Behaviour) -> Result<(), Refusal> {
        let can = &behaviour.capabilities;
        let model = self.model.as_deref().unwrap_or_default();
        if !behaviour.models.iter().any(|known| known == model) {
            return Err(Refusal {
                status: 404,
                code: "model_not_found",
                param: None,
                message: format!("The model `{model}` does not exist or you do not have access to it."),
            });
        }
        if route == Route::Chat && self.messages.is_none() {
            return Err(Refusal::new("missing_required_parameter", "messages", "Missing 'messages'."));
        }
        if can.logprobs == Support::Refused && self.asks_for_logprobs() {
            return Err(Refusal::unsupported("logprobs"));
        }
        if self.top_logprobs.is_some() && !self.asks_for_logprobs() {
            let said = "'top_logprobs' needs 'logprobs' to be true.";
            return Err(Refusal::new("invalid_value", "top_logprobs", said));
        }
        if can.echo == Support::Refused && self.echo {
            return Err(Refusal::unsupported("echo"));
        }
        let fields = [
            ("seed", can.seed, self.seed.is_some()),
            ("stop", can.stop, self.stop.is_some()),
            ("top_p", can.top_p, self.top_p.is_some()),
            ("response_format", can.response_format, self.response_format.is_some()),
            ("stream", can.stream, self.stream),
            ("stream_options", can.stream_options, self.stream_options.is_some()),
        ];
        if let Some((field, ..)) = fields.into_iter().find(|(_, can, sent)| *can == Support::Refused && *sent)
        {
            return Err(Refusal::unsupported(field));
        }
        if let (Some(OneOrMany::Many(prompts)), false) = (&self.prompt, can.many_prompts)
            && prompts.len() > 1
        {
            return Err(Refusal::new("invalid_type", "prompt", "Only one prompt is allowed in a request."));
        }
        if can.n == Support::Refused && self.n.is_some_and(|n| n > 1) {
            return Err(Refusal::new("invalid_value", "n", "Only one completion choice is allowed."));
        }
        let systems = self.messages.iter().flatten().any(|m| m.role == "system" || m.role == "developer");
        if can.system_role == Support::Refused && systems {
            return Err(Refusal::new("invalid_value", "messages", "System role not supported"));
        }
        self.check_numbers(behaviour)
    }

    fn check_numbers(&self, behaviour: &Behaviour) -> Result<(), Refusal> {
        let can = &behaviour.capabilities;
        if can.temperature == Support::Refused && self.temperature.is_some_and(|t| t != 1.0) {
            let said = "Unsupported value: 'temperature' does not support this value with this model. Only the default (1) value is supported.";
            return Err(Refusal::new("unsupported_value", "temperature", said));
        }
        if can.max_tokens == MaxTokens::MaxCompletionTokens && self.max_tokens.is_some() {
            let said = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.";
            return Err(Refusal::new("unsupported_parameter", "max_tokens", said));
        }
        if can.max_tokens == MaxTokens::MaxTokens && self.max_completion_tokens.is_some() {
            let said = "Unrecognized request argument supplied: max_completion_tokens";
            return Err(Refusal::new("unknown_parameter", "max_completion_tokens", said));
        }
        let stops = self.stops().len();
        match can.max_stops {
            Some(most) if stops > most => {
                let said = format!("Invalid 'stop': at most {most} stop sequences, got {stops}.");
                Err(Refusal::new("array_above_max_length", "stop", said))
            }
            _ => Ok(()),
        }
    }
}

fn conversation(messages: &[Message], behaviour: &Behaviour) -> String {
    let heard = messages
        .iter()
        .filter(|message| message.role != "system" || behaviour.capabilities.system_role != Support::Ignored);
    let texts: Vec<String> = heard
        .map(|message| match &message.content {
            Some(Content::Text(text)) => text.clone(),
            Some(Content::Parts(parts)) => parts.iter().map(|part| part.text.as_str()).collect(),
            None => String::new(),
        })
        .collect();
    texts.join("\n")
}
