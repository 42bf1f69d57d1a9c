use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use evalign_core::{
    Digest, FinishReason, GenerateParams, Message, ModelIdentity, Output, Prompt, Request, RequestKind,
    Response, Role, Seconds, Usage,
};
use evalign_model::{Cached, Capabilities, MemoryCache, Model, Replies, TokenCount, cache_key};
use serde_json::json;

use crate::common::{ask, choices, generation, scripted};

fn identity() -> ModelIdentity {
    ModelIdentity {
        reference: "local/model".parse().unwrap(),
        weights: Digest::of("weights"),
        tokenizer: Digest::of("tokenizer"),
        chat_template: Some(Digest::of("template")),
        adapter: None,
        trained_on: None,
        dtype: "f32".to_owned(),
        device: "cpu".to_owned(),
    }
}

fn chat(role: Role, content: &str) -> RequestKind {
    let prompt = Prompt::Chat(vec![Message { role, content: content.to_owned() }]);
    RequestKind::Generate { prompt, params: GenerateParams::default() }
}

#[test]
fn keys_differ_by_everything_that_can_change_an_answer() {
    let base = identity();
    let models = [
        base.clone(),
        ModelIdentity { weights: Digest::of("other"), ..base.clone() },
        ModelIdentity { tokenizer: Digest::of("other"), ..base.clone() },
        ModelIdentity { chat_template: Some(Digest::of("other")), ..base.clone() },
        ModelIdentity { adapter: Some(Digest::of("adapter")), ..base.clone() },
        ModelIdentity { dtype: "bf16".to_owned(), ..base.clone() },
        ModelIdentity { device: "cuda:0".to_owned(), ..base.clone() },
        ModelIdentity { reference: "scripted/model".parse().unwrap(), ..base.clone() },
    ];
    let drawn = GenerateParams { temperature: 0.5, ..GenerateParams::default() };
    let requests = [
        choices("a", &[" b"]),
        choices("a", &[" b", " c"]),
        choices("a", &[" c", " b"]),
        choices("a b", &[""]),
        RequestKind::Perplexity { text: "a".to_owned() },
        chat(Role::User, "a"),
        chat(Role::System, "a"),
        generation("a", GenerateParams::default()),
        generation("a", GenerateParams { max_tokens: 1, ..GenerateParams::default() }),
        generation("a", GenerateParams { stop: vec!["x".to_owned()], ..GenerateParams::default() }),
        generation("a", GenerateParams { logprobs: true, ..GenerateParams::default() }),
        generation("a", GenerateParams { repetition_penalty: Some(1.1), ..GenerateParams::default() }),
        generation("a", drawn.clone()),
        generation("a", GenerateParams { seed: 1, ..drawn.clone() }),
        generation("a", GenerateParams { top_p: Some(0.9), ..drawn.clone() }),
        generation("a", GenerateParams { top_k: Some(9), ..drawn.clone() }),
        generation("a", GenerateParams { min_p: Some(0.1), ..drawn.clone() }),
        generation("a", GenerateParams { temperature: 0.6, ..drawn }),
    ];
    let mut keys = BTreeSet::new();
    for (m, model) in models.iter().enumerate() {
        for (r, request) in requests.iter().enumerate() {
            let fresh = keys.insert(cache_key(model, None, request));
            // Only a conversation meets the chat template.
            let expected = m != 3 || matches!(r, 5 | 6);
            assert_eq!(fresh, expected, "model {m}, request {r}");
        }
    }
}

#[test]
fn keys_ignore_what_cannot_change_an_answer() {
    let base = cache_key(&identity(), None, &generation("a", GenerateParams::default()));
    let greedy = GenerateParams {
        seed: 7,
        top_p: Some(0.5),
        top_k: Some(3),
        min_p: Some(0.1),
        ..GenerateParams::default()
    };
    assert_eq!(base, cache_key(&identity(), None, &generation("a", greedy)));
    let renamed = ModelIdentity { reference: "local/other/path.gguf".parse().unwrap(), ..identity() };
    assert_eq!(base, cache_key(&renamed, None, &generation("a", GenerateParams::default())));
}

/// A template that shows the date makes another prompt of a conversation every day.
#[test]
fn keys_of_conversations_know_the_day() {
    let key = |clock: Option<&str>, kind: &RequestKind| {
        cache_key(&identity(), clock.map(|time| time.parse().unwrap()), kind)
    };
    let (one, other) = (Some("2025-03-07T00:00:00"), Some("2025-03-08T00:00:00"));
    let conversation = chat(Role::User, "a");
    assert_ne!(key(one, &conversation), key(other, &conversation));
    assert_ne!(key(one, &conversation), key(None, &conversation));
    assert_eq!(key(one, &choices("a", &[" b"])), key(other, &choices("a", &[" b"])));
}

#[test]
fn what_was_answered_is_not_asked_again() {
    let cache = Arc::new(MemoryCache::default());
    let (dir, model) = scripted(&json!({"count_file": "asked.txt", "fault": {"every": 5}}));
    let asked = || fs_err::read_to_string(dir.path().join("asked.txt")).unwrap().lines().count();
    let model = Cached::new(model, cache.clone());
    let kinds =
        |count: u32| (0..count).map(|n| choices(&format!("question {n}"), &[" A", " B"])).collect::<Vec<_>>();
    let first = ask(&model, kinds(40));
    assert_eq!(asked(), 40);
    let failed = first.iter().filter(|answer| answer.is_err()).count();
    assert!(failed > 0);

    let second = ask(&model, kinds(60));
    assert_eq!(asked(), 40 + 20 + failed, "failures are asked again, answers are not");
    for (before, after) in first.iter().zip(&second) {
        match (before, after) {
            (Ok(before), Ok(after)) => {
                assert_eq!(before.output, after.output);
                assert!(!before.cached && after.cached);
                assert_eq!(after.usage.unwrap().computed_prompt_tokens, 0);
                assert_eq!(after.usage.unwrap().prompt_tokens, before.usage.unwrap().prompt_tokens);
            }
            (Err(_), Err(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(second[40..].iter().flatten().all(|answer| !answer.cached));
}

#[test]
fn a_model_never_gets_the_answers_of_another() {
    let cache = Arc::new(MemoryCache::default());
    let kinds = || vec![choices("question", &[" A", " B"])];
    let (_one_dir, one) = scripted(&json!({"seed": 1}));
    let (_two_dir, two) = scripted(&json!({"seed": 2}));
    let alone = ask(&two, kinds()).remove(0).unwrap();
    ask(&Cached::new(one, cache.clone()), kinds());
    let beside = ask(&Cached::new(two, cache), kinds()).remove(0).unwrap();
    assert_eq!(alone, beside);
}

#[test]
fn a_shared_model_can_be_decorated() {
    let (_dir, model) = scripted(&json!({}));
    let shared: Arc<dyn evalign_model::Model> = Arc::new(model);
    let cached = Cached::new(shared.clone(), Arc::new(MemoryCache::default()));
    assert_eq!(cached.identity(), shared.identity());
    assert_eq!(cached.capabilities(), shared.capabilities());
    let kind = choices("a b c", &[" d"]);
    assert_eq!(cached.count_tokens(&kind), shared.count_tokens(&kind));
}

/// Has a context of 100 tokens, gives the same answer to everything and counts how often.
struct Constant {
    identity: ModelIdentity,
    answer: Response,
    asked: AtomicUsize,
}

impl Model for Constant {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn context_length(&self) -> Option<usize> {
        Some(100)
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities::ALL
    }

    fn count_tokens(&self, _: &RequestKind) -> Option<TokenCount> {
        None
    }

    fn render(&self, _: &Prompt) -> Option<String> {
        None
    }

    fn submit(&self, requests: Vec<Request>) -> Replies {
        self.asked.fetch_add(requests.len(), Ordering::Relaxed);
        let (_, replies) = Replies::channel();
        let answers: Vec<_> = (0..requests.len()).map(|index| (index, Ok(self.answer.clone()))).collect();
        replies.preceded_by(answers)
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }
}

/// Whether the answer to this request, with so many tokens in its prompt and so many cut, is kept.
fn is_kept(kind: &RequestKind, prompt_tokens: u64, truncated_tokens: u64) -> bool {
    let output =
        Output::Text { text: "x".to_owned(), finish: FinishReason::Stop, logprobs: None, reasoning: None };
    let usage = Usage { prompt_tokens, ..Usage::default() };
    let answer = Response { output, usage: Some(usage), truncated_tokens, cached: false, latency: None };
    let model = Arc::new(Constant { identity: identity(), answer, asked: AtomicUsize::new(0) });
    let cached = Cached::new(model.clone(), Arc::new(MemoryCache::default()));
    for _ in 0..2 {
        assert!(ask(&cached, vec![kind.clone()])[0].is_ok());
    }
    model.asked.load(Ordering::Relaxed) == 1
}

/// `--compat lm-eval` cuts a prompt so that the whole answer has room, the default answers with what room
/// there is: the same request, so only what both would answer alike may be kept.
#[test]
fn answers_that_depend_on_the_rule_for_long_prompts_are_not_kept() {
    let text = generation("a", GenerateParams { max_tokens: 40, ..GenerateParams::default() });
    assert!(is_kept(&text, 60, 0));
    assert!(!is_kept(&text, 61, 0), "another rule would have cut this prompt");
    assert!(!is_kept(&text, 60, 1), "this prompt was cut");
    // Four choices of 90 tokens each are 360 tokens, and fit.
    for kind in [choices("a", &[" b", " c", " d", " e"]), RequestKind::Perplexity { text: "a".to_owned() }] {
        assert!(is_kept(&kind, 360, 0));
        assert!(!is_kept(&kind, 360, 1), "cut");
    }
}
