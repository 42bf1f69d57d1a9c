//! What documents carry for filters beside their text: columns of tables, fields of rows, front matter.
//!
//! The one decision: it is flat and small. Each chunk repeats what its document or row carries, and a name becomes a
//! part of a payload's path, so both are bounded and checked here; what is not kept is told.

mod carried;
mod front_matter;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use carried::Carried;
use front_matter::front_matter;

/// Payload field under which all of it lies: no name reaches another field, the tenant's least of all.
pub(crate) const METADATA_FIELD: &str = "meta";
/// How fields are typed in filters, and how their payload paths begin.
pub(crate) const TYPED_PREFIX: &str = "meta.";

/// Bytes of a name.
const LONGEST_NAME: usize = 64;
/// Bytes of a text: more is the document, not something to filter by.
const LONGEST_TEXT: usize = 256;
/// Of one field.
const MOST_VALUES: usize = 32;
/// Of one document or row.
const MOST_FIELDS: usize = 64;
/// Of one document or row together, as JSON: it is stored with every chunk.
const MOST_BYTES: usize = 8 << 10;
/// How many of the fields that are not kept for a reason are named.
const SHOWN: usize = 5;

/// Which values a field has, in what is indexed of a document.
pub(crate) type Fields = BTreeMap<String, BTreeSet<ValueKind>>;

/// What a value can be compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ValueKind {
    Text,
    Number,
    Flag,
}

impl ValueKind {
    /// Of a value that is kept, or of each in a list.
    pub(crate) fn all_of(value: &Value) -> BTreeSet<Self> {
        let values = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        let kind = |value: &Value| match value {
            Value::Bool(_) => Self::Flag,
            Value::Number(_) => Self::Number,
            _ => Self::Text,
        };
        values.iter().map(kind).collect()
    }
}

/// What of a document's metadata is not kept: the reason, the same for every document, and the note.
pub(crate) type Untold = (&'static str, String);

/// Fields that are not kept, by the reason.
#[derive(Clone, Debug, Default, PartialEq)]
struct Unkept(BTreeMap<&'static str, Names>);

/// The first few, and whether there are more.
#[derive(Clone, Debug, Default, PartialEq)]
struct Names {
    first: BTreeSet<String>,
    are_more: bool,
}

impl Unkept {
    fn add(&mut self, name: &str, reason: &'static str) {
        let name: String = name.chars().take(LONGEST_NAME).collect();
        let names = self.0.entry(reason).or_default();
        if names.first.len() < SHOWN || names.first.contains(&name) {
            names.first.insert(name);
        } else {
            names.are_more = true;
        }
    }

    /// What the user should know: nothing where everything was kept.
    fn notes(&self) -> impl Iterator<Item = Untold> {
        self.0.iter().map(|(reason, names)| {
            let named = names.first.iter().map(|name| format!("`{}`", name.escape_debug()));
            let more = if names.are_more { " and others" } else { "" };
            let named = named.collect::<Vec<_>>().join(", ");
            (*reason, format!("not kept for filters: {named}{more} ({reason})"))
        })
    }
}

/// What of a row, or of front matter, is kept for filters: texts, numbers, booleans, and lists of these. What is null,
/// empty text or an empty list is as if it were not there.
fn kept(fields: impl IntoIterator<Item = (String, Value)>, unkept: &mut Unkept) -> Map<String, Value> {
    let mut kept = Map::new();
    let mut bytes = 0;
    for (name, value) in fields {
        let name = name.trim();
        let value = match usable_name(name).and_then(|()| usable(value)) {
            Ok(Some(value)) => value,
            Ok(None) => continue,
            Err(reason) => {
                unkept.add(name, reason);
                continue;
            }
        };
        let more = name.len() + value.to_string().len();
        if kept.contains_key(name) {
            unkept.add(name, "a field before it has the same name");
        } else if kept.len() >= MOST_FIELDS || bytes + more > MOST_BYTES {
            unkept.add(name, "there is too much before it");
        } else {
            bytes += more;
            kept.insert(name.to_owned(), value);
        }
    }
    kept
}

/// Whether a name can stand in the path of a payload field, which has no way to escape a quote.
pub(crate) fn usable_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("it has no name");
    }
    if name.len() > LONGEST_NAME {
        return Err("its name is longer than 64 bytes");
    }
    match name.chars().any(|char| matches!(char, '"' | '\\') || char.is_control()) {
        true => Err("its name has quotes, backslashes or control characters"),
        false => Ok(()),
    }
}

fn usable(value: Value) -> Result<Option<Value>, &'static str> {
    match value {
        Value::Array(values) if values.len() > MOST_VALUES => Err("a list of more than 32"),
        Value::Array(values) => {
            let values = values.into_iter().filter_map(|value| scalar(value).transpose());
            let values = values.collect::<Result<Vec<_>, _>>()?;
            Ok((!values.is_empty()).then_some(Value::Array(values)))
        }
        value => scalar(value),
    }
}

fn scalar(value: Value) -> Result<Option<Value>, &'static str> {
    match value {
        Value::Null => Ok(None),
        Value::String(text) if text.is_empty() => Ok(None),
        Value::String(text) if text.len() > LONGEST_TEXT => Err("longer than 256 bytes"),
        Value::Number(number) if number.is_u64() && number.as_i64().is_none() => {
            Err("a number beyond 64 bits")
        }
        Value::Array(_) | Value::Object(_) => Err("it has fields or lists of its own"),
        value => Ok(Some(value)),
    }
}

/// What a text looks like where nothing says what it is: in a cell of a table, and in a filter as it is typed. Only a
/// number that keeps all that is written is one, zeros at the end of a fraction excepted (`12.50`): `007`, `1e5` and
/// what has more digits than a number can hold are names.
pub(crate) fn as_written(text: &str) -> Value {
    match text {
        "true" => return Value::Bool(true),
        "false" => return Value::Bool(false),
        _ => {}
    }
    if let Some(integer) = text.parse::<i64>().ok().filter(|integer| integer.to_string() == text) {
        return Value::from(integer);
    }
    match text.parse::<f64>() {
        Ok(number) if is_exact(text, number) => Value::from(number),
        _ => Value::from(text),
    }
}

/// Whether a text with a fraction is this number. The shortest form has no exponent, and no fraction that is zero.
fn is_exact(text: &str, number: f64) -> bool {
    let is_fraction = text.contains('.') && !text.ends_with('.');
    is_fraction && text.trim_end_matches('0').trim_end_matches('.') == number.to_string()
}

/// The path of a field in a payload.
pub(crate) fn path(name: &str) -> String {
    // As the engine writes it.
    let is_plain = name.chars().all(|char| char.is_alphanumeric() || matches!(char, '_' | '-'));
    if is_plain { format!("{TYPED_PREFIX}{name}") } else { format!("{TYPED_PREFIX}\"{name}\"") }
}

/// The name in such a path, or in what was typed; `None` for another field's.
pub(crate) fn name_of(path: &str) -> Option<&str> {
    let name = path.strip_prefix(TYPED_PREFIX)?;
    Some(name.strip_prefix('"').and_then(|name| name.strip_suffix('"')).unwrap_or(name))
}

#[cfg(test)]
mod tests;
