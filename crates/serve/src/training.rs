//! Training over REST: pairs that were uploaded or built become an adapter, which a model can then be measured with.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use evalign_bench::{ActiveRun, Cancel, RunRequest, job_spec};
use evalign_core::{Digest, ModelIdentity, ModelRef, Provider, RunId, RunStatus};
use evalign_data::{DataRoots, Dataset, DatasetSpec};
use evalign_model::EngineOptions;
use evalign_store::{NewRun, Store, StoredRun};
use evalign_train::{
    Checkpoints, Conducted, Ending, Event, Job, Line, Metrics, Place, RecomputeChoice, Settings, Sources,
    TrainConfig, TrainError, TrainKind, conduct, read_metrics,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::runs::RunObject;
use crate::uploads;
use crate::work::{LEASE_TTL, Notes, owner, tended};

/// Where jobs write, in the home.
pub(crate) const DIRECTORY: &str = "training";

/// Where, in a job's directory, it writes what the reference model says.
const REFERENCES: &str = "reference-logps";

/// Most checkpoints that a job keeps while it is trained, beside the best: its disk is everybody's.
const MOST_CHECKPOINTS: usize = 2;

/// What may be downloaded of a job.
const FILES: [&str; 4] = ["adapter_model.safetensors", "adapter_config.json", "metrics.jsonl", "report.html"];

/// What is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Sft,
    Reward,
    Dpo,
}

impl From<Kind> for TrainKind {
    fn from(kind: Kind) -> Self {
        match kind {
            Kind::Sft => Self::Sft,
            Kind::Reward => Self::Reward,
            Kind::Dpo => Self::Dpo,
        }
    }
}

/// A training to be done: an adapter for a model that is served, on a file that was uploaded or built.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"kind": "dpo", "model": "smollm2", "file": "file_0199", "settings": {"max_steps": 20}}))]
pub(crate) struct TrainingBody {
    /// `sft`, `reward` or `dpo`.
    #[schema(value_type = String, pattern = "^(sft|reward|dpo)$")]
    kind: Kind,
    /// A local model of `GET /v1/models`; `NAME+adapter=JOB` goes on with the adapter of an earlier job.
    model: String,
    /// A file in a layout of TRL's.
    file: String,
    /// A file to evaluate on.
    evaluation_file: Option<String>,
    /// TRL's names: `learning_rate`, `max_steps`, `beta`, `lora_r`, `eval_fraction`, ... Those that name places or
    /// devices are the operator's; `save_total_limit` is at most 2.
    #[serde(default)]
    #[schema(value_type = Object)]
    settings: Settings,
}

/// What a run that trains is asked for.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct TrainRequest {
    procedure: String,
    /// Says which model, and nothing else.
    run: RunRequest,
    kind: Kind,
    file: String,
    evaluation_file: Option<String>,
    settings: Settings,
}

impl TrainRequest {
    pub(crate) const PROCEDURE: &'static str = "train";

    fn of(stored: &StoredRun) -> ApiResult<Option<Self>> {
        if stored.request["procedure"] != Self::PROCEDURE {
            return Ok(None);
        }
        Ok(Some(serde_json::from_value(stored.request.clone()).map_err(ApiError::internal)?))
    }
}

/// A training job as clients see it. It is a run: its events, cancelling and resuming are the run's.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TrainingObject {
    #[schema(pattern = "^training.job$")]
    object: &'static str,
    pub(crate) id: String,
    pub(crate) kind: &'static str,
    /// As a run's.
    pub(crate) status: &'static str,
    pub(crate) model: String,
    pub(crate) file: String,
    /// What was set.
    #[schema(value_type = Object)]
    pub(crate) settings: Value,
    /// `update`, `updates`, and the last value of each metric.
    #[schema(value_type = Option<Object>)]
    pub(crate) progress: Option<Value>,
    /// How the trained model is named, when it is done, wherever a request names a model.
    pub(crate) trained_model: Option<String>,
    pub(crate) error: Option<String>,
    /// Unix time in seconds.
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
}

impl TrainingObject {
    /// Whether what is trained goes on writing texts; a reward model gives them points.
    pub(crate) fn writes_texts(&self) -> bool {
        self.kind != "reward"
    }
}

/// Settings that say where something lies or runs: never a client's.
fn of_operator(settings: &Settings) -> Option<&'static str> {
    let given = [
        ("model", settings.model.is_some()),
        ("data", settings.data.is_some()),
        ("eval_data", settings.eval_data.is_some()),
        ("out", settings.out.is_some()),
        ("chat_template_path", settings.chat_template_path.is_some()),
        ("ref_model", settings.ref_model.is_some()),
        ("adapter", settings.adapter.is_some()),
        ("device", settings.device.is_some()),
        ("memory_gib", settings.memory_gib.is_some()),
        // What comes of a training here is an adapter.
        ("use_peft", settings.use_peft == Some(false)),
    ];
    given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
}

fn of_field(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, message).about(field)
}

impl App {
    /// Where a job writes. Its id is ours.
    fn training_place(&self, run: &RunId) -> PathBuf {
        self.home.join(DIRECTORY).join(run.as_str())
    }

    /// The model that a finished job of this tenant has trained, with its adapter.
    pub(crate) fn trained_model(&self, store: &Store, job: &RunId) -> ApiResult<ModelRef> {
        let none = || ApiError::not_found("training job", job.as_str());
        let request = TrainRequest::of(&store.run(job).map_err(|_| none())?)?.ok_or_else(none)?;
        let base = ModelRef { adapter: None, ..request.run.model };
        let adapter = self.trained_adapter(store, job.as_str(), &base)?;
        Ok(ModelRef { adapter: Some(adapter), ..base })
    }

    /// The directory of an adapter that a finished job of this tenant has trained for this model.
    pub(crate) fn trained_adapter(&self, store: &Store, job: &str, base: &ModelRef) -> ApiResult<PathBuf> {
        let none = || ApiError::not_found("training job", job).about("model");
        let run = store.run(&job.parse().map_err(|_| none())?).map_err(|_| none())?;
        let request = TrainRequest::of(&run)?.ok_or_else(none)?;
        if run.status != RunStatus::Completed {
            return Err(of_field("model", "the training job is not completed"));
        }
        if (&request.run.model.name, request.run.model.provider) != (&base.name, base.provider) {
            return Err(of_field("model", "the adapter was trained for another model"));
        }
        Ok(self.training_place(&run.id))
    }

    /// The served model and the job of a reference with an adapter that was trained here.
    pub(crate) fn adapter_job(&self, reference: &ModelRef) -> Option<(String, String)> {
        let adapter = reference.adapter.as_ref()?;
        let job: RunId = adapter.strip_prefix(self.home.join(DIRECTORY)).ok()?.to_str()?.parse().ok()?;
        let base = ModelRef { adapter: None, ..reference.clone() };
        Some((self.models.name_of(&base)?.to_owned(), job.as_str().to_owned()))
    }

    /// Stores a training and queues it. The same training again is that job.
    pub(crate) fn start_training(&self, store: &Store, body: &TrainingBody) -> ApiResult<StoredRun> {
        if let Some(name) = of_operator(&body.settings) {
            let message = format!("`{name}` is not for clients to set");
            return Err(of_field(&format!("settings.{name}"), message));
        }
        let model = self.reference(store, &body.model)?;
        if model.provider != Provider::Local {
            return Err(of_field("model", "only local models are trained"));
        }
        let config = TrainConfig::resolve(body.kind.into(), &body.settings)?;
        if config.save_total_limit.is_some_and(|limit| limit > MOST_CHECKPOINTS) {
            let message = format!("a job keeps at most {MOST_CHECKPOINTS} checkpoints, until it is done");
            return Err(of_field("settings.save_total_limit", message));
        }
        let file = uploads::found(store, &body.file, "file")?;
        let find = |id: &String| uploads::found(store, id, "evaluation_file");
        let evaluation = body.evaluation_file.as_ref().map(find).transpose()?;
        uploads::check_room(self, store, 1)?;
        // What cannot be read is said now.
        self.dataset(&uploads::named_place(&self.home, &file)?)?;
        let request = TrainRequest {
            procedure: TrainRequest::PROCEDURE.to_owned(),
            run: self.base_request(model.clone(), Vec::new()),
            kind: body.kind,
            file: file.id,
            evaluation_file: evaluation.as_ref().map(|file| file.id.clone()),
            settings: body.settings.clone(),
        };
        let definition = json!({
            "kind": body.kind,
            "settings": body.settings,
            "evaluation": evaluation.map(|file| file.digest),
        });
        let new = NewRun {
            spec: job_spec(named_identity(model), TrainRequest::PROCEDURE, &definition, (&file.digest, 1)),
            request: serde_json::to_value(&request).map_err(ApiError::internal)?,
            samples_total: 0,
            fork: false,
        };
        self.create_and_queue(store, &new)
    }

    pub(crate) fn dataset(&self, path: &Path) -> ApiResult<Dataset> {
        let spec = DatasetSpec { files: Some(path.display().to_string()), ..DatasetSpec::default() };
        let roots = DataRoots::from_env(None, Vec::new(), self.settings.offline)?;
        Ok(evalign_data::open(&roots, &spec)?)
    }

    /// Trains what is open of a job.
    pub(crate) fn drive_training(
        &self,
        run: &ActiveRun,
        (store, stored): (&Store, &StoredRun),
        cancel: &Cancel,
    ) -> ApiResult<RunStatus> {
        let request = TrainRequest::of(stored)?.ok_or_else(|| ApiError::internal("this is no training"))?;
        tended(run, store, cancel, |stop| self.train(run, store, &request, stop))
    }

    fn train(
        &self,
        run: &ActiveRun,
        store: &Store,
        request: &TrainRequest,
        stop: &AtomicBool,
    ) -> ApiResult<RunStatus> {
        let mut config = TrainConfig::resolve(request.kind.into(), &request.settings)?;
        config.save_total_limit.get_or_insert(MOST_CHECKPOINTS);
        let sources = self.sources(store, request)?;
        let load = EngineOptions {
            dtype: request.settings.dtype.as_deref().map(dtype).transpose()?,
            ..EngineOptions::default()
        };
        let mut job = Job::prepare(config, &sources, &load, (RecomputeChoice::Auto, None))?;
        let out = self.training_place(&run.id);
        fs_err::create_dir_all(&out).map_err(ApiError::internal)?;
        // Goes with the checkpoints.
        let references = out.join(REFERENCES);
        let place = Place { out: &out, fresh: false, references: Some(&references), host: "evalign-serve" };
        let notes = Notes::new(self, store, run);
        let (mut update, updates) = (0, job.updates);
        let mut alarms = Vec::new();
        let conducted = conduct(&mut job, &sources, place, stop, &mut |event, last| {
            match event {
                Event::Started { update: now, .. } | Event::Progress { update: now, .. } => update = *now,
                Event::Alarm(alarm) => alarms.push(json!({"update": alarm.update, "message": alarm.message})),
                _ => {}
            }
            if matches!(event, Event::Logged { .. } | Event::Evaluated { .. } | Event::Progress { .. }) {
                notes.note(&json!({"update": update, "updates": updates, "metrics": values(last)}));
            }
        });
        // However it ended.
        store.keep_bytes(run.id.as_str(), bytes_below(&out).map_err(ApiError::internal)?)?;
        notes.last()?;
        let Conducted { ending, last, tokens_per_second } = conducted?;
        let (updates, best) = match ending {
            None | Some(Ending::Interrupted { .. }) => return Ok(RunStatus::Cancelled),
            Some(Ending::Finished { updates }) => (updates, None),
            Some(Ending::StoppedEarly { updates, best }) => (updates, Some(best)),
        };
        store.note_progress(
            run.lease(),
            &json!({"update": updates, "updates": job.updates, "metrics": values(&last)}),
        )?;
        run.complete(&json!({
            "updates": updates,
            "best_update": best,
            "metrics": values(&last),
            "tokens_per_second": tokens_per_second,
            "items": job.data.items.len(),
            "left_out": job.data.report.too_long.len(),
            "cut": job.data.report.cut.len(),
            "alarms": alarms,
        }))?;
        // What is trained lies beside them; a job that is done is not gone on with.
        if let Err(error) = remove_checkpoints(&out) {
            tracing::warn!(run = %run.id, %error, "checkpoints stay");
        }
        store.keep_bytes(run.id.as_str(), bytes_below(&out).map_err(ApiError::internal)?)?;
        Ok(RunStatus::Completed)
    }

    fn sources(&self, store: &Store, request: &TrainRequest) -> ApiResult<Sources> {
        let reference = &request.run.model;
        let model = self.model_files(reference)?;
        let rows = |id: &String, field: &str| self.dataset(&self.file_at(store, id, field)?);
        let evaluation = request.evaluation_file.as_ref();
        Ok(Sources {
            model,
            model_name: format!("local/{}", reference.name),
            chat_template: None,
            adapter: reference.adapter.clone(),
            reference: None,
            rows: rows(&request.file, "file")?,
            evaluation: evaluation.map(|id| rows(id, "evaluation_file")).transpose()?,
            evaluation_fraction: request.settings.eval_fraction.unwrap_or(0.0),
        })
    }

    /// A training job of this tenant.
    pub(crate) fn training(&self, store: &Store, run: &RunId) -> ApiResult<TrainingObject> {
        let none = || ApiError::not_found("training job", run.as_str());
        let stored = store.run(run).map_err(|_| none())?;
        let request = TrainRequest::of(&stored)?.ok_or_else(none)?;
        let seen = RunObject::of(self, store, &stored)?;
        let kind = match request.kind {
            Kind::Sft => "sft",
            Kind::Reward => "reward",
            Kind::Dpo => "dpo",
        };
        let base = ModelRef { adapter: None, ..request.run.model.clone() };
        let named = self.models.name_of(&base).filter(|_| stored.status == RunStatus::Completed);
        Ok(TrainingObject {
            object: "training.job",
            trained_model: named.map(|base| format!("{base}+adapter={}", seen.id)),
            id: seen.id,
            kind,
            status: seen.status,
            model: seen.model,
            file: request.file,
            settings: serde_json::to_value(&request.settings).map_err(ApiError::internal)?,
            progress: seen.progress,
            error: seen.error,
            created_at: seen.created_at,
            updated_at: seen.updated_at,
        })
    }

    /// The tenant's training jobs, newest first: so many that were made before the job `after`.
    pub(crate) fn trainings(
        &self,
        store: &Store,
        after: Option<&RunId>,
        limit: u32,
    ) -> ApiResult<Vec<TrainingObject>> {
        let runs = store.runs_asked_for_after("procedure", TrainRequest::PROCEDURE, after, limit)?;
        runs.iter().map(|run| self.training(store, &run.id)).collect()
    }

    /// Removes a training job that has ended, with its adapter.
    pub(crate) fn remove_training(&self, store: &Store, run: &RunId) -> ApiResult<()> {
        self.training(store, run)?;
        if store.job_of(run)?.is_some_and(|job| job.state.is_active()) {
            let message = "the job is queued or being worked on: cancel it first";
            return Err(ApiError::new(Code::RunActive, message));
        }
        let lease = store.lease(run, &owner(), LEASE_TTL)?;
        // The directory first: whatever stops this, the job is there to be removed again.
        match fs_err::remove_dir_all(self.training_place(run)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(ApiError::internal(error));
            }
            _ => {}
        }
        store.remove_run(lease)?;
        Ok(store.keep_bytes(run.as_str(), 0)?)
    }

    /// What a job has logged so far, line by line.
    pub(crate) fn training_metrics(&self, run: &RunId) -> ApiResult<Vec<Line>> {
        Ok(read_metrics(&self.training_place(run).join("metrics.jsonl"))?)
    }

    /// One of the files that a job has made.
    pub(crate) fn training_file(&self, store: &Store, run: &RunId, name: &str) -> ApiResult<PathBuf> {
        self.training(store, run)?;
        if !FILES.contains(&name) {
            return Err(of_field("name", format!("`name` is one of {}", FILES.join(", "))));
        }
        let path = self.training_place(run).join(name);
        if path.is_file() { Ok(path) } else { Err(ApiError::not_found("such file yet", name)) }
    }
}

fn remove_checkpoints(out: &Path) -> Result<(), TrainError> {
    let checkpoints = Checkpoints::open(out)?;
    checkpoints.updates()?.into_iter().try_for_each(|update| checkpoints.remove(update))?;
    match fs_err::remove_dir_all(out.join(REFERENCES)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

/// Bytes of all files in a directory and those below it.
fn bytes_below(directory: &Path) -> std::io::Result<u64> {
    let mut bytes = 0;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let about = entry.metadata()?;
        bytes += if about.is_dir() { bytes_below(&entry.path())? } else { about.len() };
    }
    Ok(bytes)
}

fn dtype(name: &str) -> ApiResult<evalign_core::Dtype> {
    let name = name.trim_start_matches("torch.");
    serde_json::from_value(json!(name))
        .map_err(|_| of_field("settings.dtype", "`dtype` is one of f32, bf16, f16, q"))
}

fn values(metrics: &Metrics) -> Value {
    metrics
        .iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// What is trained, as far as it is known before it is loaded: a job whose model's weights have changed meanwhile is
/// refused by what it has written.
pub(crate) fn named_identity(model: ModelRef) -> ModelIdentity {
    let named = Digest::of(model.to_string());
    ModelIdentity {
        reference: model,
        weights: named.clone(),
        tokenizer: named,
        chat_template: None,
        adapter: None,
        trained_on: None,
        dtype: "none".to_owned(),
        device: "none".to_owned(),
    }
}
