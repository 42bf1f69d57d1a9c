//! Runs as files: in lm-evaluation-harness's layout, as complete JSONL (which [`crate::import_run`]
//! reads back), and as a parquet table.
//!
//! None of them holds the run's id, times, costs or counts of computed tokens, which depend on how a run came
//! about and not on what it measured: a run that was killed and resumed exports the same bytes as one
//! that was not.

mod lm_eval;
mod table;

use std::path::{Path, PathBuf};
use std::str::FromStr;

use evalign_core::{
    OptionOrderResult, PerturbationResult, RepeatResult, RunId, RunResults, SampleRecord, ScoredBy,
    TaskResult,
};
use evalign_data::JsonlWriter;
use evalign_store::{SampleFilter, Store, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{BenchError, RunError, Scoreboard};

/// How to write a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportFormat {
    /// `samples_TASK.jsonl` with lm-evaluation-harness's fields, and `results.json`.
    LmEval,
    /// `run.json` and `samples.jsonl`: everything.
    Jsonl,
    /// `samples.parquet`: one row per score.
    Parquet,
}

impl FromStr for ExportFormat {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "lm-eval" => Ok(Self::LmEval),
            "jsonl" => Ok(Self::Jsonl),
            "parquet" => Ok(Self::Parquet),
            _ => Err(format!("`{text}` is not an export format (lm-eval, jsonl, parquet)")),
        }
    }
}

/// Version of the layout of `run.json` and `samples.jsonl`.
pub(crate) const LAYOUT: u32 = 1;

/// `run.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunFile {
    /// [`LAYOUT`].
    pub(crate) evalign_run: u32,
    pub(crate) spec: evalign_core::RunSpec,
    pub(crate) request: Value,
    pub(crate) samples_total: u64,
    pub(crate) prompt_tokens: u64,
    pub(crate) generated_tokens: u64,
    /// What the scores come from, where that is not `spec`: the run was scored again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) scored_by: Option<ScoredBy>,
    pub(crate) results: Vec<TaskResult>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) repeats: Vec<RepeatResult>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) option_order: Vec<OptionOrderResult>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) perturbations: Vec<PerturbationResult>,
    /// What came of a run of steps, in place of results.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) report: Option<Value>,
}

/// Writes a run into `out` (created if it is not there) and returns the files written.
///
/// # Errors
/// A failure of the store, files that cannot be written.
pub fn export_run(
    store: &Store,
    id: &RunId,
    board: &Scoreboard,
    format: ExportFormat,
    out: &Path,
) -> Result<Vec<PathBuf>, RunError> {
    fs_err::create_dir_all(out).map_err(|source| RunError::File { path: out.to_owned(), source })?;
    let run = store.run(id)?;
    let results = board.aggregate(store, id)?;
    match format {
        ExportFormat::LmEval => lm_eval::write(store, &run, board, &results, out),
        ExportFormat::Jsonl => jsonl(store, &run, Some(results), out),
        ExportFormat::Parquet => table::write(store, &run, out),
    }
}

/// As [`export_run`], for a run of steps (a critique, an arena, pairs): its samples and its report.
///
/// # Errors
/// lm-evaluation-harness's layout, which has no place for them; a failure of the store, files that cannot be written.
pub fn export_steps(
    store: &Store,
    id: &RunId,
    format: ExportFormat,
    out: &Path,
) -> Result<Vec<PathBuf>, RunError> {
    if format == ExportFormat::LmEval {
        return Err(BenchError::request(
            format!("{id} is no evaluation: lm-evaluation-harness has no layout for its steps"),
            "use `--format jsonl` or `--format parquet`; `evalign pairs export RUN` writes the pairs of a run",
        )
        .into());
    }
    fs_err::create_dir_all(out).map_err(|source| RunError::File { path: out.to_owned(), source })?;
    let run = store.run(id)?;
    match format {
        ExportFormat::Parquet => table::write(store, &run, out),
        ExportFormat::Jsonl | ExportFormat::LmEval => jsonl(store, &run, None, out),
    }
}

/// `results`: none of a run of steps, which has a report.
fn jsonl(
    store: &Store,
    run: &StoredRun,
    results: Option<RunResults>,
    out: &Path,
) -> Result<Vec<PathBuf>, RunError> {
    let samples = out.join("samples.jsonl");
    let mut writer = JsonlWriter::create(&samples)?;
    for record in store.samples(&run.id, SampleFilter::default())? {
        writer.push(&portable(&record?))?;
    }
    writer.finish()?;
    let mut file = RunFile {
        evalign_run: LAYOUT,
        spec: run.spec.clone(),
        request: portable_request(&run.request),
        samples_total: run.samples_total,
        prompt_tokens: run.usage.prompt_tokens,
        generated_tokens: run.usage.generated_tokens,
        scored_by: run.scored_by.clone(),
        results: Vec::new(),
        repeats: Vec::new(),
        option_order: Vec::new(),
        perturbations: Vec::new(),
        report: None,
    };
    match results {
        None => file.report.clone_from(&run.results),
        Some(results) => {
            file.results = results.results;
            file.repeats = results.repeats;
            file.option_order = results.option_order;
            file.perturbations = results.perturbations;
        }
    }
    let path = out.join("run.json");
    write_json(&path, &json!(file))?;
    Ok(vec![path, samples])
}

/// A request without what decides how fast a run gets done and how far, and not what it measures.
fn portable_request(request: &Value) -> Value {
    let mut request = request.clone();
    if let Some(fields) = request.as_object_mut() {
        for field in
            ["max_concurrency", "max_retries", "budget_requests", "budget_tokens", "budget_usd", "prices"]
        {
            fields.shift_remove(field);
        }
    }
    request
}

/// A record without what depends on the course of the run.
fn portable(record: &SampleRecord) -> Value {
    let mut value = json!(record);
    if let Some(usage) = value.get_mut("usage").and_then(Value::as_object_mut) {
        usage.shift_remove("computed_prompt_tokens");
        usage.shift_remove("cached_prompt_tokens");
    }
    if let Some(record) = value.as_object_mut() {
        for field in ["latency", "requests", "cost_usd"] {
            record.shift_remove(field);
        }
    }
    value
}

/// Pretty JSON, in place only when complete.
pub(crate) fn write_json(path: &Path, value: &Value) -> Result<(), RunError> {
    let failed = |source| RunError::File { path: path.to_owned(), source };
    let partial = path.with_extension("json.partial");
    fs_err::write(&partial, format!("{value:#}\n")).map_err(failed)?;
    fs_err::rename(&partial, path).map_err(failed)
}
