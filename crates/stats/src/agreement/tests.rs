use proptest::prelude::*;

use super::*;

fn raters() -> Vec<[usize; 3]> {
    let item = |i: usize| {
        let a = (i * 7) % 3;
        let b = if i.is_multiple_of(4) { (i * 5) % 3 } else { a };
        let c = if i.is_multiple_of(5) { (i * 11 + 1) % 3 } else { a };
        [a, b, c]
    };
    (0..60).map(item).collect()
}

// i = np.arange(60); a = (i * 7) % 3; b = np.where(i % 4 == 0, (i * 5) % 3, a)
// t = np.zeros((3, 3))
// for x, z in zip(a, b): t[x, z] += 1
// k = cohens_kappa(t); print(k.kappa, k.std_kappa, k.kappa_low, k.kappa_upp)     # statsmodels 0.15
// c = np.where(i % 5 == 0, (i * 11 + 1) % 3, a)
// print(fleiss_kappa(aggregate_raters(np.column_stack([a, b, c]))[0]))
#[test]
fn promise_16_kappas_match_statsmodels() {
    let pairs: Vec<(usize, usize)> = raters().iter().map(|[a, b, _]| (*a, *b)).collect();
    let kappa = cohen_kappa(&pairs, 0.95).unwrap();
    for (ours, reference) in [
        (kappa.value, 0.7499999999999999),
        (kappa.stderr, 0.07216878364870324),
        (kappa.interval[0], 0.6085517832404783),
        (kappa.interval[1], 0.8914482167595215),
    ] {
        crate::assert_close(Some(ours), reference);
    }
    let items: Vec<Vec<usize>> = raters().iter().map(|item| item.to_vec()).collect();
    crate::assert_close(fleiss_kappa(&items), 0.7083333333333334);
}

// data = np.column_stack([a, b, c]).astype(float).T
// data[0, ::7] = np.nan; data[1, 3::7] = np.nan; data[2, ::14] = np.nan
// krippendorff.alpha(reliability_data=data, level_of_measurement=...)            # krippendorff 0.9
#[test]
fn promise_16_alpha_matches_krippendorff_with_missing_ratings() {
    let items: Vec<Vec<f64>> = raters()
        .iter()
        .enumerate()
        .map(|(i, [a, b, c])| {
            let missing = [i.is_multiple_of(7), i % 7 == 3, i.is_multiple_of(14)];
            let rated = [a, b, c].into_iter().zip(missing).filter(|(_, missing)| !missing);
            rated.map(|(rating, _)| *rating as f64).collect()
        })
        .collect();
    for (scale, reference) in [
        (RatingScale::Nominal, 0.7352253539420703),
        (RatingScale::Ordinal, 0.8509601038667995),
        (RatingScale::Interval, 0.8509476177941564),
    ] {
        crate::assert_close(krippendorff_alpha(&items, scale), reference);
    }
}

#[test]
fn nothing_to_agree_about_is_none() {
    assert_eq!(cohen_kappa::<u8>(&[], 0.95), None);
    assert_eq!(cohen_kappa(&[(1, 1), (1, 1)], 0.95), None);
    assert_eq!(fleiss_kappa(&[vec![1], vec![2]]), None);
    assert_eq!(fleiss_kappa(&[vec![1, 1], vec![1]]), None);
    assert_eq!(krippendorff_alpha(&[vec![1.0], vec![2.0]], RatingScale::Nominal), None);
    assert_eq!(krippendorff_alpha(&[vec![1.0, f64::NAN]], RatingScale::Nominal), None);
}

/// The definition: the matrix of coincidences, cell by cell.
fn alpha_by_coincidences(items: &[Vec<f64>], scale: RatingScale) -> Option<f64> {
    let mut values: Vec<f64> = items.iter().filter(|item| item.len() > 1).flatten().copied().collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    let place = |rating: f64| values.partition_point(|known| *known < rating);
    let mut cells = vec![vec![0.0; values.len()]; values.len()];
    for item in items.iter().filter(|item| item.len() > 1) {
        for (i, a) in item.iter().enumerate() {
            for (_, b) in item.iter().enumerate().filter(|(j, _)| *j != i) {
                cells[place(*a)][place(*b)] += 1.0 / (item.len() - 1) as f64;
            }
        }
    }
    let totals: Vec<f64> = cells.iter().map(|row| row.iter().sum()).collect();
    let n: f64 = totals.iter().sum();
    let distance = |a: usize, b: usize| -> f64 {
        let (low, high) = (a.min(b), a.max(b));
        let distance = match scale {
            RatingScale::Nominal => f64::from(u8::from(a != b)),
            RatingScale::Interval => values[high] - values[low],
            RatingScale::Ordinal => {
                totals[low..=high].iter().sum::<f64>() - (totals[low] + totals[high]) / 2.0
            }
        };
        distance * distance
    };
    let (mut observed, mut expected) = (0.0, 0.0);
    for (a, row) in cells.iter().enumerate() {
        for (b, cell) in row.iter().enumerate() {
            observed += cell * distance(a, b);
            expected += totals[a] * totals[b] * distance(a, b) / (n - 1.0);
        }
    }
    finite(1.0 - observed / expected)
}

/// Expected scores of two judges: as many values as ratings. The matrix would take 20 GB.
#[test]
fn alpha_of_as_many_values_as_ratings_needs_no_matrix() {
    let items: Vec<Vec<f64>> = (0..25_000)
        .map(|i| vec![f64::from(i) / 7.0, f64::from(i) / 7.0 + 0.001 * f64::from(i % 10)])
        .collect();
    for scale in [RatingScale::Nominal, RatingScale::Ordinal, RatingScale::Interval] {
        let alpha = krippendorff_alpha(&items, scale).unwrap();
        assert!(alpha <= 1.0 && (scale == RatingScale::Nominal || alpha > 0.99), "{scale:?}: {alpha}");
    }
}

proptest! {
    #[test]
    fn alpha_is_that_of_the_matrix(
        items in prop::collection::vec(prop::collection::vec((0u8..6).prop_map(|x| f64::from(x) / 2.0), 0..5), 1..30),
    ) {
        for scale in [RatingScale::Nominal, RatingScale::Ordinal, RatingScale::Interval] {
            let (ours, reference) = (krippendorff_alpha(&items, scale), alpha_by_coincidences(&items, scale));
            match (ours, reference) {
                (Some(ours), Some(reference)) => {
                    prop_assert!((ours - reference).abs() < 1e-9, "{:?}: {} is not {}", scale, ours, reference);
                }
                (ours, reference) => prop_assert_eq!(ours, reference),
            }
        }
    }
}
