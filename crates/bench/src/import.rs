//! Files back into the store: runs exported as JSONL, from this machine or another, and logs of
//! lm-evaluation-harness.

mod lm_eval;

use std::path::{Path, PathBuf};
use std::time::Duration;

use evalign_core::{RunId, RunResults, RunStatus, SampleRecord, Seconds, Usage};
use evalign_data::{Limits, read_jsonl};
use evalign_store::{NewRun, Store};
use serde_json::{Value, json};

use crate::RunError;
use crate::aggregate::{logged_result, summary};
use crate::export::{LAYOUT, RunFile};

/// Samples committed in one transaction.
const BATCH: usize = 1000;
const LEASE_TTL: Duration = Duration::from_secs(60);

/// What [`import_run`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    pub run: RunId,
    /// The store had a run of this specification; missing samples were added to it.
    pub existed: bool,
    pub samples: u64,
}

/// Reads a directory as a run: one written by `export --format jsonl` (`run.json`, `samples.jsonl`), or
/// `samples_*.jsonl` of lm-evaluation-harness. Where the store has a run of the same specification, only
/// samples it lacks are added.
///
/// # Errors
/// Files that are missing or do not have the layout, a failure of the store.
pub fn import_run(store: &Store, dir: &Path, owner: &str) -> Result<Imported, RunError> {
    let path = dir.join("run.json");
    if !path.exists() {
        let samples = lm_eval::sample_files(dir)?;
        if !samples.is_empty() {
            return import_log(store, dir, &samples, owner);
        }
    }
    let file = read_run_file(&path)?;
    let new = NewRun {
        spec: file.spec.clone(),
        request: file.request.clone(),
        samples_total: file.samples_total,
        fork: false,
    };
    let samples = dir.join("samples.jsonl");
    let rows = (1u64..).zip(read_jsonl(&samples, &Limits::default())?);
    let records = rows.map(|(line, row)| record(&samples, line, row?));
    add(store, &new, records, owner, |id, status| results(id, status, file))
}

fn import_log(
    store: &Store,
    dir: &Path,
    samples: &[(String, PathBuf)],
    owner: &str,
) -> Result<Imported, RunError> {
    let log = lm_eval::read(dir, samples)?;
    let file = RunFile {
        evalign_run: LAYOUT,
        results: log.spec.tasks.iter().map(|spec| logged_result(spec, &log.records[&spec.task])).collect(),
        spec: log.spec,
        request: json!(log.request),
        samples_total: log.records.values().map(|records| records.len() as u64).sum(),
        prompt_tokens: 0,
        generated_tokens: 0,
    };
    let new = NewRun {
        spec: file.spec.clone(),
        request: file.request.clone(),
        samples_total: file.samples_total,
        fork: false,
    };
    let records = log.records.into_values().flatten().map(Ok);
    add(store, &new, records, owner, |id, status| results(id, status, file))
}

/// Creates (or finds) the run and commits the records it lacks, in batches.
fn add(
    store: &Store,
    new: &NewRun,
    records: impl Iterator<Item = Result<SampleRecord, RunError>>,
    owner: &str,
    results: impl FnOnce(&RunId, RunStatus) -> RunResults,
) -> Result<Imported, RunError> {
    let created = store.create_run(new)?;
    let lease = store.lease(&created.id, owner, LEASE_TTL)?;
    let known = store.finished(&created.id)?;
    let mut batch = Vec::new();
    let mut added = 0;
    for record in records {
        let record = record?;
        if known.contains(&record.key) {
            continue;
        }
        added += 1;
        batch.push(record);
        if batch.len() == BATCH {
            store.commit_samples(&lease, &batch)?;
            store.renew(&lease, LEASE_TTL)?;
            batch.clear();
        }
    }
    store.commit_samples(&lease, &batch)?;
    let run = store.run(&created.id)?;
    let status =
        if run.samples_done >= run.samples_total { RunStatus::Completed } else { RunStatus::Cancelled };
    if run.results.is_none() {
        store.save_results(&lease, &json!(results(&created.id, status)))?;
    }
    store.set_status(&lease, status)?;
    store.release(lease)?;
    Ok(Imported { run: created.id, existed: created.existed, samples: added })
}

fn read_run_file(path: &PathBuf) -> Result<RunFile, RunError> {
    let text =
        fs_err::read_to_string(path).map_err(|source| RunError::File { path: path.clone(), source })?;
    let value: Value = serde_json::from_str(&text).map_err(|e| RunError::malformed(path.display(), e))?;
    match value.get("evalign_run").and_then(Value::as_u64) {
        Some(layout) if layout == u64::from(LAYOUT) => {}
        Some(layout) => {
            return Err(RunError::malformed(
                path.display(),
                format!("layout {layout}, this evalign reads {LAYOUT}"),
            ));
        }
        None => return Err(RunError::malformed(path.display(), "not an exported run (no `evalign_run`)")),
    }
    serde_json::from_value(value).map_err(|e| RunError::malformed(path.display(), e))
}

fn record(path: &Path, line: u64, mut row: evalign_data::Row) -> Result<SampleRecord, RunError> {
    // What was computed on the machine that exported it is not known here, and was not spent here.
    if let Some(usage) = row.get_mut("usage").and_then(Value::as_object_mut) {
        usage.entry("computed_prompt_tokens").or_insert(json!(0));
    }
    serde_json::from_value(Value::Object(row))
        .map_err(|e| RunError::malformed(format!("{}, line {line}", path.display()), e))
}

fn results(id: &RunId, status: RunStatus, file: RunFile) -> RunResults {
    RunResults {
        run_id: id.clone(),
        status,
        model: summary(&file.spec),
        mode: file.spec.mode,
        seed: file.spec.seed,
        results: file.results,
        usage: Usage {
            prompt_tokens: file.prompt_tokens,
            computed_prompt_tokens: 0,
            generated_tokens: file.generated_tokens,
        },
        seconds: Seconds::default(),
    }
}
