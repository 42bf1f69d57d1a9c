use super::*;

/// What `tests/peers/ratings.py` recorded of arena-rank 0.1.1 and statsmodels 0.15.
const PEERS: &str = include_str!("peers.txt");

struct Peers {
    battles: Vec<ContextualBattle>,
    prompts: Vec<usize>,
    /// Case, kind, and value, standard error and lower bound.
    found: Vec<(&'static str, &'static str, [f64; 3])>,
}

fn peers() -> Peers {
    let mut peers = Peers { battles: Vec::new(), prompts: Vec::new(), found: Vec::new() };
    for line in PEERS.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let numbers = |from: usize| words[from..].iter().map(|word| word.parse::<f64>().unwrap());
        if words[0] == "battle" {
            let place = |word: usize| words[word].parse::<usize>().unwrap();
            let points: f64 = words[3].parse().unwrap();
            let battle = Battle::new(place(1), place(2), points);
            peers.battles.push(ContextualBattle { battle, context: numbers(5).collect() });
            peers.prompts.push(place(4));
        } else {
            let values: Vec<f64> = numbers(2).collect();
            peers.found.push((words[0], words[1], values.try_into().unwrap()));
        }
    }
    peers
}

fn assert_recorded(case: &str, ridge: f64) {
    let Peers { battles, prompts, found } = peers();
    let ours = contextual_bradley_terry(4, &battles, Some(&prompts), (ridge, 0.95)).unwrap();
    let ratings = ours.ratings.competitors.iter().map(|r| ("rating", [r.rating, r.stderr, r.interval[0]]));
    let effects = ours.effects.iter().map(|e| ("effect", [e.value, e.stderr, e.interval[0]]));
    let recorded: Vec<_> = found.iter().filter(|(name, ..)| *name == case).collect();
    assert_eq!(recorded.len(), 8);
    for ((kind, ours), (_, expected, theirs)) in ratings.chain(effects).zip(recorded) {
        assert_eq!(kind, *expected);
        for (ours, theirs) in ours.iter().zip(theirs) {
            assert!((ours - theirs).abs() < 1e-6 * theirs.abs().max(1.0), "{case} {kind}: {ours} {theirs}");
        }
    }
}

#[test]
fn promise_16_matches_statsmodels_without_a_ridge_and_arena_rank_with_one() {
    assert_recorded("free", 0.0);
    assert_recorded("ridge", 1.0);
}

/// Who stands on which side is chance: nothing may depend on it.
#[test]
fn exchanged_sides_change_nothing() {
    let Peers { battles, prompts, .. } = peers();
    let turned = |(index, battle): (usize, &ContextualBattle)| match index % 3 {
        0 => ContextualBattle {
            battle: Battle::new(battle.battle.b, battle.battle.a, 1.0 - battle.battle.points_a),
            context: battle.context.iter().map(|x| -x).collect(),
        },
        _ => battle.clone(),
    };
    let others: Vec<ContextualBattle> = battles.iter().enumerate().map(turned).collect();
    let rate = |battles: &[ContextualBattle]| {
        contextual_bradley_terry(4, battles, Some(&prompts), (1.0, 0.95)).unwrap()
    };
    let (ours, others) = (rate(&battles), rate(&others));
    for (a, b) in ours.ratings.competitors.iter().zip(&others.ratings.competitors) {
        assert!((a.rating - b.rating).abs() < 1e-7 && (a.stderr - b.stderr).abs() < 1e-7, "{a:?} {b:?}");
    }
}

#[test]
fn without_context_it_is_bradley_and_terry() {
    let Peers { battles, prompts, .. } = peers();
    let plain: Vec<Battle> = battles.iter().map(|battle| battle.battle).collect();
    let bare: Vec<ContextualBattle> =
        plain.iter().map(|battle| ContextualBattle { battle: *battle, context: Vec::new() }).collect();
    let ours = contextual_bradley_terry(4, &bare, Some(&prompts), (1.0, 0.95)).unwrap();
    let theirs = crate::bradley_terry(4, &plain, Some(&prompts), 0.95).unwrap();
    for (a, b) in ours.ratings.competitors.iter().zip(&theirs.competitors) {
        // The other one raises the information a little, as arena-rank does.
        assert!((a.rating - b.rating).abs() < 1e-7 && (a.stderr - b.stderr).abs() < 0.05, "{a:?} {b:?}");
    }
}

/// The longer answer always wins: without a ridge the effect of length has no end.
#[test]
fn a_ridge_keeps_what_decides_everything_finite() {
    let battle = |i: usize| {
        let points = f64::from(u8::from(i.is_multiple_of(2)));
        ContextualBattle { battle: Battle::new(0, 1, points), context: vec![2.0 * points - 1.0] }
    };
    let battles: Vec<ContextualBattle> = (0..40).map(battle).collect();
    assert_eq!(contextual_bradley_terry(2, &battles, None, (0.0, 0.95)), None);
    let found = contextual_bradley_terry(2, &battles, None, (1.0, 0.95)).unwrap();
    assert!((1.0..10.0).contains(&found.effects[0].value), "{found:?}");
    let mut uneven = battles;
    uneven[3].context.clear();
    assert_eq!(contextual_bradley_terry(2, &uneven, None, (1.0, 0.95)), None);
}
