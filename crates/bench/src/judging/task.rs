//! Judges of tasks: what `judge` in a task file asks for. Verdicts on a task's answers are samples of the same run under
//! a name of their own, so that none is asked for twice; when all are there, each stands beside the scores of the answer
//! it is about, and is counted, compared and shown like them.

use std::collections::BTreeMap;
use std::sync::Arc;

use evalign_core::{
    Digest, GenerateParams, Outcome, Output, RunStatus, SampleKey, SampleRecord, Score, TaskSpec,
};
use evalign_judge::{Judge, JudgeOptions, Material, Prompts, Rubric};
use evalign_model::Model;
use serde_json::{Value, json};

use super::file::{definition, pointwise_scores};
use crate::document::Reader;
use crate::plan::Draft;
use crate::runner::{ActiveRun, Asking, Cancel, Phase, Progress};
use crate::task::TaskDefinition;
use crate::template::Templates;
use crate::{BenchError, Plan, PlannedTask, RunEnd, RunError, RunRequest};

/// What the name of the verdicts on a task's answers ends in.
pub(crate) const JUDGED: &str = "/judge";
/// Where other scores have the name of an extraction filter.
pub(super) const FILTER: &str = "judge";

/// Whether a score is a judge's.
pub(crate) fn is_verdict(score: &Score) -> bool {
    score.filter == FILTER
}

/// The judge of one task.
#[derive(Debug)]
pub(crate) struct TaskJudge {
    judge: Judge,
    templates: Templates,
    definition: crate::task::JudgeDefinition,
    /// Renders what was asked, where the definition does not say it in other words.
    reader: Reader,
}

impl TaskJudge {
    fn new(
        task: &TaskDefinition,
        model: Arc<dyn Model>,
        request: &RunRequest,
    ) -> Result<Option<Self>, RunError> {
        let Some(definition) = task.judge.clone() else { return Ok(None) };
        let rubric = Rubric::find(&definition.rubric, &request.include_path)?;
        let prompts = Arc::new(Prompts::load(&request.include_path)?);
        let options = JudgeOptions { seed: request.seed, ..JudgeOptions::default() };
        let judge = Judge::new(model, rubric, prompts, options)?;
        let mut templates = Templates::new();
        for (field, source) in fields(&definition) {
            templates.add(field, source).map_err(|message| BenchError::Definition {
                task: task.name.clone(),
                field: format!("judge.{field}"),
                message,
            })?;
        }
        Ok(Some(Self { judge, templates, definition, reader: Reader::new(task)? }))
    }

    /// What of it decides verdicts.
    fn identity(&self) -> Value {
        json!({ "asked": self.definition, "judge": definition(&self.judge) })
    }

    /// One question about each answer there is.
    fn askings(&self, task: &PlannedTask, answers: &[SampleRecord]) -> Result<Vec<Asking>, RunError> {
        let asking = |record: &SampleRecord| match &record.output {
            Some(Output::Text { text, .. }) => Some(self.asking(task, record, text)),
            Some(Output::LogLikelihood { .. } | Output::Perplexity { .. }) | None => None,
        };
        answers.iter().filter_map(asking).collect()
    }

    fn asking(&self, task: &PlannedTask, record: &SampleRecord, answer: &str) -> Result<Asking, RunError> {
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
        let key = SampleKey { task: step(task.name()), ..record.key.clone() };
        Ok(Asking {
            request: self.judge.pointwise_request(key, &material, answer)?,
            doc: json!({ "prompt": question, "answer": answer }),
            target: String::new(),
        })
    }

    /// A verdict's scores as shares of the rubric's scale: 0 its lowest level, 1 its highest.
    fn scores(&self, output: Option<&Output>) -> Vec<Score> {
        let scale = self.judge.rubric().scale;
        let (low, high) = (f64::from(scale.lowest), f64::from(scale.highest));
        let mut scores = pointwise_scores(&self.judge, output);
        for score in &mut scores {
            FILTER.clone_into(&mut score.filter);
            score.value = score.value.map(|value| (value - low) / (high - low));
        }
        scores
    }
}

const QUESTION: &str = "question";
const REFERENCE: &str = "reference";
const CONTEXT: &str = "context";

/// The templates that a definition has, by field.
fn fields(definition: &crate::task::JudgeDefinition) -> impl Iterator<Item = (&'static str, &str)> {
    [(QUESTION, &definition.question), (REFERENCE, &definition.reference), (CONTEXT, &definition.context)]
        .into_iter()
        .filter_map(|(field, source)| Some((field, source.as_deref()?)))
}

fn step(task: &str) -> String {
    format!("{task}{JUDGED}")
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
        let options = JudgeOptions { seed: self.request.seed, ..JudgeOptions::default() };
        let mut found = Vec::new();
        for judge in self.tasks.iter().filter_map(|task| task.definition().judge.as_ref()) {
            let rubric = Rubric::find(&judge.rubric, &self.request.include_path)?;
            found.push(options.params(rubric.pointwise_format(options.explanation_tokens)));
        }
        Ok(found)
    }

    /// The draft with this judge for all tasks that ask for one; their protocols say so.
    ///
    /// # Errors
    /// A rubric or template that cannot be read, a model that cannot judge.
    pub fn judged_by(mut self, model: &Arc<dyn Model>) -> Result<Self, RunError> {
        for task in self.tasks.iter_mut().filter(|task| task.spec.variant.is_none()) {
            task.judge = TaskJudge::new(&task.definition, model.clone(), &self.request)?;
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
            let score = |_: &crate::PlannedSample, output: Option<&Output>| judge.scores(output);
            let phase = Phase::new(judge.askings(task, &answers)?, plan.total_samples(), score);
            let price = self.take_price();
            let judged = self.drive_phase(&phase, &**judge.judge.model(), progress, cancel).await;
            self.set_price(price);
            end.status = judged?;
            if end.status != RunStatus::Completed {
                return Ok(end);
            }
            let verdicts = self.steps().answered(&step(task.name()))?;
            self.keep(with_verdicts(&answers, verdicts, &judge.scores(None)))?;
        }
        self.mark_complete()?;
        Ok(end)
    }
}

/// The answers whose scores change when verdicts join them. An answer that could not be judged has `none`.
fn with_verdicts(
    answers: &[SampleRecord],
    verdicts: Vec<SampleRecord>,
    none: &[Score],
) -> Vec<(SampleKey, Vec<Score>)> {
    let mut said: BTreeMap<(u64, u32), Vec<Score>> =
        verdicts.into_iter().map(|record| ((record.key.doc, record.key.repeat), record.scores)).collect();
    let mut joined = |record: &SampleRecord| {
        let rules = record.scores.iter().filter(|score| !is_verdict(score)).cloned();
        let verdict = said.remove(&(record.key.doc, record.key.repeat));
        let scores: Vec<Score> = rules.chain(verdict.unwrap_or_else(|| none.to_vec())).collect();
        (scores != record.scores).then(|| (record.key.clone(), scores))
    };
    answers.iter().filter_map(&mut joined).collect()
}
