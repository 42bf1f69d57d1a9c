//! When to say nothing.

use serde::Serialize;

/// How sure an answer has to be to be given: the score of its best evidence.
///
/// The lowest threshold at which no more than [`CALIBRATED_RISK`] of the answers are wrong on the questions of XQuAD
/// (English) whose digest is even, each asked once with its paragraph in the index and once without. A test measures
/// the other half (`quotes_hold_answers_and_what_is_not_there_is_left_alone`).
pub const DEFAULT_THRESHOLD: f64 = 0.44;

/// Share of wrong answers that the default threshold allows, where half of the questions have no answer.
pub const CALIBRATED_RISK: f64 = 0.25;

/// A point of the risk-coverage curve (El-Yaniv and Wiener 2010, "On the Foundations of Noise-free Selective
/// Classification", section 2): answering what is at least this sure answers this share, and is wrong on this
/// share of what it answers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct RiskPoint {
    pub threshold: f64,
    pub coverage: f64,
    pub risk: f64,
}

/// The curve over answers with their score and whether they were right, from the surest on. Answers of one score
/// come together: no threshold tells them apart.
#[must_use]
pub fn risk_coverage(answers: &[(f64, bool)]) -> Vec<RiskPoint> {
    let mut sorted = answers.to_vec();
    sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
    let (mut answered, mut wrong) = (0, 0);
    let mut curve = Vec::new();
    for group in sorted.chunk_by(|a, b| a.0 == b.0) {
        answered += group.len();
        wrong += group.iter().filter(|(_, right)| !right).count();
        curve.push(RiskPoint {
            threshold: group[0].0,
            coverage: answered as f64 / sorted.len() as f64,
            risk: wrong as f64 / answered as f64,
        });
    }
    curve
}

/// The lowest threshold at which no more than `risk` of the answers are wrong; `None` where there is none.
#[must_use]
pub fn threshold_for(curve: &[RiskPoint], risk: f64) -> Option<f64> {
    curve.iter().rev().find(|point| point.risk <= risk).map(|point| point.threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_stand_together_and_the_widest_coverage_wins() {
        let curve = risk_coverage(&[(0.9, true), (0.5, false), (0.5, true), (0.4, true), (0.1, false)]);
        let shown: Vec<_> = curve.iter().map(|p| (p.threshold, p.coverage, p.risk)).collect();
        assert_eq!(shown, [(0.9, 0.2, 0.0), (0.5, 0.6, 1.0 / 3.0), (0.4, 0.8, 0.25), (0.1, 1.0, 0.4)]);
        assert_eq!(threshold_for(&curve, 0.3), Some(0.4));
        assert_eq!(threshold_for(&curve, 0.0), Some(0.9));
        assert_eq!(threshold_for(&risk_coverage(&[(0.5, false)]), 0.1), None);
        assert!(risk_coverage(&[]).is_empty());
    }
}
