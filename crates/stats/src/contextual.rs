use crate::bradley_terry::{all_connected, few_clusters, summed};
use crate::linear_algebra::Square;
use crate::logistic::{Observation, ridge_logistic};
use crate::{Battle, Ratings, normal_quantile};

/// A comparison of two competitors, and what else may have decided it.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextualBattle {
    pub battle: Battle,
    /// By how much A had more than B of each thing: of opposite sign with the sides exchanged. All battles have as many.
    pub context: Vec<f64>,
}

/// What one thing besides the competitors does to who wins.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ContextEffect {
    /// Log-odds for the side that has one unit more of it.
    pub value: f64,
    pub stderr: f64,
    /// From the sandwich covariance.
    pub interval: [f64; 2],
}

/// Ratings with the effects of context taken out.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextualRatings {
    pub ratings: Ratings,
    pub effects: Vec<ContextEffect>,
}

/// Bradley-Terry ratings beside a context, the maximum of
///
/// ```text
/// sum w (y d - ln(1 + e^d)) - ridge / 2 * sum c_k^2,   d = r_a - r_b + sum c_k x_k
/// ```
///
/// with the ratings' mean fixed: Chatbot Arena's style control (LMSYS 2024; `ContextualBradleyTerry` of `arena-rank` 0.1.1,
/// whose `reg` is ridge / n, since its likelihood is a mean). Intervals are those of the sandwich covariance of ratings
/// and effects together, with information and ridge inside; `clusters` number what battles share, and raise it as in
/// [`crate::bradley_terry`].
///
/// `None` as there, and for contexts of several lengths or without a battle.
#[must_use]
pub fn contextual_bradley_terry(
    count: usize,
    battles: &[ContextualBattle],
    clusters: Option<&[usize]>,
    (ridge, level): (f64, f64),
) -> Option<ContextualRatings> {
    let width = battles.first()?.context.len();
    let plain: Vec<Battle> = battles.iter().map(|battle| battle.battle).collect();
    if count < 2 || !all_connected(count, &summed(count, &plain)?) {
        return None;
    }
    // The last competitor is the zero of the scale.
    let free = count - 1;
    let observations: Vec<Observation> = battles.iter().map(|battle| observation(battle, free)).collect();
    let ridges: Vec<f64> = (0..free + width).map(|index| if index < free { 0.0 } else { ridge }).collect();
    let fit = ridge_logistic(&observations, clusters, &ridges)?;
    let factor = match clusters {
        Some(clusters) => {
            let distinct: std::collections::BTreeSet<&usize> = clusters.iter().collect();
            few_clusters(distinct.len(), free + width)?
        }
        None => 1.0,
    };
    let z = normal_quantile(0.5 + level / 2.0)?;
    let effect = |index: usize| {
        let (value, variance) = (fit.coefficients[index], fit.sandwich.at(index, index) * factor);
        let stderr = variance.max(0.0).sqrt();
        ContextEffect { value, stderr, interval: [value - z * stderr, value + z * stderr] }
    };
    let (strengths, covariance) = centred(&fit.coefficients[..free], &fit.sandwich, factor);
    Some(ContextualRatings {
        ratings: Ratings::of(&strengths, &covariance, level)?,
        effects: (free..free + width).map(effect).collect(),
    })
}

fn observation(battle: &ContextualBattle, free: usize) -> Observation {
    let Battle { a, b, points_a, weight } = battle.battle;
    let mut features = vec![0.0; free];
    for (competitor, sign) in [(a, 1.0), (b, -1.0)] {
        if let Some(feature) = features.get_mut(competitor) {
            *feature += sign;
        }
    }
    features.extend_from_slice(&battle.context);
    Observation { features, target: points_a, weight }
}

/// Strengths over the last competitor's as strengths with mean 0, and `factor` times their covariance.
fn centred(over_last: &[f64], covariance: &Square, factor: f64) -> (Vec<f64>, Square) {
    let (free, count) = (over_last.len(), over_last.len() + 1);
    let share = 1.0 / count as f64;
    let mean = over_last.iter().sum::<f64>() * share;
    let strengths = over_last.iter().chain(&[0.0]).map(|strength| strength - mean).collect();
    let weight = |row: usize, column: usize| f64::from(u8::from(row == column)) - share;
    let mut centred = Square::zero(count);
    for row in 0..count {
        for column in 0..count {
            let mut sum = 0.0;
            for (i, j) in (0..free).flat_map(|i| (0..free).map(move |j| (i, j))) {
                sum += weight(row, i) * covariance.at(i, j) * weight(column, j);
            }
            centred.add(row, column, sum * factor);
        }
    }
    (strengths, centred)
}

#[cfg(test)]
mod tests;
