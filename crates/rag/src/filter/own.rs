//! Conditions on the metadata that documents carry of their own.

use serde_json::Value;

use super::parse::{Operand, Typed};
use super::{Bounds, Condition, Filter};
use crate::RagError;
use crate::metadata::{as_written, path, usable_name};

/// From here on not every integer is a float.
const EXACT: u64 = 1 << 53;

/// `typed` on the field of this name.
///
/// # Errors
/// A name that no document's metadata can have; what is no condition.
pub(super) fn filter(typed: &Typed<'_>, name: &str) -> Result<Filter, RagError> {
    usable_name(name).map_err(|reason| {
        RagError::invalid(
            format!("filter on `meta.{}`", name.escape_debug()),
            format!("no document has such a field: {reason}"),
            "write `meta.NAME=VALUE`; quotes go around the whole name (`meta.\"a=b\"=1`)",
        )
    })?;
    typed.filter(&path(name), equality)
}

/// What is not quoted is text and what it looks like: nothing says which a field holds. A number is any that is equal,
/// also one written with a fraction.
fn equality(key: String, values: Vec<Operand<'_>>) -> Condition {
    let mut texts = Vec::new();
    let mut conditions = Vec::new();
    for operand in values {
        let text = match operand {
            Operand::Quoted(text) => text,
            Operand::Plain(text) => {
                let condition = untexted(&key, as_written(text));
                conditions.extend(condition.filter(|condition| !conditions.contains(condition)));
                text
            }
        };
        let text = Value::from(text);
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    let text = match texts.as_slice() {
        [text] => Condition::Equals { key, value: text.clone() },
        _ => Condition::AnyOf { key, values: texts },
    };
    if conditions.is_empty() {
        return text;
    }
    conditions.push(text);
    Condition::Either(conditions)
}

/// For a value that does not look like text.
fn untexted(key: &str, value: Value) -> Option<Condition> {
    let key = key.to_owned();
    match &value {
        Value::String(_) => None,
        Value::Number(number) if number.as_i64().is_none_or(|integer| integer.unsigned_abs() <= EXACT) => {
            let number = number.as_f64();
            Some(Condition::Range { key, bounds: Bounds { gte: number, lte: number, ..Bounds::default() } })
        }
        _ => Some(Condition::Equals { key, value }),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Chunk;

    fn must(text: &str) -> Condition {
        Chunk::filter(text).unwrap().must.remove(0)
    }

    fn equals(key: &str, value: Value) -> Condition {
        Condition::Equals { key: key.to_owned(), value }
    }

    fn number(key: &str, number: f64) -> Condition {
        let bounds = Bounds { gte: Some(number), lte: Some(number), ..Bounds::default() };
        Condition::Range { key: key.to_owned(), bounds }
    }

    #[test]
    fn fields_of_the_documents_own_lie_below_one_field() {
        assert_eq!(must("meta.author=Jane Doe"), equals("meta.author", json!("Jane Doe")));
        assert_eq!(must("meta.a.b=x"), equals("meta.\"a.b\"", json!("x")));
        assert_eq!(must("meta.\"a = b\"=x"), equals("meta.\"a = b\"", json!("x")));
        assert_eq!(must("meta.Größe=x"), equals("meta.Größe", json!("x")));
        assert_eq!(must("meta.tenant=b"), equals("meta.tenant", json!("b")));
        assert_eq!(must("meta.year=?"), Condition::Exists { key: "meta.year".to_owned() });
        for text in ["meta.=1", "meta.a\"b\"=1", "meta.\"\"=1", "meta.a\\=1"] {
            Chunk::filter(text).unwrap_err();
        }
    }

    #[test]
    fn what_is_not_quoted_is_text_or_what_it_looks_like() {
        let (key, text) = ("meta.k", |text: &str| equals("meta.k", json!(text)));
        assert_eq!(must("meta.k=2001"), Condition::Either(vec![number(key, 2001.0), text("2001")]));
        assert_eq!(must("meta.k=1.50"), Condition::Either(vec![number(key, 1.5), text("1.50")]));
        assert_eq!(must("meta.k=true"), Condition::Either(vec![equals(key, json!(true)), text("true")]));
        assert_eq!(must("meta.k=\"2001\""), text("2001"));
        assert_eq!(must("meta.k=007"), text("007"));
        let large = 9_007_199_254_740_993_i64;
        let exact = Condition::Either(vec![equals(key, json!(large)), text(&large.to_string())]);
        assert_eq!(must(&format!("meta.k={large}")), exact);
        let same = Condition::AnyOf { key: key.to_owned(), values: vec![json!("1.5"), json!("1.50")] };
        assert_eq!(must("meta.k=1.5,1.50,\"1.5\""), Condition::Either(vec![number(key, 1.5), same]));
        let texts = Condition::AnyOf { key: key.to_owned(), values: vec![json!("1"), json!("a, b")] };
        assert_eq!(must("meta.k=1,\"a, b\""), Condition::Either(vec![number(key, 1.0), texts]));
    }
}
