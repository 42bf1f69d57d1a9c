use std::sync::Arc;

use evalign_core::{Prompt, Request, RequestKind, SampleKey};
use evalign_stats::SplitMix64;
use futures::executor::block_on;

use super::*;
use crate::fake_model::{FakeModel, judge, said};
use crate::pairwise::order_verdict;
use crate::{Choice, Comparison, JudgeOptions, Material, OrderVerdict, Pair, Unscored, Verdict};

/// What the judge of these tests is moved by.
#[derive(Clone, Copy, Debug)]
struct Biases {
    /// Probability to prefer the first of two equal answers.
    first: f64,
    length: f64,
    own: f64,
}

impl Biases {
    /// Log-odds for the first of two texts. `spread`: standard deviation of the difference of lengths.
    fn odds(&self, [first, second]: [&str; 2], spread: f64) -> f64 {
        let length = (first.chars().count() as f64 - second.chars().count() as f64) / spread;
        let own = |text: &str| f64::from(u8::from(text.starts_with(OWN)));
        let position = (self.first / (1.0 - self.first)).ln();
        position + self.length * length.tanh() + self.own * (own(first) - own(second))
    }
}

const BIASES: Biases = Biases { first: 0.62, length: 0.8, own: 0.7 };
/// How answers of the judge's own family begin.
const OWN: &str = "own:";

/// What a judge with these biases says to the prompts of real judges.
fn biased_verdict(request: &Request, biases: Biases, spread: f64, seed: u64) -> String {
    let RequestKind::Generate { prompt: Prompt::Chat(messages), .. } = &request.kind else {
        panic!("{request:?}")
    };
    let text = &messages[1].content;
    let shown = |name: &str| {
        let (_, rest) = text.split_once(&format!("BEGIN {name}]\n")).unwrap();
        rest.split_once(&format!(" END {name}]")).unwrap().0.rsplit_once("\n[").unwrap().0
    };
    let odds = biases.odds([shown("answer A"), shown("answer B")], spread);
    let place = u64::from(request.key.repeat) + 2 * request.key.doc;
    let mut random = SplitMix64::new(seed.wrapping_mul(1_000_003).wrapping_add(place));
    random.next_u64();
    let label = if uniform(&mut random) < sigmoid(odds) { "A" } else { "B" };
    format!("{{\"verdict\": \"{label}\"}}")
}

fn uniform(random: &mut SplitMix64) -> f64 {
    random.below(1 << 40) as f64 / (1u64 << 40) as f64
}

/// What such a judge says about pairs, through the prompts and the parser of real judges.
fn compared(texts: &[[String; 2]], biases: Biases, spread: f64, seed: u64) -> Vec<Comparison> {
    let model = FakeModel::new(move |request: &Request| {
        Some(Ok(said(&biased_verdict(request, biases, spread, seed))))
    });
    let judge = judge(Arc::new(model), &JudgeOptions::default());
    let material = Material { prompt: "Say x.", ..Material::default() };
    let request = |(doc, [a, b]): (u64, &[String; 2])| {
        let pair = Pair { material, a, b };
        [0, 1].map(|repeat| {
            let key = SampleKey { task: "compare".to_owned(), doc, repeat };
            judge.pairwise_request(key, &pair, Order::BOTH[repeat as usize]).unwrap()
        })
    };
    let answers = block_on(judge.ask_all((0u64..).zip(texts).flat_map(request).collect())).unwrap();
    let both = answers.chunks_exact(2).map(|answers| {
        let [first, second] = [0, 1].map(|i| judge.read_pairwise(Order::BOTH[i], &answers[i]));
        Comparison::of([first, second])
    });
    both.collect()
}

/// Answers of random length, a third of them the judge's own, and the spread of their differences.
fn material(seed: u64, count: usize) -> (Vec<[String; 2]>, f64) {
    let mut random = SplitMix64::new(seed ^ 0xabcd);
    let answer = |random: &mut SplitMix64| {
        let own = if random.below(3) == 0 { OWN } else { "" };
        format!("{own}{}", "x".repeat(10 + random.below(200) as usize))
    };
    let pairs: Vec<[String; 2]> = (0..count).map(|_| [answer(&mut random), answer(&mut random)]).collect();
    let squares = pairs.iter().map(|[a, b]| (a.len() as f64 - b.len() as f64).powi(2)).sum::<f64>();
    (pairs, (squares / count as f64).sqrt())
}

fn report(biases: Biases, seed: u64, count: usize) -> BiasReport {
    let (texts, spread) = material(seed, count);
    report_on(&texts, &compared(&texts, biases, spread, seed))
}

fn report_on(texts: &[[String; 2]], comparisons: &[Comparison]) -> BiasReport {
    let family = |whole: &str| (whole.starts_with(OWN)).then_some("own");
    let judged: Vec<JudgedPair<'_>> = texts
        .iter()
        .zip(comparisons)
        .enumerate()
        .map(|(group, ([a, b], comparison))| JudgedPair {
            comparison,
            group,
            a: JudgedAnswer { text: a, family: family(a) },
            b: JudgedAnswer { text: b, family: family(b) },
            people: None,
        })
        .collect();
    BiasReport::of(&judged, Some("own"))
}

/// In how many of 200 seeded runs position, length and own family are inside their 95 % intervals. 190 are expected with
/// a standard deviation of 3; fewer than 184 would mean that intervals are too narrow or in the wrong place, all 200 that
/// they are too wide.
fn assert_recovered(report: impl Fn(u64) -> BiasReport) {
    let mut inside = [0; 3];
    for seed in 0..200 {
        let report = report(seed);
        let holds = |effect: Option<Effect>, truth: f64| {
            let [low, high] = effect.unwrap().ci95;
            low <= truth && truth <= high
        };
        let held = [
            holds(report.position, BIASES.first),
            holds(report.length, BIASES.length),
            holds(report.own_family, BIASES.own),
        ];
        for (count, held) in inside.iter_mut().zip(held) {
            *count += u32::from(held);
        }
    }
    println!("position, length, own family inside their intervals: {inside:?} of 200");
    assert!(inside.iter().all(|count| (184..200).contains(count)), "{inside:?}");
}

/// The issue's own number.
#[test]
fn known_biases_are_recovered_in_95_percent_of_200_runs() {
    assert_recovered(|seed| report(BIASES, seed, 250));
}

/// A judge with these biases that also calls ties, as often as one side of two that are alike to it (Davidson 1970):
/// what it says, and, if it tells its probabilities, these. They scatter: every other time it is certain of what it says.
fn tying(texts: &[[String; 2]], spread: f64, seed: u64, tells: bool) -> Vec<Comparison> {
    let mut random = SplitMix64::new(seed.wrapping_mul(31) ^ 0x71e5);
    let mut verdict = |order: Order, [a, b]: &[String; 2]| {
        let shown = if order == Order::AsGiven { [a.as_str(), b] } else { [b.as_str(), a] };
        let half = BIASES.odds(shown, spread) / 2.0;
        let masses = [half.exp(), (-half).exp(), 1.0];
        let p = masses.map(|mass| mass / masses.iter().sum::<f64>());
        let drawn = uniform(&mut random);
        let said = if drawn < p[0] { 0 } else { 1 + usize::from(drawn >= p[0] + p[1]) };
        let certain = random.below(2) == 0;
        let told = [0, 1, 2].map(|place| if certain { f64::from(u8::from(place == said)) } else { p[place] });
        let probabilities = tells.then(|| told.to_vec());
        let choice = Choice { label: ["A", "B", "C"][said].to_owned(), probabilities };
        order_verdict(order, Ok(Verdict { explanation: None, choices: vec![choice] }))
    };
    texts.iter().map(|both| Comparison::of(Order::BOTH.map(|order| verdict(order, both)))).collect()
}

/// Ties as half a win for each would say that this judge is moved by a third less than it is.
#[test]
fn known_biases_are_recovered_from_under_ties_and_from_probabilities() {
    for tells in [false, true] {
        assert_recovered(|seed| {
            let (texts, spread) = material(seed, 250);
            let report = report_on(&texts, &tying(&texts, spread, seed, tells));
            assert!(report.of_probabilities == tells && report.ties > 100, "{report:?}");
            report
        });
    }
}

/// Probabilities that some verdicts lack are not mixed with verdicts; and ties only are no evidence of anything.
#[test]
fn one_verdict_without_probabilities_leaves_the_verdicts() {
    let (texts, spread) = material(1, 100);
    let mut comparisons = tying(&texts, spread, 1, true);
    let of_verdicts = report_on(&texts, &tying(&texts, spread, 1, false));
    comparisons[3].orders[0].probability_tie = None;
    let mixed = report_on(&texts, &comparisons);
    assert!(!mixed.of_probabilities && mixed.length == of_verdicts.length);
    for verdict in comparisons.iter_mut().flat_map(|comparison| &mut comparison.orders) {
        verdict.preference = Preference::Tie;
    }
    let ties = report_on(&texts, &comparisons);
    assert!(ties.position.is_none() && ties.no_effects.is_some() && ties.ties == 200, "{ties:?}");
}

#[test]
fn an_unbiased_judge_shows_none() {
    let none = Biases { first: 0.5, length: 0.0, own: 0.0 };
    let report = report(none, 7, 400);
    for (effect, nothing) in
        [(report.first_share, 0.5), (report.position, 0.5), (report.length, 0.0), (report.own_family, 0.0)]
    {
        let effect = effect.unwrap();
        assert!(effect.ci95[0] < nothing && nothing < effect.ci95[1], "{effect:?}");
    }
    assert_eq!((report.pairs, report.unscored, report.format), (400, 0, None));
}

#[test]
fn a_judge_that_always_says_a_is_found_out() {
    let always = Biases { first: 1.0 - 1e-15, length: 0.0, own: 0.0 };
    let report = report(always, 1, 50);
    assert_eq!((report.first, report.second, report.ties), (100, 0, 0));
    assert_eq!(report.flip_rate.unwrap().value, 1.0);
    assert_eq!(report.first_share.unwrap().value, 1.0);
    // What separates perfectly has no finite log-odds.
    assert_eq!(report.position, None);
    assert!(report.no_effects.is_some());
}

#[test]
fn nothing_judged_is_nothing_known() {
    let report = BiasReport::of(&[], None);
    assert_eq!((report.pairs, report.flip_rate, report.first_share), (0, None, None));
    assert!(report.no_effects.unwrap().contains("no pair"));
}

#[test]
fn families_are_read_from_names() {
    let family = |reference: &str| family_of(&reference.parse().unwrap());
    assert_eq!(family("local/HuggingFaceTB/SmolLM2-135M-Instruct"), "smollm");
    assert_eq!(family("openai/gpt-4o-mini"), "gpt");
    assert_eq!(family("scripted/dir/judge.json"), "judge");
    assert_eq!(family("openai/4x"), "4x");
    for (name, expected) in [
        ("o3-mini", "gpt"),
        ("chatgpt-4o-latest", "gpt"),
        ("olmo-2-7b", "olmo"),
        ("meta-llama/Meta-Llama-3-8B-Instruct", "llama"),
        ("Mixtral-8x7B", "mistral"),
        ("claude-sonnet-4", "claude"),
    ] {
        assert_eq!(family_of_name(name), expected, "{name}");
    }
}

/// A pair as a noisy judge sees it: an opinion of its own about every pair, the same in both orders, beside its biases.
struct NoisyPair {
    texts: [String; 2],
    comparison: Comparison,
    people: f64,
}

/// `format`: log-odds for the answer with more marks, which stand in half of the answers. Every third verdict of
/// nearly even odds is a tie.
fn noisy_pairs(seed: u64, count: usize, (noise, format): (f64, f64)) -> Vec<NoisyPair> {
    let mut random = SplitMix64::new(seed.wrapping_mul(7919) ^ 0x5eed);
    let mut pair = || {
        let mut text = || {
            let marks = if random.below(2) == 0 { "" } else { "- x\n" };
            format!("{marks}{}", "x".repeat(10 + random.below(200) as usize))
        };
        let texts = [text(), text()];
        // A normal opinion of A over B: twelve uniform numbers have variance 1.
        let opinion = noise * ((0..12).map(|_| uniform(&mut random)).sum::<f64>() - 6.0);
        let marks = texts.each_ref().map(|text| f64::from(u8::from(text.starts_with('-'))));
        let odds = opinion + format * (marks[0] - marks[1]);
        let mut verdict = |order| {
            let preference = match uniform(&mut random) - sigmoid(odds) {
                _ if odds.abs() < 0.3 && random.below(3) == 0 => Preference::Tie,
                below if below < 0.0 => Preference::A,
                _ => Preference::B,
            };
            OrderVerdict {
                order,
                preference,
                probability_a: None,
                probability_tie: None,
                entropy: None,
                explanation: None,
            }
        };
        let comparison = Comparison::of([verdict(Order::AsGiven), verdict(Order::Swapped)]);
        NoisyPair { texts, comparison, people: f64::from(u8::from(opinion > 0.0)) }
    };
    (0..count).map(|_| pair()).collect()
}

fn judged(pairs: &[NoisyPair], labelled: usize) -> Vec<JudgedPair<'_>> {
    let judged = pairs.iter().enumerate().map(|(group, pair)| JudgedPair {
        comparison: &pair.comparison,
        group,
        a: JudgedAnswer { text: &pair.texts[0], family: None },
        b: JudgedAnswer { text: &pair.texts[1], family: None },
        people: (group < labelled).then_some(pair.people),
    });
    judged.collect()
}

/// The two verdicts on a pair are no independent ones: intervals over single verdicts would miss the nothing that is
/// there far more often than one time in twenty.
#[test]
fn opinions_about_single_pairs_are_taken_for_no_bias() {
    let mut inside = [0; 3];
    for seed in 0..200 {
        let pairs = noisy_pairs(seed, 150, (2.0, 0.0));
        let report = BiasReport::of(&judged(&pairs, 0), None);
        let found = [(report.position, 0.5), (report.length, 0.0), (report.format, 0.0)];
        for (count, (effect, nothing)) in inside.iter_mut().zip(found) {
            let [low, high] = effect.unwrap().ci95;
            *count += u32::from(low <= nothing && nothing <= high);
        }
        assert!(report.ties > 0);
    }
    println!("position, length, format inside their intervals: {inside:?} of 200");
    assert!(inside.iter().all(|count| (183..200).contains(count)), "{inside:?}");
}

#[test]
fn a_preference_for_marks_is_found() {
    let pairs = noisy_pairs(3, 600, (0.0, 1.0));
    let format = BiasReport::of(&judged(&pairs, 0), None).format.unwrap();
    // The feature is a tanh of the difference over its standard deviation, which is tanh(sqrt(2)) at the ends.
    let truth = 1.0 / 2f64.sqrt().tanh();
    assert!(format.ci95[0] < truth && truth < format.ci95[1] && format.ci95[0] > 0.5, "{format:?}");
}

/// One label that is missing does not take away what the others say.
#[test]
fn effects_are_beside_people_wherever_enough_pairs_are_labelled() {
    let pairs = noisy_pairs(5, 200, (2.0, 0.5));
    let all = BiasReport::of(&judged(&pairs, 200), None);
    let nearly_all = BiasReport::of(&judged(&pairs, 199), None);
    let few = BiasReport::of(&judged(&pairs, 20), None);
    let none = BiasReport::of(&judged(&pairs, 0), None);
    assert_eq!((all.beside_people, nearly_all.beside_people), (true, true));
    // Tied verdicts say nothing and are not counted.
    let (all_count, nearly_count) = (all.length.unwrap().n, nearly_all.length.unwrap().n);
    assert!(nearly_count < all_count && all_count < 200 && nearly_count > 150, "{all_count}, {nearly_count}");
    assert_eq!((few.beside_people, few.length), (false, none.length));
    // What people see explains most of what this judge says: less is left to chance.
    let width = |report: &BiasReport| report.position.unwrap().ci95[1] - report.position.unwrap().ci95[0];
    assert!(width(&all) > 0.0 && all.length != none.length);
}

/// Ten repeats at temperature 0 say nothing that one does not.
#[test]
fn repeats_of_a_pair_make_no_interval_narrower() {
    let pairs = noisy_pairs(11, 80, (1.0, 0.5));
    let once = judged(&pairs, 0);
    let repeated: Vec<JudgedPair<'_>> = (0..10).flat_map(|_| once.clone()).collect();
    let (once, repeated) = (BiasReport::of(&once, None), BiasReport::of(&repeated, None));
    assert_eq!((once.pairs, repeated.pairs), (80, 800));
    for (one, ten) in [
        (once.first_share, repeated.first_share),
        (once.flip_rate, repeated.flip_rate),
        (once.position, repeated.position),
        (once.length, repeated.length),
        (once.format, repeated.format),
    ] {
        let width = |effect: Option<Effect>| effect.unwrap().ci95[1] - effect.unwrap().ci95[0];
        assert!((width(ten) / width(one) - 1.0).abs() < 0.02, "{one:?} {ten:?}");
    }
}

#[test]
fn pairs_without_a_verdict_in_one_order_are_counted_and_left_out() {
    let mut pairs = noisy_pairs(2, 60, (1.0, 0.0));
    let unscored = Preference::Unscored { reason: Unscored::Malformed };
    pairs[7].comparison.orders[1].preference = unscored;
    let report = BiasReport::of(&judged(&pairs, 0), None);
    assert_eq!((report.pairs, report.unscored, report.first + report.second + report.ties), (60, 1, 118));
}
