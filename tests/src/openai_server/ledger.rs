use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use evalign_core::Digest;
use serde::Serialize;
use serde_json::Value;

use super::route::Route;

/// Bodies kept for tests to look at, in bytes; those of later requests are not.
const BODIES_KEPT: usize = 32 << 20;

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// 200, whole.
    Answered,
    /// Another status, whole.
    Status(u16),
    /// 200, but spoiled on purpose.
    Spoiled,
    /// The client went away, or was sent away, before the end.
    Broken,
}

/// One request the server got.
#[derive(Clone, Debug, Serialize)]
pub struct Entry {
    pub route: Route,
    /// Digest of path and body.
    pub content: Digest,
    /// The prompt, at most its first 500 characters.
    pub text: String,
    #[serde(skip)]
    pub body: Bytes,
    /// Counted from 1, among requests with the same content.
    pub attempt: u32,
    /// Requests in flight when it came, itself included.
    pub in_flight: usize,
    /// Since the server's start.
    pub came: Duration,
    /// `None` while it is in flight.
    pub ended: Option<Duration>,
    pub outcome: Option<Outcome>,
}

impl Entry {
    /// The request's JSON; null where it is none or was not kept.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Everything a server was asked so far.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    /// As they came.
    pub entries: Vec<Entry>,
    pub max_in_flight: usize,
    /// Still in flight.
    pub in_flight: usize,
    /// Headers that say who asks, each value once.
    pub identifying_headers: BTreeSet<(String, String)>,
}

impl Requests {
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Only those that a condition holds for.
    #[must_use]
    pub fn only(&self, condition: impl Fn(&Entry) -> bool) -> Self {
        let entries = self.entries.iter().filter(|entry| condition(entry)).cloned().collect();
        Self { entries, ..self.clone() }
    }

    /// How often each content was asked for.
    #[must_use]
    pub fn by_content(&self) -> BTreeMap<Digest, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.entries {
            *counts.entry(entry.content.clone()).or_insert(0) += 1;
        }
        counts
    }

    #[must_use]
    pub fn with_outcome(&self, outcome: Outcome) -> usize {
        self.entries.iter().filter(|entry| entry.outcome == Some(outcome)).count()
    }

    /// Bursts of 429: one is the 429 within one round trip of its first.
    #[must_use]
    pub fn bursts_of_429(&self, round_trip: Duration) -> usize {
        let mut bursts = 0;
        let mut end = Duration::ZERO;
        for entry in self.entries.iter().filter(|entry| entry.outcome == Some(Outcome::Status(429))) {
            if bursts == 0 || entry.came > end {
                bursts += 1;
                end = entry.came + round_trip;
            }
        }
        bursts
    }

    /// Requests in flight that were reached again and again from this share of the run on: the 95th
    /// percentile over arrivals. A client's limit shows here; the mean is lower by what is on the wire.
    #[must_use]
    pub fn settled_in_flight(&self, share: f64) -> usize {
        let skip = (self.entries.len() as f64 * share) as usize;
        let mut late: Vec<usize> = self.entries.iter().skip(skip).map(|entry| entry.in_flight).collect();
        late.sort_unstable();
        late.get(late.len() * 95 / 100).copied().unwrap_or(0)
    }

    /// From the first request's arrival to the last one's end.
    #[must_use]
    pub fn span(&self) -> Duration {
        let first = self.entries.iter().map(|entry| entry.came).min().unwrap_or_default();
        let last = self.entries.iter().filter_map(|entry| entry.ended).max().unwrap_or_default();
        last.saturating_sub(first)
    }

    /// From a request's arrival to the end of its answer, on average.
    #[must_use]
    pub fn mean_service_ms(&self) -> f64 {
        let served = self.entries.iter().filter(|entry| entry.outcome == Some(Outcome::Answered));
        let times: Vec<f64> = served
            .filter_map(|entry| entry.ended.map(|ended| ended.saturating_sub(entry.came).as_secs_f64()))
            .collect();
        1000.0 * times.iter().sum::<f64>() / times.len() as f64
    }

    /// The numbers that matter, for people and other programs.
    #[must_use]
    pub fn summary(&self, round_trip: Duration) -> Value {
        let mut outcomes: BTreeMap<String, usize> = BTreeMap::new();
        for entry in &self.entries {
            let outcome = match entry.outcome {
                Some(Outcome::Status(status)) => status.to_string(),
                Some(outcome) => format!("{outcome:?}").to_lowercase(),
                None => "in_flight".to_owned(),
            };
            *outcomes.entry(outcome).or_insert(0) += 1;
        }
        serde_json::json!({
            "requests": self.len(),
            "contents": self.by_content().len(),
            "outcomes": outcomes,
            "max_in_flight": self.max_in_flight,
            "settled_in_flight": self.settled_in_flight(0.7),
            "bursts_of_429": self.bursts_of_429(round_trip),
            "seconds": self.span().as_secs_f64(),
            "requests_per_second": self.len() as f64 / self.span().as_secs_f64(),
            "mean_service_ms": self.mean_service_ms(),
        })
    }
}

/// Writes down what comes in.
#[derive(Clone)]
pub(super) struct Ledger {
    started: Instant,
    written: Arc<Mutex<Written>>,
}

#[derive(Default)]
struct Written {
    requests: Requests,
    attempts: BTreeMap<Digest, u32>,
    bytes_kept: usize,
    total: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { started: Instant::now(), written: Arc::default() }
    }

    pub(super) fn requests(&self) -> Requests {
        self.lock().requests.clone()
    }

    /// Forgets what came so far. Ordinals and attempts go on, so that faults do not start anew.
    pub(super) fn forget(&self) {
        let mut written = self.lock();
        written.requests.entries.clear();
        written.requests.max_in_flight = written.requests.in_flight;
        written.requests.identifying_headers.clear();
        written.bytes_kept = 0;
    }

    pub(super) fn identify(&self, name: &str, value: &str) {
        let pair = (name.to_owned(), value.to_owned());
        self.lock().requests.identifying_headers.insert(pair);
    }

    /// A request has come.
    pub(super) fn admit(&self, route: Route, path: &str, text: String, body: Bytes) -> Ticket {
        let content = Digest::of([path.as_bytes(), b"\n", &body].concat());
        let mut written = self.lock();
        let attempt = written.attempts.entry(content.clone()).or_insert(0);
        *attempt += 1;
        let attempt = *attempt;
        let ordinal = written.total;
        written.total += 1;
        written.bytes_kept += body.len();
        let body = if written.bytes_kept <= BODIES_KEPT { body } else { Bytes::new() };
        let requests = &mut written.requests;
        requests.in_flight += 1;
        requests.max_in_flight = requests.max_in_flight.max(requests.in_flight);
        let (in_flight, index) = (requests.in_flight, requests.entries.len());
        requests.entries.push(Entry {
            route,
            content: content.clone(),
            text: text.chars().take(500).collect(),
            body,
            attempt,
            in_flight,
            came: self.started.elapsed(),
            ended: None,
            outcome: None,
        });
        drop(written);
        Ticket { ledger: self.clone(), index, route, content, text, attempt, ordinal, in_flight, open: true }
    }

    fn lock(&self) -> MutexGuard<'_, Written> {
        self.written.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").finish_non_exhaustive()
    }
}

/// A request in flight. Dropped before it is [ended](Ticket::end), it was broken off.
#[derive(Debug)]
pub(super) struct Ticket {
    ledger: Ledger,
    index: usize,
    pub(super) route: Route,
    pub(super) content: Digest,
    pub(super) text: String,
    pub(super) attempt: u32,
    pub(super) ordinal: u64,
    pub(super) in_flight: usize,
    open: bool,
}

impl Ticket {
    pub(super) fn end(&mut self, outcome: Outcome) {
        if !std::mem::replace(&mut self.open, false) {
            return;
        }
        let ended = self.ledger.started.elapsed();
        let mut written = self.ledger.lock();
        written.requests.in_flight -= 1;
        // Another one's, if the ledger was cleared meanwhile: then this request is no longer in it.
        if let Some(entry) = written.requests.entries.get_mut(self.index)
            && entry.content == self.content
            && entry.attempt == self.attempt
        {
            entry.ended = Some(ended);
            entry.outcome = Some(outcome);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.end(Outcome::Broken);
    }
}
