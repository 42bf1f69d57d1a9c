//! `response_format`: what constrained decoding holds an answer to.

use evalign_core::{AnswerForm, AnswerSchema};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{ApiError, ApiResult, Code};

/// How an answer has to look.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum AnswerFormat {
    Text,
    /// Any JSON object.
    JsonObject,
    JsonSchema {
        json_schema: NamedSchema,
    },
}

#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NamedSchema {
    name: String,
    #[serde(default)]
    #[expect(dead_code, reason = "accepted, and without effect")]
    description: Option<String>,
    /// What no grammar can hold an answer to (`uniqueItems`, for one) is refused.
    #[schema(value_type = Object)]
    schema: Value,
    #[serde(default)]
    #[expect(dead_code, reason = "accepted, and without effect: every schema is kept to")]
    strict: Option<bool>,
}

const FIELD: &str = "response_format";

/// Bytes of a schema as JSON: it is compiled while others' answers wait.
const MOST_BYTES: usize = 64 * 1024;

impl AnswerFormat {
    /// What an answer is held to; `None` for free text.
    pub(crate) fn form(&self) -> ApiResult<Option<AnswerForm>> {
        Ok(self.schema()?.map(|schema| AnswerForm::Schema(Box::new(schema))))
    }

    /// The schema; `None` for free text. Whether it can be held to is found out by the engine that compiles it.
    fn schema(&self) -> ApiResult<Option<AnswerSchema>> {
        let asked = match self {
            Self::Text => return Ok(None),
            Self::JsonObject => AnswerSchema { name: "object".to_owned(), schema: json!({"type": "object"}) },
            Self::JsonSchema { json_schema } => {
                AnswerSchema { name: json_schema.name.clone(), schema: json_schema.schema.clone() }
            }
        };
        let refused =
            |why: &str| ApiError::new(Code::InvalidRequest, format!("`{FIELD}`: {why}")).about(FIELD);
        if !asked.schema.is_object() {
            return Err(refused("the schema is no object"));
        }
        if asked.schema.to_string().len() > MOST_BYTES {
            return Err(refused(&format!("the schema has more than {MOST_BYTES} bytes")));
        }
        Ok(Some(asked))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(format: Value) -> ApiResult<Option<AnswerSchema>> {
        serde_json::from_value::<AnswerFormat>(format).unwrap().schema()
    }

    #[test]
    fn formats_are_schemas_or_nothing() {
        let asked = json!({"type": "object", "properties": {"n": {"type": "integer"}}});
        let named =
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": asked, "strict": true}});
        assert_eq!(schema(named).unwrap().unwrap(), AnswerSchema { name: "x".to_owned(), schema: asked });
        assert_eq!(
            schema(json!({"type": "json_object"})).unwrap().unwrap().schema,
            json!({"type": "object"})
        );
        assert_eq!(schema(json!({"type": "text"})).unwrap(), None);
    }

    #[test]
    fn what_is_no_schema_is_refused_by_name() {
        for bad in [json!("soup"), json!(true), json!({"description": "x".repeat(MOST_BYTES)})] {
            let named = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": bad}});
            assert_eq!(schema(named).unwrap_err().param.as_deref(), Some(FIELD), "{bad}");
        }
    }
}
