//! Runs as the service starts, stops and resumes them.

use std::sync::Arc;

use evalign_bench::{DocRange, Limit, OptionOrder, Perturbation, Plan, RunRequest, check_resume, draft};
use evalign_core::{ModelRef, Outcome, Provider, RunId, RunStatus, ScoringMode};
use evalign_model::{LoadOptions, Model, ServerKind};
use evalign_store::{Enqueued, JobState, NewRun, Store, StoredRun};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::adapters::MergeRequest;
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code, shown};
use crate::work::{JobRequest, is_whole, is_worked_on};

/// Answers per document: more fill a disk by one request.
const MOST_REPEATS: u32 = 1000;

/// Judges of a run: each is a model in memory.
const MOST_JUDGES: usize = 8;

/// A run to be started. What is absent is decided by the task. There is no field for a path or an address:
/// models are named as they are served, task files and datasets are the operator's.
#[derive(Clone, Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({"model": "smollm2", "tasks": ["arc_easy"], "limit": 20}))]
pub(crate) struct NewRunBody {
    /// A name of `GET /v1/models`, or of a model on another server that the operator has named.
    pub(crate) model: String,
    /// Names of tasks or groups; `GET /v1/tasks` lists them.
    #[schema(min_items = 1)]
    pub(crate) tasks: Vec<String>,
    /// Worked examples per prompt.
    pub(crate) shots: Option<u32>,
    /// Documents per leaf task: a number of at least 1, or a share between 0 and 1.
    #[schema(value_type = Option<f64>, exclusive_minimum = 0)]
    pub(crate) limit: Option<Limit>,
    /// A range of documents of each leaf task, `a..b`.
    #[schema(value_type = Option<String>, pattern = r"^\d+\.\.\d+$")]
    pub(crate) samples: Option<DocRange>,
    /// Answers per document.
    #[schema(minimum = 1, maximum = 1000)]
    pub(crate) repeats: Option<u32>,
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f64>,
    #[schema(minimum = 1)]
    pub(crate) max_tokens: Option<u32>,
    pub(crate) chat_template: Option<bool>,
    #[serde(default)]
    pub(crate) multiturn: bool,
    #[schema(max_length = 100000)]
    pub(crate) system_instruction: Option<String>,
    /// `default`, or `lm-eval` for lm-evaluation-harness 0.4.13 bug for bug.
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(default|lm-eval)$")]
    pub(crate) compat: ScoringMode,
    pub(crate) seed: Option<u64>,
    /// In which orders lettered options are asked: `as_given`, or `cyclic`, which also asks each item with its options
    /// moved up by one place, by two, ...
    #[serde(default)]
    #[schema(value_type = String, pattern = "^(as_given|cyclic)$")]
    pub(crate) option_order: OptionOrder,
    /// Also ask the questions perturbed: `typos`, `case`, `whitespace`, `paraphrase`.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub(crate) perturb: Vec<Perturbation>,
    /// Share of the question's letters that typos replace; 0.05 where absent.
    #[schema(minimum = 0, maximum = 1)]
    pub(crate) typo_rate: Option<f64>,
    /// Models that judge the answers to tasks that ask for a judge; several are a jury. One that was trained as a reward
    /// model judges, alone, the answers to every task that asks for text.
    #[serde(default)]
    #[schema(max_items = 8)]
    pub(crate) judges: Vec<String>,
    /// Requests in flight to a model on another server.
    #[schema(minimum = 1)]
    pub(crate) max_concurrency: Option<u32>,
    pub(crate) budget_tokens: Option<u64>,
    pub(crate) budget_requests: Option<u64>,
    /// A new run even where the same was run before.
    #[serde(default)]
    pub(crate) fork: bool,
}

/// A run as clients see it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct RunObject {
    #[schema(pattern = "^run$")]
    pub(crate) object: &'static str,
    pub(crate) id: String,
    /// `queued`, `running`, `completed`, `failed`, `cancelled`, `budget_exhausted`; `interrupted` where the process that
    /// worked on it is gone. One that waits to go on is `queued`, whatever it came to before.
    pub(crate) status: &'static str,
    pub(crate) model: String,
    pub(crate) tasks: Vec<String>,
    pub(crate) samples_total: u64,
    pub(crate) samples_done: u64,
    /// Unix time in seconds.
    pub(crate) created_at: u64,
    pub(crate) updated_at: u64,
    /// Why the last attempt failed.
    pub(crate) error: Option<String>,
    pub(crate) prompt_tokens: u64,
    pub(crate) generated_tokens: u64,
    pub(crate) has_results: bool,
    /// What it does, where that is no evaluation: `index`, `retrieval`, `tune`, `generate-tests`, `answering`, `judge`,
    /// `injections`, `arena`, `votes`, `critique`, `pairs`, `train`, `merge`, `reward-score`.
    pub(crate) procedure: Option<String>,
    /// How far it is, where its work is not samples.
    #[schema(value_type = Option<Object>)]
    pub(crate) progress: Option<Value>,
}

impl RunObject {
    pub(crate) fn of(app: &App, store: &Store, run: &StoredRun) -> ApiResult<Self> {
        let job = store.job_of(&run.id)?;
        let failed = job.filter(|job| job.state == JobState::Failed);
        let model = app.shown_model(&run.spec.model.reference);
        let procedure = run.request.get("procedure").and_then(Value::as_str).map(str::to_owned);
        let tasks = run.request.get("tasks").cloned().unwrap_or_default();
        Ok(Self {
            object: "run",
            id: run.id.to_string(),
            status: store.status_name(&run.id)?,
            model,
            tasks: serde_json::from_value(tasks).unwrap_or_default(),
            samples_total: run.samples_total,
            samples_done: run.samples_done,
            created_at: run.created_ms / 1000,
            updated_at: run.updated_ms / 1000,
            error: failed.and_then(|job| job.error),
            prompt_tokens: run.usage.prompt_tokens,
            generated_tokens: run.usage.generated_tokens,
            has_results: run.results.is_some(),
            progress: procedure.as_ref().map_or(Ok(None), |_| store.progress(&run.id))?,
            procedure,
        })
    }
}

pub(crate) fn queue_full(full: Enqueued) -> ApiError {
    let message = match full {
        Enqueued::KeyFull => "this key has as many queued and running runs as it may",
        Enqueued::Full | Enqueued::Queued | Enqueued::WasActive => {
            "so many runs are queued already that no more are taken"
        }
    };
    ApiError::new(Code::QueueFull, message).retry_after(60)
}

/// A request planned and its model loaded.
pub(crate) struct Prepared {
    pub(crate) plan: Plan,
    pub(crate) model: Arc<dyn Model>,
    pub(crate) spending: evalign_bench::Spending,
}

impl App {
    /// How clients are told of a model: as it is served, else without where it lies.
    pub(crate) fn shown_model(&self, reference: &ModelRef) -> String {
        let embedder = self.settings.embedders.0.iter().find(|(_, served)| *served == reference);
        let served = self.models.name_of(reference).or(embedder.map(|(name, _)| name.as_str()));
        match (served, self.adapter_job(reference)) {
            (Some(name), _) => name.to_owned(),
            (None, Some((base, job))) => format!("{base}+adapter={job}"),
            (None, None) if reference.provider == Provider::Openai => reference.to_string(),
            (None, None) => reference.name.rsplit('/').next().unwrap_or(&reference.name).to_owned(),
        }
    }

    /// A request with what the operator decides.
    pub(crate) fn base_request(&self, reference: ModelRef, tasks: Vec<String>) -> RunRequest {
        let mut request = RunRequest::new(reference, tasks);
        request.data_root.clone_from(&self.settings.data_root);
        request.include_path.clone_from(&self.settings.include_path);
        request.offline = self.settings.offline;
        // Also where this one runs here: the run may have others, that judge.
        if self.models.any_elsewhere() {
            request.base_url = ServerKind::base_url_from_env(None, |name| std::env::var(name).ok());
        }
        request
    }

    /// What a client's name of a model stands for: one that is served, `NAME+adapter=JOB` for one with the adapter of a
    /// training job of the tenant's, or `JOB` for one all of whose weights such a job has trained.
    pub(crate) fn reference(&self, store: &Store, name: &str) -> ApiResult<ModelRef> {
        let Some((base, job)) = name.split_once("+adapter=") else {
            return match self.models.reference(name) {
                Err(_) if name.parse::<RunId>().is_ok() => self.trained_whole(store, name),
                found => Ok(found?.clone()),
            };
        };
        let reference = self.models.reference(base)?;
        let adapter = self.trained_adapter(store, job, reference)?;
        Ok(ModelRef { adapter: Some(adapter), ..reference.clone() })
    }

    /// The model that a request is to be measured on: one that is served, or one that was trained here. Wherever a stored
    /// request came from, that has to be by a training job that the tenant has (still).
    /// Blocks while the model is loaded.
    pub(crate) fn measured_for(
        &self,
        store: &Store,
        (reference, request): (&ModelRef, &RunRequest),
        options: &LoadOptions,
    ) -> ApiResult<Arc<dyn Model>> {
        if let Some(name) = self.models.name_of(reference) {
            return self.models.measured(name, request, options);
        }
        match (self.adapter_job(reference), self.whole_job(reference)) {
            (Some((_, job)), _) => {
                self.trained_adapter(store, &job, &ModelRef { adapter: None, ..reference.clone() })?;
            }
            (None, Some(job)) => drop(self.trained_whole(store, job.as_str())?),
            (None, None) => {
                let message = "the run's model is not served any more";
                return Err(ApiError::new(Code::ModelNotFound, message).about("model"));
            }
        }
        let load = || Ok(evalign_model::load(reference, options, &evalign_fetch::silent)?);
        self.models.adapted.get((reference, request.mode), options.now, load)
    }

    /// As [`App::shown_model`], of a model as reports name it.
    pub(crate) fn shown_name(&self, name: String) -> String {
        name.parse().map_or(name, |reference| self.shown_model(&reference))
    }

    /// The judges of a run, each once.
    fn run_judges(&self, store: &Store, names: &[String]) -> ApiResult<Vec<ModelRef>> {
        let wrong = |message: String| ApiError::new(Code::InvalidRequest, message).about("judges");
        if names.len() > MOST_JUDGES {
            return Err(wrong(format!("`judges` are at most {MOST_JUDGES}")));
        }
        let mut judges: Vec<ModelRef> = Vec::new();
        for name in names {
            let judge = self.reference(store, name).map_err(|error| error.about("judges"))?;
            if judges.contains(&judge) {
                return Err(wrong(format!("`{}` is named twice: it would agree with itself", shown(name))));
            }
            judges.push(judge);
        }
        Ok(judges)
    }

    fn run_request(&self, store: &Store, body: &NewRunBody) -> ApiResult<RunRequest> {
        if body.tasks.is_empty() {
            return Err(ApiError::new(Code::InvalidRequest, "name at least one task").about("tasks"));
        }
        if body.repeats.is_some_and(|repeats| repeats > MOST_REPEATS) {
            let message = format!("`repeats` is at most {MOST_REPEATS}");
            return Err(ApiError::new(Code::InvalidRequest, message).about("repeats"));
        }
        let reference = self.reference(store, &body.model)?;
        let budgets = [("budget_tokens", body.budget_tokens), ("budget_requests", body.budget_requests)];
        if reference.provider != Provider::Openai
            && let Some((field, _)) = budgets.iter().find(|(_, budget)| budget.is_some())
        {
            let message = "a budget is for models on other servers, and this one runs here";
            return Err(ApiError::new(Code::InvalidRequest, message).about(*field));
        }
        let mut request = self.base_request(reference, body.tasks.clone());
        request.shots = body.shots;
        request.limit = body.limit;
        request.samples = body.samples;
        request.repeats = body.repeats;
        request.temperature = body.temperature;
        request.top_p = body.top_p;
        request.top_k = body.top_k;
        request.min_p = body.min_p;
        request.max_tokens = body.max_tokens;
        request.chat_template = body.chat_template;
        request.multiturn = body.multiturn;
        request.system_instruction.clone_from(&body.system_instruction);
        request.mode = body.compat;
        request.option_order = body.option_order;
        // Each kind once, in one order: it is part of what identifies a run.
        let is_wanted = |kind: &Perturbation| body.perturb.contains(kind);
        request.perturb = Perturbation::ALL.into_iter().filter(is_wanted).collect();
        request.typo_rate = body.typo_rate;
        let mut judges = self.run_judges(store, &body.judges)?.into_iter();
        request.judge = judges.next();
        request.jury = judges.collect();
        request.seed = body.seed.unwrap_or(request.seed);
        request.max_concurrency = body.max_concurrency;
        request.budget_tokens = body.budget_tokens;
        request.budget_requests = body.budget_requests;
        Ok(request)
    }

    /// Blocks while datasets are read and the model is loaded.
    pub(crate) fn prepare(
        &self,
        store: &Store,
        request: &RunRequest,
        stored: Option<&StoredRun>,
    ) -> ApiResult<Prepared> {
        let draft = draft(request, &self.catalog, &self.roots)?;
        let spending = request.spending()?;
        let mut options = request.load_options()?;
        options.openai.needs = draft.all_needs()?;
        options.budget.clone_from(&spending.budget);
        // Prompts that name the day go on naming the one the run was started on.
        let rendered_at = stored.and_then(|run| run.spec.rendered_at.as_deref());
        options.now = rendered_at.map(str::parse).transpose().map_err(ApiError::internal)?;
        let model = self.measured_for(store, (&request.model, request), &options)?;
        // Whatever the run's own model does with prompts that are too long, a judge has to see all of its own.
        let judging = RunRequest { mode: ScoringMode::Default, ..request.clone() };
        let load =
            |judge: &ModelRef, options: &LoadOptions| self.measured_for(store, (judge, &judging), options);
        let plan = draft.with_judges((&model, &options), store, load)?.bind(&*model)?;
        if let Some(stored) = stored {
            check_resume(stored, &plan)?;
        }
        Ok(Prepared { plan, model, spending })
    }

    /// Plans, creates and queues a run. Everything that is wrong with the request is said now, not by a run
    /// that fails later. A run of the same specification is that run, and goes on if it is not finished.
    pub(crate) fn start_run(&self, store: &Store, body: &NewRunBody) -> ApiResult<StoredRun> {
        let request = self.run_request(store, body)?;
        self.check_room(store)?;
        let Prepared { plan, .. } = self.prepare(store, &request, None)?;
        let new = NewRun {
            samples_total: plan.total_samples(),
            spec: plan.spec,
            request: serde_json::to_value(&request).map_err(ApiError::internal)?,
            fork: body.fork,
        };
        self.create_and_queue(store, &new)
    }

    pub(crate) fn queue(&self, store: &Store, run: &RunId, asked: JobRequest) -> ApiResult<Enqueued> {
        let queued = store.enqueue(run, &json!(asked), self.settings.max_active_runs)?;
        if matches!(queued, Enqueued::Full | Enqueued::KeyFull) {
            return Err(queue_full(queued));
        }
        self.active.wake();
        Ok(queued)
    }

    /// Goes on with a run that stopped before its end, or whose samples without an answer are asked again. Nothing of it
    /// is touched here: whoever works on it forgets those samples once it is certain that they can be asked again.
    pub(crate) fn resume_run(&self, store: &Store, run: &RunId, retry_errors: bool) -> ApiResult<StoredRun> {
        let stored = store.run(run)?;
        let has_failed = || store.count_samples(run, Outcome::Error).map(|failed| failed > 0);
        if stored.status == RunStatus::Completed && !(retry_errors && has_failed()?) {
            return Err(ApiError::new(Code::RunFinished, "the run is completed"));
        }
        match stored.request.get("procedure") {
            None => {}
            Some(_) if is_worked_on(&stored.request) => {}
            Some(_) => {
                let message = "such a run is gone on with on the command line: `evalign resume`";
                return Err(ApiError::new(Code::InvalidRequest, message));
            }
        }
        if self.queue(store, run, JobRequest { retry_errors })? == Enqueued::WasActive {
            return Err(ApiError::new(Code::RunActive, "the run is queued or being worked on"));
        }
        Ok(store.run(run)?)
    }

    /// Ends a run: one that waits at once, one that is worked on with what it has.
    pub(crate) fn cancel_run(&self, store: &Store, run: &RunId) -> ApiResult<StoredRun> {
        match store.cancel_job(run)? {
            None => {
                store.run(run)?;
                return Err(ApiError::new(
                    Code::RunFinished,
                    "the run is neither queued nor being worked on",
                ));
            }
            Some(JobState::Queued) => {
                let lease = store.lease(run, "evalign serve", std::time::Duration::from_secs(10))?;
                let before = store.run(run)?;
                // One that was to be asked again is what it was.
                if !is_whole(&before) {
                    store.set_status(&lease, RunStatus::Cancelled)?;
                }
                // An attempt before may have been killed, and there is no next one.
                let is_merge = before.request["procedure"] == MergeRequest::PROCEDURE;
                if is_merge && before.status != RunStatus::Completed {
                    self.drop_unfinished(run, store)?;
                }
                store.release(lease)?;
            }
            Some(_) => self.active.cancel(run),
        }
        self.active.changed(run);
        Ok(store.run(run)?)
    }
}
