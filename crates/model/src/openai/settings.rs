use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::server::{ServerKind, TokenLimit};
use crate::error::ModelError;

/// What one model on one server needs, in a file named by `--model-settings`. YAML (and so JSON); every
/// field is optional, and what is absent comes from the server's preset or is found out by asking:
///
/// ```yaml
/// server: vllm                  # openai, azure, openrouter, vllm, sglang, tgi, ollama, llama.cpp, other
/// base_url: http://gpu-box:8000/v1
/// model: Qwen/Qwen3-8B          # as the server knows it, if not as after `openai/`
/// api_key_env: GPU_BOX_KEY      # the variable with the key; never the key itself
/// organization: org-1           # OPENAI_ORG_ID
/// project: proj-1               # OPENAI_PROJECT_ID
/// headers: {x-title: evalign}
/// header_env: {x-secret: GPU_BOX_SECRET}
/// query: {api-version: 2024-10-21}
/// context_length: 32768
/// max_tokens_field: max_completion_tokens
/// max_stop_strings: 4
/// system_role: developer        # system, developer, or user: in front of the first user message
/// omit: [temperature, seed]     # fields the server does not take
/// reasoning: true               # it thinks before it answers
/// think_tags: ["<think>", "</think>"]
/// stream: true                  # needed for the time to the first token
/// log_likelihood: false         # do not even try
/// body: {reasoning_effort: low} # sent with every request
/// connect_timeout_secs: 10
/// idle_timeout_secs: 300        # longest wait for the next piece of an answer
/// total_timeout_secs: 1200      # longest time for one request
/// ```
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ModelSettings {
    pub server: Option<ServerKind>,
    pub base_url: Option<String>,
    pub model: Option<String>,
    pub api_key_env: Option<String>,
    pub organization: Option<String>,
    pub project: Option<String>,
    pub headers: BTreeMap<String, String>,
    /// Headers whose values are in variables of the environment.
    pub header_env: BTreeMap<String, String>,
    pub query: BTreeMap<String, String>,
    pub context_length: Option<usize>,
    pub max_tokens_field: Option<TokenLimit>,
    pub max_stop_strings: Option<usize>,
    pub system_role: Option<SystemRole>,
    pub omit: BTreeSet<Parameter>,
    pub reasoning: Option<bool>,
    pub think_tags: Option<[String; 2]>,
    pub stream: Option<bool>,
    pub log_likelihood: Option<bool>,
    pub body: Map<String, Value>,
    pub connect_timeout_secs: Option<f64>,
    pub idle_timeout_secs: Option<f64>,
    pub total_timeout_secs: Option<f64>,
}

/// Where a system message goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SystemRole {
    #[default]
    System,
    Developer,
    /// In front of the first user message, for models whose template has no system role.
    User,
}

/// Fields of a request that some servers refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Parameter {
    Temperature,
    TopP,
    Seed,
    Stop,
    Logprobs,
    StreamOptions,
    ResponseFormat,
}

impl Parameter {
    pub(super) const ALL: [Self; 7] = [
        Self::Temperature,
        Self::TopP,
        Self::Seed,
        Self::Stop,
        Self::Logprobs,
        Self::StreamOptions,
        Self::ResponseFormat,
    ];

    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Temperature => "temperature",
            Self::TopP => "top_p",
            Self::Seed => "seed",
            Self::Stop => "stop",
            Self::Logprobs => "logprobs",
            Self::StreamOptions => "stream_options",
            Self::ResponseFormat => "response_format",
        }
    }
}

/// What evalign itself writes into requests, and `body` may not.
const OWN_FIELDS: [&str; 25] = [
    "model",
    "messages",
    "prompt",
    "max_tokens",
    "max_completion_tokens",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "repeat_penalty",
    "stop",
    "seed",
    "logprobs",
    "top_logprobs",
    "echo",
    "n",
    "stream",
    "stream_options",
    "response_format",
    "input",
    "dimensions",
    "encoding_format",
    "continue_final_message",
    "add_generation_prompt",
];

impl ModelSettings {
    /// Reads a file.
    ///
    /// # Errors
    /// [`ModelError::Settings`] with line and field: a file that cannot be read, an unknown field, a
    /// value that makes no sense.
    pub fn read(path: &Path) -> Result<Self, ModelError> {
        let fail = |detail: String| ModelError::Settings { path: path.to_owned(), detail };
        let text = fs_err::read_to_string(path).map_err(|error| fail(error.kind().to_string()))?;
        // An empty file says nothing, which is allowed.
        if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
            return Ok(Self::default());
        }
        let settings: Self =
            serde_saphyr::from_str(&text).map_err(|error| fail(yaml_error(&error, &text)))?;
        match settings.nonsense() {
            None => Ok(settings),
            Some((field, what)) => {
                let line = line_of(&text, field).map(|line| format!("line {line}: ")).unwrap_or_default();
                Err(fail(format!("{line}field `{field}`: {what}")))
            }
        }
    }

    /// The first field with a value that no server can mean.
    fn nonsense(&self) -> Option<(&'static str, String)> {
        let timeouts = [
            ("connect_timeout_secs", self.connect_timeout_secs),
            ("idle_timeout_secs", self.idle_timeout_secs),
            ("total_timeout_secs", self.total_timeout_secs),
        ];
        let too_short = |value: f64| !(value > 0.0 && value <= 1e6);
        for (field, value) in timeouts {
            if let Some(value) = value.filter(|value| too_short(*value)) {
                return Some((field, format!("{value} is not a time in seconds")));
            }
        }
        if self.context_length == Some(0) {
            return Some(("context_length", "a model without context cannot be asked".to_owned()));
        }
        if self.model.as_deref().is_some_and(|name| name.trim().is_empty()) {
            return Some(("model", "the name is empty".to_owned()));
        }
        if self.think_tags.as_ref().is_some_and(|tags| tags.iter().any(String::is_empty)) {
            return Some(("think_tags", "a tag is empty".to_owned()));
        }
        if let Some(key) = self.api_key_env.as_deref().filter(|name| !is_variable(name)) {
            // Whoever pastes the key itself here must not read it in a log.
            let what = format!("this is no name of a variable ({} characters)", key.chars().count());
            return Some(("api_key_env", what));
        }
        if let Some((header, _)) = self.header_env.iter().find(|(_, name)| !is_variable(name)) {
            return Some(("header_env", format!("`{header}` names no variable")));
        }
        let own = OWN_FIELDS.iter().find(|field| self.body.contains_key(**field));
        own.map(|field| ("body", format!("`{field}` is evalign's own to set; it has an option or a field")))
    }
}

fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn yaml_error(error: &serde_saphyr::Error, text: &str) -> String {
    let plain = error.without_snippet();
    let message = plain.to_string();
    let Some(at) = plain.location() else { return message };
    let field =
        text.lines().nth((at.line() as usize).saturating_sub(1)).and_then(|line| line.split_once(':'));
    let field = field.map(|(field, _)| field.trim().trim_matches(['"', '\'', '-', ' ']).to_owned());
    let named = field.as_ref().is_none_or(|field| message.contains(&format!("`{field}`")));
    match field {
        Some(field) if !named => format!("line {}: field `{field}`: {message}", at.line()),
        _ => format!("line {}: {message}", at.line()),
    }
}

fn line_of(text: &str, field: &str) -> Option<usize> {
    let starts = |line: &str| {
        let line = line.trim_start_matches(['{', ' ', '"', '\'']);
        line.strip_prefix(field)
            .is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
    };
    text.lines().position(starts).map(|line| line + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ModelSettings, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.yaml");
        fs_err::write(&path, text).unwrap();
        ModelSettings::read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn all_fields_are_read() {
        let settings = read(
            "# a comment\nserver: llama.cpp\nbase_url: http://h:1/v1\nmodel: a/b\napi_key_env: MY_KEY\n\
             organization: o\nproject: p\nheaders: {x-title: t}\nheader_env: {x-s: S}\nquery: {api-version: v}\n\
             context_length: 4096\nmax_tokens_field: max_completion_tokens\nmax_stop_strings: 2\n\
             system_role: developer\nomit: [temperature, seed]\nreasoning: true\nthink_tags: ['<a>', '</a>']\n\
             stream: true\nlog_likelihood: false\nbody: {reasoning_effort: low, deep: {x: [1, 2.5, null]}}\n\
             connect_timeout_secs: 1\nidle_timeout_secs: 2.5\ntotal_timeout_secs: 3\n",
        )
        .unwrap();
        assert_eq!(settings.server, Some(ServerKind::LlamaCpp));
        assert_eq!(settings.omit, BTreeSet::from([Parameter::Temperature, Parameter::Seed]));
        assert_eq!(settings.body["deep"], serde_json::json!({"x": [1, 2.5, null]}));
        assert_eq!(settings.idle_timeout_secs, Some(2.5));
        assert_eq!(read("\n# nothing\n").unwrap(), ModelSettings::default());
        assert_eq!(read("{\"server\": \"vllm\"}").unwrap().server, Some(ServerKind::Vllm));
    }

    #[test]
    fn errors_name_line_and_field() {
        for (text, parts) in [
            ("server: vllm\nbase_ulr: x\n", ["line 2", "base_ulr"]),
            ("\nserver: vvlm\n", ["line 2", "vvlm"]),
            ("stream: 1\ncontext_length: long\n", ["line", "stream"]),
            ("stream: true\nidle_timeout_secs: 0\n", ["line 2", "idle_timeout_secs"]),
            ("context_length: 0", ["line 1", "context_length"]),
            ("body:\n  temperature: 1\n", ["line 1", "temperature"]),
            ("body: {add_generation_prompt: false}\n", ["line 1", "add_generation_prompt"]),
            ("think_tags: ['<t>']\n", ["line 1", "think_tags"]),
            ("[1, 2]\n", ["line 1", ""]),
        ] {
            let error = read(text).unwrap_err();
            assert!(parts.iter().all(|part| error.contains(part)), "{text:?}: {error}");
        }
    }

    #[test]
    fn a_key_in_the_wrong_place_is_not_repeated() {
        let error = read("api_key_env: sk-canary-1234\n").unwrap_err();
        assert!(error.contains("api_key_env") && !error.contains("canary"), "{error}");
    }
}
