use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use super::*;
use crate::error::{ServerError, TransportFailure};
use crate::limit::tests::{request, response};
use crate::{Concurrency, Limited, Limiter};

/// Fails as told, then answers; notes when it was asked.
struct Failing {
    failures: Mutex<VecDeque<ModelError>>,
    asked_at: Mutex<Vec<Instant>>,
}

impl Failing {
    fn new(failures: Vec<ModelError>) -> Arc<Self> {
        Arc::new(Self { failures: Mutex::new(failures.into()), asked_at: Mutex::default() })
    }

    fn waits(&self) -> Vec<Duration> {
        self.asked_at.lock().unwrap().windows(2).map(|pair| pair[1] - pair[0]).collect()
    }
}

impl Call for Arc<Failing> {
    fn call_aloud<'a>(
        &'a self,
        _: &'a Request,
        _: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            self.asked_at.lock().unwrap().push(Instant::now());
            match self.failures.lock().unwrap().pop_front() {
                Some(error) => Err(error),
                None => {
                    let latency = evalign_core::Latency { total_ms: 1.0, first_token_ms: None, attempts: 1 };
                    Ok(Response { latency: Some(latency), ..response() })
                }
            }
        })
    }
}

fn server(status: u16, kind: ErrorKind, retry_after: Option<u64>) -> ModelError {
    ModelError::from(ServerError {
        server: "test".to_owned(),
        status,
        code: None,
        message: "no".to_owned(),
        retry_after: retry_after.map(Duration::from_secs),
        kind,
        unknown_model: false,
        hint: None,
    })
}

fn transport(failure: TransportFailure) -> ModelError {
    ModelError::Transport { server: "test".to_owned(), failure, detail: "broken".to_owned() }
}

const POLICY: RetryPolicy = RetryPolicy {
    attempts: 6,
    base: Duration::from_millis(500),
    cap: Duration::from_secs(4),
    retry_after_cap: Duration::from_secs(60),
};

fn paused<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

fn ask(server: &Arc<Failing>, seed: u64) -> Result<Response, ModelError> {
    let call = Retrying::new(server.clone(), POLICY, Jitter::seeded(seed));
    paused(call.call(&request(0)))
}

#[test]
fn promise_9_what_passes_is_asked_again_and_what_does_not_is_not() {
    let passing = [
        server(408, ErrorKind::Retryable, None),
        server(409, ErrorKind::Retryable, None),
        server(429, ErrorKind::Retryable, None),
        server(500, ErrorKind::Retryable, None),
        server(503, ErrorKind::Retryable, None),
        transport(TransportFailure::Connect),
        transport(TransportFailure::Timeout),
        transport(TransportFailure::Reset),
        transport(TransportFailure::Truncated),
        transport(TransportFailure::Malformed),
    ];
    for error in passing {
        let failing = Failing::new(vec![error.clone(), error.clone()]);
        let response = ask(&failing, 1).unwrap_or_else(|failed| panic!("{error}: {failed}"));
        assert_eq!(response.latency.unwrap().attempts, 3, "{error}");
    }
    let lasting = [
        server(400, ErrorKind::Permanent, None),
        server(422, ErrorKind::Permanent, None),
        server(401, ErrorKind::Unavailable, None),
        server(403, ErrorKind::Unavailable, None),
        server(404, ErrorKind::Unavailable, None),
        server(429, ErrorKind::Unavailable, Some(1)), // insufficient_quota
        ModelError::BudgetExhausted("all".to_owned()),
    ];
    for error in lasting {
        let failing = Failing::new(vec![error.clone()]);
        let failed = ask(&failing, 1).unwrap_err();
        assert_eq!(failed.to_string(), error.to_string());
        assert_eq!(failing.asked_at.lock().unwrap().len(), 1, "{error}");
    }
}

#[test]
fn promise_9_waits_are_drawn_up_to_a_bound_that_doubles() {
    let mut longest = [Duration::ZERO; 5];
    let mut sum = Duration::ZERO;
    for seed in 0..300 {
        let failing = Failing::new(vec![server(500, ErrorKind::Retryable, None); 5]);
        assert!(ask(&failing, seed).is_ok());
        for (index, wait) in failing.waits().into_iter().enumerate() {
            longest[index] = longest[index].max(wait);
            sum += wait;
        }
    }
    // 0.5, 1, 2, 4 and, capped, 4 seconds; the clock of the test counts whole milliseconds.
    for (bound, longest) in [500, 1000, 2000, 4000, 4000].into_iter().zip(longest) {
        let bound = Duration::from_millis(bound);
        assert!(longest <= bound + Duration::from_millis(1) && longest > bound.mul_f64(0.95), "{longest:?}");
    }
    // The mean of a draw from zero to the bound is half of it.
    let mean = sum.as_secs_f64() / 300.0;
    assert!((mean - 5.75).abs() < 0.3, "{mean}");
}

#[test]
fn promise_9_retry_after_is_waited_for_up_to_a_cap() {
    for (asked, least) in [(0, 0), (7, 7), (60, 60), (86_400, 60)] {
        let failing = Failing::new(vec![server(429, ErrorKind::Retryable, Some(asked))]);
        assert!(ask(&failing, 3).is_ok());
        let wait = failing.waits()[0];
        let (least, slack) = (Duration::from_secs(least), Duration::from_millis(501));
        assert!(wait >= least && wait <= least + slack, "asked for {asked} s, waited {wait:?}");
    }
}

#[test]
fn promise_10_a_call_makes_no_more_than_its_attempts() {
    let failing = Failing::new(vec![server(500, ErrorKind::Retryable, None); 100]);
    let failed = ask(&failing, 1).unwrap_err();
    assert_eq!(failing.asked_at.lock().unwrap().len(), 6);
    assert_eq!((failed.attempts(), failed.kind()), (6, ErrorKind::Retryable));
    assert_eq!(failed.to_string(), "test answered HTTP 500: no (6 attempts)");
}

#[test]
fn promise_11_waiting_to_ask_again_holds_no_slot() {
    paused(async {
        let failing = Failing::new(vec![server(503, ErrorKind::Retryable, Some(30))]);
        let limiter = Limiter::new(Concurrency::Fixed(std::num::NonZeroU32::MIN));
        let call = Retrying::new(Limited::new(failing.clone(), limiter), POLICY, Jitter::seeded(1));
        let (first, second) = (request(0), request(1));
        let began = Instant::now();
        let (waited, free) =
            futures::future::join(async { (call.call(&first).await.is_ok(), began.elapsed()) }, async {
                (call.call(&second).await.is_ok(), began.elapsed())
            })
            .await;
        assert!(waited.0 && waited.1 >= Duration::from_secs(30));
        assert!(free.0 && free.1 < Duration::from_secs(1), "the other call waited {:?}", free.1);
    });
}
