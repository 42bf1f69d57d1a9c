use evalign_core::{Prompt, RequestKind, ScoringMode};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{embedded, planned, request};
use crate::task::{Sampler, TaskDefinition};
use crate::{PlannedSample, PlannedTask};

fn numbered(n: u32) -> Vec<Value> {
    (0..n).map(|i| json!({"question": format!("q{i}"), "answer": format!("a #### {i}")})).collect()
}

fn text(sample: &PlannedSample) -> &str {
    match sample.prompt() {
        Some(Prompt::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

/// Question numbers in the prompt, the asked one last.
fn shown(task: &PlannedTask, index: u64) -> Vec<u32> {
    let sample = task.sample(index, 0).unwrap();
    let numbers = text(&sample).split("Question: q").skip(1);
    numbers.map(|part| part.split('\n').next().unwrap().parse().unwrap()).collect()
}

fn gsm8k() -> TaskDefinition {
    embedded("gsm8k")
}

#[test]
fn a_range_keeps_the_shots_of_a_full_run() {
    for mode in [ScoringMode::LmEval, ScoringMode::Default] {
        let all = planned(&request(mode), &gsm8k(), &numbered(30), &numbered(200)).unwrap();
        let mut part = request(mode);
        part.samples = Some("20..25".parse().unwrap());
        let part = planned(&part, &gsm8k(), &numbered(30), &numbered(200)).unwrap();
        assert_eq!(part.docs(), 20..25);
        for i in 0..5 {
            assert_eq!(part.sample(i, 0).unwrap(), all.sample(20 + i, 0).unwrap());
        }
        assert!(part.sample(5, 0).is_err());
        assert!(part.sample_by_key(&all.sample(3, 0).unwrap().key).is_err());
    }
}

#[test]
fn the_two_streams_are_different_protocols() {
    let compat = planned(&request(ScoringMode::LmEval), &gsm8k(), &numbered(3), &numbered(7473)).unwrap();
    assert_eq!(shown(&compat, 0), [6374, 3610, 957, 61, 742, 0]);
    assert_eq!(shown(&compat, 1), [7462, 6610, 4769, 286, 5501, 1]);
    let default = planned(&request(ScoringMode::Default), &gsm8k(), &numbered(3), &numbered(7473)).unwrap();
    assert_ne!(shown(&default, 0), shown(&compat, 0));
    assert_ne!(default.spec().protocol, compat.spec().protocol);
    let mut seeded = request(ScoringMode::Default);
    seeded.seed = 7;
    let seeded = planned(&seeded, &gsm8k(), &numbered(3), &numbered(7473)).unwrap();
    assert_ne!(shown(&default, 0), shown(&seeded, 0));
    assert_ne!(default.spec().protocol, seeded.spec().protocol);
    assert_eq!(default.spec().definition, seeded.spec().definition);
}

/// `ContextSampler.sample` with an evaluated document: n + 1 drawn, equal documents dropped.
#[test]
fn the_extra_draw_of_the_reference() {
    let mut task = gsm8k();
    task.shots.extra_draw = true;
    let compat = planned(&request(ScoringMode::LmEval), &task, &numbered(3), &numbered(7473)).unwrap();
    // Random(1234).sample(range(7473), 6)[:5] for document 0.
    assert_eq!(shown(&compat, 0), EXTRA_DRAW_DOC0);
    assert_eq!(shown(&compat, 1), EXTRA_DRAW_DOC1);
    let default = planned(&request(ScoringMode::Default), &task, &numbered(3), &numbered(7473)).unwrap();
    assert_eq!(shown(&default, 0).len(), 6);
}

const EXTRA_DRAW_DOC0: [u32; 6] = [6374, 3610, 957, 61, 742, 0];
const EXTRA_DRAW_DOC1: [u32; 6] = [6610, 4769, 286, 5501, 5677, 1];

#[test]
fn a_document_is_never_its_own_example() {
    let mut task = gsm8k();
    task.dataset.shots_split = task.dataset.split.clone();
    for (mode, sampler) in [
        (ScoringMode::LmEval, Sampler::Random),
        (ScoringMode::Default, Sampler::Random),
        (ScoringMode::LmEval, Sampler::FirstN),
    ] {
        task.shots.sampler = sampler;
        let planned = planned(&request(mode), &task, &numbered(8), &numbered(8)).unwrap();
        for index in 0..8 {
            let mut shown = shown(&planned, index);
            assert_eq!(shown.pop(), Some(index as u32));
            assert_eq!(shown.len(), 5);
            assert!(!shown.contains(&(index as u32)), "{mode:?} {sampler:?} {index}: {shown:?}");
        }
    }
}

/// With copies of the evaluated document in the pool too few may remain; then the reference draws again
/// from the others. Expected values from its own `ContextSampler`:
/// `s = ContextSampler(pool, rnd=1234); [s.sample(2, eval_doc=pool[0]) for _ in range(4)]`
#[test]
fn copies_of_the_document_lead_to_a_second_draw() {
    let mut pool = numbered(6);
    for copy in [2, 3, 4] {
        pool[copy] = pool[0].clone();
    }
    let mut task = gsm8k();
    task.shots.count = 2;
    task.dataset.shots_split = task.dataset.split.clone();
    let evaluated = vec![pool[0].clone(); 4];
    let planned = planned(&request(ScoringMode::LmEval), &task, &evaluated, &pool).unwrap();
    let drawn: Vec<Vec<u32>> = (0..4).map(|i| shown(&planned, i)[..2].to_vec()).collect();
    assert_eq!(drawn, SECOND_DRAWS);
}

const SECOND_DRAWS: [[u32; 2]; 4] = [[1, 5], [5, 1], [5, 1], [1, 5]];

#[test]
fn balanced_examples() {
    let mut task = gsm8k();
    task.shots.sampler = Sampler::Balanced;
    task.shots.balance_by = Some("answer[-1]|int % 2".to_owned());
    task.shots.count = 4;
    let planned = planned(&request(ScoringMode::Default), &task, &numbered(5), &numbered(40)).unwrap();
    for index in 0..5 {
        let mut shots = shown(&planned, index);
        shots.pop();
        assert_eq!(shots.iter().filter(|n| **n % 2 == 0).count(), 2, "{shots:?}");
    }
    assert!(super::planned(&request(ScoringMode::LmEval), &task, &numbered(5), &numbered(40)).is_err());
}

#[test]
fn limits_and_refusals() {
    let mode = ScoringMode::Default;
    let mut limited = request(mode);
    limited.limit = Some("0.1".parse().unwrap());
    assert_eq!(planned(&limited, &gsm8k(), &numbered(25), &numbered(9)).unwrap().docs(), 0..3);
    let mut many = request(mode);
    many.shots = Some(9);
    let error = planned(&many, &gsm8k(), &numbered(5), &numbered(8)).unwrap_err();
    assert!(error.to_string().contains("only 8 rows"), "{error}");
    let mut fixed = request(mode);
    fixed.shots = Some(3);
    let task = planned(&fixed, &embedded("gsm8k_cot_zeroshot"), &numbered(5), &[]).unwrap();
    assert_eq!(task.spec().shots, 0);
    let mut beyond = request(mode);
    beyond.samples = Some("7..9".parse().unwrap());
    assert!(planned(&beyond, &gsm8k(), &numbered(5), &numbered(9)).is_err());
}

#[test]
fn rows_that_do_not_fit_are_named() {
    let mut bad = numbered(3);
    bad[1] = json!({"question": "q1"});
    let task = planned(&request(ScoringMode::Default), &gsm8k(), &bad, &numbered(9)).unwrap();
    let error = task.sample(1, 0).unwrap_err().to_string();
    assert!(error.contains("row 2") && error.contains("`target`"), "{error}");
    let none = vec![json!({"q": "x", "answer": "#### 1"})];
    let error =
        planned(&request(ScoringMode::Default), &gsm8k(), &none, &numbered(9)).unwrap_err().to_string();
    assert!(error.contains("no column `question`") && error.contains("q, answer"), "{error}");
}

#[test]
fn repeats_have_their_own_seeds() {
    let mut request = request(ScoringMode::Default);
    request.repeats = Some(8);
    let task = planned(&request, &embedded("gsm8k_cot_self_consistency"), &numbered(4), &[]).unwrap();
    assert_eq!((task.len(), task.keys().count()), (32, 32));
    let mut seeds = std::collections::BTreeSet::new();
    for key in task.keys() {
        let RequestKind::Generate { params, .. } = task.sample_by_key(&key).unwrap().request.kind else {
            panic!()
        };
        assert_eq!(params.temperature, 0.2);
        assert!(seeds.insert(params.seed));
    }
}

proptest! {
    /// Selecting fewer documents or rendering in another order never changes a prompt.
    #[test]
    fn prompts_do_not_depend_on_selection(start in 0u64..20, len in 1u64..10, compat in any::<bool>()) {
        let mode = if compat { ScoringMode::LmEval } else { ScoringMode::Default };
        let all = planned(&request(mode), &gsm8k(), &numbered(30), &numbered(50)).unwrap();
        let mut part = request(mode);
        part.samples = Some(crate::DocRange { start, end: start + len });
        let part = planned(&part, &gsm8k(), &numbered(30), &numbered(50)).unwrap();
        for i in (0..len).rev() {
            prop_assert_eq!(part.sample(i, 0).unwrap().prompt_hash, all.sample(start + i, 0).unwrap().prompt_hash);
        }
    }
}
