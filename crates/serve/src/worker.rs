//! Those who do the work: each takes a job, drives its run, and takes the next.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use evalign_bench::{ActiveRun, Cancel, CancelLevel, Progress, Snapshot, StoreCache, conclude, request_of};
use evalign_core::{Outcome, RunId, RunStatus, SampleRecord};
use evalign_model::Cached;
use evalign_store::{Claim, JobState, Store};
use serde::Deserialize as _;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::runs::Prepared;
use crate::work::{Going, JobRequest, is_whole, owner};

/// How long a claim holds without being renewed.
const CLAIM_TTL: Duration = Duration::from_secs(60);

/// How often it is renewed, which is also how soon a worker hears of a cancellation by another process.
const RENEW_EVERY: Duration = Duration::from_secs(2);

/// How often an idle worker looks for jobs that another process queued.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The runs this process works on, and who wants to hear of them.
#[derive(Debug, Default)]
pub(crate) struct Active {
    doing: Mutex<BTreeMap<RunId, Doing>>,
    changes: Mutex<BTreeMap<RunId, watch::Sender<u64>>>,
    queued: Notify,
}

/// A run that is worked on.
#[derive(Clone, Debug)]
struct Doing {
    cancel: Cancel,
    /// Id of the key that queued it.
    key: Option<String>,
    /// The key has no tokens left.
    is_used_up: bool,
}

impl Doing {
    fn end(&self) {
        if self.cancel.level() == CancelLevel::None {
            self.cancel.raise();
        }
    }
}

impl Active {
    /// A job was queued.
    pub(crate) fn wake(&self) {
        self.queued.notify_one();
    }

    pub(crate) fn cancel(&self, run: &RunId) {
        if let Some(doing) = self.lock().get(run) {
            doing.end();
        }
    }

    /// Ends a run whose key has no tokens left.
    fn used_up(&self, run: &RunId) {
        if let Some(doing) = self.lock().get_mut(run) {
            doing.is_used_up = true;
            doing.end();
        }
    }

    /// Whether this process works on it.
    pub(crate) fn is_working(&self, run: &RunId) -> bool {
        self.lock().contains_key(run)
    }

    fn key_of(&self, run: &RunId) -> Option<String> {
        self.lock().get(run)?.key.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunId, Doing>> {
        self.doing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something has happened to a run: whoever watches it looks.
    pub(crate) fn changed(&self, run: &RunId) {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = changes.get(run) {
            if sender.receiver_count() == 0 {
                changes.remove(run);
            } else {
                sender.send_modify(|version| *version += 1);
            }
        }
    }

    /// Tells of every change of a run by this process.
    pub(crate) fn watch(&self, run: &RunId) -> watch::Receiver<u64> {
        let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        changes.entry(run.clone()).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }
}

/// The workers of one server.
pub(crate) struct Workers(Vec<JoinHandle<()>>);

impl Workers {
    pub(crate) fn start(app: &Arc<App>) -> Self {
        let worker =
            |number| tokio::spawn(work(app.clone(), format!("{} worker {number}", std::process::id())));
        Self((0..app.settings.workers).map(worker).collect())
    }

    /// Waits until all have committed what they have. They have to be told to end (`App::ending`).
    pub(crate) async fn end(self) {
        for worker in self.0 {
            if worker.await.is_err() {
                tracing::error!("a worker panicked");
            }
        }
    }
}

async fn work(app: Arc<App>, name: String) {
    while !app.ending.is_cancelled() {
        let worker = name.clone();
        match app.blocking(move |app| Ok(app.store.claim(&worker, CLAIM_TTL)?)).await {
            Ok(Some(claim)) => do_job(&app, claim).await,
            Ok(None) => {
                tokio::select! {
                    () = app.ending.cancelled() => return,
                    () = app.active.queued.notified() => {}
                    () = tokio::time::sleep(LOOK_EVERY) => {}
                }
            }
            // Told in the log; the store may be better in a moment.
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

/// Drives the run of a job on a thread of its own (planning and committing block), while this one renews the
/// claim and listens for the end. A panic fails the job, nothing else.
async fn do_job(app: &Arc<App>, claim: Claim) {
    let cancel = Cancel::default();
    let doing = Doing { cancel: cancel.clone(), key: claim.key.clone(), is_used_up: false };
    app.active.lock().insert(claim.run.clone(), doing);
    let (owned, driven, wanted) = (app.clone(), claim.clone(), cancel.clone());
    let mut drive = tokio::task::spawn_blocking(move || drive(&owned, &driven, &wanted));
    let mut renew = tokio::time::interval(RENEW_EVERY);
    let mut is_ending = false;
    let outcome = loop {
        tokio::select! {
            outcome = &mut drive => break outcome.unwrap_or_else(|error| Err(error.into())),
            () = app.ending.cancelled(), if !is_ending => {
                is_ending = true;
                cancel.raise();
            }
            _ = renew.tick() => renew_claim(app, &claim, &cancel).await,
        }
    };
    let is_used_up = app.active.lock().remove(&claim.run).is_some_and(|doing| doing.is_used_up);
    let run = claim.run.clone();
    let outcome = outcome.map_err(|error| app.placeless_error(error));
    let outcome = match outcome {
        Ok(RunStatus::Cancelled) if is_used_up => Ok(RunStatus::BudgetExhausted),
        outcome => outcome,
    };
    let settled = app.blocking(move |app| settle(&app.store, &claim, outcome, is_ending)).await;
    if settled.is_err() {
        tracing::error!(%run, "the end of a job was not stored: it will be taken up again");
    }
    app.active.changed(&run);
}

async fn renew_claim(app: &Arc<App>, claim: &Claim, cancel: &Cancel) {
    let renewed = claim.clone();
    match app.blocking(move |app| Ok(app.store.renew_claim(&renewed, CLAIM_TTL)?)).await {
        Ok(Some(false)) => {}
        Ok(Some(true)) if cancel.level() == CancelLevel::None => cancel.raise(),
        Ok(Some(true)) => {}
        // Somebody else has it: what this one does is refused by the run's lease.
        Ok(None) => cancel.raise(),
        // Told in the log. The claim holds for a while yet.
        Err(_) => {}
    }
}

fn settle(store: &Store, claim: &Claim, outcome: ApiResult<RunStatus>, is_ending: bool) -> ApiResult<()> {
    match outcome {
        Ok(RunStatus::Cancelled) if is_ending => store.hand_back(claim)?,
        Ok(RunStatus::Cancelled) => store.settle(claim, JobState::Cancelled, None)?,
        Ok(RunStatus::BudgetExhausted) => {
            let view = store.for_tenant(&claim.tenant);
            if view.run(&claim.run)?.status != RunStatus::BudgetExhausted {
                mark(&view, &claim.run, RunStatus::BudgetExhausted);
            }
            store.settle(claim, JobState::Done, None)?;
        }
        Ok(_) => store.settle(claim, JobState::Done, None)?,
        Err(error) => {
            tracing::warn!(run = %claim.run, error = error.message, "a run failed");
            let view = store.for_tenant(&claim.tenant);
            mark(&view, &claim.run, RunStatus::Failed);
            store.settle(claim, JobState::Failed, Some(&error.message))?;
        }
    }
    Ok(())
}

/// A run that could not even begin says so too. One of which nothing is missing, and that was to be asked again, stays
/// what it is.
pub(crate) fn mark(store: &Store, run: &RunId, status: RunStatus) {
    let marked = store.lease(run, "evalign serve", CLAIM_TTL).and_then(|lease| {
        if !is_whole(&store.run(run)?) {
            store.set_status(&lease, status)?;
        }
        store.release(lease)
    });
    if let Err(error) = marked {
        tracing::warn!(%run, %error, status = status.name(), "the run's end is not noted");
    }
}

/// Of one run: commits block, and the server's threads are for clients.
pub(crate) fn runtime() -> ApiResult<tokio::runtime::Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let builder = builder.worker_threads(1).thread_name("evalign-run").enable_all();
    builder.build().map_err(ApiError::internal)
}

/// Tells watchers and metrics how a run gets on.
pub(crate) struct Watched<'a> {
    pub(crate) app: &'a App,
    pub(crate) run: &'a RunId,
}

impl Progress for Watched<'_> {
    fn progress(&self, _: &Snapshot) {
        self.app.active.changed(self.run);
    }

    fn sample(&self, record: &SampleRecord) {
        self.app.metrics.samples.fetch_add(1, Ordering::Relaxed);
        let tokens = record.usage.prompt_tokens.saturating_add(record.usage.generated_tokens);
        self.app.metrics.sample_tokens.fetch_add(tokens, Ordering::Relaxed);
        self.app.count_read(self.run, tokens);
    }

    fn read(&self, tokens: u64) {
        self.app.count_read(self.run, tokens);
    }
}

impl App {
    /// Counts what a model has read or written for a run that this server works on, for the key that queued it. The run
    /// ends when that has no tokens left.
    pub(crate) fn count_read(&self, run: &RunId, tokens: u64) {
        if let Some(key) = self.active.key_of(run)
            && !self.count_tokens(&key, tokens)
        {
            self.active.used_up(run);
        }
    }
}

fn drive(app: &Arc<App>, claim: &Claim, cancel: &Cancel) -> ApiResult<RunStatus> {
    let mut store = app.store.for_tenant(&claim.tenant);
    if let Some(key) = &claim.key {
        store = store.on_behalf_of(key);
    }
    let stored = store.run(&claim.run)?;
    let has_tokens = claim.key.as_ref().is_none_or(|key| app.count_tokens(key, 0));
    let JobRequest { retry_errors } = JobRequest::deserialize(&claim.request).map_err(ApiError::internal)?;
    let retries = retry_errors && has_tokens && store.count_samples(&claim.run, Outcome::Error)? > 0;
    if is_whole(&stored) && !retries {
        // The server was killed after its end, before that was told, or what to ask again with was used up meanwhile.
        return Ok(RunStatus::Completed);
    }
    if stored.status != RunStatus::Completed && !has_tokens {
        // They were used up while it waited.
        return Ok(RunStatus::BudgetExhausted);
    }
    let going = Going { cancel, retries };
    if stored.request.get("procedure").is_some() {
        return app.drive_procedure(&store, &stored, going);
    }
    let Prepared { plan, model, spending } = app.prepare(&store, &request_of(&stored)?, Some(&stored))?;
    let mut run = ActiveRun::resume(&claim.run, &store, &owner())?;
    going.reopen(&mut run, &store)?;
    run.set_price(spending.price);
    run.set_budget(spending.budget.clone());
    if let Some(budget) = &spending.budget {
        budget.count_earlier(stored.spent);
    }
    let cached = Cached::new(model, StoreCache(store.clone()));
    let watched = Watched { app, run: &claim.run };
    let runtime = runtime()?;
    let end = runtime.block_on(run.drive(&plan, &cached, &watched, cancel));
    // The engine may be in the middle of a batch; nobody waits for it.
    runtime.shutdown_background();
    let end = end?;
    app.metrics.cached_answers.fetch_add(end.from_cache, Ordering::Relaxed);
    conclude(&run, &end, &store, &app.catalog)?;
    run.release()?;
    Ok(end.status)
}
