use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use evalign_core::{
    Digest, FinishReason, GenerateParams, Outcome, Output, Prompt, Request, RequestKind, RunId, RunStatus,
    SampleKey, SampleRecord, Score, Usage,
};
use evalign_store::{NewRun, Store, StoreError, StoredRun};
use futures::executor::block_on;
use serde::Deserialize;
use serde_json::{Value, json};

use super::arena::{ANSWER, ArenaRequest};
use super::ratings::{Answers, meetings, rated_again};
use crate::pairing::phase_spec;
use crate::planned::prompt_hash;
use crate::runner::{ActiveRun, Steps};
use crate::{BenchError, RunError};

/// The step that holds people's verdicts.
const VOTE: &str = "arena/vote";

/// How long whoever has voted waits for others who count theirs, each in a moment.
const COUNTED_WITHIN: Duration = Duration::from_secs(10);

const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a person says about the two answers shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
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
    /// Who wrote the answers, in the order shown.
    names: [String; 2],
}

impl VoteQuestion {
    /// Its name among the questions of one arena: `PROMPT-PAIR`.
    #[must_use]
    pub fn id(&self) -> String {
        format!("{}-{}", self.key.doc, self.key.repeat)
    }
}

/// What one person was asked about an arena: to be looked at, without taking part.
#[derive(Clone, Debug, PartialEq)]
pub struct Ballot {
    pub arena: RunId,
    /// Not voted on yet, in the order of this person.
    pub open: Vec<VoteQuestion>,
    cast: Vec<(VoteQuestion, Vote)>,
}

impl Ballot {
    /// # Errors
    /// As [`Votes::open`], but for leases, of which none is taken.
    pub fn of(store: &Store, arena: &RunId, voter: &str) -> Result<Self, RunError> {
        let asked = Asked::of(store, arena, voter)?;
        let digest = asked.new.spec.digest();
        let runs = store.runs_asked_for("arena", asked.arena.as_str())?;
        let run = runs.into_iter().find(|run| !run.fork && run.spec_digest == digest);
        let mut votes = BTreeMap::new();
        if let Some(run) = run {
            for record in Steps::of(store, &run.id).answered(VOTE)? {
                let points = record.scores.first().and_then(|score| score.value);
                votes.insert(record.key, points);
            }
        }
        let (mut open, mut cast) = (Vec::new(), Vec::new());
        for question in asked.questions {
            match votes.get(&question.key) {
                None => open.push(question),
                Some(points) => {
                    let vote = match (*points, question.swapped) {
                        (Some(1.0), false) | (Some(0.0), true) => Vote::First,
                        (Some(0.0), false) | (Some(1.0), true) => Vote::Second,
                        _ => Vote::Tie,
                    };
                    cast.push((question, vote));
                }
            }
        }
        Ok(Self { arena: asked.arena, open, cast })
    }

    /// Questions in all.
    #[must_use]
    pub fn total(&self) -> usize {
        self.open.len() + self.cast.len()
    }

    /// A question that was voted on, the vote, and who wrote the first and the second answer: names are told to those
    /// only who have voted.
    #[must_use]
    pub fn cast(&self, id: &str) -> Option<(&VoteQuestion, Vote, &[String; 2])> {
        let (question, vote) = self.cast.iter().find(|(question, _)| question.id() == id)?;
        Some((question, *vote, &question.names))
    }
}

/// The questions of one person about one arena, and the run that keeps the votes.
struct Asked {
    arena: RunId,
    new: NewRun,
    questions: Vec<VoteQuestion>,
}

impl Asked {
    fn of(store: &Store, arena: &RunId, voter: &str) -> Result<Self, RunError> {
        let mut stored = store.run(arena)?;
        // Votes on votes are votes on what those were about.
        if let Some(voted_on) = voted_on(&stored) {
            stored = store.run(&voted_on)?;
        }
        let arena = stored.id.clone();
        let request: ArenaRequest = serde_json::from_value(stored.request.clone()).map_err(|_| {
            let message = format!("run {arena} is no arena");
            BenchError::request(
                message,
                "vote on a run of `evalign judge compare`; `evalign runs` lists them",
            )
        })?;
        if stored.status != RunStatus::Completed {
            let message = format!("run {arena} is not completed: more answers would be other questions");
            return Err(
                BenchError::request(message, "vote when it is; `evalign resume` goes on with it").into()
            );
        }
        let records = Steps::of(store, &arena).answered(ANSWER)?;
        let questions = questions(&records, &request.names(), voter);
        let definition = json!({ "arena": arena, "voter": voter });
        let dataset = Digest::of_json(&json!(stored.spec_digest));
        let count = questions.len() as u64;
        let mut spec = stored.spec.clone();
        spec.tasks = vec![phase_spec(VOTE, &definition, &dataset, (count, 1), None)];
        let request = json!({ "procedure": Votes::PROCEDURE, "arena": arena, "voter": voter });
        let new = NewRun { spec, request, samples_total: count, fork: false };
        Ok(Self { arena, new, questions })
    }
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
    /// A run that is no arena or is not completed; a failure of the store.
    pub fn open(store: &Store, arena: &RunId, voter: &str, owner: &str) -> Result<Self, RunError> {
        let Asked { arena, new, mut questions } = Asked::of(store, arena, voter)?;
        let run = ActiveRun::start_phases(&new, store, owner)?;
        let cast = store.finished(&run.id)?;
        questions.retain(|question| !cast.contains(&question.key));
        Ok(Self { arena, run, store: store.clone(), questions })
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

    /// Gives the run back, and counts its votes: the arena's kept ratings are those with all votes then, on the
    /// leaderboard too. `false` where they are not, because the arena goes on in another process; they count when it
    /// ends. Blocks while others count their votes.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn close(self, owner: &str) -> Result<bool, RunError> {
        if self.store.finished(&self.run.id)?.len() as u64 == self.store.run(&self.run.id)?.samples_total {
            self.run.complete(&Value::Null)?;
        }
        self.run.release()?;
        let (id, store) = (&self.arena, &self.store);
        let Some(arena) = free_arena(store, id, owner)? else { return Ok(false) };
        let outcome = rated_again(store, id)?;
        if let Some(outcome) = &outcome {
            arena.complete(&json!(outcome))?;
        }
        arena.release()?;
        Ok(outcome.is_some())
    }

    /// All votes on an arena by prompt and pair, as points of the first competitor: one of each person on each pair,
    /// the last one where an arena that was answered further asked again.
    ///
    /// # Errors
    /// A failure of the store.
    pub fn cast(store: &Store, arena: &RunId) -> Result<BTreeMap<(u64, u32), Vec<f64>>, RunError> {
        let mut by_voter = BTreeMap::new();
        // The newest run comes first.
        for run in store.runs_asked_for("arena", arena.as_str())? {
            let voter = run.request.get("voter").and_then(Value::as_str).unwrap_or_default();
            for record in Steps::of(store, &run.id).answered(VOTE)? {
                let Some(points) = record.scores.first().and_then(|score| score.value) else { continue };
                let pair = (record.key.doc, record.key.repeat);
                by_voter.entry((pair, voter.to_owned())).or_insert(points);
            }
        }
        let mut found: BTreeMap<(u64, u32), Vec<f64>> = BTreeMap::new();
        for ((pair, _), points) in by_voter {
            found.entry(pair).or_default().push(points);
        }
        Ok(found)
    }
}

/// The arena, once nobody has it; who had it may have read the votes before the last ones were there. `None` where it
/// goes on, or is held for long.
fn free_arena(store: &Store, arena: &RunId, owner: &str) -> Result<Option<ActiveRun>, RunError> {
    let until = Instant::now() + COUNTED_WITHIN;
    loop {
        match ActiveRun::resume(arena, store, owner) {
            Err(RunError::Store(StoreError::LeaseHeld { .. })) => {}
            arena => return arena.map(Some),
        }
        if Instant::now() >= until || store.run(arena)?.status != RunStatus::Completed {
            return Ok(None);
        }
        std::thread::sleep(LOOK_AGAIN);
    }
}

/// The arena that a run of votes is about.
fn voted_on(run: &StoredRun) -> Option<RunId> {
    let of_votes = run.request.get("procedure").and_then(Value::as_str) == Some(Votes::PROCEDURE);
    run.request.get("arena").and_then(Value::as_str).filter(|_| of_votes)?.parse().ok()
}

/// Pairs of different answers, shuffled by a hash of voter and pair.
fn questions(records: &[SampleRecord], names: &[String], voter: &str) -> Vec<VoteQuestion> {
    let competitors = names.len();
    let answers = Answers::of(records);
    let prompts: BTreeMap<u64, Option<&str>> = records
        .iter()
        .map(|record| (record.key.doc, record.doc.get("prompt").and_then(Value::as_str)))
        .collect();
    let mut questions = Vec::new();
    for meeting in meetings(&answers, competitors).into_iter().filter(|meeting| !meeting.is_even()) {
        let key = SampleKey { task: VOTE.to_owned(), doc: meeting.doc, repeat: meeting.number };
        let drawn = Digest::of(format!("vote {voter} {} {}", key.doc, key.repeat));
        let swapped = drawn.as_str().as_bytes().last().is_some_and(|digit| digit % 2 == 1);
        let ((a, b), [first, second]) = (meeting.sides, meeting.texts);
        let (first, second) = if swapped { (second, first) } else { (first, second) };
        let question = VoteQuestion {
            prompt: prompts.get(&key.doc).copied().flatten().unwrap_or_default().to_owned(),
            first: first.to_owned(),
            second: second.to_owned(),
            names: if swapped { [b, a] } else { [a, b] }.map(|side| names[side].clone()),
            key,
            swapped,
        };
        questions.push((drawn, question));
    }
    questions.sort_by(|a, b| a.0.cmp(&b.0));
    questions.into_iter().map(|(_, question)| question).collect()
}
