use std::path::Path;

use evalign_data::{Limits, Row, read_jsonl};
use serde_json::Value;

use crate::RunError;

/// One line of a reference log; what it does not say is absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ReferenceItem {
    pub(crate) doc: u64,
    pub(crate) doc_hash: Option<String>,
    pub(crate) prompt_hash: Option<String>,
    pub(crate) prompt: Option<String>,
    pub(crate) continuations: Option<Vec<String>>,
    /// Sum in nats and whether every token was the greedy one, by choice.
    pub(crate) log_likelihoods: Option<Vec<(f64, Option<bool>)>>,
    /// Generated texts in repeat order.
    pub(crate) texts: Option<Vec<String>>,
    /// Extracted answers as (filter, answer).
    pub(crate) answers: Vec<(String, String)>,
    /// Values as (filter, metric, value); an empty filter fits the only one.
    pub(crate) metrics: Vec<(String, String, f64)>,
}

/// Reads `samples_*.jsonl` of lm-evaluation-harness, or the condensed form of it with `prompt_sha256`.
pub(super) fn read_items(path: &Path, limits: &Limits) -> Result<Vec<ReferenceItem>, RunError> {
    let mut items = Vec::new();
    for (line, row) in (1u64..).zip(read_jsonl(path, limits)?) {
        let row = row?;
        let item = if row.contains_key("prompt_sha256") { condensed(&row) } else { logged(&row) };
        let place = || format!("{}, line {line}", path.display());
        items.push(item.map_err(|message| RunError::malformed(place(), message))?);
    }
    Ok(items)
}

fn condensed(row: &Row) -> Result<ReferenceItem, String> {
    let mut item = ReferenceItem {
        doc: doc_id(row)?,
        doc_hash: text(row, "doc_sha256"),
        prompt_hash: text(row, "prompt_sha256"),
        prompt: text(row, "prompt"),
        continuations: row.get("continuations").and_then(strings),
        texts: text(row, "generation").map(|text| vec![text]),
        ..ReferenceItem::default()
    };
    if let Some(sums) = row.get("loglikelihood").and_then(Value::as_array) {
        let greedy = row.get("is_greedy").and_then(Value::as_array);
        let greedy = |i: usize| greedy.and_then(|g| g.get(i)).and_then(Value::as_bool);
        let pairs = sums.iter().enumerate().map(|(i, sum)| Some((sum.as_f64()?, greedy(i))));
        item.log_likelihoods = Some(pairs.collect::<Option<_>>().ok_or("`loglikelihood` holds no numbers")?);
    }
    for (field, value) in row {
        match value {
            Value::Object(filter) => {
                if let Some(answer) = text(filter, "extracted") {
                    item.answers.push((field.clone(), answer));
                }
                for (metric, value) in filter {
                    if let Some(value) = value.as_f64() {
                        item.metrics.push((field.clone(), metric.clone(), value));
                    }
                }
            }
            Value::Number(value) if field.starts_with("acc") || field == "exact_match" => {
                item.metrics.extend(value.as_f64().map(|value| (String::new(), field.clone(), value)));
            }
            _ => {}
        }
    }
    Ok(item)
}

/// A line of `samples_*.jsonl`.
pub(crate) fn logged(row: &Row) -> Result<ReferenceItem, String> {
    let filter = text(row, "filter").unwrap_or_default();
    let arguments = arguments(row.get("arguments").unwrap_or(&Value::Null));
    let responses = row.get("resps").and_then(Value::as_array).ok_or("no `resps`")?;
    let mut item = ReferenceItem {
        doc: doc_id(row)?,
        doc_hash: text(row, "doc_hash"),
        prompt_hash: text(row, "prompt_hash"),
        prompt: arguments.first().and_then(|a| a.first()).and_then(Value::as_str).map(str::to_owned),
        ..ReferenceItem::default()
    };
    // Choices: one response per choice, `[["-12.3", "False"]]`. Texts: `[["first", "second"]]`.
    let is_choice = |r: &Value| r.get(0).is_some_and(Value::is_array);
    if responses.iter().all(is_choice) {
        let continuations = arguments.iter().map(|a| a.get(1).and_then(Value::as_str).map(str::to_owned));
        item.continuations = continuations.collect();
        let pairs = responses.iter().map(|r| log_likelihood(&r[0]));
        item.log_likelihoods = Some(pairs.collect::<Option<_>>().ok_or("`resps` holds no log-likelihoods")?);
    } else {
        item.texts = responses.first().and_then(strings);
        let answer = row.get("filtered_resps").and_then(|f| f.get(0));
        if let Some(answer) = answer.and_then(Value::as_str) {
            item.answers.push((filter.clone(), answer.to_owned()));
        }
    }
    for metric in row.get("metrics").and_then(strings).unwrap_or_default() {
        if let Some(value) = row.get(&metric).and_then(Value::as_f64) {
            item.metrics.push((filter.clone(), metric, value));
        }
    }
    Ok(item)
}

/// `{"gen_args_0": {"arg_0": ..., "arg_1": ...}}` as the files have it, or the nested lists of older ones.
fn arguments(value: &Value) -> Vec<Vec<Value>> {
    fn items(value: &Value) -> Vec<Value> {
        match value {
            Value::Array(items) => items.clone(),
            Value::Object(map) => map.values().cloned().collect(),
            _ => Vec::new(),
        }
    }
    items(value).iter().map(items).collect()
}

/// `["-12.3", "False"]`: the reference writes both as text.
fn log_likelihood(value: &Value) -> Option<(f64, Option<bool>)> {
    let sum = value.get(0)?;
    let sum = sum.as_f64().or_else(|| sum.as_str()?.parse().ok())?;
    let greedy = value.get(1).and_then(|g| match g {
        Value::Bool(greedy) => Some(*greedy),
        Value::String(text) => text.to_ascii_lowercase().parse().ok(),
        _ => None,
    });
    Some((sum, greedy))
}

fn doc_id(row: &Row) -> Result<u64, String> {
    row.get("doc_id").and_then(Value::as_u64).ok_or_else(|| "no `doc_id`".to_owned())
}

fn text(row: &Row, field: &str) -> Option<String> {
    row.get(field).and_then(Value::as_str).map(str::to_owned)
}

fn strings(value: &Value) -> Option<Vec<String>> {
    value.as_array()?.iter().map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(value: Value) -> Row {
        match value {
            Value::Object(row) => row,
            other => panic!("{other} is no row"),
        }
    }

    #[test]
    fn lines_of_the_reference() {
        let item = logged(&row(json!({
            "doc_id": 3, "filter": "none", "metrics": ["acc"], "acc": 1.0, "prompt_hash": "h",
            "arguments": {"gen_args_0": {"arg_0": "ctx", "arg_1": " A"}, "gen_args_1": {"arg_0": "ctx", "arg_1": " B"}},
            "resps": [[["-1.5", "True"]], [["-2.5", "False"]]],
            "filtered_resps": [["-1.5", "True"], ["-2.5", "False"]],
        })))
        .unwrap();
        assert_eq!(item.continuations, Some(vec![" A".to_owned(), " B".to_owned()]));
        assert_eq!(item.log_likelihoods, Some(vec![(-1.5, Some(true)), (-2.5, Some(false))]));
        assert_eq!(item.metrics, [("none".to_owned(), "acc".to_owned(), 1.0)]);
        assert_eq!(item.prompt.as_deref(), Some("ctx"));
        let item = logged(&row(json!({
            "doc_id": 0, "filter": "strict-match", "metrics": ["exact_match"], "exact_match": 0.0,
            "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": {"until": ["Q:"]}}},
            "resps": [["a", "b"]], "filtered_resps": ["7"],
        })))
        .unwrap();
        assert_eq!(item.texts, Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(item.answers, [("strict-match".to_owned(), "7".to_owned())]);
        assert!(logged(&row(json!({"resps": []}))).is_err());
    }

    #[test]
    fn a_log_is_read_as_far_as_it_may() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("samples_t.jsonl");
        let line = json!({"doc_id": 0, "prompt_sha256": "h", "generation": "g".repeat(1000)});
        fs_err::write(&path, line.to_string()).unwrap();
        let read = |row_bytes| read_items(&path, &Limits { row_bytes, ..Limits::default() });
        assert_eq!(read(2000).unwrap().len(), 1);
        let refused = read(1000).unwrap_err();
        assert!(refused.to_string().ends_with("line 1: longer than 1000 bytes"), "{refused}");
    }

    #[test]
    fn condensed_lines() {
        let item = condensed(&row(json!({
            "doc_id": 1, "prompt_sha256": "h", "generation": "g", "prompt": "p",
            "strict-match": {"extracted": "54", "exact_match": 0.0},
        })))
        .unwrap();
        assert_eq!(item.answers, [("strict-match".to_owned(), "54".to_owned())]);
        assert_eq!(item.metrics, [("strict-match".to_owned(), "exact_match".to_owned(), 0.0)]);
    }
}
