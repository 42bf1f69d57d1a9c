//! Drives a plan to its end: what is planned and not yet finished is sent to the model, and every
//! answer is scored and committed as it arrives.

mod cancel;
mod progress;
mod work;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use evalign_core::{
    Digest, Outcome, Prompt, Request, Response, RunId, RunStatus, SampleKey, SampleRecord, Seconds, Usage,
};
use evalign_model::{ErrorKind, Model, ModelError, ResponseCache};
use evalign_store::{Commit, Lease, NewRun, Store, StoreError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

pub use cancel::{Cancel, CancelLevel};
pub use progress::{Progress, Silent, Snapshot};

use crate::rescore::score_again;
use crate::runner::work::Work;
use crate::{Plan, PlannedSample, PlannedTask, RunError};

/// How long a lease is good for without being renewed. A process that was suspended longer loses the
/// run to the next one that asks.
const LEASE_TTL: Duration = Duration::from_secs(60);

/// Samples whose requests are rendered and handed to the model together. Large, because the local
/// engine shares the work of common prompt beginnings over everything it is given at once.
const WINDOW: usize = 16_384;

/// Submissions in which a request that failed in passing is asked before its failure is recorded.
const ATTEMPTS: u32 = 3;

/// Commits that may wait for the disk before the next answer is taken.
const COMMITS_IN_FLIGHT: usize = 512;

/// How a run ended. Its samples are in the store either way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunEnd {
    pub run: RunId,
    pub status: RunStatus,
    /// The run was there before and had samples to begin with.
    pub resumed: bool,
    /// Samples finished in this session.
    pub finished: u64,
    /// Samples of the whole run whose call failed for good, earlier sessions included.
    pub failed: u64,
}

/// A run whose lease this process holds.
#[derive(Debug)]
pub struct ActiveRun {
    pub id: RunId,
    /// The spec had a run already.
    pub existed: bool,
    finished: BTreeSet<SampleKey>,
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
        let created = store.create_run(&new)?;
        Self::open(&created.id, store, owner, created.existed)
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
        Ok(Self { id: id.clone(), existed, finished, lease, store: store.clone() })
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
        Ok(RunEnd { run: self.id.clone(), status, resumed: true, finished: 0, failed })
    }

    /// Runs everything that is not finished. On [`CancelLevel::Drain`] no further answers are taken and
    /// those that arrived are committed; on [`CancelLevel::Abort`] waiting ends at once. In both cases
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
        let finished = session.committed;
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
            .store
            .add_session(&self.lease, seconds)
            .and_then(|()| self.store.set_status(&self.lease, status));
        let status = result?;
        noted?;
        let failed = self.store.count_samples(&self.id, Outcome::Error)?;
        Ok(RunEnd { run: self.id.clone(), status, resumed: !self.finished.is_empty(), finished, failed })
    }
}

/// One pass over the pending samples.
struct Session<'a> {
    run: &'a ActiveRun,
    plan: &'a Plan,
    model: &'a dyn Model,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    commits: FuturesUnordered<Pending>,
    renewed: Instant,
    started: Instant,
    work_done: f64,
    work_total: f64,
    committed: u64,
    failed: u64,
    usage: Usage,
}

/// A sample on its way to the disk.
struct Pending {
    commit: Commit,
    work: f64,
    usage: Usage,
    failed: bool,
}

impl Future for Pending {
    type Output = (Result<(), StoreError>, f64, Usage, bool);

    fn poll(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Self::Output> {
        std::pin::Pin::new(&mut self.commit)
            .poll(context)
            .map(|result| (result, self.work, self.usage, self.failed))
    }
}

/// A rendered sample waiting for its answer.
struct Asked<'a> {
    task: &'a PlannedTask,
    sample: PlannedSample,
    work: f64,
}

/// How a submission ended.
enum Submitted<'a> {
    /// All were answered; these failed in passing.
    Answered {
        again: Vec<Asked<'a>>,
    },
    Cancelled,
}

impl<'a> Session<'a> {
    fn new(
        run: &'a ActiveRun,
        plan: &'a Plan,
        model: &'a dyn Model,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Self {
        Self {
            run,
            plan,
            model,
            progress,
            cancel,
            commits: FuturesUnordered::new(),
            renewed: Instant::now(),
            started: Instant::now(),
            work_done: 0.0,
            work_total: 0.0,
            committed: 0,
            failed: 0,
            usage: Usage::default(),
        }
    }

    async fn run(&mut self) -> Result<RunStatus, RunError> {
        let pending: Vec<(&PlannedTask, SampleKey)> = self
            .plan
            .tasks
            .iter()
            .flat_map(|task| task.keys().map(move |key| (task, key)))
            .filter(|(_, key)| !self.run.finished.contains(key))
            .collect();
        self.report();
        let windows = pending.len().div_ceil(WINDOW);
        for (index, window) in pending.chunks(WINDOW).enumerate() {
            let asked = self.render(window)?;
            // Later windows are taken to be as much work as this one.
            let work: f64 = asked.iter().map(|a| a.work).sum();
            self.work_total = self.work_done + work * (windows - index) as f64;
            if !self.ask(asked).await? {
                self.flush().await?;
                return Ok(RunStatus::Cancelled);
            }
        }
        self.flush().await?;
        Ok(RunStatus::Completed)
    }

    fn render(&self, window: &[(&'a PlannedTask, SampleKey)]) -> Result<Vec<Asked<'a>>, RunError> {
        let mut asked = Vec::with_capacity(window.len());
        for (task, key) in window {
            let mut sample = task.sample_by_key(key)?;
            if let Some(prompt @ Prompt::Chat(_)) = sample.prompt()
                && let Some(text) = self.model.render(prompt)
            {
                sample.set_rendered_prompt(&text);
            }
            asked.push(Asked { task, sample, work: 0.0 });
        }
        let work = Work::of(asked.iter().map(|a| &a.sample.request.kind));
        for (asked, work) in asked.iter_mut().zip(work) {
            asked.work = work;
        }
        Ok(asked)
    }

    /// Asks for the samples, and again for those that failed in passing. False when cancelled.
    async fn ask(&mut self, asked: Vec<Asked<'a>>) -> Result<bool, RunError> {
        let mut asked = asked;
        for attempt in 1..=ATTEMPTS {
            let again = match self.submit(asked, attempt == ATTEMPTS).await? {
                Submitted::Answered { again } => again,
                Submitted::Cancelled => return Ok(false),
            };
            if again.is_empty() {
                break;
            }
            tracing::warn!(samples = again.len(), attempt, "asking again after passing failures");
            asked = again;
        }
        Ok(true)
    }

    /// One submission: every answer is scored and committed as it arrives.
    async fn submit(&mut self, asked: Vec<Asked<'a>>, last: bool) -> Result<Submitted<'a>, RunError> {
        let mut unanswered = asked.len();
        let requests: Vec<Request> = asked.iter().map(|a| a.sample.request.clone()).collect();
        let mut asked: Vec<Option<Asked<'a>>> = asked.into_iter().map(Some).collect();
        let mut again = Vec::new();
        let mut replies = self.model.submit(requests);
        while unanswered > 0 {
            let reply = tokio::select! {
                biased;
                level = self.cancel.raised() => {
                    // Dropping the replies tells the model to stop.
                    drop(replies);
                    if level == CancelLevel::Abort {
                        self.commits.clear();
                    }
                    return Ok(Submitted::Cancelled);
                }
                Some(done) = self.commits.next(), if !self.commits.is_empty() => {
                    self.note(done)?;
                    continue;
                }
                reply = replies.next(), if self.commits.len() < COMMITS_IN_FLIGHT => reply,
                () = tokio::time::sleep(LEASE_TTL / 4) => {
                    self.renew()?;
                    continue;
                }
            };
            self.renew()?;
            let Some((index, result)) = reply else {
                self.flush().await?;
                let done = self.run.finished() + self.committed;
                return Err(RunError::ModelGone {
                    run: self.run.id.clone(),
                    done,
                    total: self.plan.total_samples(),
                });
            };
            let Some(sample) = asked.get_mut(index).and_then(Option::take) else { continue };
            unanswered -= 1;
            match result {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.flush().await?;
                    return Err(error.into());
                }
                Err(error) if error.kind() == ErrorKind::Retryable && !last => again.push(sample),
                result => self.commit(sample, result)?,
            }
        }
        // The model books its time after the last answer; the end of the replies says that it has.
        while replies.next().await.is_some() {}
        Ok(Submitted::Answered { again })
    }

    fn commit(&mut self, asked: Asked<'_>, result: Result<Response, ModelError>) -> Result<(), RunError> {
        let record = record(asked.task, asked.sample, result)?;
        let failed = record.output.is_none();
        let commit = self.run.store.commit_sample(&self.run.lease, &record);
        self.progress.sample(&record);
        self.commits.push(Pending { commit, work: asked.work, usage: record.usage, failed });
        Ok(())
    }

    fn note(
        &mut self,
        (result, work, usage, failed): (Result<(), StoreError>, f64, Usage, bool),
    ) -> Result<(), RunError> {
        result?;
        self.committed += 1;
        self.failed += u64::from(failed);
        self.work_done += work;
        self.usage += usage;
        self.report();
        Ok(())
    }

    /// Waits until everything that was answered is on disk.
    async fn flush(&mut self) -> Result<(), RunError> {
        while let Some(done) = self.commits.next().await {
            self.note(done)?;
        }
        Ok(())
    }

    fn renew(&mut self) -> Result<(), RunError> {
        if self.renewed.elapsed() > LEASE_TTL / 4 {
            self.run.store.renew(&self.run.lease, LEASE_TTL)?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    fn report(&self) {
        let elapsed = self.started.elapsed();
        let remaining = (self.work_done > 0.0 && self.work_total >= self.work_done)
            .then(|| elapsed.mul_f64((self.work_total - self.work_done) / self.work_done));
        self.progress.progress(&Snapshot {
            done: self.run.finished() + self.committed,
            total: self.plan.total_samples(),
            failed: self.failed,
            usage: self.usage,
            elapsed,
            remaining,
        });
    }
}

/// The record of an answered (or failed) sample, scored.
fn record(
    task: &PlannedTask,
    sample: PlannedSample,
    result: Result<Response, ModelError>,
) -> Result<SampleRecord, RunError> {
    let (output, error, usage, truncated_tokens) = match result {
        // The tokens were spent, but nothing can be decided by such an answer, nor can it be stored.
        Ok(response) => match response.output.check_finite() {
            Ok(()) => (Some(response.output), None, response.usage, response.truncated_tokens),
            Err(what) => (None, Some(no_number(&what)), response.usage, response.truncated_tokens),
        },
        Err(error) => (None, Some(error.to_string()), Usage::default(), 0),
    };
    let scores = match &output {
        Some(output) => task.scorer().score(&sample.doc, output)?,
        None => task.scorer().failed(),
    };
    Ok(SampleRecord {
        key: sample.key,
        doc: sample.doc,
        doc_hash: sample.doc_hash,
        request: sample.request,
        prompt_hash: sample.prompt_hash,
        target: sample.target,
        target_hash: sample.target_hash,
        output,
        error,
        scores,
        usage,
        truncated_tokens,
    })
}

/// The error of a sample whose answer holds something else than numbers where numbers belong.
pub(crate) fn no_number(what: &str) -> String {
    format!("the model's answer cannot be scored: {what}")
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

    fn put(&self, key: &Digest, response: &Response) {
        if let Err(error) = self.0.cache_put(key, response) {
            tracing::warn!(%error, "a response was not cached");
        }
    }
}
