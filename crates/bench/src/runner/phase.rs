//! Runs of several steps: what is asked in a later one depends on what was answered in an earlier one.

use std::collections::BTreeMap;
use std::future::Future;
use std::iter::Peekable;
use std::time::Instant;

use evalign_core::{Digest, Output, Request, RunId, RunStatus, SampleKey, SampleRecord, Score, Seconds};
use evalign_model::Model;
use evalign_store::{NewRun, SampleFilter, Samples, Store, StoreError};
use serde::Deserialize;
use serde_json::{Value, json};

use super::session::Session;
use super::{ActiveRun, Cancel, CancelLevel, LEASE_TTL, Progress};
use crate::planned::prompt_hash;
use crate::{PlannedSample, RunError};

/// One question of a phase.
#[derive(Clone, Debug)]
pub struct Asking {
    pub request: Request,
    /// What the question is about, kept with the answer.
    pub doc: Value,
    /// The right answer, or what is expected; empty where there is none.
    pub target: String,
}

/// The scores of an answered question, and of one whose call failed.
type ScoreOf<'a> = Box<dyn Fn(&PlannedSample, Option<&Output>) -> Vec<Score> + Sync + 'a>;

/// All questions of one step of a run, which are put to the model together. Every answer is a sample of the
/// run: a phase that was interrupted goes on with what is not answered, and the next phase begins with the
/// stored answers of this one.
pub struct Phase<'a> {
    pub(super) asking: Vec<Asking>,
    places: BTreeMap<SampleKey, usize>,
    pub(super) score: ScoreOf<'a>,
    pub(super) run_samples: u64,
}

impl std::fmt::Debug for Phase<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Phase").field("asking", &self.asking.len()).finish_non_exhaustive()
    }
}

impl<'a> Phase<'a> {
    /// `run_samples`: samples of all phases together, for the display of progress.
    pub fn new(
        asking: Vec<Asking>,
        run_samples: u64,
        score: impl Fn(&PlannedSample, Option<&Output>) -> Vec<Score> + Sync + 'a,
    ) -> Self {
        let key = |(place, asking): (usize, &Asking)| (asking.request.key.clone(), place);
        Self {
            places: asking.iter().enumerate().map(key).collect(),
            asking,
            score: Box::new(score),
            run_samples,
        }
    }

    pub(super) fn planned(&self, key: &SampleKey) -> Option<PlannedSample> {
        let asking = self.asking.get(*self.places.get(key)?)?;
        Some(PlannedSample {
            key: key.clone(),
            doc: asking.doc.clone(),
            doc_hash: Digest::of_json(&asking.doc),
            request: asking.request.clone(),
            prompt_hash: prompt_hash(&asking.request.kind),
            target: asking.target.clone(),
            target_hash: Digest::of(&asking.target),
        })
    }
}

/// Questions that are at least in memory together where a step has many, and the model wants to see fewer: what is under
/// way when they run out has to end before there are others.
const TOGETHER: usize = 4096;

/// A stored answer without what was asked, which is most of it.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Said {
    pub(crate) key: SampleKey,
    pub(crate) output: Option<Output>,
    #[serde(default)]
    pub(crate) error: Option<String>,
    pub(crate) scores: Vec<Score>,
}

/// The stored answers of a run, step by step.
#[derive(Clone, Debug)]
pub struct Steps {
    store: Store,
    pub run: RunId,
}

impl Steps {
    /// Those of any run in the store.
    #[must_use]
    pub fn of(store: &Store, run: &RunId) -> Self {
        Self { store: store.clone(), run: run.clone() }
    }

    /// The samples of one step, in order.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn answered(&self, step: &str) -> Result<Vec<SampleRecord>, RunError> {
        let filter = SampleFilter { task: Some(step.to_owned()), ..SampleFilter::default() };
        Ok(self.store.samples(&self.run, filter)?.collect::<Result<_, _>>()?)
    }

    /// As [`Steps::answered`], without what was asked, and one at a time.
    pub(crate) fn said(
        &self,
        step: &str,
    ) -> Result<impl Iterator<Item = Result<Said, StoreError>> + use<>, RunError> {
        let filter = SampleFilter { task: Some(step.to_owned()), ..SampleFilter::default() };
        Ok(self.store.parts(&self.run, filter)?)
    }

    /// The samples of one step, document by document: those of one are in memory at a time.
    pub(crate) fn by_document(&self, step: &str) -> Result<Documents, RunError> {
        let filter = SampleFilter { task: Some(step.to_owned()), ..SampleFilter::default() };
        Ok(Documents(self.store.samples(&self.run, filter)?.peekable()))
    }
}

/// See [`Steps::by_document`].
pub(crate) struct Documents(Peekable<Samples>);

impl Documents {
    /// The samples of this document, where they come next.
    pub(crate) fn of(&mut self, doc: u64) -> Result<Vec<SampleRecord>, StoreError> {
        let mut found = Vec::new();
        let of_doc = |next: &Result<SampleRecord, _>| next.as_ref().map_or(true, |next| next.key.doc == doc);
        while let Some(record) = self.0.next_if(of_doc) {
            found.push(record?);
        }
        Ok(found)
    }
}

impl Iterator for Documents {
    type Item = Result<(u64, Vec<SampleRecord>), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        let doc = match self.0.peek()? {
            Ok(record) => record.key.doc,
            Err(_) => return self.0.next().map(|failed| failed.map(|record| (record.key.doc, Vec::new()))),
        };
        Some(self.of(doc).map(|records| (doc, records)))
    }
}

impl ActiveRun {
    /// As [`ActiveRun::drive_phase`], of questions that are made when their turn comes: some thousands are in memory at
    /// a time, however many there are.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`], or a question that cannot be made.
    pub(crate) async fn drive_questions(
        &mut self,
        mut questions: impl Iterator<Item = Result<Asking, RunError>> + Send,
        (run_samples, score): (u64, impl Fn(&PlannedSample, Option<&Output>) -> Vec<Score> + Sync),
        model: &dyn Model,
        (progress, cancel): (&dyn Progress, &Cancel),
    ) -> Result<RunStatus, RunError> {
        let together = model.intake().together.max(TOGETHER);
        loop {
            let mut asking = Vec::new();
            while asking.len() < together {
                let Some(question) = questions.next().transpose()? else { break };
                if !self.finished.contains(&question.request.key) {
                    asking.push(question);
                }
            }
            if asking.is_empty() {
                return Ok(RunStatus::Completed);
            }
            let phase = Phase::new(asking, run_samples, &score);
            let status = self.drive_phase(&phase, model, progress, cancel).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
        }
    }

    /// Asks what of a phase is not answered yet. Ends with [`RunStatus::Completed`] when the phase is complete,
    /// and with what stopped it otherwise; the run's status in the store is [`RunStatus::Running`] in between.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub async fn drive_phase(
        &mut self,
        phase: &Phase<'_>,
        model: &dyn Model,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunStatus, RunError> {
        if phase.asking.iter().all(|asking| self.finished.contains(&asking.request.key)) {
            return Ok(RunStatus::Completed);
        }
        let (started, before) = (Instant::now(), model.timing());
        self.store.set_status(&self.lease, RunStatus::Running)?;
        let result = Session::new(self, phase, model, progress, cancel).run().await;
        let after = model.timing();
        let seconds = Seconds {
            load: 0.0,
            prefill: after.prefill - before.prefill,
            decode: after.decode - before.decode,
            total: started.elapsed().as_secs_f64(),
        };
        let status = result.as_ref().map_or(RunStatus::Failed, |status| *status);
        let noted = self.note_spent().and_then(|()| self.store.add_session(&self.lease, seconds));
        let noted = noted.and_then(|()| match status {
            // There may be another phase.
            RunStatus::Completed => Ok(()),
            stopped => self.store.set_status(&self.lease, stopped),
        });
        // Whatever happened, an earlier failure is the one to report.
        let status = result?;
        noted?;
        match status {
            RunStatus::Completed => self.finished.extend(phase.places.keys().cloned()),
            _ => self.finished = self.store.finished(&self.id)?,
        }
        Ok(status)
    }

    /// As [`ActiveRun::start`], for a run of phases.
    ///
    /// # Errors
    /// As [`ActiveRun::start`].
    pub fn start_phases(new: &NewRun, store: &Store, owner: &str) -> Result<Self, RunError> {
        Self::create(new, store, owner)
    }

    /// Looks again at what is finished: the questions of a phase may be about it.
    pub(crate) fn look_again(&mut self) -> Result<(), RunError> {
        self.finished = self.store.finished(&self.id)?;
        Ok(())
    }

    /// Replaces the scores of samples, by the rules they have been scored by.
    pub(crate) fn keep(&self, scores: Vec<(SampleKey, Vec<Score>)>) -> Result<(), RunError> {
        if scores.is_empty() {
            return Ok(());
        }
        let scored_by = self.store.run(&self.id)?.scored_by;
        Ok(self.store.replace_scores(&self.lease, scores, scored_by.as_ref())?)
    }

    /// Marks a run as complete whose last phase is.
    pub(crate) fn mark_complete(&self) -> Result<(), RunError> {
        self.mark(RunStatus::Completed)
    }

    pub(crate) fn mark(&self, status: RunStatus) -> Result<(), RunError> {
        if self.store.run(&self.id)?.status != status {
            self.store.set_status(&self.lease, status)?;
        }
        Ok(())
    }

    /// What is stored of the run's steps.
    #[must_use]
    pub fn steps(&self) -> Steps {
        Steps { store: self.store.clone(), run: self.id.clone() }
    }

    /// Whether a sample was there before this session.
    pub(crate) fn is_finished(&self, key: &SampleKey) -> bool {
        self.finished.contains(key)
    }

    /// Waits for the work while the lease is renewed. `None` where the run is to end: the work is dropped.
    ///
    /// # Errors
    /// The lease was lost, or a failure of the store.
    pub async fn attended<T>(
        &self,
        cancel: &Cancel,
        work: impl Future<Output = T>,
    ) -> Result<Option<T>, RunError> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                _ = cancel.raised_above(CancelLevel::None) => return Ok(None),
                done = &mut work => return Ok(Some(done)),
                () = tokio::time::sleep(LEASE_TTL / 4) => self.store.renew(&self.lease, LEASE_TTL)?,
            }
        }
    }

    /// Does the work of a run that does not ask a model by itself: attended, timed, its end noted. `results` makes
    /// of what the work gave the run's results. Ends with [`RunStatus::Cancelled`] where the run was to end.
    pub(crate) async fn carry_out<T>(
        &self,
        cancel: &Cancel,
        work: impl Future<Output = Result<T, RunError>>,
        results: impl FnOnce(T) -> Result<Value, RunError>,
    ) -> Result<RunStatus, RunError> {
        let started = Instant::now();
        self.store.set_status(&self.lease, RunStatus::Running)?;
        let done = self.attended(cancel, work).await.and_then(Option::transpose);
        let seconds = Seconds { total: started.elapsed().as_secs_f64(), ..Seconds::default() };
        let noted = self.store.add_session(&self.lease, seconds);
        let done = match done {
            Ok(Some(done)) => done,
            Ok(None) => {
                self.store.set_status(&self.lease, RunStatus::Cancelled)?;
                return Ok(RunStatus::Cancelled);
            }
            // Whatever happened, an earlier failure is the one to report.
            Err(error) => {
                if let Err(second) = self.store.set_status(&self.lease, RunStatus::Failed) {
                    tracing::warn!(error = %second, "the run is not marked as failed");
                }
                return Err(error);
            }
        };
        noted?;
        self.store.set_status(&self.lease, RunStatus::Completed)?;
        self.store.save_results(&self.lease, &results(done)?)?;
        Ok(RunStatus::Completed)
    }

    /// Marks a run of phases as complete and keeps its report.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn complete(&self, report: &Value) -> Result<(), RunError> {
        self.store.set_status(&self.lease, RunStatus::Completed)?;
        Ok(self.store.save_results(&self.lease, &json!(report))?)
    }
}
