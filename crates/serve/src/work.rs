//! Runs that are no evaluations: everything else that lasts. They are queued, watched, cancelled and resumed as
//! evaluations are; what their `procedure` is decides who does the work.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use evalign_bench::{ActiveRun, AnsweringRequest, Cancel, CancelLevel, RetrievalRequest};
use evalign_core::{RunSpec, RunStatus};
use evalign_store::{NewRun, Store, StoredRun};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::runtime::Handle;

use crate::adapters::{MergeRequest, ScoreRequest};
use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::indexes::IndexRequest;
use crate::procedures::is_of_steps;
use crate::retrieval::{SweepRequest, TestsRequest, is_of_uploads};
use crate::runs::queue_full;
use crate::training::TrainRequest;

/// Progress is told at most so often.
const NOT_SOONER: Duration = Duration::from_millis(250);

/// How long a run's lease holds without being renewed.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(60);

/// How soon work that blocks hears that it is to end.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What a job asks for beyond going on with its run.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct JobRequest {
    /// Samples whose call failed are asked again.
    pub(crate) retry_errors: bool,
}

/// What a worker does with a run.
#[derive(Clone, Copy)]
pub(crate) struct Going<'a> {
    pub(crate) cancel: &'a Cancel,
    /// As [`JobRequest::retry_errors`], where there are such samples.
    pub(crate) retries: bool,
}

impl Going<'_> {
    /// Forgets the samples that are to be asked again.
    pub(crate) fn reopen(self, run: &mut ActiveRun, store: &Store) -> ApiResult<()> {
        if self.retries && run.reopen_failed()? > 0 {
            // From now on it is no finished run, whatever happens to this server.
            store.set_status(run.lease(), RunStatus::Queued)?;
        }
        Ok(())
    }
}

/// Whether nothing of a run is missing.
pub(crate) fn is_whole(stored: &StoredRun) -> bool {
    stored.status == RunStatus::Completed && stored.results.is_some()
}

/// Whether what this request of a stored run asks for is done here.
pub(crate) fn is_worked_on(request: &Value) -> bool {
    let Some(procedure) = request["procedure"].as_str() else { return false };
    match procedure {
        IndexRequest::PROCEDURE
        | TrainRequest::PROCEDURE
        | MergeRequest::PROCEDURE
        | ScoreRequest::PROCEDURE
        | SweepRequest::PROCEDURE
        | TestsRequest::PROCEDURE => true,
        RetrievalRequest::PROCEDURE | AnsweringRequest::PROCEDURE => is_of_uploads(request),
        _ => is_of_steps(procedure),
    }
}

/// What a stored run was asked for.
pub(crate) fn asked<T: DeserializeOwned>(stored: &StoredRun) -> ApiResult<T> {
    T::deserialize(&stored.request).map_err(ApiError::internal)
}

/// What a second process is told of who works on a run.
pub(crate) fn owner() -> String {
    format!("evalign serve (process {})", std::process::id())
}

/// Notes how far a run is, as events for those who watch it.
pub(crate) struct Notes<'a> {
    app: &'a App,
    store: &'a Store,
    run: &'a ActiveRun,
    /// When the last one was noted, and what was not noted since.
    last: Mutex<(Option<Instant>, Option<Value>)>,
}

impl<'a> Notes<'a> {
    pub(crate) fn new(app: &'a App, store: &'a Store, run: &'a ActiveRun) -> Self {
        Self { app, store, run, last: Mutex::default() }
    }

    /// Notes it, unless that was done a moment ago. That it cannot be noted is no reason to end the work.
    pub(crate) fn note(&self, progress: &Value) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0.is_some_and(|at| at.elapsed() < NOT_SOONER) {
            last.1 = Some(progress.clone());
            return;
        }
        *last = (Some(Instant::now()), None);
        drop(last);
        if let Err(error) = self.write(progress) {
            tracing::warn!(run = %self.run.id, error = error.message, "progress is not noted");
        }
    }

    /// Notes what was held back.
    pub(crate) fn last(&self) -> ApiResult<()> {
        let held = self.last.lock().unwrap_or_else(PoisonError::into_inner).1.take();
        held.map_or(Ok(()), |progress| self.write(&progress))
    }

    fn write(&self, progress: &Value) -> ApiResult<()> {
        self.store.note_progress(self.run.lease(), progress)?;
        self.app.active.changed(&self.run.id);
        Ok(())
    }
}

/// Does long work that blocks. Beside it the run's lease is kept, and the wish to end heard: that raises the flag which the
/// work is given.
pub(crate) fn tended<T>(
    run: &ActiveRun,
    store: &Store,
    cancel: &Cancel,
    work: impl FnOnce(&AtomicBool) -> T,
) -> T {
    let wanted = || cancel.level() != CancelLevel::None;
    let (stop, done) = (AtomicBool::new(wanted()), AtomicBool::new(false));
    std::thread::scope(|scope| {
        // Whatever becomes of the work, a panic included, the other thread ends.
        let _ended = Raised(&done);
        scope.spawn(|| {
            let mut renewed = Instant::now();
            while !done.load(Ordering::Relaxed) {
                if wanted() {
                    stop.store(true, Ordering::Relaxed);
                }
                if renewed.elapsed() > LEASE_TTL / 4 {
                    renewed = Instant::now();
                    if let Err(error) = store.renew(run.lease(), LEASE_TTL) {
                        tracing::warn!(run = %run.id, %error, "work has lost its lease");
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                std::thread::sleep(LOOK_EVERY);
            }
        });
        work(&stop)
    })
}

/// Raises a flag when it goes.
struct Raised<'a>(&'a AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl App {
    /// Creates the run of work that has no samples, and queues it. `fork`: also where the same was done before.
    pub(crate) fn start_work(
        &self,
        store: &Store,
        spec: RunSpec,
        request: &impl Serialize,
        fork: bool,
    ) -> ApiResult<StoredRun> {
        let request = serde_json::to_value(request).map_err(ApiError::internal)?;
        self.create_and_queue(store, &NewRun { spec, request, samples_total: 0, fork })
    }

    /// Creates a run and queues it. One of the same specification is that run, and goes on if it is not finished.
    pub(crate) fn create_and_queue(&self, store: &Store, new: &NewRun) -> ApiResult<StoredRun> {
        self.create_and_queue_if(store, new, |_| Ok(()))
    }

    /// The same, where a run that was there may turn out not to be what is asked for, though it is specified alike.
    pub(crate) fn create_and_queue_if(
        &self,
        store: &Store,
        new: &NewRun,
        fits: impl FnOnce(&StoredRun) -> ApiResult<()>,
    ) -> ApiResult<StoredRun> {
        self.check_room(store)?;
        let created = store.create_run(new)?;
        if created.existed {
            fits(&store.run(&created.id)?)?;
        }
        if created.status != RunStatus::Completed {
            self.queue(store, &created.id, JobRequest::default())?;
        }
        Ok(store.run(&created.id)?)
    }

    /// Refuses what would be too much, before anything is planned or stored: a flood of requests costs little.
    pub(crate) fn check_room(&self, store: &Store) -> ApiResult<()> {
        store.jobs_full(self.settings.max_active_runs)?.map_or(Ok(()), |full| Err(queue_full(full)))
    }

    /// Does the work of a run that is no evaluation. Blocks.
    pub(crate) fn drive_procedure(
        self: &Arc<Self>,
        store: &Store,
        stored: &StoredRun,
        going: Going<'_>,
    ) -> ApiResult<RunStatus> {
        let cancel = going.cancel;
        match stored.request["procedure"].as_str().unwrap_or_default() {
            // On the server's runtime: connections to a vector store outlive the run.
            IndexRequest::PROCEDURE => self.alone(store, stored, going, |run| {
                Handle::current().block_on(self.drive_index(run, (store, stored), cancel))
            }),
            RetrievalRequest::PROCEDURE => self.alone(store, stored, going, |run| {
                Handle::current().block_on(self.drive_evaluation(run, (store, stored), cancel))
            }),
            SweepRequest::PROCEDURE => self.alone(store, stored, going, |run| {
                Handle::current().block_on(self.drive_tuning(run, (store, stored), cancel))
            }),
            TestsRequest::PROCEDURE => self.alone(store, stored, going, |run| {
                Handle::current().block_on(self.drive_tests(run, (store, stored), cancel))
            }),
            AnsweringRequest::PROCEDURE => self.alone(store, stored, going, |run| {
                Handle::current().block_on(self.drive_answers(run, (store, stored), cancel))
            }),
            MergeRequest::PROCEDURE => {
                self.alone(store, stored, going, |run| self.drive_merge(run, (store, stored), cancel))
            }
            ScoreRequest::PROCEDURE => {
                self.alone(store, stored, going, |run| self.drive_score(run, (store, stored), cancel))
            }
            TrainRequest::PROCEDURE => {
                self.alone(store, stored, going, |run| self.drive_training(run, (store, stored), cancel))
            }
            _ => self.drive_steps(store, stored, going),
        }
    }

    /// Work that holds its run from the beginning to the end.
    fn alone(
        &self,
        store: &Store,
        stored: &StoredRun,
        going: Going<'_>,
        work: impl FnOnce(&ActiveRun) -> ApiResult<RunStatus>,
    ) -> ApiResult<RunStatus> {
        let mut run = ActiveRun::resume(&stored.id, store, &owner())?;
        going.reopen(&mut run, store)?;
        store.set_status(run.lease(), RunStatus::Running)?;
        let status = work(&run)?;
        if status != RunStatus::Completed {
            store.set_status(run.lease(), status)?;
        }
        run.release()?;
        Ok(status)
    }
}
