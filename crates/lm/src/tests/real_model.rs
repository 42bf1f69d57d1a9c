//! SmolLM2-135M-Instruct, from its GGUF file.

use evalign_core::{Dtype, GenerateParams};
use serde_json::Value;

use super::tiny;
use crate::{ChoiceScore, GenerateItem, LanguageModel, LmError, LoadOptions, ScoreItem};

fn load(dtype: Dtype, memory_bytes: Option<u64>) -> Option<LanguageModel> {
    let path = tiny::real_model()?;
    Some(
        LanguageModel::load(&path, &LoadOptions { dtype: Some(dtype), memory_bytes, ..Default::default() })
            .unwrap(),
    )
}

fn choices(model: &LanguageModel, items: &[ScoreItem]) -> Vec<Vec<ChoiceScore>> {
    let results = tiny::results(items.len(), |on_event| model.log_likelihoods(items, on_event));
    results.into_iter().map(|result| result.unwrap().choices).collect()
}

/// Sixteen questions after one long beginning, with continuations of several lengths.
fn requests(model: &LanguageModel) -> Vec<ScoreItem> {
    let encode = |text: &str| model.tokenizer().encode(text, false).unwrap();
    let beginning = "The following are questions about the world, each with its answer.\n\n".repeat(6);
    (0..16)
        .map(|i| ScoreItem {
            context: encode(&format!("{beginning}Question {i}: what is {i} plus {i}?\nAnswer:")),
            continuations: vec![
                encode(&format!(" {}", i + i)),
                encode(" I do not know, ask somebody else."),
                encode(" A"),
            ],
        })
        .collect()
}

#[test]
fn bits_do_not_depend_on_batch_prefix_sharing_or_budget() {
    for dtype in [Dtype::F32, Dtype::Q] {
        let Some(model) = load(dtype, None) else { return };
        let items = requests(&model);
        let together = choices(&model, &items);
        for (index, item) in items.iter().enumerate().step_by(5) {
            assert_eq!(choices(&model, std::slice::from_ref(item))[0], together[index], "{dtype:?} {index}");
        }
        drop(model);
        let Some(cramped) = load(dtype, Some(24 << 20)) else { return };
        assert_eq!(choices(&cramped, &items), together);
    }
}

#[test]
fn greedy_text_is_the_references() {
    let Some(shared) = evalign_testkit::shared("greedy_text_is_the_references") else { return };
    let Some(model) = load(Dtype::F32, None) else { return };
    let rows = fs_err::read_to_string(shared.join("golden/lm-eval/gsm8k_5shot.jsonl")).unwrap();
    // Two short answers keep the test short; the whole file is checked end to end elsewhere.
    let rows = rows.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    for row in rows.filter(|row| row["generation"].as_str().is_some_and(|text| text.len() < 60)).take(2) {
        let expected = row["generation"].as_str().unwrap();
        let params = GenerateParams {
            stop: ["Question:", "</s>", "<|im_end|>"].map(str::to_owned).to_vec(),
            ..GenerateParams::default()
        };
        let prompt = model.tokenizer().encode(row["prompt"].as_str().unwrap(), false).unwrap();
        let item = GenerateItem { prompt, params, stop_ids: model.tokenizer().eos_ids().to_vec() };
        let output = tiny::results(1, |on_event| model.generate(&[item], on_event)).remove(0).unwrap();
        assert_eq!(output.text, expected);
    }
}

#[test]
fn perplexity_windows_add_up() {
    let Some(model) = load(Dtype::F32, None) else { return };
    let text = model.tokenizer().encode("Water boils at a lower temperature on a mountain.", false).unwrap();
    let prefix = model.tokenizer().bos().or(model.tokenizer().eos()).unwrap();
    // The second text has a token that no model knows, and is refused alone.
    let texts = [text.clone(), [text.as_slice(), &[u32::MAX]].concat()];
    let mut results = tiny::results(2, |on_event| model.perplexities(&texts, prefix, on_event));
    assert!(matches!(results.pop(), Some(Err(LmError::Request(_)))));
    let output = results.remove(0).unwrap();
    assert_eq!(output.tokens, text.len() as u64);
    let sum = output.sum;
    let item = ScoreItem { context: vec![prefix], continuations: vec![text] };
    assert_eq!(choices(&model, &[item])[0][0].sum.to_bits(), sum.to_bits());
    assert!((-80.0..-20.0).contains(&sum), "{sum}");
}
