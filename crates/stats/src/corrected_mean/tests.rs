use super::*;
use crate::SplitMix64;

// n = 40; i = np.arange(n); Y = ((i * 13) % 17) / 17.; F = np.clip(Y + (((i * 7) % 5) - 1.5) / 10, 0, 1)
// U = (((np.arange(300) * 29) % 97) / 97.) ** 1.3
// print(ppi_mean_pointestimate(Y, F, U), ppi_mean_ci(Y, F, U, alpha=.05))        # ppi-python 0.2.3
#[test]
fn promise_16_matches_ppi_python() {
    let labelled: Vec<(f64, f64)> = (0..40)
        .map(|i: u32| {
            let y = f64::from((i * 13) % 17) / 17.0;
            (y, (y + (f64::from((i * 7) % 5) - 1.5) / 10.0).clamp(0.0, 1.0))
        })
        .collect();
    let unlabelled: Vec<f64> = (0..300).map(|i: u32| (f64::from((i * 29) % 97) / 97.0).powf(1.3)).collect();
    let ours = prediction_powered_mean(&labelled, &unlabelled, None, 0.95).unwrap();
    for (ours, reference) in
        [(ours.value, 0.39378962), (ours.interval[0], 0.3452304), (ours.interval[1], 0.44234885)]
    {
        assert!((ours - reference).abs() < 1e-7, "{ours} is not {reference}");
    }
}

/// Three answers to a document of which one is labelled, and documents without a label: everybody sees how good the
/// document was, and intervals over single answers would be far too narrow.
#[test]
fn answers_to_one_document_are_one_observation() {
    let (mut covered, mut covered_apart, runs) = (0, 0, 400);
    for seed in 0..runs {
        let mut random = SplitMix64::new(seed);
        let (mut labelled, mut unlabelled) = (Vec::new(), Vec::new());
        let mut clusters = [Vec::new(), Vec::new()];
        for document in 0..120 {
            let good = uniform(&mut random);
            for answer in 0..3 {
                let people = good + 0.2 * (uniform(&mut random) - 0.5);
                let judge = 0.1 + people + 0.2 * (uniform(&mut random) - 0.5);
                let is_labelled = answer == 0 || document < 20;
                clusters[usize::from(!is_labelled)].push(document);
                match is_labelled {
                    true => labelled.push((people, judge)),
                    false => unlabelled.push(judge),
                }
            }
        }
        let clusters = [clusters[0].as_slice(), clusters[1].as_slice()];
        let holds = |clusters| {
            let found = prediction_powered_mean(&labelled, &unlabelled, clusters, 0.95).unwrap();
            u32::from(found.interval[0] <= 0.5 && 0.5 <= found.interval[1])
        };
        covered += holds(Some(clusters));
        covered_apart += holds(None);
    }
    // 380 are expected with a standard deviation of 4.4.
    assert!((366..396).contains(&covered) && covered_apart < 350, "{covered} and {covered_apart} of {runs}");
}

/// Clusters of one item are items.
#[test]
fn clusters_of_one_change_nothing_but_the_factor() {
    let labelled: Vec<(f64, f64)> = (0..30).map(|i| (f64::from(i % 7), f64::from(i % 5))).collect();
    let unlabelled: Vec<f64> = (0..70).map(|i| f64::from(i % 9)).collect();
    let (first, second): (Vec<usize>, Vec<usize>) = ((0..30).collect(), (30..100).collect());
    let apart = prediction_powered_mean(&labelled, &unlabelled, None, 0.95).unwrap();
    let one = prediction_powered_mean(&labelled, &unlabelled, Some([&first, &second]), 0.95).unwrap();
    assert_eq!(one.value, apart.value);
    assert!((one.stderr / apart.stderr - (30.0_f64 / 29.0).sqrt()).abs() < 1e-12, "{one:?} {apart:?}");
    assert_eq!(prediction_powered_mean(&labelled, &unlabelled, Some([&first, &first]), 0.95), None);
    let one_document = vec![0; 30];
    assert_eq!(prediction_powered_mean(&labelled, &unlabelled, Some([&one_document, &second]), 0.95), None);
}

fn uniform(random: &mut SplitMix64) -> f64 {
    random.below(1 << 32) as f64 / (1u64 << 32) as f64
}

/// A judge that finds 80 % of the positives and calls 30 % of the negatives positive too.
#[test]
fn corrected_shares_cover_the_truth_where_raw_ones_do_not() {
    let (mut covered, runs) = (0, 400);
    for seed in 0..runs {
        let mut random = SplitMix64::new(seed);
        let item = |random: &mut SplitMix64| {
            let truth = uniform(random) < 0.4;
            (truth, uniform(random) < if truth { 0.8 } else { 0.3 })
        };
        let labelled: Vec<_> = (0..300).map(|_| item(&mut random)).collect();
        let positive = (0..2000).filter(|_| item(&mut random).1).count() as u64;
        let found = rogan_gladen((positive, 2000), &labelled, 0.95).unwrap();
        covered += u32::from(found.interval[0] <= 0.4 && 0.4 <= found.interval[1]);
        assert!(positive > 900, "the raw share is about a half");
    }
    assert!(covered >= 370, "{covered} of {runs}");
}

#[test]
fn a_judge_no_better_than_chance_corrects_nothing() {
    let labelled = [(true, true), (true, false), (false, true), (false, false)];
    assert_eq!(rogan_gladen((5, 10), &labelled, 0.95), None);
    assert_eq!(rogan_gladen((5, 10), &[(true, true)], 0.95), None);
    assert_eq!(rogan_gladen((0, 0), &labelled, 0.95), None);
    assert_eq!(prediction_powered_mean(&[(1.0, 1.0)], &[1.0, 0.0], None, 0.95), None);
    // By hand: p = 0.6, se = 0.9, sp = 0.8: (0.6 + 0.8 - 1) / 0.7.
    let mut labelled = vec![(true, true); 9];
    labelled.push((true, false));
    labelled.extend([(false, false); 8]);
    labelled.extend([(false, true); 2]);
    let found = rogan_gladen((6, 10), &labelled, 0.95).unwrap();
    assert!((found.value - 0.4 / 0.7).abs() < 1e-12);
}

// z = 1.959963984540054                              # transcribed from asht 1.0.3, prevSeSp
// def limits(tp, n_se, tn, n_sp, x, n):
//     se, sp, n_se, n_sp = (tp + 1) / (n_se + 2), (tn + 1) / (n_sp + 2), n_se + 2, n_sp + 2
//     ap, n = (x + z**2 / 2) / (n + z**2), n + z**2
//     p = (ap + sp - 1) / (se + sp - 1)
//     dp = 2 * z**2 * (p * se * (1 - se) / n_se - (1 - p) * sp * (1 - sp) / n_sp)
//     v = ap * (1 - ap) / n + p**2 * se * (1 - se) / n_se + (1 - p)**2 * sp * (1 - sp) / n_sp
//     return p + dp - z * v**.5 / (se + sp - 1), p + dp + z * v**.5 / (se + sp - 1)
// print(limits(45, 50, 80, 100, 120, 400), limits(3, 3, 2, 2, 50, 100), limits(9, 10, 8, 10, 6, 10))
#[test]
fn limits_are_those_of_lang_and_reiczigel() {
    let labels = |[tp, fneg, tn, fp]: [usize; 4]| {
        let mut labelled = vec![(true, true); tp];
        labelled.extend(vec![(true, false); fneg]);
        labelled.extend(vec![(false, false); tn]);
        labelled.extend(vec![(false, true); fp]);
        labelled
    };
    for (counts, calls, [low, high]) in [
        ([45, 5, 80, 20], (120, 400), [0.012485208484827745, 0.2535756084805154]),
        // Two and three labels, all of them right: no certainty.
        ([3, 0, 2, 0], (50, 100), [0.0, 0.9098939894823074]),
        ([9, 1, 8, 2], (6, 10), [0.023550238260430678, 1.0]),
    ] {
        let found = rogan_gladen(calls, &labels(counts), 0.95).unwrap();
        assert!((found.interval[0] - low).abs() < 1e-9, "{found:?}");
        assert!((found.interval[1] - high).abs() < 1e-9, "{found:?}");
        assert!(low <= found.value && found.value <= high, "{found:?}");
    }
}

/// A judge that rarely errs, and ten labels, on most of which it never does.
#[test]
fn few_labels_of_a_good_judge_claim_no_certainty() {
    let (mut covered, mut known, runs) = (0, 0, 400);
    for seed in 0..runs {
        let mut random = SplitMix64::new(1000 + seed);
        let item = |random: &mut SplitMix64| {
            let truth = uniform(random) < 0.5;
            (truth, uniform(random) < if truth { 0.93 } else { 0.08 })
        };
        let labelled: Vec<_> = (0..10).map(|_| item(&mut random)).collect();
        let positive = (0..1000).filter(|_| item(&mut random).1).count() as u64;
        let Some(found) = rogan_gladen((positive, 1000), &labelled, 0.95) else { continue };
        known += 1;
        covered += u32::from(found.interval[0] <= 0.5 && 0.5 <= found.interval[1]);
    }
    assert!(f64::from(covered) >= 0.93 * f64::from(known) && known > 350, "{covered} of {known}");
}
