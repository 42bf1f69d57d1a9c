use std::fmt;

use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// A JSON object of strings (numbers are taken as they are written). A field that occurs twice says two
/// things, so such an object is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StringObject(Vec<(String, String)>);

impl StringObject {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum Scalar {
    Text(String),
    Number(serde_json::Number),
}

impl<'de> Deserialize<'de> for StringObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Fields)
    }
}

struct Fields;

impl<'de> Visitor<'de> for Fields {
    type Value = StringObject;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<StringObject, A::Error> {
        let mut fields: Vec<(String, String)> = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.iter().any(|(known, _)| *known == name) {
                return Err(A::Error::custom(format!("`{name}` occurs twice")));
            }
            let value = match map.next_value::<Scalar>()? {
                Scalar::Text(text) => text,
                Scalar::Number(number) => number.to_string(),
            };
            fields.push((name, value));
        }
        Ok(StringObject(fields))
    }
}
