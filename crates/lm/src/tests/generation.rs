use std::ops::ControlFlow;
use std::path::Path;

use evalign_core::{FinishReason, GenerateParams};

use super::tiny::{self, PLENTY};
use crate::backend::{Backend, DecoderBackend};
use crate::decoder::Decoder;
use crate::{Event, GenerateItem, GenerateOutput, LmError, generate};

fn run<B: DecoderBackend>(
    decoder: &Decoder<B>,
    directory: &Path,
    budget: u64,
    items: &[GenerateItem],
) -> Vec<GenerateOutput> {
    results(decoder, directory, budget, items).into_iter().map(Result::unwrap).collect()
}

fn results<B: DecoderBackend>(
    decoder: &Decoder<B>,
    directory: &Path,
    budget: u64,
    items: &[GenerateItem],
) -> Vec<Result<GenerateOutput, LmError>> {
    let tokenizer = tiny::tokenizer(directory);
    tiny::results(items.len(), |on_event| generate::generate(decoder, &tokenizer, budget, items, on_event))
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
        top_logprobs: (seed % 4) as u32,
        ..Default::default()
    }
}

/// Prompts of many lengths with shared beginnings, repeats of one prompt, greedy and sampled.
fn mixture() -> Vec<GenerateItem> {
    (0..40u64)
        .map(|i| {
            let prompt: Vec<u32> = (0..=(i % 13) as u32).map(|t| (t * 5 + (i % 3) as u32) % 96).collect();
            match i % 4 {
                0 => {
                    let (logprobs, top_logprobs) = (i % 8 == 0, i as u32 % 5);
                    let max_tokens = 5 + i as u32 % 7;
                    item(prompt, GenerateParams { max_tokens, logprobs, top_logprobs, ..Default::default() })
                }
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
fn greedy_decoding_heeds_the_penalty_and_no_other_rule() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let ids = |params: GenerateParams| {
        let params = GenerateParams { max_tokens: 30, ..params };
        run(&decoder, directory.path(), PLENTY, &[item(vec![1, 2, 3], params)]).remove(0).ids
    };
    let greedy = ids(GenerateParams::default());
    let ruled =
        GenerateParams { top_p: Some(0.1), top_k: Some(2), min_p: Some(0.9), seed: 7, ..Default::default() };
    assert_eq!(ids(ruled), greedy);
    assert_ne!(ids(GenerateParams { repetition_penalty: Some(1.8), ..Default::default() }), greedy);
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
fn an_impossible_request_is_refused_and_no_other() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let params = || GenerateParams { max_tokens: 33, ..Default::default() };
    let good = item(vec![1; 33], params());
    let items = [
        item(vec![], params()),
        item(vec![1; 128], params()),
        item(vec![1], GenerateParams { max_tokens: 0, ..params() }),
        good.clone(),
        item(vec![1], GenerateParams { temperature: -1.0, ..params() }),
        item(vec![500], params()),
    ];
    let alone = run(&decoder, directory.path(), PLENTY, std::slice::from_ref(&good)).remove(0);
    for (index, result) in results(&decoder, directory.path(), PLENTY, &items).into_iter().enumerate() {
        match result {
            Ok(output) => assert_eq!((index, &output), (3, &alone)),
            Err(error) => assert!(matches!(error, LmError::Request(_)) && index != 3, "{index}: {error}"),
        }
    }
    // Keys of prompt and answer are each rounded up to whole panels: together they take more than one
    // sequence of 66 tokens does.
    let short = item(vec![1; 5], GenerateParams { max_tokens: 5, ..Default::default() });
    let budget = |keys| decoder.backend.kv_bytes(decoder.kv_shape(), keys);
    let mut cramped = results(&decoder, directory.path(), budget(66), &[good.clone(), short]);
    assert!(cramped.pop().unwrap().is_ok());
    assert!(matches!(cramped.pop(), Some(Err(LmError::Memory { tokens: 66, .. }))));
    assert_eq!(run(&decoder, directory.path(), 2 * budget(33), &[good]), [alone]);
}

/// Before each token the caller may end the call: a long text is no reason to wait for its end.
#[test]
fn a_caller_can_stop_between_tokens() {
    let directory = tiny::directory(&tiny::llama());
    let decoder = tiny::cpu(directory.path());
    let long = item(vec![1, 2, 3], GenerateParams { max_tokens: 100, ..Default::default() });
    let mut steps = 0;
    let tokenizer = tiny::tokenizer(directory.path());
    let stats = generate::generate(&decoder, &tokenizer, PLENTY, &[long], &mut |event| {
        assert!(matches!(event, Event::Step), "{event:?}");
        steps += 1;
        if steps == 4 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })
    .unwrap();
    assert_eq!((steps, stats.projected_positions), (4, 3));
}
