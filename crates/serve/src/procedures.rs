//! Judging, critique and the building of pairs: runs of several steps, as the command line conducts them.

use std::time::{Duration, Instant};

use evalign_bench::{
    ActiveRun, Arena, ArenaRequest, Asked, Build, Cancel, CancelLevel, Cast, Critique, CritiqueRequest,
    Decontamination, FileJudging, FileJudgingRequest, Filters, Injections, InjectionsRequest, PairsRequest,
    Progress, RunError, RunOfSteps as _, RunRequest, critique_results, verdicts_by,
};
use evalign_core::{GenerateParams, ModelRef, RunId, RunStatus};
use evalign_model::Model;
use evalign_store::{Store, StoreError, StoredRun};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::work::{Going, JobRequest, owner};
use crate::worker::{Watched, runtime};

/// How long a worker waits for a run that somebody else has: who asks for the same once more, or counts a vote, has it
/// for a moment.
const FREE_WITHIN: Duration = Duration::from_secs(10);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A run of several steps, asked for.
pub(crate) enum Procedure {
    Judging(Box<FileJudgingRequest>),
    Arena(Box<ArenaRequest>),
    Critique(Box<CritiqueRequest>),
    Injections(Box<InjectionsRequest>),
    Pairs(Box<PairsRequest>),
}

/// What is to be done with it.
#[derive(Clone, Copy)]
enum Doing<'a> {
    /// Everything that can fail before anything is asked; then it is stored.
    Create,
    Drive(Going<'a>),
}

impl Doing<'_> {
    /// Takes the run with `start`. A worker waits for it.
    fn begin(self, start: impl Fn() -> Result<ActiveRun, Failed>) -> Result<ActiveRun, Failed> {
        let until = Instant::now() + FREE_WITHIN;
        loop {
            match (start(), self) {
                (Err(Failed::Held(_)), Self::Drive(going))
                    if going.cancel.level() == CancelLevel::None && Instant::now() < until =>
                {
                    std::thread::sleep(LOOK_AGAIN);
                }
                (started, _) => return started,
            }
        }
    }
}

/// Whether runs of this procedure are runs of several steps that are conducted here.
pub(crate) fn is_of_steps(procedure: &str) -> bool {
    let known = [
        FileJudgingRequest::PROCEDURE,
        ArenaRequest::PROCEDURE,
        CritiqueRequest::PROCEDURE,
        InjectionsRequest::PROCEDURE,
        PairsRequest::PROCEDURE,
    ];
    known.contains(&procedure)
}

impl Procedure {
    /// What a stored run was asked for. It goes on as that run, on the day on which it was started.
    fn of(stored: &StoredRun) -> ApiResult<Self> {
        Ok(match stored.request["procedure"].as_str().unwrap_or_default() {
            FileJudgingRequest::PROCEDURE => Self::Judging(Box::new(request_of(stored)?)),
            ArenaRequest::PROCEDURE => Self::Arena(Box::new(request_of(stored)?)),
            CritiqueRequest::PROCEDURE => Self::Critique(Box::new(request_of(stored)?)),
            InjectionsRequest::PROCEDURE => Self::Injections(Box::new(request_of(stored)?)),
            PairsRequest::PROCEDURE => Self::Pairs(Box::new(request_of(stored)?)),
            other => return Err(ApiError::internal(format!("there is no procedure `{other}`"))),
        })
    }
}

/// The request of a stored run of several steps.
pub(crate) fn request_of<T: DeserializeOwned>(stored: &StoredRun) -> ApiResult<T> {
    let mut request = stored.request.clone();
    if let Some(run) = request.get_mut("run") {
        run["resumes"] = json!(stored.id);
        if let Some(now) = &stored.spec.rendered_at {
            run["now"] = json!(now);
        }
    }
    serde_json::from_value(request).map_err(ApiError::internal)
}

impl App {
    /// Stores a run of several steps and queues it. Everything that is wrong with it is said now.
    pub(crate) fn start_procedure(&self, store: &Store, procedure: Procedure) -> ApiResult<StoredRun> {
        self.check_room(store)?;
        let (id, _) = match self.perform(store, procedure, Doing::Create) {
            Ok(created) => created,
            Err(Failed::Held(run)) => return Ok(store.run(&run)?),
            Err(Failed::Other(error)) => return Err(error),
        };
        if store.run(&id)?.status != RunStatus::Completed {
            self.queue(store, &id, JobRequest::default())?;
        }
        Ok(store.run(&id)?)
    }

    /// Does what is open of a stored run of several steps.
    pub(crate) fn drive_steps(
        &self,
        store: &Store,
        stored: &StoredRun,
        going: Going<'_>,
    ) -> ApiResult<RunStatus> {
        match self.perform(store, Procedure::of(stored)?, Doing::Drive(going)) {
            Ok((_, status)) => Ok(status),
            Err(Failed::Held(_)) if going.cancel.level() != CancelLevel::None => Ok(RunStatus::Cancelled),
            Err(Failed::Held(_)) => Err(StoreError::LeaseLost { run: stored.id.clone() }.into()),
            Err(Failed::Other(error)) => Err(error),
        }
    }

    fn perform(
        &self,
        store: &Store,
        procedure: Procedure,
        doing: Doing<'_>,
    ) -> Result<(RunId, RunStatus), Failed> {
        match procedure {
            Procedure::Judging(request) => self.judge(store, &request, doing),
            Procedure::Arena(request) => self.compare(store, *request, doing),
            Procedure::Critique(request) => self.criticise(store, *request, doing),
            Procedure::Injections(request) => self.attack(store, &request, doing),
            Procedure::Pairs(request) => self.build_pairs(store, *request, doing),
        }
    }

    fn cast(
        &self,
        parts: &[(&ModelRef, GenerateParams)],
        request: &RunRequest,
        store: &Store,
    ) -> ApiResult<Cast> {
        let load =
            |reference: &ModelRef, options: &_| self.measured_for(store, (reference, request), options);
        Cast::load(parts, request, store, load)
    }

    fn judge(
        &self,
        store: &Store,
        request: &FileJudgingRequest,
        doing: Doing<'_>,
    ) -> Result<(RunId, RunStatus), Failed> {
        let asked = Asked::read(&request.asked)?;
        let verdicts = asked.verdicts(&request.run.include_path)?;
        let parts: Vec<_> = request.judges.iter().map(|judge| (judge, verdicts.clone())).collect();
        let cast = self.cast(&parts, &request.run, store)?;
        let judges = asked.judges(&request.judges, &cast, &request.run.include_path)?;
        let judging = FileJudging::new(request, &judges, store)?;
        let run = doing.begin(|| Ok(judging.start(store, &owner())?))?;
        let drive = async |run: &mut ActiveRun, progress: &dyn Progress, cancel: &Cancel| {
            judging.drive(run, progress, cancel).await
        };
        let report = |run: &ActiveRun| Ok::<_, Failed>(json!(judging.report(&run.steps(), asked.aggregate)?));
        self.conduct((store, &cast), run, doing, drive, report)
    }

    fn compare(
        &self,
        store: &Store,
        request: ArenaRequest,
        doing: Doing<'_>,
    ) -> Result<(RunId, RunStatus), Failed> {
        let asked = Asked::read(&request.asked)?;
        let verdicts = asked.verdicts(&request.run.include_path)?;
        let competitors = request.competitors.iter().map(|model| (model, request.generation()));
        let judges = request.judges.iter().map(|judge| (judge, verdicts.clone()));
        let parts: Vec<_> = competitors.chain(judges).collect();
        let cast = self.cast(&parts, &request.run, store)?;
        let judges = asked.judges(&request.judges, &cast, &request.run.include_path)?;
        let models = cast.all(&request.competitors)?;
        let models: Vec<&dyn Model> = models.iter().map(|model| &**model).collect();
        let arena = Arena::new(request, &models, &judges)?;
        let run = doing.begin(|| Ok(arena.start(store, &owner())?))?;
        let drive = async |run: &mut ActiveRun, progress: &dyn Progress, cancel: &Cancel| {
            arena.drive(run, &models, progress, cancel).await
        };
        let report =
            |run: &ActiveRun| Ok::<_, Failed>(json!(arena.outcome(store, &run.steps(), asked.aggregate)?));
        self.conduct((store, &cast), run, doing, drive, report)
    }

    fn criticise(
        &self,
        store: &Store,
        request: CritiqueRequest,
        doing: Doing<'_>,
    ) -> Result<(RunId, RunStatus), Failed> {
        let verdicts = verdicts_by(&request.rubric, &request.run)?;
        let parts = [(&request.run.model, request.generation()), (&request.judge, verdicts)];
        let cast = self.cast(&parts, &request.run, store)?;
        let model = cast.get(&request.run.model)?;
        let judge = cast.judge(&request.judge, &request.rubric, &request.run)?;
        let critique = Critique::new(request, &*model, &judge)?;
        let run = doing.begin(|| Ok(critique.start(store, &owner())?))?;
        let drive = async |run: &mut ActiveRun, progress: &dyn Progress, cancel: &Cancel| {
            critique.drive(run, &*model, progress, cancel).await
        };
        let report =
            |run: &ActiveRun| Ok::<_, Failed>(json!(critique_results(&run.steps(), &critique.request)?.0));
        self.conduct((store, &cast), run, doing, drive, report)
    }

    fn attack(
        &self,
        store: &Store,
        request: &InjectionsRequest,
        doing: Doing<'_>,
    ) -> Result<(RunId, RunStatus), Failed> {
        let verdicts = verdicts_by(&request.rubric, &request.run)?;
        let cast = self.cast(&[(&request.run.model, verdicts)], &request.run, store)?;
        let judge = cast.judge(&request.run.model, &request.rubric, &request.run)?;
        let suite = Injections::new(request, &judge)?;
        let run = doing.begin(|| Ok(suite.start(store, &owner())?))?;
        let drive = async |run: &mut ActiveRun, progress: &dyn Progress, cancel: &Cancel| {
            suite.drive(run, progress, cancel).await
        };
        let report = |run: &ActiveRun| {
            let mut report = json!(suite.report(&run.steps())?);
            report["judge"] = self.shown_model(&request.run.model).into();
            Ok::<_, Failed>(report)
        };
        self.conduct((store, &cast), run, doing, drive, report)
    }

    fn build_pairs(
        &self,
        store: &Store,
        request: PairsRequest,
        doing: Doing<'_>,
    ) -> Result<(RunId, RunStatus), Failed> {
        let data = (&self.catalog, &self.roots);
        // Whatever can fail without weights fails before they are loaded.
        let generations = request.generations(data.0, data.1)?;
        let mut parts: Vec<(&ModelRef, GenerateParams)> = Vec::new();
        for model in std::iter::once(&request.run.model).chain(&request.more_models) {
            parts.extend(generations.iter().map(|params| (model, params.clone())));
        }
        if let Some(judge) = &request.judge {
            parts.push((judge, verdicts_by(&request.rubric, &request.run)?));
        }
        let cast = self.cast(&parts, &request.run, store)?;
        let judges = cast.judges_of(&request)?;
        let models = cast.all(std::iter::once(&request.run.model).chain(&request.more_models))?;
        let models: Vec<&dyn Model> = models.iter().map(|model| &**model).collect();
        let build = Build::new(request, data, &models, judges.as_ref())?;
        let run = doing.begin(|| Ok(build.start(store, &owner())?))?;
        let drive = async |run: &mut ActiveRun, progress: &dyn Progress, cancel: &Cancel| {
            build.drive(run, (&models, judges.as_ref()), progress, cancel).await
        };
        let report = |run: &ActiveRun| {
            let index = Decontamination::of_tasks(None, data.0, data.1)?;
            let (request, filters) = (&build.request, Filters::default());
            let pairs = Build::pairs(&run.steps(), request, request.strategy, &filters, data, Some(&index))?;
            Ok::<_, Failed>(json!(pairs.1))
        };
        self.conduct((store, &cast), run, doing, drive, report)
    }

    /// What all of them have in common, once the run is there.
    fn conduct(
        &self,
        (store, cast): (&Store, &Cast),
        mut run: ActiveRun,
        doing: Doing<'_>,
        drive: impl AsyncFnOnce(&mut ActiveRun, &dyn Progress, &Cancel) -> Result<RunStatus, RunError>,
        report: impl FnOnce(&ActiveRun) -> Result<Value, Failed>,
    ) -> Result<(RunId, RunStatus), Failed> {
        let id = run.id.clone();
        let Doing::Drive(going) = doing else {
            let status = store.run(&id)?.status;
            run.release()?;
            return Ok((id, status));
        };
        going.reopen(&mut run, store)?;
        cast.spend_for(&mut run, store)?;
        let watched = Watched { app: self, run: &id };
        let runtime = runtime()?;
        let driven = runtime.block_on(drive(&mut run, &watched, going.cancel));
        // The engine may be in the middle of a batch; nobody waits for it.
        runtime.shutdown_background();
        let status = driven?;
        if status == RunStatus::Completed {
            run.complete(&report(&run)?)?;
        }
        run.release()?;
        Ok((id, status))
    }
}

/// Why a run was not stored or driven.
enum Failed {
    /// Somebody works on it.
    Held(RunId),
    Other(ApiError),
}

impl From<ApiError> for Failed {
    fn from(error: ApiError) -> Self {
        Self::Other(error)
    }
}

impl From<StoreError> for Failed {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::LeaseHeld { run, .. } => Self::Held(run),
            error => Self::Other(error.into()),
        }
    }
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Self {
        match error {
            RunError::Store(error) => error.into(),
            error => Self::Other(error.into()),
        }
    }
}

impl From<evalign_bench::BenchError> for Failed {
    fn from(error: evalign_bench::BenchError) -> Self {
        Self::Other(error.into())
    }
}
