//! What is stored of one prompt: its answer and the revisions, in order.

use std::collections::BTreeMap;

use evalign_core::{FinishReason, Output, SampleRecord, Score};
use evalign_judge::spoken;
use serde::Serialize;

use crate::RunError;
use crate::pairing::{Verdicts, read_comparison};
use crate::runner::Steps;

pub(super) const ANSWER: &str = "critique/answer";
pub(super) const VERIFY: &str = "critique/verify";

/// Names of a round's steps, counted from 1.
pub(super) fn critique_step(round: u32) -> String {
    format!("critique/critique_{round}")
}

pub(super) fn revision_step(round: u32) -> String {
    format!("critique/revision_{round}")
}

/// The finished texts of one step, by prompt.
pub(super) type Step = BTreeMap<u64, String>;

/// Texts without what they repeat of their form, which is their `heading`; those that were cut off, withheld or empty
/// are not there.
pub(super) fn step(steps: &Steps, name: &str, heading: &str) -> Result<Step, RunError> {
    texts(steps, name, |output| finished(output, heading))
}

fn texts(
    steps: &Steps,
    name: &str,
    text_of: impl Fn(Option<&Output>) -> Option<&str>,
) -> Result<Step, RunError> {
    let mut found = Step::new();
    for said in steps.said(name)? {
        let said = said?;
        found.extend(text_of(said.output.as_ref()).map(|text| (said.key.doc, text.to_owned())));
    }
    Ok(found)
}

fn finished<'a>(output: Option<&'a Output>, heading: &str) -> Option<&'a str> {
    let Some(Output::Text { finish: FinishReason::Stop, .. }) = output else { return None };
    said_in(output, heading)
}

/// What a text says, however it ended; withheld and empty ones are none.
fn said_in<'a>(output: Option<&'a Output>, heading: &str) -> Option<&'a str> {
    let Some(Output::Text { text, finish: FinishReason::Stop | FinishReason::Length, .. }) = output else {
        return None;
    };
    Some(spoken(text, heading)).filter(|text| !text.is_empty())
}

/// The critiques of one round, by prompt. One that met the token limit is used as far as it goes: it is a means, and
/// nobody is trained on it.
pub(super) fn critiques(steps: &Steps, round: u32) -> Result<Step, RunError> {
    texts(steps, &critique_step(round), |output| said_in(output, CRITIQUE))
}

/// Texts that met the token limit. Cut answers and revisions end their chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CutTexts {
    pub answers: u64,
    pub critiques: u64,
    pub revisions: u64,
}

impl CutTexts {
    pub(super) fn of(steps: &Steps, rounds: u32) -> Result<Self, RunError> {
        let count = |name: &str| -> Result<u64, RunError> {
            let mut cut = 0;
            for said in steps.said(name)? {
                let ended = said?.output;
                cut += u64::from(matches!(ended, Some(Output::Text { finish: FinishReason::Length, .. })));
            }
            Ok(cut)
        };
        let all = |step: fn(u32) -> String| -> Result<u64, RunError> {
            (1..=rounds).map(|round| count(&step(round))).sum()
        };
        Ok(Self { answers: count(ANSWER)?, critiques: all(critique_step)?, revisions: all(revision_step)? })
    }
}

pub(super) const NEW_ANSWER: &str = "New answer:";
const CRITIQUE: &str = "Critique:";

/// One round of one prompt.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) round: u32,
    /// What was revised, and what it became.
    pub(super) before: String,
    pub(super) after: String,
    /// The text did not change, so that nothing was compared.
    pub(super) unchanged: bool,
    /// On the revision against what it revises: first side is the revision.
    pub(super) verdicts: Verdicts,
}

/// All finished rounds of a prompt. A chain ends at the first text that was not finished.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    pub(super) prompt: u64,
    /// The stored answer: what was asked, and where the prompt comes from.
    pub(super) record: SampleRecord,
    pub(super) answer: String,
    pub(super) rounds: Vec<Round>,
}

/// The chains of all prompts with a finished answer.
pub(super) fn chains(steps: &Steps, rounds: u32) -> Result<Vec<Chain>, RunError> {
    let revisions: Vec<Step> =
        (1..=rounds).map(|round| step(steps, &revision_step(round), NEW_ANSWER)).collect::<Result<_, _>>()?;
    let mut verified: BTreeMap<(u64, u32), Vec<Score>> = BTreeMap::new();
    for said in steps.said(VERIFY)? {
        let said = said?;
        verified.insert((said.key.doc, said.key.repeat), said.scores);
    }
    let mut chains = Vec::new();
    for record in steps.answered(ANSWER)? {
        let prompt = record.key.doc;
        let Some(answer) = finished(record.output.as_ref(), "").map(str::to_owned) else { continue };
        let mut chain = Chain { prompt, record, answer: answer.clone(), rounds: Vec::new() };
        for (round, revision) in (1u32..).zip(&revisions) {
            let Some(after) = revision.get(&prompt) else { break };
            let before = chain.rounds.last().map_or(&answer, |round| &round.after).clone();
            let scores = |number| verified.get(&(prompt, number)).map(Vec::as_slice);
            chain.rounds.push(Round {
                round,
                unchanged: same(&before, after),
                before,
                after: after.clone(),
                verdicts: read_comparison(scores, round),
            });
        }
        chains.push(chain);
    }
    Ok(chains)
}

fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}
