use serde_json::Value;

use super::answer::hash;

/// An answer's form: an object of texts, some of them one of several labels. The part of JSON Schema that judges ask
/// for.
#[derive(Clone, Debug)]
pub(super) struct Form {
    /// Name and labels of each field, none where any text will do.
    fields: Vec<(String, Vec<String>)>,
}

impl Form {
    /// `None`: a `response_format` of another kind.
    pub(super) fn of(response_format: &Value) -> Option<Self> {
        let schema = response_format.get("json_schema")?.get("schema")?;
        let field = |(name, value): (&String, &Value)| {
            let labels = value.get("enum").and_then(Value::as_array);
            let labels = labels.into_iter().flatten().filter_map(Value::as_str);
            (name.clone(), labels.map(str::to_owned).collect())
        };
        Some(Self { fields: schema.get("properties")?.as_object()?.iter().map(field).collect() })
    }

    /// Made up, by the prompt.
    pub(super) fn filled(&self, seed: u64, prompt: &str) -> String {
        let value = |(name, labels): &(String, Vec<String>)| {
            let number = hash(&["form", &seed.to_string(), prompt, name]) as usize;
            let text = labels.get(number % labels.len().max(1));
            format!("\"{name}\": \"{}\"", text.map_or("because", String::as_str))
        };
        let fields: Vec<String> = self.fields.iter().map(value).collect();
        format!("{{{}}}", fields.join(", "))
    }

    /// The piece of an answer with each label of its field in its label's place, the chosen one first: with which
    /// probability a model would have written them. Empty for a piece without a label.
    pub(super) fn alternatives(&self, piece: &str) -> Vec<(String, f64)> {
        let chosen = piece.trim_matches(|c: char| !c.is_ascii_alphanumeric());
        let of_field = |labels: &&Vec<String>| labels.iter().any(|label| label == chosen);
        let Some(labels) = self.fields.iter().map(|(_, labels)| labels).find(of_field) else {
            return Vec::new();
        };
        let others = labels.iter().filter(|label| *label != chosen);
        let share = 0.3 / (labels.len() - 1).max(1) as f64;
        let other = |label: &String| (piece.replace(chosen, label), share);
        std::iter::once((piece.to_owned(), 0.7)).chain(others.map(other)).collect()
    }
}
