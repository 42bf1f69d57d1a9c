//! The likeliest tokens beside each token, against everything that the model says at that place.

use evalign_core::{Dtype, GenerateParams, TokenLogprob, TopLogprob};
use serde_json::json;

use super::schema::held;
use super::{constrained, tiny};
use crate::{GenerateItem, GenerateOutput, LanguageModel, LoadOptions, ScoreItem};

const MOST: usize = 20;

fn greedy(max_tokens: u32, top_logprobs: u32) -> GenerateParams {
    GenerateParams { max_tokens, logprobs: true, top_logprobs, ..GenerateParams::default() }
}

fn generate(model: &LanguageModel, items: &[GenerateItem]) -> Vec<GenerateOutput> {
    let results = tiny::results(items.len(), |on_event| model.generate(items, on_event));
    results.into_iter().map(Result::unwrap).collect()
}

/// All tokens after `context`, sorted by what the model says of them: one text for each, and no partial selection.
fn sorted(model: &LanguageModel, context: &[u32]) -> Vec<(u32, f64)> {
    let vocabulary = u32::try_from(model.identity().vocab_size).unwrap();
    let continuations = (0..vocabulary).map(|token| vec![token]).collect();
    let item = ScoreItem { context: context.to_vec(), continuations };
    let results = tiny::results(1, |on_event| model.log_likelihoods(&[item], on_event));
    let choices = results.into_iter().next().unwrap().unwrap().choices;
    let mut sorted: Vec<(u32, f64)> = (0..).zip(choices.iter().map(|choice| choice.sum)).collect();
    sorted.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    sorted
}

fn without_top(logprobs: &[TokenLogprob]) -> Vec<TokenLogprob> {
    logprobs.iter().map(|token| TokenLogprob { top: Vec::new(), ..token.clone() }).collect()
}

#[test]
fn the_likeliest_of_the_real_model_are_those_of_a_full_sort() {
    let Some(path) = tiny::real_model() else { return };
    for dtype in [Dtype::F32, Dtype::Q] {
        let options = LoadOptions { dtype: Some(dtype), ..Default::default() };
        let model = LanguageModel::load(&path, &options).unwrap();
        let tokenizer = model.tokenizer();
        let prompt = tokenizer.encode("The capital of France is", false).unwrap();
        let item =
            |top| GenerateItem { prompt: prompt.clone(), params: greedy(2, top), stop_ids: Vec::new() };
        let outputs = generate(&model, &[item(0), item(1), item(20)]);
        let logprobs: Vec<&[TokenLogprob]> =
            outputs.iter().map(|output| output.logprobs.as_deref().unwrap()).collect();
        for (output, logprobs) in outputs.iter().zip(&logprobs) {
            assert_eq!(output.ids, outputs[0].ids);
            assert_eq!(without_top(logprobs), logprobs_of(&outputs[0]), "{dtype:?}: the same bits");
        }
        let context: Vec<u32> = prompt.iter().chain(&outputs[2].ids).copied().collect();
        let texts = [ScoreItem { context: vec![context[0]], continuations: vec![context[1..].to_vec()] }];
        let scored =
            tiny::results(1, |on_event| model.score_tokens(&texts, MOST, on_event)).remove(0).unwrap();
        for (place, token) in logprobs[2].iter().enumerate() {
            let length = prompt.len() + place;
            let sorted = sorted(&model, &context[..length]);
            let expected = tokenizer.alternatives(&sorted[..MOST]).unwrap();
            assert_eq!(token.top, expected, "{dtype:?} {place}");
            assert_eq!(logprobs[1][place].top, expected[..1], "{dtype:?} {place}");
            assert_eq!(scored.tokens[0][length - 1].top, sorted[..MOST], "of a text: {dtype:?} {place}");
            assert_eq!(
                expected[0],
                TopLogprob::new(token.token.clone(), token.logprob),
                "greedy comes first"
            );
            assert!(expected.iter().map(|top| top.logprob.exp()).sum::<f64>() <= 1.0);
        }
    }
}

fn logprobs_of(output: &GenerateOutput) -> Vec<TokenLogprob> {
    output.logprobs.clone().unwrap()
}

/// What may not be written is named all the same: these are the model's own probabilities.
#[test]
fn what_a_schema_forbids_and_what_a_temperature_makes_likelier_changes_no_alternatives() {
    let directory = constrained::directory();
    let tokenizer = tiny::tokenizer(directory.path());
    let free = GenerateParams { top_logprobs: 7, ..greedy(1, 7) };
    let forms = [
        free.clone(),
        GenerateParams { temperature: 2.0, top_p: Some(0.1), ..free.clone() },
        GenerateParams { repetition_penalty: Some(2.0), ..free.clone() },
        GenerateParams { top_logprobs: 7, max_tokens: 1, ..held(&json!({"type": "boolean"}), 1) },
    ];
    let items = forms.map(|params| constrained::item(&tokenizer, "Say it:", params));
    let found: Vec<_> = constrained::results(directory.path(), &items)
        .into_iter()
        .map(|output| logprobs_of(&output.unwrap()).remove(0))
        .collect();
    assert_eq!(found[0].top.len(), 7);
    assert!(found.iter().all(|token| token.top == found[0].top), "{found:?}");
    assert!(["t", "f"].contains(&found[3].token.as_str()), "{found:?}");
}

#[test]
fn tokens_that_are_parts_of_characters_keep_their_bytes() {
    let Some(path) = tiny::real_model() else { return };
    let model = LanguageModel::load(&path, &LoadOptions::default()).unwrap();
    let tokenizer = model.tokenizer();
    let text = "caf\u{e9} \u{1f980}";
    let ids = tokenizer.encode(text, false).unwrap();
    let tokens: Vec<TokenLogprob> = ids.iter().map(|id| tokenizer.with_logprob(*id, -1.0).unwrap()).collect();
    let bytes = tokens.iter().map(|token| token.bytes.as_deref().unwrap_or(token.token.as_bytes()));
    assert_eq!(bytes.collect::<Vec<_>>().concat(), text.as_bytes());
    assert!(tokens.iter().any(|token| token.bytes.is_some()), "the crab is several tokens: {tokens:?}");
    let end = tokenizer.with_logprob(tokenizer.eos().unwrap(), 0.0).unwrap();
    assert_eq!((end.token.as_str(), end.bytes), ("<|im_end|>", None));
}
