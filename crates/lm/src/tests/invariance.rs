//! A result depends on its own tokens only.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use proptest::prelude::*;
use serde_json::json;

use super::tiny::{self, PLENTY};
use crate::backend::Backend;
use crate::{Event, LmError, ScoreItem, score};

fn items() -> impl Strategy<Value = Vec<ScoreItem>> {
    // Few different tokens, so that prefixes are shared in every way.
    let tokens = |low: usize, high: usize| prop::collection::vec(0u32..3, low..high);
    let item = (tokens(1, 12), prop::collection::vec(tokens(1, 5), 1..4))
        .prop_map(|(context, continuations)| ScoreItem { context, continuations });
    prop::collection::vec(item, 1..12)
}

/// Distinct non-empty prefixes of everything the model reads: the nodes of the tree.
fn nodes(items: &[ScoreItem]) -> usize {
    let mut prefixes = BTreeSet::new();
    for item in items {
        for continuation in &item.continuations {
            let read = [item.context.as_slice(), &continuation[..continuation.len() - 1]].concat();
            prefixes.extend((1..=read.len()).map(|length| read[..length].to_vec()));
        }
    }
    prefixes.len()
}

#[test]
fn alone_together_and_in_little_memory_give_the_same_bits() {
    let mut windowed = tiny::llama();
    windowed["model_type"] = json!("mistral");
    windowed["sliding_window"] = json!(5);
    for config in [tiny::llama(), windowed] {
        let directory = tiny::directory(&config);
        let decoder = tiny::cpu(directory.path());
        let little = decoder.backend.kv_bytes(decoder.kv_shape(), 32) * 20;
        proptest!(ProptestConfig::with_cases(40), |(items in items())| {
            let together = tiny::scores(&decoder, PLENTY, &items);
            let computed: u64 = together.iter().map(|output| output.computed_tokens).sum();
            prop_assert_eq!(computed as usize, nodes(&items));
            let cramped = tiny::scores(&decoder, little, &items);
            for (index, item) in items.iter().enumerate() {
                let alone = &tiny::scores(&decoder, PLENTY, std::slice::from_ref(item))[0];
                prop_assert_eq!(&alone.choices, &together[index].choices);
                prop_assert_eq!(&alone.choices, &cramped[index].choices);
            }
        });
    }
}

/// Many branches along one path: with a node for each, keys rounded up to whole panels exceed a budget that
/// the sequence alone just fits.
#[test]
fn a_sequence_that_fits_alone_is_never_refused_for_its_branches() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let whole: Vec<u32> = (0..96).collect();
    let mut items: Vec<ScoreItem> = (1..93)
        .map(|cut| ScoreItem { context: [&whole[..cut], &[0, 0]].concat(), continuations: vec![vec![1, 2]] })
        .collect();
    items.push(ScoreItem { context: whole[..60].to_vec(), continuations: vec![whole[60..].to_vec()] });
    let budget = decoder.backend.kv_bytes(decoder.kv_shape(), 96) + 1;
    let cramped = tiny::scores(&decoder, budget, &items);
    let roomy = tiny::scores(&decoder, PLENTY, &items);
    for (a, b) in cramped.iter().zip(&roomy) {
        assert_eq!(a.choices, b.choices);
    }
}

#[test]
fn a_long_text_is_cut_into_steps_without_a_trace() {
    let mut config = tiny::llama();
    config["max_position_embeddings"] = json!(4096);
    let directory = tiny::directory(&config);
    let decoder = tiny::cpu(directory.path());
    let text: Vec<u32> = (0..1500u32).map(|i| (i * i + 7) % 96).collect();
    let whole = ScoreItem { context: text[..1].to_vec(), continuations: vec![text[1..].to_vec()] };
    let half = ScoreItem { context: text[..700].to_vec(), continuations: vec![text[700..1500].to_vec()] };
    let alone = tiny::sums(&tiny::scores(&decoder, PLENTY, std::slice::from_ref(&half)));
    let shared = tiny::sums(&tiny::scores(&decoder, PLENTY, &[whole, half]));
    assert_eq!(alone[0].to_bits(), shared[1].to_bits());
}

#[test]
fn candle_shares_prefixes_as_the_kernels_do() {
    let directory = tiny::directory(&tiny::llama());
    let (cpu, candle) = (tiny::cpu(directory.path()), tiny::candle(directory.path()));
    proptest!(ProptestConfig::with_cases(10), |(items in items())| {
        let a = tiny::scores(&cpu, PLENTY, &items);
        let b = tiny::scores(&candle, PLENTY, &items);
        for (x, y) in a.iter().zip(&b) {
            prop_assert_eq!(x.computed_tokens, y.computed_tokens);
            for (x, y) in x.choices.iter().zip(&y.choices) {
                prop_assert!((x.sum - y.sum).abs() < 1e-3);
            }
        }
    });
}

/// Each alone and all together with a good one between them, which is answered as if it were alone.
#[test]
fn an_impossible_request_is_refused_and_no_other() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let item = |context: Vec<u32>, continuations: Vec<Vec<u32>>| ScoreItem { context, continuations };
    // The last token of a continuation is never read, so a full context plus one token fits.
    let good = item(vec![1; 128], vec![vec![1]]);
    let items = [
        item(vec![], vec![vec![1]]),
        item(vec![1], vec![]),
        item(vec![1], vec![vec![1], vec![]]),
        good.clone(),
        item(vec![1], vec![vec![96]]),
        item(vec![1; 128], vec![vec![1, 2]]),
    ];
    let together = tiny::score_results(&decoder, PLENTY, &items);
    for (item, result) in items.iter().zip(&together) {
        match result {
            Ok(output) => assert_eq!(output, &tiny::scores(&decoder, PLENTY, std::slice::from_ref(&good))[0]),
            Err(error) => assert!(matches!(error, LmError::Request(_)) && *item != good, "{item:?}"),
        }
    }
    assert!(together[3].is_ok());
    let small = [item(vec![1; 100], vec![vec![1]]), item(vec![1; 9], vec![vec![1]])];
    let budget = decoder.backend.kv_bytes(decoder.kv_shape(), 32);
    let results = tiny::score_results(&decoder, budget, &small);
    assert!(matches!(results[0], Err(LmError::Memory { tokens: 100, .. })), "{results:?}");
    assert!(results[1].is_ok());
}

#[test]
fn a_caller_can_stop_early() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let items: Vec<ScoreItem> =
        (0..90).map(|i| ScoreItem { context: vec![i; 100], continuations: vec![vec![1]] }).collect();
    let mut seen = 0;
    let stats = score::log_likelihoods(&decoder, PLENTY, &items, 0, &mut |event| match event {
        Event::Done(..) => {
            seen += 1;
            ControlFlow::Break(())
        }
        Event::Step => ControlFlow::Continue(()),
    })
    .unwrap();
    assert_eq!(seen, 1);
    assert!(stats.computed_prompt_tokens < 9000);
}

/// Before each step the caller may end the call: long prompts are no reason to wait for an item's end.
#[test]
fn a_caller_can_stop_between_steps() {
    let mut config = tiny::llama();
    config["max_position_embeddings"] = json!(4096);
    let directory = tiny::directory(&config);
    let decoder = tiny::cpu(directory.path());
    let item = ScoreItem { context: vec![1; 4000], continuations: vec![vec![1]] };
    let mut steps = 0;
    let stats = score::log_likelihoods(&decoder, PLENTY, &[item], 0, &mut |event| {
        assert!(matches!(event, Event::Step), "{event:?}");
        steps += 1;
        if steps == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert!((1..2000).contains(&stats.computed_prompt_tokens), "{stats:?}");
}
