//! What moves a judge besides the answers.
//!
//! Every pair is judged in both orders, so position can be told from everything else: over both orders the two
//! answers stand first equally often. The effects are those of one logistic regression over single verdicts,
//!
//! ```text
//! log-odds(first wins) = position + length * tanh(dlen / s) + own * (first - second) + format * tanh(dmarks / t)
//! ```
//!
//! with standard errors clustered by what pairs share. A tie says nothing about these odds, which are those between the
//! two sides where one is preferred: counted as half a win for each it would pull all effects towards nothing. They are
//! right for ties at random and for those of Davidson (1970, Journal of the American Statistical Association 65:317), where
//! the odds between two sides do not depend on the third verdict. Where the judge gives the probabilities of all its
//! verdicts, these take the verdicts' place: the equations are linear in them (Papke and Wooldridge 1996, Journal of
//! Applied Econometrics 11:619), so that both say the same and probabilities say it surer.
//!
//! Differences of length and of formatting marks are divided by their standard deviation. They are associations: a judge
//! that prefers longer answers because they are better shows a length effect too. Where people labelled all pairs, or enough of them, the effects are those over
//! the labelled ones with people's verdict as one more term, which takes that part away.

use std::collections::BTreeSet;

use evalign_core::ModelRef;
use evalign_stats::{Logistic, Observation, clustered_difference, logistic, normal_quantile, sigmoid};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, LEVEL};
use crate::pairwise::{Comparison, Order, Preference};
use crate::style::formatting_marks;

/// From this many labelled pairs on the effects are those beside people's verdict, though other pairs have no label.
const ENOUGH_LABELLED: usize = 50;

/// A pair with what a judge said about it.
#[derive(Clone, Copy, Debug)]
pub struct JudgedPair<'a> {
    pub comparison: &'a Comparison,
    /// Pairs of one group share noise: those of one prompt, or one pair that is judged again.
    pub group: usize,
    pub a: JudgedAnswer<'a>,
    pub b: JudgedAnswer<'a>,
    /// What people say: 1 for A, 0 for B, 1/2 for a tie.
    pub people: Option<f64>,
}

#[derive(Clone, Copy, Debug)]
pub struct JudgedAnswer<'a> {
    pub text: &'a str,
    /// The family of the model that wrote it ([`family_of`]).
    pub family: Option<&'a str>,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BiasReport {
    /// Pairs, each as often as it was judged.
    pub pairs: u64,
    /// Pairs without a verdict in one of the orders: left out of everything below.
    pub unscored: u64,
    /// How often each verdict was given, over single orders, about the answers as shown.
    pub first: u64,
    pub second: u64,
    pub ties: u64,
    /// Share of wins that goes to what is shown first (a tie is half a win); 1/2 without position bias.
    pub first_share: Option<Effect>,
    /// Share of pairs of which the verdict turns round with the order.
    pub flip_rate: Option<Effect>,
    /// Probability to prefer the first of two answers that are alike, where one is preferred.
    pub position: Option<Effect>,
    /// Log-odds for the longer answer.
    pub length: Option<Effect>,
    /// Log-odds for an answer of the judge's own family. Absent where no pair has one.
    pub own_family: Option<Effect>,
    /// Log-odds for the answer with more formatting marks.
    pub format: Option<Effect>,
    /// The four effects are those beside people's verdict, over the pairs that have one.
    #[serde(default)]
    pub beside_people: bool,
    /// They are those of the judge's probabilities, not of its verdicts.
    #[serde(default)]
    pub of_probabilities: bool,
    /// Mean entropy of the verdict's probabilities, in nats: 0 where the judge is certain. Absent where the model
    /// gives none.
    pub entropy_nats: Option<Effect>,
    /// Why the four effects are absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub no_effects: Option<String>,
}

/// One verdict in one order, from the first answer's side.
#[derive(Debug)]
struct Shown {
    group: usize,
    points: f64,
    /// The judge's probabilities that the first is better, and the second.
    probabilities: Option<[f64; 2]>,
    length: f64,
    marks: f64,
    own: f64,
    people: Option<f64>,
}

impl Shown {
    /// 1 for the side that won. A tie is nobody's.
    fn wins(&self) -> [f64; 2] {
        [self.points == 1.0, self.points == 0.0].map(|won| f64::from(u8::from(won)))
    }
}

/// Pairs counted one after the other: of each only what a report needs is kept, which is a few numbers.
#[derive(Debug, Default)]
pub struct BiasTally {
    judge_family: Option<String>,
    pairs: u64,
    shown: Vec<Shown>,
    /// Of each decided pair: its group, and whether its verdict turns round with the order.
    flips: Vec<(usize, f64)>,
    entropies: Vec<(usize, f64)>,
}

impl BiasTally {
    /// `judge_family`: see [`family_of`].
    #[must_use]
    pub fn new(judge_family: Option<&str>) -> Self {
        Self { judge_family: judge_family.map(str::to_owned), ..Self::default() }
    }

    pub fn add(&mut self, pair: &JudgedPair<'_>) {
        self.pairs += 1;
        if pair.comparison.orders.iter().any(|order| order.preference.points_a().is_none()) {
            return;
        }
        self.shown.extend(both_orders(pair, self.judge_family.as_deref()));
        self.flips.push((pair.group, f64::from(u8::from(pair.comparison.flipped()))));
        let entropies = pair.comparison.orders.iter().filter_map(|order| order.entropy);
        self.entropies.extend(entropies.map(|entropy| (pair.group, entropy)));
    }

    #[must_use]
    pub fn report(&self) -> BiasReport {
        let (first, second, ties) = counts(&self.shown);
        let (groups, flips): (Vec<usize>, Vec<f64>) = self.flips.iter().copied().unzip();
        let mut report = BiasReport {
            pairs: self.pairs,
            unscored: self.pairs - flips.len() as u64,
            first,
            second,
            ties,
            first_share: clustered_mean(&self.shown, |shown| shown.points),
            flip_rate: Effect::share_in_groups(&flips, &groups),
            position: None,
            length: None,
            own_family: None,
            format: None,
            beside_people: false,
            of_probabilities: false,
            entropy_nats: entropy(&self.entropies),
            no_effects: None,
        };
        report.add_effects(&self.shown);
        report
    }
}

impl BiasReport {
    /// `judge_family`: see [`family_of`].
    #[must_use]
    pub fn of(pairs: &[JudgedPair<'_>], judge_family: Option<&str>) -> Self {
        let mut tally = BiasTally::new(judge_family);
        pairs.iter().for_each(|pair| tally.add(pair));
        tally.report()
    }

    fn add_effects(&mut self, shown: &[Shown]) {
        let all: Vec<&Shown> = shown.iter().collect();
        let labelled: Vec<&Shown> = shown.iter().filter(|shown| shown.people.is_some()).collect();
        // Two verdicts each.
        let enough = labelled.len() == all.len() || labelled.len() >= 2 * ENOUGH_LABELLED;
        let beside = enough.then(|| effects(&labelled, true)).flatten();
        self.beside_people = beside.is_some();
        let Some((found, of_probabilities)) = beside.or_else(|| effects(&all, false)) else {
            self.no_effects = Some(match all.len() {
                0 => "no pair has a verdict in both orders".to_owned(),
                _ => "too few or too uniform verdicts: no finite effects fit them best".to_owned(),
            });
            return;
        };
        self.of_probabilities = of_probabilities;
        for (term, effect) in found {
            match term {
                Term::Position => {
                    let ci95 = effect.ci95.map(sigmoid);
                    self.position = Some(Effect { value: sigmoid(effect.value), ci95, n: effect.n });
                }
                Term::Length => self.length = Some(effect),
                Term::Own => self.own_family = Some(effect),
                Term::Format => self.format = Some(effect),
                Term::People => {}
            }
        }
    }
}

/// The effects of all terms that differ between pairs, and whether they are those of probabilities. `None` where no
/// finite ones fit best, or for too few groups.
fn effects(shown: &[&Shown], beside_people: bool) -> Option<(Vec<(Term, Effect)>, bool)> {
    let soft = shown.iter().all(|shown| shown.probabilities.is_some());
    let sides = |shown: &Shown| shown.probabilities.filter(|_| soft).unwrap_or_else(|| shown.wins());
    // Ties say nothing of what moves the judge: a term that only they differ in would be a column of nothing.
    let shown: Vec<&Shown> =
        shown.iter().copied().filter(|shown| sides(shown).iter().sum::<f64>() > 0.0).collect();
    let terms = terms(&shown, beside_people);
    let observation = |(index, shown): (usize, &&Shown)| {
        let [first, second] = sides(shown);
        Observation {
            features: terms.iter().map(|(_, values)| values[index]).collect(),
            target: first / (first + second),
            weight: first + second,
        }
    };
    let observations: Vec<Observation> = shown.iter().enumerate().map(observation).collect();
    let clusters: Vec<usize> = shown.iter().map(|shown| shown.group).collect();
    let groups = clusters.iter().collect::<BTreeSet<_>>().len();
    let fit = logistic(&observations, Some(&clusters)).filter(|_| groups > terms.len())?;
    let counts = (groups, shown.len() / 2);
    let effect = |(index, (term, _)): (usize, &(Term, Vec<f64>))| (*term, effect_of(&fit, index, counts));
    Some((terms.iter().enumerate().map(effect).collect(), soft))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Term {
    Position,
    Length,
    Own,
    Format,
    People,
}

/// The terms that differ between pairs, with their values.
fn terms(shown: &[&Shown], beside_people: bool) -> Vec<(Term, Vec<f64>)> {
    let people = shown.iter().filter(|_| beside_people).filter_map(|shown| shown.people).collect();
    let all = [
        (Term::Length, squashed(shown.iter().map(|shown| shown.length).collect())),
        (Term::Own, shown.iter().map(|shown| shown.own).collect()),
        (Term::Format, squashed(shown.iter().map(|shown| shown.marks).collect())),
        (Term::People, people),
    ];
    let varies = |values: &[f64]| values.iter().any(|value| *value != 0.0);
    let mut terms = vec![(Term::Position, vec![1.0; shown.len()])];
    terms.extend(all.into_iter().filter(|(_, values)| varies(values)));
    terms
}

/// tanh(x / standard deviation). The mean is 0: every pair stands in both orders.
fn squashed(values: Vec<f64>) -> Vec<f64> {
    let spread = (values.iter().map(|x| x * x).sum::<f64>() / values.len().max(1) as f64).sqrt();
    if spread > 0.0 { values.iter().map(|x| (x / spread).tanh()).collect() } else { values }
}

/// With the small-sample factor G / (G - k) on the variance of G groups and k terms.
fn effect_of(fit: &Logistic, index: usize, (groups, pairs): (usize, usize)) -> Effect {
    let (value, groups) = (fit.coefficients[index], groups as f64);
    let factor = groups / (groups - fit.coefficients.len() as f64);
    let stderr = (fit.sandwich.at(index, index) * factor).max(0.0).sqrt();
    let half = normal_quantile(0.5 + LEVEL / 2.0).unwrap_or(f64::NAN) * stderr;
    Effect { value, ci95: [value - half, value + half], n: pairs as u64 }
}

fn both_orders(pair: &JudgedPair<'_>, judge: Option<&str>) -> Vec<Shown> {
    let own = |answer: &JudgedAnswer<'_>| f64::from(u8::from(judge.is_some() && answer.family == judge));
    let length = pair.a.text.chars().count() as f64 - pair.b.text.chars().count() as f64;
    let marks = formatting_marks(pair.a.text) as f64 - formatting_marks(pair.b.text) as f64;
    let own = own(&pair.a) - own(&pair.b);
    let people = pair.people.map(|points| points - 0.5);
    let shown = |verdict: &crate::OrderVerdict| {
        let points_a = verdict.preference.points_a()?;
        let of_sides = verdict.probabilities();
        let given = verdict.order == Order::AsGiven;
        let side = if given { 1.0 } else { -1.0 };
        Some(Shown {
            group: pair.group,
            points: if given { points_a } else { 1.0 - points_a },
            probabilities: of_sides.map(|[a, b]| if given { [a, b] } else { [b, a] }),
            length: side * length,
            marks: side * marks,
            own: side * own,
            people: people.map(|points| side * points),
        })
    };
    pair.comparison.orders.iter().filter_map(shown).collect()
}

/// Names that models of one family go by besides the family's own.
const ALIASES: [(&str, &str); 12] = [
    ("chatgpt", "gpt"),
    ("o", "gpt"),
    ("meta", "llama"),
    ("codellama", "llama"),
    ("mixtral", "mistral"),
    ("ministral", "mistral"),
    ("codestral", "mistral"),
    ("magistral", "mistral"),
    ("devstral", "mistral"),
    ("qwq", "qwen"),
    ("codegemma", "gemma"),
    ("smolvlm", "smollm"),
];

/// The family of a model ([`family_of_name`]).
#[must_use]
pub fn family_of(model: &ModelRef) -> String {
    family_of_name(&model.name)
}

/// The family that a model's name tells, with or without its provider: the letters that its last part begins with
/// (`smollm` of SmolLM2-135M, `gpt` of gpt-4o), or what they are another name for (`gpt` of o3-mini, `llama` of
/// Meta-Llama-3). Of a fine-tune of another name it knows nothing.
#[must_use]
pub fn family_of_name(name: &str) -> String {
    let name = name.rsplit('/').next().unwrap_or_default().to_lowercase();
    let letters: String = name.chars().take_while(|c| c.is_alphabetic()).collect();
    let alias = ALIASES.iter().find(|(alias, _)| *alias == letters);
    match alias {
        Some((_, family)) => (*family).to_owned(),
        None if letters.is_empty() => name,
        None => letters,
    }
}

fn counts(shown: &[Shown]) -> (u64, u64, u64) {
    let count = |wanted: fn(f64) -> bool| shown.iter().filter(|shown| wanted(shown.points)).count() as u64;
    (count(|points| points > 0.5), count(|points| points < 0.5), count(|points| points == 0.5))
}

fn clustered_mean(shown: &[Shown], value: impl Fn(&Shown) -> f64) -> Option<Effect> {
    let values: Vec<f64> = shown.iter().map(value).collect();
    let groups: Vec<usize> = shown.iter().map(|shown| shown.group).collect();
    let found = clustered_difference(&values, &groups, LEVEL)?;
    Some(Effect { value: found.value, ci95: found.interval, n: shown.len() as u64 / 2 })
}

fn entropy(entropies: &[(usize, f64)]) -> Option<Effect> {
    let (groups, values): (Vec<usize>, Vec<f64>) = entropies.iter().copied().unzip();
    let found = clustered_difference(&values, &groups, LEVEL)?;
    Some(Effect { value: found.value, ci95: found.interval, n: values.len() as u64 / 2 })
}

/// Whether a preference was decided at all.
pub(crate) fn is_decided(preference: &Preference) -> bool {
    preference.points_a().is_some()
}

#[cfg(test)]
mod tests;
