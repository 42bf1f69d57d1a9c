use proptest::prelude::*;

use super::*;

const POINTS: [f64; 11] = [1.0, 0.5, 0.0, 1.0, 0.0, 1.0, 1.0, 0.5, 0.0, 0.0, 1.0];

fn battles() -> Vec<Battle> {
    let pairs = (0..200usize).map(|i| (i, i % 4, (i * 7 + i / 4 + 1) % 4)).filter(|(_, a, b)| a != b);
    pairs.map(|(i, a, b)| Battle::new(a, b, POINTS[(i * 5 + a * 3 + b) % 11])).collect()
}

// rows = []
// for i in range(200):
//     a, b = i % 4, (i * 7 + i // 4 + 1) % 4
//     if a != b: rows.append((a, b, [1, .5, 0, 1, 0, 1, 1, .5, 0, 0, 1][(i * 5 + a * 3 + b) % 11]))
// from arena_rank.models.bradley_terry import BradleyTerry       # arena-rank 0.1.1
// from arena_rank.utils.data_utils import PairDataset
// names = {1: "model_a", 0: "model_b", .5: "tie"}
// df = pd.DataFrame([(f"m{a}", f"m{b}", names[y]) for a, b, y in rows], columns=["model_a", "model_b", "winner"])
// r = BradleyTerry(4, ftol=1e-30, gtol=1e-14).compute_ratings_and_cis(PairDataset.from_pandas(df))
// print(r["ratings"], r["rating_lower"], r["variances"] ** .5)
// # The same ratings from statsmodels 0.15: GLM(y, X, Binomial()), X the differences of one-hot rows.
#[test]
fn promise_16_matches_arena_rank() {
    let ratings = bradley_terry(4, &battles(), None, 0.95).unwrap();
    let expected = [
        (1003.7609607689665, 950.3884015677027, 27.231397934992568),
        (1017.8425135537332, 963.796433445777, 27.575037365107143),
        (996.2390392310335, 942.8664799474179, 27.231397977009536),
        (982.1574864462668, 928.1114062976554, 27.57503738584993),
    ];
    for (ours, (rating, low, stderr)) in ratings.competitors.iter().zip(expected) {
        assert!((ours.rating - rating).abs() < 1e-6, "{ours:?}");
        assert!((ours.interval[0] - low).abs() < 1e-6, "{ours:?}");
        assert!((ours.stderr - stderr).abs() < 1e-6, "{ours:?}");
    }
}

#[test]
fn the_bootstrap_agrees_with_the_sandwich() {
    let units: Vec<Vec<Battle>> = battles().into_iter().map(|battle| vec![battle]).collect();
    let (intervals, left_out) = bootstrap_ratings(4, &units, (1000, 7, 0.95)).unwrap();
    assert_eq!(left_out, 0);
    let ratings = bradley_terry(4, &battles(), None, 0.95).unwrap();
    for (boot, rating) in intervals.iter().zip(&ratings.competitors) {
        let (width, ours) = (boot[1] - boot[0], rating.interval[1] - rating.interval[0]);
        assert!((width / ours - 1.0).abs() < 0.12, "{boot:?} {rating:?}");
    }
    assert_eq!(bootstrap_ratings(4, &units, (1000, 7, 0.95)).unwrap().0, intervals);
}

#[test]
fn who_cannot_be_compared_has_no_rating() {
    let won = Battle::new(0, 1, 1.0);
    assert_eq!(bradley_terry(2, &[won, won], None, 0.95), None);
    assert!(bradley_terry(2, &[won, Battle::new(1, 0, 1.0)], None, 0.95).is_some());
    // Two islands.
    let tie = |a, b| Battle::new(a, b, 0.5);
    assert_eq!(bradley_terry(4, &[tie(0, 1), tie(2, 3)], None, 0.95), None);
    assert_eq!(bradley_terry(1, &[], None, 0.95), None);
    assert_eq!(bradley_terry(2, &[Battle::new(0, 0, 0.5)], None, 0.95), None);
    assert_eq!(bradley_terry(2, &[Battle::new(0, 1, f64::NAN)], None, 0.95), None);
}

/// Ten people who say the same about the same answers know no more than one.
#[test]
fn battles_of_one_cluster_are_one_observation() {
    let all = battles();
    let each: Vec<usize> = (0..all.len()).collect();
    let ten_times: Vec<Battle> = all.iter().flat_map(|battle| [*battle; 10]).collect();
    let of_ten: Vec<usize> = each.iter().flat_map(|cluster| [*cluster; 10]).collect();
    let plain = bradley_terry(4, &all, None, 0.95).unwrap();
    let once = bradley_terry(4, &all, Some(&each), 0.95).unwrap();
    let repeated = bradley_terry(4, &ten_times, Some(&of_ten), 0.95).unwrap();
    let naive = bradley_terry(4, &ten_times, None, 0.95).unwrap();
    let raised = (all.len() as f64 / (all.len() - 3) as f64).sqrt();
    for index in 0..4 {
        let stderr = |ratings: &Ratings| ratings.competitors[index].stderr;
        assert!((stderr(&once) / stderr(&plain) - raised).abs() < 1e-6);
        assert!((stderr(&repeated) / stderr(&once) - 1.0).abs() < 1e-6);
        assert!((stderr(&naive) / stderr(&plain) - 0.1f64.sqrt()).abs() < 1e-6);
    }
    assert!((repeated.stderr_of_difference(0, 1) / once.stderr_of_difference(0, 1) - 1.0).abs() < 1e-6);
    // At the maximum the scores of all battles add up to nothing: one cluster would look certain.
    assert_eq!(bradley_terry(4, &all, Some(&vec![0; all.len()]), 0.95), None);
    assert_eq!(bradley_terry(4, &all, Some(&each.iter().map(|c| c % 3).collect::<Vec<_>>()), 0.95), None);
    assert_eq!(bradley_terry(4, &all, Some(&each[1..]), 0.95), None);
}

proptest! {
    /// Sides and names do not matter, and two competitors' odds are their wins.
    #[test]
    fn turned_battles_are_the_same_battles(turn in prop::collection::vec(any::<bool>(), 150)) {
        let all = battles();
        let turned: Vec<Battle> =
            all.iter().zip(turn).map(|(b, turn)| if turn { b.turned() } else { *b }).collect();
        let (ours, theirs) = (bradley_terry(4, &all, None, 0.9).unwrap(), bradley_terry(4, &turned, None, 0.9).unwrap());
        for (a, b) in ours.competitors.iter().zip(&theirs.competitors) {
            prop_assert!((a.rating - b.rating).abs() < 1e-6, "{a:?} {b:?}");
            prop_assert!((a.stderr - b.stderr).abs() < 1e-6, "{a:?} {b:?}");
        }
    }

    #[test]
    fn two_competitors_have_the_odds_of_their_wins(wins in 1u32..50, losses in 1u32..50) {
        let battle = |won: bool| Battle::new(0, 1, f64::from(u8::from(won)));
        let all: Vec<Battle> =
            (0..wins).map(|_| battle(true)).chain((0..losses).map(|_| battle(false))).collect();
        let ratings = bradley_terry(2, &all, None, 0.95).unwrap();
        let difference = ratings.competitors[0].rating - ratings.competitors[1].rating;
        prop_assert!((difference - 400.0 * (f64::from(wins) / f64::from(losses)).log10()).abs() < 1e-6);
    }
}
