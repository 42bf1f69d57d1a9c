use std::str::FromStr;

use serde_json::{Number, Value};

use super::{Bounds, Condition, Filter};
use crate::RagError;

/// Values of one condition: each is a comparison that the store makes.
const MOST_OPERANDS: usize = 64;

/// Conditions as they are typed, one at a time:
///
/// ```text
/// kind=note   year!=2001   price>=1.5   kind=note,paper   more.author=?   title="2001"   title="a, b",c
/// ```
///
/// `=` with commas is any of them, `=?` means the field is there, `!=` negates. Integers, `true` and
/// `false` are what they look like, in double quotes they are text. An operator in double quotes is part of the
/// field's name (`meta."a=b"=1`).
impl FromStr for Filter {
    type Err = RagError;

    fn from_str(text: &str) -> Result<Self, RagError> {
        let typed = Typed::of(text)?;
        typed.filter(typed.key, |key, values| match values.as_slice() {
            [value] => Condition::Equals { key, value: value.scalar() },
            values => Condition::AnyOf { key, values: values.iter().map(Operand::scalar).collect() },
        })
    }
}

/// A condition in its parts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Typed<'a> {
    text: &'a str,
    pub(super) key: &'a str,
    operator: &'static str,
    value: &'a str,
}

/// A value to compare with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operand<'a> {
    Quoted(&'a str),
    Plain(&'a str),
}

impl<'a> Typed<'a> {
    pub(super) fn of(text: &'a str) -> Result<Self, RagError> {
        let (key, operator, value) = split(text).ok_or_else(|| unusable(text, "is no condition"))?;
        if key.is_empty() {
            return Err(unusable(text, "names no field"));
        }
        Ok(Self { text, key, operator, value })
    }

    /// The condition on a field of the payload; `equality` says what `=` means there.
    pub(super) fn filter(
        &self,
        key: &str,
        equality: impl FnOnce(String, Vec<Operand<'a>>) -> Condition,
    ) -> Result<Filter, RagError> {
        let key = key.to_owned();
        let condition = match (self.operator, self.value) {
            ("=" | "!=", "?") => Condition::Exists { key },
            ("=" | "!=", value) => equality(key, self.operands(value)?),
            (operator, value) => Condition::Range { key, bounds: self.bounds(operator, value)? },
        };
        Ok(match self.operator {
            "!=" => Filter { must: Vec::new(), must_not: vec![condition] },
            _ => Filter { must: vec![condition], must_not: Vec::new() },
        })
    }

    /// Apart by commas, those in quotes excepted; each once.
    fn operands(&self, mut rest: &'a str) -> Result<Vec<Operand<'a>>, RagError> {
        let mut operands = Vec::new();
        loop {
            rest = rest.trim_start();
            let (operand, behind) = quoted(rest).unwrap_or_else(|| {
                let (plain, behind) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                (Operand::Plain(plain.trim_end()), behind)
            });
            if !operands.contains(&operand) {
                operands.push(operand);
            }
            if operands.len() > MOST_OPERANDS {
                return Err(too_many(self.key));
            }
            match behind.strip_prefix(',') {
                Some(next) => rest = next,
                None => return Ok(operands),
            }
        }
    }

    fn bounds(&self, operator: &str, value: &str) -> Result<Bounds, RagError> {
        let number = value.parse().ok().filter(|number: &f64| number.is_finite());
        let number =
            number.ok_or_else(|| unusable(self.text, "compares with something that is no number"))?;
        let mut bounds = Bounds::default();
        let bound = match operator {
            ">" => &mut bounds.gt,
            ">=" => &mut bounds.gte,
            "<" => &mut bounds.lt,
            _ => &mut bounds.lte,
        };
        *bound = Some(number);
        Ok(bounds)
    }
}

/// At the first operator outside of quotes; of two that begin alike the longer one.
fn split(text: &str) -> Option<(&str, &'static str, &str)> {
    let mut is_quoted = false;
    let at = text.find(|char: char| {
        is_quoted ^= char == '"';
        !is_quoted && matches!(char, '=' | '!' | '<' | '>')
    })?;
    let (key, rest) = text.split_at(at);
    let operator = ["!=", ">=", "<=", "=", ">", "<"].into_iter().find(|one| rest.starts_with(one))?;
    Some((key.trim(), operator, rest[operator.len()..].trim()))
}

/// A value in quotes that end before a comma or at the end, and what is behind them.
fn quoted(text: &str) -> Option<(Operand<'_>, &str)> {
    let inside = text.strip_prefix('"')?;
    inside.match_indices('"').find_map(|(at, _)| {
        let behind = inside[at + 1..].trim_start();
        (behind.is_empty() || behind.starts_with(',')).then_some((Operand::Quoted(&inside[..at]), behind))
    })
}

impl Operand<'_> {
    fn scalar(&self) -> Value {
        match *self {
            Self::Quoted(text) => Value::from(text),
            Self::Plain("true") => Value::Bool(true),
            Self::Plain("false") => Value::Bool(false),
            Self::Plain(text) => text
                .parse::<i64>()
                .map_or_else(|_| Value::from(text), |number| Value::Number(Number::from(number))),
        }
    }
}

fn too_many(key: &str) -> RagError {
    RagError::invalid(
        format!("filter on `{}`", key.escape_debug()),
        format!("it has more than {MOST_OPERANDS} values"),
        "ask in several searches; a value that has commas stands in double quotes",
    )
}

pub(super) fn unusable(text: &str, message: &str) -> RagError {
    RagError::invalid(
        format!("filter `{}`", text.escape_debug()),
        message,
        "write for example `kind=markdown`, `page>=3`, `kind!=html,pdf`, `page=?` or `meta.author=\"Jane Doe\"`",
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
        let any = |key: &str, values| Condition::AnyOf { key: key.to_owned(), values };
        assert_eq!(must("k=\"a, b\" , c d,3"), any("k", vec![json!("a, b"), json!("c d"), json!(3)]));
        assert_eq!(must("k=\"a\",\"b\""), any("k", vec![json!("a"), json!("b")]));
        assert_eq!(must("k=\"say \"hi\" twice\""), equals("k", json!("say \"hi\" twice")));
        assert_eq!(must("k=5\" disk"), equals("k", json!("5\" disk")));
        assert_eq!(must("k=a=b"), equals("k", json!("a=b")));
        assert_eq!(must("\"a=b\"=1"), equals("\"a=b\"", json!(1)));
        let not: Filter = "kind!=note".parse().unwrap();
        assert_eq!((not.must.len(), not.must_not), (0, vec![equals("kind", json!("note"))]));
    }

    #[test]
    fn what_is_no_condition_is_refused() {
        for text in ["", "kind", "=x", "p>high", "p>nan", "p<inf", "!x", "\"a=b"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_count_once_and_are_bounded() {
        assert_eq!(must("k=a,a, a"), Condition::Equals { key: "k".to_owned(), value: json!("a") });
        let typed = |values: usize| {
            let values: Vec<String> = (0..values).map(|value| value.to_string()).collect();
            format!("k={}", values.join(",")).parse::<Filter>()
        };
        typed(MOST_OPERANDS).unwrap();
        assert!(typed(MOST_OPERANDS + 1).unwrap_err().to_string().contains("more than 64 values"));
    }
}
