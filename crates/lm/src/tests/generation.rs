use std::ops::ControlFlow;
use std::path::Path;

use evalign_core::{FinishReason, GenerateParams};

use super::tiny::{self, PLENTY};
use crate::backend::Backend;
use crate::decoder::Decoder;
use crate::{GenerateItem, GenerateOutput, LmError, generate};

fn run<B: Backend>(
    decoder: &Decoder<B>,
    directory: &Path,
    budget: u64,
    items: &[GenerateItem],
) -> Vec<GenerateOutput> {
    let mut outputs: Vec<Option<GenerateOutput>> = vec![None; items.len()];
    generate::generate(decoder, &tiny::tokenizer(directory), budget, items, &mut |index, output| {
        assert!(outputs[index].replace(output).is_none(), "item {index} twice");
        ControlFlow::Continue(())
    })
    .unwrap();
    outputs.into_iter().map(Option::unwrap).collect()
}

fn item(prompt: Vec<u32>, params: GenerateParams) -> GenerateItem {
    GenerateItem { prompt, params, stop_ids: Vec::new() }
}

fn sampled(seed: u64) -> GenerateParams {
    GenerateParams {
        max_tokens: 20,
        temperature: 1.0,
        top_p: Some(0.95),
        seed,
        logprobs: true,
        ..Default::default()
    }
}

/// Prompts of many lengths with shared beginnings, repeats of one prompt, greedy and sampled.
fn mixture() -> Vec<GenerateItem> {
    (0..40u64)
        .map(|i| {
            let prompt: Vec<u32> = (0..=(i % 13) as u32).map(|t| (t * 5 + (i % 3) as u32) % 96).collect();
            match i % 4 {
                0 => item(prompt, GenerateParams { max_tokens: 5 + i as u32 % 7, ..Default::default() }),
                1 => item(prompt, GenerateParams { repetition_penalty: Some(1.3), ..sampled(i) }),
                _ => item(vec![3, 1, 4, 1, 5], sampled(i)),
            }
        })
        .collect()
}

fn comparable(outputs: Vec<GenerateOutput>) -> Vec<GenerateOutput> {
    outputs.into_iter().map(|output| GenerateOutput { computed_tokens: 0, ..output }).collect()
}

#[test]
fn neither_batching_nor_memory_nor_order_changes_a_text() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let items = mixture();
    let together = comparable(run(&decoder, directory.path(), PLENTY, &items));
    let little = decoder.backend.kv_bytes(decoder.kv_shape(), 64) * 6;
    assert_eq!(together, comparable(run(&decoder, directory.path(), little, &items)));
    let reversed: Vec<GenerateItem> = items.iter().rev().cloned().collect();
    let mut backwards = comparable(run(&decoder, directory.path(), PLENTY, &reversed));
    backwards.reverse();
    assert_eq!(together, backwards);
    for (index, item) in items.iter().enumerate() {
        let alone = comparable(run(&decoder, directory.path(), PLENTY, std::slice::from_ref(item)));
        assert_eq!(alone[0], together[index], "item {index}");
    }
}

#[test]
fn repeats_share_their_prompt_and_differ_by_seed() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let prompt: Vec<u32> = (0..30).collect();
    let items: Vec<GenerateItem> = (0..8).map(|seed| item(prompt.clone(), sampled(seed))).collect();
    let outputs = run(&decoder, directory.path(), PLENTY, &items);
    // 29 shared tokens once, and every repeat's own last one.
    assert_eq!(outputs.iter().map(|output| output.computed_tokens).sum::<u64>(), 29 + 8);
    let texts: std::collections::BTreeSet<&str> = outputs.iter().map(|output| output.text.as_str()).collect();
    assert_eq!(texts.len(), 8);
}

#[test]
fn a_text_ends_where_it_should() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let greedy = |max_tokens: u32, stop: Vec<String>, stop_ids: Vec<u32>, prompt: Vec<u32>| {
        let params = GenerateParams { max_tokens, stop, ..Default::default() };
        run(&decoder, directory.path(), PLENTY, &[GenerateItem { prompt, params, stop_ids }]).remove(0)
    };
    let free = greedy(12, vec![], vec![], vec![1, 2, 3]);
    assert_eq!((free.ids.len(), free.finish), (12, FinishReason::Length));
    let by_id = greedy(12, vec![], vec![free.ids[4]], vec![1, 2, 3]);
    let end = free.ids.iter().position(|id| *id == free.ids[4]).unwrap();
    assert_eq!((by_id.ids.as_slice(), by_id.finish), (&free.ids[..=end], FinishReason::Stop));
    assert!(free.text.starts_with(&by_id.text) && !by_id.text.is_empty());
    // A stop string that straddles two tokens.
    let straddling = format!("{} t{}", free.ids[5] % 10, free.ids[6] / 10);
    let by_text = greedy(12, vec![straddling.clone()], vec![], vec![1, 2, 3]);
    assert_eq!(by_text.finish, FinishReason::Stop);
    assert_eq!(by_text.text, free.text[..free.text.find(&straddling).unwrap()]);
    assert!(by_text.ids.len() <= 7);
    let full = greedy(1000, vec![], vec![], vec![1; 120]);
    assert_eq!((full.ids.len(), full.finish), (8, FinishReason::Length));
}

#[test]
fn log_probabilities_are_the_models_own() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let params = GenerateParams { logprobs: true, max_tokens: 6, ..sampled(7) };
    let output = run(&decoder, directory.path(), PLENTY, &[item(vec![9, 8, 7], params)]).remove(0);
    let scored = crate::ScoreItem { context: vec![9, 8, 7], continuations: vec![output.ids.clone()] };
    let sum: f64 = output.logprobs.unwrap().iter().map(|token| token.logprob).sum();
    let expected = tiny::sums(&tiny::scores(&decoder, PLENTY, &[scored]))[0];
    assert!((sum - expected).abs() < 1e-4, "{sum} {expected}");
}

#[test]
fn backends_generate_the_same_text() {
    let directory = tiny::directory(&tiny::llama());
    let items: Vec<GenerateItem> = mixture().into_iter().take(8).collect();
    let cpu = run(&tiny::cpu(directory.path()), directory.path(), PLENTY, &items);
    let candle = run(&tiny::candle(directory.path()), directory.path(), PLENTY, &items);
    for (a, b) in cpu.iter().zip(&candle) {
        assert_eq!(a.ids, b.ids);
    }
}

#[test]
fn impossible_requests_are_refused() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let tokenizer = tiny::tokenizer(directory.path());
    let refuse = |item: GenerateItem, budget| {
        generate::generate(&decoder, &tokenizer, budget, &[item], &mut |_, _| panic!("nothing may be done"))
            .unwrap_err()
    };
    for bad in [
        item(vec![], GenerateParams::default()),
        item(vec![1; 128], GenerateParams::default()),
        item(vec![1], GenerateParams { max_tokens: 0, ..Default::default() }),
        item(vec![1], GenerateParams { temperature: -1.0, ..Default::default() }),
        item(vec![500], GenerateParams::default()),
    ] {
        assert!(matches!(refuse(bad, PLENTY), LmError::Request(_)));
    }
    assert!(matches!(refuse(item(vec![1; 60], GenerateParams::default()), 2000), LmError::Memory { .. }));
}
