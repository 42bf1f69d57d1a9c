use crate::finite;
use crate::linear_algebra::Square;

/// Newton steps after which a fit that has not settled is given up: it doubles its precision with each.
const MOST_STEPS: usize = 100;
/// Coefficients beyond this mean that the data can be separated: the likelihood has no maximum.
const LARGEST: f64 = 30.0;

/// One observation of a logistic regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Observation {
    pub features: Vec<f64>,
    /// What was observed, 0 to 1; in between it is a share (of a tie, of probability).
    pub target: f64,
    pub weight: f64,
}

/// A fitted logistic regression.
#[derive(Clone, Debug, PartialEq)]
pub struct Logistic {
    pub coefficients: Vec<f64>,
    /// Inverse of the weighted information (and ridge): right if targets are Bernoulli with the fitted probabilities.
    pub covariance: Square,
    /// Huber-White sandwich (White 1982, Econometrica 50:1; statsmodels' `HC0`): right if only the mean is.
    /// Of clusters where observations come in such.
    pub sandwich: Square,
}

/// Maximum of `sum w (y d - ln(1 + e^d))` with `d = x . beta`: logistic regression without intercept (give a
/// constant feature for one), by Newton's method with halved steps. `clusters` holds, for each observation,
/// the number of what it shares noise with.
///
/// `None` without observations, for features that depend on one another, and for data that can be separated
/// (Albert and Anderson 1984, Biometrika 71:1: no maximum exists).
#[must_use]
pub fn logistic(observations: &[Observation], clusters: Option<&[usize]>) -> Option<Logistic> {
    ridge_logistic(observations, clusters, &[])
}

/// [`logistic`] with `sum ridge_i beta_i^2 / 2` taken from what is maximal (le Cessie and van Houwelingen 1992,
/// Applied Statistics 41:191). `ridge` holds a number for each coefficient, none for those at the end that have
/// none. The sandwich is that of the shrunk coefficients: inverse of information and ridge on both sides of the
/// outer products of the likelihood's own scores.
///
/// `None` as there; with a ridge on what separates the data the maximum exists.
#[must_use]
pub fn ridge_logistic(
    observations: &[Observation],
    clusters: Option<&[usize]>,
    ridge: &[f64],
) -> Option<Logistic> {
    let size = observations.first()?.features.len();
    let sound = |o: &Observation| {
        o.features.len() == size && o.weight >= 0.0 && o.weight.is_finite() && (0.0..=1.0).contains(&o.target)
    };
    if size == 0 || ridge.len() > size || !observations.iter().all(sound) {
        return None;
    }
    let fit = Fit { observations, ridge };
    let mut beta = vec![0.0; size];
    let mut likelihood = fit.log_likelihood(&beta);
    for _ in 0..MOST_STEPS {
        let (gradient, information) = fit.derivatives(&beta);
        let step = information.cholesky()?.solve(&gradient);
        let mut scale = 1.0;
        let (next, reached) = loop {
            let next: Vec<f64> = beta.iter().zip(&step).map(|(b, s)| b + scale * s).collect();
            let reached = fit.log_likelihood(&next);
            if reached >= likelihood - 1e-12 * likelihood.abs() || scale < 1e-8 {
                break (next, reached);
            }
            scale /= 2.0;
        };
        let moved = step.iter().map(|s| (scale * s).abs()).fold(0.0, f64::max);
        (beta, likelihood) = (next, reached);
        if beta.iter().any(|b| b.is_nan() || b.abs() > LARGEST) {
            return None;
        }
        if moved < 1e-13 {
            break;
        }
    }
    let (_, information) = fit.derivatives(&beta);
    let covariance = information.inverse()?;
    let meat = meat(observations, &beta, clusters);
    let sandwich = covariance.product(&meat).product(&covariance);
    Some(Logistic { coefficients: beta, covariance, sandwich })
}

/// 1 / (1 + e^-x), without overflow.
#[must_use]
pub fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 { 1.0 / (1.0 + (-x).exp()) } else { x.exp() / (1.0 + x.exp()) }
}

/// ln(1 + e^x), without overflow.
pub(crate) fn softplus(x: f64) -> f64 {
    x.max(0.0) + (-x.abs()).exp().ln_1p()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// What is fitted.
struct Fit<'a> {
    observations: &'a [Observation],
    ridge: &'a [f64],
}

impl Fit<'_> {
    /// Of the data, less the ridge.
    fn log_likelihood(&self, beta: &[f64]) -> f64 {
        let term = |o: &Observation| {
            let d = dot(&o.features, beta);
            o.weight * (o.target * d - softplus(d))
        };
        let shrunk: f64 = self.ridge.iter().zip(beta).map(|(ridge, b)| ridge * b * b / 2.0).sum();
        let likelihood = self.observations.iter().map(term).sum::<f64>() - shrunk;
        finite(likelihood).unwrap_or(f64::NEG_INFINITY)
    }

    /// Gradient of that, and its negative Hessian.
    fn derivatives(&self, beta: &[f64]) -> (Vec<f64>, Square) {
        let mut gradient = vec![0.0; beta.len()];
        let mut information = Square::zero(beta.len());
        for o in self.observations {
            let p = sigmoid(dot(&o.features, beta));
            for (g, x) in gradient.iter_mut().zip(&o.features) {
                *g += o.weight * (o.target - p) * x;
            }
            information.add_outer(&o.features, o.weight * p * (1.0 - p));
        }
        for (index, (ridge, b)) in self.ridge.iter().zip(beta).enumerate() {
            gradient[index] -= ridge * b;
            information.add(index, index, *ridge);
        }
        (gradient, information)
    }
}

/// Sum over observations (or clusters) of the outer product of their scores.
fn meat(observations: &[Observation], beta: &[f64], clusters: Option<&[usize]>) -> Square {
    let own: Vec<usize> = (0..observations.len()).collect();
    let clusters = clusters.filter(|c| c.len() == observations.len()).unwrap_or(&own);
    let mut scores: std::collections::BTreeMap<usize, Vec<f64>> = std::collections::BTreeMap::new();
    for (o, cluster) in observations.iter().zip(clusters) {
        let residual = o.weight * (o.target - sigmoid(dot(&o.features, beta)));
        let sum = scores.entry(*cluster).or_insert_with(|| vec![0.0; beta.len()]);
        for (s, x) in sum.iter_mut().zip(&o.features) {
            *s += residual * x;
        }
    }
    let mut meat = Square::zero(beta.len());
    for score in scores.values() {
        meat.add_outer(score, 1.0);
    }
    meat
}
