use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::*;
use crate::error::ErrorKind;
use crate::limit::tests::{request, response};
use crate::{Concurrency, Limited, Limiter};
use evalign_core::{Hint, Usage};

/// Answers with 10 prompt and 5 generated tokens, after a while.
#[derive(Default)]
struct Counting(AtomicU64);

impl Call for Arc<Counting> {
    fn call_aloud<'a>(
        &'a self,
        _: &'a Request,
        _: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            Ok(response())
        })
    }
}

const PRICE: Price = Price { input: 1000.0, cached_input: None, output: 2000.0 };

/// Asks 200 requests, 8 at a time, under a budget; returns how many were sent and how many answered.
fn spend(limits: BudgetLimits, earlier: Spent) -> (u64, u64, Spent) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let server = Arc::new(Counting::default());
        let budget = Arc::new(Budget::new(limits, Some(PRICE), "m").unwrap());
        budget.count_earlier(earlier);
        let limiter = Limiter::new(Concurrency::Fixed(std::num::NonZeroU32::new(8).unwrap()));
        let call = Limited::new(Budgeted::new(server.clone(), budget.clone()), limiter);
        let requests: Vec<Request> = (0..200).map(request).collect();
        let mut answers: FuturesUnordered<_> = requests.iter().map(|request| call.call(request)).collect();
        let mut answered = 0;
        while let Some(result) = answers.next().await {
            match result {
                Ok(_) => answered += 1,
                Err(error) => {
                    assert!(matches!(error, ModelError::BudgetExhausted(_)), "{error}");
                    assert_eq!(error.kind(), ErrorKind::Unavailable);
                }
            }
        }
        (server.0.load(Ordering::SeqCst), answered, budget.spent())
    })
}

#[test]
fn promise_13_a_budget_is_exceeded_by_no_more_than_what_is_in_flight() {
    let none = BudgetLimits::default();
    let (sent, answered, spent) = spend(none, Spent::default());
    assert_eq!((sent, answered, spent.tokens), (200, 200, 3000));

    // Requests are counted before they are sent: no overshoot at all.
    let (sent, answered, spent) = spend(BudgetLimits { requests: Some(50), ..none }, Spent::default());
    assert_eq!((sent, answered, spent.requests), (50, 50, 50));

    // 15 tokens a request: the 20th answer reaches 300, and at most 7 others are in flight then.
    let (sent, answered, spent) = spend(BudgetLimits { tokens: Some(300), ..none }, Spent::default());
    assert!((20..=27).contains(&sent), "{sent} requests sent");
    assert_eq!((answered, spent.tokens), (sent, sent * 15), "what was sent is answered and counted");

    // 10 x 1000 + 5 x 2000 millionths: 0.02 USD a request.
    let (sent, ..) = spend(BudgetLimits { usd: Some(0.4), ..none }, Spent::default());
    assert!((20..=28).contains(&sent), "{sent} requests sent");
}

#[test]
fn promise_13_earlier_sessions_count() {
    let earlier = Spent { requests: 40, tokens: 600, usd: 0.8 };
    let none = BudgetLimits::default();
    assert_eq!(spend(BudgetLimits { requests: Some(50), ..none }, earlier).0, 10);
    assert_eq!(spend(BudgetLimits { tokens: Some(600), ..none }, earlier).0, 0);
    assert_eq!(spend(BudgetLimits { usd: Some(0.8), ..none }, earlier).0, 0);
}

#[test]
fn promise_13_a_budget_that_cannot_be_kept_is_refused() {
    let usd = BudgetLimits { usd: Some(1.0), ..BudgetLimits::default() };
    let error = Budget::new(usd, None, "gpt-x").unwrap_err();
    assert!(error.to_string().contains("gpt-x") && error.hint().unwrap().contains("--prices"), "{error}");

    let tokens = BudgetLimits { tokens: Some(5), ..BudgetLimits::default() };
    let budget = Budget::new(tokens, None, "m").unwrap();
    let error = budget.charge(&Response { usage: None, ..response() }).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.hint().unwrap().contains("--budget-requests"));
}

/// What Azure's filter refuses with a status has no usage, and stops nobody.
#[test]
fn promise_13_a_withheld_answer_or_one_of_no_tokens_is_no_reason_to_stop() {
    let limits = BudgetLimits { tokens: Some(50), usd: Some(1.0), ..BudgetLimits::default() };
    let budget = Budget::new(limits, Some(PRICE), "m").unwrap();
    let text = |finish| Output::Text { text: String::new(), finish, logprobs: None, reasoning: None };
    let withheld = Response { usage: None, output: text(FinishReason::ContentFilter), ..response() };
    budget.charge(&withheld).unwrap();
    budget.charge(&Response { usage: Some(Usage::default()), ..response() }).unwrap();
    assert_eq!(budget.spent(), Spent::default());
    budget.charge(&response()).unwrap();
    assert_eq!(budget.spent().tokens, 15);
    let most = Usage { prompt_tokens: u64::MAX, generated_tokens: 5, ..Usage::default() };
    budget.charge(&Response { usage: Some(most), ..response() }).unwrap();
    assert_eq!(budget.spent().tokens, u64::MAX);
}

/// A judge's tokens are the judge's, and the limit is that of the run.
#[test]
fn models_of_one_run_spend_from_one_budget_at_their_own_prices() {
    let limits = BudgetLimits { usd: Some(0.5), ..BudgetLimits::default() };
    let first = Budget::new(limits, Some(PRICE), "m").unwrap();
    let second =
        first.beside(Some(Price { input: 0.0, cached_input: None, output: 100_000.0 }), "j").unwrap();
    for budget in [&first, &second] {
        budget.admit().unwrap();
        budget.charge(&response()).unwrap();
    }
    // 10 x 0.001 + 5 x 0.002, and 5 x 0.1.
    for budget in [&first, &second] {
        assert!((budget.spent().usd - 0.52).abs() < 1e-12 && budget.spent().requests == 2);
        assert!(matches!(budget.admit(), Err(ModelError::BudgetExhausted(_))));
    }
    let unknown = first.beside(None, "j").unwrap_err();
    assert!(matches!(&unknown, ModelError::Unsupported { model, .. } if model == "j"), "{unknown}");
}
