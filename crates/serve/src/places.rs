//! What clients are not told: where things lie on this machine.

use std::path::Path;

use evalign_core::{Digest, ModelRef};
use serde_json::Value;

use crate::app::App;
use crate::error::ApiError;
use crate::uploads;

/// A model that is a file or directory of this machine, named by where it lies.
fn is_at_a_place(reference: &ModelRef) -> bool {
    Path::new(&reference.name).is_absolute()
}

/// A text with a name in place of a place, but not of the beginning of another place's last part.
fn replaced(text: &str, place: &str, name: &str) -> String {
    let mut rest = text;
    let mut plain = String::with_capacity(text.len());
    while let Some((before, after)) = rest.split_once(place) {
        plain += before;
        // A sentence may end with it.
        let word = after.strip_prefix('.').unwrap_or(after);
        let goes_on = word.starts_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '-'));
        plain += if goes_on { place } else { name };
        rest = after;
    }
    plain + rest
}

impl App {
    /// A text of ours with models by the names that they are served by, and without the places of files.
    pub(crate) fn without_places(&self, text: &str) -> String {
        let mut text = uploads::without_places(text, &self.home);
        if !text.contains('/') {
            return text;
        }
        let served = self.settings.models.0.iter().chain(&self.settings.embedders.0);
        let mut places: Vec<_> = served.filter(|(_, reference)| is_at_a_place(reference)).collect();
        // One may lie in another's directory, and the same one may be served with an adapter too.
        places.sort_by_key(|(_, reference)| std::cmp::Reverse(reference.to_string().len()));
        for (name, reference) in places {
            text = replaced(&replaced(&text, &reference.to_string(), name), &reference.name, name);
        }
        text.replace(&format!("{}/", self.home.display()), "")
    }

    /// A document of ours as clients get it: as [`App::without_places`] in all its texts, and models that are served no
    /// more by the last part of their names. Of the names of fields, only references to models are such texts, and two that
    /// were one then end with what tells them apart.
    pub(crate) fn placeless_document(&self, document: &Value) -> Value {
        let model = |text: &str| {
            let reference = text.parse::<ModelRef>().ok().filter(is_at_a_place);
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
                .then(|| "small=scripted//models/a,tiny=local//models/b".to_owned())
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
        ] {
            assert_eq!(app.without_places(text), plain);
        }
    }

    /// Two models that nobody serves any more and whose files have one name.
    #[test]
    fn no_field_is_lost_when_its_model_loses_its_place() {
        let home = tempfile::tempdir().unwrap();
        let app = app(home.path());
        let scores =
            json!({"local//x/m.gguf": 1, "local//y/m.gguf": 2, "local//models/b": 3, "a/b": "/models/a"});
        let shown = app.placeless_document(&scores);
        let fields = shown.as_object().unwrap();
        assert_eq!((fields.len(), &shown["tiny"], &shown["a/b"]), (4, &json!(3), &json!("small")));
        assert!(fields.keys().all(|name| !name.contains("//")), "{shown}");
    }
}
