//! Where requests go, and with what in their hands: from options, settings file, preset and environment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use evalign_core::{Digest, ModelRef};
use evalign_fetch::{ApiBase, Secret, shown_text};
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::server::{Extensions, Preset, ServerKind, TokenLimit};
use super::settings::{ModelSettings, Parameter, SystemRole};
use crate::error::ModelError;

/// Deadlines of one call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CallDeadlines {
    /// Name lookup, TCP and TLS.
    pub connect: Duration,
    /// Between two pieces of an answer. A server that does not stream is silent until all is written, so
    /// this bounds the time it takes to write.
    pub idle: Duration,
    /// One call in all.
    pub total: Duration,
}

impl Default for CallDeadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(300),
            total: Duration::from_secs(1200),
        }
    }
}

/// A server and one model of it, resolved.
#[derive(Clone)]
pub(super) struct Endpoint {
    pub(super) base: ApiBase,
    /// [`Endpoint::base`] as people see it.
    pub(super) place: String,
    pub(super) server: ServerKind,
    /// The model as the server knows it.
    pub(super) model: String,
    pub(super) headers: HeaderMap,
    pub(super) query: BTreeMap<String, String>,
    key: Option<Secret>,
    /// The key, and the values of headers that are secret: hidden in everything that is shown.
    secrets: Vec<Secret>,
    /// Why no key is sent, where one could have been expected.
    pub(super) keyless: Option<Keyless>,
    pub(super) deadlines: CallDeadlines,
    pub(super) settings: ModelSettings,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("place", &self.place)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// Why no key is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keyless {
    /// The variables that could hold one are not set.
    Unset(&'static [&'static str]),
    /// The variable's key stays here, because others could read it on the way.
    Withheld(&'static str),
}

impl fmt::Display for Keyless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unset(variables) => write!(f, "no key was sent: {} is not set", variables.join(" or ")),
            Self::Withheld(variable) => write!(
                f,
                "{variable} was not sent, because the way to the server is not encrypted; name it as `api_key_env` \
                 in a settings file to send it all the same"
            ),
        }
    }
}

/// How requests look: what the preset says, what the settings say, and what asking has shown.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Shape {
    pub(super) limit: TokenLimit,
    pub(super) system_role: SystemRole,
    pub(super) omit: BTreeSet<Parameter>,
    pub(super) stop_strings: usize,
    pub(super) reasoning: bool,
    pub(super) think_tags: [String; 2],
    pub(super) extensions: Extensions,
    pub(super) stream: bool,
    pub(super) body: Map<String, Value>,
}

impl Endpoint {
    /// `base_url` is the option's or the environment's; it goes before the settings file's, and that
    /// before the preset's.
    ///
    /// # Errors
    /// No address is known, or it is none; a key or header that cannot be sent; a variable that is named
    /// and not set.
    pub(super) fn resolve(
        reference: &ModelRef,
        base_url: Option<&str>,
        server: Option<ServerKind>,
        settings: &ModelSettings,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ModelError> {
        let named = server.or(settings.server);
        let given = base_url.map(|url| ("--base-url", url));
        let given = given.or(settings.base_url.as_deref().map(|url| ("base_url", url)));
        let kind = named.unwrap_or(if given.is_none() { ServerKind::Openai } else { ServerKind::Other });
        let preset = kind.preset();
        let Some((what, address)) = given.or(preset.base_url.map(|url| ("base_url", url))) else {
            return Err(no_address(reference, preset));
        };
        let base = ApiBase::parse(what, address)?;
        let set = |name: &str| env(name).filter(|value| !value.trim().is_empty());
        let (key, keyless) = key(&base, preset, settings, &set)?;
        let (headers, mut secrets) = headers(key.as_ref(), preset, settings, &set)?;
        secrets.extend(key.clone());
        Ok(Self {
            place: base.to_string(),
            base,
            server: kind,
            model: settings.model.clone().unwrap_or_else(|| reference.name.clone()),
            headers,
            query: settings.query.clone(),
            key,
            secrets,
            keyless,
            deadlines: deadlines(settings),
            settings: settings.clone(),
        })
    }

    /// Text from the server, fit to be read.
    pub(super) fn shown(&self, text: &str) -> String {
        shown_text(text, &self.secrets)
    }

    /// Who is asked, and on whose account: what one limit on concurrency is about.
    pub(super) fn account(&self) -> Digest {
        let key = self.key.as_ref().map(Secret::digest);
        Digest::of_json(&json!({"base_url": self.base.as_str(), "key": key}))
    }

    /// What the preset and the settings say, before anything was asked.
    pub(super) fn shape(&self) -> Shape {
        let (preset, settings) = (self.server.preset(), &self.settings);
        let tags = settings.think_tags.clone();
        Shape {
            limit: settings.max_tokens_field.unwrap_or(preset.limit),
            system_role: settings.system_role.unwrap_or_default(),
            omit: settings.omit.clone(),
            stop_strings: settings.max_stop_strings.unwrap_or(preset.stop_strings),
            reasoning: settings.reasoning.unwrap_or(false),
            think_tags: tags.unwrap_or_else(|| ["<think>".to_owned(), "</think>".to_owned()]),
            extensions: preset.extensions,
            stream: settings.stream.unwrap_or(false),
            body: settings.body.clone(),
        }
    }
}

fn no_address(reference: &ModelRef, preset: &Preset) -> ModelError {
    let variable = preset.base_url_env.map(|(name, _)| format!(", or set {name}")).unwrap_or_default();
    ModelError::Unsupported {
        model: reference.to_string(),
        what: format!("no address is known for the server `{}`", preset.name),
        hint: Some(format!("give it with `--base-url`{variable}")),
    }
}

fn deadlines(settings: &ModelSettings) -> CallDeadlines {
    let default = CallDeadlines::default();
    let seconds = |value: Option<f64>, default| value.map_or(default, Duration::from_secs_f64);
    CallDeadlines {
        connect: seconds(settings.connect_timeout_secs, default.connect),
        idle: seconds(settings.idle_timeout_secs, default.idle),
        total: seconds(settings.total_timeout_secs, default.total),
    }
}

/// The key, or why none is sent. A key from a variable that belongs to the preset travels encrypted or
/// within this machine; one that the settings file names for this server goes where that file says.
fn key(
    base: &ApiBase,
    preset: &Preset,
    settings: &ModelSettings,
    set: &impl Fn(&str) -> Option<String>,
) -> Result<(Option<Secret>, Option<Keyless>), ModelError> {
    if let Some(name) = &settings.api_key_env {
        let key = set(name).and_then(|value| Secret::new(&value));
        let missing = || ModelError::Unsupported {
            model: base.to_string(),
            what: format!("the variable {name}, which the settings file names for the key, is not set"),
            hint: Some(format!("set {name}, or remove `api_key_env` for a server that needs no key")),
        };
        return Ok((Some(key.ok_or_else(missing)?), None));
    }
    let found = preset.key_env.iter().find_map(|name| Some((*name, Secret::new(&set(name)?)?)));
    Ok(match found {
        Some((_, key)) if base.is_private() => (Some(key), None),
        Some((name, _)) => (None, Some(Keyless::Withheld(name))),
        None => (None, Some(Keyless::Unset(preset.key_env))),
    })
}

fn headers(
    key: Option<&Secret>,
    preset: &Preset,
    settings: &ModelSettings,
    set: &impl Fn(&str) -> Option<String>,
) -> Result<(HeaderMap, Vec<Secret>), ModelError> {
    let bad = |what: String| ModelError::Request(format!("{what} cannot be sent in a header"));
    let mut headers = HeaderMap::new();
    let mut secrets = Vec::new();
    if let Some(key) = key {
        let (name, prefix) = preset.key_header;
        let value = key.header(prefix).ok_or_else(|| bad("the key".to_owned()))?;
        headers.insert(HeaderName::from_static(name), value);
    }
    // Another company's service has no use for these, and nothing to learn from them.
    let ours = |name: &str| if preset.hosted { None } else { set(name) };
    let organization = settings.organization.clone().or_else(|| ours("OPENAI_ORG_ID"));
    let project = settings.project.clone().or_else(|| ours("OPENAI_PROJECT_ID"));
    for (name, value) in [("openai-organization", organization), ("openai-project", project)] {
        if let Some(value) = value {
            let value = HeaderValue::from_str(value.trim()).map_err(|_| bad(format!("`{name}`")))?;
            headers.insert(HeaderName::from_static(name), value);
        }
    }
    let name_of = |name: &str| name.parse::<HeaderName>().map_err(|_| bad(format!("the name `{name}`")));
    for (name, value) in &settings.headers {
        let value = HeaderValue::from_str(value).map_err(|_| bad(format!("the value of `{name}`")))?;
        headers.insert(name_of(name)?, value);
    }
    for (name, variable) in &settings.header_env {
        let secret = set(variable).and_then(|value| Secret::new(&value)).ok_or_else(|| {
            ModelError::Request(format!("the variable {variable}, named for the header `{name}`, is not set"))
        })?;
        let value = secret.header("").ok_or_else(|| bad(format!("the value of {variable}")))?;
        headers.insert(name_of(name)?, value);
        secrets.push(secret);
    }
    Ok((headers, secrets))
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::Hint;

    fn resolve(
        base_url: Option<&str>,
        server: Option<ServerKind>,
        settings: &ModelSettings,
        env: &[(&str, &str)],
    ) -> Result<Endpoint, ModelError> {
        let reference = "openai/m".parse().unwrap();
        let lookup = |name: &str| env.iter().find(|(k, _)| *k == name).map(|(_, v)| (*v).to_owned());
        Endpoint::resolve(&reference, base_url, server, settings, &lookup)
    }

    const KEYS: [(&str, &str); 3] =
        [("OPENAI_API_KEY", "canary"), ("OPENAI_ORG_ID", "org"), ("AZURE_OPENAI_API_KEY", "azure-canary")];

    #[test]
    fn keys_go_only_where_they_belong() {
        let none = ModelSettings::default();
        let header = |endpoint: &Endpoint, name: &str| {
            endpoint.headers.get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        let own = resolve(None, None, &none, &KEYS).unwrap();
        assert_eq!(own.place, "https://api.openai.com/v1");
        assert_eq!(header(&own, "authorization").as_deref(), Some("Bearer canary"));
        assert_eq!(header(&own, "openai-organization").as_deref(), Some("org"));
        assert!(own.headers["authorization"].is_sensitive());
        assert!(!format!("{own:?} {:?}", own.headers).contains("canary"));

        let open = resolve(Some("http://gpu.example/v1"), None, &none, &KEYS).unwrap();
        assert!(open.headers.get("authorization").is_none());
        assert_eq!(open.keyless, Some(Keyless::Withheld("OPENAI_API_KEY")));

        let azure =
            resolve(Some("https://x.example/openai/v1"), Some(ServerKind::Azure), &none, &KEYS).unwrap();
        assert_eq!(header(&azure, "api-key").as_deref(), Some("azure-canary"));
        assert!(
            azure.headers.get("authorization").is_none()
                && azure.headers.get("openai-organization").is_none()
        );

        let router = resolve(None, Some(ServerKind::Openrouter), &none, &KEYS).unwrap();
        assert!(router.key.is_none() && router.keyless.unwrap().to_string().contains("OPENROUTER_API_KEY"));
    }

    #[test]
    fn a_settings_file_may_send_its_own_key_anywhere() {
        let settings = ModelSettings {
            base_url: Some("http://gpu.example/v1".to_owned()),
            api_key_env: Some("MINE".to_owned()),
            model: Some("org/real".to_owned()),
            header_env: BTreeMap::from([("x-s".to_owned(), "SECRET".to_owned())]),
            ..ModelSettings::default()
        };
        let endpoint = resolve(None, None, &settings, &[("MINE", "k"), ("SECRET", "s")]).unwrap();
        assert_eq!(endpoint.headers["authorization"], "Bearer k");
        assert!(endpoint.headers["x-s"].is_sensitive());
        assert_eq!((endpoint.model.as_str(), endpoint.server), ("org/real", ServerKind::Other));
        let error = resolve(None, None, &settings, &[("SECRET", "s")]).unwrap_err();
        assert!(error.to_string().contains("MINE") && error.hint().is_some());
        // The option goes before the file.
        let other = resolve(Some("https://b.example"), None, &settings, &[("MINE", "k"), ("SECRET", "s")]);
        assert_eq!(other.unwrap().place, "https://b.example");
    }

    #[test]
    fn accounts_differ_by_address_and_key() {
        let of = |url, key| {
            let env = [("OPENAI_API_KEY", key)];
            resolve(Some(url), None, &ModelSettings::default(), &env).unwrap().account()
        };
        assert_eq!(of("https://a.example", "k"), of("https://a.example/", "k"));
        assert_ne!(of("https://a.example", "k"), of("https://a.example", "l"));
        assert_ne!(of("https://a.example", "k"), of("https://b.example", "k"));
    }

    #[test]
    fn servers_without_an_address_say_how_to_give_one() {
        let error = resolve(None, Some(ServerKind::Azure), &ModelSettings::default(), &[]).unwrap_err();
        assert!(error.hint().unwrap().contains("AZURE_OPENAI_ENDPOINT"));
        assert!(resolve(Some("nonsense"), None, &ModelSettings::default(), &[]).is_err());
    }
}
