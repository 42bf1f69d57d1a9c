//! Drives a plan to its end: what is planned and not yet finished is sent to the model, and every
//! answer is scored and committed as it arrives.

mod cancel;
mod phase;
mod progress;
mod session;
mod steps;
mod work;
mod workload;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use evalign_core::{Digest, Outcome, Response, RunId, RunStatus, SampleKey, Seconds};
use evalign_model::{Budget, Model, Price, ResponseCache};
use evalign_store::{Lease, NewRun, Store, StoreError};

pub use cancel::{Cancel, CancelLevel};
pub use phase::{Asking, Phase, Steps};
pub(crate) use phase::{Documents, Said};
pub use progress::{Progress, Silent, Snapshot};
pub(crate) use session::no_number;
pub use steps::RunOfSteps;

use crate::judging::JudgingReport;
use crate::rescore::score_again;
use crate::runner::session::Session;
use crate::{Plan, PlannedTask, RunError};

/// How long a lease is good for without being renewed. A process that was suspended longer loses the
/// run to the next one that asks.
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(60);

/// How a run ended. Its samples are in the store either way.
#[derive(Clone, Debug, PartialEq)]
pub struct RunEnd {
    pub run: RunId,
    pub status: RunStatus,
    /// The run was there before and had samples to begin with.
    pub resumed: bool,
    /// Samples finished in this session.
    pub finished: u64,
    /// Of these, answered from the response cache.
    pub from_cache: u64,
    /// Samples of the whole run whose call failed for good, earlier sessions included.
    pub failed: u64,
    /// By task that was judged: its judges, what moves them, and how far they agree.
    pub judging: BTreeMap<String, JudgingReport>,
}

/// A run whose lease this process holds.
#[derive(Debug)]
pub struct ActiveRun {
    pub id: RunId,
    /// The spec had a run already.
    pub existed: bool,
    finished: BTreeSet<SampleKey>,
    price: Option<Price>,
    budget: Option<Arc<Budget>>,
    lease: Lease,
    store: Store,
}

impl ActiveRun {
    /// Creates the run of this plan, or finds the one its spec already has, and takes its lease.
    /// `owner` is what a second process is told.
    ///
    /// # Errors
    /// [`StoreError::LeaseHeld`] while another process works on it, or a failure of the store.
    pub fn start(
        plan: &Plan,
        request: serde_json::Value,
        store: &Store,
        owner: &str,
        fork: bool,
    ) -> Result<Self, RunError> {
        let new = NewRun { spec: plan.spec.clone(), request, samples_total: plan.total_samples(), fork };
        Self::create(&new, store, owner)
    }

    /// Creates the run, or finds the one of this specification, and takes its lease. A request that goes on with a run
    /// ([`crate::RunRequest::resumes`]) gets that one, or what has changed since.
    fn create(new: &NewRun, store: &Store, owner: &str) -> Result<Self, RunError> {
        let Some(id) = resumed(&new.request) else {
            let created = store.create_run(new)?;
            return Self::open(&created.id, store, owner, created.existed);
        };
        let stored = store.run(&id)?;
        let differences = stored.spec.differences(&new.spec);
        if !differences.is_empty() {
            return Err(RunError::SpecChanged { run: id, differences });
        }
        Self::open(&id, store, owner, true)
    }

    /// Takes the lease of a run that is there. The caller has made sure that the plan is the run's own
    /// (see [`crate::check_resume`]).
    ///
    /// # Errors
    /// As [`ActiveRun::start`].
    pub fn resume(id: &RunId, store: &Store, owner: &str) -> Result<Self, RunError> {
        Self::open(id, store, owner, true)
    }

    fn open(id: &RunId, store: &Store, owner: &str, existed: bool) -> Result<Self, RunError> {
        let lease = store.lease(id, owner, LEASE_TTL)?;
        let finished = store.finished(id)?;
        Ok(Self { id: id.clone(), existed, finished, price: None, budget: None, lease, store: store.clone() })
    }

    /// What the model's tokens cost: stored with each sample.
    pub fn set_price(&mut self, price: Option<Price>) {
        self.price = price;
    }

    /// What the tokens of another model of the run cost that is asked next. Returns the price that was set.
    pub(crate) fn replace_price(&mut self, price: Option<Price>) -> Option<Price> {
        std::mem::replace(&mut self.price, price)
    }

    /// Where what is spent on the model is counted: stored with the run, earlier sessions included.
    pub fn set_budget(&mut self, budget: Option<Arc<Budget>>) {
        self.budget = budget;
    }

    /// Stores what was spent so far, whether it became samples or not.
    fn note_spent(&self) -> Result<(), StoreError> {
        match &self.budget {
            Some(budget) => self.store.note_spent(&self.lease, budget.spent()),
            None => Ok(()),
        }
    }

    /// Forgets the samples whose call failed, so that they are asked again. Everything else stays as it
    /// is. Returns their number.
    ///
    /// # Errors
    /// A lost lease, or a failure of the store.
    pub fn reopen_failed(&mut self) -> Result<u64, RunError> {
        let reopened = self.store.reopen_failed(&self.lease)?;
        self.finished = self.store.finished(&self.id)?;
        Ok(reopened)
    }

    /// Samples finished before this session.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished.len() as u64
    }

    #[must_use]
    pub fn lease(&self) -> &Lease {
        &self.lease
    }

    /// Gives the run back.
    ///
    /// # Errors
    /// The lease was lost, or a failure of the store.
    pub fn release(self) -> Result<(), RunError> {
        Ok(self.store.release(self.lease)?)
    }

    /// Whether every sample of the plan is there.
    fn has_all(&self, plan: &Plan) -> bool {
        plan.tasks.iter().flat_map(PlannedTask::keys).all(|key| self.finished.contains(&key))
    }

    /// A run whose samples are all there stays as it is, whatever it was scored by since.
    fn already_complete(&self) -> Result<RunEnd, RunError> {
        let status = RunStatus::Completed;
        if self.store.run(&self.id)?.status != status {
            self.store.set_status(&self.lease, status)?;
        }
        let failed = self.store.count_samples(&self.id, Outcome::Error)?;
        Ok(RunEnd {
            run: self.id.clone(),
            status,
            resumed: true,
            finished: 0,
            from_cache: 0,
            failed,
            judging: BTreeMap::new(),
        })
    }

    /// Runs everything that is not finished. On [`CancelLevel::Drain`] nothing more is asked, and
    /// what was answered is committed; on [`CancelLevel::Abort`] waiting ends at once. In both cases
    /// the run can be resumed. Where samples are to be added to a run that was scored again by other rules,
    /// all of it is scored by those of the plan first.
    ///
    /// # Errors
    /// A failure of the store or of rendering, a lost lease, or a model that stops answering. A call
    /// that fails for good is no error here: it is recorded as such.
    pub async fn drive(
        &mut self,
        plan: &Plan,
        model: &dyn Model,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunEnd, RunError> {
        let end = self.answer(plan, model, progress, cancel).await?;
        if end.status == RunStatus::Completed {
            let end = self.judge(plan, end, progress, cancel).await?;
            if end.status == RunStatus::Completed {
                self.reward(plan, end, progress, cancel)
            } else {
                Ok(end)
            }
        } else {
            Ok(end)
        }
    }

    async fn answer(
        &mut self,
        plan: &Plan,
        model: &dyn Model,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunEnd, RunError> {
        if self.has_all(plan) {
            return self.already_complete();
        }
        let started = Instant::now();
        let before = model.timing();
        if self.store.run(&self.id)?.scored_by.is_some() {
            // Scores by other rules and those of this plan must not stand side by side.
            let scorers = plan.tasks.iter().map(|task| (task.name(), task.scorer()));
            score_again(&self.store, &self.lease, scorers, None)?;
        }
        self.store.set_status(&self.lease, RunStatus::Running)?;
        let mut session = Session::new(self, plan, model, progress, cancel);
        let result = session.run().await;
        let (finished, from_cache) = (session.committed, session.from_cache);
        let after = model.timing();
        let seconds = Seconds {
            // Loading happened before the session and counts once.
            load: if before.prefill + before.decode == 0.0 { after.load } else { after.load - before.load },
            prefill: after.prefill - before.prefill,
            decode: after.decode - before.decode,
            total: started.elapsed().as_secs_f64(),
        };
        // Whatever happened, say so in the store; an earlier failure is the one to report.
        let status = match &result {
            Ok(status) => *status,
            Err(_) => RunStatus::Failed,
        };
        let noted = self
            .note_spent()
            .and_then(|()| self.store.add_session(&self.lease, seconds))
            .and_then(|()| self.store.set_status(&self.lease, status));
        let status = result?;
        noted?;
        let failed = self.store.count_samples(&self.id, Outcome::Error)?;
        let resumed = !self.finished.is_empty();
        Ok(RunEnd {
            run: self.id.clone(),
            status,
            resumed,
            finished,
            from_cache,
            failed,
            judging: BTreeMap::new(),
        })
    }
}

/// The run that a request goes on with. Requests of runs of several steps hold the request for their models as `run`.
fn resumed(request: &serde_json::Value) -> Option<RunId> {
    request.get("run").unwrap_or(request).get("resumes")?.as_str()?.parse().ok()
}

/// The response cache of a store, for [`evalign_model::Cached`].
#[derive(Clone, Debug)]
pub struct StoreCache(pub Store);

impl ResponseCache for StoreCache {
    fn get(&self, key: &Digest) -> Option<Response> {
        self.0.cache_get(key).unwrap_or_else(|error| {
            tracing::warn!(%error, "the response cache cannot be read");
            None
        })
    }

    fn get_all(&self, keys: &[Digest]) -> Vec<Option<Response>> {
        self.0.cache_get_all(keys).unwrap_or_else(|error| {
            tracing::warn!(%error, "the response cache cannot be read");
            vec![None; keys.len()]
        })
    }

    fn put(&self, key: &Digest, response: &Response) {
        if let Err(error) = self.0.cache_put(key, response) {
            tracing::warn!(%error, "a response was not cached");
        }
    }
}
