//! Judges of tasks: what `judge` in a task file asks for. Verdicts on a task's answers are samples of the same run under
//! a name of their own, so that none is asked for twice; when all are there, each stands beside the scores of the answer
//! it is about, and is counted, compared and shown like them.

use std::collections::BTreeMap;
use std::sync::Arc;

use evalign_core::{
    Digest, GenerateParams, ModelRef, Outcome, Output, RunId, RunStatus, SampleKey, SampleRecord, Score,
    TaskSpec,
};
use evalign_judge::{Judge, JudgeOptions, Material, Prompts, Rubric, jury_scores};
use evalign_model::{Model, Price};
use evalign_store::Store;
use serde_json::{Value, json};

use super::file::{Stored, definition, pointwise_scores, stored};
use super::report::{JudgingReport, Rows, scale_of};
use super::rows::{Answers, JudgedRow};
use crate::document::Reader;
use crate::plan::Draft;
use crate::runner::{ActiveRun, Asking, Cancel, Progress, Steps};
use crate::task::{JudgeDefinition, TaskDefinition};
use crate::template::Templates;
use crate::{BenchError, Plan, PlannedSample, PlannedTask, RunEnd, RunError, RunRequest};

/// What the name of the verdicts on a task's answers ends in: of the jury's first member; of the others with a number.
const JUDGED: &str = "/judge";
/// Where other scores have the name of an extraction filter.
pub(super) const FILTER: &str = "judge";

/// Whether a score is a judge's.
pub(crate) fn is_verdict(score: &Score) -> bool {
    score.filter == FILTER
}

/// The judges of one task. Each of their repeats is a member of a jury; mostly there is one.
#[derive(Debug)]
pub(crate) struct TaskJudge {
    judges: Vec<Judge>,
    /// What the tokens of each cost.
    prices: Vec<Option<Price>>,
    repeats: u32,
    templates: Templates,
    definition: JudgeDefinition,
    /// Renders what was asked, where the definition does not say it in other words.
    reader: Reader,
}

impl TaskJudge {
    fn new(
        task: &TaskDefinition,
        models: &[Arc<dyn Model>],
        request: &RunRequest,
    ) -> Result<Option<Self>, RunError> {
        let Some(definition) = task.judge.clone() else { return Ok(None) };
        let rubric = Rubric::find(&definition.rubric, &request.include_path)?;
        let prompts = Arc::new(Prompts::load(&request.include_path)?);
        let options = options(&definition, request.seed);
        let judge = |model: &Arc<dyn Model>| {
            Judge::new(model.clone(), rubric.clone(), prompts.clone(), options.clone())
        };
        let judges = models.iter().map(judge).collect::<Result<Vec<_>, _>>()?;
        let price = |model: &Arc<dyn Model>| request.price_of(&model.identity().reference);
        let prices = models.iter().map(price).collect::<Result<Vec<_>, _>>()?;
        let repeats = definition.repeats.unwrap_or(1);
        let mut templates = Templates::new();
        for (field, source) in fields(&definition) {
            templates.add(field, source).map_err(|message| BenchError::Definition {
                task: task.name.clone(),
                field: format!("judge.{field}"),
                message,
            })?;
        }
        Ok(Some(Self { judges, prices, repeats, templates, definition, reader: Reader::new(task)? }))
    }

    /// Verdicts on one answer.
    pub(crate) fn verdicts(&self) -> u64 {
        self.judges.len() as u64 * u64::from(self.repeats)
    }

    /// The members of the jury by their number: every repeat of every judge.
    fn members(&self) -> impl Iterator<Item = (u32, &Judge)> {
        let each = self.judges.iter().flat_map(|judge| (0..self.repeats).map(move |_| judge));
        (0u32..).zip(each)
    }

    /// Of a member of the jury.
    fn price_of(&self, member: u32) -> Option<Price> {
        let judge = usize::try_from(member / self.repeats.max(1)).ok()?;
        self.prices.get(judge).copied().flatten()
    }

    /// What of it decides verdicts.
    fn identity(&self) -> Value {
        let judges: Vec<Value> = self.judges.iter().map(definition).collect();
        identity(&self.definition, &judges)
    }

    /// One question about each answer there is.
    fn questions(
        &self,
        asked: (u32, &Judge),
        task: &PlannedTask,
        answers: &[SampleRecord],
    ) -> impl Iterator<Item = Result<Asking, RunError>> + Send {
        answers.iter().filter_map(move |record| match &record.output {
            Some(Output::Text { text, .. }) => Some(self.asking(asked, task, record, text)),
            Some(Output::LogLikelihood { .. } | Output::Perplexity { .. }) | None => None,
        })
    }

    fn asking(
        &self,
        (member, judge): (u32, &Judge),
        task: &PlannedTask,
        record: &SampleRecord,
        answer: &str,
    ) -> Result<Asking, RunError> {
        let Value::Object(row) = &record.doc else {
            return Err(RunError::malformed(&record.key, "the stored document is not an object"));
        };
        let document = Reader::processed(row);
        let wrong = |field: &str, message: String| BenchError::Scoring {
            task: task.name().to_owned(),
            message: format!("field `judge.{field}`, document {}: {message}", record.key.doc),
        };
        let mut texts: BTreeMap<&str, String> = BTreeMap::new();
        for (field, _) in fields(&self.definition) {
            let text = self.templates.render(field, document.value()).map_err(|m| wrong(field, m))?;
            texts.insert(field, text);
        }
        let question = match texts.remove(QUESTION) {
            Some(question) => question,
            None => self.reader.prompt(&document).map_err(|error| wrong(QUESTION, error.message))?,
        };
        let target = Some(&record.target).filter(|target| !target.is_empty());
        let material = Material {
            prompt: &question,
            reference: texts.get(REFERENCE).or(target).map(String::as_str),
            context: texts.get(CONTEXT).map(String::as_str),
        };
        let key = SampleKey { task: step(task.name(), member), ..record.key.clone() };
        Ok(Asking {
            request: judge.pointwise_request(key, &material, answer)?,
            doc: json!({ "prompt": question, "answer": answer }),
            target: String::new(),
        })
    }

    fn scale(&self) -> [f64; 2] {
        self.judges.first().map_or([0.0, 1.0], scale_of)
    }

    /// A verdict's scores as shares of the rubric's scale: 0 its lowest level, 1 its highest.
    fn scores(&self, judge: &Judge, output: Option<&Output>) -> Vec<Score> {
        let [low, high] = self.scale();
        let mut scores = pointwise_scores(judge, output);
        for score in &mut scores {
            FILTER.clone_into(&mut score.filter);
            score.value = score.value.map(|value| (value - low) / (high - low));
        }
        scores
    }

    /// What the jury says of each answer. `said` holds each member's scores of all of them.
    fn joined(&self, said: &[Vec<Vec<Score>>]) -> Vec<Vec<Score>> {
        let Some(first) = said.first() else { return Vec::new() };
        if said.len() == 1 {
            return first.clone();
        }
        let [low, high] = self.scale();
        let how = self.definition.aggregate.unwrap_or_default();
        let mut joined = vec![Vec::new(); first.len()];
        for metric in metrics(said) {
            let found = |scores: &Vec<Score>| scores.iter().find(|score| score.metric == metric).cloned();
            let by_member: Vec<Vec<Option<Score>>> =
                said.iter().map(|all| all.iter().map(found).collect()).collect();
            // As levels: Dawid and Skene's categories are those.
            let level = |score: &Option<Score>| Some(low + score.as_ref()?.value? * (high - low));
            let levels: Vec<Vec<Option<f64>>> =
                by_member.iter().map(|all| all.iter().map(level).collect()).collect();
            for (answer, level) in jury_scores(&levels, how).into_iter().enumerate() {
                let Some(score) = by_member.iter().find_map(|all| all[answer].clone()) else { continue };
                joined[answer].push(match level {
                    Some(level) => {
                        let value = Some((level - low) / (high - low));
                        Score { outcome: Outcome::Unscored, value, ..score }
                    }
                    None => score,
                });
            }
        }
        joined
    }

    /// What the judges are like, from what they said about all answers.
    fn report(&self, model: &ModelRef, answers: &[SampleRecord], said: &[Stored]) -> JudgingReport {
        let mut rows = Vec::new();
        let mut places = Vec::new();
        for record in answers {
            let Some(Output::Text { text, .. }) = &record.output else { continue };
            rows.push(JudgedRow {
                prompt: String::new(),
                answers: Answers::One(text.clone()),
                reference: None,
                context: None,
                label: None,
                writers: [Some(model.to_string()), None],
                source: record.key.to_string(),
            });
            places.push((record.key.doc, record.key.repeat));
        }
        let mut stored = Vec::new();
        for (judge, members) in self.judges.iter().zip(said.chunks(self.repeats.max(1) as usize)) {
            let mut found = Stored::new();
            for (repeat, said) in (0u32..).zip(members) {
                let rows = (0u64..).zip(&places);
                found.extend(rows.filter_map(|(row, place)| Some(((row, repeat), said.get(place)?.clone()))));
            }
            stored.push((judge, found));
        }
        let how = self.definition.aggregate.unwrap_or_default();
        let documents: Vec<usize> =
            places.iter().map(|(doc, _)| usize::try_from(*doc).unwrap_or(usize::MAX)).collect();
        JudgingReport::of(Rows { all: &rows, documents: &documents }, &stored, (self.repeats, how))
    }
}

/// One judge is named as it was before there were juries: what it judged then is the same now.
pub(super) fn identity(asked: &JudgeDefinition, judges: &[Value]) -> Value {
    match judges {
        [judge] => json!({ "asked": asked, "judge": judge }),
        jury => json!({ "asked": asked, "judges": jury }),
    }
}

/// The names of all scores, in the order in which they come.
fn metrics(said: &[Vec<Vec<Score>>]) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for score in said.iter().flatten().flatten() {
        if !names.contains(&score.metric) {
            names.push(score.metric.clone());
        }
    }
    names
}

/// How the judges of a task are asked.
fn options(definition: &JudgeDefinition, seed: u64) -> JudgeOptions {
    JudgeOptions {
        seed,
        temperature: definition.temperature.unwrap_or(0.0),
        explanation_tokens: definition.explanation_tokens,
        ..JudgeOptions::default()
    }
}

const QUESTION: &str = "question";
const REFERENCE: &str = "reference";
const CONTEXT: &str = "context";

/// The templates that a definition has, by field.
fn fields(definition: &JudgeDefinition) -> impl Iterator<Item = (&'static str, &str)> {
    [(QUESTION, &definition.question), (REFERENCE, &definition.reference), (CONTEXT, &definition.context)]
        .into_iter()
        .filter_map(|(field, source)| Some((field, source.as_deref()?)))
}

fn step(task: &str, member: u32) -> String {
    match member {
        0 => format!("{task}{JUDGED}"),
        later => format!("{task}{JUDGED}-{}", later + 1),
    }
}

/// The task whose answers these verdicts are about. `None` for the name of anything else.
pub(crate) fn task_judged(name: &str) -> Option<&str> {
    let (task, rest) = name.rsplit_once(JUDGED)?;
    let number = rest.strip_prefix('-').map(str::parse::<u32>);
    (rest.is_empty() || matches!(number, Some(Ok(_)))).then_some(task)
}

/// What the judges of a task said about one of its stored answers, each member of the jury in its place.
///
/// # Errors
/// A failure of the store.
pub fn verdicts_on(store: &Store, run: &RunId, answer: &SampleRecord) -> Result<Vec<SampleRecord>, RunError> {
    let mut verdicts = Vec::new();
    if !answer.scores.iter().any(is_verdict) {
        return Ok(verdicts);
    }
    for member in 0.. {
        let key = SampleKey { task: step(&answer.key.task, member), ..answer.key.clone() };
        let Some(verdict) = store.sample(run, &key)? else { break };
        verdicts.push(verdict);
    }
    Ok(verdicts)
}

/// What there is to say about tasks whose judge nobody named.
pub(crate) fn unjudged(tasks: &[PlannedTask]) -> Option<String> {
    let open = |task: &&PlannedTask| task.definition().judge.is_some() && task.judge.is_none();
    let names: Vec<&str> = tasks.iter().filter(open).map(PlannedTask::name).collect();
    (!names.is_empty()).then(|| {
        format!(
            "{}: scored by rule only; `--judge REF` names the judge that the task asks for",
            names.join(", ")
        )
    })
}

/// The verdicts on several answers to one document, as one: the mean of those there are.
pub(crate) fn mean_verdicts(records: &[SampleRecord]) -> Vec<Score> {
    let mut found: Vec<(Score, Vec<f64>)> = Vec::new();
    for score in records.iter().flat_map(|record| &record.scores).filter(|score| is_verdict(score)) {
        match found.iter_mut().find(|(first, _)| first.metric == score.metric) {
            Some((_, values)) => values.extend(score.value),
            None => found.push((score.clone(), score.value.into_iter().collect())),
        }
    }
    let mean = |(mut score, values): (Score, Vec<f64>)| {
        if !values.is_empty() {
            score.outcome = Outcome::Unscored;
            score.value = Some(values.iter().sum::<f64>() / values.len() as f64);
        }
        score
    };
    found.into_iter().map(mean).collect()
}

impl Draft {
    /// Whether a task asks for a judge.
    #[must_use]
    pub fn wants_judge(&self) -> bool {
        self.tasks.iter().any(|task| task.definition().judge.is_some())
    }

    /// With which parameters the judge of its tasks will be asked.
    ///
    /// # Errors
    /// A rubric that is not there or cannot be read.
    pub fn verdicts(&self) -> Result<Vec<GenerateParams>, RunError> {
        let mut found = Vec::new();
        for judge in self.tasks.iter().filter_map(|task| task.definition().judge.as_ref()) {
            let options = options(judge, self.request.seed);
            let rubric = Rubric::find(&judge.rubric, &self.request.include_path)?;
            found.push(options.params(rubric.pointwise_format(options.explanation_tokens)));
        }
        Ok(found)
    }

    /// The draft with these judges for all tasks that ask for one; their protocols say so.
    ///
    /// # Errors
    /// A rubric or template that cannot be read, a model that cannot judge.
    pub fn judged_by(mut self, models: &[Arc<dyn Model>]) -> Result<Self, RunError> {
        for task in self.tasks.iter_mut().filter(|task| task.spec.variant.is_none()) {
            task.judge = TaskJudge::new(&task.definition, models, &self.request)?;
            if let Some(judge) = &task.judge {
                let protocol =
                    Digest::of_json(&json!({ "answers": task.spec.protocol, "judged": judge.identity() }));
                task.spec = TaskSpec { protocol, ..task.spec.clone() };
            }
        }
        Ok(self)
    }
}

impl ActiveRun {
    /// Has every answer judged whose task asks for it, and keeps what was said beside the answer's own scores.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub(crate) async fn judge(
        &mut self,
        plan: &Plan,
        mut end: RunEnd,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunEnd, RunError> {
        let judged = || plan.tasks.iter().filter_map(|task| Some((task, task.judge.as_ref()?)));
        if judged().next().is_none() {
            return Ok(end);
        }
        self.look_again()?;
        for (task, judge) in judged() {
            let answers = self.steps().answered(task.name())?;
            for (member, asked) in judge.members() {
                let score = |_: &PlannedSample, output: Option<&Output>| judge.scores(asked, output);
                let questions = judge.questions((member, asked), task, &answers);
                let how = (plan.total_samples(), score);
                let price = self.replace_price(judge.price_of(member));
                let judged = self.drive_questions(questions, how, &**asked.model(), (progress, cancel)).await;
                self.set_price(price);
                end.status = judged?;
                if end.status != RunStatus::Completed {
                    return Ok(end);
                }
            }
            let said = said(&self.steps(), task.name(), judge)?;
            self.keep(with_verdicts(&answers, judge, &said))?;
            let report = judge.report(&plan.spec.model.reference, &answers, &said);
            end.judging.insert(task.name().to_owned(), report);
        }
        self.mark_complete()?;
        Ok(end)
    }
}

/// What is stored of each member's verdicts on the answers to a task.
fn said(steps: &Steps, task: &str, judge: &TaskJudge) -> Result<Vec<Stored>, RunError> {
    let member = |(member, _): (u32, &Judge)| stored(steps, &step(task, member));
    judge.members().map(member).collect()
}

/// The answers whose scores change when verdicts join them. An answer that could not be judged has a score that says
/// so.
fn with_verdicts(
    answers: &[SampleRecord],
    judge: &TaskJudge,
    said: &[Stored],
) -> Vec<(SampleKey, Vec<Score>)> {
    let of_member = |((_, asked), said): ((u32, &Judge), &Stored)| {
        let scores = |record: &SampleRecord| match said.get(&(record.key.doc, record.key.repeat)) {
            Some(verdict) => verdict.scores.clone(),
            None => judge.scores(asked, None),
        };
        answers.iter().map(scores).collect::<Vec<_>>()
    };
    let verdicts = judge.joined(&judge.members().zip(said).map(of_member).collect::<Vec<_>>());
    let joined = |(record, verdict): (&SampleRecord, Vec<Score>)| {
        let rules = record.scores.iter().filter(|score| !is_verdict(score)).cloned();
        let scores: Vec<Score> = rules.chain(verdict).collect();
        (scores != record.scores).then(|| (record.key.clone(), scores))
    };
    answers.iter().zip(verdicts).filter_map(joined).collect()
}
