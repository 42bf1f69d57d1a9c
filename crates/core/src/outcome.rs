use serde::{Deserialize, Serialize};

/// What became of one sample under one metric.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Correct,
    Wrong,
    /// The answer hit the token limit before it was finished and none could be read from it.
    Truncated,
    /// The model declined to answer.
    Refused,
    /// The answer is complete but no answer could be read from it.
    Unparsed,
    /// The model call failed for good.
    Error,
    /// Nothing to compare with (no target), or a metric without a notion of right and wrong.
    Unscored,
}

impl Outcome {
    pub const ALL: [Self; 7] = [
        Self::Correct,
        Self::Wrong,
        Self::Truncated,
        Self::Refused,
        Self::Unparsed,
        Self::Error,
        Self::Unscored,
    ];

    /// Right or wrong was decided.
    #[must_use]
    pub fn is_decided(self) -> bool {
        matches!(self, Self::Correct | Self::Wrong)
    }

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Correct => "correct",
            Self::Wrong => "wrong",
            Self::Truncated => "truncated",
            Self::Refused => "refused",
            Self::Unparsed => "unparsed",
            Self::Error => "error",
            Self::Unscored => "unscored",
        }
    }
}

/// How often each [`Outcome`] occurred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutcomeCounts {
    pub correct: u64,
    pub wrong: u64,
    pub truncated: u64,
    pub refused: u64,
    pub unparsed: u64,
    pub error: u64,
    pub unscored: u64,
}

impl OutcomeCounts {
    pub fn add(&mut self, outcome: Outcome) {
        *self.slot(outcome) += 1;
    }

    pub fn merge(&mut self, other: &Self) {
        for outcome in Outcome::ALL {
            *self.slot(outcome) += other.get(outcome);
        }
    }

    #[must_use]
    pub fn get(&self, outcome: Outcome) -> u64 {
        match outcome {
            Outcome::Correct => self.correct,
            Outcome::Wrong => self.wrong,
            Outcome::Truncated => self.truncated,
            Outcome::Refused => self.refused,
            Outcome::Unparsed => self.unparsed,
            Outcome::Error => self.error,
            Outcome::Unscored => self.unscored,
        }
    }

    fn slot(&mut self, outcome: Outcome) -> &mut u64 {
        match outcome {
            Outcome::Correct => &mut self.correct,
            Outcome::Wrong => &mut self.wrong,
            Outcome::Truncated => &mut self.truncated,
            Outcome::Refused => &mut self.refused,
            Outcome::Unparsed => &mut self.unparsed,
            Outcome::Error => &mut self.error,
            Outcome::Unscored => &mut self.unscored,
        }
    }

    #[must_use]
    pub fn total(&self) -> u64 {
        Outcome::ALL.iter().map(|o| self.get(*o)).sum()
    }

    /// Lowest and highest accuracy the undecided samples allow: all of them wrong, all of them right.
    /// `None` over nothing.
    #[must_use]
    pub fn bounds(&self) -> Option<[f64; 2]> {
        let total = self.total();
        if total == 0 {
            return None;
        }
        let worst = self.correct as f64 / total as f64;
        let best = (total - self.wrong) as f64 / total as f64;
        Some([worst, best])
    }
}

/// One metric's verdict on one sample.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// `acc`, `acc_norm`, `exact_match`, `word_perplexity`, ...
    pub metric: String,
    /// The extraction pipeline that produced the answer; `none` where there is none.
    pub filter: String,
    pub outcome: Outcome,
    /// The metric's number for this sample. Absent unless the metric could be computed: an error or an
    /// unreadable answer has no value, and certainly not zero. (`--compat lm-eval` counts them as
    /// zero because the reference does.)
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub value: Option<f64>,
    /// What was extracted and compared.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub answer: Option<String>,
    /// Weight of this value in a pooled mean, for example the number of words for word perplexity.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub weight: Option<f64>,
    /// Distance between the best and the second-best choice, for multiple choice.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub margin: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_span_the_undecided() {
        let mut counts = OutcomeCounts::default();
        assert_eq!(counts.bounds(), None);
        for outcome in [Outcome::Correct, Outcome::Wrong, Outcome::Truncated, Outcome::Error] {
            counts.add(outcome);
        }
        assert_eq!(counts.bounds(), Some([0.25, 0.75]));
        assert_eq!(counts.total(), 4);
    }
}
