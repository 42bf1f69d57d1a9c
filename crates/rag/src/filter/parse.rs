use std::str::FromStr;

use serde_json::{Number, Value};

use super::{Bounds, Condition, Filter};
use crate::RagError;

/// Conditions as they are typed, one at a time:
///
/// ```text
/// kind=note   year!=2001   price>=1.5   kind=note,paper   more.author=?   title="2001"
/// ```
///
/// `=` with commas is any of them, `=?` means the field is there, `!=` negates. Integers, `true` and
/// `false` are what they look like, in double quotes they are text.
impl FromStr for Filter {
    type Err = RagError;

    fn from_str(text: &str) -> Result<Self, RagError> {
        let (key, operator, value) = split(text).ok_or_else(|| unusable(text, "is no condition"))?;
        if key.is_empty() {
            return Err(unusable(text, "names no field"));
        }
        let key = key.to_owned();
        let condition = match operator {
            "=" | "!=" => equality(key, value),
            _ => {
                let number = value.parse().ok().filter(|number: &f64| number.is_finite());
                let number =
                    number.ok_or_else(|| unusable(text, "compares with something that is no number"))?;
                let mut bounds = Bounds::default();
                let bound = match operator {
                    ">" => &mut bounds.gt,
                    ">=" => &mut bounds.gte,
                    "<" => &mut bounds.lt,
                    _ => &mut bounds.lte,
                };
                *bound = Some(number);
                Condition::Range { key, bounds }
            }
        };
        Ok(match operator {
            "!=" => Self { must: Vec::new(), must_not: vec![condition] },
            _ => Self { must: vec![condition], must_not: Vec::new() },
        })
    }
}

/// At the first operator; of two that begin alike the longer one.
fn split(text: &str) -> Option<(&str, &'static str, &str)> {
    let at = text.find(['=', '!', '<', '>'])?;
    let (key, rest) = text.split_at(at);
    let operator = ["!=", ">=", "<=", "=", ">", "<"].into_iter().find(|one| rest.starts_with(one))?;
    Some((key.trim(), operator, rest[operator.len()..].trim()))
}

fn equality(key: String, value: &str) -> Condition {
    if value == "?" {
        return Condition::Exists { key };
    }
    if !value.starts_with('"') && value.contains(',') {
        return Condition::AnyOf { key, values: value.split(',').map(|one| scalar(one.trim())).collect() };
    }
    Condition::Equals { key, value: scalar(value) }
}

fn scalar(text: &str) -> Value {
    let quoted = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    match (quoted, text) {
        (Some(text), _) => Value::from(text),
        (None, "true") => Value::Bool(true),
        (None, "false") => Value::Bool(false),
        (None, text) => text
            .parse::<i64>()
            .map_or_else(|_| Value::from(text), |number| Value::Number(Number::from(number))),
    }
}

fn unusable(text: &str, message: &str) -> RagError {
    RagError::invalid(
        format!("filter `{}`", text.escape_debug()),
        message,
        "write for example `kind=markdown`, `page>=3`, `kind!=html,pdf` or `page=?`",
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn must(text: &str) -> Condition {
        let mut filter: Filter = text.parse().unwrap();
        assert!(filter.must_not.is_empty());
        filter.must.remove(0)
    }

    #[test]
    fn conditions_as_people_type_them() {
        let equals = |key: &str, value| Condition::Equals { key: key.to_owned(), value };
        assert_eq!(must("kind=note"), equals("kind", json!("note")));
        assert_eq!(must("a.b = x y"), equals("a.b", json!("x y")));
        assert_eq!(must("year=2001"), equals("year", json!(2001)));
        assert_eq!(must("year=\"2001\""), equals("year", json!("2001")));
        assert_eq!(must("open=true"), equals("open", json!(true)));
        assert_eq!(must("name=\"a,b\""), equals("name", json!("a,b")));
        assert_eq!(must("k=?"), Condition::Exists { key: "k".to_owned() });
        assert_eq!(
            must("k=1, 2"),
            Condition::AnyOf { key: "k".to_owned(), values: vec![json!(1), json!(2)] }
        );
        let bounds = Bounds { lte: Some(-1.5), ..Bounds::default() };
        assert_eq!(must("p<=-1.5"), Condition::Range { key: "p".to_owned(), bounds });
        let not: Filter = "kind!=note".parse().unwrap();
        assert_eq!((not.must.len(), not.must_not), (0, vec![equals("kind", json!("note"))]));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "kind", "=x", "p>high", "p>nan", "p<inf", "!x"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}
