//! The runner and a model whose every answer the test decides.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use evalign_bench::{ActiveRun, Cancel, Catalog, Plan, RunEnd, RunRequest, Scoreboard, Silent, draft};
use evalign_core::{
    Digest, FinishReason, Latency, ModelIdentity, ModelRef, Outcome, Output, Prompt, Request, RequestKind,
    Response, RunId, RunResults, RunStatus, SampleKey, SampleRecord, Seconds, Usage,
};
use evalign_data::DataRoots;
use evalign_model::{
    Capabilities, ErrorKind, Intake, Model, ModelError, Price, Replies, ServerError, TokenCount,
};
use evalign_store::{SampleFilter, Store};

type Answer = dyn Fn(&Request) -> Result<Response, ModelError> + Send + Sync;

/// Answers from a thread, each submission in the order that `reversed` says.
struct Double {
    identity: ModelIdentity,
    intake: Intake,
    reversed: bool,
    answer: Arc<Answer>,
    /// All keys asked for, and the most that were unanswered at a time.
    asked: Arc<Mutex<(Vec<SampleKey>, usize, usize)>>,
}

impl Double {
    fn new(answer: impl Fn(&Request) -> Result<Response, ModelError> + Send + Sync + 'static) -> Self {
        let identity = ModelIdentity {
            reference: "openai/double".parse::<ModelRef>().unwrap(),
            weights: Digest::of("double"),
            tokenizer: Digest::of("double"),
            chat_template: None,
            adapter: None,
            trained_on: None,
            dtype: "none".to_owned(),
            device: "none".to_owned(),
        };
        let intake = Intake { together: 4, ahead: 5 };
        Self { identity, intake, reversed: false, answer: Arc::new(answer), asked: Arc::default() }
    }

    fn asked(&self) -> BTreeSet<SampleKey> {
        let asked = self.asked.lock().unwrap();
        let unique: BTreeSet<SampleKey> = asked.0.iter().cloned().collect();
        assert_eq!(unique.len(), asked.0.len(), "something was asked twice");
        unique
    }
}

impl Model for Double {
    fn identity(&self) -> &ModelIdentity {
        &self.identity
    }

    fn context_length(&self) -> Option<usize> {
        None
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

    fn submit(&self, mut requests: Vec<Request>) -> Replies {
        let (sender, replies) = Replies::channel();
        let (asked, answer, reversed) = (self.asked.clone(), self.answer.clone(), self.reversed);
        {
            let mut asked = asked.lock().unwrap();
            asked.0.extend(requests.iter().map(|request| request.key.clone()));
            asked.1 += requests.len();
            asked.2 = asked.2.max(asked.1);
        }
        let mut order: Vec<usize> = (0..requests.len()).collect();
        if reversed {
            order.reverse();
            requests.reverse();
        }
        std::thread::spawn(move || {
            for (index, request) in order.into_iter().zip(requests) {
                asked.lock().unwrap().1 -= 1;
                if sender.send(index, answer(&request)).is_break() {
                    return;
                }
            }
        });
        replies
    }

    fn intake(&self) -> Intake {
        self.intake
    }

    fn timing(&self) -> Seconds {
        Seconds::default()
    }
}

/// An answer that depends on nothing but the request.
fn answer(request: &Request) -> Response {
    let output = match &request.kind {
        RequestKind::LogLikelihood { continuations, .. } => Output::LogLikelihood {
            choices: (0..continuations.len() as u64)
                .map(|choice| evalign_core::ChoiceLogLikelihood {
                    sum: -(((request.key.doc * 7 + choice * 3) % 5) as f64) - 0.5,
                    tokens: 1,
                    greedy: false,
                })
                .collect(),
        },
        RequestKind::Generate { .. } | RequestKind::Perplexity { .. } => Output::Text {
            text: format!("The answer is {}", request.key.doc % 3),
            finish: FinishReason::Stop,
            logprobs: None,
            reasoning: None,
        },
    };
    let latency = Latency { total_ms: 10.0 + request.key.doc as f64, first_token_ms: None, attempts: 2 };
    let usage =
        Usage { prompt_tokens: 100, cached_prompt_tokens: 40, generated_tokens: 10, ..Usage::default() };
    Response { output, usage: Some(usage), truncated_tokens: 0, cached: false, latency: Some(latency) }
}

fn busy() -> ModelError {
    let error = ServerError {
        server: "http://double".to_owned(),
        status: 503,
        code: None,
        message: "busy".to_owned(),
        retry_after: None,
        kind: ErrorKind::Retryable,
        unknown_model: false,
        hint: None,
    };
    ModelError::GaveUp { attempts: 5, last: Arc::new(error.into()), gone: false }
}

const TASK: &str = "samples_knowledge";
const PRICE: Price = Price { input: 1.0, cached_input: Some(0.5), output: 2.0 };

fn plan(model: &Double) -> Plan {
    let request = request(model);
    let catalog = Catalog::load(&[]).unwrap();
    let roots = DataRoots { offline: true, ..DataRoots::default() };
    draft(&request, &catalog, &roots).unwrap().bind(model).unwrap()
}

fn request(model: &Double) -> RunRequest {
    RunRequest::new(model.identity.reference.clone(), vec![TASK.to_owned()])
}

struct Finished {
    end: RunEnd,
    results: RunResults,
    records: Vec<SampleRecord>,
}

/// One session on the run of this model.
fn session(store: &Store, model: &Double, retry_errors: bool) -> Finished {
    let plan = plan(model);
    let stored = serde_json::to_value(request(model)).unwrap();
    let mut run = ActiveRun::start(&plan, stored, store, "test", false).unwrap();
    if retry_errors {
        run.reopen_failed().unwrap();
    }
    run.set_price(Some(PRICE));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let end = runtime.block_on(run.drive(&plan, model, &Silent, &Cancel::default())).unwrap();
    run.release().unwrap();
    let (results, records) = read(store, &end.run);
    Finished { end, results, records }
}

fn read(store: &Store, id: &RunId) -> (RunResults, Vec<SampleRecord>) {
    let catalog = Catalog::load(&[]).unwrap();
    let board = Scoreboard::of_run(&store.run(id).unwrap(), &catalog, true).unwrap();
    let records = store.samples(id, SampleFilter::default()).unwrap().map(Result::unwrap).collect();
    (board.aggregate(store, id).unwrap(), records)
}

fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path()).unwrap();
    (dir, store)
}

#[test]
fn promise_13_a_run_without_budget_left_keeps_what_is_answered_and_goes_on_later() {
    let (_dir, store) = store();
    let poor = Double::new(|request| match request.key.doc % 3 {
        0 => Ok(answer(request)),
        _ => Err(ModelError::BudgetExhausted("3 of 3 requests are made".to_owned())),
    });
    let first = session(&store, &poor, false);
    assert_eq!(first.end.status, RunStatus::BudgetExhausted);
    assert!(first.end.finished > 0 && first.records.iter().all(|record| record.key.doc % 3 == 0));
    assert!((poor.asked().len() as u64) < plan(&poor).total_samples(), "nothing is asked in vain for long");

    let rich = Double::new(|request| Ok(answer(request)));
    let second = session(&store, &rich, false);
    assert_eq!((second.end.status, &second.end.run), (RunStatus::Completed, &first.end.run));
    let kept: BTreeSet<SampleKey> = first.records.into_iter().map(|record| record.key).collect();
    assert!(rich.asked().is_disjoint(&kept), "what is answered is not paid for twice");
    assert_eq!(second.records.len() as u64, plan(&rich).total_samples());
}

#[test]
fn promise_14_order_and_windows_change_nothing() {
    let mut all = Vec::new();
    for (together, ahead, reversed) in [(1, 0, false), (16_384, 0, true), (4, 5, false), (7, 40, true)] {
        let (_dir, store) = store();
        let model = Double {
            intake: Intake { together, ahead },
            reversed,
            ..Double::new(|request| Ok(answer(request)))
        };
        let finished = session(&store, &model, false);
        let most = model.asked.lock().unwrap().2;
        assert!(most <= together.saturating_add(ahead), "{most} samples in memory");
        let RunResults { results, usage, cost_usd, latency, .. } = finished.results;
        all.push((results, usage, cost_usd, latency, finished.records));
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn promise_15_a_call_that_failed_for_good_is_an_outcome_and_can_be_asked_again() {
    let (_dir, store) = store();
    let model =
        Double::new(|request| if request.key.doc % 4 == 1 { Err(busy()) } else { Ok(answer(request)) });
    let first = session(&store, &model, false);
    assert_eq!(first.end.status, RunStatus::Completed);
    let (failed, answered): (Vec<_>, Vec<_>) =
        first.records.into_iter().partition(|record| record.output.is_none());
    assert_eq!(first.end.failed, failed.len() as u64);
    for record in &failed {
        assert_eq!(record.key.doc % 4, 1);
        assert_eq!(record.error.as_deref(), Some("http://double answered HTTP 503: busy (5 attempts)"));
        assert!(record.scores.iter().all(|score| score.outcome == Outcome::Error && score.value.is_none()));
        assert_eq!((record.requests, record.latency, record.cost_usd), (5, None, None));
    }
    let metric = &first.results.results[0].metrics[0];
    assert_eq!(metric.estimate.n, answered.len() as u64);
    assert_eq!(metric.outcomes.error, failed.len() as u64);

    // Not asked again by itself, and then those alone.
    let idle = Double::new(|request| Ok(answer(request)));
    session(&store, &idle, false);
    assert!(idle.asked().is_empty());
    let model = Double::new(|request| Ok(answer(request)));
    let second = session(&store, &model, true);
    let reopened: BTreeSet<SampleKey> = failed.iter().map(|record| record.key.clone()).collect();
    assert_eq!(model.asked(), reopened);
    let untouched: Vec<_> =
        second.records.into_iter().filter(|record| !reopened.contains(&record.key)).collect();
    assert_eq!(untouched, answered);
    let stored = store.run(&second.end.run).unwrap();
    let (answered, failed) = (answered.len() as u64, failed.len() as u64);
    assert_eq!(stored.samples_done, answered + failed);
    assert_eq!(stored.spent.requests, 2 * (answered + failed) + 5 * failed, "what was spent stays spent");
}

#[test]
fn tokens_time_and_money_are_kept_by_sample_and_summed_by_run() {
    let (_dir, store) = store();
    let model = Double::new(|request| Ok(answer(request)));
    let Finished { end, results, records } = session(&store, &model, false);
    let n = records.len() as u64;
    // 60 x 1 + 40 x 0.5 + 10 x 2 millionths.
    assert!(records.iter().all(|record| record.cost_usd == Some(1e-4) && record.requests == 2));
    assert!((results.cost_usd.unwrap() - n as f64 * 1e-4).abs() < 1e-12);
    assert_eq!((results.usage.cached_prompt_tokens, results.usage.prompt_tokens), (40 * n, 100 * n));
    let latency = results.latency.unwrap();
    assert_eq!((latency.n, latency.requests), (n, 2 * n));
    let mut times: Vec<f64> = records.iter().map(|record| record.latency.unwrap().total_ms).collect();
    times.sort_by(f64::total_cmp);
    assert_eq!(latency.total_ms.p50, times[times.len().div_ceil(2) - 1]);
    assert_eq!(latency.total_ms.p99, times[(times.len() * 99).div_ceil(100) - 1]);
    let stored = store.run(&end.run).unwrap();
    assert_eq!((stored.spent.requests, stored.spent.tokens), (2 * n, 110 * n));
    assert!((stored.spent.usd - n as f64 * 1e-4).abs() < 1e-9);
}
