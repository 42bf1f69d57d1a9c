//! Training over REST: pairs that were uploaded or built become an adapter, which a model can then be measured with.

mod disk;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use evalign_bench::{ActiveRun, Cancel, RunRequest, job_spec};
use evalign_core::{Digest, ModelIdentity, ModelRef, Provider, RunId, RunStatus};
use evalign_data::{DataRoots, Dataset, DatasetSpec};
use evalign_model::EngineOptions;
use evalign_store::{Store, StoredRun};
use evalign_train::{
    Conducted, Ending, Event, Job, Line, Metrics, Place, RecomputeChoice, Settings, Sources, TrainConfig,
    TrainKind, conduct, read_metrics,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::runs::RunObject;
use crate::uploads;
use crate::work::{LEASE_TTL, Notes, asked, owner, tended};
use disk::{bytes_below, most_bytes, remove_checkpoints};

/// Where jobs write, in the home.
pub(crate) const DIRECTORY: &str = "training";

/// Where, in a job's directory, it writes what the reference model says.
const REFERENCES: &str = "reference-logps";

/// Most checkpoints that a job keeps while it is trained, beside the best: its disk is everybody's.
const MOST_CHECKPOINTS: usize = 2;

/// What may be downloaded of a job: an adapter, or a whole model with what belongs to it, and how it came to be.
const FILES: [&str; 13] = [
    "adapter_model.safetensors",
    "adapter_config.json",
    "metrics.jsonl",
    "report.html",
    "model.safetensors",
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "generation_config.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
];

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
    /// devices are the operator's; `save_total_limit` is at most 2. With `use_peft` false all weights are trained, and what
    /// comes of it is a model of its own.
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

    pub(crate) fn of(stored: &StoredRun) -> ApiResult<Option<Self>> {
        if stored.request["procedure"] != Self::PROCEDURE {
            return Ok(None);
        }
        asked(stored).map(Some)
    }

    /// Whether all weights are trained, and not an adapter.
    pub(crate) fn is_whole(&self) -> bool {
        is_whole(&self.settings)
    }

    /// The model that is trained, without an adapter.
    pub(crate) fn base(&self) -> ModelRef {
        ModelRef { adapter: None, ..self.run.model.clone() }
    }
}

fn is_whole(settings: &Settings) -> bool {
    settings.use_peft == Some(false)
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
    ];
    given.into_iter().find(|(_, given)| *given).map(|(name, _)| name)
}

fn of_field(field: &str, message: impl Into<String>) -> ApiError {
    ApiError::new(Code::InvalidRequest, message).about(field)
}

impl App {
    /// Stores a training and queues it. The same training again is that job.
    pub(crate) fn start_training(&self, store: &Store, body: &TrainingBody) -> ApiResult<StoredRun> {
        if let Some(name) = of_operator(&body.settings) {
            let message = format!("`{name}` is not for clients to set");
            return Err(of_field(&format!("settings.{name}"), message));
        }
        let model = self.reference(store, &body.model)?;
        if model.provider != Provider::Local || self.whole_job(&model).is_some() {
            return Err(of_field("model", "only local models that are served are trained"));
        }
        if is_whole(&body.settings) && model.adapter.is_some() {
            let message = "`use_peft` is false beside an adapter: merge that, or train another";
            return Err(of_field("settings.use_peft", message));
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
        let spec = job_spec(named_identity(model), TrainRequest::PROCEDURE, &definition, (&file.digest, 1));
        self.start_work(store, spec, &request, false)
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
        let sources = self.sources(store, request, &config)?;
        let load = EngineOptions {
            dtype: request.settings.dtype.as_deref().map(dtype).transpose()?,
            ..EngineOptions::default()
        };
        let mut job = Job::prepare(config, &sources, &load, (RecomputeChoice::Auto, None))?;
        let out = self.training_place(&run.id);
        fs_err::create_dir_all(&out).map_err(ApiError::internal)?;
        let had = bytes_below(&out).map_err(ApiError::internal)?;
        uploads::check_room(self, store, most_bytes(&job).saturating_sub(had))?;
        // What a server has left that was killed.
        self.note_training_bytes(store, &run.id)?;
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
                Event::Read { tokens } => self.count_read(&run.id, *tokens),
                _ => {}
            }
            if matches!(event, Event::Logged { .. } | Event::Evaluated { .. } | Event::Progress { .. }) {
                notes.note(&json!({"update": update, "updates": updates, "metrics": values(last)}));
            }
        });
        // However it ended.
        self.note_training_bytes(store, &run.id)?;
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
        self.note_training_bytes(store, &run.id)?;
        Ok(RunStatus::Completed)
    }

    /// Notes what a job takes of the bytes that its tenant may keep.
    pub(crate) fn note_training_bytes(&self, store: &Store, run: &RunId) -> ApiResult<()> {
        let bytes = bytes_below(&self.training_place(run)).map_err(ApiError::internal)?;
        Ok(store.keep_bytes(run.as_str(), bytes)?)
    }

    /// Notes what jobs take of which that was never noted, or that ended with a server that was killed.
    pub(crate) fn note_trainings(&self) -> ApiResult<()> {
        let places = match fs_err::read_dir(self.home.join(DIRECTORY)) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            places => places.map_err(ApiError::internal)?,
        };
        for place in places {
            let name = place.map_err(ApiError::internal)?.file_name();
            let Some(run) = name.to_str().and_then(|name| name.parse().ok()) else { continue };
            if self.ending.is_cancelled() {
                break;
            }
            if let Err(error) = self.note_training(&run) {
                tracing::warn!(%run, error = error.message, "what a training job takes is not noted");
            }
        }
        Ok(())
    }

    fn note_training(&self, run: &RunId) -> ApiResult<()> {
        let Some(tenant) = self.store.tenant_of(run)? else { return Ok(()) };
        let view = self.store.for_tenant(&tenant);
        // What is done does not grow.
        let is_noted =
            view.run(run)?.status == RunStatus::Completed && view.kept_bytes(run.as_str())?.is_some();
        // Who works on it notes it.
        if is_noted || self.active.is_working(run) {
            return Ok(());
        }
        self.note_training_bytes(&view, run)?;
        // It may have been removed meanwhile.
        if self.store.tenant_of(run)?.is_none() {
            view.keep_bytes(run.as_str(), 0)?;
        }
        Ok(())
    }

    fn sources(&self, store: &Store, request: &TrainRequest, config: &TrainConfig) -> ApiResult<Sources> {
        let trained = &request.run.model;
        let model = self.model_files(trained)?;
        let rows = |id: &String, field: &str| self.dataset(&self.file_at(store, id, field)?);
        let evaluation = request.evaluation_file.as_ref();
        // Where all weights change, a loss that compares with a reference compares with those they were.
        let reference = (request.is_whole() && config.objective.needs_reference()).then(|| model.clone());
        Ok(Sources {
            model,
            model_name: format!("local/{}", trained.name),
            chat_template: None,
            adapter: trained.adapter.clone(),
            reference,
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
        let trained_model = match request.is_whole() {
            true => Some(seen.id.clone()),
            // Named by what is under it, as long as that is served.
            false => self.models.name_of(&request.base()).map(|base| format!("{base}+adapter={}", seen.id)),
        };
        let trained_model = trained_model.filter(|_| stored.status == RunStatus::Completed);
        Ok(TrainingObject {
            object: "training.job",
            trained_model,
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
        let runs = store.runs_of_procedure(TrainRequest::PROCEDURE, after, limit, None)?;
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
