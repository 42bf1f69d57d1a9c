//! Stored answers looked at again: scored by the rules of today, held against another program's, taken over from files.

use std::path::{Path, PathBuf};

use evalign_bench::{
    KeptResults, MeasuredResults, Measures, MeasuresWanted, RunError, RunRequest, Scoreboard, Verification,
    VerifyOptions, import_run, rescore, verify,
};
use evalign_core::{Hint, ModelRef, RunId};
use evalign_data::{Limits, unpacked_bytes};
use evalign_store::{Store, StoredFile, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::runs::RunObject;
use crate::uploads;
use crate::work::owner;

/// Files of one request.
const MOST_FILES: usize = 100;

/// Bytes of all files of a request, as they are and unpacked: they are read into memory.
const MOST_BYTES: u64 = 512 << 20;

/// How a run is scored again.
#[derive(Clone, Debug, Default, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RescoreBody {
    /// Tell the metrics of this extractor alone, one of the task file's `filters`.
    extractor: Option<String>,
}

/// What came of scoring a run again.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RescoreObject {
    #[schema(pattern = "^run.rescore$")]
    object: &'static str,
    samples: u64,
    /// Samples that are scored differently now.
    changed: u64,
    /// The rules are not those the run was started with: its results stand under a protocol of their own.
    other_rules: bool,
    /// As `GET /v1/runs/{id}/results` has them.
    #[schema(value_type = Object)]
    results: Value,
}

/// What a run is held against.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"files": ["file_0199"]}))]
pub(crate) struct VerifyBody {
    /// Ids of uploaded `samples_*.jsonl` of lm-evaluation-harness.
    #[schema(min_items = 1, max_items = 100)]
    files: Vec<String>,
    /// Largest difference of a log-likelihood that counts as equal, in nats; 0.005 where absent.
    #[schema(minimum = 0)]
    tolerance: Option<f64>,
    /// The task that the files are about; absent: told from their names.
    task: Option<String>,
}

/// Files that are to become a run.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"files": ["file_0199", "file_0200"]}))]
pub(crate) struct RunImportBody {
    /// Ids of uploaded files: `run.json` and `samples.jsonl` as `evalign export --format jsonl` writes them, or
    /// `samples_*.jsonl` of lm-evaluation-harness with its `results_*.json`.
    #[schema(min_items = 1, max_items = 100)]
    files: Vec<String>,
}

/// A run that was taken over.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RunImportObject {
    #[schema(pattern = "^run.import$")]
    object: &'static str,
    pub(crate) run: RunObject,
    /// There was a run of this specification, to which missing samples were added.
    existed: bool,
    /// Samples that were added.
    samples: u64,
    /// Why there are no results, although the samples are there.
    no_results: Option<String>,
}

/// What is wrong with a client's files is the client's to know.
fn of_files(error: RunError) -> ApiError {
    match error {
        RunError::Malformed { .. } | RunError::File { .. } => {
            let hint = error.hint().map(|hint| format!(" (hint: {hint})")).unwrap_or_default();
            ApiError::new(Code::InvalidRequest, format!("{error}{hint}")).about("files")
        }
        error => error.into(),
    }
}

/// Uploaded files that are so small together that a request may wait until they are read.
fn readable_files(store: &Store, ids: &[String]) -> ApiResult<Vec<StoredFile>> {
    if ids.is_empty() || ids.len() > MOST_FILES {
        let message = format!("name 1 to {MOST_FILES} files");
        return Err(ApiError::new(Code::InvalidRequest, message).about("files"));
    }
    let files =
        ids.iter().map(|id| uploads::found(store, id, "files")).collect::<ApiResult<Vec<StoredFile>>>()?;
    // Their sum may be beyond all numbers.
    if files.iter().fold(0, |sum: u64, file| sum.saturating_add(file.bytes)) > MOST_BYTES {
        let message = format!("all files of a request together have at most {MOST_BYTES} bytes");
        return Err(ApiError::new(Code::TooLarge, message).about("files"));
    }
    Ok(files)
}

/// Refuses files that unpack to more than `most` bytes together.
fn check_unpacked(files: &[PathBuf], most: u64) -> ApiResult<()> {
    let mut left = most;
    for file in files {
        let limits = Limits { unpacked_bytes: left, ..Limits::default() };
        let bytes = unpacked_bytes(file, &limits).map_err(|error| ApiError::from(error).about("files"))?;
        left = left.checked_sub(bytes).ok_or_else(|| {
            let message = format!("all files of a request together have at most {most} bytes");
            ApiError::new(Code::TooLarge, message).about("files")
        })?;
    }
    Ok(())
}

fn no_evaluation() -> ApiError {
    ApiError::new(Code::InvalidRequest, "only evaluations are scored by tasks; this run is none")
}

impl App {
    /// The rules that a run is scored by. `strict`: those that its stored scores come from.
    fn rules(&self, run: &StoredRun, strict: bool) -> ApiResult<Scoreboard> {
        if run.request.get("procedure").is_some() {
            return Err(no_evaluation());
        }
        Ok(Scoreboard::of_run(run, &self.catalog, strict)?)
    }

    /// The results of a run, as they are kept or as somebody wants them, with models by the names they are served by.
    pub(crate) fn results_of(
        &self,
        store: &Store,
        id: &RunId,
        wanted: &MeasuresWanted<'_>,
    ) -> ApiResult<Value> {
        let run = store.run(id)?;
        let none = || ApiError::new(Code::NotFound, "the run has no results yet");
        let results = run.results.as_ref().ok_or_else(none)?;
        if wanted.task.is_none() && !wanted.any() {
            return Ok(self.placeless_document(results));
        }
        // Those of other runs are of other forms.
        let Ok(mut kept) = KeptResults::deserialize(results) else { return Err(no_evaluation()) };
        if let Some(task) = wanted.task {
            kept.retain_task(task);
            if kept.results.results.is_empty() {
                return Err(ApiError::not_found("task in this run", task).about("task"));
            }
        }
        // Only these need the rules: what is kept can be told whatever became of the task files.
        let measures = match wanted.any() {
            true => self.rules(&run, true)?.measures(store, id, wanted)?,
            false => Measures::default(),
        };
        Ok(self.placeless_document(&json!(MeasuredResults { kept, measures })))
    }

    /// Scores a run again by the task files as they are now.
    pub(crate) fn rescore_run(
        &self,
        store: &Store,
        id: &RunId,
        body: &RescoreBody,
    ) -> ApiResult<RescoreObject> {
        let board = self.rules(&store.run(id)?, false)?;
        let rescored = rescore(store, id, &board, body.extractor.as_deref(), &owner())?;
        self.active.changed(id);
        Ok(RescoreObject {
            object: "run.rescore",
            samples: rescored.samples,
            changed: rescored.changed,
            other_rules: rescored.other_rules,
            results: self.placeless_document(&json!(rescored.results)),
        })
    }

    /// Compares a run with logs of lm-evaluation-harness, item by item.
    pub(crate) fn verify_run(&self, store: &Store, id: &RunId, body: &VerifyBody) -> ApiResult<Vec<Value>> {
        let options = VerifyOptions {
            tolerance: body.tolerance.unwrap_or(VerifyOptions::default().tolerance),
            task: body.task.clone(),
            limits: Limits::default(),
        };
        if !(options.tolerance.is_finite() && options.tolerance >= 0.0) {
            let message = "`tolerance` is 0 or more";
            return Err(ApiError::new(Code::InvalidRequest, message).about("tolerance"));
        }
        let board = self.rules(&store.run(id)?, true)?;
        let files = readable_files(store, &body.files)?;
        let places = files.iter().map(|file| uploads::named_place(&self.home, file));
        let places = places.collect::<ApiResult<Vec<PathBuf>>>()?;
        check_unpacked(&places, MOST_BYTES)?;
        let compared = |place: &PathBuf| {
            let found: Verification = verify(store, id, &board, place, &options).map_err(of_files)?;
            Ok(self.placeless_document(&json!(found)))
        };
        places.iter().map(compared).collect()
    }

    /// Takes uploaded files over as a run.
    pub(crate) fn import_files(&self, store: &Store, body: &RunImportBody) -> ApiResult<RunImportObject> {
        let files = readable_files(store, &body.files)?;
        let dir = uploads::together(&self.home, &files)?;
        let admit = |request: Value| self.admitted(store, request);
        let imported = import_run(store, dir.path(), (&owner(), &self.catalog), admit);
        let imported = imported.map_err(of_files)?;
        Ok(RunImportObject {
            object: "run.import",
            run: RunObject::of(self, store, &store.run(&imported.run)?)?,
            existed: imported.existed,
            samples: imported.samples,
            no_results: imported.no_results.map(|error| self.without_places(&of_files(error).message)),
        })
    }

    /// A request of a file as one of this server's: whatever in it names a place, an address, a device or a judge is the
    /// operator's to say, not the file's.
    fn admitted(&self, store: &Store, request: Value) -> Result<Value, String> {
        if request.get("procedure").is_some() {
            return Err("only evaluations are imported; this run is none".to_owned());
        }
        let request: RunRequest =
            serde_json::from_value(request).map_err(|error| format!("`request`: {error}"))?;
        let model = self.placeless_model(store, &request.model);
        let ours = self.base_request(model.clone(), Vec::new());
        Ok(json!(RunRequest {
            model,
            data_root: ours.data_root,
            include_path: ours.include_path,
            offline: ours.offline,
            base_url: ours.base_url,
            model_settings: ours.model_settings,
            prices: ours.prices,
            device: ours.device,
            memory_gib: ours.memory_gib,
            server: ours.server,
            judge: None,
            jury: Vec::new(),
            resumes: None,
            ..request
        }))
    }

    /// An adapter that no training job of this tenant has made keeps its name and loses its place: the run can be read
    /// and compared, and nothing is ever loaded for it.
    fn placeless_model(&self, store: &Store, model: &ModelRef) -> ModelRef {
        let base = ModelRef { adapter: None, ..model.clone() };
        let ours = self.adapter_job(model).and_then(|(_, job)| self.trained_adapter(store, &job, &base).ok());
        let named = model.adapter.as_deref().and_then(Path::file_name).map(PathBuf::from);
        let adapter = if ours == model.adapter { ours } else { named };
        ModelRef { adapter, ..base }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// None of them is too large, together they are; what is not packed counts too.
    #[test]
    fn files_are_bounded_by_what_they_unpack_to_together() {
        let dir = tempfile::tempdir().unwrap();
        let (packed, plain) = (dir.path().join("a.jsonl.gz"), dir.path().join("b.jsonl"));
        let mut pack = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut pack, &[b'\n'; 100_000]).unwrap();
        fs_err::write(&packed, pack.finish().unwrap()).unwrap();
        fs_err::write(&plain, [b'\n'; 1000]).unwrap();
        let check = |files: &[&PathBuf], most| {
            let files: Vec<PathBuf> = files.iter().map(|file| (*file).clone()).collect();
            check_unpacked(&files, most).map_err(|error| (error.code, error.param))
        };
        let too_large = Err((Code::TooLarge, Some("files".to_owned())));
        assert_eq!(check(&[&packed, &packed, &plain], 201_000), Ok(()));
        assert_eq!(check(&[&packed, &packed, &plain], 200_999), too_large);
        assert_eq!(check(&[&packed, &packed], 199_999), too_large);
    }

    /// A directory's files are read by their names: none of them may hide another.
    #[test]
    fn two_files_of_one_name_are_refused() {
        let home = tempfile::tempdir().unwrap();
        let file = |id: &str| StoredFile {
            id: id.to_owned(),
            name: "run.json".to_owned(),
            purpose: "dataset".to_owned(),
            bytes: 2,
            digest: evalign_core::Digest::of("{}"),
            created_ms: 0,
        };
        fs_err::create_dir_all(home.path().join("files")).unwrap();
        let place = |id: &str| uploads::place(home.path(), id);
        for id in ["file_1", "file_2"] {
            fs_err::write(place(id), "{}").unwrap();
        }
        let refused = uploads::together(home.path(), &[file("file_1"), file("file_2")]).unwrap_err();
        assert_eq!(refused.param.as_deref(), Some("files"));
        let dir = uploads::together(home.path(), &[file("file_1")]).unwrap();
        assert_eq!(fs_err::read_to_string(dir.path().join("run.json")).unwrap(), "{}");
    }
}
