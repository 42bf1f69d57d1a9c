//! Files back into the store: runs exported as JSONL, from this machine or another, and logs of
//! lm-evaluation-harness.

mod lm_eval;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use evalign_core::{
    RunId, RunResults, RunSpec, RunStatus, SampleKey, SampleRecord, ScoredBy, TaskResult, TaskSpec,
};
use evalign_data::{Limits, read_jsonl};
use evalign_store::{Lease, NewRun, SampleFilter, Store, StoredRun};
use serde::Serialize;
use serde_json::{Value, json};

use crate::aggregate::{logged_result, run_results};
use crate::export::{LAYOUT, RunFile};
use crate::judging::task_judged;
use crate::{Catalog, RunError, Scoreboard};

/// Samples committed in one transaction.
const BATCH: usize = 1000;
const LEASE_TTL: Duration = Duration::from_secs(60);

/// What [`import_run`] did.
#[derive(Debug)]
pub struct Imported {
    pub run: RunId,
    /// The store had a run of this specification; missing samples were added to it.
    pub existed: bool,
    pub samples: u64,
    /// Why the results over old and new samples together could not be computed; the samples are there.
    pub no_results: Option<RunError>,
}

/// Reads a directory as a run: one written by `export --format jsonl` (`run.json`, `samples.jsonl`), or
/// `samples_*.jsonl` of lm-evaluation-harness. Where the store has a run of the same specification, only
/// samples it lacks are added. The results are computed from the samples by the task files of `catalog`; where
/// those are not the ones the run was scored by, the results of `run.json` are kept if they count as many
/// samples as there are.
///
/// `admit`: what of the request that the files tell of is taken over, or why it is not.
///
/// # Errors
/// Files that are missing or do not have the layout (nothing is stored then), samples that were scored by other
/// rules than those the store has, a failure of the store.
pub fn import_run(
    store: &Store,
    dir: &Path,
    (owner, catalog): (&str, &Catalog),
    admit: impl FnOnce(Value) -> Result<Value, String>,
) -> Result<Imported, RunError> {
    let path = dir.join("run.json");
    if !path.exists() {
        let samples = lm_eval::sample_files(dir)?;
        if !samples.is_empty() {
            return import_log(store, dir, &samples, owner, admit);
        }
    }
    let file = read_run_file(&path)?;
    let request = admit(file.request).map_err(|why| RunError::malformed(path.display(), why))?;
    let new = NewRun { spec: file.spec, request, samples_total: file.samples_total, fork: false };
    let samples = dir.join("samples.jsonl");
    // Once to the end before anything is stored: an unusable file leaves no run behind.
    let of_steps = new.request.get("procedure").is_some();
    let keys = checked_keys(&samples, &new.spec, of_steps)?;
    let mut target = Target::open(store, &new, file.scored_by.as_ref(), owner)?;
    target.add(records(&samples)?)?;
    if of_steps {
        // What came of the steps is computed from them again when the run is resumed.
        return target.finish(|_, _| Ok(file.report));
    }
    target.finish(|run, fresh| match Scoreboard::of_run(run, catalog, true) {
        Ok(board) => board.aggregate(store, &run.id),
        Err(_) if fresh => Ok(RunResults {
            repeats: file.repeats,
            option_order: file.option_order,
            perturbations: file.perturbations,
            ..run_results(store, run.clone(), kept_results(&path, file.results, &keys)?)?
        }),
        Err(error) => Err(error),
    })
}

fn records(path: &Path) -> Result<impl Iterator<Item = Result<SampleRecord, RunError>>, RunError> {
    let rows = (1u64..).zip(read_jsonl(path, &Limits::default())?);
    Ok(rows.map(move |(line, row)| record(path, line, row?)))
}

/// The keys of all records, after checking that each can be read, is of this run, and is there once.
/// (Repeats of a step are numbers of answers or pairs, with gaps.)
fn checked_keys(path: &Path, spec: &RunSpec, of_steps: bool) -> Result<BTreeSet<SampleKey>, RunError> {
    let mut lines: BTreeMap<SampleKey, u64> = BTreeMap::new();
    for (line, record) in (1u64..).zip(records(path)?) {
        let key = record?.key;
        let wrong =
            |message: String| RunError::malformed(format!("{}, line {line}", path.display()), message);
        // Verdicts are about the samples of a task, under its name.
        let about = task_judged(&key.task).unwrap_or(&key.task);
        let of_run = |task: &&TaskSpec| {
            (task.task == key.task || task.task == about)
                && (task.docs[0]..task.docs[1]).contains(&key.doc)
                && (of_steps || key.repeat < task.repeats)
        };
        if !spec.tasks.iter().any(|task| of_run(&task)) {
            return Err(wrong(format!("the sample {key} is not of the run that run.json describes")));
        }
        if let Some(first) = lines.get(&key) {
            return Err(wrong(format!("the sample {key} is there already, in line {first}")));
        }
        lines.insert(key, line);
    }
    if lines.is_empty() {
        return Err(RunError::malformed(path.display(), "holds no samples"));
    }
    Ok(lines.into_keys().collect())
}

/// Results that cannot be computed here, if they are about as many documents as there are (how many answers each
/// document has is not compared).
fn kept_results(
    path: &Path,
    results: Vec<TaskResult>,
    keys: &BTreeSet<SampleKey>,
) -> Result<Vec<TaskResult>, RunError> {
    for result in results.iter().filter(|result| result.members.is_empty()) {
        let docs: BTreeSet<u64> =
            keys.iter().filter(|key| key.task == result.task).map(|key| key.doc).collect();
        let there = docs.len() as u64;
        for metric in &result.metrics {
            let counted = metric.outcomes.total();
            if counted != there {
                let (task, name) = (&result.task, &metric.name);
                let message = format!(
                    "`{name}` of `{task}` is about {counted} documents, samples.jsonl has answers to {there}"
                );
                return Err(RunError::malformed(path.display(), message));
            }
        }
    }
    Ok(results)
}

fn import_log(
    store: &Store,
    dir: &Path,
    samples: &[(String, PathBuf)],
    owner: &str,
    admit: impl FnOnce(Value) -> Result<Value, String>,
) -> Result<Imported, RunError> {
    let log = lm_eval::read(dir, samples)?;
    let samples_total = log.samples_total;
    let request = admit(json!(log.request)).map_err(|why| RunError::malformed(dir.display(), why))?;
    let new = NewRun { spec: log.spec, request, samples_total, fork: false };
    let mut target = Target::open(store, &new, None, owner)?;
    target.add(log.records.into_values().flatten().map(Ok))?;
    target.finish(|run, _| {
        let of_task = |task: &str| SampleFilter { task: Some(task.to_owned()), ..SampleFilter::default() };
        let result = |spec| logged_result(run.spec.mode, spec, store.samples(&run.id, of_task(&spec.task))?);
        let results = run.spec.tasks.iter().map(result).collect::<Result<_, _>>()?;
        run_results(store, run.clone(), results)
    })
}

/// The run in the store that samples are added to.
struct Target<'a> {
    store: &'a Store,
    id: RunId,
    existed: bool,
    lease: Lease,
    known: BTreeSet<SampleKey>,
    added: u64,
}

impl<'a> Target<'a> {
    fn open(
        store: &'a Store,
        new: &NewRun,
        scored_by: Option<&ScoredBy>,
        owner: &str,
    ) -> Result<Self, RunError> {
        let created = store.create_run(new)?;
        let lease = store.lease(&created.id, owner, LEASE_TTL)?;
        let known = store.finished(&created.id)?;
        if store.run(&created.id)?.scored_by.as_ref() != scored_by {
            if !known.is_empty() {
                store.release(lease)?;
                return Err(RunError::ScoresDiffer { run: created.id, rescored: scored_by.is_some() });
            }
            store.replace_scores(&lease, Vec::new(), scored_by)?;
        }
        Ok(Self { store, id: created.id, existed: created.existed, lease, known, added: 0 })
    }

    /// Commits the records that are not there yet, in batches.
    fn add(&mut self, records: impl Iterator<Item = Result<SampleRecord, RunError>>) -> Result<(), RunError> {
        let mut batch = Vec::new();
        for record in records {
            let record = record?;
            if self.known.contains(&record.key) {
                continue;
            }
            self.added += 1;
            batch.push(record);
            if batch.len() == BATCH {
                self.store.commit_samples(&self.lease, &batch)?;
                self.store.renew(&self.lease, LEASE_TTL)?;
                batch.clear();
            }
        }
        Ok(self.store.commit_samples(&self.lease, &batch)?)
    }

    /// Sets the status, and the results where there are none that fit the samples. `results` is told whether
    /// all samples are from this import.
    fn finish<T: Serialize>(
        self,
        results: impl FnOnce(&StoredRun, bool) -> Result<T, RunError>,
    ) -> Result<Imported, RunError> {
        let run = self.store.run(&self.id)?;
        let complete = run.samples_done >= run.samples_total;
        let mut no_results = None;
        if run.results.is_none() {
            let status = if complete { RunStatus::Completed } else { RunStatus::Cancelled };
            self.store.set_status(&self.lease, status)?;
            let run = self.store.run(&self.id)?;
            match results(&run, self.known.is_empty()) {
                Ok(results) => match json!(results) {
                    Value::Null => {}
                    results => self.store.save_results(&self.lease, &results)?,
                },
                Err(error) => no_results = Some(error),
            }
        }
        self.store.release(self.lease)?;
        Ok(Imported { run: self.id, existed: self.existed, samples: self.added, no_results })
    }
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
