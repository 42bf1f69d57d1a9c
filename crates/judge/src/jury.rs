//! Several judges, or one asked several times, as one.

use std::collections::{BTreeMap, BTreeSet};

use evalign_stats::{
    Kappa, RatingScale, cohen_kappa, dawid_skene, fleiss_kappa, krippendorff_alpha, mean, quantile,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::pairwise::Preference;
use crate::verdict::Unscored;

/// How several verdicts become one. Judges without a verdict on an item are left out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Aggregation {
    /// Of preferences: who has more than half of the points.
    #[default]
    Mean,
    Median,
    /// The most frequent one; several equally frequent preferences are a tie.
    Majority,
    /// Weighted by how reliable each judge turns out to be (Dawid and Skene 1979). Scores are rounded to levels.
    DawidSkene,
}

impl Aggregation {
    pub const ALL: [Self; 4] = [Self::Mean, Self::Median, Self::Majority, Self::DawidSkene];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Median => "median",
            Self::Majority => "majority",
            Self::DawidSkene => "dawid-skene",
        }
    }
}

/// How far judges agree beyond chance. Each is absent where it is undefined.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct JuryAgreement {
    pub judges: u64,
    /// Items with verdicts of two judges or more.
    pub items: u64,
    /// Of two judges, over what both decided, with its 95 % interval.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cohen: Option<[f64; 3]>,
    /// Over what all decided.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub fleiss: Option<f64>,
    /// Over everything: nominal for preferences, interval for scores.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub krippendorff: Option<f64>,
}

/// The jury's preference on each item; `by_judge` holds every judge's on all of them.
#[must_use]
pub fn jury_preferences(by_judge: &[Vec<Preference>], how: Aggregation) -> Vec<Preference> {
    let points: Vec<Vec<Option<f64>>> =
        by_judge.iter().map(|said| said.iter().map(Preference::points_a).collect()).collect();
    let scores = match how {
        // The most probable verdict: between A and B a tie is a verdict of its own, not what is left in the middle.
        Aggregation::DawidSkene => reliable(&points, most_probable),
        _ => jury_scores(&points, how),
    };
    let preference = |(item, score): (usize, Option<f64>)| match score {
        Some(points) if points > 0.5 => Preference::A,
        Some(points) if points < 0.5 => Preference::B,
        Some(_) => Preference::Tie,
        None => undecided(by_judge, item),
    };
    scores.into_iter().enumerate().map(preference).collect()
}

/// The reason of the first judge without a verdict.
fn undecided(by_judge: &[Vec<Preference>], item: usize) -> Preference {
    let mut said = by_judge.iter().filter_map(|said| said.get(item));
    let reason = said.find(|said| said.points_a().is_none()).cloned();
    reason.unwrap_or(Preference::Unscored { reason: Unscored::Failed("nobody judged it".to_owned()) })
}

/// The jury's score of each item. `None` where no judge gave one.
#[must_use]
pub fn jury_scores(by_judge: &[Vec<Option<f64>>], how: Aggregation) -> Vec<Option<f64>> {
    let items = by_judge.iter().map(Vec::len).max().unwrap_or(0);
    if how == Aggregation::DawidSkene {
        return reliable(by_judge, expected);
    }
    let item = |item: usize| {
        let said = by_judge.iter().filter_map(|said| said.get(item).copied().flatten());
        let mut said: Vec<f64> = said.collect();
        said.sort_by(f64::total_cmp);
        match how {
            Aggregation::Mean => mean(&said),
            Aggregation::Median => quantile(&said, 0.5),
            Aggregation::Majority | Aggregation::DawidSkene => most_frequent(&said),
        }
    };
    (0..items).map(item).collect()
}

/// The mean of the most frequent values: of several equally frequent ones, what lies between.
fn most_frequent(sorted: &[f64]) -> Option<f64> {
    let counts = sorted.chunk_by(|a, b| a == b);
    let most = counts.clone().map(<[f64]>::len).max()?;
    let best: Vec<f64> = counts.filter(|group| group.len() == most).map(|group| group[0]).collect();
    mean(&best)
}

/// Each item's value under Dawid and Skene's posterior, which `read` makes of the categories' values and
/// probabilities.
fn reliable(by_judge: &[Vec<Option<f64>>], read: fn(&[(f64, f64)]) -> Option<f64>) -> Vec<Option<f64>> {
    let items = by_judge.iter().map(Vec::len).max().unwrap_or(0);
    // Categories are the values that occur, halves and levels alike.
    let level = |score: f64| (score * 2.0).round() as i64;
    let values = by_judge.iter().flatten().flatten().map(|score| level(*score));
    let categories: Vec<i64> = values.collect::<BTreeSet<_>>().into_iter().collect();
    let mut ratings = Vec::new();
    for (judge, said) in by_judge.iter().enumerate() {
        for (item, score) in said.iter().enumerate() {
            let category = score.and_then(|score| categories.binary_search(&level(score)).ok());
            ratings.extend(category.map(|category| (item, judge, category)));
        }
    }
    let rated: BTreeSet<usize> = ratings.iter().map(|(item, ..)| *item).collect();
    let value = |category: usize| categories[category] as f64 / 2.0;
    if categories.len() == 1 {
        return (0..items).map(|item| rated.contains(&item).then(|| value(0))).collect();
    }
    let Some(consensus) = dawid_skene((items, by_judge.len(), categories.len()), &ratings) else {
        return vec![None; items];
    };
    let read = |(item, p): (usize, &Vec<f64>)| {
        let posterior: Vec<(f64, f64)> = p.iter().enumerate().map(|(c, p)| (value(c), *p)).collect();
        if rated.contains(&item) { read(&posterior) } else { None }
    };
    consensus.items.iter().enumerate().map(read).collect()
}

fn expected(posterior: &[(f64, f64)]) -> Option<f64> {
    Some(posterior.iter().map(|(value, p)| value * p).sum())
}

/// Of several equally probable ones, what lies between.
fn most_probable(posterior: &[(f64, f64)]) -> Option<f64> {
    let most = posterior.iter().map(|(_, p)| *p).max_by(f64::total_cmp)?;
    let best = posterior.iter().filter(|(_, p)| most - p < 1e-9);
    mean(&best.map(|(value, _)| *value).collect::<Vec<_>>())
}

/// Agreement of judges on preferences.
#[must_use]
pub fn preference_agreement(by_judge: &[Vec<Preference>]) -> JuryAgreement {
    let points: Vec<Vec<Option<f64>>> =
        by_judge.iter().map(|said| said.iter().map(Preference::points_a).collect()).collect();
    agreement(&points, RatingScale::Nominal)
}

/// Agreement of judges on scores; kappas are of scores rounded to levels.
#[must_use]
pub fn score_agreement(by_judge: &[Vec<Option<f64>>]) -> JuryAgreement {
    agreement(by_judge, RatingScale::Interval)
}

fn agreement(by_judge: &[Vec<Option<f64>>], scale: RatingScale) -> JuryAgreement {
    let items = by_judge.iter().map(Vec::len).max().unwrap_or(0);
    let mut said: BTreeMap<usize, Vec<f64>> = BTreeMap::new();
    for scores in by_judge {
        for (item, score) in scores.iter().enumerate() {
            said.entry(item).or_default().extend(*score);
        }
    }
    let all: Vec<Vec<f64>> = said.into_values().collect();
    let category =
        |score: &f64| if scale == RatingScale::Nominal { (score * 2.0) as i64 } else { score.round() as i64 };
    let by_all: Vec<Vec<i64>> = all
        .iter()
        .filter(|item| item.len() == by_judge.len())
        .map(|item| item.iter().map(category).collect())
        .collect();
    let two: Vec<(i64, i64)> = match by_judge.len() {
        2 => by_all.iter().map(|item| (item[0], item[1])).collect(),
        _ => Vec::new(),
    };
    JuryAgreement {
        judges: by_judge.len() as u64,
        items: all.iter().take(items).filter(|item| item.len() > 1).count() as u64,
        cohen: cohen_kappa(&two, 0.95)
            .map(|kappa: Kappa| [kappa.value, kappa.interval[0], kappa.interval[1]]),
        fleiss: fleiss_kappa(&by_all),
        krippendorff: krippendorff_alpha(&all, scale),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Preference::{A, B, Tie};

    fn abstained() -> Preference {
        Preference::Unscored { reason: Unscored::Abstained }
    }

    #[test]
    fn each_way_of_aggregating_has_its_rule() {
        let by_judge =
            [vec![A, A, Tie, abstained()], vec![A, B, A, abstained()], vec![B, Tie, A, abstained()]];
        for (how, expected) in [
            (Aggregation::Mean, [A, Tie, A, abstained()]),
            (Aggregation::Median, [A, Tie, A, abstained()]),
            (Aggregation::Majority, [A, Tie, A, abstained()]),
        ] {
            assert_eq!(jury_preferences(&by_judge, how), expected, "{how:?}");
        }
        let scores = [vec![Some(1.0), None], vec![Some(1.0), None], vec![Some(4.0), Some(2.0)]];
        assert_eq!(jury_scores(&scores, Aggregation::Mean), [Some(2.0), Some(2.0)]);
        assert_eq!(jury_scores(&scores, Aggregation::Median), [Some(1.0), Some(2.0)]);
        assert_eq!(jury_scores(&scores, Aggregation::Majority), [Some(1.0), Some(2.0)]);
    }

    /// Two judges that agree and one that is always wrong: the majority follows neither, the reliable ones win.
    #[test]
    fn dawid_and_skene_find_out_who_is_reliable() {
        let truth: Vec<Preference> = (0..40).map(|i| if i % 3 == 0 { A } else { B }).collect();
        let wrong: Vec<Preference> = truth.iter().cloned().map(Preference::swapped).collect();
        let found = jury_preferences(&[truth.clone(), truth.clone(), wrong], Aggregation::DawidSkene);
        assert_eq!(found, truth);
        let same = jury_preferences(&[vec![A, A], vec![A, abstained()]], Aggregation::DawidSkene);
        assert_eq!(same, [A, A]);
        let truth: Vec<Preference> = (0..30).map(|i| [A, B, Tie][i % 3].clone()).collect();
        let noisy = truth.iter().enumerate().map(|(i, t)| if i % 9 == 2 { A } else { t.clone() }).collect();
        let found = jury_preferences(&[truth.clone(), truth.clone(), noisy], Aggregation::DawidSkene);
        assert_eq!(found, truth, "a tie is a verdict");
    }

    #[test]
    fn agreement_is_over_what_was_decided() {
        let by_judge = [vec![A, B, A, Tie, abstained()], vec![A, B, B, Tie, A]];
        let agreement = preference_agreement(&by_judge);
        assert_eq!((agreement.judges, agreement.items), (2, 4));
        assert!((agreement.cohen.unwrap()[0] - 0.6363636363636364).abs() < 1e-12, "{agreement:?}");
        assert!(agreement.fleiss.is_some() && agreement.krippendorff.is_some());
        assert_eq!(preference_agreement(&[]), JuryAgreement::default());
    }
}
