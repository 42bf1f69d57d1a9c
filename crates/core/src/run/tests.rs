use proptest::prelude::*;
use serde_json::json;

use super::*;

fn spec() -> RunSpec {
    let digest = |of: &str| Digest::of(of.as_bytes());
    let task = |name: &str| {
        json!({
            "task": name, "version": "1", "definition": digest("definition"), "dataset": digest("rows"),
            "protocol": digest("protocol"), "shots": 2, "repeats": 1, "docs": [0, 10],
            "generation": {"temperature": 0.0, "until": ["\n"], "max_tokens": 8},
        })
    };
    let model = json!({
        "ref": "local/m", "weights": digest("weights"), "tokenizer": digest("tokenizer"),
        "chat_template": digest("template"), "adapter": digest("adapter"), "trained_on": digest("pairs"),
        "dtype": "f32", "device": "cpu",
    });
    serde_json::from_value(json!({
        "model": model, "mode": "default", "scorer_version": 3, "seed": 7, "chat_template": true,
        "system_instruction": "Be brief.", "rendered_at": "2026-11-22T00:00:00",
        "tasks": [task("one"), task("two")],
    }))
    .unwrap()
}

/// Every leaf of a specification, as a JSON pointer.
fn leaves(value: &Value, path: &str, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| leaves(value, &format!("{path}/{key}"), found));
        }
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(i, item)| leaves(item, &format!("{path}/{i}"), found));
        }
        _ => found.push(path.to_owned()),
    }
}

/// Another value of the same kind; digests, modes and names of models stay valid ones.
fn other(value: &Value) -> Value {
    match value {
        Value::Bool(flag) => json!(!flag),
        Value::Number(number) => number.as_u64().map_or(json!(0.5), |number| json!(number + 1)),
        Value::String(text) => match text.as_str() {
            "default" => json!("lm-eval"),
            text if Digest::parse(text).is_some() => json!(Digest::of(text.as_bytes())),
            text => json!(format!("{text}x")),
        },
        other => unreachable!("{other} is no leaf"),
    }
}

proptest! {
    /// Whatever changes in a specification makes it another run, and is named with what it was and what it is.
    #[test]
    fn promise_4_every_field_that_differs_is_named(
        changes in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
    ) {
        let stored = spec();
        let before = serde_json::to_value(&stored).unwrap();
        let mut all = Vec::new();
        leaves(&before, "", &mut all);
        let mut after = before.clone();
        let mut want = BTreeMap::new();
        for change in changes {
            let field = change.get(&all);
            let was = before.pointer(field).unwrap();
            *after.pointer_mut(field).unwrap() = other(was);
            // A task is named by its name, which is its stored one where that is what changed.
            let named = field.replacen("/tasks/0", "/tasks/one", 1).replacen("/tasks/1", "/tasks/two", 1);
            want.insert(named, (was.to_string(), other(was).to_string()));
        }
        let now: RunSpec = serde_json::from_value(after).unwrap();
        let found: BTreeMap<_, _> =
            stored.differences(&now).into_iter().map(|found| (found.field, (found.stored, found.now))).collect();
        prop_assert_eq!(stored.digest() == now.digest(), want.is_empty());
        prop_assert_eq!(found, want);
    }
}
