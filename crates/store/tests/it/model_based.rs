//! Random operations on the store and on a plain in-memory account of what it should hold.

use std::collections::BTreeMap;
use std::time::Duration;

use evalign_core::{
    Digest, FinishReason, Outcome, Output, Response, RunId, RunStatus, SampleKey, SampleRecord, Seconds,
    Usage,
};
use evalign_store::{Lease, SampleFilter, Store, StoreError};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::{Rng, TestClock, block_on, from_env, key, memory_dir, new_run, record, score};

struct Run {
    id: RunId,
    spec_seed: u64,
    fork: bool,
    status: RunStatus,
    results: Option<Value>,
    sessions: u32,
    samples: BTreeMap<SampleKey, SampleRecord>,
    /// Samples ever committed, those that were reopened included.
    asked: u64,
    events: u64,
    token: u64,
    held: Option<Held>,
}

struct Held {
    locked: bool,
    until_ms: u64,
}

/// A lease somebody believes to have.
struct Owner {
    run: usize,
    lease: Lease,
    locked: bool,
}

struct World {
    rng: Rng,
    dir: TempDir,
    clock: TestClock,
    store: Option<Store>,
    runs: Vec<Run>,
    owners: Vec<Owner>,
    cache: BTreeMap<u64, Response>,
    /// How often each operation did something, to see that the test reaches what it is for.
    counts: BTreeMap<&'static str, u64>,
}

#[test]
fn promise_8_random_operations_agree_with_an_account_in_memory() {
    let seed = from_env("EVALIGN_TEST_SEED", 1);
    let steps = from_env("EVALIGN_TEST_STEPS", 10_000);
    println!("seed {seed}, {steps} steps");
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = Some(clock.open(dir.path()));
    let (runs, owners) = (Vec::new(), Vec::new());
    let rng = Rng(seed);
    let mut world =
        World { rng, dir, clock, store, runs, owners, cache: BTreeMap::new(), counts: BTreeMap::new() };
    for step in 0..steps {
        world.step();
        if step % 997 == 0 {
            world.compare_everything();
        }
    }
    world.reopen();
    world.compare_everything();
    println!("{:?}", world.counts);
    assert!(world.counts.len() >= 14, "some operations never happened: {:?}", world.counts);
}

impl World {
    fn store(&self) -> &Store {
        self.store.as_ref().unwrap()
    }

    fn count(&mut self, what: &'static str) {
        *self.counts.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..5 => self.create(),
            5..15 => self.lease(),
            15..50 => self.commit(),
            50..58 => self.commit_group(),
            58..63 => self.renew(),
            63..66 => self.release(),
            66..69 => self.vanish(),
            69..74 => self.clock.advance(Duration::from_millis(self.rng.below(20_000))),
            74..80 => self.change_run(),
            80..82 => self.rescore(),
            82..83 => self.reopen_failed(),
            83..88 => self.cache(),
            88..99 => self.read_one_run(),
            _ => match self.rng.below(4) {
                0 => self.reopen(),
                _ => self.crash(),
            },
        }
    }

    fn create(&mut self) {
        let mut new = new_run(self.rng.below(8));
        new.fork = self.rng.below(6) == 0;
        let created = self.store().create_run(&new).unwrap();
        let known = self.runs.iter().find(|run| run.spec_seed == new.spec.seed && !run.fork && !new.fork);
        assert_eq!(created.existed, known.is_some());
        if let Some(known) = known {
            assert_eq!((created.id, created.status), (known.id.clone(), known.status));
            return;
        }
        self.count(if new.fork { "fork" } else { "create" });
        self.runs.push(Run {
            id: created.id,
            spec_seed: new.spec.seed,
            fork: new.fork,
            status: RunStatus::Queued,
            results: None,
            sessions: 0,
            samples: BTreeMap::new(),
            asked: 0,
            events: 1,
            token: 0,
            held: None,
        });
    }

    fn pick_run(&mut self) -> Option<usize> {
        let count = self.runs.len() as u64;
        (count > 0).then(|| usize::try_from(self.rng.below(count)).unwrap())
    }

    /// Some owner, its run, and whether its lease is the current one.
    fn pick_owner(&mut self) -> Option<(usize, usize, bool)> {
        let count = self.owners.len() as u64;
        if count == 0 {
            return None;
        }
        let owner = usize::try_from(self.rng.below(count)).unwrap();
        let run = self.owners[owner].run;
        let current =
            self.runs[run].held.is_some() && self.runs[run].token == self.owners[owner].lease.token();
        Some((owner, run, current))
    }

    fn lease(&mut self) {
        let Some(index) = self.pick_run() else { return };
        let ttl = Duration::from_millis(1 + self.rng.below(30_000));
        let now = self.clock.now();
        let lock_free = !self.owners.iter().any(|owner| owner.run == index && owner.locked);
        let run = &mut self.runs[index];
        let free = run.held.as_ref().is_none_or(|held| held.until_ms <= now || (held.locked && lock_free));
        let answer = self.store.as_ref().unwrap().lease(&run.id, "somebody", ttl);
        if !free {
            assert!(matches!(answer, Err(StoreError::LeaseHeld { .. })));
            self.count("lease refused");
            return;
        }
        let lease = answer.unwrap();
        run.token += 1;
        assert_eq!(lease.token(), run.token);
        let until_ms = now + u64::try_from(ttl.as_millis()).unwrap();
        run.held = Some(Held { locked: lock_free, until_ms });
        self.owners.push(Owner { run: index, lease, locked: lock_free });
        self.count("lease");
    }

    fn some_sample(&mut self) -> SampleRecord {
        let outcome = Outcome::ALL[usize::try_from(self.rng.below(7)).unwrap()];
        let task = ["a", "b", "c"][usize::try_from(self.rng.below(3)).unwrap()];
        let key = key(task, self.rng.below(200), u32::try_from(self.rng.below(3)).unwrap());
        let text = format!("text {}", self.rng.next());
        record(key, outcome, &text)
    }

    fn commit(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let sample = self.some_sample();
        let answer = block_on(self.store().commit_sample(&self.owners[owner].lease, &sample));
        self.account(run, current, sample, answer);
    }

    fn commit_group(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let samples: Vec<_> = (0..2 + self.rng.below(10)).map(|_| self.some_sample()).collect();
        let lease = &self.owners[owner].lease;
        if self.rng.below(2) == 0 {
            let commits: Vec<_> = samples.iter().map(|s| self.store().commit_sample(lease, s)).collect();
            for (sample, commit) in samples.into_iter().zip(commits) {
                self.account(run, current, sample, block_on(commit));
            }
            return;
        }
        let mut fresh = self.runs[run].samples.clone();
        let all_new = samples.iter().all(|s| fresh.insert(s.key.clone(), s.clone()).is_none());
        let answer = self.store().commit_samples(lease, &samples);
        assert_eq!(answer.is_ok(), current && all_new, "{answer:?}");
        if answer.is_ok() {
            self.runs[run].events += samples.len() as u64;
            self.runs[run].asked += samples.len() as u64;
            self.runs[run].samples = fresh;
            self.runs[run].results = None;
            self.count("commit all");
        }
    }

    fn account(&mut self, run: usize, current: bool, sample: SampleRecord, answer: Result<(), StoreError>) {
        if !current {
            assert!(matches!(answer, Err(StoreError::LeaseLost { .. })), "{answer:?}");
            self.count("stale commit refused");
        } else if self.runs[run].samples.contains_key(&sample.key) {
            assert!(matches!(answer, Err(StoreError::Record { .. })), "{answer:?}");
            self.count("second commit refused");
        } else {
            answer.unwrap();
            self.runs[run].samples.insert(sample.key.clone(), sample);
            self.runs[run].results = None;
            self.runs[run].events += 1;
            self.runs[run].asked += 1;
            self.count("commit");
        }
    }

    fn renew(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let ttl = Duration::from_millis(1 + self.rng.below(30_000));
        let answer = self.store().renew(&self.owners[owner].lease, ttl);
        assert_eq!(answer.is_ok(), current);
        if let (true, Some(held)) = (current, &mut self.runs[run].held) {
            held.until_ms = self.clock.now() + u64::try_from(ttl.as_millis()).unwrap();
            self.count("renew");
        }
    }

    fn release(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let owner = self.owners.swap_remove(owner);
        assert_eq!(self.store().release(owner.lease).is_ok(), current);
        if current {
            self.runs[run].held = None;
            self.count("release");
        }
    }

    /// An owner ends without a word.
    fn vanish(&mut self) {
        if let Some((owner, _, _)) = self.pick_owner() {
            drop(self.owners.swap_remove(owner));
            self.count("vanish");
        }
    }

    fn change_run(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let (store, lease) = (self.store.as_ref().unwrap(), &self.owners[owner].lease);
        let account = &mut self.runs[run];
        let answer = match self.rng.below(3) {
            0 => {
                let status =
                    [RunStatus::Running, RunStatus::Failed][usize::try_from(self.rng.below(2)).unwrap()];
                if current {
                    account.status = status;
                    if status == RunStatus::Running {
                        account.results = None;
                    }
                    account.events += 1;
                }
                store.set_status(lease, status)
            }
            1 => {
                account.sessions += u32::from(current);
                store.add_session(lease, Seconds { load: 0.5, prefill: 1.0, decode: 0.25, total: 2.0 })
            }
            _ => {
                let results = json!({"value": self.rng.next()});
                if current {
                    account.results = Some(results.clone());
                    account.events += 1;
                }
                store.save_results(lease, &results)
            }
        };
        assert_eq!(answer.is_ok(), current);
        self.count("change run");
    }

    fn rescore(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let scores = vec![score(Outcome::Refused)];
        let some: Vec<_> =
            self.runs[run].samples.keys().take(3).map(|key| (key.clone(), scores.clone())).collect();
        let answer = self.store().replace_scores(&self.owners[owner].lease, some.clone(), None);
        assert_eq!(answer.is_ok(), current);
        if current {
            for (key, scores) in some {
                self.runs[run].samples.get_mut(&key).unwrap().scores = scores;
            }
            self.runs[run].results = None;
            self.runs[run].events += 1;
            self.count("rescore");
        }
    }

    fn reopen_failed(&mut self) {
        let Some((owner, run, current)) = self.pick_owner() else { return };
        let answer = self.store().reopen_failed(&self.owners[owner].lease);
        assert_eq!(answer.is_ok(), current);
        if let Ok(reopened) = answer {
            let before = self.runs[run].samples.len() as u64;
            self.runs[run].samples.retain(|_, sample| sample.scores[0].outcome != Outcome::Error);
            assert_eq!(reopened, before - self.runs[run].samples.len() as u64);
            if reopened > 0 {
                self.runs[run].results = None;
                self.runs[run].events += 1;
            }
            self.count("reopen failed");
        }
    }

    fn cache(&mut self) {
        let key = self.rng.below(50);
        let digest = Digest::of(key.to_le_bytes());
        if self.rng.below(2) == 0 {
            let response = Response {
                output: Output::Text {
                    text: format!("{}", self.rng.next()),
                    finish: FinishReason::Length,
                    logprobs: None,
                    reasoning: None,
                },
                usage: Some(Usage::default()),
                truncated_tokens: 3,
                cached: false,
                latency: None,
            };
            self.store().cache_put(&digest, &response).unwrap();
            self.cache.entry(key).or_insert(response);
            self.count("cache put");
        }
        // A cached response is visible once a later write is committed.
        self.create();
        assert_eq!(self.store().cache_get(&digest).unwrap().as_ref(), self.cache.get(&key));
    }

    fn reopen(&mut self) {
        self.store = None;
        self.store = Some(self.clock.open(self.dir.path()));
        self.count("reopen");
    }

    /// The process dies: what the disk holds at this moment (data file and log, unclosed) is all that
    /// is left, and every lock is gone.
    fn crash(&mut self) {
        let after = memory_dir();
        for file in ["evalign.db", "evalign.db-wal"] {
            let from = self.dir.path().join(file);
            if from.exists() {
                fs_err::copy(from, after.path().join(file)).unwrap();
            }
        }
        self.owners.clear();
        self.store = Some(self.clock.open(after.path()));
        self.dir = after;
        self.count("crash");
    }

    fn read_one_run(&mut self) {
        let Some(index) = self.pick_run() else { return };
        let filter = SampleFilter {
            task: (self.rng.below(2) == 0).then(|| "b".to_owned()),
            outcome: (self.rng.below(2) == 0).then_some(Outcome::Refused),
            after: (self.rng.below(2) == 0).then(|| key("b", self.rng.below(200), 1)),
            limit: (self.rng.below(2) == 0).then(|| self.rng.below(400)),
        };
        let account = &self.runs[index];
        let expected: Vec<_> = account
            .samples
            .values()
            .filter(|s| filter.task.as_ref().is_none_or(|task| *task == s.key.task))
            .filter(|s| filter.outcome.is_none_or(|outcome| s.scores.iter().any(|sc| sc.outcome == outcome)))
            .filter(|s| filter.after.as_ref().is_none_or(|after| s.key > *after))
            .take(usize::try_from(filter.limit.unwrap_or(u64::MAX)).unwrap())
            .cloned()
            .collect();
        let found: Vec<_> = self.store().samples(&account.id, filter).unwrap().map(Result::unwrap).collect();
        assert_eq!(found, expected);
        self.count("read");
    }

    fn compare_everything(&mut self) {
        let store = self.store();
        for account in &self.runs {
            let stored = store.run(&account.id).unwrap();
            assert_eq!(stored.spec, new_run(account.spec_seed).spec);
            assert_eq!((stored.fork, stored.status), (account.fork, account.status));
            assert_eq!(stored.results, account.results);
            assert_eq!(stored.seconds.total, 2.0 * f64::from(account.sessions));
            let samples = account.samples.len() as u64;
            assert_eq!(stored.samples_done, samples);
            let usage = Usage {
                prompt_tokens: 10 * account.asked,
                computed_prompt_tokens: 4 * account.asked,
                generated_tokens: account.asked,
                ..Usage::default()
            };
            assert_eq!(stored.usage, usage);
            assert!(store.finished(&account.id).unwrap().iter().eq(account.samples.keys()));
            let all = store.samples(&account.id, SampleFilter::default()).unwrap().map(Result::unwrap);
            assert!(all.eq(account.samples.values().cloned()));
            let events = store.events(&account.id, 0, u32::MAX).unwrap();
            assert!(events.iter().map(|event| event.id).eq(1..=account.events));
        }
        let listed: Vec<_> = store.runs(u32::MAX).unwrap().into_iter().map(|run| run.id).collect();
        assert!(listed.iter().eq(self.runs.iter().rev().map(|run| &run.id)));
    }
}
