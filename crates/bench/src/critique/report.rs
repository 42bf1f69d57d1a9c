use std::collections::BTreeMap;

use evalign_judge::{BiasReport, BiasTally, Constitution, JudgedAnswer, JudgedPair};
use serde::Serialize;

use super::chain::{Chain, CutTexts};
use crate::refusal::is_refusal;

/// What came of one principle's rounds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PrincipleCounts {
    /// Revisions by it.
    pub used: u64,
    /// The judge prefers the revision in both orders.
    pub verified: u64,
    /// The judge prefers in both orders what was revised.
    pub lost: u64,
    /// Neither: a tie, or the judge goes by the order.
    pub even: u64,
    /// The judge gave no verdict in at least one order.
    pub undecided: u64,
    /// The revision says what was there before.
    pub unchanged: u64,
    /// Texts that plainly decline to answer, before and after: what a constitution may teach by mistake.
    pub refusals_before: u64,
    pub refusals_after: u64,
    /// Revisions that lost against a verified gain of an earlier round: this principle works against that one.
    pub undid_gains: u64,
    /// Which principles those gains were made by.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub undid_gains_of: BTreeMap<String, u64>,
}

/// What came of a run of critiques.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct CritiqueReport {
    pub prompts: u64,
    /// Prompts with a finished first answer.
    pub answered: u64,
    pub cut: CutTexts,
    pub revisions: u64,
    /// Verified gains: pairs.
    pub verified: u64,
    /// Share of revisions that are verified gains; absent over none.
    pub yield_share: Option<f64>,
    /// Prompts with at least one verified gain.
    pub prompts_with_gain: u64,
    pub refusals_first: u64,
    pub refusals_last: u64,
    pub by_round: BTreeMap<u32, PrincipleCounts>,
    pub by_principle: BTreeMap<String, PrincipleCounts>,
    /// What moves the judge besides the texts: first sides are revisions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<BiasReport>,
}

pub(super) fn report(
    chains: &[Chain],
    (prompts, cut): (u64, CutTexts),
    constitution: &Constitution,
    seed: u64,
) -> CritiqueReport {
    let mut report =
        CritiqueReport { prompts, cut, answered: chains.len() as u64, ..CritiqueReport::default() };
    for principle in &constitution.principles {
        report.by_principle.insert(principle.id.clone(), PrincipleCounts::default());
    }
    for chain in chains {
        let mut gain_of: Option<&str> = None;
        let mut gained = false;
        for round in &chain.rounds {
            let Some(principle) = constitution.drawn(seed, chain.prompt, round.round - 1) else { continue };
            for counts in [
                report.by_round.entry(round.round).or_default(),
                report.by_principle.entry(principle.id.clone()).or_default(),
            ] {
                add(counts, round, gain_of);
            }
            report.revisions += 1;
            if is_gain(round) {
                report.verified += 1;
                gained = true;
                gain_of = Some(&principle.id);
            } else if !round.unchanged {
                gain_of = None;
            }
        }
        report.prompts_with_gain += u64::from(gained);
        report.refusals_first += u64::from(is_refusal(&chain.answer));
        let last = chain.rounds.last().map_or(&chain.answer, |round| &round.after);
        report.refusals_last += u64::from(is_refusal(last));
    }
    report.bias = Some(bias(chains));
    report.yield_share = (report.revisions > 0).then(|| report.verified as f64 / report.revisions as f64);
    report
}

/// One model writes all texts, so that nothing can be said of the judge's own family.
fn bias(chains: &[Chain]) -> BiasReport {
    let mut tally = BiasTally::default();
    for chain in chains {
        for round in chain.rounds.iter().filter(|round| !round.unchanged) {
            tally.add(&JudgedPair {
                comparison: &round.verdicts.comparison(),
                group: usize::try_from(chain.prompt).unwrap_or(usize::MAX),
                a: JudgedAnswer { text: &round.after, family: None },
                b: JudgedAnswer { text: &round.before, family: None },
                people: None,
            });
        }
    }
    tally.report()
}

/// The judge prefers the revision in both orders.
pub(super) fn is_gain(round: &super::chain::Round) -> bool {
    !round.unchanged && round.verdicts.a_wins()
}

fn add(counts: &mut PrincipleCounts, round: &super::chain::Round, gain_of: Option<&str>) {
    counts.used += 1;
    counts.refusals_before += u64::from(is_refusal(&round.before));
    counts.refusals_after += u64::from(is_refusal(&round.after));
    let lost = !round.unchanged && round.verdicts.b_wins();
    let place = match () {
        () if round.unchanged => &mut counts.unchanged,
        () if is_gain(round) => &mut counts.verified,
        () if lost => &mut counts.lost,
        () if round.verdicts.is_decided() => &mut counts.even,
        () => &mut counts.undecided,
    };
    *place += 1;
    if let (true, Some(gain)) = (lost, gain_of) {
        counts.undid_gains += 1;
        *counts.undid_gains_of.entry(gain.to_owned()).or_default() += 1;
    }
}
