//! What a ranking is worth, by the definitions of trec_eval.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Grades of the documents that were judged for one query. A grade above 0 means relevant.
pub type Judgements = BTreeMap<String, i64>;

/// Metrics of one query, or their plain means over queries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RetrievalMetrics {
    /// `ndcg_cut_10`: gain = grade, discount 1 / log2(rank + 1), ideal ranking from the judgements (Järvelin
    /// & Kekäläinen 2002, doi 10.1145/582415.582418).
    #[serde(rename = "ndcg@10")]
    pub ndcg_at_10: f64,
    /// Share of the relevant documents among the first 10.
    #[serde(rename = "recall@10")]
    pub recall_at_10: f64,
    #[serde(rename = "recall@100")]
    pub recall_at_100: f64,
    /// Mean of the precision at the rank of each relevant document, those not found counting 0; rankings
    /// are read to [`Self::DEPTH`].
    pub map: f64,
    /// 1 / rank of the first relevant document, 0 where it is beyond 10.
    #[serde(rename = "mrr@10")]
    pub mrr_at_10: f64,
}

impl RetrievalMetrics {
    /// How much of a ranking counts.
    pub const DEPTH: usize = 1000;

    /// `ranking`: document ids, best first, none twice. `None` for a query without a relevant document:
    /// nothing can be found, so nothing can be said.
    #[must_use]
    pub fn of(ranking: &[&str], judgements: &Judgements) -> Option<Self> {
        let relevant = judgements.values().filter(|grade| **grade > 0).count();
        if relevant == 0 {
            return None;
        }
        let grades: Vec<i64> = ranking
            .iter()
            .take(Self::DEPTH)
            .map(|id| judgements.get(*id).copied().unwrap_or(0).max(0))
            .collect();
        let found = |depth: usize| grades.iter().take(depth).filter(|grade| **grade > 0).count();
        let first = grades.iter().take(10).position(|grade| *grade > 0);
        Some(Self {
            ndcg_at_10: gain(&grades) / ideal_gain(judgements),
            recall_at_10: found(10) as f64 / relevant as f64,
            recall_at_100: found(100) as f64 / relevant as f64,
            map: precision_sum(&grades) / relevant as f64,
            mrr_at_10: first.map_or(0.0, |position| 1.0 / (position + 1) as f64),
        })
    }

    /// `None` over no query.
    #[must_use]
    pub fn mean<'a>(queries: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let queries: Vec<&Self> = queries.into_iter().collect();
        let mean = |field: fn(&Self) -> f64| {
            evalign_stats::mean(&queries.iter().map(|query| field(query)).collect::<Vec<_>>())
        };
        Some(Self {
            ndcg_at_10: mean(|query| query.ndcg_at_10)?,
            recall_at_10: mean(|query| query.recall_at_10)?,
            recall_at_100: mean(|query| query.recall_at_100)?,
            map: mean(|query| query.map)?,
            mrr_at_10: mean(|query| query.mrr_at_10)?,
        })
    }

    /// The metric of this name, as it is written in JSON.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<f64> {
        match name {
            "ndcg@10" => Some(self.ndcg_at_10),
            "recall@10" => Some(self.recall_at_10),
            "recall@100" => Some(self.recall_at_100),
            "map" => Some(self.map),
            "mrr@10" => Some(self.mrr_at_10),
            _ => None,
        }
    }

    /// Names for [`Self::get`].
    pub const NAMES: [&str; 5] = ["ndcg@10", "recall@10", "recall@100", "map", "mrr@10"];
}

fn gain(grades: &[i64]) -> f64 {
    grades.iter().take(10).enumerate().map(|(i, grade)| *grade as f64 / ((i + 2) as f64).log2()).sum()
}

fn ideal_gain(judgements: &Judgements) -> f64 {
    let mut grades: Vec<i64> = judgements.values().copied().filter(|grade| *grade > 0).collect();
    grades.sort_by(|a, b| b.cmp(a));
    gain(&grades)
}

fn precision_sum(grades: &[i64]) -> f64 {
    let mut found = 0.0;
    let mut sum = 0.0;
    for (i, grade) in grades.iter().enumerate() {
        if *grade > 0 {
            found += 1.0;
            sum += found / (i + 1) as f64;
        }
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(grades: &[(&str, i64)]) -> Judgements {
        grades.iter().map(|(id, grade)| ((*id).to_owned(), *grade)).collect()
    }

    // import pytrec_eval  # pytrec_eval-terrier 0.5.11
    // q = {'q': {'a': 3, 'b': 1, 'c': 0, 'd': 2}}; r = {'q': {'x': 5, 'b': 4, 'c': 3, 'a': 2}}
    // print(pytrec_eval.RelevanceEvaluator(q, {'ndcg_cut_10', 'map', 'recall_10'}).evaluate(r))
    #[test]
    fn values_of_trec_eval() {
        let metrics =
            RetrievalMetrics::of(&["x", "b", "c", "a"], &judged(&[("a", 3), ("b", 1), ("c", 0), ("d", 2)]))
                .unwrap();
        let dcg = 1.0 / 3f64.log2() + 3.0 / 5f64.log2();
        let ideal = 3.0 + 2.0 / 3f64.log2() + 1.0 / 4f64.log2();
        assert!((metrics.ndcg_at_10 - dcg / ideal).abs() < 1e-12);
        assert!((metrics.map - (0.5 + 0.5) / 3.0).abs() < 1e-12);
        assert!((metrics.recall_at_10 - 2.0 / 3.0).abs() < 1e-12);
        assert!((metrics.mrr_at_10 - 0.5).abs() < 1e-12);
    }

    #[test]
    fn nothing_found_is_zero_and_nothing_to_find_is_absent() {
        let nothing = RetrievalMetrics::of(&[], &judged(&[("a", 1)])).unwrap();
        assert_eq!(nothing, RetrievalMetrics::default());
        assert_eq!(RetrievalMetrics::of(&["a"], &judged(&[("a", 0)])), None);
        assert_eq!(RetrievalMetrics::mean([]), None);
    }

    #[test]
    fn every_name_is_a_metric_and_a_field() {
        let json = serde_json::to_value(RetrievalMetrics::default()).unwrap();
        for name in RetrievalMetrics::NAMES {
            assert_eq!(RetrievalMetrics::default().get(name), Some(0.0));
            assert!(json.get(name).is_some(), "{name}");
        }
    }
}
