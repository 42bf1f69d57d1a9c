use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Hint;

/// Who runs the model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// The engine in this process (`lm`).
    Local,
    /// Any OpenAI-compatible server.
    Openai,
    /// Canned answers from a file, for tests.
    Scripted,
}

impl Provider {
    const ALL: [(&'static str, Self); 3] =
        [("local", Self::Local), ("openai", Self::Openai), ("scripted", Self::Scripted)];
}

/// A model as the user names it: `PROVIDER/NAME`, optionally with `+adapter=DIR`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ModelRef {
    pub provider: Provider,
    /// What follows the first slash: a path, `ORG/REPO[@REVISION]`, an alias or an API model name.
    pub name: String,
    /// Directory of a LoRA adapter to apply.
    pub adapter: Option<PathBuf>,
}

/// Why a model reference could not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ModelRefError {
    #[error("model reference `{0}` names no provider")]
    NoProvider(String),
    #[error("unknown provider `{provider}` in model reference `{reference}`")]
    UnknownProvider { provider: String, reference: String },
    #[error("model reference `{0}` names no model")]
    NoName(String),
    #[error("unknown option `+{option}` in model reference `{reference}`")]
    UnknownOption { option: String, reference: String },
}

impl Hint for ModelRefError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::UnknownOption { .. } => "the only option is `+adapter=DIR`".to_owned(),
            Self::NoProvider(name) => format!(
                "write PROVIDER/NAME, for example `local/{name}` for a file, a directory or a hub model"
            ),
            Self::UnknownProvider { .. } | Self::NoName(_) => {
                "write PROVIDER/NAME, for example `local/smollm2-135m-instruct`; providers are local, openai and scripted".to_owned()
            }
        })
    }
}

impl FromStr for ModelRef {
    type Err = ModelRefError;

    fn from_str(text: &str) -> Result<Self, ModelRefError> {
        let (provider, rest) =
            text.split_once('/').ok_or_else(|| ModelRefError::NoProvider(text.to_owned()))?;
        let provider = Provider::ALL
            .iter()
            .find(|(name, _)| *name == provider)
            .map(|(_, provider)| *provider)
            .ok_or_else(|| ModelRefError::UnknownProvider {
                provider: provider.to_owned(),
                reference: text.to_owned(),
            })?;
        let (name, adapter) = match rest.split_once("+adapter=") {
            Some((name, dir)) if !dir.is_empty() => (name, Some(PathBuf::from(dir))),
            Some(_) => {
                return Err(ModelRefError::UnknownOption {
                    option: "adapter=".to_owned(),
                    reference: text.to_owned(),
                });
            }
            None => (rest, None),
        };
        if name.is_empty() {
            return Err(ModelRefError::NoName(text.to_owned()));
        }
        Ok(Self { provider, name: name.to_owned(), adapter })
    }
}

impl fmt::Display for ModelRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let provider = Provider::ALL.iter().find(|(_, p)| *p == self.provider).map_or("", |(n, _)| n);
        write!(f, "{provider}/{}", self.name)?;
        if let Some(adapter) = &self.adapter {
            write!(f, "+adapter={}", adapter.display())?;
        }
        Ok(())
    }
}

impl Serialize for ModelRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ModelRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for text in [
            "local/smollm2-135m-instruct",
            "local//abs/m.gguf",
            "openai/gpt-4o-mini",
            "local/a/b@main+adapter=/x/y",
        ] {
            let parsed: ModelRef = text.parse().unwrap();
            assert_eq!(parsed.to_string(), text);
        }
    }

    #[test]
    fn bad_references_are_named() {
        assert!(matches!("gpt2".parse::<ModelRef>(), Err(ModelRefError::NoProvider(_))));
        assert!(matches!("hf/gpt2".parse::<ModelRef>(), Err(ModelRefError::UnknownProvider { .. })));
        assert!(matches!("local/".parse::<ModelRef>(), Err(ModelRefError::NoName(_))));
        assert!(matches!("local/x+adapter=".parse::<ModelRef>(), Err(ModelRefError::UnknownOption { .. })));
    }
}
