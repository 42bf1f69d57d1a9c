//! Pairs from answers that a judge has compared two by two.

use std::collections::BTreeMap;

use evalign_core::{Digest, ModelIdentity, SampleRecord};
use evalign_judge::{BiasTally, JudgedAnswer, JudgedPair, Strategy, as_text, family_of, select};

use super::build::{PairsRequest, pair_number};
use super::candidates::{Candidate, candidates, distinct};
use super::filters::{Judged as JudgedCounts, PairsReport};
use super::judged::{Verdicts, read_comparison};
use super::origin::{BuiltPair, Origin};
use super::right_wrong::prompt_of;
use crate::RunError;
use crate::runner::Documents;

/// What was said about one document's answers, by the number of the comparison.
type Comparisons<'a> = BTreeMap<u32, &'a SampleRecord>;

pub(super) struct Judged<'a> {
    pub(super) request: &'a PairsRequest,
    pub(super) strategy: Strategy,
    pub(super) per_model: u32,
    pub(super) candidates: u32,
    pub(super) same_answer: f64,
}

impl Judged<'_> {
    /// The pairs of all documents, of which one is in memory at a time: its answers, and what was said about them.
    pub(super) fn pairs(
        &self,
        (answers, mut comparisons): (Documents, Documents),
        place: (u64, &str),
        report: &mut PairsReport,
    ) -> Result<Vec<BuiltPair>, RunError> {
        let family = self.request.judge.as_ref().map(family_of);
        let mut tally = (JudgedCounts::default(), BiasTally::new(family.as_deref()));
        let mut built = Vec::new();
        for document in answers {
            let (doc, answers) = document?;
            let compared = comparisons.of(doc)?;
            self.pairs_of((doc, &answers, &compared), place, (report, &mut tally), &mut built);
        }
        report.judged = Some(tally.0);
        report.bias = Some(tally.1.report());
        Ok(built)
    }

    fn pairs_of(
        &self,
        (doc, answers, compared): (u64, &[SampleRecord], &[SampleRecord]),
        (seed, run): (u64, &str),
        (report, (counts, bias)): (&mut PairsReport, &mut (JudgedCounts, BiasTally)),
        built: &mut Vec<BuiltPair>,
    ) {
        let Some(first) = self.request.samplers.first() else { return };
        let sampler = |record: &SampleRecord| -> &ModelIdentity {
            let model = record.key.repeat / self.per_model.max(1);
            self.request.samplers.get(model as usize).unwrap_or(first)
        };
        let comparisons: Comparisons<'_> =
            compared.iter().map(|record| (record.key.repeat, record)).collect();
        let found = candidates(answers, sampler);
        report.prompts += 1;
        report.answers += answers.len() as u64;
        report.finished_answers += found.len() as u64;
        let (found, repeated) = distinct(found, self.same_answer);
        report.repeated_answers += repeated;
        let table = self.table(&comparisons, &found);
        count(&table, counts);
        weigh(bias, (doc, &table), &found);
        let scores: Vec<Option<f64>> = (0..found.len()).map(|a| score(&table, a)).collect();
        for (chosen, rejected) in select(self.strategy, &scores, draw(seed, doc)) {
            let Some(prompt) = prompt_of(found[chosen].record) else { continue };
            let verdicts = between(&table, chosen, rejected).unwrap_or_default();
            let origin = Origin {
                score_chosen: scores[chosen],
                score_rejected: scores[rejected],
                margin: scores[chosen].zip(scores[rejected]).map(|(good, bad)| good - bad),
                probability_first: verdicts.probabilities[0],
                probability_second: verdicts.probabilities[1],
                principle: self.principle(&comparisons, [&found[chosen], &found[rejected]]),
                ..self.origin(&found[chosen], &found[rejected], (seed, run))
            };
            built.push(BuiltPair::new(prompt, &found[chosen].text, &found[rejected].text, &origin));
        }
    }

    fn origin(&self, good: &Candidate<'_>, bad: &Candidate<'_>, (seed, run): (u64, &str)) -> Origin {
        let doc = &good.record.doc;
        let origin = Origin {
            strategy: Some(self.strategy.name().to_owned()),
            judge: self.request.judge.as_ref().map(ToString::to_string),
            judge_digest: self.request.judge_digest.clone(),
            rubric_digest: self.request.rubric_digest.clone(),
            constitution_digest: self.request.constitution_digest.clone(),
            logprob_chosen: good.logprob,
            logprob_rejected: bad.logprob,
            template_digest: good.sampler.chat_template.clone(),
            source: doc["source"].as_str().map(str::to_owned),
            source_digest: Some(good.record.doc_hash.clone()),
            prompt_digest: prompt_of(good.record).map(|prompt| Digest::of(as_text(prompt))),
            reference: doc["reference"].as_str().map(str::to_owned),
            seed: Some(seed),
            run: Some(run.to_owned()),
            ..Origin::default()
        };
        origin.by(good.sampler, bad.sampler)
    }

    /// What two answers were compared by, where that was drawn.
    fn principle(&self, comparisons: &Comparisons<'_>, [one, other]: [&Candidate<'_>; 2]) -> Option<String> {
        let (a, b) = (one.place.min(other.place), one.place.max(other.place));
        let record = comparisons.get(&(2 * pair_number(a, b, self.candidates)))?;
        record.doc["principle"].as_str().map(str::to_owned)
    }

    /// What was said about every two answers, by their places in `found`, the smaller first.
    fn table(
        &self,
        comparisons: &Comparisons<'_>,
        found: &[Candidate<'_>],
    ) -> BTreeMap<(usize, usize), Verdicts> {
        let mut table = BTreeMap::new();
        for a in 0..found.len() {
            for b in a + 1..found.len() {
                let number = pair_number(found[a].place, found[b].place, self.candidates);
                let scores = |number| comparisons.get(&number).map(|record| record.scores.as_slice());
                table.insert((a, b), read_comparison(scores, number));
            }
        }
        table
    }
}

/// What was said about two answers, as verdicts on the first.
fn between(table: &BTreeMap<(usize, usize), Verdicts>, a: usize, b: usize) -> Option<Verdicts> {
    match a < b {
        true => table.get(&(a, b)).copied(),
        false => table.get(&(b, a)).map(|verdicts| verdicts.swapped()),
    }
}

/// Mean probability of being preferred to another answer, over all that it was compared with. `None` where nothing
/// was decided.
fn score(table: &BTreeMap<(usize, usize), Verdicts>, a: usize) -> Option<f64> {
    let others = table.keys().filter_map(|(x, y)| match (*x == a, *y == a) {
        (true, _) => Some(*y),
        (_, true) => Some(*x),
        _ => None,
    });
    let wins: Vec<f64> = others.filter_map(|b| between(table, a, b)?.probability_a()).collect();
    (!wins.is_empty()).then(|| wins.iter().sum::<f64>() / wins.len() as f64)
}

fn count(table: &BTreeMap<(usize, usize), Verdicts>, counts: &mut JudgedCounts) {
    for verdicts in table.values() {
        counts.comparisons += 1;
        let place = match verdicts.points {
            [Some(first), Some(second)] if first == second && first != 0.5 => &mut counts.agreed,
            [Some(first), Some(second)] if (first - second).abs() == 1.0 => &mut counts.flipped,
            [Some(_), Some(_)] => &mut counts.ties,
            _ => &mut counts.undecided,
        };
        *place += 1;
    }
}

/// Adds what was said about every two answers to what is known of the judge.
fn weigh(
    bias: &mut BiasTally,
    (doc, table): (u64, &BTreeMap<(usize, usize), Verdicts>),
    found: &[Candidate<'_>],
) {
    let families: Vec<String> =
        found.iter().map(|candidate| family_of(&candidate.sampler.reference)).collect();
    let side = |place: usize| JudgedAnswer { text: &found[place].text, family: Some(&families[place]) };
    for ((a, b), verdicts) in table {
        bias.add(&JudgedPair {
            comparison: &verdicts.comparison(),
            group: usize::try_from(doc).unwrap_or(usize::MAX),
            a: side(*a),
            b: side(*b),
            people: None,
        });
    }
}

/// Seeds what is random about a prompt's pairs.
fn draw(seed: u64, doc: u64) -> u64 {
    let digest = Digest::of(format!("pairs {seed} {doc}"));
    digest.as_str().get(..16).and_then(|hex| u64::from_str_radix(hex, 16).ok()).unwrap_or(0)
}
