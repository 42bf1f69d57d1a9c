//! One list of several: by ranks or by scores, with a fixed order of ties.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Scored;

/// How the lists of several legs become one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Fusion {
    /// Reciprocal rank fusion (Cormack, Clarke, Buettcher 2009, doi 10.1145/1571941.1572114): the sum of
    /// 1 / (k + rank), rank from 1. Their k is 60. (Qdrant's own k is 2, and its 61 is this 60.)
    Rrf { k: f64 },
    /// The sum of scores that were scaled to [0, 1] by the least and the greatest of each list.
    MinMax,
    /// Distribution-based score fusion, as Qdrant does it: scaled by mean - 3 and mean + 3 sample standard
    /// deviations of each list, which outliers move less than the extremes.
    Dbsf,
}

impl Default for Fusion {
    fn default() -> Self {
        Self::Rrf { k: 60.0 }
    }
}

/// What one list gave to a hit.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Which list, from 0.
    pub leg: usize,
    /// From 1.
    pub rank: usize,
    /// In the list itself.
    pub score: f64,
    /// In the fused score.
    pub share: f64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Fused {
    pub id: Uuid,
    /// Sum of the shares.
    pub score: f64,
    /// At most one per list, in the order of the lists.
    pub shares: Vec<Share>,
}

impl Fusion {
    /// Lists come best first; `weights` multiply the shares of each list and count as 1 where they are
    /// missing. Hits whose scores agree to 12 decimals are in the order of their ids, so the result does
    /// not depend on how an engine orders ties within equal ranks of different lists.
    #[must_use]
    pub fn fuse(self, legs: &[Vec<Scored>], weights: &[f64]) -> Vec<Fused> {
        let mut fused: BTreeMap<Uuid, Fused> = BTreeMap::new();
        for (leg, hits) in legs.iter().enumerate() {
            let weight = weights.get(leg).copied().unwrap_or(1.0);
            let scale = self.scale(hits);
            for (position, hit) in hits.iter().enumerate() {
                let rank = position + 1;
                let score = f64::from(hit.score);
                let share = weight * scale.share(rank, score);
                let entry = fused.entry(hit.id).or_insert_with(|| Fused {
                    id: hit.id,
                    score: 0.0,
                    shares: Vec::new(),
                });
                entry.score += share;
                entry.shares.push(Share { leg, rank, score, share });
            }
        }
        let mut fused: Vec<Fused> = fused.into_values().collect();
        fused.sort_by(|a, b| decimals(b.score).total_cmp(&decimals(a.score)).then_with(|| a.id.cmp(&b.id)));
        fused
    }

    fn scale(self, hits: &[Scored]) -> Scale {
        let scores = || hits.iter().map(|hit| f64::from(hit.score));
        match self {
            Self::Rrf { k } => Scale::Ranks { k },
            Self::MinMax => Scale::Linear {
                low: scores().fold(f64::INFINITY, f64::min),
                high: scores().fold(f64::NEG_INFINITY, f64::max),
            },
            Self::Dbsf => {
                let scores: Vec<f64> = scores().collect();
                let spread = 3.0 * evalign_stats::sample_std(&scores).unwrap_or(0.0);
                let mean = evalign_stats::mean(&scores).unwrap_or(0.0);
                Scale::Linear { low: mean - spread, high: mean + spread }
            }
        }
    }
}

enum Scale {
    Ranks { k: f64 },
    Linear { low: f64, high: f64 },
}

impl Scale {
    fn share(&self, rank: usize, score: f64) -> f64 {
        match *self {
            Self::Ranks { k } => 1.0 / (k + rank as f64),
            // A list whose scores are all equal says nothing about their order.
            Self::Linear { low, high } if high <= low => 0.5,
            Self::Linear { low, high } => (score - low) / (high - low),
        }
    }
}

/// To 12 decimals: what sums of the same shares in another order have in common.
fn decimals(score: f64) -> f64 {
    (score * 1e12).round()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(hits: &[(u128, f32)]) -> Vec<Scored> {
        hits.iter().map(|(id, score)| Scored { id: Uuid::from_u128(*id), score: *score }).collect()
    }

    fn order(fused: &[Fused]) -> Vec<u128> {
        fused.iter().map(|hit| hit.id.as_u128()).collect()
    }

    #[test]
    fn reciprocal_ranks_are_summed_and_ties_are_in_the_order_of_ids() {
        let legs = [list(&[(3, 9.0), (1, 8.0), (4, 1.0)]), list(&[(1, 0.9), (3, 0.8), (2, 0.1)])];
        let fused = Fusion::default().fuse(&legs, &[]);
        assert_eq!(order(&fused), [1, 3, 2, 4]);
        assert!((fused[0].score - (1.0 / 62.0 + 1.0 / 61.0)).abs() < 1e-15);
        assert_eq!(fused[2].shares, [Share { leg: 1, rank: 3, score: 0.1f32.into(), share: 1.0 / 63.0 }]);
    }

    #[test]
    fn weights_multiply_a_leg() {
        let legs = [list(&[(1, 9.0)]), list(&[(2, 0.9)])];
        assert_eq!(order(&Fusion::default().fuse(&legs, &[1.0, 1.5])), [2, 1]);
        assert_eq!(order(&Fusion::MinMax.fuse(&legs, &[1.0, 1.5])), [2, 1]);
    }

    /// Qdrant's score_fusion.rs (qdrant-edge 0.7.2) on the same lists; one hit or equal scores count 0.5.
    #[test]
    fn distribution_based_scores_are_qdrants() {
        let legs = [list(&[(1, 3.0), (2, 2.0), (3, 1.0)]), list(&[(3, 0.7)]), list(&[(2, 1.0), (1, 1.0)])];
        let fused = Fusion::Dbsf.fuse(&legs, &[]);
        let score = |id| fused.iter().find(|hit| hit.id.as_u128() == id).unwrap().score;
        assert!((score(1) - (4.0 / 6.0 + 0.5)).abs() < 1e-12);
        assert!((score(2) - (3.0 / 6.0 + 0.5)).abs() < 1e-12);
        assert!((score(3) - (2.0 / 6.0 + 0.5)).abs() < 1e-12);
    }

    proptest! {
        /// Which list comes first changes neither scores nor order.
        #[test]
        fn the_order_of_legs_does_not_matter(
            a in prop::collection::btree_map(0u128..30, 0.0f32..9.0, 0..20),
            b in prop::collection::btree_map(0u128..30, 0.0f32..9.0, 0..20),
        ) {
            let sorted = |scores: std::collections::BTreeMap<u128, f32>| {
                let mut hits = list(&scores.into_iter().collect::<Vec<_>>());
                Scored::sort(&mut hits);
                hits
            };
            let (a, b) = (sorted(a), sorted(b));
            for fusion in [Fusion::default(), Fusion::MinMax, Fusion::Dbsf] {
                let there = fusion.fuse(&[a.clone(), b.clone()], &[]);
                let back = fusion.fuse(&[b.clone(), a.clone()], &[]);
                prop_assert_eq!(order(&there), order(&back));
                prop_assert!(there.iter().all(|hit| hit.score.is_finite()));
            }
        }
    }
}
