use std::collections::BTreeMap;

use crate::linear_algebra::Square;
use crate::logistic::{sigmoid, softplus};
use crate::{SplitMix64, normal_quantile, quantile};

/// Points per factor of ten in the odds, as in chess and on Chatbot Arena.
const POINTS_PER_DECADE: f64 = 400.0;
/// The mean of all ratings.
const CENTRE: f64 = 1000.0;
const MOST_STEPS: usize = 200;
/// `arena-rank`'s `hessian_reg`.
const RIDGE_PER_BATTLE: f64 = 1e-5;

/// One comparison of two competitors, numbered from 0.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Battle {
    pub a: usize,
    pub b: usize,
    /// Share of the win that goes to `a`: 1, 0, 1/2 for a tie, or a probability.
    pub points_a: f64,
    pub weight: f64,
}

impl Battle {
    #[must_use]
    pub fn new(a: usize, b: usize, points_a: f64) -> Self {
        Self { a, b, points_a, weight: 1.0 }
    }
}

/// A competitor's rating.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rating {
    /// 1000 + 400 log10(odds against the average competitor).
    pub rating: f64,
    pub stderr: f64,
    /// From the sandwich covariance.
    pub interval: [f64; 2],
}

/// Ratings with their joint uncertainty.
#[derive(Clone, Debug, PartialEq)]
pub struct Ratings {
    pub competitors: Vec<Rating>,
    /// Sandwich covariance of the ratings.
    covariance: Square,
}

impl Ratings {
    /// Of natural-log strengths with mean 0 and their covariance.
    pub(crate) fn of(strengths: &[f64], covariance: &Square, level: f64) -> Option<Self> {
        let z = normal_quantile(0.5 + level / 2.0)?;
        let per_nat = POINTS_PER_DECADE / std::f64::consts::LN_10;
        let mut scaled = Square::zero(strengths.len());
        for row in 0..strengths.len() {
            for column in 0..strengths.len() {
                scaled.add(row, column, covariance.at(row, column) * per_nat * per_nat);
            }
        }
        let competitors = strengths.iter().enumerate().map(|(index, strength)| {
            let (rating, stderr) = (CENTRE + strength * per_nat, scaled.at(index, index).max(0.0).sqrt());
            Rating { rating, stderr, interval: [rating - z * stderr, rating + z * stderr] }
        });
        Some(Self { competitors: competitors.collect(), covariance: scaled })
    }

    /// Standard error of the difference of two ratings.
    ///
    /// # Panics
    /// For a competitor that is none.
    #[must_use]
    pub fn stderr_of_difference(&self, a: usize, b: usize) -> f64 {
        let c = &self.covariance;
        (c.at(a, a) + c.at(b, b) - 2.0 * c.at(a, b)).max(0.0).sqrt()
    }
}

/// Bradley-Terry ratings (Bradley and Terry 1952, Biometrika 39:324): the maximum of
/// `sum w (y d - ln(1 + e^d))`, `d = r_a - r_b`, with the ratings' mean fixed, and the sandwich covariance
/// H^-1 G H^-1 with H the information and G the sum of outer products of scores (White 1982), as
/// `arena-rank` 0.1.1 computes them (`models/bradley_terry.py`). A tie counts as half a win for each.
///
/// `clusters` number, for each battle, what it shares noise with (its prompt). The scores of a cluster are summed
/// before they are squared (Liang and Zeger 1986, Biometrika 73:13), and the covariance is raised by G / (G - k)
/// for G clusters and k free ratings, as the bias of so few asks for.
///
/// `None` for fewer than two competitors, and where not everybody can be reached from everybody by a chain of
/// wins (ties count both ways): then no finite ratings exist (Ford 1957, American Mathematical Monthly 64:28).
/// Also for no more clusters than free ratings, of which no covariance can be estimated.
#[must_use]
pub fn bradley_terry(
    count: usize,
    battles: &[Battle],
    clusters: Option<&[usize]>,
    level: f64,
) -> Option<Ratings> {
    let strengths = strengths(count, battles)?;
    let covariance = sandwich(count, battles, clusters, &strengths)?;
    Ratings::of(&strengths, &covariance, level)
}

/// Percentile intervals of all ratings over resampled units of battles (those of one prompt, say), as the
/// bootstrap of Chatbot Arena does with single battles. Replicates without finite ratings are left out, and
/// their number is the second result. `None` for fewer than two usable replicates.
#[must_use]
pub fn bootstrap_ratings(
    count: usize,
    units: &[Vec<Battle>],
    (resamples, seed, level): (u32, u64, f64),
) -> Option<(Vec<[f64; 2]>, u32)> {
    let mut random = SplitMix64::new(seed);
    let mut found: Vec<Vec<f64>> = vec![Vec::new(); count];
    let mut left_out = 0;
    let per_nat = POINTS_PER_DECADE / std::f64::consts::LN_10;
    for _ in 0..resamples {
        let drawn = (0..units.len()).map(|_| random.below(units.len() as u64) as usize);
        let battles: Vec<Battle> = drawn.flat_map(|unit| units[unit].iter().copied()).collect();
        match strengths(count, &battles) {
            Some(strengths) => {
                for (ratings, strength) in found.iter_mut().zip(strengths) {
                    ratings.push(CENTRE + strength * per_nat);
                }
            }
            None => left_out += 1,
        }
    }
    let tail = (1.0 - level) / 2.0;
    let interval = |ratings: &mut Vec<f64>| {
        ratings.sort_by(f64::total_cmp);
        if ratings.len() < 2 {
            None
        } else {
            Some([quantile(ratings, tail)?, quantile(ratings, 1.0 - tail)?])
        }
    };
    Some((found.iter_mut().map(interval).collect::<Option<_>>()?, left_out))
}

/// Natural-log strengths with mean 0.
fn strengths(count: usize, battles: &[Battle]) -> Option<Vec<f64>> {
    let battles = summed(count, battles)?;
    if count < 2 || !all_connected(count, &battles) {
        return None;
    }
    let mut r = vec![0.0; count];
    let objective = |r: &[f64]| -> f64 {
        battles.iter().map(|b| b.weight * (b.points_a * (r[b.a] - r[b.b]) - softplus(r[b.a] - r[b.b]))).sum()
    };
    let mut reached = objective(&r);
    for _ in 0..MOST_STEPS {
        let mut gradient = vec![0.0; count];
        for battle in &battles {
            let residual = battle.weight * (battle.points_a - sigmoid(r[battle.a] - r[battle.b]));
            gradient[battle.a] += residual;
            gradient[battle.b] -= residual;
        }
        let step = anchored(information(count, &battles, &r)).cholesky()?.solve(&gradient);
        let mut scale = 1.0;
        let next = loop {
            let next: Vec<f64> = r.iter().zip(&step).map(|(r, s)| r + scale * s).collect();
            if objective(&next) >= reached - 1e-12 * reached.abs() || scale < 1e-8 {
                break next;
            }
            scale /= 2.0;
        };
        let moved = step.iter().map(|s| (scale * s).abs()).fold(0.0, f64::max);
        reached = objective(&next);
        r = next;
        if moved < 1e-13 {
            break;
        }
    }
    let mean = r.iter().sum::<f64>() / count as f64;
    Some(r.iter().map(|r| r - mean).collect())
}

/// Equal comparisons together: a handful of numbers for thousands of battles. `None` for a battle that is none.
pub(crate) fn summed(count: usize, battles: &[Battle]) -> Option<Vec<Battle>> {
    let mut sums: BTreeMap<(usize, usize), (f64, f64)> = BTreeMap::new();
    for battle in battles {
        let sound = battle.a < count && battle.b < count && battle.a != battle.b;
        let weighted = battle.weight >= 0.0 && battle.weight.is_finite();
        if !sound || !weighted || !(0.0..=1.0).contains(&battle.points_a) {
            return None;
        }
        let swap = battle.a > battle.b;
        let (pair, points) = match swap {
            true => ((battle.b, battle.a), 1.0 - battle.points_a),
            false => ((battle.a, battle.b), battle.points_a),
        };
        let (weight, won) = sums.entry(pair).or_default();
        *weight += battle.weight;
        *won += battle.weight * points;
    }
    let battle = |((a, b), (weight, won)): ((usize, usize), (f64, f64))| Battle {
        a,
        b,
        points_a: won / weight,
        weight,
    };
    Some(sums.into_iter().filter(|(_, (weight, _))| *weight > 0.0).map(battle).collect())
}

/// Everybody beats everybody through a chain of (partial) wins.
pub(crate) fn all_connected(count: usize, battles: &[Battle]) -> bool {
    let reaches_all = |wins: &dyn Fn(&Battle) -> Option<(usize, usize)>| {
        let mut reached = vec![false; count];
        reached[0] = true;
        let mut open = vec![0];
        while let Some(from) = open.pop() {
            for (winner, loser) in battles.iter().flat_map(|b| [wins(b), wins(&b.turned())]).flatten() {
                if winner == from && !reached[loser] {
                    reached[loser] = true;
                    open.push(loser);
                }
            }
        }
        reached.into_iter().all(|reached| reached)
    };
    reaches_all(&|b| (b.points_a > 0.0).then_some((b.a, b.b)))
        && reaches_all(&|b| (b.points_a > 0.0).then_some((b.b, b.a)))
}

impl Battle {
    fn turned(self) -> Self {
        Self { a: self.b, b: self.a, points_a: 1.0 - self.points_a, weight: self.weight }
    }
}

fn information(count: usize, battles: &[Battle], r: &[f64]) -> Square {
    let mut information = Square::zero(count);
    for battle in battles {
        let p = sigmoid(r[battle.a] - r[battle.b]);
        let weight = battle.weight * p * (1.0 - p);
        information.add(battle.a, battle.a, weight);
        information.add(battle.b, battle.b, weight);
        information.add(battle.a, battle.b, -weight);
        information.add(battle.b, battle.a, -weight);
    }
    information
}

/// Only differences of strengths are determined. Curvature along the common direction fixes their mean and
/// changes nothing else.
fn anchored(mut information: Square) -> Square {
    let count = information.size();
    let mean = (0..count).map(|i| information.at(i, i)).sum::<f64>() / count as f64;
    for row in 0..count {
        for column in 0..count {
            information.add(row, column, mean / count as f64);
        }
    }
    information
}

/// H^-1 G H^-1, with H raised by 1e-5 for each battle as `arena-rank` raises it.
fn sandwich(count: usize, battles: &[Battle], clusters: Option<&[usize]>, r: &[f64]) -> Option<Square> {
    let mut information = information(count, battles, r);
    for index in 0..count {
        information.add(index, index, RIDGE_PER_BATTLE * battles.len() as f64);
    }
    let inverse = information.inverse()?;
    let mut scores: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for (index, battle) in battles.iter().enumerate() {
        let score = battle.weight * (battle.points_a - sigmoid(r[battle.a] - r[battle.b]));
        let cluster = clusters.map_or(Some(index), |clusters| clusters.get(index).copied())?;
        let sum = scores.entry(cluster).or_insert_with(|| vec![0.0; count]);
        sum[battle.a] += score;
        sum[battle.b] -= score;
    }
    let factor = match clusters {
        Some(_) => few_clusters(scores.len(), count - 1)?,
        None => 1.0,
    };
    let mut meat = Square::zero(count);
    for score in scores.values() {
        meat.add_outer(score, factor);
    }
    Some(inverse.product(&meat).product(&inverse))
}

/// G / (G - k): raises a covariance of G clusters and k free numbers, which is too small for few. `None` where it says
/// nothing.
pub(crate) fn few_clusters(clusters: usize, free: usize) -> Option<f64> {
    (clusters > free).then(|| clusters as f64 / (clusters - free) as f64)
}

#[cfg(test)]
mod tests;
