//! Results of any shape as tables: what a run of another kind than an evaluation came to.

use serde::Serialize;
use serde_json::{Map, Value};

/// Lines of a table, and names beside values: what is more is in the document that can be downloaded.
const MOST_LINES: usize = 50;

/// Characters of a text in a table.
const MOST_CHARS: usize = 200;

/// Numbers and texts by name, and lists of such.
#[derive(Debug, Default, PartialEq, Serialize)]
pub(super) struct Facts {
    named: Vec<(String, String)>,
    tables: Vec<Table>,
}

#[derive(Debug, PartialEq, Serialize)]
struct Table {
    name: String,
    columns: Vec<String>,
    lines: Vec<Vec<String>>,
    /// Lines that are not shown.
    more: usize,
}

impl Facts {
    /// What stands in a document, down to lists of objects: `a.b` is the `b` of `a`.
    pub(super) fn of(document: &Value) -> Self {
        let mut facts = Self::default();
        facts.add("", document);
        facts.named.truncate(MOST_LINES);
        facts
    }

    fn add(&mut self, name: &str, value: &Value) {
        if let Some(text) = in_line(value) {
            return self.named.push((readable(name), text));
        }
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    let name = if name.is_empty() { field.clone() } else { format!("{name}.{field}") };
                    self.add(&name, value);
                }
            }
            Value::Array(items) => self.tables.extend(table(name, items)),
            _ => {}
        }
    }
}

/// A list of objects: the columns are the fields whose values fit into a line.
fn table(name: &str, items: &[Value]) -> Option<Table> {
    let objects: Vec<&Map<String, Value>> = items.iter().filter_map(Value::as_object).collect();
    let mut columns: Vec<&String> = Vec::new();
    for (field, value) in objects.iter().flat_map(|object| object.iter()) {
        if in_line(value).is_some() && !columns.contains(&field) {
            columns.push(field);
        }
    }
    if columns.is_empty() {
        return None;
    }
    let line = |object: &&Map<String, Value>| {
        let cell = |column: &&String| object.get(*column).and_then(in_line).unwrap_or_default();
        columns.iter().map(cell).collect()
    };
    Some(Table {
        name: readable(name),
        lines: objects.iter().take(MOST_LINES).map(line).collect(),
        more: objects.len().saturating_sub(MOST_LINES),
        columns: columns.iter().map(|column| readable(column)).collect(),
    })
}

/// A value that is a number, a text, or an interval. What is unknown is said as `-`.
fn in_line(value: &Value) -> Option<String> {
    Some(match value {
        Value::Null => "-".to_owned(),
        Value::Bool(is_so) => (if *is_so { "yes" } else { "no" }).to_owned(),
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (None, Some(number)) => format!("{number:.4}"),
            _ => number.to_string(),
        },
        Value::String(text) => shortened(text),
        Value::Array(items) => match items.as_slice() {
            [Value::Number(_), Value::Number(_)] => {
                format!("{} to {}", in_line(&items[0])?, in_line(&items[1])?)
            }
            _ => return None,
        },
        Value::Object(_) => return None,
    })
}

fn shortened(text: &str) -> String {
    match text.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

fn readable(name: &str) -> String {
    name.replace('_', " ").replace('.', ": ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_texts_intervals_and_lists_are_shown() {
        let standing = |name: &str, rating: f64| json!({"name": name, "rating": rating, "ci95": [rating - 1.0, rating + 1.0]});
        let facts = Facts::of(&json!({
            "votes": 3, "agreed": true, "kappa": null, "report": {"mean_score": 0.25},
            "standings": [standing("a", 2.0), standing("b", 1.5)], "empty": [], "plain": [1, 2, 3],
        }));
        let named = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            facts.named,
            [
                named("votes", "3"),
                named("agreed", "yes"),
                named("kappa", "-"),
                named("report: mean score", "0.2500")
            ]
        );
        let [table] = facts.tables.as_slice() else { panic!("{facts:?}") };
        assert_eq!((table.name.as_str(), table.more), ("standings", 0));
        assert_eq!(table.columns, ["name", "rating", "ci95"]);
        assert_eq!(table.lines[1], ["b", "1.5000", "0.5000 to 2.5000"]);
    }

    #[test]
    fn long_lists_and_texts_are_cut_and_say_so() {
        let rows: Vec<Value> = (0..60).map(|n| json!({"n": n, "text": "é".repeat(300)})).collect();
        let facts = Facts::of(&json!({"rows": rows}));
        assert_eq!((facts.tables[0].lines.len(), facts.tables[0].more), (50, 10));
        assert!(facts.tables[0].lines[0][1].ends_with("é ..."));
        assert_eq!(Facts::of(&json!("nothing")).tables, []);
    }
}
