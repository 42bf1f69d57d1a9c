use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use evalign_core::ModelRef;
use serde::Deserialize;

use super::ServedModels;

/// A value of a setting as text, in variables and for people.
pub(super) trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
    fn to_text(&self) -> String;
}

macro_rules! parsed {
    ($($kind:ty: $what:literal),*) => {$(
        impl FromText for $kind {
            fn from_text(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("`{text}` is not {}", $what))
            }

            fn to_text(&self) -> String {
                self.to_string()
            }
        }
    )*};
}

parsed!(u32: "a whole number", u64: "a whole number", bool: "true or false", SocketAddr: "an address like 127.0.0.1:8080");

impl FromText for Option<PathBuf> {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Some(PathBuf::from(text)))
    }

    fn to_text(&self) -> String {
        self.as_ref().map_or_else(|| "none".to_owned(), |path| path.display().to_string())
    }
}

impl FromText for Vec<PathBuf> {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(std::env::split_paths(text).collect())
    }

    fn to_text(&self) -> String {
        self.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ")
    }
}

impl FromText for ServedModels {
    /// `NAME=REF,NAME=REF`.
    fn from_text(text: &str) -> Result<Self, String> {
        let mut models = BTreeMap::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, reference) = part.split_once('=').ok_or_else(|| {
                format!("`{part}` is not NAME=REF, for example `smollm2=local/smollm2-135m-instruct`")
            })?;
            let reference: ModelRef = reference.parse().map_err(|error| format!("{error}"))?;
            models.insert(name.to_owned(), reference);
        }
        Ok(Self(models))
    }

    fn to_text(&self) -> String {
        let parts = self.0.iter().map(|(name, reference)| format!("{name}={reference}"));
        parts.collect::<Vec<_>>().join(",")
    }
}

impl<'de> Deserialize<'de> for ServedModels {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(Self)
    }
}
