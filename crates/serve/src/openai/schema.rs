//! `response_format`: a JSON Schema as the form that constrained decoding holds an answer to.

use evalign_core::{ResponseField, ResponseFormat, ResponseValue};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{ApiError, ApiResult, Code};
use crate::openai::unsupported;

/// How an answer has to look.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AnswerFormat {
    Text,
    JsonObject,
    JsonSchema { json_schema: NamedSchema },
}

#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "accepted, and without effect")]
    description: Option<String>,
    /// An object whose properties are strings, free or from an `enum`.
    #[schema(value_type = Object)]
    schema: Value,
    #[serde(default)]
    #[expect(dead_code, reason = "accepted, and without effect")]
    strict: Option<bool>,
}

const FIELD: &str = "response_format";

impl AnswerFormat {
    /// The form; `None` for free text. A string without `maxLength` gets as many tokens as the answer has.
    pub(crate) fn form(self, max_tokens: u32) -> ApiResult<Option<ResponseFormat>> {
        let named = match self {
            Self::Text => return Ok(None),
            Self::JsonObject => return Err(unsupported(FIELD, "say which fields with `json_schema`")),
            Self::JsonSchema { json_schema } => json_schema,
        };
        let only = |what: &str| unsupported(FIELD, &format!("a schema is an object of strings: {what}"));
        if named.schema["type"] != "object" {
            return Err(only("`type` is not `object`"));
        }
        let properties = named.schema["properties"].as_object().ok_or_else(|| only("no `properties`"))?;
        let mut fields = Vec::new();
        for (name, property) in properties {
            let value = match (property["enum"].as_array(), property["type"].as_str()) {
                (Some(labels), _) => {
                    let labels: Option<Vec<String>> =
                        labels.iter().map(|label| label.as_str().map(str::to_owned)).collect();
                    ResponseValue::OneOf(
                        labels.ok_or_else(|| only(&format!("`{name}` offers more than strings")))?,
                    )
                }
                (None, Some("string")) => {
                    let length = property["maxLength"].as_u64().and_then(|length| u32::try_from(length).ok());
                    ResponseValue::Text { max_tokens: length.unwrap_or(max_tokens).min(max_tokens) }
                }
                (None, _) => return Err(only(&format!("`{name}` is none"))),
            };
            fields.push(ResponseField { name: name.clone(), value });
        }
        let form = ResponseFormat { fields, name: named.name };
        form.check()
            .map_err(|why| ApiError::new(Code::InvalidRequest, format!("`{FIELD}`: {why}")).about(FIELD))?;
        Ok(Some(form))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn form(schema: &Value) -> ApiResult<Option<ResponseFormat>> {
        let format =
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": true}});
        serde_json::from_value::<AnswerFormat>(format).unwrap().form(50)
    }

    #[test]
    fn strings_and_choices_become_a_form() {
        let schema = json!({"type": "object", "properties": {
            "reason": {"type": "string"}, "grade": {"type": "string", "enum": ["A", "B"]}}});
        let form = form(&schema).unwrap().unwrap();
        assert_eq!(form.fields[0].value, ResponseValue::Text { max_tokens: 50 });
        assert_eq!(form.fields[1].value, ResponseValue::OneOf(vec!["A".to_owned(), "B".to_owned()]));
    }

    #[test]
    fn other_schemas_are_refused_by_name() {
        for schema in [
            json!({"type": "array"}),
            json!({"type": "object"}),
            json!({"type": "object", "properties": {"n": {"type": "integer"}}}),
            json!({"type": "object", "properties": {"n": {"enum": [1, 2]}}}),
            json!({"type": "object", "properties": {"n": {"enum": ["same", "sane"]}}}),
        ] {
            assert_eq!(form(&schema).unwrap_err().param.as_deref(), Some(FIELD), "{schema}");
        }
    }
}
