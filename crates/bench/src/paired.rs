//! Two runs on the same documents: pairs of scores, and what they say about the difference.

use std::collections::BTreeMap;

use evalign_core::{Digest, Score};
use evalign_stats::{
    Bootstrap, PairedDifference, Power, cluster_sums, clustered_difference, mcnemar, paired_difference,
    paired_proportion_interval,
};
use serde::Serialize;

use crate::scored::ScoredDocument;

const LEVEL: f64 = 0.95;

/// One document that both runs decided.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Pair {
    pub(crate) a: f64,
    pub(crate) b: f64,
    /// What the document counts in the mean.
    pub(crate) weight: f64,
    /// Documents with the same label are not independent.
    pub(crate) label: Option<String>,
}

/// Documents that are in only one run, or that one run did not decide.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Both runs have the document, but A's answer is neither right nor wrong.
    pub undecided_a: u64,
    pub undecided_b: u64,
    pub undecided_both: u64,
    /// Documents that only one run has.
    pub only_in_a: u64,
    pub only_in_b: u64,
}

impl LeftOut {
    #[must_use]
    pub fn undecided(&self) -> u64 {
        self.undecided_a + self.undecided_b + self.undecided_both
    }

    fn add(&mut self, other: &Self) {
        self.undecided_a += other.undecided_a;
        self.undecided_b += other.undecided_b;
        self.undecided_both += other.undecided_both;
        self.only_in_a += other.only_in_a;
        self.only_in_b += other.only_in_b;
    }
}

/// The scores of two runs on one task, or on several together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PairedScores {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) left_out: LeftOut,
    /// Least and greatest sum of b - a over the undecided pairs.
    undecided_sum: [f64; 2],
}

/// How often two runs got the same documents right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Agreement {
    pub both: u64,
    pub only_a: u64,
    pub only_b: u64,
    pub neither: u64,
}

/// Which test a p-value and an interval come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum PairedTest {
    /// McNemar's exact test; interval of Bonett & Price 2012.
    Mcnemar,
    /// Student's paired t test.
    PairedT,
    /// The t test with clustered standard errors (Miller 2024).
    ClusteredT,
}

impl PairedTest {
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mcnemar => "McNemar, exact",
            Self::PairedT => "paired t",
            Self::ClusteredT => "clustered t",
        }
    }
}

/// p-values of McNemar's test.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct McNemarP {
    pub exact: f64,
    pub mid_p: f64,
}

/// The difference B - A over the pairs.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// Mean of A over the pairs, and of B.
    pub a: f64,
    pub b: f64,
    /// b - a.
    pub difference: f64,
    /// Paired standard error. Absent for a single pair or cluster.
    pub stderr: Option<f64>,
    pub ci95: Option<[f64; 2]>,
    /// Percentile interval of 2000 resamples of the documents (of the clusters, where clustered), where
    /// it was asked for.
    pub bootstrap_ci95: Option<[f64; 2]>,
    /// Pairs.
    pub n: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<u64>,
    /// Absent for scores that are not 0 or 1.
    pub agreement: Option<Agreement>,
    pub mcnemar: Option<McNemarP>,
    pub test: PairedTest,
    /// Two-sided p-value by `test`.
    pub p: Option<f64>,
    /// Smallest true difference that this many pairs with this much disagreement detect with 80 % power
    /// at 5 %.
    pub detectable: Option<f64>,
    pub left_out: LeftOut,
    /// Least and greatest difference the undecided documents allow; absent where there are none.
    pub bounds: Option<[f64; 2]>,
}

impl PairedScores {
    /// Pairs two runs' documents by their hash (the same row twice: in order).
    pub(crate) fn of(a: &[ScoredDocument], b: &[ScoredDocument], metric: &str, filter: &str) -> Self {
        let mut theirs = by_hash(b);
        let mut found = Self::default();
        for document in a {
            let other = theirs.get_mut(&document.hash).and_then(Vec::pop);
            match other {
                Some(other) => found.push(document, other, metric, filter),
                None => found.left_out.only_in_a += 1,
            }
        }
        found.left_out.only_in_b = theirs.values().map(|rest| rest.len() as u64).sum();
        found
    }

    fn push(&mut self, a: &ScoredDocument, b: &ScoredDocument, metric: &str, filter: &str) {
        let (first, second) = (score(a, metric, filter), score(b, metric, filter));
        let value = |score: Option<&Score>| score.and_then(|score| score.value);
        let weight = first.and_then(|score| score.weight).unwrap_or(1.0);
        let (low, high) = match (value(first), value(second)) {
            (Some(a_value), Some(b_value)) => {
                self.pairs.push(Pair { a: a_value, b: b_value, weight, label: a.label.clone() });
                return;
            }
            (None, Some(b_value)) => {
                self.left_out.undecided_a += 1;
                (b_value - 1.0, b_value)
            }
            (Some(a_value), None) => {
                self.left_out.undecided_b += 1;
                (-a_value, 1.0 - a_value)
            }
            (None, None) => {
                self.left_out.undecided_both += 1;
                (-1.0, 1.0)
            }
        };
        self.undecided_sum[0] += low;
        self.undecided_sum[1] += high;
    }

    /// All documents of several tasks together. With `by_size` every document counts the same, otherwise
    /// every task does. With `by_task` the documents of a task are one cluster; otherwise clusters stay
    /// within their task.
    pub(crate) fn together(parts: &[(&str, Self)], by_size: bool, by_task: bool) -> Self {
        let mut all = Self::default();
        let largest = parts.iter().map(|(_, part)| part.pairs.len()).max().unwrap_or(0) as f64;
        for (task, part) in parts {
            let scale = if by_size { 1.0 } else { largest / part.pairs.len() as f64 };
            all.left_out.add(&part.left_out);
            all.undecided_sum[0] += part.undecided_sum[0];
            all.undecided_sum[1] += part.undecided_sum[1];
            for pair in &part.pairs {
                let label = match &pair.label {
                    _ if by_task => Some((*task).to_owned()),
                    Some(label) => Some(format!("{task}\u{1f}{label}")),
                    None => None,
                };
                all.pairs.push(Pair { weight: pair.weight * scale, label, ..pair.clone() });
            }
        }
        all
    }

    /// `None` without pairs.
    pub(crate) fn difference(&self) -> Option<Difference> {
        let total: f64 = self.pairs.iter().map(|pair| pair.weight).sum();
        if self.pairs.is_empty() || total <= 0.0 {
            return None;
        }
        let mean = |side: fn(&Pair) -> f64| {
            self.pairs.iter().map(|pair| pair.weight * side(pair)).sum::<f64>() / total
        };
        let (a, b) = (mean(|pair| pair.a), mean(|pair| pair.b));
        let equal_weights = self.pairs.iter().all(|pair| pair.weight == self.pairs[0].weight);
        let binary = self.pairs.iter().all(|pair| [pair.a, pair.b].into_iter().all(|v| v == 0.0 || v == 1.0));
        let labels: Option<Vec<&str>> = self.pairs.iter().map(|pair| pair.label.as_deref()).collect();
        let values = self.pseudo_values(b - a, total);
        let (spread, clusters) = match &labels {
            Some(labels) => (
                clustered_difference(&values, labels, LEVEL),
                cluster_sums(&values, labels).map(|sums| sums.len() as u64),
            ),
            None => (paired_difference(&values, LEVEL), None),
        };
        let agreement = binary.then(|| self.agreement());
        let test = match (clusters, agreement.filter(|_| equal_weights)) {
            (Some(_), _) => PairedTest::ClusteredT,
            (None, Some(_)) => PairedTest::Mcnemar,
            (None, None) => PairedTest::PairedT,
        };
        let mut found = Difference {
            a,
            b,
            difference: b - a,
            stderr: spread.map(|spread| spread.stderr),
            ci95: spread.map(|spread| spread.interval),
            bootstrap_ci95: None,
            n: self.pairs.len() as u64,
            clusters,
            agreement,
            mcnemar: agreement.map(|counts| {
                let p = mcnemar(counts.only_a, counts.only_b);
                McNemarP { exact: p.exact, mid_p: p.mid_p }
            }),
            test,
            p: None,
            detectable: None,
            left_out: self.left_out,
            bounds: self.bounds(binary && equal_weights),
        };
        found.judge(spread, &values);
        Some(found)
    }

    /// Percentile interval of the difference over resampled documents, or clusters where pairs have
    /// labels. Not part of [`PairedScores::difference`], because it costs 2000 passes.
    pub(crate) fn bootstrap(&self) -> Option<[f64; 2]> {
        let total: f64 = self.pairs.iter().map(|pair| pair.weight).sum();
        let difference = self.pairs.iter().map(|pair| pair.weight * (pair.b - pair.a)).sum::<f64>() / total;
        let values = self.pseudo_values(difference, total);
        let labels: Option<Vec<&str>> = self.pairs.iter().map(|pair| pair.label.as_deref()).collect();
        bootstrap(&values, labels.as_deref())
    }

    /// Values whose mean is the weighted mean difference and whose spread is that of its linearisation
    /// (the influence of each document; Cochran 1977, *Sampling Techniques*, ratio estimators). With equal
    /// weights they are the differences themselves.
    fn pseudo_values(&self, difference: f64, total: f64) -> Vec<f64> {
        let mean_weight = total / self.pairs.len() as f64;
        let value = |pair: &Pair| difference + pair.weight / mean_weight * (pair.b - pair.a - difference);
        let plain = self.pairs.iter().all(|pair| pair.weight == mean_weight);
        self.pairs.iter().map(|pair| if plain { pair.b - pair.a } else { value(pair) }).collect()
    }

    fn agreement(&self) -> Agreement {
        let mut counts = Agreement::default();
        for pair in &self.pairs {
            match (pair.a > 0.0, pair.b > 0.0) {
                (true, true) => counts.both += 1,
                (true, false) => counts.only_a += 1,
                (false, true) => counts.only_b += 1,
                (false, false) => counts.neither += 1,
            }
        }
        counts
    }

    fn bounds(&self, shares: bool) -> Option<[f64; 2]> {
        let undecided = self.left_out.undecided();
        if !shares || undecided == 0 {
            return None;
        }
        let decided: f64 = self.pairs.iter().map(|pair| pair.b - pair.a).sum();
        let n = (self.pairs.len() as u64 + undecided) as f64;
        Some(self.undecided_sum.map(|sum| (decided + sum) / n))
    }
}

impl Difference {
    /// Fills in what depends on the test.
    fn judge(&mut self, spread: Option<PairedDifference>, values: &[f64]) {
        let power = Power::default();
        match (self.test, self.agreement) {
            (PairedTest::Mcnemar, Some(counts)) => {
                self.ci95 = paired_proportion_interval(counts.only_a, counts.only_b, self.n, LEVEL);
                self.p = self.mcnemar.map(|p| p.exact);
                // One more disagreement each way, as in the interval: none seen is not none there.
                let discordance = (counts.only_a + counts.only_b + 2) as f64 / (self.n + 2) as f64;
                self.detectable = power.detectable_paired(self.n, discordance);
            }
            (PairedTest::Mcnemar | PairedTest::PairedT | PairedTest::ClusteredT, _) => {
                // Where nothing differs at all, nothing speaks against "no difference".
                let nothing = values.iter().all(|value| *value == 0.0);
                self.p = if nothing { Some(1.0) } else { spread.and_then(|spread| spread.p) };
                self.detectable =
                    spread.filter(|s| s.stderr > 0.0).and_then(|spread| power.detectable(spread.stderr));
                if self.detectable.is_none() {
                    self.ci95 = None;
                }
            }
        }
    }
}

fn score<'a>(document: &'a ScoredDocument, metric: &str, filter: &str) -> Option<&'a Score> {
    document.scores.iter().find(|score| score.metric == metric && score.filter == filter)
}

fn bootstrap(values: &[f64], labels: Option<&[&str]>) -> Option<[f64; 2]> {
    let plan = Bootstrap { level: LEVEL, ..Bootstrap::default() };
    let estimate = match labels {
        None => plan.estimate(values, |drawn| Some(drawn.iter().copied().sum::<f64>() / drawn.len() as f64)),
        Some(labels) => plan.estimate(&cluster_sums(values, labels)?, |drawn| {
            let (sum, count) =
                drawn.iter().fold((0.0, 0u64), |(sum, count), part| (sum + part.0, count + part.1));
            Some(sum / count as f64)
        }),
    };
    estimate.map(|estimate| estimate.interval)
}

fn by_hash(documents: &[ScoredDocument]) -> BTreeMap<&Digest, Vec<&ScoredDocument>> {
    let mut found: BTreeMap<&Digest, Vec<&ScoredDocument>> = BTreeMap::new();
    // Backwards, so that taking from the end takes the first.
    for document in documents.iter().rev() {
        found.entry(&document.hash).or_default().push(document);
    }
    found
}

/// Whether a smaller value of this metric is a better one.
#[must_use]
pub fn lower_is_better(metric: &str) -> bool {
    is_likelihood(metric) || metric.starts_with("brier") || metric.starts_with("ece")
}

/// A metric whose scores are nats per word or byte, so that only a single task has a mean.
pub(crate) fn is_likelihood(metric: &str) -> bool {
    metric.ends_with("perplexity") || metric == "bits_per_byte"
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_core::Outcome;

    fn document(name: &str, value: Option<f64>) -> ScoredDocument {
        let score = Score {
            metric: "acc".to_owned(),
            filter: "none".to_owned(),
            outcome: Outcome::Unscored,
            value,
            answer: None,
            weight: None,
            margin: None,
        };
        ScoredDocument { hash: Digest::of(name), scores: vec![score], label: None }
    }

    fn scored(values: &[Option<f64>]) -> Vec<ScoredDocument> {
        values.iter().enumerate().map(|(i, value)| document(&i.to_string(), *value)).collect()
    }

    const R: Option<f64> = Some(1.0);
    const W: Option<f64> = Some(0.0);

    #[test]
    fn undecided_answers_are_not_wrong() {
        let a = scored(&[R, W, None, R, None, W]);
        let b = scored(&[R, R, R, None, None, W]);
        let pairs = PairedScores::of(&a, &b, "acc", "none");
        let found = pairs.difference().unwrap();
        assert_eq!(found.n, 3);
        assert_eq!(found.agreement, Some(Agreement { both: 1, only_a: 0, only_b: 1, neither: 1 }));
        assert!((found.difference - 1.0 / 3.0).abs() < 1e-12);
        let out = found.left_out;
        assert_eq!((out.undecided_a, out.undecided_b, out.undecided_both), (1, 1, 1));
        // Decided: +1. Undecided: [0, 1], [-1, 0], [-1, 1].
        assert_eq!(found.bounds, Some([-1.0 / 6.0, 3.0 / 6.0]));
    }

    #[test]
    fn documents_pair_by_content_and_twins_in_order() {
        let a = vec![document("x", R), document("x", W), document("y", R)];
        let b = vec![document("z", R), document("x", R), document("x", R)];
        let pairs = PairedScores::of(&a, &b, "acc", "none");
        assert_eq!(pairs.pairs.iter().map(|p| (p.a, p.b)).collect::<Vec<_>>(), [(1.0, 1.0), (0.0, 1.0)]);
        assert_eq!((pairs.left_out.only_in_a, pairs.left_out.only_in_b), (1, 1));
    }

    #[test]
    fn equal_runs_are_not_certain_to_be_equal() {
        let a = scored(&[R, W, R, W, R]);
        let found = PairedScores::of(&a, &a, "acc", "none").difference().unwrap();
        assert_eq!((found.difference, found.p), (0.0, Some(1.0)));
        let [low, high] = found.ci95.unwrap();
        assert!(low < -0.3 && high > 0.3, "{low} {high}");
        assert!(found.detectable.is_some_and(|d| d > 0.3));
    }

    #[test]
    fn weights_make_a_weighted_mean_with_its_own_spread() {
        // import numpy as np; w = np.array([10, 30, 20.]); d = np.array([1, -1, .5]); D = (w * d).sum() / w.sum()
        // v = D + w / w.mean() * (d - D); print(D, v.mean(), v.std(ddof=1) / np.sqrt(3))
        let pair = |a: f64, b: f64, weight: f64| Pair { a, b, weight, label: None };
        let scores = PairedScores {
            pairs: vec![pair(2.0, 3.0, 10.0), pair(2.0, 1.0, 30.0), pair(1.0, 1.5, 20.0)],
            ..PairedScores::default()
        };
        let found = scores.difference().unwrap();
        assert!((found.difference - -1.0 / 6.0).abs() < 1e-12);
        assert!((found.stderr.unwrap() - 0.625_462_791_622_094_6).abs() < 1e-9, "{:?}", found.stderr);
        assert_eq!((found.test, found.agreement), (PairedTest::PairedT, None));
    }

    #[test]
    fn tasks_count_by_size_or_equally() {
        let pair = |b: f64| Pair { a: 0.0, b, weight: 1.0, label: None };
        let small = PairedScores { pairs: vec![pair(1.0)], ..PairedScores::default() };
        let large = PairedScores { pairs: vec![pair(0.0), pair(0.0), pair(0.0)], ..PairedScores::default() };
        let parts = [("small", small), ("large", large)];
        let by_size = PairedScores::together(&parts, true, false).difference().unwrap();
        assert_eq!((by_size.difference, by_size.test), (0.25, PairedTest::Mcnemar));
        let equally = PairedScores::together(&parts, false, false).difference().unwrap();
        assert_eq!((equally.difference, equally.test), (0.5, PairedTest::PairedT));
        let clustered = PairedScores::together(&parts, true, true).difference().unwrap();
        assert_eq!((clustered.clusters, clustered.test), (Some(2), PairedTest::ClusteredT));
    }
}
