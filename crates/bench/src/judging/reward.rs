//! Reward models as judges of tasks: what one thinks of an answer stands beside the answer's other scores. Of several
//! answers to a document, those of the one it likes best count as `best_of_n`.

use std::sync::Arc;

use evalign_core::{Digest, Outcome, Output, Prompt, RunStatus, SampleKey, SampleRecord, Score, TaskSpec};
use evalign_model::{Model, RewardModel, Rewards};
use serde_json::json;

use super::task::{FILTER, is_verdict};
use crate::plan::Draft;
use crate::runner::{ActiveRun, Cancel, CancelLevel};
use crate::task::OutputKind;
use crate::{BenchError, Plan, PlannedTask, Progress, RunEnd, RunError};

const METRIC: &str = "reward";
const BEST_OF: &str = "best_of_n";
/// Answers that are looked at between two commits.
const TOGETHER: usize = 32;

/// A sample with all of its scores.
type Scored = (SampleKey, Vec<Score>);

/// A reward model that is there for a task.
pub(crate) struct TaskReward(Arc<dyn Model>);

impl std::fmt::Debug for TaskReward {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TaskReward").field(self.0.identity()).finish()
    }
}

impl Draft {
    /// The draft with this reward model for all tasks that ask for text; their protocols say so.
    ///
    /// # Errors
    /// The model has no reward head, or no task asks for text.
    pub fn rewarded_by(mut self, model: &Arc<dyn Model>) -> Result<Self, RunError> {
        let wrong = |message: &str| BenchError::Request {
            message: message.to_owned(),
            hint: Some(
                "reward models are what `evalign train reward` makes, and judge tasks that ask for text"
                    .to_owned(),
            ),
        };
        if model.reward_model().is_none() {
            return Err(wrong(&format!("`{}` has no reward head", model.identity().reference)).into());
        }
        let judged = |task: &&mut PlannedTask| {
            task.definition.output == OutputKind::GenerateUntil && task.spec.variant.is_none()
        };
        let mut any = false;
        for task in self.tasks.iter_mut().filter(judged) {
            let protocol =
                Digest::of_json(&json!({ "answers": task.spec.protocol, "rewarded": model.identity() }));
            task.spec = TaskSpec { protocol, ..task.spec.clone() };
            task.reward = Some(TaskReward(model.clone()));
            any = true;
        }
        if any { Ok(self) } else { Err(wrong("no task of the run asks for text").into()) }
    }
}

impl ActiveRun {
    /// Has a reward model look at every answer that it has not seen, and keeps what it says beside the answer's scores.
    ///
    /// # Errors
    /// As [`ActiveRun::drive`].
    pub(crate) fn reward(
        &mut self,
        plan: &Plan,
        mut end: RunEnd,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<RunEnd, RunError> {
        for (task, model) in plan.tasks.iter().filter_map(|task| Some((task, task.reward.as_ref()?))) {
            let Some(rewards) = model.0.reward_model() else { continue };
            let answers = self.steps().answered(task.name())?;
            let open: Vec<&SampleRecord> =
                answers.iter().filter(|record| reward_of(record).is_none()).collect();
            for records in open.chunks(TOGETHER) {
                self.mark(RunStatus::Running)?;
                if cancel.level() != CancelLevel::None {
                    self.mark(RunStatus::Cancelled)?;
                    end.status = RunStatus::Cancelled;
                    return Ok(end);
                }
                let (scores, tokens) = scored(task, rewards, records)?;
                self.keep(scores)?;
                progress.read(tokens);
            }
        }
        self.mark_complete()?;
        Ok(end)
    }
}

/// The samples' scores with a reward each, and how many tokens the model has read for them. What cannot be rewarded (no answer, longer than the context) is an error, not 0.
fn scored(
    task: &PlannedTask,
    model: &dyn RewardModel,
    records: &[&SampleRecord],
) -> Result<(Vec<Scored>, u64), RunError> {
    let mut asked: Vec<(Prompt, String)> = Vec::new();
    for record in records {
        if let Some(Output::Text { text, .. }) = &record.output {
            let sample = task.sample(record.key.doc.saturating_sub(task.docs().start), record.key.repeat)?;
            let prompt = sample.prompt().cloned().unwrap_or(Prompt::Text(String::new()));
            asked.push((prompt, text.clone()));
        }
    }
    let Rewards { values, tokens } = model.rewards(&asked)?;
    let mut rewards = values.into_iter();
    let with_reward = |record: &&SampleRecord| {
        let value = match &record.output {
            Some(Output::Text { .. }) => rewards.next().flatten(),
            Some(Output::LogLikelihood { .. } | Output::Perplexity { .. }) | None => None,
        };
        let outcome = if value.is_some() { Outcome::Unscored } else { Outcome::Error };
        let reward = Score {
            metric: METRIC.to_owned(),
            filter: FILTER.to_owned(),
            outcome,
            value,
            answer: None,
            weight: None,
            margin: None,
        };
        let rules = record.scores.iter().filter(|score| score.metric != METRIC).cloned();
        (record.key.clone(), rules.chain([reward]).collect())
    };
    Ok((records.iter().map(with_reward).collect(), tokens))
}

/// The reward that is kept with an answer; within, `None` where there could be none.
fn reward_of(record: &SampleRecord) -> Option<Option<f64>> {
    let reward = record.scores.iter().find(|score| score.metric == METRIC && is_verdict(score));
    reward.map(|score| score.value)
}

/// The scores of the answer with the highest reward (of equal ones, of the first), where there are rewards.
pub(crate) fn best_of(records: &[SampleRecord]) -> Vec<Score> {
    let rewarded = records.iter().filter_map(|record| Some((record, reward_of(record)??)));
    let best = rewarded.reduce(|best, next| if next.1 > best.1 { next } else { best });
    let Some((record, _)) = best else { return Vec::new() };
    let mut seen: Vec<&str> = Vec::new();
    let mut scores = Vec::new();
    for score in record.scores.iter().filter(|score| !is_verdict(score)) {
        // An answer may have been read in several ways; the first is the one that does not vote.
        if !seen.contains(&score.metric.as_str()) {
            seen.push(&score.metric);
            scores.push(Score { filter: BEST_OF.to_owned(), ..score.clone() });
        }
    }
    scores
}
