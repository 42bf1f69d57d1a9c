//! What becomes of an adapter that was trained here: merged into its model, or, where it is a reward model, scored on
//! pairs. Both are runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use evalign_bench::{ActiveRun, Cancel, CancelLevel, RunRequest, job_spec};
use evalign_core::{Digest, ModelRef, Provider, RunId, RunStatus};
use evalign_fetch::{block_on, silent};
use evalign_store::{NewRun, Store, StoredFile, StoredRun};
use evalign_train::{MergedForm, ScoreOptions, merge, score_rewards};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::models::Served;
use crate::training::{TrainingObject, named_identity};
use crate::uploads;
use crate::work::tended;

/// Tokens of a pair that is scored.
const MOST_TOKENS: usize = 100_000;

/// How an adapter is merged into its model.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MergeBody {
    /// `hf`: files with `model.safetensors` in f32. `gguf`: one file, of a model that is one.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(hf|gguf)$")]
    form: Form,
    /// What merged matrices of a GGUF file are held in: `f32`, `f16`, `q8_0`, `q5_1`, `q5_0`, `q4_1` or `q4_0`.
    #[serde(default = "f16")]
    r#type: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Form {
    #[default]
    Hf,
    Gguf,
}

fn f16() -> String {
    "f16".to_owned()
}

fn merged_form(form: Form, kind: &str) -> ApiResult<MergedForm> {
    match form {
        Form::Hf => Ok(MergedForm::HuggingFace),
        Form::Gguf => MergedForm::gguf(kind).ok_or_else(|| {
            let message = "`type` is one of f32, f16, q8_0, q5_1, q5_0, q4_1, q4_0";
            ApiError::new(Code::InvalidRequest, message).about("type")
        }),
    }
}

/// A reward model and the pairs that it is scored on.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2+adapter=run_0199", "file": "file_0199"}))]
pub(crate) struct ScoreBody {
    /// `NAME+adapter=JOB` with a job of kind `reward`, or a served model that has a reward head.
    model: String,
    /// A file of preference pairs.
    file: String,
    /// Column that names a pair's category.
    #[serde(default = "category")]
    category: String,
    /// Tokens; longer pairs are left out, and counted.
    #[serde(default = "tokens")]
    #[schema(minimum = 1, maximum = 100000)]
    max_length: usize,
}

fn category() -> String {
    "category".to_owned()
}

fn tokens() -> usize {
    1024
}

/// What a run that merges is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct MergeRequest {
    procedure: String,
    /// Its model has the adapter.
    run: RunRequest,
    job: RunId,
    form: Form,
    r#type: String,
}

impl MergeRequest {
    pub(crate) const PROCEDURE: &'static str = "merge";
}

/// What a run that scores a reward model is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ScoreRequest {
    procedure: String,
    run: RunRequest,
    file: String,
    category: String,
    max_length: usize,
}

impl ScoreRequest {
    pub(crate) const PROCEDURE: &'static str = "reward-score";
}

/// Trained models that are listed; whoever knows the job of an older one can still name it.
const MOST_LISTED: u32 = 100;

impl App {
    /// The model to talk to that a client names: one that is served, or `NAME+adapter=JOB`.
    pub(crate) async fn served(self: &Arc<Self>, store: &Store, name: &str) -> ApiResult<Arc<Served>> {
        let Some((base, job)) = name.split_once("+adapter=") else {
            return self.models.served(name).await;
        };
        let (view, named, job) = (store.clone(), name.to_owned(), job.to_owned());
        let find = move |app: &Self| {
            let reference = app.reference(&view, &named)?;
            let job = job.parse().map_err(ApiError::internal)?;
            match app.training(&view, &job)?.writes_texts() {
                true => Ok(reference),
                false => {
                    let message = "a reward model writes no texts";
                    Err(ApiError::new(Code::InvalidRequest, message).about("model"))
                }
            }
        };
        let reference = self.blocking(find).await?;
        self.models.served_adapted(base, &reference).await
    }

    /// Names of the tenant's trained models that write texts, and since when (Unix time in seconds).
    pub(crate) fn trained_names(&self, store: &Store) -> ApiResult<Vec<(String, u64)>> {
        let jobs = self.trainings(store, None, MOST_LISTED)?.into_iter();
        Ok(jobs
            .filter(TrainingObject::writes_texts)
            .filter_map(|job| Some((job.trained_model?, job.created_at)))
            .collect())
    }

    /// Where a local model lies, fetched if it is not there yet. Blocks.
    pub(crate) fn model_files(&self, reference: &ModelRef) -> ApiResult<PathBuf> {
        let find = async {
            evalign_fetch::Models::from_env(self.settings.offline)?.resolve(&reference.name, &silent).await
        };
        Ok(block_on(find).map_err(evalign_model::ModelError::from)?)
    }

    /// Creates the run that merges the adapter of a job into the model that it was trained for.
    pub(crate) fn start_merge(&self, store: &Store, job: &RunId, body: &MergeBody) -> ApiResult<StoredRun> {
        merged_form(body.form, &body.r#type)?;
        let model = self.trained_model(store, job)?;
        uploads::check_room(self, store, 1)?;
        let request = MergeRequest {
            procedure: MergeRequest::PROCEDURE.to_owned(),
            run: self.base_request(model.clone(), Vec::new()),
            job: job.clone(),
            form: body.form,
            r#type: body.r#type.clone(),
        };
        let definition = json!([body.form, body.r#type]);
        let data = (&Digest::of(job.as_str()), 1);
        self.create_and_queue(
            store,
            &NewRun {
                spec: job_spec(named_identity(model), MergeRequest::PROCEDURE, &definition, data),
                request: serde_json::to_value(&request).map_err(ApiError::internal)?,
                samples_total: 0,
                // What the run before has made may have been removed.
                fork: true,
            },
        )
    }

    /// Merges. What comes of it is files of the tenant's.
    pub(crate) fn drive_merge(
        &self,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: MergeRequest =
            serde_json::from_value(stored.request.clone()).map_err(ApiError::internal)?;
        let form = merged_form(request.form, &request.r#type)?;
        // The job may have been removed since.
        let model = self.trained_model(store, &request.job)?;
        let adapter = model.adapter.as_deref().ok_or_else(|| ApiError::internal("a job has an adapter"))?;
        let base = self.model_files(&model)?;
        let dir = uploads::partial(&self.home)?;
        let out = dir.path().join(match request.form {
            Form::Hf => "merged".to_owned(),
            Form::Gguf => format!("{}.gguf", request.job),
        });
        let Some(merged) = to_its_end(run, store, cancel, || merge(&base, adapter, &out, form)) else {
            return Ok(RunStatus::Cancelled);
        };
        let merged = merged.map_err(evalign_model::ModelError::from)?;
        let kept = self.keep_all(store, &files_at(&out).map_err(ApiError::internal)?)?;
        let shown = |file: &StoredFile| json!({"id": file.id, "name": file.name, "bytes": file.bytes});
        let completed = run.complete(&json!({
            "files": kept.iter().map(shown).collect::<Vec<_>>(),
            "merged_matrices": merged.merged,
            "positions_compared": merged.positions,
            "largest_logit_difference": merged.largest_difference,
            "largest_logit": merged.largest_logit,
        }));
        if let Err(error) = completed {
            self.drop_all(store, &kept);
            return Err(error.into());
        }
        Ok(RunStatus::Completed)
    }

    /// Keeps the files of a model as the tenant's: all of them, or none.
    fn keep_all(&self, store: &Store, made: &[PathBuf]) -> ApiResult<Vec<StoredFile>> {
        let bytes = made.iter().map(|path| Ok(fs_err::metadata(path)?.len()));
        uploads::check_room(self, store, bytes.sum::<std::io::Result<u64>>().map_err(ApiError::internal)?)?;
        let mut kept = Vec::with_capacity(made.len());
        for path in made {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("model");
            match uploads::keep(self, store, path, (name, "model")) {
                Ok(file) => kept.push(file),
                Err(error) => {
                    self.drop_all(store, &kept);
                    return Err(error);
                }
            }
        }
        Ok(kept)
    }

    /// Removes files that no run names.
    fn drop_all(&self, store: &Store, files: &[StoredFile]) {
        for file in files {
            match store.remove_file(&file.id) {
                Ok(_) => uploads::remove(&self.home, &file.id),
                Err(error) => tracing::warn!(file = file.id, %error, "a file that nobody needs stays"),
            }
        }
    }

    /// Creates the run that scores a reward model.
    pub(crate) fn start_score(&self, store: &Store, body: &ScoreBody) -> ApiResult<StoredRun> {
        let of_field = |field: &str, message: &str| ApiError::new(Code::InvalidRequest, message).about(field);
        if !(1..=MOST_TOKENS).contains(&body.max_length) {
            return Err(of_field("max_length", "`max_length` is a number from 1 to 100000"));
        }
        let model = self.reference(store, &body.model)?;
        if model.provider != Provider::Local {
            return Err(of_field("model", "only local models have a reward head"));
        }
        let file = uploads::found(store, &body.file, "file")?;
        let request = ScoreRequest {
            procedure: ScoreRequest::PROCEDURE.to_owned(),
            run: self.base_request(model.clone(), Vec::new()),
            file: file.id,
            category: body.category.clone(),
            max_length: body.max_length,
        };
        let definition = json!([body.category, body.max_length]);
        let data = (&file.digest, 1);
        self.create_and_queue(
            store,
            &NewRun {
                spec: job_spec(named_identity(model), ScoreRequest::PROCEDURE, &definition, data),
                request: serde_json::to_value(&request).map_err(ApiError::internal)?,
                samples_total: 0,
                fork: false,
            },
        )
    }

    /// Scores.
    pub(crate) fn drive_score(
        &self,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: ScoreRequest =
            serde_json::from_value(stored.request.clone()).map_err(ApiError::internal)?;
        let reference = &request.run.model;
        let model = self.model_files(reference)?;
        let pairs = self.dataset(&self.file_at(store, &request.file, "file")?)?;
        let options =
            ScoreOptions { category: &request.category, max_length: request.max_length, compat_trl: false };
        let score = || score_rewards(&model, reference.adapter.as_deref(), &pairs, &options);
        let Some(scored) = to_its_end(run, store, cancel, score) else { return Ok(RunStatus::Cancelled) };
        run.complete(&json!(scored?))?;
        Ok(RunStatus::Completed)
    }
}

/// Does work that cannot be broken off. `None` where the run was to end, or has lost its lease: then nothing comes of it.
fn to_its_end<T>(run: &ActiveRun, store: &Store, cancel: &Cancel, work: impl FnOnce() -> T) -> Option<T> {
    if cancel.level() != CancelLevel::None {
        return None;
    }
    let (done, is_lost) = tended(run, store, cancel, |stop| (work(), stop.load(Ordering::Relaxed)));
    // The flag is raised a moment after the wish.
    (!is_lost && cancel.level() == CancelLevel::None).then_some(done)
}

/// A file, or the files of a directory, by name.
fn files_at(path: &Path) -> std::io::Result<Vec<PathBuf>> {
    if path.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    let files = fs_err::read_dir(path)?.map(|entry| Ok(entry?.path()));
    let mut files = files.collect::<std::io::Result<Vec<_>>>()?;
    files.sort();
    Ok(files)
}

#[cfg(test)]
mod tests;
