//! Ratings of an arena: a function of what is stored, so that votes count without a model.

use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{FinishReason, Output, RunId, SampleRecord};
use evalign_judge::{
    Aggregation, ArenaBattle, ArenaReport, JuryAgreement, Preference, Unscored, jury_preferences,
    preference_agreement,
};
use evalign_store::Store;
use serde::Deserialize as _;

use super::arena::{ANSWER, ArenaOutcome, ArenaRequest, verdict_step};
use super::file::{Stored, stored};
use super::votes::{Votes, pair_number};
use crate::RunError;
use crate::pairing::{Verdicts, read_comparison};
use crate::runner::{Said, Steps};

/// Two answers to one prompt.
pub(super) struct Meeting<'a> {
    pub(super) doc: u64,
    /// The number of the two competitors among all pairs of them.
    pub(super) number: u32,
    pub(super) sides: (usize, usize),
    pub(super) texts: [&'a str; 2],
}

impl Meeting<'_> {
    /// Two equal answers are equally good: nobody has to be asked.
    pub(super) fn is_even(&self) -> bool {
        self.texts[0] == self.texts[1]
    }
}

/// Every two of so many competitors that answered, prompt by prompt.
pub(super) fn meetings(answers: &Answers, competitors: usize) -> Vec<Meeting<'_>> {
    let mut meetings = Vec::new();
    for doc in answers.docs() {
        for a in 0..competitors {
            for b in a + 1..competitors {
                let both = (answers.of_competitor(doc, a), answers.of_competitor(doc, b));
                let (Some(first), Some(second)) = both else { continue };
                let number = pair_number(competitors, a, b);
                meetings.push(Meeting { doc, number, sides: (a, b), texts: [first, second] });
            }
        }
    }
    meetings
}

/// What is stored of an arena: who answered what, and what was said about it.
pub(super) struct Fought {
    answers: Answers,
    competitors: usize,
    /// By judge, meeting by meeting.
    said: Vec<Vec<Preference>>,
    /// What people said, by prompt and pair, as points of the first competitor.
    votes: BTreeMap<(u64, u32), Vec<f64>>,
}

impl Fought {
    pub(super) fn read(store: &Store, steps: &Steps, request: &ArenaRequest) -> Result<Self, RunError> {
        let answers = Answers::stored(steps)?;
        let competitors = request.competitors.len();
        let mut said = Vec::new();
        for judge in 0..request.judges.len() {
            let verdicts = stored(steps, &verdict_step(judge))?;
            let meetings = meetings(&answers, competitors);
            said.push(meetings.iter().map(|meeting| preference(&verdicts, meeting)).collect());
        }
        let votes = Votes::cast(store, &steps.run)?;
        Ok(Self { answers, competitors, said, votes })
    }

    pub(super) fn meetings(&self) -> Vec<Meeting<'_>> {
        meetings(&self.answers, self.competitors)
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers.0.len() as u64
    }

    pub(super) fn votes(&self) -> u64 {
        self.votes.values().map(Vec::len).sum::<usize>() as u64
    }

    /// Of several judges.
    pub(super) fn agreement(&self) -> Option<JuryAgreement> {
        (self.said.len() > 1).then(|| preference_agreement(&self.said))
    }

    /// Judges and people on one scale: what the judges come to is one battle, and every vote is one.
    pub(super) fn report(&self, request: &ArenaRequest, how: Aggregation) -> ArenaReport {
        let meetings = self.meetings();
        let verdicts = match self.said.as_slice() {
            [] => meetings.iter().map(|meeting| preference(&Stored::new(), meeting)).collect(),
            said => jury_preferences(said, how),
        };
        let mut battles = Vec::new();
        let mut unscored: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (meeting, verdict) in meetings.iter().zip(&verdicts) {
            let votes = self.votes.get(&(meeting.doc, meeting.number)).into_iter().flatten().copied();
            let before = battles.len();
            for points in verdict.points_a().into_iter().chain(votes) {
                battles.push(ArenaBattle::new(meeting.doc, meeting.sides, points, meeting.texts));
            }
            if battles.len() == before {
                *unscored.entry(meeting.sides).or_default() += 1;
            }
        }
        ArenaReport::of(&request.names(), &battles, &unscored, request.run.seed)
    }
}

/// The stored verdict on two answers: a side wins where it wins in both orders.
fn preference(verdicts: &Stored, meeting: &Meeting<'_>) -> Preference {
    if meeting.is_even() {
        return Preference::Tie;
    }
    let both = verdicts_on(verdicts, meeting);
    match both {
        _ if both.a_wins() => Preference::A,
        _ if both.b_wins() => Preference::B,
        _ if both.is_decided() => Preference::Tie,
        _ => Preference::Unscored { reason: Unscored::Failed("no verdict in both orders".to_owned()) },
    }
}

/// What a judge said about two answers in both orders.
pub(super) fn verdicts_on(verdicts: &Stored, meeting: &Meeting<'_>) -> Verdicts {
    let scores = |number| verdicts.get(&(meeting.doc, number)).map(|said| said.scores.as_slice());
    read_comparison(scores, meeting.number)
}

/// The kept report of an arena with all votes that there are now. `None` where none is kept: one that is not finished
/// counts them at its end.
pub(super) fn rated_again(store: &Store, arena: &RunId) -> Result<Option<ArenaOutcome>, RunError> {
    let stored = store.run(arena)?;
    let Some(kept) = stored.results else { return Ok(None) };
    let malformed = |error: serde_json::Error| RunError::malformed(arena, error);
    let request: ArenaRequest = serde_json::from_value(stored.request).map_err(malformed)?;
    let kept: ArenaOutcome = serde_json::from_value(kept).map_err(malformed)?;
    let fought = Fought::read(store, &Steps::of(store, arena), &request)?;
    let how = aggregation(&kept, &request)?;
    let report = fought.report(&request, how);
    Ok(Some(ArenaOutcome { report, votes: fought.votes(), aggregation: Some(how), ..kept }))
}

/// How the verdicts of a kept outcome became one: as it says, or, where it was kept before it said so, as was asked.
pub(super) fn aggregation(kept: &ArenaOutcome, request: &ArenaRequest) -> Result<Aggregation, RunError> {
    match kept.aggregation {
        Some(how) => Ok(how),
        None => Aggregation::deserialize(&request.asked["aggregate"])
            .map_err(|error| RunError::malformed("how judges are asked", error)),
    }
}

/// The competitors' answers by prompt and competitor.
pub(super) struct Answers(BTreeMap<(u64, u32), String>);

impl Answers {
    pub(super) fn of(records: &[SampleRecord]) -> Self {
        let answered = |record: &SampleRecord| {
            Some(((record.key.doc, record.key.repeat), finished(record.output.clone())?))
        };
        Self(records.iter().filter_map(answered).collect())
    }

    pub(super) fn stored(steps: &Steps) -> Result<Self, RunError> {
        let mut found = BTreeMap::new();
        for said in steps.said(ANSWER)? {
            let Said { key, output, .. } = said?;
            found.extend(finished(output).map(|text| ((key.doc, key.repeat), text)));
        }
        Ok(Self(found))
    }

    pub(super) fn of_competitor(&self, doc: u64, competitor: usize) -> Option<&str> {
        let competitor = u32::try_from(competitor).ok()?;
        self.0.get(&(doc, competitor)).map(String::as_str)
    }

    pub(super) fn docs(&self) -> impl Iterator<Item = u64> {
        let docs: BTreeSet<u64> = self.0.keys().map(|(doc, _)| *doc).collect();
        docs.into_iter()
    }
}

/// A text that was finished; one that was cut off at its limit counts, one that was withheld does not.
fn finished(output: Option<Output>) -> Option<String> {
    match output? {
        Output::Text { text, finish: FinishReason::Stop | FinishReason::Length, .. } => Some(text),
        _ => None,
    }
}
