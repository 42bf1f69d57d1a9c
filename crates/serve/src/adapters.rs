//! What becomes of an adapter that was trained here: merged into its model, or, where it is a reward model, scored on
//! pairs. Both are runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evalign_bench::{ActiveRun, Cancel, RunRequest, job_spec};
use evalign_core::{Digest, ModelRef, Provider, RunId, RunStatus};
use evalign_fetch::{block_on, silent};
use evalign_store::{Store, StoredFile, StoredRun};
use evalign_train::{MergedForm, ScoreOptions, merge, score_rewards};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::models::Served;
use crate::training::{TrainRequest, TrainingObject, named_identity};
use crate::uploads;
use crate::work::{asked, tended};

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

/// Where the progress of a merge names the files that it keeps.
const KEEPING: &str = "files";

/// Trained models that are listed; whoever knows the job of an older one can still name it.
const MOST_LISTED: u32 = 100;

impl App {
    /// The model to talk to that a client names: one that is served, or one that a training job has made.
    pub(crate) async fn served(self: &Arc<Self>, store: &Store, name: &str) -> ApiResult<Arc<Served>> {
        let (base, job) = match name.split_once("+adapter=") {
            Some(named) => named,
            None if self.models.reference(name).is_err() && name.parse::<RunId>().is_ok() => (name, name),
            None => return self.models.served(name).await,
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

    /// One of [`App::trained_names`], however old it is.
    pub(crate) fn trained_name(&self, store: &Store, name: &str) -> Option<(String, u64)> {
        let (_, job) = name.split_once("+adapter=").unwrap_or((name, name));
        let job = self.training(store, &job.parse().ok()?).ok().filter(TrainingObject::writes_texts)?;
        let trained = job.trained_model.filter(|trained| trained == name)?;
        Some((trained, job.created_at))
    }

    /// Names of the tenant's trained models that write texts, and since when (Unix time in seconds).
    pub(crate) fn trained_names(&self, store: &Store) -> ApiResult<Vec<(String, u64)>> {
        let done = Some(RunStatus::Completed);
        let runs = store.runs_of_procedure(TrainRequest::PROCEDURE, None, MOST_LISTED, done)?;
        let jobs = runs.iter().map(|run| self.training(store, &run.id)).collect::<ApiResult<Vec<_>>>()?;
        Ok(jobs
            .into_iter()
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
        let spec = job_spec(named_identity(model), MergeRequest::PROCEDURE, &definition, data);
        // What the run before has made may have been removed.
        self.start_work(store, spec, &request, true)
    }

    /// Merges. What comes of it is files of the tenant's.
    pub(crate) fn drive_merge(
        &self,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: MergeRequest = asked(stored)?;
        let form = merged_form(request.form, &request.r#type)?;
        self.drop_unfinished(&run.id, store)?;
        // The job may have been removed since.
        let model = self.trained_model(store, &request.job)?;
        let adapter = model.adapter.as_deref().ok_or_else(|| ApiError::internal("a job has an adapter"))?;
        let base = self.model_files(&model)?;
        let dir = uploads::partial(&self.home)?;
        let out = dir.path().join(match request.form {
            Form::Hf => "merged".to_owned(),
            Form::Gguf => format!("{}.gguf", request.job),
        });
        let merged = tended(run, store, cancel, |stop| merge(&base, adapter, &out, form, stop));
        let Some(merged) = merged.map_err(evalign_model::ModelError::from)? else {
            return Ok(RunStatus::Cancelled);
        };
        let kept = self.keep_all((run, store), &files_at(&out).map_err(ApiError::internal)?)?;
        let shown = |file: &StoredFile| json!({"id": file.id, "name": file.name, "bytes": file.bytes});
        let completed = run.complete(&json!({
            "files": kept.iter().map(shown).collect::<Vec<_>>(),
            "merged_matrices": merged.merged,
            "positions_compared": merged.positions,
            "largest_logit_difference": merged.largest_difference,
            "largest_logit": merged.largest_logit,
        }));
        if let Err(error) = completed {
            self.drop_all(store, kept.iter().map(|file| file.id.as_str()));
            return Err(error.into());
        }
        Ok(RunStatus::Completed)
    }

    /// Keeps the files of a model as the tenant's: all of them, or none. The run says which before there is one, so that
    /// what a server leaves that is killed in between is known to be nobody's.
    fn keep_all(&self, (run, store): (&ActiveRun, &Store), made: &[PathBuf]) -> ApiResult<Vec<StoredFile>> {
        let bytes = made.iter().map(|path| Ok(fs_err::metadata(path)?.len()));
        uploads::check_room(self, store, bytes.sum::<std::io::Result<u64>>().map_err(ApiError::internal)?)?;
        let ids: Vec<String> = made.iter().map(|_| uploads::new_id()).collect();
        store.note_progress(run.lease(), &json!({ KEEPING: ids }))?;
        let kept = made.iter().zip(&ids).map(|(path, id)| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or("model");
            uploads::keep_as(self, store, path, (id, name, "model"))
        });
        let kept = kept.collect::<ApiResult<Vec<StoredFile>>>();
        if kept.is_err() {
            self.drop_all(store, ids.iter().map(String::as_str));
        }
        kept
    }

    /// Removes the files that an attempt before has kept: the run does not name them, so nobody does.
    pub(crate) fn drop_unfinished(&self, run: &RunId, store: &Store) -> ApiResult<()> {
        let noted = store.progress(run)?.unwrap_or_default();
        self.drop_all(store, noted[KEEPING].as_array().into_iter().flatten().filter_map(Value::as_str));
        Ok(())
    }

    /// Removes files that no run names.
    fn drop_all<'a>(&self, store: &Store, files: impl Iterator<Item = &'a str>) {
        for id in files {
            match store.remove_file(id) {
                Ok(_) => uploads::remove(&self.home, id),
                Err(error) => tracing::warn!(file = id, %error, "a file that nobody needs stays"),
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
        let spec = job_spec(named_identity(model), ScoreRequest::PROCEDURE, &definition, data);
        self.start_work(store, spec, &request, false)
    }

    /// Scores.
    pub(crate) fn drive_score(
        &self,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request: ScoreRequest = asked(stored)?;
        let reference = &request.run.model;
        let model = self.model_files(reference)?;
        let pairs = self.dataset(&self.file_at(store, &request.file, "file")?)?;
        let options =
            ScoreOptions { category: &request.category, max_length: request.max_length, compat_trl: false };
        let adapter = reference.adapter.as_deref();
        let mut read = |tokens| self.count_read(&run.id, tokens);
        let scored = tended(run, store, cancel, |stop| {
            score_rewards(&model, adapter, &pairs, &options, stop, &mut read)
        });
        let Some(scored) = scored? else { return Ok(RunStatus::Cancelled) };
        run.complete(&json!(scored))?;
        Ok(RunStatus::Completed)
    }
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
