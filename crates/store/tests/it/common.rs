use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use evalign_core::{
    Digest, ModelIdentity, Outcome, Output, Prompt, Request, RequestKind, RunSpec, SampleKey, SampleRecord,
    Score, ScoringMode, Usage,
};
use evalign_store::{Clock, NewRun, Store, StoreOptions};
use serde_json::json;
use tempfile::TempDir;

pub(crate) const TTL: Duration = Duration::from_secs(30);

/// In memory where the system offers it: these tests check what is stored, not how fast a disk is.
pub(crate) fn memory_dir() -> TempDir {
    let shm = Path::new("/dev/shm");
    if shm.is_dir() { tempfile::tempdir_in(shm).unwrap() } else { tempfile::tempdir().unwrap() }
}

/// A clock that stands still until told.
#[derive(Clone, Default)]
pub(crate) struct TestClock(Arc<AtomicU64>);

impl TestClock {
    pub(crate) fn advance(&self, by: Duration) {
        self.0.fetch_add(u64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
    }

    pub(crate) fn now(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub(crate) fn open(&self, dir: &Path) -> Store {
        let time = self.clone();
        let clock: Clock = Arc::new(move || time.now());
        Store::open_with(dir, StoreOptions { clock, ..StoreOptions::default() }).unwrap()
    }
}

/// SplitMix64 (Steele et al. 2014): enough randomness for tests, and the same everywhere.
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub(crate) fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

pub(crate) fn spec(seed: u64) -> RunSpec {
    RunSpec {
        model: ModelIdentity {
            reference: "scripted/answers.jsonl".parse().unwrap(),
            weights: Digest::of("weights"),
            tokenizer: Digest::of("tokenizer"),
            chat_template: None,
            adapter: None,
            trained_on: None,
            dtype: "f32".to_owned(),
            device: "cpu".to_owned(),
        },
        mode: ScoringMode::Default,
        scorer_version: 1,
        seed,
        chat_template: false,
        system_instruction: None,
        rendered_at: None,
        tasks: Vec::new(),
    }
}

pub(crate) fn new_run(seed: u64) -> NewRun {
    NewRun {
        spec: spec(seed),
        request: json!({"tasks": ["t"], "seed": seed}),
        samples_total: 100,
        fork: false,
    }
}

pub(crate) fn key(task: &str, doc: u64, repeat: u32) -> SampleKey {
    SampleKey { task: task.to_owned(), doc, repeat }
}

pub(crate) fn record(key: SampleKey, outcome: Outcome, text: &str) -> SampleRecord {
    SampleRecord {
        doc: json!({"question": text, "index": key.doc}),
        doc_hash: Digest::of(text),
        request: Request {
            key: key.clone(),
            kind: RequestKind::LogLikelihood {
                context: Prompt::Text(text.to_owned()),
                continuations: vec![" A".to_owned(), " B".to_owned()],
            },
        },
        prompt_hash: Digest::of(text),
        target: "0".to_owned(),
        target_hash: Digest::of("0"),
        output: Some(Output::LogLikelihood {
            choices: vec![
                evalign_core::ChoiceLogLikelihood { sum: -93.361_419_677_734_38, tokens: 1, greedy: false },
                evalign_core::ChoiceLogLikelihood { sum: -0.1, tokens: 1, greedy: true },
            ],
        }),
        error: None,
        scores: vec![score(outcome)],
        usage: Usage {
            prompt_tokens: 10,
            computed_prompt_tokens: 4,
            generated_tokens: 1,
            ..Usage::default()
        },
        truncated_tokens: 0,
        latency: None,
        requests: 0,
        cost_usd: None,
        key,
    }
}

pub(crate) fn score(outcome: Outcome) -> Score {
    Score {
        metric: "acc".to_owned(),
        filter: "none".to_owned(),
        outcome,
        value: outcome.is_decided().then_some(if outcome == Outcome::Correct { 1.0 } else { 0.0 }),
        answer: Some("1".to_owned()),
        weight: None,
        margin: Some(0.3),
    }
}
