use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use evalign_core::{FinishReason, GenerateParams, Hint as _, Message, Output, Prompt, RequestKind, Role};
use evalign_model::{ErrorKind, Model as _, ModelError, Scripted};
use serde_json::json;

use crate::common::{ask, block_on, choices, generation, request, scripted, sums, text};

#[test]
fn answers_depend_on_the_request_and_the_seed_only() {
    let questions = || {
        let mut kinds: Vec<_> = (0..50).map(|n| choices(&format!("question {n}"), &[" A", " B"])).collect();
        kinds.extend((0..50).map(|n| generation(&format!("question {n}"), GenerateParams::default())));
        kinds.push(RequestKind::Perplexity { text: "some words here".to_owned() });
        kinds
    };
    let answers = |script| -> Vec<_> {
        let (_dir, model) = scripted(&script);
        ask(&model, questions()).into_iter().map(|answer| answer.unwrap()).collect()
    };
    let one = answers(json!({"seed": 1}));
    assert_eq!(one, answers(json!({"seed": 1, "concurrency": 16, "delay_ms": 1})));
    assert_ne!(one, answers(json!({"seed": 2})));
    let distinct: BTreeSet<_> = one.iter().map(|answer| format!("{:?}", answer.output)).collect();
    assert!(distinct.len() > 90);
}

#[test]
fn identity_is_what_decides_the_answers() {
    let weights = |script| scripted(&script).1.identity().weights.clone();
    let one = weights(json!({"seed": 1}));
    assert_eq!(one, weights(json!({"seed": 1, "delay_ms": 3, "concurrency": 2, "count_file": "x"})));
    assert_ne!(one, weights(json!({"seed": 2})));
    assert_ne!(one, weights(json!({"seed": 1, "rules": [{"match": "a", "text": "b"}]})));
}

#[test]
fn text_is_drawn_by_seed_only_above_temperature_zero() {
    let (_dir, model) = scripted(&json!({}));
    let with = |temperature, seed| {
        generation("q", GenerateParams { temperature, seed, ..GenerateParams::default() })
    };
    let answers = ask(&model, vec![with(0.0, 1), with(0.0, 2), with(0.7, 1), with(0.7, 2), with(0.7, 1)]);
    let texts: Vec<&str> = answers.iter().map(|answer| text(answer.as_ref().unwrap())).collect();
    assert_eq!(texts[0], texts[1]);
    assert_ne!(texts[2], texts[3]);
    assert_eq!(texts[2], texts[4]);
    assert!(texts[0].contains("The answer is ") && texts[0].contains("\n#### "));
}

#[test]
fn rules_decide_before_chance() {
    let (_dir, model) = scripted(&json!({"rules": [
        {"match": "France", "text": "Paris Lyon STOP Nice"},
        {"match": "pick", "log_likelihoods": [-3.0, -0.5]},
        {"match": "broken", "error": "no such luck"},
        {"match": "busy", "error": "come back", "kind": "temporary"},
    ]}));
    let stop = GenerateParams { stop: vec!["STOP".to_owned()], logprobs: true, ..GenerateParams::default() };
    let short = GenerateParams { max_tokens: 1, ..GenerateParams::default() };
    let chat = Prompt::Chat(vec![Message { role: Role::User, content: "Capital of France?".to_owned() }]);
    let answers = ask(
        &model,
        vec![
            generation("capital of France", stop),
            RequestKind::Generate { prompt: chat, params: short },
            choices("pick one", &[" A", " B"]),
            choices("pick one", &[" A", " B", " C"]),
            choices("broken", &[" A"]),
            generation("busy", GenerateParams::default()),
        ],
    );
    let first = answers[0].as_ref().unwrap();
    assert_eq!(text(first), "Paris Lyon ");
    assert!(matches!(&first.output, Output::Text { logprobs: Some(l), .. } if l.len() == 2));
    let second = answers[1].as_ref().unwrap();
    assert!(
        matches!(&second.output, Output::Text { text, finish: FinishReason::Length, .. } if text == "Paris ")
    );
    assert_eq!(sums(answers[2].as_ref().unwrap()), [-3.0, -0.5]);
    let kinds: Vec<_> = answers[3..].iter().map(|answer| answer.as_ref().unwrap_err().kind()).collect();
    assert_eq!(kinds, [ErrorKind::Permanent, ErrorKind::Permanent, ErrorKind::Retryable]);
}

#[test]
fn faults_hit_the_same_requests_every_time() {
    let kinds = || (0..200).map(|n| choices(&format!("question {n}"), &[" A"])).collect::<Vec<_>>();
    let failed = |script: &serde_json::Value| -> Vec<usize> {
        let (_dir, model) = scripted(script);
        let answers = ask(&model, kinds());
        answers.iter().enumerate().filter(|(_, answer)| answer.is_err()).map(|(index, _)| index).collect()
    };
    let once = failed(&json!({"fault": {"every": 10}}));
    assert!((5..40).contains(&once.len()), "{}", once.len());
    assert_eq!(once, failed(&json!({"fault": {"every": 10}, "concurrency": 8})));

    let script = json!({"fault": {"every": 10, "kind": "temporary"}, "count_file": "asked.txt"});
    let (dir, model) = scripted(&script);
    assert!(ask(&model, kinds()).iter().all(Result::is_ok), "a temporary fault passes");
    let asked = fs_err::read_to_string(dir.path().join("asked.txt")).unwrap();
    assert_eq!(asked.lines().count(), 200 + once.len(), "and is asked about once more");
}

#[test]
fn every_request_is_counted_when_it_is_issued() {
    let (dir, model) = scripted(&json!({"count_file": "asked.txt", "concurrency": 4}));
    let kinds = || (0..100).map(|n| choices(&format!("question {n}"), &[" A"])).collect::<Vec<_>>();
    ask(&model, kinds());
    ask(&model, kinds());
    let asked = fs_err::read_to_string(dir.path().join("asked.txt")).unwrap();
    assert_eq!(asked.lines().count(), 200);
    assert_eq!(asked.lines().collect::<BTreeSet<_>>().len(), 100);
}

#[test]
fn dropping_the_replies_cancels_the_rest() {
    let (dir, model) = scripted(&json!({"count_file": "asked.txt", "delay_ms": 5, "concurrency": 2}));
    let requests = (0..1000).map(|n| request(n, choices(&format!("question {n}"), &[" A"]))).collect();
    let mut replies = model.submit(requests);
    block_on(async {
        for _ in 0..4 {
            assert!(replies.next().await.is_some());
        }
    });
    drop(replies);
    let asked = || fs_err::read_to_string(dir.path().join("asked.txt")).unwrap().lines().count();
    std::thread::sleep(Duration::from_millis(100));
    let after = asked();
    assert!(after < 100, "{after}");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(asked(), after);
}

#[test]
fn concurrency_is_a_limit_and_is_used() {
    let (_dir, model) = scripted(&json!({"delay_ms": 20, "concurrency": 8}));
    let start = Instant::now();
    ask(&model, (0..16).map(|n| choices(&format!("question {n}"), &[" A"])).collect());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(40), "more than 8 at a time: {took:?}");
    assert!(took < Duration::from_millis(16 * 20), "one after the other: {took:?}");
}

#[test]
fn a_prompt_beyond_the_context_is_refused() {
    let (_dir, model) = scripted(&json!({"context_length": 5}));
    let answers = ask(&model, vec![choices("one two three four", &[" A"]), choices("1 2 3 4 5", &[" A"])]);
    assert!(answers[0].is_ok());
    assert!(matches!(answers[1], Err(ModelError::TooLong { tokens: 6, context: 5 })));
}

#[test]
fn bad_scripts_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("script.json");
    let error = |text: &str| {
        fs_err::write(&path, text).unwrap();
        Scripted::load(&path).unwrap_err()
    };
    assert!(error("{\"sed\": 1}").to_string().contains("unknown field `sed`"));
    assert!(error("{\"rules\": [{\"match\": \"a\"}]}").to_string().contains("rule 0"));
    assert!(error("{\"concurrency\": 0}").to_string().contains("concurrency"));
    assert!(error("[").hint().unwrap().contains("JSON object"));
    let missing = Scripted::load(&dir.path().join("absent.json")).unwrap_err();
    assert!(missing.to_string().contains("absent.json"));
}
