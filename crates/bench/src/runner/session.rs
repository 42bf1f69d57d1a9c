use std::collections::VecDeque;
use std::iter::Peekable;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use evalign_core::{Latency, Output, Prompt, Request, Response, RunStatus, SampleKey, SampleRecord, Usage};
use evalign_model::{ErrorKind, Intake, Model, ModelError, Price, Replies, Reply};
use evalign_store::{Commit, StoreError};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::cancel::{Cancel, CancelLevel};
use super::progress::{Progress, Snapshot};
use super::work::Work;
use super::workload::Workload;
use super::{ActiveRun, LEASE_TTL};
use crate::{PlannedSample, RunError};

/// Commits that may wait for the disk before the next answer is taken.
const COMMITS_IN_FLIGHT: usize = 512;

type Pending<'a> = Peekable<Box<dyn Iterator<Item = SampleKey> + Send + 'a>>;

/// One pass over the pending samples. What is in memory at a time is what the model wants to see
/// ([`Intake`]), not the run.
pub(super) struct Session<'a> {
    run: &'a ActiveRun,
    workload: &'a dyn Workload,
    model: &'a dyn Model,
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
    intake: Intake,
    pending: Pending<'a>,
    /// Submissions that are not answered in full, the oldest first.
    open: VecDeque<Submission>,
    commits: FuturesUnordered<Committing>,
    renewed: Instant,
    started: Instant,
    work: WorkDone,
    over: Option<Over>,
    cancelled: CancelLevel,
    pub(super) committed: u64,
    pub(super) from_cache: u64,
    failed: u64,
    usage: Usage,
}

/// Why nothing more is asked though samples are left. What is under way is paid for and still taken.
enum Over {
    Budget,
    Unavailable(ModelError),
    /// Replies ended early without a word; the word may stand in another submission's.
    Gone,
    Cancelled,
}

/// How much of the work is done, in the units of [`Work`].
#[derive(Default)]
struct WorkDone {
    done: f64,
    submitted: f64,
    samples_submitted: u64,
    samples: u64,
}

impl WorkDone {
    /// Samples not yet rendered are taken to be as much work as the others.
    fn left(&self) -> f64 {
        let scale = self.samples as f64 / self.samples_submitted.max(1) as f64;
        self.submitted * scale - self.done
    }
}

/// Requests that were handed to the model together.
struct Submission {
    replies: Replies,
    asked: Vec<Option<Asked>>,
    unanswered: usize,
}

/// A rendered sample waiting for its answer.
struct Asked {
    sample: PlannedSample,
    work: f64,
}

/// A sample on its way to the disk.
struct Committing {
    commit: Commit,
    work: f64,
    usage: Usage,
    failed: bool,
}

impl Future for Committing {
    type Output = (Result<(), StoreError>, f64, Usage, bool);

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.commit).poll(context).map(|result| (result, self.work, self.usage, self.failed))
    }
}

/// The next reply to any submission, and which one's. `None`: that one has ended.
async fn next_reply(open: &mut VecDeque<Submission>) -> (usize, Option<Reply>) {
    std::future::poll_fn(|context| {
        for (index, submission) in open.iter_mut().enumerate() {
            if let Poll::Ready(reply) = submission.replies.poll_next(context) {
                return Poll::Ready((index, reply));
            }
        }
        Poll::Pending
    })
    .await
}

impl<'a> Session<'a> {
    pub(super) fn new(
        run: &'a ActiveRun,
        workload: &'a dyn Workload,
        model: &'a dyn Model,
        progress: &'a dyn Progress,
        cancel: &'a Cancel,
    ) -> Self {
        let pending: Box<dyn Iterator<Item = _> + Send> =
            Box::new(workload.keys().filter(|key| !run.finished.contains(key)));
        let samples = workload.total_samples().saturating_sub(run.finished());
        Self {
            run,
            workload,
            model,
            progress,
            cancel,
            intake: model.intake(),
            pending: pending.peekable(),
            open: VecDeque::new(),
            commits: FuturesUnordered::new(),
            renewed: Instant::now(),
            started: Instant::now(),
            work: WorkDone { samples, ..WorkDone::default() },
            over: None,
            cancelled: CancelLevel::None,
            committed: 0,
            from_cache: 0,
            failed: 0,
            usage: Usage::default(),
        }
    }

    pub(super) async fn run(&mut self) -> Result<RunStatus, RunError> {
        self.report();
        loop {
            self.submit()?;
            if self.open.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                level = self.cancel.raised_above(self.cancelled) => self.cancel(level),
                Some(done) = self.commits.next(), if !self.commits.is_empty() => self.note(done)?,
                (index, reply) = next_reply(&mut self.open), if self.commits.len() < COMMITS_IN_FLIGHT => {
                    self.take(index, reply)?;
                }
                () = tokio::time::sleep(LEASE_TTL / 4) => {}
            }
            self.renew()?;
        }
        self.flush().await?;
        match self.over.take() {
            None => Ok(RunStatus::Completed),
            Some(Over::Budget) => Ok(RunStatus::BudgetExhausted),
            Some(Over::Cancelled) => Ok(RunStatus::Cancelled),
            Some(Over::Unavailable(error)) => Err(error.into()),
            Some(Over::Gone) => Err(RunError::ModelGone {
                run: self.run.id.clone(),
                done: self.run.finished() + self.committed,
                total: self.workload.total_samples(),
            }),
        }
    }

    /// Keeps the model supplied.
    fn submit(&mut self) -> Result<(), RunError> {
        while self.over.is_none()
            && self.open.iter().map(|submission| submission.unanswered).sum::<usize>() <= self.intake.ahead
            && self.pending.peek().is_some()
        {
            let asked = self.render()?;
            self.work.submitted += asked.iter().map(|asked| asked.work).sum::<f64>();
            self.work.samples_submitted += asked.len() as u64;
            let requests: Vec<Request> = asked.iter().map(|asked| asked.sample.request.clone()).collect();
            self.open.push_back(Submission {
                replies: self.model.submit(requests),
                unanswered: asked.len(),
                asked: asked.into_iter().map(Some).collect(),
            });
            if self.intake.ahead == 0 {
                break;
            }
        }
        Ok(())
    }

    fn render(&mut self) -> Result<Vec<Asked>, RunError> {
        let mut asked = Vec::new();
        for key in self.pending.by_ref().take(self.intake.together.max(1)) {
            let mut sample = self.workload.sample(&key)?;
            if let Some(prompt @ Prompt::Chat(_)) = sample.prompt()
                && let Some(text) = self.model.render(prompt)
            {
                sample.set_rendered_prompt(&text);
            }
            asked.push(Asked { sample, work: 0.0 });
        }
        let work = Work::of(asked.iter().map(|asked| &asked.sample.request.kind));
        for (asked, work) in asked.iter_mut().zip(work) {
            asked.work = work;
        }
        Ok(asked)
    }

    /// Takes one reply: scores and commits an answer, or ends a submission. The end is waited for even
    /// when all is answered, because the model books its time after the last answer.
    fn take(&mut self, index: usize, reply: Option<Reply>) -> Result<(), RunError> {
        let Some((position, result)) = reply else {
            let ended = self.open.remove(index);
            if self.over.is_none() && ended.is_some_and(|submission| submission.unanswered > 0) {
                self.over = Some(Over::Gone);
            }
            return Ok(());
        };
        let Some(submission) = self.open.get_mut(index) else { return Ok(()) };
        let Some(asked) = submission.asked.get_mut(position).and_then(Option::take) else { return Ok(()) };
        submission.unanswered -= 1;
        match result {
            // Not asked, and so not recorded: the run goes on when there is more to spend.
            Err(ModelError::BudgetExhausted(what)) => {
                if self.over.is_none() {
                    tracing::warn!(%what, "the budget is exhausted");
                    self.over = Some(Over::Budget);
                }
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                self.ask_no_more(Over::Unavailable(error));
                Ok(())
            }
            result => self.commit(asked, result),
        }
    }

    fn cancel(&mut self, level: CancelLevel) {
        self.cancelled = level;
        self.ask_no_more(Over::Cancelled);
        if level == CancelLevel::Abort {
            self.open.clear();
            self.commits.clear();
        }
    }

    /// Dropping the replies tells a model to stop; one whose answers are paid for is let finish them.
    fn ask_no_more(&mut self, why: Over) {
        if matches!(self.over, None | Some(Over::Gone)) {
            self.over = Some(why);
        }
        if !self.model.wind_down() {
            self.open.clear();
        }
    }

    fn commit(&mut self, asked: Asked, result: Result<Response, ModelError>) -> Result<(), RunError> {
        self.from_cache += u64::from(result.as_ref().is_ok_and(|response| response.cached));
        let record = record(self.workload, asked.sample, result, self.run.price)?;
        let failed = record.output.is_none();
        let commit = self.run.store.commit_sample(&self.run.lease, &record);
        self.progress.sample(&record);
        self.commits.push(Committing { commit, work: asked.work, usage: record.usage, failed });
        Ok(())
    }

    fn note(
        &mut self,
        (result, work, usage, failed): (Result<(), StoreError>, f64, Usage, bool),
    ) -> Result<(), RunError> {
        result?;
        self.committed += 1;
        self.failed += u64::from(failed);
        self.work.done += work;
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
            self.run.note_spent()?;
            self.renewed = Instant::now();
        }
        Ok(())
    }

    fn report(&self) {
        let elapsed = self.started.elapsed();
        let left = self.work.left();
        let known = self.work.done > 0.0 && left >= 0.0;
        self.progress.progress(&Snapshot {
            done: self.run.finished() + self.committed,
            total: self.workload.total_samples(),
            failed: self.failed,
            usage: self.usage,
            elapsed,
            remaining: known.then(|| elapsed.mul_f64(left / self.work.done)),
        });
    }
}

/// The record of an answered (or failed) sample, scored and priced.
fn record(
    workload: &dyn Workload,
    sample: PlannedSample,
    result: Result<Response, ModelError>,
    price: Option<Price>,
) -> Result<SampleRecord, RunError> {
    let mut error = None;
    let mut requests = 0;
    let response = match result {
        Ok(response) => Some(response),
        Err(failure) => {
            requests = failure.attempts();
            error = Some(failure.to_string());
            None
        }
    };
    let latency: Option<Latency> = response.as_ref().and_then(|response| response.latency);
    requests = latency.map_or(requests, |latency| latency.attempts);
    let usage = response.as_ref().and_then(|response| response.usage);
    // What came from the cache was paid for when it was new; what is not counted has no known price.
    let free = response.as_ref().is_some_and(|response| response.cached);
    let cost_usd =
        price.and_then(|price| if free { Some(0.0) } else { usage.map(|usage| price.usd(&usage)) });
    let usage = usage.unwrap_or_default();
    let truncated_tokens = response.as_ref().map_or(0, |response| response.truncated_tokens);
    let mut output = response.map(|response| response.output);
    // The tokens were spent, but nothing can be decided by such an answer, nor can it be stored.
    if let Some(Err(what)) = output.as_ref().map(Output::check_finite) {
        error = Some(no_number(&what));
        output = None;
    }
    let scores = workload.score(&sample, output.as_ref())?;
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
        latency,
        requests,
        cost_usd,
    })
}

/// The error of a sample whose answer holds something else than numbers where numbers belong.
pub(crate) fn no_number(what: &str) -> String {
    format!("the model's answer cannot be scored: {what}")
}
