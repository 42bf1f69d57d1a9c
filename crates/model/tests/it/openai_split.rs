//! Likelihoods on servers that take one prompt in a request: each request is one call, counted, limited and
//! asked again for itself.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use evalign_core::{Response, Spent};
use evalign_model::{
    Budget, BudgetLimits, Concurrency, ErrorKind, LoadOptions, Model, ModelError, Needs, OpenAiOptions,
    RetryPolicy, load,
};
use evalign_testkit::openai_server::{
    Behaviour, Capabilities, ErrorBody, Fault, Requests, ScriptedServer, What, When,
};

use crate::common::{ask, choices, sums};
use crate::openai::options;

const OPTIONS: [&str; 4] = [" one", " two", " three", " four"];

fn server(many_prompts: bool) -> Behaviour {
    let capabilities = Capabilities { many_prompts, ..Capabilities::default() };
    Behaviour { capabilities, ..Behaviour::default() }
}

fn loaded(server: &ScriptedServer, limits: BudgetLimits, attempts: u32) -> (Arc<dyn Model>, Arc<Budget>) {
    let budget = Arc::new(Budget::new(limits, None, "scripted").unwrap());
    let needs = Needs { chat: false, ..Needs::default() };
    let options = LoadOptions {
        openai: OpenAiOptions { needs, ..options(server) },
        concurrency: Concurrency::Fixed(NonZeroU32::new(3).unwrap()),
        retry: RetryPolicy { attempts, base: Duration::from_millis(1), ..RetryPolicy::default() },
        budget: Some(budget.clone()),
        ..LoadOptions::default()
    };
    (load(&"openai/scripted".parse().unwrap(), &options, &|_| ()).unwrap(), budget)
}

fn asked(server: &ScriptedServer) -> Requests {
    server.requests().only(|entry| entry.text.contains("Question"))
}

fn questions(model: &dyn Model, count: usize) -> Vec<Result<Response, ModelError>> {
    let question = |n| choices(&format!("Question {n}:"), &OPTIONS);
    ask(model, (0..count).map(question).collect())
}

#[test]
fn likelihoods_are_the_same_however_they_are_asked_for() {
    let [together, apart] = [true, false].map(|many_prompts| {
        let server = ScriptedServer::start(Behaviour { latency_ms: 2.0, ..server(many_prompts) });
        let (model, budget) = loaded(&server, BudgetLimits::default(), 1);
        let answers = questions(&*model, 5);
        let numbers: Vec<_> = answers.iter().map(|answer| sums(answer.as_ref().unwrap())).collect();
        let tokens: Vec<_> = answers.iter().map(|answer| answer.as_ref().unwrap().usage).collect();
        let attempts: u32 = answers.into_iter().map(|a| a.unwrap().latency.unwrap().attempts).sum();
        let requests = asked(&server);
        assert_eq!(
            (requests.len() as u64, u64::from(attempts)),
            (budget.spent().requests, budget.spent().requests)
        );
        assert_eq!(requests.len(), if many_prompts { 5 } else { 20 });
        assert!(server.requests().max_in_flight <= 3, "the limit is about requests");
        (numbers, tokens)
    });
    assert_eq!(together, apart);
}

#[test]
fn promise_13_a_budget_counts_each_request() {
    let server = ScriptedServer::start(server(false));
    let limits = BudgetLimits { requests: Some(6), ..BudgetLimits::default() };
    let (model, budget) = loaded(&server, limits, 1);
    let answers = questions(&*model, 10);
    assert_eq!(asked(&server).len(), 6, "requests are not gone over at all");
    assert_eq!(budget.spent().requests, 6);
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    let exhausted = |a: &&Result<_, ModelError>| matches!(a, Err(ModelError::BudgetExhausted(_)));
    assert_eq!(answers.iter().filter(exhausted).count(), 9, "what is not asked is no failure");
}

#[test]
fn promise_10_a_failing_choice_is_asked_again_alone_and_what_was_answered_is_paid_for() {
    let what =
        What::Status { status: 503, retry_after: None, code: None, message: None, body: ErrorBody::OpenAi };
    let failing = Fault { when: When::text("Question 0: three"), what };
    let server = ScriptedServer::start(server(false).fault(failing));
    let (model, budget) = loaded(&server, BudgetLimits::default(), 3);
    let answers = questions(&*model, 1);
    let error = answers[0].as_ref().unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (ErrorKind::Retryable, 6));
    assert_eq!(asked(&server).len(), 6, "three once, one three times");
    assert!(asked(&server).by_content().values().all(|count| *count == 1 || *count == 3));
    // "Question 0: one" and so on are three words, and one is generated.
    assert_eq!(budget.spent(), Spent { requests: 6, tokens: 3 * 4, usd: 0.0 });
}
