//! What clients are not told: where things lie on this machine.

use std::collections::BTreeSet;
use std::path::Path;

use evalign_core::{Digest, ModelRef, Provider};
use evalign_fetch::looks_like_a_path;
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::settings::Settings;
use crate::uploads;

/// Whether a model is a file or directory of this machine, named by where it lies: by the rule by which it is loaded.
pub(crate) fn is_at_a_place(reference: &ModelRef) -> bool {
    reference.provider != Provider::Openai
        && (looks_like_a_path(&reference.name) || Path::new(&reference.name).exists())
}

/// Where served models lie. Decided once: whether a file is there is nothing to look for in a client's name.
#[derive(Debug)]
pub(crate) struct Places {
    /// Served models that are files or directories, as they are named: a relative one looks like a name of the hub.
    weights: BTreeSet<String>,
    /// What texts of ours may say of it, the longest first, and the name that clients are told instead.
    texts: Vec<(String, String)>,
}

impl Places {
    pub(crate) fn of(settings: &Settings) -> Self {
        let served = settings.models.0.iter().chain(&settings.embedders.0);
        let (mut weights, mut texts) = (BTreeSet::new(), Vec::new());
        for (name, reference) in served {
            let mut places = Vec::new();
            if is_at_a_place(reference) {
                weights.insert(reference.name.clone());
                places.push(reference.name.clone());
            }
            places.extend(reference.adapter.as_ref().map(|adapter| adapter.display().to_string()));
            if !places.is_empty() {
                texts.push((reference.to_string(), name.clone()));
            }
            for place in places {
                // Who loads it may name it by its whole path.
                let whole = std::path::absolute(&place).map(|path| path.display().to_string());
                // One word alone may mean anything.
                let bare = (looks_like_a_path(&place) || place.contains('/')).then_some(place);
                texts.extend(whole.ok().into_iter().chain(bare).map(|text| (text, name.clone())));
            }
        }
        // One may lie in another's directory, and the same one may be served with an adapter too.
        texts.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Self { weights, texts }
    }

    /// Whether a reference names a place: one that looks like a path, or what is served from here.
    fn has(&self, reference: &ModelRef) -> bool {
        let is_served = || {
            let whole = reference.to_string();
            self.weights.contains(&reference.name) || self.texts.iter().any(|(text, _)| *text == whole)
        };
        reference.provider != Provider::Openai && (looks_like_a_path(&reference.name) || is_served())
    }
}

/// A text with a name in place of a place, but not of a part of another place: one that goes on, or that began before.
fn replaced(text: &str, place: &str, name: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    // What begins at the root may stand behind anything that is no path; anything else not below a directory.
    let is_whole = place.starts_with('/');
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(place) {
        plain += before;
        let began = plain.ends_with(|c: char| is_word(c) || c == '.' || (c == '/' && !is_whole));
        // A sentence may end with it.
        let goes_on = after.strip_prefix('.').unwrap_or(after).starts_with(is_word);
        plain += if began || goes_on { place } else { name };
        rest = after;
    }
    plain + rest
}

impl App {
    /// A text of ours with models by the names that they are served by, and without the places of files.
    pub(crate) fn without_places(&self, text: &str) -> String {
        let mut text = uploads::without_places(text, &self.home);
        for (place, name) in &self.places.texts {
            text = replaced(&text, place, name);
        }
        text.replace(&format!("{}/", self.home.display()), "")
    }

    /// A document of ours as clients get it: as [`App::without_places`] in all its texts, and models that are served no
    /// more by the last part of their names. Of the names of fields, only references to models are such texts, and two that
    /// were one then end with what tells them apart.
    pub(crate) fn placeless_document(&self, document: &Value) -> Value {
        let model = |text: &str| {
            let reference = text.parse::<ModelRef>().ok().filter(|reference| self.places.has(reference));
            reference.map(|reference| self.shown_model(&reference))
        };
        match document {
            Value::String(plain) => Value::String(model(plain).unwrap_or_else(|| self.without_places(plain))),
            Value::Array(items) => items.iter().map(|item| self.placeless_document(item)).collect(),
            Value::Object(fields) => {
                let mut shown = serde_json::Map::new();
                for (name, value) in fields {
                    let mut plain = model(name).unwrap_or_else(|| name.clone());
                    if plain != *name && (fields.contains_key(&plain) || shown.contains_key(&plain)) {
                        plain = format!("{plain} {}", Digest::of(name).short());
                    }
                    shown.insert(plain, self.placeless_document(value));
                }
                Value::Object(shown)
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => document.clone(),
        }
    }

    /// A refusal that names no place on this machine.
    pub(crate) fn placeless_error(&self, error: ApiError) -> ApiError {
        ApiError { message: self.without_places(&error.message), ..error }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::settings::{Layer, settings};

    fn app(home: &Path) -> std::sync::Arc<App> {
        let served = |name: &str| {
            (name == "EVALIGN_SERVE__MODELS")
                .then(|| "small=scripted//models/a,tiny=local//models/b,near=local/models/c.gguf,hub=local/org/m+adapter=/adapters/d".to_owned())
        };
        let settings = settings(home, None, &served, Layer::default()).unwrap().0;
        App::new(home, evalign_store::Store::open(home).unwrap(), settings).unwrap()
    }

    #[test]
    fn only_whole_places_get_a_name() {
        let home = tempfile::tempdir().unwrap();
        let app = app(home.path());
        for (text, plain) in [
            ("`scripted//models/a` and /models/b.", "`small` and tiny."),
            (
                "/models/a: no weights; /models/ab, /models/a-2, /models/a.gguf",
                "small: no weights; /models/ab, /models/a-2, /models/a.gguf",
            ),
            (
                "/data/models/a, ../models/a and file:///models/b",
                "/data/models/a, ../models/a and file://tiny",
            ),
            (
                "`local/models/c.gguf`: models/c.gguf is empty; old/models/c.gguf",
                "`near`: near is empty; old/models/c.gguf",
            ),
        ] {
            assert_eq!(app.without_places(text), plain);
        }
    }

    /// What a name means is decided when the server starts, whatever lies in its working directory: as `src` may, which
    /// is not served.
    #[test]
    fn only_what_is_served_from_here_is_a_place() {
        let home = tempfile::tempdir().unwrap();
        let app = app(home.path());
        for name in ["local/src", "local/src/nothing"] {
            assert_eq!(app.placeless_document(&json!({"model": name})), json!({"model": name}));
        }
        let gone = Places { weights: BTreeSet::from(["gone/since".to_owned()]), texts: Vec::new() };
        assert!(gone.has(&"local/gone/since".parse().unwrap()));
    }

    /// Two models that nobody serves any more and whose files have one name.
    #[test]
    fn no_field_is_lost_when_its_model_loses_its_place() {
        let home = tempfile::tempdir().unwrap();
        let app = app(home.path());
        let scores = json!({"local//x/m.gguf": 1, "local//y/m.gguf": 2, "local//models/b": 3, "a/b": "/models/a",
            "local/org/m+adapter=/adapters/d": "/adapters/d/x.json", "local/org/m": 4});
        let shown = app.placeless_document(&scores);
        let fields = shown.as_object().unwrap();
        assert_eq!((fields.len(), &shown["tiny"], &shown["a/b"]), (6, &json!(3), &json!("small")));
        assert_eq!((&shown["hub"], &shown["local/org/m"]), (&json!("hub/x.json"), &json!(4)));
        assert!(fields.keys().all(|name| !name.contains("//")), "{shown}");
    }
}
