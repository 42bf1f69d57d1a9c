//! The embedded default model as a judge. It is a small one: that its verdicts can be read is what is tested here, not
//! that they are wise.

use std::sync::Arc;
use std::time::Instant;

use evalign_core::{
    AnswerForm, Dtype, GenerateParams, Message, Prompt, Request, RequestKind, Role, SampleKey,
};
use evalign_judge::{Judge, JudgeOptions, Material, Prompts, Rubric, Unscored, score_all};
use evalign_model::{LoadOptions, Model, load};
use futures::executor::block_on;

/// Verdicts held to the form, and free ones: those run to the last token that they may have, each as long as twenty of
/// the others. Every run of the tests asks for a few; what is promised of five hundred is asked for by hand.
const A_FEW: (usize, usize) = (32, 6);
const ALL: (usize, usize) = (500, 40);

/// Sequences whose decoding is timed.
const TIMED: u64 = 32;

/// With the weights as the file has them: decoding is what takes the time here.
fn load_model(test: &str) -> Option<Arc<dyn Model>> {
    let path = evalign_testkit::real_model(test)?;
    let reference = format!("local/{}", path.display()).parse().unwrap();
    let options = LoadOptions { dtype: Some(Dtype::Q), ..LoadOptions::default() };
    Some(load(&reference, &options, &|_| {}).unwrap())
}

fn judge(model: Arc<dyn Model>, constrained: bool) -> Judge {
    let rubric = Rubric::find("helpfulness", &[]).unwrap();
    let options =
        JudgeOptions { explanation_tokens: Some(4), retries: 0, constrained, ..JudgeOptions::default() };
    Judge::new(model, rubric, Arc::new(Prompts::load(&[]).unwrap()), options).unwrap()
}

fn material(count: usize) -> Vec<(String, String)> {
    let row = |i: usize| {
        let (a, b) = (i % 23 + 2, i % 31 + 3);
        let right = a * b + usize::from(i.is_multiple_of(3));
        (format!("What is {a} times {b}?"), format!("It is {right}."))
    };
    (0..count).map(row).collect()
}

/// Verdicts that can be read, of so many, why others cannot, and the scores.
fn readable(judge: &Judge, count: usize) -> (usize, Vec<Unscored>, Vec<f64>) {
    let rows = material(count);
    let answers: Vec<(Material<'_>, &str)> = rows
        .iter()
        .map(|(prompt, answer)| (Material { prompt, ..Material::default() }, answer.as_str()))
        .collect();
    let verdicts = block_on(score_all(judge, &answers)).unwrap();
    let scores =
        verdicts.iter().filter_map(|verdict| verdict.as_ref().ok()).map(|judged| judged.score).collect();
    let reasons: Vec<Unscored> = verdicts.into_iter().filter_map(Result::err).collect();
    let unread = reasons.iter().filter(|reason| **reason != Unscored::Abstained).count();
    (count - unread, reasons, scores)
}

#[test]
fn every_constrained_verdict_can_be_read_and_fewer_free_ones() {
    let Some(model) = load_model("every_constrained_verdict_can_be_read_and_fewer_free_ones") else { return };
    println!("{}", every_one_can_be_read(&model, A_FEW));
}

#[test]
#[ignore = "takes minutes"]
fn five_hundred_of_five_hundred_constrained_verdicts_can_be_read() {
    let test = "five_hundred_of_five_hundred_constrained_verdicts_can_be_read";
    let Some(model) = load_model(test) else { return };
    println!("{}", every_one_can_be_read(&model, ALL));
}

fn every_one_can_be_read(model: &Arc<dyn Model>, (count, free_count): (usize, usize)) -> String {
    let (constrained, reasons, scores) = readable(&judge(model.clone(), true), count);
    assert_eq!(constrained, count, "{reasons:?}");
    assert!(scores.iter().any(|score| score.fract() != 0.0), "scores are expected values: {scores:?}");
    let (free, _, _) = readable(&judge(model.clone(), false), free_count);
    assert!(free < free_count, "{free}");
    format!("{constrained} of {count} verdicts held to the form can be read, {free} of {free_count} told it")
}

/// Decode seconds of sequences of about 64 tokens, with and without a form.
#[test]
#[ignore = "measures time: needs a quiet machine"]
fn holding_to_a_form_costs_less_than_a_tenth_of_decoding() {
    let Some(model) = load_model("holding_to_a_form_costs_less_than_a_tenth_of_decoding") else { return };
    let format = Rubric::find("helpfulness", &[]).unwrap().pointwise_format(Some(64));
    let seconds = |constrained: bool| {
        let request = |doc: u64| {
            let content = format!("Write about the number {doc} in one long sentence without quotes.");
            let params = GenerateParams {
                max_tokens: if constrained { format.max_tokens() } else { 64 },
                temperature: 1.0,
                seed: doc,
                logprobs: true,
                form: constrained.then(|| AnswerForm::Fields(format.clone())),
                ..GenerateParams::default()
            };
            let prompt = Prompt::Chat(vec![Message { role: Role::User, content }]);
            let key = SampleKey { task: "t".to_owned(), doc, repeat: 0 };
            Request { key, kind: RequestKind::Generate { prompt, params } }
        };
        let before = model.timing().decode;
        let started = Instant::now();
        let mut replies = model.submit((0..TIMED).map(request).collect());
        let mut tokens = 0;
        while let Some((_, answer)) = block_on(replies.next()) {
            tokens += answer.unwrap().usage.unwrap().generated_tokens;
        }
        let decode = model.timing().decode - before;
        println!(
            "constrained {constrained}: {tokens} tokens, {decode:.3} s decoding, {:.3} ms a token, {:.3} s in all",
            decode / tokens as f64 * 1000.0,
            started.elapsed().as_secs_f64()
        );
        decode / tokens as f64
    };
    seconds(true);
    let free = seconds(false).min(seconds(false));
    let held = seconds(true).min(seconds(true));
    println!("overhead {:.1} %", (held / free - 1.0) * 100.0);
    assert!(held < 1.1 * free);
}
