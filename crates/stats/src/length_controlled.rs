use crate::logistic::{Observation, logistic, sigmoid};
use crate::{finite, normal_quantile};

/// A win rate with the effect of length taken out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthControlled {
    /// Probability to win against an answer of equal length.
    pub win_rate: f64,
    pub interval: [f64; 2],
    /// Change of the log-odds to win when the length difference goes from 0 to far above its standard
    /// deviation (the feature is a tanh).
    pub length_coefficient: f64,
    pub length_interval: [f64; 2],
}

/// One comparison: how much of the win went to the first side, and how much longer its answer was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LengthBattle {
    pub points: f64,
    pub length_difference: f64,
}

/// Length-controlled win rate in its two-feature form: a logistic regression of the win on a constant and on
/// tanh(dlen / std(dlen)), read at dlen = 0 (Dubois et al. 2024, arXiv 2404.04475, equation 2 without the
/// difficulty of instructions, which takes a fit over many models). Intervals are those of the sandwich
/// covariance; `clusters` number what battles share (their prompt).
///
/// `None` where all lengths differ by the same, or where one side wins everything.
#[must_use]
pub fn length_controlled(
    battles: &[LengthBattle],
    clusters: Option<&[usize]>,
    level: f64,
) -> Option<LengthControlled> {
    let lengths: Vec<f64> = battles.iter().map(|battle| battle.length_difference).collect();
    let n = lengths.len() as f64;
    let centre = lengths.iter().sum::<f64>() / n;
    let spread = finite((lengths.iter().map(|l| (l - centre).powi(2)).sum::<f64>() / n).sqrt())?;
    if spread <= 0.0 {
        return None;
    }
    let observation = |battle: &LengthBattle| Observation {
        features: vec![1.0, (battle.length_difference / spread).tanh()],
        target: battle.points,
        weight: 1.0,
    };
    let observations: Vec<Observation> = battles.iter().map(observation).collect();
    let fit = logistic(&observations, clusters)?;
    let z = normal_quantile(0.5 + level / 2.0)?;
    let bounds = |index: usize| {
        let (value, half) = (fit.coefficients[index], z * fit.sandwich.at(index, index).max(0.0).sqrt());
        [value - half, value + half]
    };
    let [low, high] = bounds(0);
    Some(LengthControlled {
        win_rate: sigmoid(fit.coefficients[0]),
        interval: [sigmoid(low), sigmoid(high)],
        length_coefficient: fit.coefficients[1],
        length_interval: bounds(1),
    })
}

#[cfg(test)]
mod tests;
