use evalign_fetch::{Home, HubConfig};
use serde_json::{Map, Value, json};

use crate::Verdict;
use crate::args::ServeSettingsArgs;
use crate::commands::serve::settings_of;
use crate::output::{Failure, Output, Table};

/// Variables that are read, and what for. Those that may hold a secret are named but never shown.
const VARIABLES: [(&str, &str, bool); 26] = [
    ("EVALIGN_HOME", "runs, cache and built-in models", false),
    ("EVALIGN_DATA_ROOT", "datasets in the hub's layout", false),
    ("EVALIGN_MODEL", "the model where `--model` is absent", false),
    ("HF_HOME", "the hub's directory", false),
    ("HF_HUB_CACHE", "the hub's cache", false),
    ("HF_ENDPOINT", "another hub", false),
    ("HF_TOKEN", "access to gated repositories", true),
    ("HF_TOKEN_PATH", "file with the token", false),
    ("HF_HUB_OFFLINE", "never ask the hub", false),
    ("TRANSFORMERS_OFFLINE", "never ask the hub", false),
    ("OPENAI_BASE_URL", "address of the model server", false),
    ("OPENAI_API_KEY", "key of the model server", true),
    ("OPENAI_ORG_ID", "organisation at OpenAI", false),
    ("OPENAI_PROJECT_ID", "project at OpenAI", false),
    ("OPENROUTER_API_KEY", "key for `--server openrouter`", true),
    ("AZURE_OPENAI_ENDPOINT", "address for `--server azure`", false),
    ("AZURE_OPENAI_API_KEY", "key for `--server azure`", true),
    ("VLLM_API_KEY", "key for `--server vllm`", true),
    ("EVALIGN_PRICES", "prices of models", false),
    ("HTTPS_PROXY", "proxy", true),
    ("HTTP_PROXY", "proxy", true),
    ("NO_PROXY", "hosts reached without it", false),
    ("SSL_CERT_FILE", "certificates that are trusted, instead of the system's", false),
    ("SSL_CERT_DIR", "certificates that are trusted, instead of the system's", false),
    ("NO_COLOR", "no progress bars", false),
    ("RUST_LOG", "what is logged", false),
];

pub(super) fn show(
    config: Option<std::path::PathBuf>,
    as_json: bool,
    output: Output,
) -> Result<Verdict, Failure> {
    let hub = HubConfig::from_env()?;
    let home = Home::from_env()?;
    let mut settings: Vec<(&str, String, &str)> = vec![
        ("home", home.path().display().to_string(), "runs, cache and built-in models"),
        ("hub endpoint", hub.endpoint.origin().ascii_serialization(), "models and datasets"),
        ("hub cache", hub.cache.display().to_string(), "shared with Python's huggingface_hub"),
        ("hub token", if hub.token.is_some() { "set" } else { "none" }.to_owned(), "never shown"),
        ("offline", hub.offline.to_string(), "the hub is not asked"),
    ];
    for (name, about, secret) in VARIABLES {
        if let Some(value) = std::env::var_os(name) {
            let shown = if secret { "set".to_owned() } else { value.to_string_lossy().into_owned() };
            settings.push((name, shown, about));
        }
    }
    let (_, serve) = settings_of(&ServeSettingsArgs { config, ..ServeSettingsArgs::default() }, &home)?;
    if as_json {
        let mut document: Map<String, Value> =
            settings.iter().map(|(name, value, _)| (name.replace(' ', "_"), json!(value))).collect();
        let serve = serve.iter().map(|setting| {
            let shown = json!({"value": setting.value, "origin": setting.origin.to_string()});
            (setting.name.to_owned(), shown)
        });
        document.insert("serve".to_owned(), Value::Object(serve.collect()));
        output.json(&document)?;
        return Ok(Verdict::Good);
    }
    let mut table = Table::new(&["setting", "value", "what for"], &[]);
    for (name, value, about) in settings {
        table.push(vec![name.to_owned(), value, about.to_owned()]);
    }
    output.result(&table.text())?;
    let mut table = Table::new(&["setting of the service", "value", "from", "what for"], &[]);
    for setting in serve {
        let origin = setting.origin.to_string();
        table.push(vec![setting.name.to_owned(), setting.value, origin, setting.about.to_owned()]);
    }
    output.result(&table.text())?;
    Ok(Verdict::Good)
}
