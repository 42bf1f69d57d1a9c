mod chunks;
mod own;
mod parse;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use crate::RagError;

/// Which points of a tenant are meant, by their payload. All of `must` hold and none of `must_not`;
/// an empty filter means every point.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    pub must: Vec<Condition>,
    pub must_not: Vec<Condition>,
}

/// One condition on a payload field. `key` is a path with dots (`meta.author`).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Condition {
    /// The field is this value, or a list that holds it. Strings, integers and booleans.
    Equals { key: String, value: Value },
    /// The field is one of these values: all strings or all integers.
    AnyOf { key: String, values: Vec<Value> },
    /// The field is a number within these bounds.
    Range {
        key: String,
        #[serde(flatten)]
        bounds: Bounds,
    },
    /// The field is there and neither null nor an empty list.
    Exists { key: String },
    /// The point is one of these.
    Ids(Vec<Uuid>),
    /// At least one of these holds; there is one.
    Either(Vec<Self>),
}

/// Bounds of a number; an absent one does not bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bounds {
    pub gt: Option<f64>,
    pub gte: Option<f64>,
    pub lt: Option<f64>,
    pub lte: Option<f64>,
}

impl Filter {
    #[must_use]
    pub fn equals(key: &str, value: impl Into<Value>) -> Self {
        Self {
            must: vec![Condition::Equals { key: key.to_owned(), value: value.into() }],
            must_not: Vec::new(),
        }
    }

    #[must_use]
    pub fn ids(ids: Vec<Uuid>) -> Self {
        Self { must: vec![Condition::Ids(ids)], must_not: Vec::new() }
    }

    /// Both hold.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.must.extend(other.must);
        self.must_not.extend(other.must_not);
        self
    }

    #[must_use]
    pub fn and_not(mut self, condition: Condition) -> Self {
        self.must_not.push(condition);
        self
    }

    /// All of its conditions, negated or not.
    pub(crate) fn conditions(&self) -> impl Iterator<Item = &Condition> {
        self.must.iter().chain(&self.must_not)
    }
}

impl Condition {
    /// The field that it is about; `None` where there is none, or not one alone.
    pub(crate) fn key(&self) -> Option<&str> {
        match self {
            Self::Equals { key, .. }
            | Self::AnyOf { key, .. }
            | Self::Range { key, .. }
            | Self::Exists { key } => Some(key),
            Self::Ids(_) => None,
            Self::Either(conditions) => conditions.first().and_then(Self::key),
        }
    }
}

/// What a store cannot ask for: one of nothing.
pub(crate) fn at_least_one(conditions: &[Condition]) -> Result<&[Condition], RagError> {
    match conditions.is_empty() {
        true => Err(RagError::invalid("a filter", "asks for one of no conditions", "give it at least one")),
        false => Ok(conditions),
    }
}

/// A value that a payload field can equal.
pub(crate) enum Scalar {
    Text(String),
    Integer(i64),
    Bool(bool),
}

impl Scalar {
    pub(crate) fn of(key: &str, value: &Value) -> Result<Self, RagError> {
        match value {
            Value::String(text) => Ok(Self::Text(text.clone())),
            Value::Bool(flag) => Ok(Self::Bool(*flag)),
            Value::Number(number) => number.as_i64().map(Self::Integer).ok_or_else(|| {
                unusable(key, value, "compare fractions by a range, for example `price>=1.5`")
            }),
            Value::Null | Value::Array(_) | Value::Object(_) => {
                Err(unusable(key, value, "compare with a string, an integer, `true` or `false`"))
            }
        }
    }

    /// All strings, or all integers.
    pub(crate) fn all(key: &str, values: &[Value]) -> Result<Result<Vec<String>, Vec<i64>>, RagError> {
        let (mut texts, mut integers) = (Vec::new(), Vec::new());
        for value in values {
            match Self::of(key, value)? {
                Self::Text(text) => texts.push(text),
                Self::Integer(integer) => integers.push(integer),
                Self::Bool(_) => return Err(unusable(key, value, "list strings or integers")),
            }
        }
        match (texts.is_empty(), integers.is_empty()) {
            (_, true) => Ok(Ok(texts)),
            (true, false) => Ok(Err(integers)),
            (false, false) => Err(unusable(key, &Value::from(values), "list strings or integers, not both")),
        }
    }
}

fn unusable(key: &str, value: &Value, hint: &str) -> RagError {
    RagError::invalid(format!("filter on `{key}`"), format!("a field cannot equal {value}"), hint)
}
