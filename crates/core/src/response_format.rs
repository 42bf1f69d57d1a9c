use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value, json};

/// What an answer is held to: one or the other.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum AnswerForm {
    /// With log-probabilities, that of every label comes with the token that decides for one
    /// ([`crate::TokenLogprob::top`]), and tokens that the form leaves no choice about have log-probability 0.
    #[serde(rename = "response_format")]
    Fields(ResponseFormat),
    #[serde(rename = "json_schema")]
    Schema(Box<AnswerSchema>),
}

impl AnswerForm {
    /// The form of our own, if it is one.
    #[must_use]
    pub fn fields(&self) -> Option<&ResponseFormat> {
        match self {
            Self::Fields(format) => Some(format),
            Self::Schema(_) => None,
        }
    }
}

/// Reads what may be there under one of its two names. (Serde's own reading of an optional, flattened enum takes what is
/// malformed for nothing.)
pub(crate) fn at_most_one<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<AnswerForm>, D::Error> {
    #[derive(Deserialize)]
    struct Named {
        response_format: Option<ResponseFormat>,
        json_schema: Option<Box<AnswerSchema>>,
    }
    match Named::deserialize(deserializer)? {
        Named { response_format: Some(_), json_schema: Some(_) } => {
            let why = "an answer is held to `response_format` or to `json_schema`, not to both";
            Err(serde::de::Error::custom(why))
        }
        Named { response_format: Some(format), .. } => Ok(Some(AnswerForm::Fields(format))),
        Named { json_schema, .. } => Ok(json_schema.map(AnswerForm::Schema)),
    }
}

/// The form an answer must have: one JSON object with these fields, in this order. A model in this process
/// is held to it token by token, a server is asked for it as a JSON Schema.
///
/// The characters between values are fixed (`{"a": "..", "b": ".."}`), so the only places where anything is
/// decided are the values themselves.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResponseFormat {
    pub fields: Vec<ResponseField>,
    /// What servers are told it is called.
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ResponseField {
    pub name: String,
    pub value: ResponseValue,
}

/// What may stand in a field. All values are JSON strings.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseValue {
    /// Text of at most so many tokens.
    Text { max_tokens: u32 },
    /// One of these labels. They differ in their first character, so that one position decides.
    OneOf(Vec<String>),
}

/// A JSON Schema that an answer must satisfy, for callers whose schema says more than a [`ResponseFormat`] can: numbers,
/// lists, objects in objects. A model in this process is held to it token by token, a server is asked for it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AnswerSchema {
    /// What servers are told it is called.
    pub name: String,
    pub schema: Value,
}

impl ResponseFormat {
    /// Whether it can be written and read without doubt.
    ///
    /// # Errors
    /// Says which field cannot, and why.
    pub fn check(&self) -> Result<(), String> {
        if self.fields.is_empty() {
            return Err("a response format needs a field".to_owned());
        }
        for (index, field) in self.fields.iter().enumerate() {
            let name = &field.name;
            if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Err(format!("field {index}: `{name}` is not a name of letters, digits and `_`"));
            }
            if self.fields[..index].iter().any(|other| other.name == *name) {
                return Err(format!("field `{name}` occurs twice"));
            }
            if let ResponseValue::OneOf(labels) = &field.value {
                check_labels(labels).map_err(|why| format!("field `{name}`: {why}"))?;
            }
        }
        Ok(())
    }

    /// The fixed text before a field's value, up to and including its opening quote.
    #[must_use]
    pub fn text_before(&self, field: usize) -> String {
        let begin = if field == 0 { "{" } else { "\", " };
        let name = self.fields.get(field).map_or("", |field| field.name.as_str());
        format!("{begin}\"{name}\": \"")
    }

    /// The fixed text after the last value.
    pub const END: &'static str = "\"}";

    /// More tokens than any answer of this form has: a token is at least one byte of the fixed text.
    #[must_use]
    pub fn max_tokens(&self) -> u32 {
        let values = self.fields.iter().map(|field| match &field.value {
            // The character after a backslash may come after the last token.
            ResponseValue::Text { max_tokens } => max_tokens.saturating_add(1),
            ResponseValue::OneOf(labels) => longest(labels),
        });
        let fixed = (0..self.fields.len()).map(|field| self.text_before(field).len()).sum::<usize>();
        let fixed = u32::try_from(fixed + Self::END.len()).unwrap_or(u32::MAX);
        values.fold(fixed, u32::saturating_add)
    }

    /// As a JSON Schema (strict: every field, and no other).
    #[must_use]
    pub fn json_schema(&self) -> Value {
        let mut properties = Map::new();
        for field in &self.fields {
            let value = match &field.value {
                ResponseValue::Text { .. } => json!({"type": "string"}),
                ResponseValue::OneOf(labels) => json!({"type": "string", "enum": labels}),
            };
            properties.insert(field.name.clone(), value);
        }
        let required: Vec<&String> = self.fields.iter().map(|field| &field.name).collect();
        json!({
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": false,
        })
    }
}

fn longest(labels: &[String]) -> u32 {
    let bytes = labels.iter().map(String::len).max().unwrap_or(0);
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

fn check_labels(labels: &[String]) -> Result<(), String> {
    if labels.len() < 2 {
        return Err("a choice needs two labels".to_owned());
    }
    for (index, label) in labels.iter().enumerate() {
        let plain = label.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if label.is_empty() || !plain {
            return Err(format!(
                "label `{label}` has other characters than visible ASCII without `\"` and `\\`"
            ));
        }
        let first = label.as_bytes()[0];
        if labels[..index].iter().any(|other| other.as_bytes().first() == Some(&first)) {
            return Err(format!("label `{label}` begins like another one"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::GenerateParams;

    fn format(fields: &[(&str, ResponseValue)]) -> ResponseFormat {
        let field = |(name, value): &(&str, ResponseValue)| ResponseField {
            name: (*name).to_owned(),
            value: value.clone(),
        };
        ResponseFormat { name: "verdict".to_owned(), fields: fields.iter().map(field).collect() }
    }

    fn one_of(labels: &[&str]) -> ResponseValue {
        ResponseValue::OneOf(labels.iter().map(|label| (*label).to_owned()).collect())
    }

    #[test]
    fn the_fixed_text_and_the_values_make_an_object_of_the_schema() {
        let format =
            format(&[("why", ResponseValue::Text { max_tokens: 4 }), ("verdict", one_of(&["A", "B"]))]);
        format.check().unwrap();
        let text = format!("{}x{}A{}", format.text_before(0), format.text_before(1), ResponseFormat::END);
        assert_eq!(text, r#"{"why": "x", "verdict": "A"}"#);
        assert!(format.max_tokens() as usize >= text.len() + 3);
        assert_eq!(format.json_schema()["required"], json!(["why", "verdict"]));
    }

    #[test]
    fn what_an_answer_is_held_to_is_stored_by_its_name_and_read_with_care() {
        let fields = json!({"fields": [{"name": "v", "value": {"one_of": ["A", "B"]}}], "name": "verdict"});
        let schema = json!({"name": "any", "schema": {"type": "object"}});
        let stored = |form: Value| {
            let mut params = json!(GenerateParams::default());
            params.as_object_mut().unwrap().extend(form.as_object().unwrap().clone());
            params
        };
        let read = |form: Value| serde_json::from_value::<GenerateParams>(stored(form));
        for form in [json!({}), json!({"response_format": fields}), json!({"json_schema": schema})] {
            assert_eq!(json!(read(form.clone()).unwrap()), stored(form));
        }
        assert!(read(json!({"response_format": {"name": "x"}})).is_err(), "malformed is not nothing");
        let both = read(json!({"response_format": fields, "json_schema": schema})).unwrap_err();
        assert!(both.to_string().contains("not to both"), "{both}");
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (bad, why) in [
            (format(&[]), "needs a field"),
            (format(&[("a b", one_of(&["1", "2"]))]), "not a name"),
            (format(&[("a", one_of(&["1", "2"])), ("a", one_of(&["1", "2"]))]), "twice"),
            (format(&[("a", one_of(&["1"]))]), "two labels"),
            (format(&[("a", one_of(&["1", "10"]))]), "begins like"),
            (format(&[("a", one_of(&["1", "\""]))]), "visible ASCII"),
        ] {
            let error = bad.check().unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }
}
