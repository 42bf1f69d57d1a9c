use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use evalign_core::{
    GenerateParams, Output, Prompt, RequestKind, RunResults, SampleRecord, Score, TaskResult,
};
use evalign_data::JsonlWriter;
use evalign_store::{Store, StoredRun};
use serde_json::{Map, Value, json};

use crate::aggregate::Leaf;
use crate::export::write_json;
use crate::python::float_repr;
use crate::{RunError, Scoreboard};

/// `samples_TASK.jsonl` for every leaf task, and `results.json`.
pub(super) fn write(
    store: &Store,
    run: &StoredRun,
    board: &Scoreboard,
    results: &RunResults,
    out: &Path,
) -> Result<Vec<PathBuf>, RunError> {
    let path = out.join("results.json");
    write_json(&path, &results_json(run, results))?;
    let mut written = vec![path];
    for leaf in &board.leaves {
        let path = out.join(format!("samples_{}.jsonl", leaf.spec.task));
        let mut writer = JsonlWriter::create(&path)?;
        for filter in filters(results, &leaf.spec.task) {
            write_filter(store, run, board, leaf, &filter, &mut writer)?;
        }
        writer.finish()?;
        written.push(path);
    }
    Ok(written)
}

/// The filters of a task in definition order; the reference writes all documents of one, then of the next.
fn filters(results: &RunResults, task: &str) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for metric in results.results.iter().filter(|r| r.task == task).flat_map(|r| &r.metrics) {
        if !found.contains(&metric.filter) {
            found.push(metric.filter.clone());
        }
    }
    found
}

fn write_filter(
    store: &Store,
    run: &StoredRun,
    board: &Scoreboard,
    leaf: &Leaf,
    filter: &str,
    writer: &mut JsonlWriter,
) -> Result<(), RunError> {
    board.each_document(store, &run.id, leaf, &mut |records, scores| {
        if let Some(line) = line(records, scores, filter) {
            writer.push(&line)?;
        }
        Ok(())
    })
}

/// One line, fields and their order as the reference has them. `None` for a document without an answer, or
/// without all that the filter looks at.
fn line(records: &[SampleRecord], scores: &[Score], filter: &str) -> Option<Value> {
    let first = records.first()?;
    let scores: Vec<&Score> = scores.iter().filter(|score| score.filter == filter).collect();
    if scores.is_empty() {
        return None;
    }
    let mut line = Map::new();
    line.insert("doc_id".to_owned(), json!(first.key.doc));
    line.insert("doc".to_owned(), first.doc.clone());
    line.insert("target".to_owned(), json!(first.target));
    line.insert("arguments".to_owned(), arguments(&first.request.kind));
    let (responses, filtered) = responses(records, &scores)?;
    line.insert("resps".to_owned(), responses);
    line.insert("filtered_resps".to_owned(), filtered);
    line.insert("filter".to_owned(), json!(filter));
    let metrics: Vec<&str> = scores.iter().map(|score| score.metric.as_str()).collect();
    line.insert("metrics".to_owned(), json!(metrics));
    line.insert("doc_hash".to_owned(), json!(first.doc_hash));
    line.insert("prompt_hash".to_owned(), json!(first.prompt_hash));
    line.insert("target_hash".to_owned(), json!(first.target_hash));
    for score in scores {
        line.insert(score.metric.clone(), metric_value(score));
    }
    Some(Value::Object(line))
}

/// A number; for perplexities the pair (log-likelihood, units) that the reference aggregates.
fn metric_value(score: &Score) -> Value {
    match (score.value, score.weight) {
        (Some(value), Some(weight)) => json!([-value * weight, weight]),
        (value, _) => json!(value),
    }
}

fn arguments(kind: &RequestKind) -> Value {
    let pairs: Vec<Vec<Value>> = match kind {
        RequestKind::LogLikelihood { context, continuations } => {
            continuations.iter().map(|continuation| vec![text(context), json!(continuation)]).collect()
        }
        RequestKind::Generate { prompt, params } => vec![vec![text(prompt), generation(params)]],
        RequestKind::Perplexity { text } => vec![vec![json!(text)]],
    };
    let named = |prefix: &str, values: Vec<Value>| -> Value {
        values.into_iter().enumerate().map(|(i, value)| (format!("{prefix}_{i}"), value)).collect()
    };
    named("gen_args", pairs.into_iter().map(|pair| named("arg", pair)).collect())
}

fn text(prompt: &Prompt) -> Value {
    match prompt {
        Prompt::Text(text) => json!(text),
        Prompt::Chat(messages) => json!(messages),
    }
}

fn generation(params: &GenerateParams) -> Value {
    let mut value = Map::new();
    value.insert("until".to_owned(), json!(params.stop));
    value.insert("do_sample".to_owned(), json!(params.temperature > 0.0));
    value.insert("temperature".to_owned(), json!(params.temperature));
    value.insert("max_gen_toks".to_owned(), json!(params.max_tokens));
    for (name, number) in [("top_p", params.top_p), ("min_p", params.min_p)] {
        if let Some(number) = number {
            value.insert(name.to_owned(), json!(number));
        }
    }
    if let Some(top_k) = params.top_k {
        value.insert("top_k".to_owned(), json!(top_k));
    }
    Value::Object(value)
}

/// `resps` and `filtered_resps`, with numbers and booleans as Python's `str` writes them; `null` in the place
/// of an answer whose call failed. `None` where all failed.
fn responses(records: &[SampleRecord], scores: &[&Score]) -> Option<(Value, Value)> {
    match records.iter().find_map(|record| record.output.as_ref())? {
        Output::LogLikelihood { choices } => {
            let pairs: Vec<Value> = choices
                .iter()
                .map(|c| json!([float_repr(c.sum), if c.greedy { "True" } else { "False" }]))
                .collect();
            let nested: Vec<Value> = pairs.iter().map(|pair| json!([pair])).collect();
            Some((json!(nested), json!(pairs)))
        }
        Output::Text { .. } => {
            let texts: Vec<Option<&str>> = records
                .iter()
                .map(|record| match &record.output {
                    Some(Output::Text { text, .. }) => Some(text.as_str()),
                    _ => None,
                })
                .collect();
            let answer = scores.iter().find_map(|score| score.answer.as_deref()).unwrap_or_default();
            Some((json!([texts]), json!([answer])))
        }
        Output::Perplexity { sum, .. } => Some((json!([[float_repr(*sum)]]), json!([float_repr(*sum)]))),
    }
}

fn results_json(run: &StoredRun, results: &RunResults) -> Value {
    let is_group = |result: &&TaskResult| !result.members.is_empty();
    let by_task = |value: &dyn Fn(&TaskResult) -> Value| -> Value {
        results.results.iter().map(|result| (result.task.clone(), value(result))).collect()
    };
    let groups: Map<String, Value> =
        results.results.iter().filter(is_group).map(|r| (r.task.clone(), metrics_json(r))).collect();
    let subtasks: BTreeMap<&str, &[String]> =
        results.results.iter().filter(is_group).map(|r| (r.task.as_str(), r.members.as_slice())).collect();
    json!({
        "results": by_task(&metrics_json),
        "groups": groups,
        "group_subtasks": subtasks,
        "versions": by_task(&|r| json!(r.version)),
        "n-shot": by_task(&|r| json!(r.shots)),
        "n-samples": by_task(&|r| json!({ "effective": documents(r) })),
        "config": {
            "model": run.spec.model.reference,
            "model_sha256": run.spec.model.weights,
            "model_dtype": run.spec.model.dtype,
            "device": run.spec.model.device,
            "compat": run.spec.mode.name(),
            "random_seed": run.spec.seed,
            "apply_chat_template": run.spec.chat_template,
            "system_instruction": run.spec.system_instruction,
            "scored_by": run.scored_by,
        },
        "higher_is_better": by_task(&|r| {
            r.metrics.iter().map(|m| (m.name.clone(), json!(!m.name.ends_with("perplexity") && m.name != "bits_per_byte"))).collect()
        }),
    })
}

/// `{"alias", "sample_len", "acc,none", "acc_stderr,none", ...}`; an undefined error is `"N/A"` there.
fn metrics_json(result: &TaskResult) -> Value {
    let mut value = Map::new();
    value.insert("name".to_owned(), json!(result.task));
    value.insert("alias".to_owned(), json!(result.task));
    value.insert("sample_len".to_owned(), json!(documents(result)));
    for metric in &result.metrics {
        let stderr = metric.estimate.stderr.map_or(json!("N/A"), |stderr| json!(stderr));
        value.insert(format!("{},{}", metric.name, metric.filter), json!(metric.estimate.value));
        value.insert(format!("{}_stderr,{}", metric.name, metric.filter), stderr);
    }
    Value::Object(value)
}

fn documents(result: &TaskResult) -> u64 {
    result.metrics.iter().map(|metric| metric.outcomes.total()).max().unwrap_or(0)
}
