use std::collections::BTreeSet;

use super::*;

/// Items of `prompts` prompts, three answers each.
fn items(prompts: u32) -> Prepared {
    let mut data = Prepared::default();
    for row in 0..u64::from(prompts) * 3 {
        let ids = vec![row as u32 / 3, 100, 200 + row as u32];
        data.rows.push(row);
        data.items.push(Item::Single { text: Sequence::new(ids, 2), desirable: None, beyond: Vec::new() });
    }
    data
}

#[test]
fn a_prompt_is_on_one_side_only_and_stays_there() {
    let (train, evaluation) = split(items(50), 0.2, 7);
    let evaluation = evaluation.unwrap();
    assert_eq!((train.items.len(), evaluation.items.len()), (120, 30));
    let prompts = |data: &Prepared| -> BTreeSet<u64> { data.rows.iter().map(|row| row / 3).collect() };
    assert!(prompts(&train).is_disjoint(&prompts(&evaluation)));
    let (_, again) = split(items(50), 0.2, 7);
    assert_eq!(again.unwrap().rows, evaluation.rows);
    let (_, other) = split(items(50), 0.2, 8);
    assert_ne!(other.unwrap().rows, evaluation.rows);
}

#[test]
fn something_is_always_left_to_train_on() {
    assert!(split(items(3), 0.0, 1).1.is_none());
    let (train, evaluation) = split(items(2), 0.9, 1);
    assert_eq!((train.items.len(), evaluation.unwrap().items.len()), (3, 3));
    let (train, evaluation) = split(items(1), 0.9, 1);
    assert!(evaluation.is_none() && train.items.len() == 3);
}
