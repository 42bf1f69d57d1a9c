use std::collections::BTreeMap;
use std::fmt;

use evalign_core::TaskSpec;
use evalign_store::StoredRun;
use serde::Serialize;
use serde_json::{Map, Value, json};

use crate::{RunError, request_of};

/// Digests are shown this long; values longer than this are cut.
const SHOWN_CHARACTERS: usize = 60;

/// Something in which two runs measured differently.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ProtocolDifference {
    pub field: String,
    pub a: String,
    pub b: String,
    /// The tasks it concerns.
    pub tasks: Vec<String>,
}

impl fmt::Display for ProtocolDifference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} in A, {} in B", self.field, self.a, self.b)?;
        match self.tasks.as_slice() {
            [] => Ok(()),
            [only] => write!(f, " ({only})"),
            [first, rest @ ..] => write!(f, " ({first} and {} more)", rest.len()),
        }
    }
}

/// Every field behind the protocols of the common tasks that differs, in the order it is found; empty
/// where all protocols are the same.
pub(super) fn protocol_differences(
    a: &StoredRun,
    b: &StoredRun,
    common: &[(TaskSpec, TaskSpec)],
) -> Result<Vec<ProtocolDifference>, RunError> {
    let (whole_a, whole_b) = (of_run(a)?, of_run(b)?);
    let mut found: Vec<ProtocolDifference> = Vec::new();
    for (spec_a, spec_b) in common.iter().filter(|(a, b)| a.protocol != b.protocol) {
        let mut fields = differing(&whole_a, &whole_b);
        fields.extend(differing(&of_task(spec_a), &of_task(spec_b)));
        // The run's seed decides something only where shots are drawn by it.
        if fields.len() > 1 || spec_a.shots == 0 {
            fields.retain(|(field, _, _)| field != "seed");
        }
        // The rows that shots come from count as data only where there are shots.
        if (spec_a.shots == 0) != (spec_b.shots == 0) {
            fields.retain(|(field, _, _)| field != "dataset");
        }
        if fields.is_empty() {
            let short = |spec: &TaskSpec| spec.protocol.short().to_owned();
            fields.push(("protocol".to_owned(), short(spec_a), short(spec_b)));
        }
        for (field, a, b) in fields {
            match found.iter_mut().find(|known| known.field == field && known.a == a && known.b == b) {
                Some(known) => known.tasks.push(spec_a.task.clone()),
                None => found.push(ProtocolDifference { field, a, b, tasks: vec![spec_a.task.clone()] }),
            }
        }
    }
    Ok(found)
}

/// What applies to all tasks of a run.
fn of_run(run: &StoredRun) -> Result<BTreeMap<String, Value>, RunError> {
    let mut fields = object(json!(run.spec));
    // Which model, and which tasks, is what is compared.
    for name in ["model", "tasks"] {
        fields.remove(name);
    }
    if let Some(rules) = &run.scored_by {
        fields.insert("scorer_version".to_owned(), json!(rules.scorer_version));
    }
    // `mode` is called by what is typed.
    if let Some(mode) = fields.remove("mode") {
        fields.insert("compat".to_owned(), mode);
    }
    // The request says these; a run that does not has the defaults.
    let request = request_of(run)?;
    fields.insert("multiturn".to_owned(), json!(request.multiturn));
    fields.entry("system_instruction").or_insert(Value::Null);
    Ok(flat(fields))
}

fn of_task(spec: &TaskSpec) -> BTreeMap<String, Value> {
    let mut fields = object(json!(spec));
    for name in ["task", "protocol", "docs"] {
        fields.remove(name);
    }
    flat(fields)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// `{"generation": {"temperature": 0}}` as `generation.temperature: 0`.
fn flat(fields: Map<String, Value>) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for (name, value) in fields {
        match value {
            Value::Object(inner) => {
                found.extend(flat(inner).into_iter().map(|(key, value)| (format!("{name}.{key}"), value)));
            }
            value => drop(found.insert(name, value)),
        }
    }
    found
}

fn differing(a: &BTreeMap<String, Value>, b: &BTreeMap<String, Value>) -> Vec<(String, String, String)> {
    let names = a.keys().chain(b.keys().filter(|name| !a.contains_key(*name)));
    names
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| (name.clone(), shown(a.get(name)), shown(b.get(name))))
        .collect()
}

fn shown(value: Option<&Value>) -> String {
    let text = match value {
        None | Some(Value::Null) => return "none".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(value) => value.to_string(),
    };
    let digest = text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    let most = if digest { 12 } else { SHOWN_CHARACTERS };
    match text.char_indices().nth(most) {
        Some((end, _)) if digest => text[..end].to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_named_by_their_path() {
        let fields = |value: Value| flat(object(value));
        let a = fields(json!({"chat_template": false, "generation": {"temperature": 0.0, "until": ["\n"]}}));
        let b = fields(json!({"chat_template": true, "generation": {"temperature": 0.5, "until": ["\n"]}}));
        let found = differing(&a, &b);
        assert_eq!(
            found,
            [
                ("chat_template".to_owned(), "false".to_owned(), "true".to_owned()),
                ("generation.temperature".to_owned(), "0.0".to_owned(), "0.5".to_owned()),
            ]
        );
    }

    #[test]
    fn values_are_shown_short() {
        assert_eq!(shown(Some(&json!("a".repeat(64)))), "aaaaaaaaaaaa");
        assert_eq!(shown(Some(&json!("ü".repeat(99)))).chars().count(), SHOWN_CHARACTERS + 1);
        assert_eq!(shown(None), "none");
    }
}
