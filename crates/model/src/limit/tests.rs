//! The limiter against servers that refuse what is above a level they do not tell (a cliff), on a clock
//! that only moves when nothing else can.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use evalign_core::{FinishReason, Output, Prompt, RequestKind, SampleKey, Usage};
use futures::StreamExt;
use futures::stream::FuturesUnordered;

use super::*;
use crate::error::ServerError;
use crate::retry::Retrying;
use evalign_fetch::{Jitter, RetryPolicy};

const REQUESTS: usize = 10_000;
/// As many calls are started as [`crate::Remote`] would.
const STARTED: usize = 1024;

pub(crate) fn response() -> Response {
    Response {
        output: Output::Text {
            text: String::new(),
            finish: FinishReason::Stop,
            logprobs: None,
            reasoning: None,
        },
        usage: Some(Usage { prompt_tokens: 10, generated_tokens: 5, ..Usage::default() }),
        truncated_tokens: 0,
        cached: false,
        latency: None,
    }
}

pub(crate) fn request(doc: u64) -> Request {
    let prompt = Prompt::Text(format!("question {doc}"));
    let kind = RequestKind::Generate { prompt, params: evalign_core::GenerateParams::default() };
    Request { key: SampleKey { task: "t".to_owned(), doc, repeat: 0 }, kind }
}

pub(crate) fn refusal(status: u16, retry_after: Option<Duration>) -> ModelError {
    ModelError::from(ServerError {
        server: "test".to_owned(),
        status,
        code: None,
        message: "no".to_owned(),
        retry_after,
        kind: ErrorKind::Retryable,
        unknown_model: false,
        hint: None,
    })
}

/// Answers after about 20 ms, and refuses what comes while as many as the cliff are in hand.
struct Server {
    cliff: usize,
    /// Milliseconds: the time to an answer is drawn from `latency_ms` plus or minus half of it.
    latency_ms: u64,
    /// Milliseconds a refusal takes.
    refusal_ms: u64,
    /// Milliseconds each way, during which a request is in flight and not in the server's hands.
    wire_ms: u64,
    jitter: Mutex<u64>,
    in_hand: AtomicUsize,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    most_in_hand: usize,
    refused_at: Vec<Instant>,
    answer_time: Duration,
    answers: usize,
}

impl Server {
    fn new(cliff: usize, seed: u64) -> Self {
        Self {
            cliff,
            latency_ms: 20,
            refusal_ms: 0,
            wire_ms: 0,
            jitter: Mutex::new(seed.wrapping_mul(0x9E37_79B9) | 1),
            in_hand: AtomicUsize::new(0),
            log: Mutex::default(),
        }
    }

    /// xorshift64* (Vigna 2016).
    fn latency(&self) -> Duration {
        let mut state = self.jitter.lock().unwrap();
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        let draw = (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % (self.latency_ms + 1);
        Duration::from_millis(self.latency_ms / 2 + draw)
    }

    async fn serve(&self) -> Result<Response, ModelError> {
        let wire = Duration::from_millis(self.wire_ms);
        let pause = |time: Duration| async move {
            if !time.is_zero() {
                tokio::time::sleep(time).await;
            }
        };
        pause(wire).await;
        if self.in_hand.load(Ordering::SeqCst) >= self.cliff {
            self.log.lock().unwrap().refused_at.push(Instant::now());
            pause(Duration::from_millis(self.refusal_ms)).await;
            pause(wire).await;
            return Err(refusal(429, None));
        }
        let in_hand = self.in_hand.fetch_add(1, Ordering::SeqCst) + 1;
        let started = Instant::now();
        tokio::time::sleep(self.latency()).await;
        self.in_hand.fetch_sub(1, Ordering::SeqCst);
        {
            let mut log = self.log.lock().unwrap();
            log.most_in_hand = log.most_in_hand.max(in_hand);
            log.answer_time += started.elapsed();
            log.answers += 1;
        }
        pause(wire).await;
        Ok(response())
    }

    /// Refusals within one round trip of the first are one burst.
    fn bursts(&self) -> usize {
        let round_trip = Duration::from_millis(self.latency_ms * 3 / 2 + 2 * self.wire_ms);
        let mut bursts = 0;
        let mut began: Option<Instant> = None;
        for at in &self.log.lock().unwrap().refused_at {
            if began.is_none_or(|began| *at - began > round_trip) {
                bursts += 1;
                began = Some(*at);
            }
        }
        bursts
    }
}

impl Call for Arc<Server> {
    fn call_aloud<'a>(
        &'a self,
        _: &'a Request,
        _: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(self.serve())
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy::default()
}

/// Puts all requests through and returns the limit at the end and the share of the ideal throughput:
/// the cliff full all the time.
async fn run(server: &Arc<Server>, limiter: &Limiter, seed: u64) -> f64 {
    let call = Retrying::new(Limited::new(server.clone(), limiter.clone()), policy(), Jitter::seeded(seed));
    let requests: Vec<Request> = (0..REQUESTS as u64).map(request).collect();
    let began = Instant::now();
    let mut waiting = requests.iter();
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < STARTED
            && let Some(request) = waiting.next()
        {
            under_way.push(call.call(request));
        }
        match under_way.next().await {
            Some(result) => drop(result.expect("answered in the end")),
            None => break,
        }
    }
    let log = server.log.lock().unwrap();
    assert_eq!(log.answers, REQUESTS);
    log.answer_time.as_secs_f64() / server.cliff as f64 / began.elapsed().as_secs_f64()
}

fn paused<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

#[test]
fn promise_11_the_limit_finds_a_hidden_cliff_and_stays_below_it() {
    for cliff in [8, 64, 300] {
        for seed in 0..20 {
            let server = Arc::new(Server::new(cliff, seed));
            let limiter = Limiter::new(Concurrency::Auto);
            let throughput = paused(run(&server, &limiter, seed));
            let (limit, bursts) = (limiter.limit(), server.bursts());
            let close = (limit as f64 - cliff as f64).abs() <= 0.1 * cliff as f64;
            assert!(close, "cliff {cliff}, seed {seed}: the limit ended at {limit}");
            assert!(bursts <= 2, "cliff {cliff}, seed {seed}: {bursts} bursts of refusals");
            assert!(throughput >= 0.9, "cliff {cliff}, seed {seed}: {throughput:.3} of the ideal throughput");
        }
    }
}

#[test]
fn promise_11_slow_refusals_and_a_slow_wire_cost_no_further_bursts() {
    for (refusal_ms, wire_ms) in [(1, 0), (5, 0), (20, 0), (1, 1)] {
        for cliff in [8, 64, 300] {
            for seed in 0..5 {
                let server = Server { refusal_ms, wire_ms, ..Server::new(cliff, seed) };
                let server = Arc::new(server);
                let limiter = Limiter::new(Concurrency::Auto);
                paused(run(&server, &limiter, seed));
                let (limit, bursts) = (limiter.limit(), server.bursts());
                let what = format!("cliff {cliff}, refusals {refusal_ms} ms, wire {wire_ms} ms, seed {seed}");
                assert!(bursts <= 2, "{what}: {bursts} bursts");
                // What is on the wire may be in flight beyond the cliff.
                let most = cliff as f64 * (1.1 + 2.0 * wire_ms as f64 / 20.0);
                assert!((0.9 * cliff as f64..=most).contains(&(limit as f64)), "{what}: limit {limit}");
            }
        }
    }
}

#[test]
fn promise_11_the_first_requests_may_arrive_in_any_order() {
    paused(async {
        let mut controller = Controller::new(Concurrency::Auto);
        let first: Vec<_> = (0..controller.limit()).map(|_| controller.sent(Instant::now())).collect();
        // Eight are taken, and not those that were sent first.
        let (taken, refused): (Vec<usize>, Vec<usize>) =
            (0..first.len()).partition(|index| *index < 24 && index % 3 == 2);
        for index in refused {
            controller.answered(first[index], Answer::Refused { retry_after: None }, Instant::now());
        }
        for index in taken {
            controller.answered(first[index], Answer::Accepted, Instant::now());
        }
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let round: Vec<_> = (0..controller.limit()).map(|_| controller.sent(Instant::now())).collect();
            for ticket in round {
                controller.answered(ticket, Answer::Accepted, Instant::now());
            }
        }
        assert_eq!(controller.limit(), 8);
    });
}

#[test]
fn promise_11_a_fixed_limit_is_never_exceeded_and_never_moves() {
    for limit in [1, 3, 64] {
        let server = Arc::new(Server::new(usize::MAX, 7));
        let limiter = Limiter::new(Concurrency::Fixed(NonZeroU32::new(limit).unwrap()));
        paused(run(&server, &limiter, 7));
        assert_eq!(server.log.lock().unwrap().most_in_hand, limit as usize);
        assert_eq!(limiter.limit(), limit as usize);
    }
}

#[test]
fn promise_11_calls_that_are_dropped_give_their_slots_back() {
    paused(async {
        let server = Arc::new(Server::new(4, 1));
        let limiter = Limiter::new(Concurrency::Fixed(NonZeroU32::new(4).unwrap()));
        let call = Limited::new(server.clone(), limiter.clone());
        let request = request(0);
        for _ in 0..3 {
            let mut calls: Vec<_> = (0..10).map(|_| call.call(&request)).collect();
            for call in &mut calls {
                assert!(futures::poll!(call).is_pending());
            }
            drop(calls);
            server.in_hand.store(0, Ordering::SeqCst);
        }
        let all = futures::future::join_all((0..8).map(|_| call.call(&request))).await;
        assert!(all.iter().all(Result::is_ok));
        assert_eq!(limiter.state().controller.in_flight(), 0);
    });
}

/// Refuses everything for a minute from `closed`, as a quota per minute does.
struct Quota {
    inner: Arc<Server>,
    closed: Instant,
    retry_after: Option<Duration>,
    refused: AtomicUsize,
}

impl Call for Arc<Quota> {
    fn call_aloud<'a>(
        &'a self,
        request: &'a Request,
        _: Listener<'a>,
    ) -> BoxFuture<'a, Result<Response, ModelError>> {
        Box::pin(async move {
            let since = Instant::now().checked_duration_since(self.closed);
            if since.is_some_and(|since| since < Duration::from_secs(60)) {
                self.refused.fetch_add(1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                return Err(refusal(429, self.retry_after));
            }
            self.inner.call(request).await
        })
    }
}

#[test]
fn promise_11_a_closed_account_is_left_alone_and_loses_nothing() {
    for retry_after in [None, Some(Duration::from_secs(20))] {
        paused(async {
            let quota = Arc::new(Quota {
                inner: Arc::new(Server::new(1000, 3)),
                closed: Instant::now() + Duration::from_secs(1),
                retry_after,
                refused: AtomicUsize::new(0),
            });
            let limiter = Limiter::new(Concurrency::Fixed(NonZeroU32::new(40).unwrap()));
            let patient = RetryPolicy { attempts: 10, ..policy() };
            let call =
                Retrying::new(Limited::new(quota.clone(), limiter.clone()), patient, Jitter::seeded(5));
            let requests: Vec<Request> = (0..4000).map(request).collect();
            let all = futures::future::join_all(requests.iter().map(|request| call.call(request))).await;
            assert!(all.iter().all(Result::is_ok));
            // Refusals come four times as fast as the answers that are still under way when the account is
            // closed; once these have come, one request at a time asks whether it is open again.
            let refused = quota.refused.load(Ordering::SeqCst);
            assert!(refused <= 40 * 6 + 10, "{refused} refusals");
            assert_eq!(limiter.limit(), 40);
        });
    }
}

#[test]
fn a_server_that_is_no_faster_for_more_requests_is_not_given_more() {
    // Queues what is beyond 16 and refuses nothing, as many local servers do.
    struct Queueing(Semaphore, Arc<Server>);
    impl Call for Queueing {
        fn call_aloud<'a>(
            &'a self,
            request: &'a Request,
            _: Listener<'a>,
        ) -> BoxFuture<'a, Result<Response, ModelError>> {
            Box::pin(async move {
                let _slot = self.0.acquire().await.unwrap();
                self.1.call(request).await
            })
        }
    }
    paused(async {
        let limiter = Limiter::new(Concurrency::Auto);
        let call =
            Limited::new(Queueing(Semaphore::new(16), Arc::new(Server::new(1000, 1))), limiter.clone());
        let requests: Vec<Request> = (0..REQUESTS as u64).map(request).collect();
        let all = futures::future::join_all(requests.iter().map(|request| call.call(request))).await;
        assert!(all.iter().all(Result::is_ok));
        assert!(limiter.limit() <= 128, "{}", limiter.limit());
    });
}

#[test]
fn trouble_of_another_kind_pauses_growth_and_does_not_cut() {
    let now = || Instant::now();
    paused(async {
        let mut controller = Controller::new(Concurrency::Auto);
        let first = controller.limit();
        let tickets: Vec<_> = (0..first).map(|_| controller.sent(now())).collect();
        controller.answered(tickets[0], Answer::Disturbed, now());
        for ticket in &tickets[1..first / 5] {
            controller.answered(*ticket, Answer::Accepted, now());
        }
        assert_eq!(controller.limit(), first, "no growth within the round trip, and no cut");
        let later: Vec<_> = (0..first / 5).map(|_| controller.sent(now())).collect();
        for ticket in &tickets[first / 5..] {
            controller.answered(*ticket, Answer::Accepted, now());
        }
        let more: Vec<_> = (0..first - later.len()).map(|_| controller.sent(now())).collect();
        for ticket in later {
            controller.answered(ticket, Answer::Accepted, now());
        }
        assert!(controller.limit() > first, "answers to later requests count again");
        drop(more);
    });
}

#[test]
fn accounts_share_a_limit() {
    let limiters = Limiters::default();
    let one = limiters.of("https://a/v1 key 1", Concurrency::Auto);
    let same = limiters.of("https://a/v1 key 1", Concurrency::Auto);
    let other = limiters.of("https://a/v1 key 2", Concurrency::Auto);
    assert!(Arc::ptr_eq(&one.0, &same.0) && !Arc::ptr_eq(&one.0, &other.0));
}
