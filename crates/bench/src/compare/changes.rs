//! Which documents two runs answered differently.

use std::collections::BTreeMap;

use evalign_core::{Digest, RunId, SampleKey, Score};
use evalign_store::{SampleScores, Store};

use crate::{RunError, lower_is_better};

/// What became of a document from A to B.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// B is better.
    Gained,
    /// A is better.
    Lost,
    /// Only one of them decided it, or both left it undecided in different ways.
    Undecided,
    Same,
}

impl ChangeKind {
    pub const ALL: [Self; 4] = [Self::Gained, Self::Lost, Self::Undecided, Self::Same];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gained => "gained",
            Self::Lost => "lost",
            Self::Undecided => "undecided",
            Self::Same => "same",
        }
    }

    fn of(a: &Score, b: &Score) -> Self {
        let better = |gain: f64| if gain > 0.0 { Self::Gained } else { Self::Lost };
        match (a.value, b.value) {
            (Some(a), Some(b)) if a.total_cmp(&b).is_eq() => Self::Same,
            (Some(first), Some(second)) if lower_is_better(&a.metric) => better(first - second),
            (Some(first), Some(second)) => better(second - first),
            (None, None) if a.outcome == b.outcome => Self::Same,
            (None, _) | (_, None) => Self::Undecided,
        }
    }
}

/// One document, as both runs have it.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: ChangeKind,
    pub a: SampleKey,
    pub b: SampleKey,
    /// Under the same metric and filter.
    pub score_a: Score,
    pub score_b: Score,
}

/// Which documents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChangesQuery {
    /// Only this leaf task.
    pub task: Option<String>,
    /// The metric that decides; without it, the first one of each sample.
    pub metric: Option<String>,
}

/// Documents that both runs have, in A's order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Changes {
    pub found: Vec<Change>,
}

impl Changes {
    #[must_use]
    pub fn count(&self, kind: ChangeKind) -> usize {
        self.found.iter().filter(|change| change.kind == kind).count()
    }
}

/// Pairs the documents of two runs by their hash, repeat by repeat.
///
/// # Errors
/// A failure of the store, or a run that is not there.
pub fn changes(store: &Store, a: &RunId, b: &RunId, wanted: &ChangesQuery) -> Result<Changes, RunError> {
    let (run_a, run_b) = (store.run(a)?, store.run(b)?);
    let mut found = Changes::default();
    for task in run_a.spec.tasks.iter().filter(|task| task.variant.is_none()) {
        let is_common =
            run_b.spec.tasks.iter().any(|other| other.task == task.task && other.variant.is_none());
        if !is_common || wanted.task.as_ref().is_some_and(|wanted| *wanted != task.task) {
            continue;
        }
        let mut theirs: BTreeMap<(Digest, u32), Vec<SampleScores>> = BTreeMap::new();
        // The same row twice is taken in order: last in, first out of the reversed list.
        for scores in store.scores(b, &task.task)?.into_iter().rev() {
            theirs.entry((scores.doc_hash.clone(), scores.key.repeat)).or_default().push(scores);
        }
        for ours in store.scores(a, &task.task)? {
            let place = (ours.doc_hash.clone(), ours.key.repeat);
            let Some(other) = theirs.get_mut(&place).and_then(Vec::pop) else { continue };
            found.found.extend(change(ours, other, wanted.metric.as_deref()));
        }
    }
    Ok(found)
}

fn change(a: SampleScores, b: SampleScores, metric: Option<&str>) -> Option<Change> {
    let is_wanted = |score: &&Score| metric.is_none_or(|metric| score.metric == metric);
    let score_a = a.scores.iter().find(is_wanted)?.clone();
    let same = |score: &&Score| score.metric == score_a.metric && score.filter == score_a.filter;
    let score_b = b.scores.iter().find(same)?.clone();
    Some(Change { kind: ChangeKind::of(&score_a, &score_b), a: a.key, b: b.key, score_a, score_b })
}

#[cfg(test)]
mod tests {
    use evalign_core::Outcome;

    use super::*;

    fn score(metric: &str, outcome: Outcome, value: Option<f64>) -> Score {
        let (metric, filter) = (metric.to_owned(), "none".to_owned());
        Score { metric, filter, outcome, value, answer: None, weight: None, margin: None }
    }

    #[test]
    fn a_change_says_who_is_better_and_never_takes_the_undecided_for_wrong() {
        let right = score("acc", Outcome::Correct, Some(1.0));
        let wrong = score("acc", Outcome::Wrong, Some(0.0));
        let unparsed = score("acc", Outcome::Unparsed, None);
        let cut = score("acc", Outcome::Truncated, None);
        for (a, b, kind) in [
            (&wrong, &right, ChangeKind::Gained),
            (&right, &wrong, ChangeKind::Lost),
            (&right, &right, ChangeKind::Same),
            (&right, &unparsed, ChangeKind::Undecided),
            (&unparsed, &wrong, ChangeKind::Undecided),
            (&unparsed, &cut, ChangeKind::Undecided),
            (&cut, &cut, ChangeKind::Same),
        ] {
            assert_eq!(ChangeKind::of(a, b), kind, "{a:?} {b:?}");
        }
        let [low, high] = [1.0, 2.0].map(|value| score("word_perplexity", Outcome::Unscored, Some(value)));
        assert_eq!(ChangeKind::of(&high, &low), ChangeKind::Gained, "less is better");
    }
}
