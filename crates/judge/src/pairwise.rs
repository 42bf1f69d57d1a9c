//! Which of two answers is better: asked in both orders, always.

use evalign_core::{Request, Response, SampleKey};
use evalign_model::ModelError;
use serde::{Deserialize, Serialize};

use crate::error::JudgeError;
use crate::judge::{Judge, Material, read};
use crate::rubric::ABSTAIN;
use crate::verdict::{Unscored, Verdict};

/// What a judge prefers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    A,
    B,
    Tie,
    Unscored { reason: Unscored },
}

impl Preference {
    /// Of the other answer's side.
    #[must_use]
    pub fn swapped(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
            same @ (Self::Tie | Self::Unscored { .. }) => same,
        }
    }

    /// 1, 0, or 1/2 for a tie: the share of a win that goes to A. `None` where nothing was decided.
    #[must_use]
    pub fn points_a(&self) -> Option<f64> {
        match self {
            Self::A => Some(1.0),
            Self::B => Some(0.0),
            Self::Tie => Some(0.5),
            Self::Unscored { .. } => None,
        }
    }
}

/// The order in which two answers are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// A first.
    AsGiven,
    /// B first.
    Swapped,
}

impl Order {
    pub const BOTH: [Self; 2] = [Self::AsGiven, Self::Swapped];
}

/// What was said in one order, about A and B as given (not as shown).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OrderVerdict {
    pub order: Order,
    pub preference: Preference,
    /// P(A is better) + P(tie) / 2 among A, B and tie. Absent where the model gives no probabilities.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probability_a: Option<f64>,
    /// P(tie) among the same.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probability_tie: Option<f64>,
    /// Entropy over the labels, in nats. Absent as above.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub entropy: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub explanation: Option<String>,
}

impl OrderVerdict {
    /// P(A is better) and P(B is better), ties aside: they add up to 1 - P(tie).
    pub(crate) fn probabilities(&self) -> Option<[f64; 2]> {
        let (a, tie) = (self.probability_a?, self.probability_tie?);
        let of_a = (a - tie / 2.0).max(0.0);
        Some([of_a, (1.0 - tie - of_a).max(0.0)])
    }
}

/// The verdict on a pair. A side wins only where it wins in both orders; two different verdicts, or a tie in
/// one of them, are a tie (MT-bench's rule, Zheng et al. 2023, arXiv 2306.05685, section 3.4). Where one
/// order has no verdict the pair has none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    pub outcome: Preference,
    /// A shown first, then B shown first.
    pub orders: [OrderVerdict; 2],
    /// Mean of both orders' probabilities that A is better. Absent where one is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub probability_a: Option<f64>,
}

impl Comparison {
    #[must_use]
    pub fn of(orders: [OrderVerdict; 2]) -> Self {
        use Preference::{Tie, Unscored};
        let outcome = match (&orders[0].preference, &orders[1].preference) {
            (Unscored { reason }, _) | (_, Unscored { reason }) => Unscored { reason: reason.clone() },
            (first, second) if first == second => first.clone(),
            _ => Tie,
        };
        let both = orders[0].probability_a.zip(orders[1].probability_a);
        Self { outcome, probability_a: both.map(|(first, second)| (first + second) / 2.0), orders }
    }

    /// The verdicts of both orders name different sides: what is shown first (or second) won twice.
    #[must_use]
    pub fn flipped(&self) -> bool {
        let [first, second] = &self.orders;
        matches!(
            (&first.preference, &second.preference),
            (Preference::A, Preference::B) | (Preference::B, Preference::A)
        )
    }
}

/// Two answers to one prompt.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pair<'a> {
    pub material: Material<'a>,
    pub a: &'a str,
    pub b: &'a str,
}

impl Judge {
    /// The request for the verdict on a pair in one order.
    ///
    /// # Errors
    /// Material that the rubric cannot be used with, or a template that fails.
    pub fn pairwise_request(
        &self,
        key: SampleKey,
        pair: &Pair<'_>,
        order: Order,
    ) -> Result<Request, JudgeError> {
        let (first, second) = match order {
            Order::AsGiven => (pair.a, pair.b),
            Order::Swapped => (pair.b, pair.a),
        };
        self.request(key, &pair.material, &[("answer A", first), ("answer B", second)])
    }

    /// What an answer to such a request says.
    #[must_use]
    pub fn read_pairwise(&self, order: Order, answer: &Result<Response, ModelError>) -> OrderVerdict {
        order_verdict(order, read(&self.pairwise_format(), answer))
    }
}

/// Labels are about the answers as shown: this is where they are turned back.
pub(crate) fn order_verdict(order: Order, verdict: Result<Verdict, Unscored>) -> OrderVerdict {
    let unscored = |reason| OrderVerdict {
        order,
        preference: Preference::Unscored { reason },
        probability_a: None,
        probability_tie: None,
        entropy: None,
        explanation: None,
    };
    let verdict = match verdict {
        Ok(verdict) => verdict,
        Err(reason) => return unscored(reason),
    };
    let Some(choice) = verdict.choices.first() else { return unscored(Unscored::Malformed) };
    let shown = match choice.label.as_str() {
        "A" => Preference::A,
        "B" => Preference::B,
        "C" => Preference::Tie,
        ABSTAIN => Preference::Unscored { reason: Unscored::Abstained },
        _ => Preference::Unscored { reason: Unscored::Malformed },
    };
    // In the order of the form: A, B, C and perhaps N.
    let probabilities = choice.probabilities.as_deref();
    let decided = probabilities.and_then(|p| {
        let (first, second, tie) = (*p.first()?, *p.get(1)?, *p.get(2)?);
        let decided = first + second + tie;
        (decided > 0.0).then(|| ((first + tie / 2.0) / decided, tie / decided))
    });
    let (first, probability_tie) = decided.unzip();
    let (preference, probability_a) = match order {
        Order::AsGiven => (shown, first),
        Order::Swapped => (shown.swapped(), first.map(|p| 1.0 - p)),
    };
    let entropy = probabilities.map(entropy_nats);
    let explanation = verdict.explanation;
    OrderVerdict { order, preference, probability_a, probability_tie, entropy, explanation }
}

/// -sum p ln p.
pub(crate) fn entropy_nats(probabilities: &[f64]) -> f64 {
    let sum: f64 = probabilities.iter().filter(|p| **p > 0.0).map(|p| p * p.ln()).sum();
    // No negative zero.
    (-sum).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Choice;

    fn said(order: Order, label: &str, probabilities: Option<Vec<f64>>) -> OrderVerdict {
        let choice = Choice { label: label.to_owned(), probabilities };
        order_verdict(order, Ok(Verdict { explanation: None, choices: vec![choice] }))
    }

    fn both(first: &str, second: &str) -> Comparison {
        Comparison::of([said(Order::AsGiven, first, None), said(Order::Swapped, second, None)])
    }

    #[test]
    fn a_side_wins_only_in_both_orders() {
        // Second verdicts are about the swapped order: "B" there is A.
        for (first, second, outcome, flipped) in [
            ("A", "B", Preference::A, false),
            ("B", "A", Preference::B, false),
            ("A", "A", Preference::Tie, true),
            ("B", "B", Preference::Tie, true),
            ("A", "C", Preference::Tie, false),
            ("C", "C", Preference::Tie, false),
            ("A", "N", Preference::Unscored { reason: Unscored::Abstained }, false),
        ] {
            let comparison = both(first, second);
            assert_eq!(comparison.outcome, outcome, "{first} {second}");
            assert_eq!(comparison.flipped(), flipped, "{first} {second}");
        }
    }

    #[test]
    fn probabilities_are_averaged_over_the_orders() {
        let first = said(Order::AsGiven, "A", Some(vec![0.6, 0.2, 0.2, 0.0]));
        let second = said(Order::Swapped, "A", Some(vec![0.5, 0.3, 0.0, 0.2]));
        assert!((first.probability_a.unwrap() - 0.7).abs() < 1e-12);
        assert!((second.probability_a.unwrap() - 0.375).abs() < 1e-12);
        for (verdict, expected) in [(&first, [0.6, 0.2]), (&second, [0.375, 0.625])] {
            let apart = verdict.probabilities().unwrap();
            assert!(apart.iter().zip(expected).all(|(p, e)| (p - e).abs() < 1e-12), "{apart:?}");
        }
        assert!((Comparison::of([first, second]).probability_a.unwrap() - 0.5375).abs() < 1e-12);
        assert_eq!(both("A", "B").probability_a, None);
    }
}
