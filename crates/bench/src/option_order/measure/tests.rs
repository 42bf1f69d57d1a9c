use super::*;

fn answer(
    outcome: Outcome,
    taken: Option<usize>,
    right_place: usize,
    probabilities: Option<&[f64]>,
) -> Option<Answer> {
    let probabilities = probabilities.map(<[f64]>::to_vec);
    Some(Answer { outcome, taken, probabilities, right_place: Some(right_place) })
}

/// An item with the right option `gold` of `options`, and the option taken in each order.
fn chosen(options: usize, gold: usize, taken: &[usize]) -> Item {
    let answers = taken.iter().enumerate().map(|(places, option)| {
        let outcome = if *option == gold { Outcome::Correct } else { Outcome::Wrong };
        answer(outcome, Some(*option), (gold + options - places % options) % options, None)
    });
    Item { options, answers: answers.collect() }
}

fn numbers(items: &[Item]) -> OptionOrderResult {
    let items: Vec<&Item> = items.iter().collect();
    result("t", &Digest::of("p"), &("acc".to_owned(), "none".to_owned()), &items)
}

/// A model that always takes the first place: right exactly when the right option stands there.
#[test]
fn a_model_that_takes_a_place_is_seen_through() {
    let items: Vec<Item> = (0..4).map(|gold| chosen(4, gold, &[0, 1, 2, 3])).collect();
    let found = numbers(&items);
    assert!(found.orders.iter().all(|order| order.estimate.value == Some(0.25)), "{found:#?}");
    assert_eq!((found.mean.value, found.mean.n), (Some(0.25), 16));
    assert_eq!((found.changed.value, found.changed.n, found.undecided), (Some(1.0), 4, 0));
    let recalls: Vec<Option<f64>> = found.recall_by_place.iter().map(|recall| recall.value).collect();
    assert_eq!(recalls, [Some(1.0), Some(0.0), Some(0.0), Some(0.0)]);
    // np.std([1, 0, 0, 0]) = sqrt(3) / 4
    assert!((found.recall_std.unwrap() - 3f64.sqrt() / 4.0).abs() < 1e-12);
    // Every option was taken once: there is no most frequent one.
    assert_eq!((found.debiased.estimate.value, found.debiased.outcomes.unparsed), (None, 4));
}

#[test]
fn a_model_that_knows_does_not_change() {
    let items = [chosen(4, 2, &[2, 2, 2, 2]), chosen(3, 0, &[1, 1, 1])];
    let found = numbers(&items);
    assert_eq!((found.changed.value, found.changed.n), (Some(0.0), 2));
    assert_eq!(found.debiased.estimate.value, Some(0.5));
    // The item with three options has no fourth order.
    assert_eq!(found.orders[3].estimate.n, 1);
    assert_eq!(found.orders[2].estimate.n, 2);
    assert!((found.mean.value.unwrap() - 4.0 / 7.0).abs() < 1e-12);
}

/// Two orders of two options: the letter prior (0.7 for the first place) decides both times, the mean of
/// the probabilities shows the option the model prefers: option 1 with (0.45 + 0.85) / 2.
#[test]
fn probabilities_are_averaged_by_content() {
    let item = Item {
        options: 2,
        answers: vec![
            answer(Outcome::Wrong, Some(0), 1, Some(&[0.55, 0.45])),
            answer(Outcome::Correct, Some(1), 0, Some(&[0.15, 0.85])),
        ],
    };
    let found = numbers(&[item]);
    assert_eq!(found.debiased.estimate.value, Some(1.0));
    assert_eq!(found.changed.value, Some(1.0));
}

#[test]
fn what_is_not_known_is_left_out_and_counted() {
    let failed =
        Some(Answer { outcome: Outcome::Error, taken: None, probabilities: None, right_place: Some(0) });
    let items = [
        Item { options: 2, answers: vec![answer(Outcome::Correct, Some(0), 0, Some(&[0.9, 0.1])), failed] },
        Item { options: 2, answers: vec![answer(Outcome::Correct, Some(0), 0, Some(&[0.9, 0.1])), None] },
        chosen(2, 0, &[0, 0]),
    ];
    let found = numbers(&items);
    assert_eq!((found.undecided, found.changed.n), (2, 1));
    assert_eq!((found.debiased.estimate.n, found.debiased.outcomes.error), (1, 2));
    assert_eq!((found.orders[1].estimate.n, found.orders[1].outcomes.error), (1, 1));
    // Unreadable answers do not vote, the readable ones do.
    let unread =
        Some(Answer { outcome: Outcome::Unparsed, taken: None, probabilities: None, right_place: Some(1) });
    let item = Item { options: 2, answers: vec![answer(Outcome::Correct, Some(0), 0, None), unread] };
    assert_eq!(item.debiased(), Outcome::Correct);
    assert_eq!(item.changed(), None);
}

#[test]
fn answers_to_one_item_are_one_piece_of_evidence() {
    // All four orders agree for every item: no more certain than ten answers.
    let items: Vec<Item> = (0..10).map(|i| chosen(4, 0, &[usize::from(i >= 5); 4])).collect();
    let found = numbers(&items);
    let alone = 0.5 / 10f64.sqrt();
    assert!(found.mean.stderr.unwrap() > 0.9 * alone, "{:?}", found.mean);
    let certain: Vec<Item> = (0..10).map(|_| chosen(4, 0, &[0; 4])).collect();
    assert!(numbers(&certain).mean.ci95.unwrap()[0] < 0.75);
}
