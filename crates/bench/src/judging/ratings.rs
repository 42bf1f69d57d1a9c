//! Ratings of an arena: a function of what is stored, so that votes count without a model.

use std::collections::{BTreeMap, BTreeSet};

use evalign_core::{FinishReason, Output, RunId, SampleRecord};
use evalign_judge::{
    Aggregation, ArenaBattle, ArenaReport, BiasReport, BiasTally, JudgedAnswer, JudgedPair, JuryAgreement,
    Preference, Unscored, family_of, jury_preferences, preference_agreement,
};
use evalign_store::Store;
use serde::Deserialize as _;

use super::arena::{ANSWER, ArenaOutcome, ArenaRequest, verdict_step};
use super::votes::{Votes, pair_number};
use crate::RunError;
use crate::pairing::{Verdicts, read_comparison};
use crate::runner::Steps;

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

/// Two answers that were given, without their texts.
struct Met {
    number: u32,
    /// Both said the same.
    even: bool,
    /// Without points.
    battle: ArenaBattle,
}

/// What is stored of an arena: who met whom, and what was said about it. Read prompt by prompt: of texts and verdicts only
/// what ratings and reports go by is kept, which is a few numbers.
pub(super) struct Fought {
    met: Vec<Met>,
    answers: u64,
    /// By judge, meeting by meeting.
    said: Vec<Vec<Preference>>,
    /// By judge.
    biases: Vec<BiasTally>,
    /// What people said, by prompt and pair, as points of the first competitor.
    votes: BTreeMap<(u64, u32), Vec<f64>>,
}

impl Fought {
    pub(super) fn read(store: &Store, steps: &Steps, request: &ArenaRequest) -> Result<Self, RunError> {
        let competitors = request.competitors.len();
        let families: Vec<String> = request.competitors.iter().map(family_of).collect();
        let mut fought = Self {
            met: Vec::new(),
            answers: 0,
            said: vec![Vec::new(); request.judges.len()],
            biases: request.judges.iter().map(|judge| BiasTally::new(Some(&family_of(judge)))).collect(),
            votes: Votes::cast(store, &steps.run)?,
        };
        let mut verdicts = Vec::new();
        for judge in 0..request.judges.len() {
            verdicts.push(steps.by_document(&verdict_step(judge))?);
        }
        for answered in steps.by_document(ANSWER)? {
            let (doc, records) = answered?;
            let answers = Answers::of(&records);
            fought.answers += answers.0.len() as u64;
            let meetings = meetings(&answers, competitors);
            for (judge, verdicts) in verdicts.iter_mut().enumerate() {
                let records = verdicts.of(doc)?;
                for meeting in &meetings {
                    let said = verdicts_on(&records, meeting);
                    fought.said[judge].push(preference(&said, meeting));
                    fought.weigh(judge, &families, meeting, &said);
                }
            }
            fought.met.extend(meetings.iter().map(|meeting| Met {
                number: meeting.number,
                even: meeting.is_even(),
                battle: ArenaBattle::new(doc, meeting.sides, 0.5, meeting.texts),
            }));
        }
        Ok(fought)
    }

    /// Adds what a judge said to what is known of it. Answers that are the same were not shown to it.
    fn weigh(&mut self, judge: usize, families: &[String], meeting: &Meeting<'_>, said: &Verdicts) {
        if meeting.is_even() {
            return;
        }
        let answer =
            |side: usize, text| JudgedAnswer { text, family: families.get(side).map(String::as_str) };
        self.biases[judge].add(&JudgedPair {
            comparison: &said.comparison(),
            // Those of one prompt share answers.
            group: usize::try_from(meeting.doc).unwrap_or(usize::MAX),
            a: answer(meeting.sides.0, meeting.texts[0]),
            b: answer(meeting.sides.1, meeting.texts[1]),
            people: None,
        });
    }

    /// By judge, what moves it besides the answers.
    pub(super) fn biases(&self) -> impl Iterator<Item = BiasReport> {
        self.biases.iter().map(BiasTally::report)
    }

    pub(super) fn answers(&self) -> u64 {
        self.answers
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
        let verdicts = match self.said.as_slice() {
            // Nobody judges but people; equal answers are equally good all the same.
            [] => self.met.iter().map(|met| met.even.then_some(0.5)).collect(),
            said => jury_preferences(said, how).iter().map(Preference::points_a).collect::<Vec<_>>(),
        };
        let mut battles = Vec::new();
        let mut unscored: BTreeMap<(usize, usize), u64> = BTreeMap::new();
        for (met, verdict) in self.met.iter().zip(verdicts) {
            let votes = self.votes.get(&(met.battle.prompt, met.number)).into_iter().flatten().copied();
            let before = battles.len();
            for points_a in verdict.into_iter().chain(votes) {
                battles.push(ArenaBattle { points_a, ..met.battle.clone() });
            }
            if battles.len() == before {
                *unscored.entry((met.battle.a, met.battle.b)).or_default() += 1;
            }
        }
        ArenaReport::of(&request.names(), &battles, &unscored, request.run.seed)
    }
}

/// The verdict on two answers: a side wins where it wins in both orders.
fn preference(said: &Verdicts, meeting: &Meeting<'_>) -> Preference {
    match said {
        _ if meeting.is_even() => Preference::Tie,
        both if both.a_wins() => Preference::A,
        both if both.b_wins() => Preference::B,
        both if both.is_decided() => Preference::Tie,
        _ => Preference::Unscored { reason: Unscored::Failed("no verdict in both orders".to_owned()) },
    }
}

/// What a judge said about two answers in both orders; `records` are its verdicts on answers to that prompt.
fn verdicts_on(records: &[SampleRecord], meeting: &Meeting<'_>) -> Verdicts {
    let scores = |repeat| {
        let found = records.iter().find(|record| record.key.repeat == repeat);
        found.map(|record| record.scores.as_slice())
    };
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
