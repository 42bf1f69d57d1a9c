//! How far raters agree beyond chance.

use std::collections::BTreeMap;

use crate::{finite, normal_quantile};

/// A coefficient of agreement with its large-sample interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kappa {
    pub value: f64,
    pub stderr: f64,
    pub interval: [f64; 2],
    /// Share of items on which the raters agree.
    pub observed: f64,
    /// Share on which they would by chance.
    pub expected: f64,
}

/// Cohen's kappa of two raters, (po - pe) / (1 - pe) (Cohen 1960, Educational and Psychological Measurement
/// 20:37), with the standard error of Fleiss, Cohen and Everitt 1969 (Psychological Bulletin 72:323, equation
/// 13), as `statsmodels.stats.inter_rater.cohens_kappa`. Items are pairs of ratings.
///
/// `None` without items, and where both raters only ever use one and the same category: there is nothing to
/// agree about then.
#[must_use]
pub fn cohen_kappa<C: Ord>(items: &[(C, C)], level: f64) -> Option<Kappa> {
    if items.is_empty() {
        return None;
    }
    let n = items.len() as f64;
    let mut cells: BTreeMap<(&C, &C), f64> = BTreeMap::new();
    let (mut rows, mut columns): (BTreeMap<&C, f64>, BTreeMap<&C, f64>) = Default::default();
    for (a, b) in items {
        *cells.entry((a, b)).or_default() += 1.0 / n;
        *rows.entry(a).or_default() += 1.0 / n;
        *columns.entry(b).or_default() += 1.0 / n;
    }
    let row = |category: &C| rows.get(category).copied().unwrap_or(0.0);
    let column = |category: &C| columns.get(category).copied().unwrap_or(0.0);
    let observed: f64 = cells.iter().filter(|((a, b), _)| a == b).map(|(_, p)| p).sum();
    let expected: f64 = rows.iter().map(|(category, p)| p * column(category)).sum();
    let value = finite((observed - expected) / (1.0 - expected))?;
    let agreeing: f64 = cells
        .iter()
        .filter(|((a, b), _)| a == b)
        .map(|((a, _), p)| p * (1.0 - (row(a) + column(a)) * (1.0 - value)).powi(2))
        .sum();
    let differing: f64 =
        cells.iter().filter(|((a, b), _)| a != b).map(|((a, b), p)| p * (column(a) + row(b)).powi(2)).sum();
    let rest = (value - expected * (1.0 - value)).powi(2);
    let variance = (agreeing + (1.0 - value).powi(2) * differing - rest) / (n * (1.0 - expected).powi(2));
    let stderr = finite(variance.max(0.0).sqrt())?;
    let z = normal_quantile(0.5 + level / 2.0)?;
    Some(Kappa { value, stderr, interval: [value - z * stderr, value + z * stderr], observed, expected })
}

/// Fleiss' kappa of several raters (Fleiss 1971, Psychological Bulletin 76:378). Every item holds the ratings
/// it got; all of them the same number of two or more. `None` otherwise, and where only one category is used.
#[must_use]
pub fn fleiss_kappa<C: Ord>(items: &[Vec<C>]) -> Option<f64> {
    let raters = items.first()?.len();
    if raters < 2 || items.iter().any(|item| item.len() != raters) {
        return None;
    }
    let (n, r) = (items.len() as f64, raters as f64);
    let mut totals: BTreeMap<&C, f64> = BTreeMap::new();
    let mut agreement = 0.0;
    for item in items {
        let counts = counted(item);
        agreement += counts.values().map(|count| count * (count - 1.0)).sum::<f64>() / (r * (r - 1.0));
        for (category, count) in counts {
            *totals.entry(category).or_default() += count / (n * r);
        }
    }
    let expected: f64 = totals.values().map(|p| p * p).sum();
    finite((agreement / n - expected) / (1.0 - expected))
}

fn counted<C: Ord>(ratings: &[C]) -> BTreeMap<&C, f64> {
    let mut counts = BTreeMap::new();
    for rating in ratings {
        *counts.entry(rating).or_default() += 1.0;
    }
    counts
}

/// What a difference between two ratings means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RatingScale {
    /// Names: equal or not.
    Nominal,
    /// Ranks: how many ratings lie between.
    Ordinal,
    /// Numbers: the difference.
    Interval,
}

/// Krippendorff's alpha, 1 - Do / De over the coincidences of ratings (Krippendorff 2011, "Computing
/// Krippendorff's alpha-reliability"). Every item holds the ratings it got, as many as there are; items with
/// fewer than two say nothing. `None` where no item has two, and where all ratings are the same.
///
/// Without the matrix of coincidences, which has a cell for every two values that occur: a sum of squared
/// differences over all pairs of m numbers is 2 m times their sum of squares around the mean, and the
/// difference of two ranks is that of their middles. Time n log n in the number of ratings.
#[must_use]
pub fn krippendorff_alpha(items: &[Vec<f64>], scale: RatingScale) -> Option<f64> {
    if items.iter().flatten().any(|rating| !rating.is_finite()) {
        return None;
    }
    let rated: Vec<&[f64]> = items.iter().map(Vec::as_slice).filter(|item| item.len() > 1).collect();
    let mut ratings: Vec<f64> = rated.iter().copied().flatten().copied().collect();
    ratings.sort_by(f64::total_cmp);
    if ratings.first()? == ratings.last()? {
        return None;
    }
    let disagreement: &dyn Fn(&[f64]) -> f64 = match scale {
        RatingScale::Nominal => &differing,
        RatingScale::Interval => &squared_differences,
        RatingScale::Ordinal => {
            &|item| squared_differences(&item.iter().map(|x| middle_rank(&ratings, *x)).collect::<Vec<_>>())
        }
    };
    let observed: f64 = rated.iter().map(|item| disagreement(item) / (item.len() - 1) as f64).sum();
    let expected = disagreement(&ratings) / (ratings.len() - 1) as f64;
    finite(1.0 - observed / expected)
}

/// Sum of (a - b)^2 over all ordered pairs.
fn squared_differences(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let centre = values.iter().sum::<f64>() / n;
    2.0 * n * values.iter().map(|x| (x - centre).powi(2)).sum::<f64>()
}

/// Ordered pairs that differ.
fn differing(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let equal: usize = sorted.chunk_by(|a, b| a == b).map(|group| group.len() * group.len()).sum();
    (values.len() * values.len() - equal) as f64
}

/// How many of the sorted ratings lie below the middle of those that equal this one.
fn middle_rank(sorted: &[f64], rating: f64) -> f64 {
    let below = sorted.partition_point(|known| *known < rating);
    let up_to = sorted.partition_point(|known| *known <= rating);
    (below + up_to) as f64 / 2.0
}

#[cfg(test)]
mod tests;
