//! Several answers to each document: how often one of them, or their majority, is right, and how much of
//! the spread is the sampling.

use evalign_core::{AtK, Estimate, OutcomeCounts, RepeatResult, SampleRecord, Score, ScoringMode, TaskSpec};
use evalign_stats::{pass_at_k, repeat_variance};
use indexmap::IndexMap;

use super::estimate::{Aggregation, estimate};
use crate::judging::is_verdict;

/// The answers of one leaf task, collected document by document.
#[derive(Debug)]
pub(super) struct RepeatTally {
    mode: ScoringMode,
    /// By metric and filter.
    readers: IndexMap<(String, String), Vec<Answers>>,
    /// Documents without any answer, which no reader knows of.
    unanswered: Vec<Answers>,
}

/// What the answers to one document were worth, in repeat order.
#[derive(Clone, Debug, Default)]
struct Answers {
    /// 1 right, 0 wrong, absent where that was not decided.
    values: Vec<Option<f64>>,
    /// What was read, as an index into the document's distinct readable answers.
    read: Vec<Option<usize>>,
}

impl RepeatTally {
    pub(super) fn new(mode: ScoringMode) -> Self {
        Self { mode, readers: IndexMap::new(), unanswered: Vec::new() }
    }

    /// `records` are the answers to one document in repeat order, each with the scores it got on its own.
    pub(super) fn add(&mut self, records: &[SampleRecord]) {
        // A failed call is scored under every filter, those that vote included; only answers tell which
        // filters read one answer at a time.
        let Some(answered) = records.iter().find(|record| record.output.is_some()) else {
            self.unanswered.push(Answers::none(records.len()));
            return;
        };
        // A judge's verdicts are no answers to vote on.
        for reader in answered.scores.iter().filter(|score| !is_verdict(score)) {
            let same = |score: &&Score| score.metric == reader.metric && score.filter == reader.filter;
            let scores: Vec<Option<&Score>> =
                records.iter().map(|record| record.scores.iter().find(same)).collect();
            // A metric that is neither right nor wrong has nothing to vote on.
            let binary = |score: &&Score| score.value.is_none_or(|value| value == 0.0 || value == 1.0);
            if scores.iter().flatten().all(binary) {
                let answers = Answers::of(&scores);
                self.readers.entry((reader.metric.clone(), reader.filter.clone())).or_default().push(answers);
            }
        }
    }

    pub(super) fn results(&self, spec: &TaskSpec) -> Vec<RepeatResult> {
        let result = |((metric, filter), answered): (&(String, String), &Vec<Answers>)| {
            let documents = self.all(answered);
            let decided: Vec<Vec<f64>> = documents.iter().map(|answers| answers.decided()).collect();
            let variance = repeat_variance(&decided);
            let steps = steps(spec.repeats);
            RepeatResult {
                task: spec.task.clone(),
                metric: metric.clone(),
                filter: filter.clone(),
                answers: spec.repeats,
                pass: steps.iter().map(|k| self.pass(&documents, *k)).collect(),
                majority: steps.iter().filter(|k| **k > 1).map(|k| self.majority(&documents, *k)).collect(),
                agreement: self.mean(documents.iter().filter_map(|answers| answers.agreement())),
                within_variance: variance.map(|variance| variance.within),
                between_variance: variance.map(|variance| variance.between),
            }
        };
        self.readers.iter().map(result).collect()
    }

    /// With the documents that nobody could read.
    fn all<'a>(&'a self, answered: &'a [Answers]) -> Vec<&'a Answers> {
        answered.iter().chain(&self.unanswered).collect()
    }

    /// Mean of chances or shares; its interval stays inside [0, 1]. A few equal numbers that are neither 0
    /// nor 1 say nothing of how they vary.
    fn mean(&self, values: impl Iterator<Item = f64>) -> Estimate {
        let pairs: Vec<(f64, f64)> = values.map(|value| (value, 1.0)).collect();
        let mut found = estimate(Aggregation::Mean, &pairs, self.mode);
        let varies =
            found.stderr != Some(0.0) || found.value.is_some_and(|value| value == 0.0 || value == 1.0);
        found.ci95 = found.ci95.filter(|_| varies).map(|[low, high]| [low.max(0.0), high.min(1.0)]);
        found
    }

    fn pass(&self, documents: &[&Answers], k: u32) -> AtK {
        let chance = |right: usize, of: usize| pass_at_k(of as u64, right as u64, u64::from(k));
        let known = documents.iter().filter_map(|answers| {
            let decided = answers.decided();
            chance(ones(&decided), decided.len())
        });
        let bound = |undecided_right: bool| {
            let each = documents.iter().filter_map(|answers| {
                let decided = answers.decided();
                let open = answers.values.len() - decided.len();
                chance(ones(&decided) + if undecided_right { open } else { 0 }, answers.values.len())
            });
            self.mean(each).value
        };
        AtK { k, estimate: self.mean(known), bounds: bound(false).zip(bound(true)).map(|(l, h)| [l, h]) }
    }

    fn majority(&self, documents: &[&Answers], k: u32) -> AtK {
        let votes: Vec<Option<f64>> = documents.iter().map(|answers| answers.majority(k as usize)).collect();
        let mut outcomes = OutcomeCounts::default();
        for vote in &votes {
            match vote {
                Some(value) if *value > 0.0 => outcomes.correct += 1,
                Some(_) => outcomes.wrong += 1,
                None => outcomes.unparsed += 1,
            }
        }
        AtK { k, estimate: self.mean(votes.into_iter().flatten()), bounds: outcomes.bounds() }
    }
}

impl Answers {
    /// A document whose calls all failed: undecided, whoever reads it.
    fn none(repeats: usize) -> Self {
        Self { values: vec![None; repeats], read: vec![None; repeats] }
    }

    fn of(scores: &[Option<&Score>]) -> Self {
        let mut distinct: Vec<&str> = Vec::new();
        let mut answers = Self::default();
        for score in scores {
            let value = score.and_then(|score| score.value);
            let text = score.and_then(|score| score.answer.as_deref()).filter(|_| value.is_some());
            answers.values.push(value);
            answers.read.push(text.map(|text| {
                distinct.iter().position(|known| *known == text).unwrap_or_else(|| {
                    distinct.push(text);
                    distinct.len() - 1
                })
            }));
        }
        answers
    }

    fn decided(&self) -> Vec<f64> {
        self.values.iter().flatten().copied().collect()
    }

    /// The most frequent readable answer among the first `k` (the first seen among equals) and how many
    /// gave it.
    fn winner(&self, k: usize) -> Option<(usize, usize)> {
        let read: Vec<usize> = self.read.iter().take(k).flatten().copied().collect();
        let mut best: Option<(usize, usize)> = None;
        for answer in &read {
            let votes = read.iter().filter(|other| *other == answer).count();
            if best.is_none_or(|(_, most)| votes > most) {
                best = Some((*answer, votes));
            }
        }
        best
    }

    /// The majority's value. Equal texts are equally right. `None` where nobody voted.
    fn majority(&self, k: usize) -> Option<f64> {
        let (winner, _) = self.winner(k)?;
        let place = self.read.iter().position(|read| *read == Some(winner))?;
        self.values[place]
    }

    fn agreement(&self) -> Option<f64> {
        let (_, votes) = self.winner(self.read.len())?;
        Some(votes as f64 / self.read.len() as f64)
    }
}

/// 1, 2, 4, ... up to all.
fn steps(answers: u32) -> Vec<u32> {
    let mut steps: Vec<u32> =
        std::iter::successors(Some(1u32), |k| k.checked_mul(2)).take_while(|k| *k < answers).collect();
    steps.push(answers);
    steps
}

fn ones(values: &[f64]) -> usize {
    values.iter().filter(|value| **value == 1.0).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Some((text, right))` where the answer could be read.
    fn answers(given: &[Option<(&str, bool)>]) -> Answers {
        let score = |(text, right): (&str, bool)| Score {
            metric: "exact_match".to_owned(),
            filter: "none".to_owned(),
            outcome: evalign_core::Outcome::Correct,
            value: Some(f64::from(u8::from(right))),
            answer: Some(text.to_owned()),
            weight: None,
            margin: None,
        };
        let scores: Vec<Option<Score>> = given.iter().map(|answer| answer.map(score)).collect();
        Answers::of(&scores.iter().map(Option::as_ref).collect::<Vec<_>>())
    }

    fn tally(documents: Vec<Answers>) -> RepeatTally {
        let mut tally = RepeatTally::new(ScoringMode::Default);
        tally.readers.insert(("exact_match".to_owned(), "none".to_owned()), documents);
        tally
    }

    #[test]
    fn votes_pass_and_agreement() {
        let documents = vec![
            // Right once of four, outvoted.
            answers(&[Some(("7", true)), Some(("8", false)), Some(("8", false)), Some(("9", false))]),
            // Unreadable answers have no vote and are not wrong.
            answers(&[None, Some(("5", true)), None, None]),
            // Nobody says anything.
            answers(&[None, None, None, None]),
        ];
        let tally = tally(documents.clone());
        let documents: Vec<&Answers> = documents.iter().collect();
        let all = tally.majority(&documents, 4);
        assert_eq!((all.estimate.value, all.estimate.n), (Some(0.5), 2));
        assert_eq!(all.bounds, Some([1.0 / 3.0, 2.0 / 3.0]));
        // Among the first two answers of the first document the one seen first wins.
        assert_eq!(tally.majority(&documents, 2).estimate.value, Some(1.0));
        // pass@1: 1/4 and 1/1; the silent document shows in n and in the bounds.
        let one = tally.pass(&documents, 1);
        assert_eq!((one.estimate.value, one.estimate.n), (Some(0.625), 2));
        assert_eq!(one.bounds, Some([(0.25 + 0.25 + 0.0) / 3.0, (0.25 + 1.0 + 1.0) / 3.0]));
        // pass@2 needs two decided answers: 1 - C(3, 2) / C(4, 2).
        let two = tally.pass(&documents, 2);
        assert_eq!((two.estimate.value, two.estimate.n), (Some(0.5), 1));
        let agreement = tally.mean(documents.iter().filter_map(|answers| answers.agreement()));
        assert_eq!((agreement.value, agreement.n), (Some(0.375), 2));
        assert_eq!(agreement.ci95.map(|[low, _]| low), Some(0.0), "shares are not negative");
    }

    #[test]
    fn documents_whose_calls_all_failed_are_in_the_bounds() {
        let mut tally = tally(vec![answers(&[Some(("1", true)), Some(("1", true))])]);
        tally.unanswered.push(Answers::none(2));
        let documents = tally.all(&tally.readers[0]);
        for at in [tally.pass(&documents, 1), tally.pass(&documents, 2), tally.majority(&documents, 2)] {
            assert_eq!((at.estimate.value, at.estimate.n, at.bounds), (Some(1.0), 1, Some([0.5, 1.0])));
        }
        let constant = tally.mean([0.5, 0.5, 0.5].into_iter());
        assert_eq!((constant.value, constant.ci95), (Some(0.5), None), "no spread is no certainty");
    }

    #[test]
    fn steps_end_with_all_answers() {
        assert_eq!(steps(1), [1]);
        assert_eq!(steps(8), [1, 2, 4, 8]);
        assert_eq!(steps(10), [1, 2, 4, 8, 10]);
    }
}
