//! Competitors, rated by comparisons.

use std::collections::BTreeMap;

use evalign_stats::{
    Battle, Bootstrap, ContextualBattle, ContextualRatings, LengthBattle, Ratings, bootstrap_ratings,
    bradley_terry, contextual_bradley_terry, holm, length_controlled, normal_cdf, rank_intervals,
};
use serde::{Deserialize, Serialize};

use crate::effect::{Effect, LEVEL};
use crate::style::Style;

const RESAMPLES: u32 = 1000;
/// On half the squares of the effects of style, beside the sum of all battles' log-likelihoods: a normal prior with a
/// standard deviation of one nat. It keeps the effects of what decides (nearly) everything finite, and weighs nothing
/// beside some hundred battles. Arena's own code took it so (`reg` 1 beside a sum).
const STYLE_RIDGE: f64 = 1.0;

/// One decided comparison of two competitors' answers.
#[derive(Clone, Debug, PartialEq)]
pub struct ArenaBattle {
    /// The prompt: battles of one prompt share noise and are resampled together.
    pub prompt: u64,
    /// Places in the list of competitors.
    pub a: usize,
    pub b: usize,
    /// 1 for A, 0 for B, 1/2 for a tie.
    pub points_a: f64,
    /// How much longer A's answer is, in characters.
    pub length_difference: f64,
    /// By how much it has more of each thing of [`Style::FEATURES`].
    pub style: [f64; 4],
}

impl ArenaBattle {
    #[must_use]
    pub fn new(prompt: u64, (a, b): (usize, usize), points_a: f64, texts: [&str; 2]) -> Self {
        let styles = texts.map(Style::of);
        Self {
            prompt,
            a,
            b,
            points_a,
            length_difference: styles[0].characters as f64 - styles[1].characters as f64,
            style: styles[0].over(&styles[1]),
        }
    }

    /// The prompt, as the number of a cluster.
    fn group(&self) -> usize {
        usize::try_from(self.prompt).unwrap_or(usize::MAX)
    }
}

/// A competitor's standing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    pub name: String,
    pub battles: u64,
    /// Share of the points against all others (a tie is half a win), with the interval of a bootstrap over prompts.
    pub win_rate: Option<Effect>,
    /// Bradley-Terry rating, 1000 on average, with the sandwich interval over prompts. Absent where
    /// [`ArenaReport::no_ratings`] says why.
    pub rating: Option<Effect>,
    /// The same from a bootstrap over prompts.
    pub rating_bootstrap95: Option<[f64; 2]>,
    /// With the effects of [`ArenaReport::style`] taken out: the rating between answers of one style, with the sandwich
    /// interval over prompts. Absent where nobody has a rating or all answers look alike.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub style_controlled: Option<Effect>,
    /// Ranks it can have: all true ranks lie in theirs with 95 % confidence (Holm). From the ratings and the
    /// covariance over prompts: any rank where there are none.
    pub rank: [u64; 2],
}

/// Two competitors head to head.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeadToHead {
    pub a: String,
    pub b: String,
    pub wins_a: u64,
    pub wins_b: u64,
    pub ties: u64,
    /// Comparisons that were decided neither way: no verdict.
    pub unscored: u64,
    pub win_rate_a: Option<Effect>,
    /// Against an answer of equal length (two-feature form). Absent where length does not vary or the outcome not.
    pub length_controlled_a: Option<Effect>,
    /// Log-odds that go to the longer answer.
    pub length_coefficient: Option<Effect>,
}

/// The effects of style, of one fit with the ratings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StyleControl {
    /// On half the squares of the effects.
    pub ridge: f64,
    /// Log-odds for an answer that has more of a thing, by its root mean square over the battles. What does not vary is
    /// absent.
    pub effects: BTreeMap<String, Effect>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ArenaReport {
    /// The best first.
    pub standings: Vec<Standing>,
    pub pairs: Vec<HeadToHead>,
    /// What style alone does to who wins.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub style: Option<StyleControl>,
    /// Why nobody has a rating.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub no_ratings: Option<String>,
    /// Bootstrap replicates without finite ratings, of 1000.
    pub replicates_left_out: u32,
}

impl ArenaReport {
    /// `unscored` counts comparisons without a verdict by (a, b), a < b.
    #[must_use]
    pub fn of(
        names: &[String],
        battles: &[ArenaBattle],
        unscored: &BTreeMap<(usize, usize), u64>,
        seed: u64,
    ) -> Self {
        let plain: Vec<Battle> = battles.iter().map(|b| Battle::new(b.a, b.b, b.points_a)).collect();
        let prompts: Vec<usize> = battles.iter().map(ArenaBattle::group).collect();
        let ratings =
            bradley_terry(names.len(), &plain, Some(&prompts), LEVEL).filter(|_| !all_even(battles));
        let units = by_prompt(battles);
        let plain_units: Vec<Vec<Battle>> = units
            .iter()
            .map(|unit| unit.iter().map(|b| Battle::new(b.a, b.b, b.points_a)).collect())
            .collect();
        let bootstrap = ratings
            .as_ref()
            .and_then(|_| bootstrap_ratings(names.len(), &plain_units, (RESAMPLES, seed, LEVEL)));
        let ranks = ranks(names.len(), ratings.as_ref());
        let styled = ratings.as_ref().and_then(|_| style_controlled(names.len(), battles));
        let standing = |(index, name): (usize, &String)| {
            let rating = ratings.as_ref().map(|ratings| ratings.competitors[index]);
            let own = battles.iter().filter(|b| b.a == index || b.b == index).count() as u64;
            Standing {
                name: name.clone(),
                battles: own,
                win_rate: win_rate(battles, seed, |b| points_of(b, index)),
                rating: rating.map(|r| Effect { value: r.rating, ci95: r.interval, n: own }),
                rating_bootstrap95: bootstrap.as_ref().map(|(intervals, _)| intervals[index]),
                style_controlled: styled.as_ref().map(|(_, styled)| {
                    let rating = styled.ratings.competitors[index];
                    Effect { value: rating.rating, ci95: rating.interval, n: own }
                }),
                rank: ranks[index],
            }
        };
        let mut standings: Vec<Standing> = names.iter().enumerate().map(standing).collect();
        standings.sort_by(|a, b| order(b).total_cmp(&order(a)));
        Self {
            standings,
            pairs: head_to_heads(names, battles, unscored, seed),
            style: styled.map(|(features, styled)| control(&features, &styled, battles.len() as u64)),
            no_ratings: ratings.is_none().then(|| why_no_ratings(names, battles, units.len())),
            replicates_left_out: bootstrap.map_or(0, |(_, left_out)| left_out),
        }
    }
}

fn order(standing: &Standing) -> f64 {
    let by_rating = standing.rating.map(|rating| rating.value);
    by_rating.or(standing.win_rate.map(|rate| rate.value)).unwrap_or(f64::NEG_INFINITY)
}

fn points_of(battle: &ArenaBattle, competitor: usize) -> Option<f64> {
    match competitor {
        own if own == battle.a => Some(battle.points_a),
        own if own == battle.b => Some(1.0 - battle.points_a),
        _ => None,
    }
}

fn by_prompt(battles: &[ArenaBattle]) -> Vec<Vec<&ArenaBattle>> {
    let mut units: BTreeMap<u64, Vec<&ArenaBattle>> = BTreeMap::new();
    for battle in battles {
        units.entry(battle.prompt).or_default().push(battle);
    }
    units.into_values().collect()
}

/// Mean points over battles, bootstrapped over prompts.
fn win_rate(
    battles: &[ArenaBattle],
    seed: u64,
    points: impl Fn(&ArenaBattle) -> Option<f64>,
) -> Option<Effect> {
    let own = battles.iter().filter_map(|battle| Some((points(battle)?, battle.prompt)));
    let (values, prompts): (Vec<f64>, Vec<u64>) = own.unzip();
    let plan = Bootstrap { resamples: RESAMPLES, seed, level: LEVEL };
    Effect::of_groups(&values, &prompts, [0.0, 1.0], &plan)
}

/// One competitor without a defeat (or a win) leaves all of them without ratings, which stand for odds against the
/// average of all.
/// Ties only: every estimate fits them without an error left.
fn all_even(battles: &[ArenaBattle]) -> bool {
    battles.iter().all(|battle| battle.points_a == 0.5)
}

fn why_no_ratings(names: &[String], battles: &[ArenaBattle], prompts: usize) -> String {
    let always = |wanted: f64| {
        names.iter().enumerate().find_map(|(index, name)| {
            let mut own = battles.iter().filter_map(|battle| points_of(battle, index)).peekable();
            (own.peek().is_some() && own.all(|points| points == wanted)).then_some(name)
        })
    };
    match (always(1.0), always(0.0)) {
        _ if battles.is_empty() => "no comparison was decided".to_owned(),
        _ if all_even(battles) => {
            "every comparison ended in a tie, and nothing says how sure that everybody is equal".to_owned()
        }
        (Some(name), _) => {
            format!("`{name}` won every comparison, and nothing says by how much it is better")
        }
        (None, Some(name)) => {
            format!("`{name}` lost every comparison, and nothing says by how much it is worse")
        }
        (None, None) if prompts < names.len() => {
            format!("{prompts} prompts are too few to tell how sure the ratings of {} would be", names.len())
        }
        (None, None) => "not everybody can be compared with everybody through a chain of wins".to_owned(),
    }
}

/// Ranks from pairwise z tests of rating differences, adjusted by Holm.
fn ranks(count: usize, ratings: Option<&Ratings>) -> Vec<[u64; 2]> {
    let mut pairs = Vec::new();
    let mut p = Vec::new();
    if let Some(ratings) = ratings {
        for a in 0..count {
            for b in a + 1..count {
                let difference = ratings.competitors[a].rating - ratings.competitors[b].rating;
                let z = (difference / ratings.stderr_of_difference(a, b)).abs();
                pairs.push(if difference > 0.0 { (a, b) } else { (b, a) });
                p.push(normal_cdf(-z).map_or(1.0, |tail| 2.0 * tail));
            }
        }
    }
    let adjusted = holm(&p).unwrap_or_default();
    let shown: Vec<(usize, usize)> =
        pairs.into_iter().zip(adjusted).filter(|(_, p)| *p < 1.0 - LEVEL).map(|(pair, _)| pair).collect();
    rank_intervals(count, &shown).into_iter().map(|rank| [rank.best, rank.worst]).collect()
}

/// Ratings beside the things in which styles differ, and which things those are. Divided by the root mean square, not
/// centred as in Arena's code: there chance decides who is A, here the first competitor always is, and the mean is
/// what it writes more.
fn style_controlled(count: usize, battles: &[ArenaBattle]) -> Option<(Vec<&'static str>, ContextualRatings)> {
    let spread = |feature: &usize| {
        let squares: f64 = battles.iter().map(|battle| battle.style[*feature].powi(2)).sum();
        (squares / battles.len().max(1) as f64).sqrt()
    };
    let varying: Vec<(usize, f64)> = (0..Style::FEATURES.len())
        .map(|feature| (feature, spread(&feature)))
        .filter(|(_, spread)| *spread > 0.0)
        .collect();
    if varying.is_empty() {
        return None;
    }
    let beside = |battle: &ArenaBattle| ContextualBattle {
        battle: Battle::new(battle.a, battle.b, battle.points_a),
        context: varying.iter().map(|(feature, spread)| battle.style[*feature] / spread).collect(),
    };
    let contextual: Vec<ContextualBattle> = battles.iter().map(beside).collect();
    let prompts: Vec<usize> = battles.iter().map(ArenaBattle::group).collect();
    let found = contextual_bradley_terry(count, &contextual, Some(&prompts), (STYLE_RIDGE, LEVEL))?;
    Some((varying.iter().map(|(feature, _)| Style::FEATURES[*feature]).collect(), found))
}

fn control(features: &[&str], found: &ContextualRatings, n: u64) -> StyleControl {
    let effects = features.iter().zip(&found.effects).map(|(feature, effect)| {
        ((*feature).to_owned(), Effect { value: effect.value, ci95: effect.interval, n })
    });
    StyleControl { ridge: STYLE_RIDGE, effects: effects.collect() }
}

fn head_to_heads(
    names: &[String],
    battles: &[ArenaBattle],
    unscored: &BTreeMap<(usize, usize), u64>,
    seed: u64,
) -> Vec<HeadToHead> {
    let mut found = Vec::new();
    for a in 0..names.len() {
        for b in a + 1..names.len() {
            let own: Vec<ArenaBattle> =
                battles.iter().filter(|x| (x.a, x.b) == (a, b) || (x.a, x.b) == (b, a)).cloned().collect();
            found.push(head_to_head((&names[a], &names[b]), a, &own, unscored.get(&(a, b)), seed));
        }
    }
    found
}

fn head_to_head(
    (a, b): (&str, &str),
    side: usize,
    battles: &[ArenaBattle],
    unscored: Option<&u64>,
    seed: u64,
) -> HeadToHead {
    let points: Vec<f64> = battles.iter().filter_map(|battle| points_of(battle, side)).collect();
    let length = |battle: &ArenaBattle| {
        let sign = if battle.a == side { 1.0 } else { -1.0 };
        LengthBattle {
            points: points_of(battle, side).unwrap_or(0.5),
            length_difference: sign * battle.length_difference,
        }
    };
    let clusters: Vec<usize> = battles.iter().map(ArenaBattle::group).collect();
    let lengths: Vec<LengthBattle> = battles.iter().map(length).collect();
    let controlled = length_controlled(&lengths, Some(&clusters), LEVEL).filter(|_| !all_even(battles));
    let n = battles.len() as u64;
    let count = |wanted: fn(f64) -> bool| points.iter().filter(|points| wanted(**points)).count() as u64;
    HeadToHead {
        a: a.to_owned(),
        b: b.to_owned(),
        wins_a: count(|points| points > 0.5),
        wins_b: count(|points| points < 0.5),
        ties: count(|points| points == 0.5),
        unscored: unscored.copied().unwrap_or(0),
        win_rate_a: win_rate(battles, seed, |battle| points_of(battle, side)),
        length_controlled_a: controlled.map(|c| Effect { value: c.win_rate, ci95: c.interval, n }),
        length_coefficient: controlled.map(|c| Effect {
            value: c.length_coefficient,
            ci95: c.length_interval,
            n,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use evalign_stats::SplitMix64;

    fn names() -> Vec<String> {
        ["weak", "middle", "strong"].map(str::to_owned).to_vec()
    }

    /// Strengths 0, 1 and 2; whoever is longer has no advantage.
    fn battles(count: u64, seed: u64) -> Vec<ArenaBattle> {
        let mut random = SplitMix64::new(seed);
        let mut all = Vec::new();
        for prompt in 0..count {
            for (a, b) in [(0, 1), (0, 2), (1, 2)] {
                let won = random.below(1000) as f64 / 1000.0 < evalign_stats::sigmoid(a as f64 - b as f64);
                let text = |random: &mut SplitMix64| "x".repeat(1 + random.below(50) as usize);
                let texts = [text(&mut random), text(&mut random)];
                let points = f64::from(u8::from(won));
                all.push(ArenaBattle::new(prompt, (a, b), points, [&texts[0], &texts[1]]));
            }
        }
        all
    }

    #[test]
    fn the_stronger_stands_higher_with_an_interval_that_holds_the_truth() {
        let report = ArenaReport::of(&names(), &battles(200, 1), &BTreeMap::new(), 7);
        let order: Vec<&str> = report.standings.iter().map(|s| s.name.as_str()).collect();
        assert_eq!(order, ["strong", "middle", "weak"]);
        let per_nat = 400.0 / std::f64::consts::LN_10;
        for (standing, strength) in report.standings.iter().zip([1.0, 0.0, -1.0]) {
            let rating = standing.rating.unwrap();
            let truth = 1000.0 + strength * per_nat;
            assert!(rating.ci95[0] < truth && truth < rating.ci95[1], "{standing:?}");
            let [low, high] = standing.rating_bootstrap95.unwrap();
            assert!(low < rating.value && rating.value < high);
            let controlled = standing.style_controlled.unwrap();
            assert!(controlled.ci95[0] < truth && truth < controlled.ci95[1], "{standing:?}");
            assert!((controlled.value - rating.value).abs() < 25.0, "{standing:?}");
        }
        assert_eq!(report.standings[0].rank, [1, 1]);
        let pair = &report.pairs[0];
        assert_eq!((pair.a.as_str(), pair.b.as_str(), pair.wins_a + pair.wins_b), ("weak", "middle", 200));
        let controlled = pair.length_controlled_a.unwrap();
        assert!((controlled.value - pair.win_rate_a.unwrap().value).abs() < 0.05);
        let length = pair.length_coefficient.unwrap();
        assert!(length.ci95[0] < 0.0 && 0.0 < length.ci95[1], "{length:?}");
        assert_eq!(ArenaReport::of(&names(), &battles(200, 1), &BTreeMap::new(), 7), report);
    }

    /// Two competitors of one strength, of which one writes lists that judges like.
    #[test]
    fn what_style_wins_is_no_strength() {
        let mut random = SplitMix64::new(5);
        let mut battle = |prompt: u64| {
            let listed = |text: &str, random: &mut SplitMix64, of_ten: u64| {
                if random.below(10) < of_ten { format!("- {text}\n- {text}") } else { text.to_owned() }
            };
            let texts = [listed("text", &mut random, 8), listed("text", &mut random, 2)];
            let lists = texts.each_ref().map(|text| f64::from(u8::from(text.starts_with('-'))));
            let odds = evalign_stats::sigmoid(2.0 * (lists[0] - lists[1]));
            let won = (random.below(1000) as f64) < 1000.0 * odds;
            ArenaBattle::new(prompt, (0, 1), f64::from(u8::from(won)), [&texts[0], &texts[1]])
        };
        let battles: Vec<ArenaBattle> = (0..600).map(&mut battle).collect();
        let report = ArenaReport::of(&names()[..2], &battles, &BTreeMap::new(), 7);
        let [first, second] = &report.standings[..] else { panic!("{report:?}") };
        assert!(first.name == "weak" && first.rating.unwrap().ci95[0] > second.rating.unwrap().ci95[1]);
        let controlled = first.style_controlled.unwrap();
        assert!(controlled.ci95[0] < 1000.0 && 1000.0 < controlled.ci95[1], "{controlled:?}");
        let style = report.style.unwrap();
        assert!(style.effects.keys().eq(["length", "lists"]) && style.ridge == 1.0, "{style:?}");
        // Who is called A changes nothing.
        let turned = battles.into_iter().map(|battle| ArenaBattle {
            points_a: 1.0 - battle.points_a,
            length_difference: -battle.length_difference,
            style: battle.style.map(|x| -x),
            a: 1,
            b: 0,
            ..battle
        });
        let turned = ArenaReport::of(&names()[..2], &turned.collect::<Vec<_>>(), &BTreeMap::new(), 7);
        let other = turned.standings[0].style_controlled.unwrap();
        assert!((other.value - controlled.value).abs() < 1e-6 && turned.standings[0].name == "weak");
    }

    #[test]
    fn who_never_loses_has_a_win_rate_and_no_rating() {
        let all: Vec<ArenaBattle> =
            (0..20).map(|prompt| ArenaBattle::new(prompt, (0, 1), 1.0, ["a", "bb"])).collect();
        let unscored = BTreeMap::from([((0, 1), 3)]);
        let report = ArenaReport::of(&names()[..2], &all, &unscored, 7);
        let best = &report.standings[0];
        assert_eq!((best.name.as_str(), best.rating, best.rank), ("weak", None, [1, 2]));
        // Twenty of twenty is not always.
        let rate = best.win_rate.unwrap();
        assert!(rate.value == 1.0 && rate.ci95[1] == 1.0 && (0.8..0.9).contains(&rate.ci95[0]), "{rate:?}");
        assert!(report.no_ratings.as_ref().is_some_and(|why| why.contains("`weak` won every")), "{report:?}");
        assert_eq!((report.pairs[0].unscored, report.pairs[0].length_controlled_a), (3, None));
    }

    /// Twenty people who vote on two prompts have seen two prompts.
    #[test]
    fn many_votes_on_few_prompts_make_nobody_certain() {
        let votes = |voters: usize, prompts: u64| -> Vec<ArenaBattle> {
            let once = battles(prompts, 4);
            (0..voters).flat_map(|_| once.clone()).collect()
        };
        let report = |battles: &[ArenaBattle]| ArenaReport::of(&names(), battles, &BTreeMap::new(), 7);
        let (one, twenty) = (report(&votes(1, 40)), report(&votes(20, 40)));
        for (a, b) in one.standings.iter().zip(&twenty.standings) {
            let width = |standing: &Standing| standing.rating.map(|r| r.ci95[1] - r.ci95[0]).unwrap();
            assert!((width(a) / width(b) - 1.0).abs() < 1e-6, "{a:?} {b:?}");
            assert_eq!((a.rank, a.rating_bootstrap95), (b.rank, b.rating_bootstrap95));
        }
        let few = report(&votes(20, 2));
        assert!(few.standings.iter().all(|s| s.rating.is_none() && s.rank == [1, 3]), "{few:?}");
        assert!(few.no_ratings.is_some());
    }

    /// What a judge that always says A comes to.
    #[test]
    fn ties_only_leave_no_certainty() {
        let battles: Vec<ArenaBattle> =
            (0..30).map(|prompt| ArenaBattle::new(prompt, (0, 1), 0.5, ["long answer", "x"])).collect();
        let report = ArenaReport::of(&names()[..2], &battles, &BTreeMap::new(), 7);
        assert!(report.no_ratings.unwrap().contains("tie") && report.pairs[0].length_controlled_a.is_none());
        for standing in report.standings {
            assert!(standing.rating.is_none() && standing.rank == [1, 2], "{standing:?}");
            let [low, high] = standing.win_rate.unwrap().ci95;
            assert!(low < 0.5 && 0.5 < high);
        }
    }

    #[test]
    fn nothing_fought_is_nothing_known() {
        let report = ArenaReport::of(&names(), &[], &BTreeMap::new(), 7);
        assert!(
            report.standings.iter().all(|s| s.win_rate.is_none() && s.rating.is_none() && s.rank == [1, 3])
        );
    }
}
