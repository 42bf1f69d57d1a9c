//! The environment, read in one place.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::egress::is_this_machine;
use crate::redact::{self, Secret};
use crate::{FetchError, RetryPolicy};

const DEFAULT_ENDPOINT: &str = "https://huggingface.co";

/// Deadlines of every request. There is none on a whole download: only on standing still.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Name lookup, TCP and TLS.
    pub connect: Duration,
    /// From sending a request to its response headers.
    pub headers: Duration,
    /// Between two pieces of a body.
    pub idle: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            headers: Duration::from_secs(20),
            idle: Duration::from_secs(30),
        }
    }
}

/// How to reach the hub and where its cache lies; the same variables as Python's `huggingface_hub`.
#[derive(Clone)]
pub struct HubConfig {
    /// `HF_ENDPOINT`.
    pub endpoint: Url,
    /// `HF_HUB_CACHE`, else `$HF_HOME/hub`.
    pub cache: PathBuf,
    /// `HF_TOKEN`, else the file `HF_TOKEN_PATH`, else `$HF_HOME/token`. Only ever sent to the
    /// endpoint's own origin, and not over unencrypted http to another machine.
    pub token: Option<Secret>,
    /// `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`): nothing is requested.
    pub offline: bool,
    pub deadlines: Deadlines,
    pub retry: RetryPolicy,
}

impl fmt::Debug for HubConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubConfig")
            .field("endpoint", &redact::url(&self.endpoint))
            .field("cache", &self.cache)
            .field("token", &self.token)
            .field("offline", &self.offline)
            .finish_non_exhaustive()
    }
}

impl HubConfig {
    /// From the process's environment.
    ///
    /// # Errors
    /// [`FetchError::Invalid`] where `HF_ENDPOINT` is no http address or no cache directory can be found.
    pub fn from_env() -> Result<Self, FetchError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// From any source of variables; tests give a closure.
    ///
    /// # Errors
    /// See [`HubConfig::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, FetchError> {
        let var = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        let hf_home = match (var("HF_HOME"), var("XDG_CACHE_HOME")) {
            (Some(home), _) => Some(expand_home(&home, &var)),
            (None, Some(cache)) => Some(expand_home(&cache, &var).join("huggingface")),
            (None, None) => user_home(&var).map(|home| home.join(".cache").join("huggingface")),
        };
        let cache = var("HF_HUB_CACHE")
            .or_else(|| var("HUGGINGFACE_HUB_CACHE"))
            .map(|path| expand_home(&path, &var))
            .or_else(|| hf_home.as_ref().map(|home| home.join("hub")))
            .ok_or_else(|| {
                FetchError::invalid(
                    "environment",
                    "HOME",
                    "set HOME, HF_HOME or HF_HUB_CACHE to say where downloads go",
                )
            })?;
        Ok(Self {
            endpoint: endpoint(var("HF_ENDPOINT").as_deref().unwrap_or(DEFAULT_ENDPOINT))?,
            cache,
            token: token(&var, hf_home.as_deref()),
            offline: var("HF_HUB_OFFLINE")
                .or_else(|| var("TRANSFORMERS_OFFLINE"))
                .is_some_and(|value| is_true(&value)),
            deadlines: Deadlines::default(),
            retry: RetryPolicy::default(),
        })
    }

    /// The token, where this configuration allows it to travel at all.
    pub(crate) fn sendable_token(&self) -> Option<&Secret> {
        let encrypted_or_local = self.endpoint.scheme() == "https" || is_this_machine(&self.endpoint);
        if self.token.is_some() && !encrypted_or_local {
            tracing::warn!(
                endpoint = redact::url(&self.endpoint),
                "the hub token is not sent over unencrypted http"
            );
            return None;
        }
        self.token.as_ref()
    }
}

fn endpoint(text: &str) -> Result<Url, FetchError> {
    let refuse = |reason: &str| {
        FetchError::invalid(
            "HF_ENDPOINT",
            &redact::text(text, None),
            format!("{reason}; it looks like {DEFAULT_ENDPOINT}"),
        )
    };
    let mut url: Url = text.trim().parse().map_err(|_| refuse("not an address"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(refuse("not an http or https address"));
    }
    // Paths are appended: a mirror may live below a prefix, but queries would get lost.
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').to_owned();
    url.set_path(&path);
    Ok(url)
}

fn token(var: &impl Fn(&str) -> Option<String>, hf_home: Option<&Path>) -> Option<Secret> {
    if let Some(token) = var("HF_TOKEN").or_else(|| var("HUGGING_FACE_HUB_TOKEN")) {
        return Secret::new(&token);
    }
    if var("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some_and(|value| is_true(&value)) {
        return None;
    }
    let path = var("HF_TOKEN_PATH")
        .map(|path| expand_home(&path, var))
        .or_else(|| hf_home.map(|home| home.join("token")))?;
    Secret::new(&fs_err::read_to_string(path).ok()?)
}

/// What `huggingface_hub` takes for true.
fn is_true(value: &str) -> bool {
    matches!(value.trim().to_ascii_uppercase().as_str(), "1" | "ON" | "YES" | "TRUE")
}

fn user_home(var: &impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    var("HOME").or_else(|| var("USERPROFILE")).map(PathBuf::from)
}

fn expand_home(path: &str, var: &impl Fn(&str) -> Option<String>) -> PathBuf {
    match (path.strip_prefix("~/"), user_home(var)) {
        (Some(rest), Some(home)) => home.join(rest),
        _ => PathBuf::from(path),
    }
}

/// The directory evalign keeps its state in: `EVALIGN_HOME`, else the platform's data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// From the process's environment.
    ///
    /// # Errors
    /// [`FetchError::Invalid`] where neither `EVALIGN_HOME` nor a home directory is set.
    pub fn from_env() -> Result<Self, FetchError> {
        Self::from_lookup(|name| std::env::var(name).ok())
    }

    /// From any source of variables.
    ///
    /// # Errors
    /// See [`Home::from_env`].
    pub fn from_lookup(lookup: impl Fn(&str) -> Option<String>) -> Result<Self, FetchError> {
        let var = |name: &str| lookup(name).filter(|value| !value.trim().is_empty());
        if let Some(path) = var("EVALIGN_HOME") {
            return Ok(Self(expand_home(&path, &var)));
        }
        let data = if cfg!(windows) {
            var("LOCALAPPDATA").map(PathBuf::from)
        } else if cfg!(target_os = "macos") {
            user_home(&var).map(|home| home.join("Library").join("Application Support"))
        } else {
            // The XDG rules: a relative path there is to be ignored.
            var("XDG_DATA_HOME")
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
                .or_else(|| user_home(&var).map(|home| home.join(".local").join("share")))
        };
        data.map(|dir| Self(dir.join("evalign"))).ok_or_else(|| {
            FetchError::invalid(
                "environment",
                "HOME",
                "set HOME or EVALIGN_HOME to say where evalign keeps its state",
            )
        })
    }

    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Where built-in models from the package index lie, one directory each.
    #[must_use]
    pub fn models(&self) -> PathBuf {
        self.0.join("models")
    }

    /// Where shared libraries lie.
    #[must_use]
    pub fn libraries(&self) -> PathBuf {
        self.0.join("lib")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(vars: &[(&str, &str)]) -> Result<HubConfig, FetchError> {
        let vars: Vec<(String, String)> =
            vars.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        HubConfig::from_lookup(move |name| vars.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone()))
    }

    #[test]
    fn cache_directory_follows_pythons_rules() {
        let cache = |vars: &[(&str, &str)]| config(vars).unwrap().cache;
        assert_eq!(cache(&[("HOME", "/u")]), Path::new("/u/.cache/huggingface/hub"));
        assert_eq!(cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x")]), Path::new("/x/huggingface/hub"));
        assert_eq!(
            cache(&[("HOME", "/u"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/hf")]),
            Path::new("/u/hf/hub")
        );
        assert_eq!(cache(&[("HF_HOME", "/h"), ("HF_HUB_CACHE", "/c")]), Path::new("/c"));
        assert!(config(&[]).is_err());
    }

    #[test]
    fn token_order_and_redaction() {
        let dir = tempfile::tempdir().unwrap();
        let home = dir.path().to_str().unwrap();
        let path = dir.path().join("other");
        fs_err::write(dir.path().join("token"), "from-home\n").unwrap();
        fs_err::write(&path, " from-path \n").unwrap();
        let path = path.to_str().unwrap();
        let token = |vars: &[(&str, &str)]| config(vars).unwrap().token.map(|t| t.expose().to_owned());
        assert_eq!(
            token(&[("HF_HOME", home), ("HF_TOKEN_PATH", path), ("HF_TOKEN", "t")]).as_deref(),
            Some("t")
        );
        assert_eq!(token(&[("HF_HOME", home), ("HF_TOKEN_PATH", path)]).as_deref(), Some("from-path"));
        assert_eq!(token(&[("HF_HOME", home)]).as_deref(), Some("from-home"));
        assert_eq!(token(&[("HF_HOME", home), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let shown = format!(
            "{:?}",
            config(&[("HF_HOME", home), ("HF_ENDPOINT", "http://u:unspoken-word@h")]).unwrap()
        );
        assert!(!shown.contains("from-home") && !shown.contains("unspoken-word"), "{shown}");
    }

    #[test]
    fn offline_and_endpoint() {
        for (value, expected) in
            [("1", true), ("true", true), ("YES", true), ("on", true), ("0", false), ("", false)]
        {
            assert_eq!(
                config(&[("HOME", "/u"), ("HF_HUB_OFFLINE", value)]).unwrap().offline,
                expected,
                "{value}"
            );
        }
        let endpoint =
            |text| config(&[("HOME", "/u"), ("HF_ENDPOINT", text)]).map(|c| c.endpoint.to_string());
        assert_eq!(endpoint("https://mirror.example/hf/").unwrap(), "https://mirror.example/hf");
        for bad in ["mirror.example", "ftp://x", "http://", "http://u:canary@"] {
            let error = endpoint(bad).unwrap_err().to_string();
            assert!(error.contains("HF_ENDPOINT") && !error.contains("canary"), "{error}");
        }
    }

    #[test]
    fn tokens_do_not_travel_unencrypted_to_other_machines() {
        let sendable = |endpoint| {
            config(&[("HOME", "/u"), ("HF_TOKEN", "t"), ("HF_ENDPOINT", endpoint)])
                .unwrap()
                .sendable_token()
                .is_some()
        };
        assert!(sendable("https://mirror.example"));
        assert!(sendable("http://127.0.0.1:8000"));
        assert!(!sendable("http://mirror.example"));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn home_is_found() {
        let home = |vars: &'static [(&str, &str)]| {
            Home::from_lookup(|name| vars.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned()))
        };
        assert_eq!(home(&[("EVALIGN_HOME", "/e"), ("HOME", "/u")]).unwrap().path(), Path::new("/e"));
        assert_eq!(home(&[("HOME", "/u")]).unwrap().path(), Path::new("/u/.local/share/evalign"));
        assert_eq!(
            home(&[("HOME", "/u"), ("XDG_DATA_HOME", "rel")]).unwrap().path(),
            Path::new("/u/.local/share/evalign")
        );
        assert!(home(&[]).is_err());
    }
}
