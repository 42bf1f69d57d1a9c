use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use evalign_core::{
    Dtype, FinishReason, GenerateParams, Hint as _, Message, Output, Prompt, RequestKind, Role,
};
use evalign_model::{Local, LocalOptions, Model as _, ModelError, OverlongPrompt};

use crate::common::{ask, block_on, choices, generation, request, sums, test_model, text};

/// Loaded once, and used by one test at a time.
fn model() -> Option<MutexGuard<'static, Local>> {
    static MODEL: OnceLock<Mutex<Local>> = OnceLock::new();
    let path = test_model()?;
    let model = MODEL.get_or_init(|| Mutex::new(open(&path, OverlongPrompt::Refuse)));
    Some(model.lock().unwrap_or_else(PoisonError::into_inner))
}

fn open(path: &std::path::Path, overlong: OverlongPrompt) -> Local {
    let engine = evalign_lm::LoadOptions { dtype: Some(Dtype::F32), ..Default::default() };
    Local::load(&"local/test".parse().unwrap(), path, &LocalOptions { engine, overlong }).unwrap()
}

fn greedy(max_tokens: u32, stop: &[&str]) -> GenerateParams {
    let stop = stop.iter().map(|text| (*text).to_owned()).collect();
    GenerateParams { max_tokens, stop, ..GenerateParams::default() }
}

#[test]
fn a_mixed_set_is_answered_completely() {
    let Some(model) = model() else { return };
    let chat = Prompt::Chat(vec![Message { role: Role::User, content: "Say hello.".to_owned() }]);
    let kinds = vec![
        choices("The capital of France is", &[" Paris", " Tuesday", " a"]),
        generation("1, 2, 3, 4, 5,", greedy(12, &["9"])),
        RequestKind::Perplexity { text: "The quick brown fox jumps over the lazy dog.".to_owned() },
        choices("", &["The quick brown fox jumps over the lazy dog."]),
        RequestKind::Generate { prompt: chat, params: greedy(40, &[]) },
        generation("x", greedy(0, &[])),
    ];
    let answers = ask(&*model, kinds.clone());
    let scores = sums(answers[0].as_ref().unwrap());
    assert!(scores[0] > scores[1] && scores[0] > scores[2], "{scores:?}");
    let counted = answers[1].as_ref().unwrap();
    assert_eq!(text(counted).trim(), "6, 7, 8,");
    assert!(matches!(counted.output, Output::Text { finish: FinishReason::Stop, .. }));
    let Output::Perplexity { sum, tokens } = answers[2].as_ref().unwrap().output else { panic!() };
    assert_eq!(tokens, 10);
    assert!((sum - sums(answers[3].as_ref().unwrap())[0]).abs() < 1e-3, "{sum} {answers:?}");
    assert!(!text(answers[4].as_ref().unwrap()).is_empty());
    assert!(matches!(answers[5], Err(ModelError::Request(_))));
    for (kind, answer) in kinds.iter().zip(&answers).take(5) {
        assert_eq!(
            model.count_tokens(kind).unwrap().prompt,
            answer.as_ref().unwrap().usage.unwrap().prompt_tokens
        );
    }
    let time = model.timing();
    assert!(time.load > 0.0 && time.prefill > 0.0 && time.decode > 0.0, "{time:?}");
}

#[test]
fn an_answer_does_not_depend_on_its_company() {
    let Some(model) = model() else { return };
    let kinds: Vec<_> = (0..5)
        .map(|n| {
            choices(&format!("Question: what is {n} plus {n}?\nAnswer:"), &[" 4", " ten", " twenty two"])
        })
        .collect();
    let together = ask(&*model, kinds.clone());
    for (kind, answer) in kinds.into_iter().zip(together) {
        let alone = ask(&*model, vec![kind]).remove(0).unwrap();
        assert_eq!(alone.output, answer.unwrap().output);
    }
}

#[test]
fn shared_prompts_are_computed_once() {
    let Some(model) = model() else { return };
    let shared = "The same long introduction stands before each of these questions. ".repeat(4);
    let kinds = (0..8).map(|n| choices(&format!("{shared}Question {n}:"), &[" yes", " no"])).collect();
    let usage: Vec<_> =
        ask(&*model, kinds).into_iter().map(|answer| answer.unwrap().usage.unwrap()).collect();
    let prompt: u64 = usage.iter().map(|usage| usage.prompt_tokens).sum();
    let computed: u64 = usage.iter().map(|usage| usage.computed_prompt_tokens).sum();
    println!("{computed} of {prompt} tokens computed");
    assert!(computed * 8 < prompt, "{computed} of {prompt}");
}

#[test]
fn dropping_the_replies_stops_the_engine() {
    let Some(model) = model() else { return };
    // One short story, and many longer ones that the engine cannot write all at once.
    let story = |n: u64| {
        let tokens = if n == 0 { 1 } else { 12 };
        request(n, generation(&format!("Story number {n}: once upon a time"), greedy(tokens, &[])))
    };
    let mut replies = model.submit((0..1000).map(story).collect());
    assert!(block_on(replies.next()).is_some());
    drop(replies);
    let before = model.timing();
    let start = Instant::now();
    assert!(ask(&*model, vec![choices("a", &[" b"])])[0].is_ok());
    println!("the next submission was answered {:.2} s after the drop", start.elapsed().as_secs_f64());
    let rate = Instant::now();
    assert!(ask(&*model, vec![story(1).kind])[0].is_ok());
    let one = rate.elapsed();
    assert!(start.elapsed() < one * 300, "all 1000 stories were written");
    assert!(model.timing().decode > before.decode, "the time of a cancelled submission counts");
}

/// Nobody waits for the end of a long text that nobody wants: minutes here, if it were written.
#[test]
fn dropping_the_replies_stops_within_a_text() {
    let Some(model) = model() else { return };
    let long = |n| request(n, generation("1, 2, 3, 4, 5,", greedy(8000, &[])));
    let mut replies = model.submit(vec![long(0), long(1)]);
    std::thread::sleep(Duration::from_millis(500));
    let mut context = Context::from_waker(Waker::noop());
    assert!(replies.poll_next(&mut context).is_pending(), "the text was short");
    drop(replies);
    let start = Instant::now();
    assert!(ask(&*model, vec![choices("a", &[" b"])])[0].is_ok());
    assert!(start.elapsed() < Duration::from_secs(20), "answered after {:?}", start.elapsed());
}

#[test]
fn overlong_prompts_are_refused_or_cut() {
    let Some(model) = model() else { return };
    let context = model.context_length().unwrap();
    let long = "word ".repeat(context + 50);
    let error = ask(&*model, vec![choices(&long, &["word"])]).remove(0).unwrap_err();
    assert!(matches!(error, ModelError::TooLong { .. }), "{error}");
    assert!(error.hint().unwrap().contains("shots"));
    let Some(path) = test_model() else { return };
    let cutting = open(&path, OverlongPrompt::CutLeft);
    let count = cutting.count_tokens(&choices(&long, &["word"])).unwrap();
    assert_eq!(count.prompt, context as u64);
}

#[test]
fn a_file_that_is_no_model_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broken.gguf");
    fs_err::write(&path, "GGUF but not really").unwrap();
    let error = Local::load(&"local/test".parse().unwrap(), &path, &LocalOptions::default()).unwrap_err();
    assert!(error.to_string().contains("broken.gguf"), "{error}");
}

/// Not a benchmark with a threshold: prints what turning long prompts into tokens costs.
#[test]
fn long_prompts_are_encoded() {
    let Some(model) = model() else { return };
    let shots =
        "Question: which of these is a prime number?\nA. 4\nB. 6\nC. 7\nD. 9\nAnswer: C\n\n".repeat(35);
    let kinds: Vec<_> = (0..100)
        .map(|n| {
            choices(&format!("{shots}Question {n}: and which is not?\nAnswer:"), &[" A", " B", " C", " D"])
        })
        .collect();
    let start = Instant::now();
    let tokens: u64 = kinds.iter().map(|kind| model.count_tokens(kind).unwrap().prompt).sum();
    let each = start.elapsed() / 100;
    println!("{} characters, {} tokens: {each:?} for each request of 4 choices", shots.len(), tokens / 400);
    assert!(tokens > 100_000);
}
