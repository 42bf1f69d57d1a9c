use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The software or service behind an address: what is known of it without asking. `--server NAME` or
/// `server: NAME` in a settings file names it; without it, `other` is assumed of any address but
/// OpenAI's own, and what it can do is found out by asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServerKind {
    Openai,
    Azure,
    Openrouter,
    Vllm,
    Sglang,
    Tgi,
    Ollama,
    #[serde(rename = "llama.cpp")]
    LlamaCpp,
    Other,
}

/// What a request limits its answer with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TokenLimit {
    MaxTokens,
    MaxCompletionTokens,
}

impl TokenLimit {
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::MaxTokens => Self::MaxCompletionTokens,
            Self::MaxCompletionTokens => Self::MaxTokens,
        }
    }
}

/// Fields beyond OpenAI's own that a server is documented to take. Sending one to a server that ignores
/// it would change what is measured without a word.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct Extensions {
    pub(super) top_k: bool,
    pub(super) min_p: bool,
    /// What it calls the penalty of Keskar et al.
    pub(super) repetition_penalty: Option<&'static str>,
    /// Goes on writing a last message of the assistant.
    pub(super) continues: Continues,
}

/// How a begun answer is continued in a chat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) enum Continues {
    #[default]
    No,
    /// With `continue_final_message: true` and `add_generation_prompt: false`.
    WhenAsked,
    /// Always, when the last message is the assistant's.
    Always,
}

/// One line of the table of servers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Preset {
    pub(super) kind: ServerKind,
    pub(super) name: &'static str,
    /// Where it listens when nobody says otherwise.
    pub(super) base_url: Option<&'static str>,
    /// A variable that holds the address instead, and what follows it.
    pub(super) base_url_env: Option<(&'static str, &'static str)>,
    /// Variables that may hold the key; the first that is set counts.
    pub(super) key_env: &'static [&'static str],
    /// Header and prefix of the key.
    pub(super) key_header: (&'static str, &'static str),
    /// Somebody else's service: OPENAI_BASE_URL does not move it and OPENAI_API_KEY does not go there.
    pub(super) hosted: bool,
    pub(super) limit: TokenLimit,
    /// Most stop strings in a request; the answer is cut at the others here.
    pub(super) stop_strings: usize,
    pub(super) extensions: Extensions,
}

const BEARER: (&str, &str) = ("authorization", "Bearer ");
const NONE: Extensions =
    Extensions { top_k: false, min_p: false, repetition_penalty: None, continues: Continues::No };
const OPEN_SOURCE: Extensions = Extensions {
    top_k: true,
    min_p: true,
    repetition_penalty: Some("repetition_penalty"),
    continues: Continues::WhenAsked,
};

const OTHER: Preset = Preset {
    kind: ServerKind::Other,
    name: "other",
    base_url: None,
    base_url_env: None,
    key_env: &["OPENAI_API_KEY"],
    key_header: BEARER,
    hosted: false,
    limit: TokenLimit::MaxTokens,
    // OpenAI's limit, which many copy.
    stop_strings: 4,
    extensions: NONE,
};

const PRESETS: [Preset; 9] = [
    Preset {
        kind: ServerKind::Openai,
        name: "openai",
        base_url: Some("https://api.openai.com/v1"),
        limit: TokenLimit::MaxCompletionTokens,
        ..OTHER
    },
    Preset {
        kind: ServerKind::Azure,
        name: "azure",
        base_url_env: Some(("AZURE_OPENAI_ENDPOINT", "/openai/v1")),
        key_env: &["AZURE_OPENAI_API_KEY"],
        key_header: ("api-key", ""),
        hosted: true,
        limit: TokenLimit::MaxCompletionTokens,
        ..OTHER
    },
    Preset {
        kind: ServerKind::Openrouter,
        name: "openrouter",
        base_url: Some("https://openrouter.ai/api/v1"),
        key_env: &["OPENROUTER_API_KEY"],
        hosted: true,
        extensions: Extensions { continues: Continues::Always, ..OPEN_SOURCE },
        ..OTHER
    },
    Preset {
        kind: ServerKind::Vllm,
        name: "vllm",
        base_url: Some("http://localhost:8000/v1"),
        key_env: &["VLLM_API_KEY", "OPENAI_API_KEY"],
        stop_strings: usize::MAX,
        extensions: OPEN_SOURCE,
        ..OTHER
    },
    Preset {
        kind: ServerKind::Sglang,
        name: "sglang",
        base_url: Some("http://localhost:30000/v1"),
        stop_strings: usize::MAX,
        extensions: OPEN_SOURCE,
        ..OTHER
    },
    Preset { kind: ServerKind::Tgi, name: "tgi", base_url: Some("http://localhost:8080/v1"), ..OTHER },
    Preset {
        kind: ServerKind::Ollama,
        name: "ollama",
        base_url: Some("http://localhost:11434/v1"),
        base_url_env: None,
        stop_strings: usize::MAX,
        ..OTHER
    },
    Preset {
        kind: ServerKind::LlamaCpp,
        name: "llama.cpp",
        base_url: Some("http://localhost:8080/v1"),
        stop_strings: usize::MAX,
        extensions: Extensions {
            repetition_penalty: Some("repeat_penalty"),
            continues: Continues::Always,
            ..OPEN_SOURCE
        },
        ..OTHER
    },
    OTHER,
];

impl ServerKind {
    pub const NAMES: [&'static str; 9] =
        ["openai", "azure", "openrouter", "vllm", "sglang", "tgi", "ollama", "llama.cpp", "other"];

    pub(super) fn preset(self) -> &'static Preset {
        PRESETS.iter().find(|preset| preset.kind == self).unwrap_or(&PRESETS[8])
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        self.preset().name
    }

    /// What `owned_by` in a list of models gives away.
    pub(super) fn of_owner(owner: &str) -> Option<Self> {
        match owner {
            "vllm" => Some(Self::Vllm),
            "sglang" => Some(Self::Sglang),
            // llama.cpp's own server, and llama-cpp-python's.
            "llamacpp" | "me" => Some(Self::LlamaCpp),
            _ => None,
        }
    }

    /// The address a run uses when none is given: `OPENAI_BASE_URL`, except where the server is a hosted
    /// service of another company, which has its own. Kept with the run, so that a resumed one goes to
    /// the same place.
    #[must_use]
    pub fn base_url_from_env(server: Option<Self>, env: impl Fn(&str) -> Option<String>) -> Option<String> {
        let preset = server.map(Self::preset);
        let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        if let Some((name, path)) = preset.and_then(|preset| preset.base_url_env)
            && let Some(address) = set(name)
        {
            return Some(format!("{}{path}", address.trim().trim_end_matches('/')));
        }
        if preset.is_some_and(|preset| preset.hosted) { None } else { set("OPENAI_BASE_URL") }
    }
}

impl FromStr for ServerKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let same = |preset: &&Preset| preset.name == text || preset.name.replace('.', "") == text;
        PRESETS
            .iter()
            .find(same)
            .map(|preset| preset.kind)
            .ok_or_else(|| format!("use one of {}", Self::NAMES.join(", ")))
    }
}

impl fmt::Display for ServerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_server_has_one_line_and_its_name_reads_back() {
        for (preset, name) in PRESETS.iter().zip(ServerKind::NAMES) {
            assert_eq!((preset.name, preset.kind.name()), (name, name));
            assert_eq!(name.parse(), Ok(preset.kind));
            assert_eq!(serde_json::to_value(preset.kind).unwrap(), name);
        }
        assert_eq!("llamacpp".parse(), Ok(ServerKind::LlamaCpp));
        assert!("vvlm".parse::<ServerKind>().unwrap_err().contains("vllm"));
    }

    #[test]
    fn addresses_of_the_environment() {
        let env = |name: &str| match name {
            "OPENAI_BASE_URL" => Some("http://gpu:8000/v1".to_owned()),
            "AZURE_OPENAI_ENDPOINT" => Some("https://x.openai.azure.com/".to_owned()),
            _ => None,
        };
        let of = |server| ServerKind::base_url_from_env(server, env);
        assert_eq!(of(None).as_deref(), Some("http://gpu:8000/v1"));
        assert_eq!(of(Some(ServerKind::Vllm)).as_deref(), Some("http://gpu:8000/v1"));
        assert_eq!(of(Some(ServerKind::Openrouter)), None);
        assert_eq!(of(Some(ServerKind::Azure)).as_deref(), Some("https://x.openai.azure.com/openai/v1"));
    }
}
