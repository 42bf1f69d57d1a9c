//! Comparisons as samples of a run: two for each pair of answers, one in each order.

use evalign_core::{Outcome, Output, Response, SampleKey, Score};
use evalign_judge::{Comparison, Judge, Material, Order, OrderVerdict, Pair, Preference, Unscored};
use evalign_model::ModelError;
use serde_json::json;

use crate::{Asking, PlannedSample, RunError};

/// The metric a stored verdict is found under: P(A is better) where the judge gives probabilities, else 1, 0 or 1/2.
const METRIC: &str = "preference";

/// P(tie); only where the judge gives probabilities.
const TIE: &str = "tie_probability";

/// Of the labels' probabilities, in nats; only where the judge gives them.
const ENTROPY: &str = "entropy";

/// Two texts to be compared, and what is kept with the verdict.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Side<'a> {
    pub(crate) name: u32,
    pub(crate) text: &'a str,
}

/// What both orders said.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Verdicts {
    /// P(A is better) with A shown first, and with A shown second. `None` where nothing was decided.
    pub(crate) probabilities: [Option<f64>; 2],
    /// 1 where A was preferred in an order, 0 where B was, 1/2 for a tie.
    pub(crate) points: [Option<f64>; 2],
    /// P(tie) in both orders. `None` where the judge gives no probabilities.
    pub(crate) ties: [Option<f64>; 2],
    /// Of the labels' probabilities, in nats. `None` where the judge gives none.
    pub(crate) entropies: [Option<f64>; 2],
}

impl Verdicts {
    /// Mean over both orders of P(A is better).
    pub(crate) fn probability_a(&self) -> Option<f64> {
        let [first, second] = self.probabilities;
        Some((first? + second?) / 2.0)
    }

    /// A wins in both orders.
    pub(crate) fn a_wins(&self) -> bool {
        self.points == [Some(1.0), Some(1.0)]
    }

    pub(crate) fn b_wins(&self) -> bool {
        self.points == [Some(0.0), Some(0.0)]
    }

    pub(crate) fn is_decided(&self) -> bool {
        self.points.iter().all(Option::is_some)
    }

    pub(crate) fn swapped(self) -> Self {
        let of_b = |[first, second]: [Option<f64>; 2]| [second.map(|p| 1.0 - p), first.map(|p| 1.0 - p)];
        let turned = |[first, second]: [Option<f64>; 2]| [second, first];
        Self {
            probabilities: of_b(self.probabilities),
            points: of_b(self.points),
            ties: turned(self.ties),
            entropies: turned(self.entropies),
        }
    }

    /// As a comparison, for a report on what moves the judge.
    pub(crate) fn comparison(&self) -> Comparison {
        let verdict = |place: usize| OrderVerdict {
            order: Order::BOTH[place],
            preference: match self.points[place] {
                Some(points) if points > 0.5 => Preference::A,
                Some(points) if points < 0.5 => Preference::B,
                Some(_) => Preference::Tie,
                None => Preference::Unscored { reason: Unscored::Failed("no verdict".to_owned()) },
            },
            probability_a: self.probabilities[place],
            probability_tie: self.ties[place],
            entropy: self.entropies[place],
            explanation: None,
        };
        Comparison::of([verdict(0), verdict(1)])
    }
}

/// The two questions to a judge about a pair of answers; `number` is the pair's within its document.
pub(crate) fn comparison_askings(
    judge: &Judge,
    (step, doc, number): (&str, u64, u32),
    material: Material<'_>,
    [a, b]: [Side<'_>; 2],
) -> Result<[Asking; 2], RunError> {
    let pair = Pair { material, a: a.text, b: b.text };
    let asking = |order: Order| {
        let repeat = number * 2 + u32::from(order == Order::Swapped);
        let key = SampleKey { task: step.to_owned(), doc, repeat };
        let doc = json!({ "prompt": material.prompt, "order": order, "a": a.name, "b": b.name });
        Ok::<_, RunError>(Asking {
            request: judge.pairwise_request(key, &pair, order)?,
            doc,
            target: String::new(),
        })
    };
    Ok([asking(Order::AsGiven)?, asking(Order::Swapped)?])
}

/// The score of an answered comparison.
pub(crate) fn compare_scores(judge: &Judge, sample: &PlannedSample, output: Option<&Output>) -> Vec<Score> {
    let order = if sample.key.repeat.is_multiple_of(2) { Order::AsGiven } else { Order::Swapped };
    let verdict = judge.read_pairwise(order, &answered(output, || "the call failed".to_owned()));
    let points = verdict.preference.points_a();
    let (outcome, answer) = match &verdict.preference {
        Preference::A => (Outcome::Unscored, Some("A")),
        Preference::B => (Outcome::Unscored, Some("B")),
        Preference::Tie => (Outcome::Unscored, Some("tie")),
        Preference::Unscored { reason } => (outcome_of(reason), None),
    };
    let preferred = Score {
        metric: METRIC.to_owned(),
        filter: "none".to_owned(),
        outcome,
        value: points.map(|points| verdict.probability_a.unwrap_or(points)),
        answer: answer.map(str::to_owned),
        weight: None,
        margin: None,
    };
    let further = [(TIE, verdict.probability_tie), (ENTROPY, verdict.entropy)].map(|(metric, value)| {
        Some(Score { metric: metric.to_owned(), value: Some(value?), answer: None, ..preferred.clone() })
    });
    std::iter::once(preferred).chain(further.into_iter().flatten()).collect()
}

/// An answer as it came; without one, the error that says why.
pub(crate) fn answered(
    output: Option<&Output>,
    why: impl FnOnce() -> String,
) -> Result<Response, ModelError> {
    let output = output.cloned().ok_or_else(|| ModelError::Request(why()))?;
    Ok(Response { output, usage: None, truncated_tokens: 0, cached: false, latency: None })
}

/// A verdict is neither right nor wrong: `unscored` with a value. Without one, why.
pub(crate) fn outcome_of(reason: &Unscored) -> Outcome {
    match reason {
        Unscored::Abstained => Outcome::Unscored,
        Unscored::Malformed => Outcome::Unparsed,
        Unscored::Truncated => Outcome::Truncated,
        Unscored::Refused => Outcome::Refused,
        Unscored::Failed(_) => Outcome::Error,
    }
}

/// The verdicts on one pair of a document; `scores` finds those of its stored comparisons by their number.
pub(crate) fn read_comparison<'a>(scores: impl Fn(u32) -> Option<&'a [Score]>, number: u32) -> Verdicts {
    let both = [scores(number * 2), scores(number * 2 + 1)];
    let found = both.map(|scores| verdict_of(scores?));
    let further =
        |metric: &str| both.map(|scores| scores?.iter().find(|score| score.metric == metric)?.value);
    Verdicts {
        probabilities: found.map(|found| found.map(|(probability, _)| probability)),
        points: found.map(|found| found.map(|(_, points)| points)),
        ties: further(TIE),
        entropies: further(ENTROPY),
    }
}

/// P(A is better) and the points of A, from one stored comparison's scores. `None` where nothing was decided.
pub(crate) fn verdict_of(scores: &[Score]) -> Option<(f64, f64)> {
    let score = scores.iter().find(|score| score.metric == METRIC)?;
    let points = match score.answer.as_deref()? {
        "A" => 1.0,
        "B" => 0.0,
        _ => 0.5,
    };
    Some((score.value?, points))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turned_round_verdicts_are_about_the_other_side_in_the_other_order() {
        let verdicts = Verdicts {
            probabilities: [Some(0.9), Some(0.4)],
            points: [Some(1.0), Some(0.5)],
            ties: [Some(0.0), Some(0.5)],
            entropies: [Some(0.1), Some(0.2)],
        };
        let other = verdicts.swapped();
        assert_eq!((other.points, other.ties), ([Some(0.5), Some(0.0)], [Some(0.5), Some(0.0)]));
        assert_eq!(verdicts.comparison().orders[1].probability_tie, Some(0.5));
        assert!((other.probability_a().unwrap() - 0.35).abs() < 1e-12);
        assert!(!verdicts.a_wins() && !other.b_wins() && other.is_decided());
        let half =
            Verdicts { probabilities: [Some(0.9), None], points: [Some(1.0), None], ..Verdicts::default() };
        assert_eq!(verdicts.comparison().outcome, Preference::Tie);
        assert!(!verdicts.comparison().flipped() && half.comparison().outcome.points_a().is_none());
        assert_eq!((half.probability_a(), half.is_decided(), half.a_wins()), (None, false, false));
    }
}
