use std::collections::BTreeMap;
use std::path::PathBuf;

use evalign_core::{Hint as _, ModelRef, Outcome, Output, Response, RunId, RunStatus, SampleKey, Score};
use evalign_judge::{Aggregation, Comparison, Judge, Judged, Order, Preference, Unscored};
use evalign_model::ModelError;
use evalign_store::{NewRun, Store};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::report::{JudgingReport, Rows, documents_by_prompt};
use super::rows::{Answers, JudgedRow, answered_rows, digest, read_rows};
use crate::pairing::{Side, answered, compare_scores, comparison_askings, outcome_of, phase_spec, run_spec};
use crate::runner::{ActiveRun, Asking, Cancel, Progress, RunOfSteps, Said, Steps};
use crate::{BenchError, PlannedSample, RunError, RunRequest};

/// Verdicts of one judge on one row: more say nothing new of it.
const MOST_REPEATS: u32 = 64;

/// What `evalign judge score` and `calibrate` ask for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileJudgingRequest {
    /// `judge`: what kind of run this is.
    pub procedure: String,
    /// How the judges are loaded; its model is the first of them, its tasks are none, `repeats` is how often each
    /// judge is asked about each row.
    pub run: RunRequest,
    pub judges: Vec<ModelRef>,
    /// How the judges are asked, in the caller's words: enough to make them anew.
    pub asked: serde_json::Value,
    pub source: JudgedSource,
}

/// Where what is judged comes from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JudgedSource {
    File(PathBuf),
    /// The texts that a run's model wrote, whatever task they answer.
    Run(RunId),
}

impl std::fmt::Display for JudgedSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Run(run) => write!(f, "{run}"),
        }
    }
}

impl FileJudgingRequest {
    /// What [`FileJudgingRequest::procedure`] is.
    pub const PROCEDURE: &'static str = "judge";
}

/// Rows of a file on their way through judges.
#[derive(Debug)]
pub struct FileJudging<'a> {
    judges: &'a [Judge],
    rows: Vec<JudgedRow>,
    repeats: u32,
    new: NewRun,
}

/// The step in which one of the judges is asked.
pub(super) fn verdict_step(judge: usize) -> String {
    format!("judge/verdict-{}", judge + 1)
}

impl RunOfSteps for FileJudging<'_> {
    fn new_run(&self) -> &NewRun {
        &self.new
    }
}

impl<'a> FileJudging<'a> {
    /// Everything that can fail before anything is asked.
    ///
    /// # Errors
    /// No judge, rows that cannot be read or do not fit the rubric.
    pub fn new(request: &FileJudgingRequest, judges: &'a [Judge], store: &Store) -> Result<Self, RunError> {
        let Some(first) = judges.first() else {
            return Err(BenchError::request("no judge is named", "name a model with `--judge`").into());
        };
        let repeats = request.run.repeats.unwrap_or(1);
        if repeats == 0 {
            return Err(BenchError::request("`--repeats` is 0", "use 1 or more").into());
        }
        if repeats > MOST_REPEATS {
            let (message, hint) =
                (format!("`--repeats` is {repeats}"), format!("use {MOST_REPEATS} or fewer"));
            return Err(BenchError::request(message, hint).into());
        }
        let limit = request.run.limit.map(|limit| limit.of(u64::MAX));
        let rows = match &request.source {
            JudgedSource::File(path) => read_rows(path, limit)?,
            JudgedSource::Run(run) => answered_rows(store, run, limit)?,
        };
        let (count, data) = (rows.len() as u64, digest(&rows));
        let per_row = match rows[0].answers {
            Answers::One(_) => repeats,
            Answers::Two(_) => repeats * 2,
        };
        let step = |(index, judge): (usize, &Judge)| {
            let definition = definition(judge);
            phase_spec(&verdict_step(index), &definition, &data, (count, per_row), None)
        };
        let tasks = judges.iter().enumerate().map(step).collect();
        let chat = first.model().capabilities().chat;
        let new = NewRun {
            spec: run_spec(&**first.model(), request.run.seed, chat, tasks),
            request: json!(request),
            samples_total: count * u64::from(per_row) * judges.len() as u64,
            fork: false,
        };
        let judging = Self { judges, rows, repeats, new };
        // A rubric that needs what the material does not have fails on the first row without it, before anything is asked;
        // a template that cannot be rendered on the first row. To make all questions would take far longer.
        for row in &judging.rows {
            first.check(&row.material()).map_err(|error| BenchError::Request {
                message: format!("{}: {error}", row.source),
                hint: error.hint(),
            })?;
        }
        judging.questions((0, first), 1).next().transpose()?;
        Ok(judging)
    }

    #[must_use]
    pub fn rows(&self) -> &[JudgedRow] {
        &self.rows
    }

    /// Asks every judge what is not answered yet.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub async fn drive(
        &self,
        run: &mut ActiveRun,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunStatus, RunError> {
        for (index, judge) in self.judges.iter().enumerate() {
            let score = |sample: &PlannedSample, output: Option<&Output>| match self.rows[0].answers {
                Answers::One(_) => pointwise_scores(judge, output),
                Answers::Two(_) => compare_scores(judge, sample, output),
            };
            let questions = self.questions((index, judge), self.repeats);
            let how = (self.total_samples(), score);
            let status = run.drive_questions(questions, how, &**judge.model(), (progress, cancel)).await?;
            if status != RunStatus::Completed {
                return Ok(status);
            }
        }
        Ok(RunStatus::Completed)
    }

    /// What a judge is asked about every row, so often.
    fn questions(
        &self,
        (index, judge): (usize, &'a Judge),
        repeats: u32,
    ) -> impl Iterator<Item = Result<Asking, RunError>> + Send {
        let step = verdict_step(index);
        let rows = (0u64..).zip(&self.rows);
        let places = rows.flat_map(move |(doc, row)| (0..repeats).map(move |repeat| (doc, repeat, row)));
        places.flat_map(move |(doc, repeat, row)| match questions_about(judge, (&step, doc, repeat), row) {
            Ok(askings) => askings.into_iter().map(Ok).collect::<Vec<_>>(),
            Err(error) => vec![Err(error)],
        })
    }

    /// What the stored verdicts say. Works on unfinished runs too.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn report(&self, steps: &Steps, how: Aggregation) -> Result<JudgingReport, RunError> {
        let mut said = Vec::with_capacity(self.judges.len());
        for (index, judge) in self.judges.iter().enumerate() {
            said.push((judge, stored(steps, &verdict_step(index))?));
        }
        let rows = Rows { all: &self.rows, documents: &documents_by_prompt(&self.rows) };
        Ok(JudgingReport::of(rows, &said, (self.repeats, how)))
    }
}

/// What a judge is asked about a row: one question, or one in each order.
fn questions_about(
    judge: &Judge,
    (step, doc, repeat): (&str, u64, u32),
    row: &JudgedRow,
) -> Result<Vec<Asking>, RunError> {
    match &row.answers {
        Answers::One(answer) => {
            let key = SampleKey { task: step.to_owned(), doc, repeat };
            Ok(vec![Asking {
                request: judge.pointwise_request(key, &row.material(), answer)?,
                doc: json!({ "prompt": row.prompt, "answer": answer, "source": row.source }),
                target: String::new(),
            }])
        }
        Answers::Two([a, b]) => {
            let sides = [Side { name: 0, text: a }, Side { name: 1, text: b }];
            Ok(comparison_askings(judge, (step, doc, repeat), row.material(), sides)?.into())
        }
    }
}

/// What of a judge is part of a run's specification.
pub(super) fn definition(judge: &Judge) -> serde_json::Value {
    json!({ "judge": judge.digest(), "model": judge.model().identity() })
}

/// Stored verdicts by document and repeat.
pub(super) type Stored = BTreeMap<(u64, u32), Said>;

/// Those of one step.
pub(super) fn stored(steps: &Steps, step: &str) -> Result<Stored, RunError> {
    let place = |said: Said| ((said.key.doc, said.key.repeat), said);
    Ok(steps.said(step)?.map(|said| said.map(place)).collect::<Result<_, _>>()?)
}

/// The answer of a stored sample, as it came.
fn answer_of(said: Option<&Said>) -> Result<Response, ModelError> {
    let why = || said.and_then(|said| said.error.clone()).unwrap_or("was not asked".to_owned());
    answered(said.and_then(|said| said.output.as_ref()), why)
}

/// The verdict on pair `number` of a document.
pub(super) fn comparison_of(judge: &Judge, stored: &Stored, doc: u64, number: u32) -> Comparison {
    let verdict = |order: Order| {
        let repeat = number * 2 + u32::from(order == Order::Swapped);
        judge.read_pairwise(order, &answer_of(stored.get(&(doc, repeat))))
    };
    Comparison::of([verdict(Order::AsGiven), verdict(Order::Swapped)])
}

/// The verdict on an answer.
pub(super) fn judged_of(judge: &Judge, stored: &Stored, doc: u64, repeat: u32) -> Result<Judged, Unscored> {
    judge.read_pointwise(&answer_of(stored.get(&(doc, repeat))))
}

/// The scores of a judged answer: the whole, then each criterion.
pub(crate) fn pointwise_scores(judge: &Judge, output: Option<&Output>) -> Vec<Score> {
    let verdict = judge.read_pointwise(&answered(output, || "the call failed".to_owned()));
    let (outcome, score) = match &verdict {
        Ok(judged) => (Outcome::Unscored, Some(judged.score)),
        Err(reason) => (outcome_of(reason), None),
    };
    let metric = |name: String, value: Option<f64>| Score {
        metric: name,
        filter: "none".to_owned(),
        outcome,
        value,
        answer: None,
        weight: None,
        margin: None,
    };
    let mut scores = vec![metric(judge.rubric().name.clone(), score)];
    if let (Ok(judged), [_, _, ..]) = (&verdict, judge.rubric().criteria.as_slice()) {
        let criteria = judged.criteria.iter();
        scores.extend(
            criteria.map(|c| metric(format!("{}.{}", judge.rubric().name, c.criterion), Some(c.value()))),
        );
    }
    scores
}

/// Where nothing was decided, why not.
pub(super) fn reason_of(preference: &Preference) -> Option<&Unscored> {
    match preference {
        Preference::Unscored { reason } => Some(reason),
        Preference::A | Preference::B | Preference::Tie => None,
    }
}
