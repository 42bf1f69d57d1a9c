use evalign_judge::{BiasReport, LengthCounts, NearDuplicates, balanced_by_length, is_held_out};
use serde::Serialize;

use super::decontaminate::{Decontamination, DecontaminationCounts};
use super::origin::BuiltPair;

/// Which pairs are kept, and how they are divided.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Filters {
    /// Smallest difference of scores. Pairs without scores pass.
    pub min_margin: f64,
    /// Smallest probability, mean over both orders, that the judge gives the chosen side. Pairs that were not compared
    /// pass.
    pub min_probability: f64,
    /// Only pairs in which the judge prefers the chosen side in both orders.
    pub agreed: bool,
    /// Prompts from this similarity on are the same prompt (0 to 1).
    pub similarity: f64,
    /// Most pairs of one prompt.
    pub per_prompt: usize,
    /// Leave out pairs until the chosen side is as often the longer one as the shorter one.
    pub balance_length: bool,
    /// Share of prompts held out.
    pub held_out: f64,
}

impl Default for Filters {
    fn default() -> Self {
        Self {
            min_margin: 0.0,
            min_probability: 0.5,
            agreed: false,
            similarity: 0.8,
            per_prompt: usize::MAX,
            balance_length: false,
            held_out: 0.2,
        }
    }
}

/// What became of the prompts, answers and pairs.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct PairsReport {
    pub prompts: u64,
    /// Answers asked for, and those that were finished.
    pub answers: u64,
    pub finished_answers: u64,
    /// Finished answers that (nearly) repeat another one to the same prompt.
    pub repeated_answers: u64,
    /// Prompts with at least one pair.
    pub prompts_with_pairs: u64,
    /// Pairs before any filter.
    pub pairs: u64,
    pub dropped: Dropped,
    pub train: u64,
    pub held_out: u64,
    pub lengths: LengthCounts,
    /// Absent where it was not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decontamination: Option<DecontaminationCounts>,
    /// Right and wrong answers, where the task decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graded: Option<Graded>,
    /// Comparisons, where a judge decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub judged: Option<Judged>,
    /// What moves the judge besides the answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bias: Option<BiasReport>,
}

impl PairsReport {
    /// What to know where the judge goes by the order rather than by the answers.
    #[must_use]
    pub fn goes_by_order(&self) -> Option<String> {
        let judged = self.judged.filter(|judged| 2 * judged.flipped > judged.comparisons)?;
        Some(format!(
            "the judge goes by the order: {} of {} comparisons flipped with it\n\
             hint: try another judge; `evalign judge calibrate` holds one against people",
            judged.flipped, judged.comparisons
        ))
    }

    /// What to know where balancing lengths left nothing of what the other filters had kept.
    #[must_use]
    pub fn nothing_balances(&self) -> Option<&'static str> {
        let nothing_left = self.dropped.length_balance > 0 && self.train + self.held_out == 0;
        nothing_left.then_some(
            "no pair is left: the same side is the longer one in all of them, so that none balances another\n\
             hint: leave out `--balance-length`, or ask for more answers with `--samples`",
        )
    }
}

/// Pairs left out, by the first filter that did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub margin: u64,
    /// The judge has no verdict on these two, whatever it said about others.
    pub undecided: u64,
    pub probability: u64,
    pub disagreement: u64,
    pub near_duplicate_prompt: u64,
    pub contaminated: u64,
    pub more_than_per_prompt: u64,
    pub length_balance: u64,
}

/// How answers to a task's training rows were scored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Graded {
    pub right: u64,
    pub wrong: u64,
    pub undecided: u64,
    /// Training rows that are left out because they stand in the rows the task is evaluated on.
    pub rows_in_evaluation: u64,
}

/// What the judge said over all pairs of answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Judged {
    pub comparisons: u64,
    /// Both orders prefer the same answer.
    pub agreed: u64,
    /// Both orders prefer what is shown first, or both what is shown second.
    pub flipped: u64,
    pub ties: u64,
    pub undecided: u64,
}

/// A pair, and whether it is held out.
pub(crate) type Divided = Vec<(bool, BuiltPair)>;

impl Filters {
    /// Keeps what passes, in order, and says which rows are held out.
    pub(crate) fn apply(
        &self,
        pairs: Vec<BuiltPair>,
        decontamination: Option<&Decontamination>,
        report: &mut PairsReport,
    ) -> Divided {
        report.pairs = pairs.len() as u64;
        let mut prompts = Prompts::new(self.similarity);
        let mut kept = Vec::with_capacity(pairs.len());
        let mut contaminated_prompts = DecontaminationCounts::default();
        for pair in pairs {
            let dropped = &mut report.dropped;
            let place = match () {
                () if pair.number("margin").is_some_and(|margin| margin < self.min_margin) => {
                    &mut dropped.margin
                }
                () if undecided(&pair) => &mut dropped.undecided,
                () if probability(&pair).is_some_and(|p| p < self.min_probability) => {
                    &mut dropped.probability
                }
                () if self.agreed && !agreed(&pair) => &mut dropped.disagreement,
                () if prompts.is_near_duplicate(&pair.prompt_text()) => &mut dropped.near_duplicate_prompt,
                () if decontamination.is_some_and(|index| index.finds(&pair, &mut contaminated_prompts)) => {
                    &mut dropped.contaminated
                }
                () if prompts.count() >= self.per_prompt => &mut dropped.more_than_per_prompt,
                () => {
                    prompts.keep();
                    kept.push(pair);
                    continue;
                }
            };
            *place += 1;
        }
        report.prompts_with_pairs = prompts.with_pairs;
        report.decontamination = decontamination.map(|index| index.counts(&contaminated_prompts));
        if self.balance_length {
            let lengths: Vec<(i64, Option<f64>)> = kept
                .iter()
                .map(|pair| {
                    let (chosen, rejected) = pair.lengths();
                    (chosen.cast_signed() - rejected.cast_signed(), pair.number("margin"))
                })
                .collect();
            let mut keep = balanced_by_length(&lengths).into_iter();
            let before = kept.len();
            kept.retain(|_| keep.next().unwrap_or(true));
            report.dropped.length_balance = (before - kept.len()) as u64;
        }
        self.divide(kept, report)
    }

    fn divide(&self, pairs: Vec<BuiltPair>, report: &mut PairsReport) -> Divided {
        let divided: Divided =
            pairs.into_iter().map(|pair| (is_held_out(&pair.prompt_text(), self.held_out), pair)).collect();
        for (held_out, pair) in &divided {
            let (chosen, rejected) = pair.lengths();
            report.lengths.add(chosen, rejected);
            if *held_out {
                report.held_out += 1;
            } else {
                report.train += 1;
            }
        }
        divided
    }
}

fn probability(pair: &BuiltPair) -> Option<f64> {
    Some((pair.number("probability_first")? + pair.number("probability_second")?) / 2.0)
}

/// A judge compared the sides and said nothing in at least one order.
fn undecided(pair: &BuiltPair) -> bool {
    pair.origin.get("judge").is_some_and(|judge| !judge.is_null()) && probability(pair).is_none()
}

/// Both orders give the chosen side more than even odds.
fn agreed(pair: &BuiltPair) -> bool {
    ["probability_first", "probability_second"].iter().all(|name| pair.number(name).is_some_and(|p| p > 0.5))
}

/// Prompts in order: all pairs of one prompt stand together.
struct Prompts {
    seen: NearDuplicates,
    current: Option<(String, bool, usize)>,
    with_pairs: u64,
}

impl Prompts {
    fn new(similarity: f64) -> Self {
        Self { seen: NearDuplicates::new(similarity), current: None, with_pairs: 0 }
    }

    fn is_near_duplicate(&mut self, prompt: &str) -> bool {
        match &self.current {
            Some((known, near, _)) if known == prompt => *near,
            _ => {
                let near = self.seen.insert(prompt).is_some();
                self.current = Some((prompt.to_owned(), near, 0));
                near
            }
        }
    }

    fn count(&self) -> usize {
        self.current.as_ref().map_or(0, |(_, _, count)| *count)
    }

    fn keep(&mut self) {
        if let Some((_, _, count)) = &mut self.current {
            *count += 1;
            self.with_pairs += u64::from(*count == 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pairing::Origin;
    use evalign_core::Prompt;

    fn pair(prompt: &str, chosen: &str, rejected: &str, origin: &Origin) -> BuiltPair {
        BuiltPair::new(&Prompt::Text(prompt.to_owned()), chosen, rejected, origin)
    }

    #[test]
    fn balancing_that_leaves_nothing_says_so() {
        let pairs = |last: &str| -> Vec<BuiltPair> {
            let prompts = ["What is the tallest of these trees?", "Name a river of the north.", "Who bakes?"];
            let rejected = ["b", "c", last];
            prompts.iter().zip(rejected).map(|(p, r)| pair(p, "longer", r, &Origin::default())).collect()
        };
        let filters = Filters { balance_length: true, ..Filters::default() };
        let mut report = PairsReport::default();
        assert!(filters.apply(pairs("d"), None, &mut report).is_empty());
        assert_eq!(report.dropped.length_balance, 3);
        assert!(report.nothing_balances().unwrap().contains("--balance-length"));
        let mut report = PairsReport::default();
        assert_eq!(filters.apply(pairs("the longest"), None, &mut report).len(), 2);
        assert_eq!((report.nothing_balances(), PairsReport::default().nothing_balances()), (None, None));
    }

    #[test]
    fn each_filter_drops_what_it_is_for_and_counts_it() {
        let none = Origin::default();
        let compared = |first, second| Origin {
            probability_first: Some(first),
            probability_second: Some(second),
            ..Origin::default()
        };
        let pairs = vec![
            pair(
                "What is the first question of this file?",
                "a",
                "b",
                &Origin { margin: Some(0.1), ..Origin::default() },
            ),
            pair("And what comes after it, if anything?", "a", "b", &compared(0.6, 0.3)),
            pair("And what comes after it, if anything?", "a", "c", &compared(0.9, 0.45)),
            pair("And what comes after it, if anything?", "a", "d", &compared(0.9, 0.8)),
            pair("and what comes after it, if anything", "a", "b", &none),
            pair("Something else entirely is asked here now.", "a", "b", &none),
            pair("Something else entirely is asked here now.", "a", "c", &none),
            pair(
                "A judge was asked about this one.",
                "a",
                "b",
                &Origin { judge: Some("j".to_owned()), ..none.clone() },
            ),
        ];
        let filters =
            Filters { min_margin: 0.2, agreed: false, per_prompt: 1, held_out: 0.0, ..Filters::default() };
        let mut report = PairsReport::default();
        let kept = filters.apply(pairs.clone(), None, &mut report);
        let expected = Dropped {
            margin: 1,
            undecided: 1,
            probability: 1,
            near_duplicate_prompt: 1,
            more_than_per_prompt: 2,
            ..Dropped::default()
        };
        assert_eq!((report.dropped, kept.len(), report.train), (expected, 2, 2));
        assert_eq!((report.prompts_with_pairs, report.pairs), (2, 8));
        let mut report = PairsReport::default();
        let agreed = Filters { agreed: true, held_out: 1.0, ..Filters::default() };
        assert_eq!(agreed.apply(pairs, None, &mut report).len(), 1);
        assert_eq!((report.dropped.disagreement, report.held_out), (5, 1));
    }
}
