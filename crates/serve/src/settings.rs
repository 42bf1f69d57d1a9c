//! What can be set about the service, from four places: built in, a file, the environment, flags. A later one
//! wins, setting by setting, and every value remembers where it came from.

mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use evalign_core::{ModelRef, NAME_FORM, is_name};
use serde::Deserialize;

use crate::error::ServeError;
use value::FromText;

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    BuiltIn,
    /// This file.
    File(PathBuf),
    /// This variable.
    Environment(String),
    Flag,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Environment(name) => f.write_str(name),
            Self::Flag => f.write_str("flag"),
        }
    }
}

/// A setting as it is in effect, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: &'static str,
    pub value: String,
    pub origin: Origin,
    pub about: &'static str,
}

/// The models that are served, by the name that clients use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServedModels(pub BTreeMap<String, ModelRef>);

/// Declares every setting once: its name in the file, its type, its value where nothing is said, what it is.
macro_rules! settings {
    ($($(#[doc = $about:literal])+ $name:ident: $kind:ty = $default:expr;)*) => {
        /// The settings of the service as they are in effect.
        #[derive(Clone, Debug, PartialEq)]
        pub struct Settings {
            $($(#[doc = $about])+ pub $name: $kind,)*
        }

        /// What one place says; absent is not said.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Layer {
            $(pub $name: Option<$kind>,)*
        }

        /// The names of all settings.
        const NAMES: &[&str] = &[$(stringify!($name),)*];

        impl Layer {
            /// From variables `EVALIGN_SERVE__NAME`.
            fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, ServeError> {
                let mut layer = Self::default();
                $(
                    let variable = variable_of(stringify!($name));
                    if let Some(text) = lookup(&variable).filter(|text| !text.is_empty()) {
                        let value = <$kind as FromText>::from_text(&text)
                            .map_err(|detail| ServeError::setting(&variable, detail))?;
                        layer.$name = Some(value);
                    }
                )*
                Ok(layer)
            }
        }

        /// Later layers win.
        fn combine(layers: Vec<(Layer, &dyn Fn(&str) -> Origin)>) -> (Settings, Vec<Setting>) {
            $(let mut $name: ($kind, Origin) = ($default, Origin::BuiltIn);)*
            for (layer, origin) in layers {
                $(if let Some(value) = layer.$name {
                    $name = (value, origin(stringify!($name)));
                })*
            }
            let told = vec![$(Setting {
                name: stringify!($name),
                value: $name.0.to_text(),
                origin: $name.1,
                about: concat!($($about),+).trim_ascii(),
            },)*];
            (Settings { $($name: $name.0,)* }, told)
        }
    };
}

settings! {
    /// Address to listen on. One that is not this machine's alone needs a key to exist.
    address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 8080));
    /// Models that are served, by the name clients use: a table in the file, `NAME=REF,...` elsewhere.
    models: ServedModels = ServedModels::default();
    /// Models that make vectors of texts, named like `models`.
    embedders: ServedModels = ServedModels::default();
    /// Directory with datasets in the hub's layout.
    data_root: Option<PathBuf> = None;
    /// Directories with task files of your own.
    include_path: Vec<PathBuf> = Vec::new();
    /// Neither hub nor package index is asked.
    offline: bool = false;
    /// Runs that are worked on at once.
    workers: u32 = 1;
    /// Queued and running runs of a tenant; more are refused.
    max_active_runs: u32 = 10_000;
    /// Open connections; more wait.
    max_connections: u32 = 4096;
    /// Requests being answered at once, streams not counted; more are refused.
    max_in_flight: u32 = 512;
    /// Open event streams of runs and answers; more are refused.
    max_streams: u32 = 2048;
    /// Completions that a model writes or has waiting; more are refused.
    max_waiting: u32 = 256;
    /// Tokens a client may ask a served model for in one answer.
    max_tokens: u32 = 2048;
    /// Requests of a key in a minute, on average.
    requests_per_minute: u32 = 600_000;
    /// Size of a JSON body in KiB.
    max_body_kib: u64 = 1024;
    /// Size of an uploaded file in MiB.
    max_upload_mib: u64 = 4096;
    /// Size of all files of a tenant in MiB.
    max_files_mib: u64 = 65_536;
    /// Size of a file of pairs in MiB that is checked or taken over while its request waits.
    max_pairs_mib: u64 = 64;
    /// Answers of a run whose pairs are written into files while the request waits.
    max_pairs_answers: u64 = 50_000;
    /// Seconds in which a request's head, and each piece of its body, has to come.
    read_timeout_secs: u64 = 15;
    /// Seconds that work gets to end when the server is told to.
    grace_secs: u64 = 20;
    /// Hours after which a browser has to log in again.
    session_hours: u64 = 12;
}

/// What the variables of settings begin with.
const PREFIX: &str = "EVALIGN_SERVE__";

fn variable_of(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

/// Refuses variables that look like settings and are none: whoever set one believes that it is in effect.
///
/// # Errors
/// The first such variable, with the setting that was meant where that can be told.
pub fn check_variables(names: impl IntoIterator<Item = String>) -> Result<(), ServeError> {
    let known: Vec<String> = NAMES.iter().map(|name| variable_of(name)).collect();
    let is_unknown = |name: &String| name.starts_with(PREFIX) && !known.contains(name);
    let Some(unknown) = names.into_iter().find(is_unknown) else { return Ok(()) };
    let likeness = |name: &&String| strsim::jaro_winkler(&unknown[PREFIX.len()..], &name[PREFIX.len()..]);
    let nearest = known.iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    let meant = nearest.filter(|name| likeness(name) > 0.8);
    let meant = meant.map_or_else(String::new, |name| format!("; `{name}` is one"));
    Err(ServeError::setting(&unknown, format!("there is no such setting{meant}")))
}

/// The file: everything of the service is under `[serve]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    serve: Layer,
}

/// The settings in effect: built in, then `file` (one that was named has to be there), then variables, then
/// `flags`; and what each is and where it comes from.
///
/// # Errors
/// A file or variable that cannot be read, an unknown field, a value that makes no sense.
pub fn settings(
    home: &Path,
    file: Option<&Path>,
    lookup: &dyn Fn(&str) -> Option<String>,
    flags: Layer,
) -> Result<(Settings, Vec<Setting>), ServeError> {
    let path = file.map_or_else(|| home.join("config.toml"), Path::to_owned);
    let from_file = match fs_err::read_to_string(&path) {
        Ok(text) => read(&path, &text)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => Layer::default(),
        Err(source) => return Err(ServeError::File { source }),
    };
    let from_environment = Layer::from_lookup(lookup)?;
    let of_file = |_: &str| Origin::File(path.clone());
    let of_variable = |name: &str| Origin::Environment(variable_of(name));
    let of_flag = |_: &str| Origin::Flag;
    let (settings, told) =
        combine(vec![(from_file, &of_file), (from_environment, &of_variable), (flags, &of_flag)]);
    settings.check()?;
    Ok((settings, told))
}

fn read(path: &Path, text: &str) -> Result<Layer, ServeError> {
    let file: File = toml::from_str(text)
        .map_err(|error| ServeError::setting(path.display(), error.to_string().trim_end()))?;
    Ok(file.serve)
}

impl Settings {
    fn check(&self) -> Result<(), ServeError> {
        let counts = [
            ("workers", u64::from(self.workers)),
            ("max_active_runs", u64::from(self.max_active_runs)),
            ("max_connections", u64::from(self.max_connections)),
            ("max_in_flight", u64::from(self.max_in_flight)),
            ("max_streams", u64::from(self.max_streams)),
            ("max_waiting", u64::from(self.max_waiting)),
            ("max_tokens", u64::from(self.max_tokens)),
            ("requests_per_minute", u64::from(self.requests_per_minute)),
            ("max_body_kib", self.max_body_kib),
            ("max_pairs_mib", self.max_pairs_mib),
            ("max_pairs_answers", self.max_pairs_answers),
            ("read_timeout_secs", self.read_timeout_secs),
            ("session_hours", self.session_hours),
        ];
        if let Some((name, _)) = counts.iter().find(|(_, count)| *count == 0) {
            return Err(ServeError::setting(name, "must be at least 1"));
        }
        let names = self.models.0.keys().chain(self.embedders.0.keys());
        match names.into_iter().find(|name| !is_name(name)) {
            Some(name) => Err(ServeError::setting("models", format!("`{name}` is not a name: {NAME_FORM}"))),
            None => Ok(()),
        }
    }

    /// Listens on this machine alone.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.address.ip().to_canonical().is_loopback()
    }
}

#[cfg(test)]
mod tests;
