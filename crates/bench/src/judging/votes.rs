use std::collections::BTreeMap;

use evalign_core::{
    Digest, FinishReason, GenerateParams, Outcome, Output, Prompt, Request, RequestKind, RunId, SampleKey,
    SampleRecord, Score, Usage,
};
use evalign_store::{NewRun, Store, StoredRun};
use futures::executor::block_on;
use serde_json::{Value, json};

use super::arena::{ANSWER, Answers, ArenaRequest};
use crate::pairing::phase_spec;
use crate::planned::prompt_hash;
use crate::runner::{ActiveRun, Steps};
use crate::{BenchError, RunError};

/// The step that holds people's verdicts.
const VOTE: &str = "arena/vote";

/// What a person says about the two answers shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    First,
    Second,
    Tie,
}

/// Two answers without their names, in an order that is drawn for every person and pair.
#[derive(Clone, Debug, PartialEq)]
pub struct VoteQuestion {
    pub prompt: String,
    pub first: String,
    pub second: String,
    key: SampleKey,
    swapped: bool,
}

/// One person's votes on the answers of an arena. They are a run of their own, so that they survive and are
/// exported like any other, and join the arena's ratings.
#[derive(Debug)]
pub struct Votes {
    arena: RunId,
    run: ActiveRun,
    store: Store,
    questions: Vec<VoteQuestion>,
}

/// The number of a pair of competitors, a < b, among all pairs.
pub(super) fn pair_number(count: usize, a: usize, b: usize) -> u32 {
    let before: usize = (0..a).map(|first| count - 1 - first).sum();
    u32::try_from(before + b - a - 1).unwrap_or(u32::MAX)
}

impl Votes {
    /// What [`NewRun::request`] of a run of votes says it is.
    pub const PROCEDURE: &'static str = "votes";

    /// The questions that this person has not answered yet, in an order of their own.
    ///
    /// # Errors
    /// A run that is no arena or has no answers yet; a failure of the store.
    pub fn open(store: &Store, arena: &RunId, voter: &str, owner: &str) -> Result<Self, RunError> {
        let mut stored = store.run(arena)?;
        // Votes on votes are votes on what those were about.
        if let Some(voted_on) = voted_on(&stored) {
            stored = store.run(&voted_on)?;
        }
        let arena = &stored.id.clone();
        let request: ArenaRequest = serde_json::from_value(stored.request.clone()).map_err(|_| {
            let message = format!("run {arena} is no arena");
            BenchError::request(
                message,
                "vote on a run of `evalign judge compare`; `evalign runs` lists them",
            )
        })?;
        let records = Steps::of(store, arena).answered(ANSWER)?;
        let mut questions = questions(&records, request.competitors.len(), voter);
        let definition = json!({ "arena": arena, "voter": voter });
        let dataset = Digest::of_json(&json!(stored.spec_digest));
        let count = questions.len() as u64;
        let mut spec = stored.spec.clone();
        spec.tasks = vec![phase_spec(VOTE, &definition, &dataset, (count, 1), None)];
        let request = json!({ "procedure": Self::PROCEDURE, "arena": arena, "voter": voter });
        let new = NewRun { spec, request, samples_total: count, fork: false };
        let run = ActiveRun::start_phases(&new, store, owner)?;
        let cast = store.finished(&run.id)?;
        questions.retain(|question| !cast.contains(&question.key));
        Ok(Self { arena: arena.clone(), run, store: store.clone(), questions })
    }

    #[must_use]
    pub fn run(&self) -> &RunId {
        &self.run.id
    }

    /// What is voted on.
    #[must_use]
    pub fn arena(&self) -> &RunId {
        &self.arena
    }

    /// What is still to be voted on.
    #[must_use]
    pub fn questions(&self) -> &[VoteQuestion] {
        &self.questions
    }

    /// Stores a vote; it is on disk when this returns.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn cast_one(&self, question: &VoteQuestion, vote: Vote) -> Result<(), RunError> {
        let (label, points) = match (vote, question.swapped) {
            (Vote::First, false) | (Vote::Second, true) => ("A", 1.0),
            (Vote::First, true) | (Vote::Second, false) => ("B", 0.0),
            (Vote::Tie, _) => ("tie", 0.5),
        };
        let shown = format!("{}\n\n[1]\n{}\n\n[2]\n{}", question.prompt, question.first, question.second);
        let kind = RequestKind::Generate { prompt: Prompt::Text(shown), params: GenerateParams::default() };
        let doc = json!({ "prompt": question.prompt, "swapped": question.swapped });
        let record = SampleRecord {
            key: question.key.clone(),
            doc_hash: Digest::of_json(&doc),
            doc,
            prompt_hash: prompt_hash(&kind),
            request: Request { key: question.key.clone(), kind },
            target: String::new(),
            target_hash: Digest::of(""),
            output: Some(Output::Text {
                text: label.to_owned(),
                finish: FinishReason::Stop,
                logprobs: None,
                reasoning: None,
            }),
            error: None,
            scores: vec![Score {
                metric: "vote".to_owned(),
                filter: "none".to_owned(),
                outcome: Outcome::Unscored,
                value: Some(points),
                answer: Some(label.to_owned()),
                weight: None,
                margin: None,
            }],
            usage: Usage::default(),
            truncated_tokens: 0,
            latency: None,
            requests: 0,
            cost_usd: None,
        };
        self.store.renew(self.run.lease(), crate::runner::LEASE_TTL)?;
        Ok(block_on(self.store.commit_sample(self.run.lease(), &record))?)
    }

    /// Gives the run back.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn close(self) -> Result<(), RunError> {
        if self.store.finished(&self.run.id)?.len() as u64 == self.store.run(&self.run.id)?.samples_total {
            self.run.complete(&Value::Null)?;
        }
        self.run.release()
    }

    /// All votes on an arena by prompt and pair, as points of the first competitor.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn cast(store: &Store, arena: &RunId) -> Result<BTreeMap<(u64, u32), Vec<f64>>, RunError> {
        let mut found: BTreeMap<(u64, u32), Vec<f64>> = BTreeMap::new();
        for run in store.runs(u32::MAX)? {
            if voted_on(&run).as_ref() != Some(arena) {
                continue;
            }
            for record in Steps::of(store, &run.id).answered(VOTE)? {
                let points = record.scores.first().and_then(|score| score.value);
                found.entry((record.key.doc, record.key.repeat)).or_default().extend(points);
            }
        }
        Ok(found)
    }
}

/// The arena that a run of votes is about.
fn voted_on(run: &StoredRun) -> Option<RunId> {
    let of_votes = run.request.get("procedure").and_then(Value::as_str) == Some(Votes::PROCEDURE);
    run.request.get("arena").and_then(Value::as_str).filter(|_| of_votes)?.parse().ok()
}

/// Pairs of different answers, shuffled by a hash of voter and pair.
fn questions(records: &[SampleRecord], competitors: usize, voter: &str) -> Vec<VoteQuestion> {
    let answers = Answers::of(records);
    let prompts: BTreeMap<u64, Option<&str>> = records
        .iter()
        .map(|record| (record.key.doc, record.doc.get("prompt").and_then(Value::as_str)))
        .collect();
    let mut questions = Vec::new();
    for doc in answers.docs() {
        let prompt = prompts.get(&doc).copied().flatten();
        for a in 0..competitors {
            for b in a + 1..competitors {
                let both = (answers.of_competitor(doc, a), answers.of_competitor(doc, b));
                let (Some(first), Some(second)) = both else { continue };
                if first == second {
                    continue;
                }
                let key = SampleKey { task: VOTE.to_owned(), doc, repeat: pair_number(competitors, a, b) };
                let drawn = Digest::of(format!("vote {voter} {doc} {}", key.repeat));
                let swapped = drawn.as_str().as_bytes().last().is_some_and(|digit| digit % 2 == 1);
                let (first, second) = if swapped { (second, first) } else { (first, second) };
                let question = VoteQuestion {
                    prompt: prompt.unwrap_or_default().to_owned(),
                    first: first.to_owned(),
                    second: second.to_owned(),
                    key,
                    swapped,
                };
                questions.push((drawn, question));
            }
        }
    }
    questions.sort_by(|a, b| a.0.cmp(&b.0));
    questions.into_iter().map(|(_, question)| question).collect()
}
