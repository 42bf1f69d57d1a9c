//! A judge against people: how far it can be believed, and what people would have said of what they did not label.
//!
//! Several answers to one document share how hard it is: agreement and means have intervals over documents. Kappa and the
//! share of Rogan and Gladen have those of their papers, over items as if each were a document of its own.

use evalign_stats::{
    Binning, Kappa, calibration, clustered_difference, cohen_kappa, prediction_powered_mean, rogan_gladen,
    wilson_interval,
};
use serde::{Deserialize, Serialize};

use crate::bias::is_decided;
use crate::effect::Effect;
use crate::pairwise::Preference;

const LEVEL: f64 = 0.95;
/// Bins of the reliability diagram.
const BINS: usize = 10;

/// A pair with a judge's verdict and perhaps people's.
#[derive(Clone, Debug, PartialEq)]
pub struct LabelledPair {
    pub people: Option<Preference>,
    pub judge: Preference,
    /// The judge's probability that A is better.
    pub probability_a: Option<f64>,
    /// Items of one group share noise: they are about one document.
    pub group: usize,
}

/// An answer with a judge's score and perhaps people's. Both on one scale.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LabelledScore {
    pub people: Option<f64>,
    pub judge: Option<f64>,
    /// As in [`LabelledPair`].
    pub group: usize,
}

/// One bin of a reliability diagram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReliabilityBin {
    /// Mean of what the judge said.
    pub judged: f64,
    /// Share that people say.
    pub people: f64,
    pub n: u64,
    /// Wilson's interval of `people`.
    pub ci95: [f64; 2],
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JudgeCalibration {
    /// Items with a label and a verdict.
    pub labelled: u64,
    /// Items with a verdict and without a label.
    pub unlabelled: u64,
    /// Items without a verdict.
    pub unscored: u64,
    /// Share of labelled items on which judge and people say the same, ties counting as a verdict of their own.
    pub agreement: Option<Effect>,
    /// The same over items that neither calls a tie.
    pub agreement_without_ties: Option<Effect>,
    /// Cohen's kappa: agreement beyond chance.
    pub kappa: Option<Effect>,
    /// Expected calibration error over the bins below.
    pub calibration_error: Option<f64>,
    pub reliability: Vec<ReliabilityBin>,
    /// Mean of all the judge's verdicts, as they are.
    pub judged_mean: Option<Effect>,
    /// What people would say on average: prediction-powered inference where there are unlabelled items, else their
    /// own mean.
    pub corrected_mean: Option<Effect>,
    /// Of binary labels: the share of positives (of pairs: of wins of A), corrected for the judge's sensitivity and
    /// specificity; over the unlabelled items where there are any.
    pub rogan_gladen: Option<Effect>,
}

impl JudgeCalibration {
    /// Means are those of the points of A (a tie is 1/2): its win rate.
    #[must_use]
    pub fn of_pairs(items: &[LabelledPair]) -> Self {
        let decided: Vec<&LabelledPair> = items.iter().filter(|item| is_decided(&item.judge)).collect();
        let labelled: Vec<(&Preference, &LabelledPair)> = decided
            .iter()
            .filter_map(|item| Some((item.people.as_ref().filter(|people| is_decided(people))?, *item)))
            .collect();
        let verdicts: Vec<(Preference, Preference)> =
            labelled.iter().map(|(people, item)| ((*people).clone(), item.judge.clone())).collect();
        let agrees = |(people, item): &(&Preference, &LabelledPair)| (**people == item.judge, item.group);
        let tied = |(people, item): &(&Preference, &LabelledPair)| {
            **people == Preference::Tie || item.judge == Preference::Tie
        };
        let judged = |item: &LabelledPair| item.probability_a.or(item.judge.points_a());
        let sure: Vec<(f64, bool)> = labelled
            .iter()
            .filter(|(people, _)| **people != Preference::Tie)
            .filter_map(|(people, item)| Some((item.probability_a?, **people == Preference::A)))
            .collect();
        let points: Vec<LabelledScore> = decided
            .iter()
            .map(|item| LabelledScore {
                people: item.people.as_ref().and_then(Preference::points_a),
                judge: judged(item),
                group: item.group,
            })
            .collect();
        // Of people's verdicts without ties: whether A wins. The judge's ties say no, on all items alike.
        let a_wins = |preference: &Preference| *preference == Preference::A;
        let binary = labelled.iter().all(|(people, _)| **people != Preference::Tie);
        let calls: Vec<(Option<bool>, bool)> = decided
            .iter()
            .map(|item| {
                let people = item.people.as_ref().filter(|people| is_decided(people));
                (people.map(a_wins), a_wins(&item.judge))
            })
            .collect();
        Self {
            unscored: (items.len() - decided.len()) as u64,
            agreement: share(labelled.iter().map(agrees)),
            agreement_without_ties: share(labelled.iter().filter(|item| !tied(item)).map(agrees)),
            kappa: cohen_kappa(&verdicts, LEVEL).map(|kappa| kappa_effect(&kappa, verdicts.len())),
            rogan_gladen: if binary { corrected_share(&calls) } else { None },
            ..Self::of_means(&points).with_reliability(&sure)
        }
    }

    /// `levels`: the ends of the scale, for binary labels 0 and 1. Scores of other scales are rounded to levels where
    /// agreement is asked for.
    #[must_use]
    pub fn of_scores(items: &[LabelledScore], levels: [f64; 2]) -> Self {
        let decided = items.iter().filter(|item| item.people.is_some() && item.judge.is_some());
        let groups = decided.map(|item| item.group);
        let both: Vec<(f64, f64)> = items.iter().filter_map(|item| item.people.zip(item.judge)).collect();
        let rounded: Vec<(i64, i64)> =
            both.iter().map(|(people, judge)| (people.round() as i64, judge.round() as i64)).collect();
        let same = rounded.iter().map(|(people, judge)| people == judge).zip(groups);
        let binary = both.iter().all(|(people, _)| *people == levels[0] || *people == levels[1]);
        let middle = (levels[0] + levels[1]) / 2.0;
        let width = levels[1] - levels[0];
        let report = Self {
            unscored: items.iter().filter(|item| item.judge.is_none()).count() as u64,
            agreement: share(same),
            kappa: cohen_kappa(&rounded, LEVEL).map(|kappa| kappa_effect(&kappa, both.len())),
            ..Self::of_means(items)
        };
        if !binary || both.is_empty() {
            return report;
        }
        let calls: Vec<(Option<bool>, bool)> = items
            .iter()
            .filter_map(|item| Some((item.people.map(|people| people > middle), item.judge? > middle)))
            .collect();
        let sure: Vec<(f64, bool)> =
            both.iter().map(|(people, judge)| ((judge - levels[0]) / width, *people > middle)).collect();
        Self { rogan_gladen: corrected_share(&calls), ..report.with_reliability(&sure) }
    }

    fn of_means(items: &[LabelledScore]) -> Self {
        let mut labelled = (Vec::new(), Vec::new());
        let mut unlabelled = (Vec::new(), Vec::new());
        for item in items {
            match (item.people, item.judge) {
                (Some(people), Some(judge)) => {
                    labelled.0.push((people, judge));
                    labelled.1.push(item.group);
                }
                (None, Some(judge)) => {
                    unlabelled.0.push(judge);
                    unlabelled.1.push(item.group);
                }
                (_, None) => {}
            }
        }
        let people = labelled.0.iter().map(|(people, _)| *people).zip(labelled.1.iter().copied());
        let own = mean_effect(people);
        let all = items.iter().filter_map(|item| Some((item.judge?, item.group)));
        let clusters = [labelled.1.as_slice(), unlabelled.1.as_slice()];
        let powered = prediction_powered_mean(&labelled.0, &unlabelled.0, Some(clusters), LEVEL);
        let n = (labelled.0.len() + unlabelled.0.len()) as u64;
        let powered = powered.map(|found| Effect { value: found.value, ci95: found.interval, n });
        Self {
            labelled: labelled.0.len() as u64,
            unlabelled: unlabelled.0.len() as u64,
            unscored: 0,
            agreement: None,
            agreement_without_ties: None,
            kappa: None,
            calibration_error: None,
            reliability: Vec::new(),
            judged_mean: mean_effect(all),
            corrected_mean: powered.or(own),
            rogan_gladen: None,
        }
    }

    fn with_reliability(self, sure: &[(f64, bool)]) -> Self {
        let Some(found) = calibration(sure, BINS, Binning::EqualWidth) else { return self };
        let bins = found.bins.iter().filter_map(|bin| {
            let right = (bin.accuracy * bin.n as f64).round() as u64;
            let ci95 = wilson_interval(right, bin.n, LEVEL)?;
            Some(ReliabilityBin { judged: bin.mean_confidence, people: bin.accuracy, n: bin.n, ci95 })
        });
        Self { reliability: bins.collect(), calibration_error: Some(found.ece), ..self }
    }
}

/// The share of positives among the items without a label (`None`, what the judge calls them), corrected by what the
/// judge called the others. Without such items that of all, with an interval that is wider than it has to be.
fn corrected_share(calls: &[(Option<bool>, bool)]) -> Option<Effect> {
    let labelled: Vec<(bool, bool)> =
        calls.iter().filter_map(|(people, judge)| Some(((*people)?, *judge))).collect();
    let open: Vec<bool> =
        calls.iter().filter(|(people, _)| people.is_none()).map(|(_, judge)| *judge).collect();
    let judged = if open.is_empty() { labelled.iter().map(|(_, judge)| *judge).collect() } else { open };
    let n = judged.len() as u64;
    let positive = judged.iter().filter(|call| **call).count() as u64;
    let found = rogan_gladen((positive, n), &labelled, LEVEL)?;
    Some(Effect { value: found.value, ci95: found.interval, n })
}

/// The mean of values and their groups.
fn mean_effect(values: impl Iterator<Item = (f64, usize)>) -> Option<Effect> {
    let (values, groups): (Vec<f64>, Vec<usize>) = values.unzip();
    let found = clustered_difference(&values, &groups, LEVEL)?;
    Some(Effect { value: found.value, ci95: found.interval, n: values.len() as u64 })
}

/// The share of items that are so, by group.
fn share(items: impl Iterator<Item = (bool, usize)>) -> Option<Effect> {
    let (values, groups): (Vec<f64>, Vec<usize>) =
        items.map(|(is_so, group)| (f64::from(u8::from(is_so)), group)).unzip();
    Effect::share_in_groups(&values, &groups)
}

fn kappa_effect(kappa: &Kappa, n: usize) -> Effect {
    Effect { value: kappa.value, ci95: kappa.interval, n: n as u64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::Unscored;
    use Preference::{A, B, Tie};

    fn pair(people: Option<Preference>, judge: Preference, probability_a: f64) -> LabelledPair {
        LabelledPair { people, judge, probability_a: Some(probability_a), group: 0 }
    }

    /// Every item a group of its own.
    fn apart<T>(mut items: Vec<T>, group: impl Fn(&mut T) -> &mut usize) -> Vec<T> {
        items.iter_mut().enumerate().for_each(|(number, item)| *group(item) = number);
        items
    }

    fn scores_apart(items: &[LabelledScore]) -> Vec<LabelledScore> {
        apart(items.to_vec(), |item| &mut item.group)
    }

    fn pairs_apart(items: &[LabelledPair]) -> Vec<LabelledPair> {
        apart(items.to_vec(), |item| &mut item.group)
    }

    #[test]
    fn agreement_is_counted_with_and_without_ties() {
        let items = [
            pair(Some(A), A, 0.9),
            pair(Some(B), B, 0.2),
            pair(Some(Tie), A, 0.8),
            pair(Some(A), Tie, 0.5),
            pair(Some(B), A, 0.7),
            pair(None, A, 0.8),
            pair(None, B, 0.3),
            pair(Some(A), Preference::Unscored { reason: Unscored::Abstained }, 0.5),
        ];
        let report = JudgeCalibration::of_pairs(&pairs_apart(&items));
        assert_eq!((report.labelled, report.unlabelled, report.unscored), (5, 2, 1));
        assert_eq!(report.agreement.unwrap().value, 0.4);
        let untied = report.agreement_without_ties.unwrap();
        assert_eq!((untied.value, untied.n), (2.0 / 3.0, 3));
        // People's ties say nothing about a probability.
        assert_eq!(report.reliability.iter().map(|bin| bin.n).sum::<u64>(), 4);
        assert!(report.kappa.is_some() && report.corrected_mean.is_some());
    }

    #[test]
    fn a_lenient_judge_is_corrected_towards_people() {
        // The judge gives everything half a level too much.
        let score = |i: u32| f64::from(i % 5) + 1.0;
        let mut items: Vec<LabelledScore> = (0..40)
            .map(|i| LabelledScore { people: Some(score(i)), judge: Some(score(i) + 0.5), group: 0 })
            .collect();
        items.extend((0..200).map(|i| LabelledScore {
            people: None,
            judge: Some(score(i * 7) + 0.5),
            group: 0,
        }));
        let report = JudgeCalibration::of_scores(&scores_apart(&items), [1.0, 5.0]);
        assert!((report.judged_mean.unwrap().value - 3.5).abs() < 1e-9);
        assert!((report.corrected_mean.unwrap().value - 3.0).abs() < 1e-9);
        assert_eq!(report.rogan_gladen, None);
    }

    #[test]
    fn binary_labels_give_a_corrected_share() {
        let item = |people: bool, judge: bool| LabelledScore {
            people: Some(f64::from(u8::from(people))),
            judge: Some(f64::from(u8::from(judge))),
            group: 0,
        };
        let mut items = vec![item(true, true); 9];
        items.push(item(true, false));
        items.extend(vec![item(false, false); 8]);
        items.extend(vec![item(false, true); 2]);
        let report = JudgeCalibration::of_scores(&scores_apart(&items), [0.0, 1.0]);
        // 11 of 20 called positive: (0.55 + 0.8 - 1) / 0.7.
        assert!((report.rogan_gladen.unwrap().value - 0.5).abs() < 1e-12);
        assert_eq!(report.agreement.unwrap().value, 0.85);
        // Others than the labelled ones: 60 of 100 called positive, (0.6 + 0.8 - 1) / 0.7.
        items.extend((0..100).map(|i| LabelledScore {
            people: None,
            judge: Some(f64::from(u8::from(i < 60))),
            group: 0,
        }));
        let found = JudgeCalibration::of_scores(&scores_apart(&items), [0.0, 1.0]).rogan_gladen.unwrap();
        assert!((found.value - 0.4 / 0.7).abs() < 1e-12 && found.n == 100, "{found:?}");
    }

    #[test]
    fn wins_are_a_binary_label_where_people_know_no_ties() {
        let said = |people: Option<Preference>, judge: Preference| LabelledPair {
            people,
            judge,
            probability_a: None,
            group: 0,
        };
        let mut items = vec![said(Some(A), A); 9];
        items.push(said(Some(A), Tie));
        items.extend(vec![said(Some(B), B); 5]);
        items.extend(vec![said(Some(B), Tie); 3]);
        items.extend(vec![said(Some(B), A); 2]);
        items.extend((0..100).map(|i| said(None, if i < 60 { A } else { Tie })));
        let found = JudgeCalibration::of_pairs(&pairs_apart(&items)).rogan_gladen.unwrap();
        assert!((found.value - 0.4 / 0.7).abs() < 1e-12 && found.n == 100, "{found:?}");
        items.push(said(Some(Tie), A));
        assert_eq!(JudgeCalibration::of_pairs(&pairs_apart(&items)).rogan_gladen, None);
    }

    /// A judge that was right about all of five labels may still err.
    #[test]
    fn five_right_verdicts_are_no_certainty() {
        let said = |people: Option<Preference>, judge: Preference| LabelledPair {
            people,
            judge,
            probability_a: None,
            group: 0,
        };
        let mut items = vec![said(Some(A), A); 3];
        items.extend(vec![said(Some(B), B); 2]);
        items.extend((0..1000).map(|i| said(None, if i % 2 == 0 { A } else { B })));
        let found = JudgeCalibration::of_pairs(&pairs_apart(&items)).rogan_gladen.unwrap();
        assert!(found.value == 0.5 && found.ci95[1] - found.ci95[0] > 0.5, "{found:?}");
    }

    #[test]
    fn without_labels_nothing_is_claimed() {
        let report = JudgeCalibration::of_scores(
            &[LabelledScore { people: None, judge: Some(3.0), group: 0 }],
            [1.0, 5.0],
        );
        assert_eq!((report.agreement, report.kappa, report.corrected_mean), (None, None, None));
    }

    /// Ten answers to each document that say the same say it once.
    #[test]
    fn repeats_of_a_document_make_nothing_surer() {
        let item = |i: usize| LabelledScore {
            people: i.is_multiple_of(2).then_some(f64::from(u8::from(i.is_multiple_of(3)))),
            judge: Some(f64::from(u8::from(i % 5 < 3))),
            group: i,
        };
        let once: Vec<LabelledScore> = (0..90).map(item).collect();
        let often: Vec<LabelledScore> = once.iter().flat_map(|item| [*item; 10]).collect();
        let (once, often) =
            (JudgeCalibration::of_scores(&once, [0.0, 1.0]), JudgeCalibration::of_scores(&often, [0.0, 1.0]));
        for (one, ten) in [
            (once.judged_mean, often.judged_mean),
            (once.corrected_mean, often.corrected_mean),
            (once.agreement, often.agreement),
        ] {
            let (one, ten) = (one.unwrap(), ten.unwrap());
            let width = |effect: Effect| effect.ci95[1] - effect.ci95[0];
            assert!((one.value - ten.value).abs() < 1e-2 && ten.n == 10 * one.n);
            assert!((width(ten) / width(one) - 1.0).abs() < 0.02, "{one:?} {ten:?}");
        }
    }
}
