use std::collections::BTreeSet;

use evalign_core::{AnswerForm, FinishReason, GenerateParams, ResponseField, ResponseFormat, ResponseValue};
use serde_json::{Value, json};

use super::tiny::{self, PLENTY};
use crate::{GenerateItem, GenerateOutput, LmError, ScoreItem, Tokenizer, generate};

/// A byte-level tokeniser of 96 tokens: visible ASCII, the space and the line feed, one each.
fn write_tokenizer(directory: &std::path::Path) {
    let spellings = ('!'..='~').chain(['\u{120}', '\u{10a}']);
    let vocab: serde_json::Map<String, Value> =
        spellings.enumerate().map(|(id, c)| (c.to_string(), json!(id))).collect();
    let level =
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true});
    let tokenizer = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": level, "post_processor": null, "decoder": level,
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
            "vocab": vocab, "merges": []},
    });
    fs_err::write(directory.join("tokenizer.json"), tokenizer.to_string()).unwrap();
}

pub(super) fn directory() -> tempfile::TempDir {
    let directory = tiny::directory(&tiny::llama());
    write_tokenizer(directory.path());
    directory
}

fn format(why_tokens: u32) -> ResponseFormat {
    let labels = |labels: &[&str]| ResponseValue::OneOf(labels.iter().map(|l| (*l).to_owned()).collect());
    let field = |name: &str, value| ResponseField { name: name.to_owned(), value };
    ResponseFormat {
        name: "verdict".to_owned(),
        fields: vec![
            field("w", ResponseValue::Text { max_tokens: why_tokens }),
            field("v", labels(&["yes", "no", "C"])),
        ],
    }
}

pub(super) fn item(tokenizer: &Tokenizer, text: &str, params: GenerateParams) -> GenerateItem {
    GenerateItem { prompt: tokenizer.encode(text, false).unwrap(), params, stop_ids: Vec::new() }
}

fn params(format: &ResponseFormat, seed: u64) -> GenerateParams {
    GenerateParams {
        max_tokens: format.max_tokens(),
        temperature: 1.0,
        seed,
        logprobs: true,
        form: Some(AnswerForm::Fields(format.clone())),
        ..GenerateParams::default()
    }
}

pub(super) fn results(
    directory: &std::path::Path,
    items: &[GenerateItem],
) -> Vec<Result<GenerateOutput, LmError>> {
    let (decoder, tokenizer) = (tiny::cpu(directory), tiny::tokenizer(directory));
    tiny::results(items.len(), |on_event| generate::generate(&decoder, &tokenizer, PLENTY, items, on_event))
}

fn outputs(directory: &std::path::Path, items: &[GenerateItem]) -> Vec<GenerateOutput> {
    results(directory, items).into_iter().map(Result::unwrap).collect()
}

#[test]
fn every_answer_of_a_random_model_has_the_form() {
    let directory = directory();
    let tokenizer = tiny::tokenizer(directory.path());
    let format = format(12);
    let items: Vec<GenerateItem> = (0..80)
        .map(|seed| item(&tokenizer, ["Is it?", "Why?", "x"][seed as usize % 3], params(&format, seed)))
        .collect();
    let mut seen = BTreeSet::new();
    let mut closed_early = 0;
    for output in outputs(directory.path(), &items) {
        let object: Value =
            serde_json::from_str(&output.text).unwrap_or_else(|e| panic!("{e}: {}", output.text));
        let label = object["v"].as_str().unwrap().to_owned();
        assert!(["yes", "no", "C"].contains(&label.as_str()), "{label}");
        seen.insert(label);
        closed_early += usize::from(object["w"].as_str().unwrap().len() < 11);
        assert_eq!(output.finish, FinishReason::Stop);
        assert_eq!(output.logprobs.as_ref().map(Vec::len), Some(output.ids.len()));
    }
    assert_eq!(seen.len(), 3, "every label is drawn some time: {seen:?}");
    assert!(closed_early > 0, "texts may end before their limit");
}

#[test]
fn neither_batching_nor_neighbours_change_a_constrained_answer() {
    let directory = directory();
    let tokenizer = tiny::tokenizer(directory.path());
    let format = format(6);
    let mut items: Vec<GenerateItem> =
        (0..9).map(|seed| item(&tokenizer, "Is it so?", params(&format, seed))).collect();
    items.push(item(&tokenizer, "free", GenerateParams { max_tokens: 9, ..GenerateParams::default() }));
    let together = outputs(directory.path(), &items);
    for (index, item) in items.iter().enumerate() {
        let alone = outputs(directory.path(), std::slice::from_ref(item)).remove(0);
        assert_eq!(
            (&alone.ids, &alone.logprobs),
            (&together[index].ids, &together[index].logprobs),
            "{index}"
        );
    }
}

#[test]
fn probabilities_of_labels_are_the_models_own() {
    let directory = directory();
    let (decoder, tokenizer) = (tiny::cpu(directory.path()), tiny::tokenizer(directory.path()));
    let format = format(0);
    let output = outputs(directory.path(), &[item(&tokenizer, "Is it?", params(&format, 3))]).remove(0);
    let decided = output.logprobs.unwrap().into_iter().find(|token| !token.top.is_empty()).unwrap();
    let prefix = format!("Is it?{{\"w\": \"{}", format.text_before(1));
    let score = ScoreItem {
        context: tokenizer.encode(&prefix, false).unwrap(),
        continuations: ["y", "n", "C"].iter().map(|text| tokenizer.encode(text, false).unwrap()).collect(),
    };
    let expected = &tiny::scores(&decoder, PLENTY, &[score])[0];
    for (top, score) in decided.top.iter().zip(&expected.choices) {
        assert!((top.logprob - score.sum).abs() < 1e-4, "{top:?} {score:?}");
    }
    assert_eq!(decided.top.iter().map(|top| top.token.as_str()).collect::<Vec<_>>(), ["yes", "no", "C"]);
}

#[test]
fn too_little_room_is_a_cut_answer_and_a_bad_form_a_refused_request() {
    let directory = directory();
    let tokenizer = tiny::tokenizer(directory.path());
    let good = format(4);
    let short = GenerateParams { max_tokens: 3, ..params(&good, 1) };
    let mut bad = good.clone();
    bad.fields[1].value = ResponseValue::OneOf(vec!["1".to_owned(), "10".to_owned()]);
    let mut unwritable = good.clone();
    unwritable.fields[1].name = "v".repeat(3);
    let items = [
        item(&tokenizer, "x", short),
        item(&tokenizer, "x", params(&bad, 1)),
        item(&tokenizer, "x", params(&unwritable, 1)),
    ];
    let found = results(directory.path(), &items);
    let cut = found[0].as_ref().unwrap();
    assert_eq!((cut.text.as_str(), cut.finish), ("{\"w", FinishReason::Length));
    assert!(matches!(&found[1], Err(LmError::Request(why)) if why.contains("begins like")), "{:?}", found[1]);
    assert!(found[2].is_ok());
}

#[test]
fn a_row_is_summed_up_like_its_exponentials() {
    let logits: Vec<f32> = (0..5000_u16).map(|i| f32::from(i % 977) * 0.01 - 3.0).collect();
    let sum: f64 = logits.iter().map(|logit| f64::from(*logit).exp()).sum();
    let summary = crate::kernels::summarise_logits(crate::kernels::Isa::detect(), &logits);
    assert!((summary.log_sum_exp - sum.ln()).abs() < 1e-6, "{summary:?}");
    assert_eq!((summary.argmax, summary.max_logit), (976, logits[976]));
    let large = crate::kernels::summarise_logits(crate::kernels::Isa::detect(), &[1000.0, 1000.0]);
    assert!((large.log_sum_exp - (1000.0 + 2f64.ln())).abs() < 1e-6);
}
