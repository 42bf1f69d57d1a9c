use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::path::{Path, PathBuf};

use evalign_core::{
    ChoiceLogLikelihood, Digest, FinishReason, GenerateParams, ModelIdentity, ModelRef, Outcome, Output,
    Prompt, Request, RequestKind, RunSpec, SampleKey, SampleRecord, Score, ScoringMode, TaskSpec, Usage,
};
use evalign_data::{Limits, Row, read_jsonl};
use serde_json::{Value, json};

use crate::runner::no_number;
use crate::verify::{ReferenceItem, read_logged};
use crate::{RunError, RunRequest};

/// A log of lm-evaluation-harness, as far as it says what was run.
pub(super) struct Log {
    pub(super) spec: RunSpec,
    pub(super) request: RunRequest,
    /// By task, in document order.
    pub(super) records: BTreeMap<String, Vec<SampleRecord>>,
    /// As many as the log's summary says, where it says more than there are: the log was cut off then.
    pub(super) samples_total: u64,
}

/// Reads `samples_TASK_DATE.jsonl` files and, where there is one, `results_DATE.json`. What the log does
/// not tell (digests of weights and tokeniser) is replaced by a digest of the log itself: such a run
/// stands for itself and is never taken for one made here. What `export --format lm-eval` adds to the
/// reference's fields (rule book, seed, model) is taken as it says.
pub(super) fn read(dir: &Path, samples: &[(String, PathBuf)]) -> Result<Log, RunError> {
    let summary = summary(dir)?;
    let mut records = BTreeMap::new();
    let mut hashes = Vec::new();
    for (task, path) in samples {
        let bytes = fs_err::read(path).map_err(|source| RunError::File { path: path.clone(), source })?;
        hashes.push(Digest::of(bytes));
        let read = read_task(task, path)?;
        if read.is_empty() {
            return Err(RunError::malformed(path.display(), "holds no samples"));
        }
        records.insert(task.clone(), read);
    }
    let log = Digest::of_json(&json!(hashes));
    let own = own_mode(&summary).map_err(|e| RunError::malformed(dir.display(), e))?;
    let reference = match (own, summary.pointer("/config/model")) {
        (Some(_), Some(model)) => plain(model),
        _ => format!("local/{}", model_name(&summary, dir)),
    };
    let reference: ModelRef = reference.parse().map_err(|e| RunError::malformed(dir.display(), e))?;
    let mode = own.unwrap_or(ScoringMode::LmEval);
    let seed = summary.pointer(if own.is_some() { "/config/random_seed" } else { "/config/fewshot_seed" });
    let chat = summary.pointer("/chat_template").is_some_and(Value::is_string)
        || summary.pointer("/config/apply_chat_template") == Some(&Value::Bool(true));
    let system = ["/system_instruction", "/config/system_instruction"];
    let system = system.iter().find_map(|at| summary.pointer(at).and_then(Value::as_str));
    let tasks = records.iter().map(|(task, records)| task_spec(task, records, &summary, &log)).collect();
    let spec = RunSpec {
        model: ModelIdentity {
            reference: reference.clone(),
            weights: log.clone(),
            tokenizer: log,
            chat_template: None,
            adapter: None,
            trained_on: None,
            dtype: summary.pointer("/config/model_dtype").map_or_else(|| "unknown".to_owned(), plain),
            device: summary.pointer("/config/device").map_or_else(|| "unknown".to_owned(), plain),
        },
        mode,
        scorer_version: 0,
        seed: seed.and_then(Value::as_u64).unwrap_or_default(),
        chat_template: chat,
        system_instruction: system.map(str::to_owned),
        rendered_at: None,
        tasks,
    };
    let mut request = RunRequest::new(reference, records.keys().cloned().collect());
    request.mode = mode;
    request.seed = spec.seed;
    let samples_total = records.iter().map(|(task, records)| expected(task, records, &summary)).sum();
    Ok(Log { spec, request, records, samples_total })
}

/// Samples that a task's log should hold, by the documents its summary counts.
fn expected(task: &str, records: &[SampleRecord], summary: &Value) -> u64 {
    let there = records.len() as u64;
    let repeats = records.iter().map(|record| u64::from(record.key.repeat) + 1).max().unwrap_or(1);
    let counted = summary.get("n-samples").and_then(|counts| counts.get(task)?.get("effective")?.as_u64());
    counted.map_or(there, |documents| there.max(documents.saturating_mul(repeats)))
}

/// The rule book, where evalign wrote the log; the reference has no such field.
fn own_mode(summary: &Value) -> Result<Option<ScoringMode>, String> {
    let Some(compat) = summary.pointer("/config/compat") else { return Ok(None) };
    serde_json::from_value(compat.clone()).map(Some).map_err(|_| format!("unknown rule book {compat}"))
}

/// `(task, file)` for every sample log in a directory.
pub(super) fn sample_files(dir: &Path) -> Result<Vec<(String, PathBuf)>, RunError> {
    let failed = |source| RunError::File { path: dir.to_owned(), source };
    let mut found = Vec::new();
    for entry in fs_err::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("samples_") && name.ends_with(".jsonl") {
            found.push((crate::verify::task_in_name(name), path));
        }
    }
    found.sort();
    if let Some([(task, _), _]) = found.array_windows().find(|[a, b]| a.0 == b.0) {
        return Err(RunError::malformed(
            dir.display(),
            format!("two logs of task `{task}`; import them one by one"),
        ));
    }
    Ok(found)
}

fn summary(dir: &Path) -> Result<Value, RunError> {
    let failed = |source| RunError::File { path: dir.to_owned(), source };
    for entry in fs_err::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if name.starts_with("results") && name.ends_with(".json") {
            let text = fs_err::read_to_string(&path).map_err(failed)?;
            return serde_json::from_str(&text).map_err(|e| RunError::malformed(path.display(), e));
        }
    }
    Ok(Value::Null)
}

/// `pretrained=NAME` of the reference's `model_args`, else the directory's name.
fn model_name(summary: &Value, dir: &Path) -> String {
    let pretrained = match summary.pointer("/config/model_args") {
        Some(Value::Object(args)) => args.get("pretrained").map(plain),
        Some(Value::String(args)) => {
            args.split(',').find_map(|part| part.strip_prefix("pretrained=")).map(str::to_owned)
        }
        _ => summary.pointer("/config/model").map(plain),
    };
    let folder = || dir.file_name().and_then(|n| n.to_str()).unwrap_or("imported").to_owned();
    pretrained.map(|name| name.trim_start_matches("local/").to_owned()).unwrap_or_else(folder)
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn task_spec(task: &str, records: &[SampleRecord], summary: &Value, log: &Digest) -> TaskSpec {
    let docs = records.iter().map(|record| record.key.doc);
    let of_task = |field: &str| summary.get(field).and_then(|values| values.get(task));
    TaskSpec {
        task: task.to_owned(),
        version: of_task("versions").map_or_else(|| "unknown".to_owned(), plain),
        definition: log.clone(),
        dataset: log.clone(),
        protocol: Digest::of_json(&json!([log, task])),
        shots: of_task("n-shot").and_then(Value::as_u64).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
        repeats: records.iter().map(|record| record.key.repeat + 1).max().unwrap_or(1),
        docs: [docs.clone().min().unwrap_or(0), docs.max().map_or(0, |last| last + 1)],
        generation: Value::Null,
        variant: None,
    }
}

fn read_task(task: &str, path: &Path) -> Result<Vec<SampleRecord>, RunError> {
    let mut by_doc: BTreeMap<u64, Vec<SampleRecord>> = BTreeMap::new();
    for (line, row) in (1u64..).zip(read_jsonl(path, &Limits::default())?) {
        let row = row?;
        let malformed =
            |message: String| RunError::malformed(format!("{}, line {line}", path.display()), message);
        let item = read_logged(&row).map_err(malformed)?;
        let records = match by_doc.entry(item.doc) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(records_of(task, &row, &item).map_err(malformed)?),
        };
        // Every filter has a line of its own; what it decided belongs to the document, and stands at its
        // first answer.
        if let Some(first) = records.first_mut() {
            let new: Vec<Score> = scores(&item).into_iter().chain(undecided(&row)).collect();
            let known = |score: &Score| {
                first.scores.iter().any(|old| old.metric == score.metric && old.filter == score.filter)
            };
            if let Some(twice) = new.iter().find(|score| known(score)) {
                let (doc, filter) = (item.doc, &twice.filter);
                return Err(malformed(format!("document {doc} is there twice under the filter `{filter}`")));
            }
            first.scores.extend(new);
        }
    }
    Ok(by_doc.into_values().flatten().collect())
}

fn records_of(task: &str, row: &Row, item: &ReferenceItem) -> Result<Vec<SampleRecord>, String> {
    let hash =
        |text: &Option<String>| text.as_deref().and_then(Digest::parse).ok_or("a hash is missing".to_owned());
    let prompt = Prompt::Text(item.prompt.clone().ok_or("no prompt in `arguments`")?);
    let answers: Vec<(RequestKind, Output)> = match (&item.log_likelihoods, &item.continuations, &item.texts)
    {
        (Some(sums), Some(continuations), _) => {
            let choices = sums.iter().map(|(sum, greedy)| ChoiceLogLikelihood {
                sum: *sum,
                // Not in the log.
                tokens: 0,
                greedy: greedy.unwrap_or(false),
            });
            let kind = RequestKind::LogLikelihood { context: prompt, continuations: continuations.clone() };
            vec![(kind, Output::LogLikelihood { choices: choices.collect() })]
        }
        (_, _, Some(texts)) => {
            let kind = RequestKind::Generate { prompt, params: params(row) };
            let text = |text: &String| Output::Text {
                text: text.clone(),
                finish: FinishReason::Stop,
                logprobs: None,
                reasoning: None,
            };
            texts.iter().map(|t| (kind.clone(), text(t))).collect()
        }
        _ => return Err("neither log-likelihoods nor texts".to_owned()),
    };
    let mut records = Vec::new();
    for (repeat, (kind, output)) in (0u32..).zip(answers) {
        let error = output.check_finite().err().map(|what| no_number(&what));
        let key = SampleKey { task: task.to_owned(), doc: item.doc, repeat };
        records.push(SampleRecord {
            key: key.clone(),
            doc: row.get("doc").cloned().unwrap_or(Value::Null),
            doc_hash: hash(&item.doc_hash)?,
            request: Request { key, kind },
            prompt_hash: hash(&item.prompt_hash)?,
            target: row.get("target").map_or_else(String::new, plain),
            target_hash: hash(&row.get("target_hash").map(plain))?,
            output: error.is_none().then_some(output),
            error,
            scores: Vec::new(),
            usage: Usage::default(),
            truncated_tokens: 0,
            latency: None,
            requests: 0,
            cost_usd: None,
        });
    }
    Ok(records)
}

fn params(row: &Row) -> GenerateParams {
    let given = row.get("arguments").and_then(|a| a.pointer("/gen_args_0/arg_1"));
    let number = |name: &str| given.and_then(|g| g.get(name)).and_then(Value::as_f64);
    let stops = given.and_then(|g| g.get("until")).and_then(Value::as_array);
    GenerateParams {
        max_tokens: number("max_gen_toks").map_or(256, |n| n as u32),
        temperature: number("temperature").unwrap_or(0.0),
        top_p: number("top_p"),
        stop: stops.map(|s| s.iter().map(plain).collect()).unwrap_or_default(),
        ..GenerateParams::default()
    }
}

fn scores(item: &ReferenceItem) -> Vec<Score> {
    let score = |(filter, metric, value): &(String, String, f64)| Score {
        metric: metric.clone(),
        filter: filter.clone(),
        outcome: match *value {
            1.0 => Outcome::Correct,
            0.0 => Outcome::Wrong,
            _ => Outcome::Unscored,
        },
        value: Some(*value),
        answer: item.answers.iter().find(|(of, _)| of == filter).map(|(_, answer)| answer.clone()),
        weight: None,
        margin: None,
    };
    item.metrics.iter().map(score).collect()
}

/// What evalign's default rule book leaves undecided: a metric that is named but has no value.
fn undecided(row: &Row) -> Vec<Score> {
    let filter = row.get("filter").map(plain).unwrap_or_default();
    let metrics = row.get("metrics").and_then(Value::as_array).into_iter().flatten().map(plain);
    let without_value = metrics.filter(|metric| row.get(metric) == Some(&Value::Null));
    let score = |metric| Score {
        metric,
        filter: filter.clone(),
        outcome: Outcome::Unscored,
        value: None,
        answer: None,
        weight: None,
        margin: None,
    };
    without_value.map(score).collect()
}
