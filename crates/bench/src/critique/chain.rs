//! What is stored of one prompt: its answer and the revisions, in order.

use std::collections::BTreeMap;

use evalign_core::{FinishReason, Output, SampleRecord};
use evalign_judge::spoken;

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

/// Answers of one step, by prompt.
pub(super) type Step = BTreeMap<u64, SampleRecord>;

pub(super) fn step(steps: &Steps, name: &str) -> Result<Step, RunError> {
    Ok(steps.answered(name)?.into_iter().map(|record| (record.key.doc, record)).collect())
}

/// A finished text without what it repeats of its form. `None` where it was cut off, withheld or empty.
pub(super) fn finished<'a>(step: &'a Step, prompt: u64, heading: &str) -> Option<&'a str> {
    let Some(Output::Text { text, finish: FinishReason::Stop, .. }) = &step.get(&prompt)?.output else {
        return None;
    };
    Some(spoken(text, heading)).filter(|text| !text.is_empty())
}

pub(super) const NEW_ANSWER: &str = "New answer:";
pub(super) const CRITIQUE: &str = "Critique:";

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
    let answers = step(steps, ANSWER)?;
    let revisions: Vec<Step> =
        (1..=rounds).map(|round| step(steps, &revision_step(round))).collect::<Result<_, _>>()?;
    let verified = steps.answered(VERIFY)?;
    let verified: BTreeMap<(u64, u32), &SampleRecord> =
        verified.iter().map(|record| ((record.key.doc, record.key.repeat), record)).collect();
    let mut chains = Vec::new();
    for (prompt, record) in &answers {
        let prompt = *prompt;
        let Some(answer) = finished(&answers, prompt, "") else { continue };
        let mut chain =
            Chain { prompt, record: record.clone(), answer: answer.to_owned(), rounds: Vec::new() };
        for (round, revision) in (1u32..).zip(&revisions) {
            let Some(after) = finished(revision, prompt, NEW_ANSWER) else { break };
            let before = chain.rounds.last().map_or(answer, |round| round.after.as_str()).to_owned();
            chain.rounds.push(Round {
                round,
                unchanged: same(&before, after),
                before,
                after: after.to_owned(),
                verdicts: read_comparison(&verified, prompt, round),
            });
        }
        chains.push(chain);
    }
    Ok(chains)
}

fn same(a: &str, b: &str) -> bool {
    a.split_whitespace().eq(b.split_whitespace())
}
