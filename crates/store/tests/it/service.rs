//! What the service keeps of keys and requests.

use std::collections::BTreeSet;

use evalign_core::{Digest, RunStatus, Tenant};
use evalign_store::{
    Enqueued, IDEMPOTENCY_TTL, IndexCommit, JobState, KeyLimits, KeyScope, KeyUse, NewKey, Repetition, Store,
    StoreError,
};
use serde_json::json;

use crate::common::{TTL, TestClock, memory_dir, new_run};
use crate::versions::fixture;

fn with_key(store: &Store, id: &str, limits: KeyLimits) -> Store {
    let (tenant, digest) = (Tenant::default(), Digest::of(id));
    let name = String::new();
    let key =
        NewKey { id: id.to_owned(), tenant, name, scope: KeyScope::Run, digest, expires_ms: None, limits };
    store.create_key(&key).unwrap();
    store.on_behalf_of(id)
}

/// A store of version 5 in which a server has worked: its keys are as good as before and without limits, an answer is
/// repeated, and what is new works.
#[test]
fn promise_7_a_service_of_version_5_goes_on() {
    let dir = memory_dir();
    fs_err::copy(fixture("v5_service"), dir.path().join("evalign.db")).unwrap();
    let store = TestClock::default().open(dir.path());
    let keys = store.keys().unwrap();
    let known: Vec<_> = keys.iter().map(|key| (key.tenant.as_str(), key.scope, key.limits)).collect();
    let none = KeyLimits::default();
    assert_eq!(known, [("default", KeyScope::Run, none), ("other", KeyScope::Read, none)]);
    let body = r#"{"model":"small","tasks":["samples_knowledge"],"limit":1,"fork":true}"#;
    let body = Digest::of(format!("POST /v1/runs\n{}", Digest::of(body)));
    let answered = store.begin_request("fixture", &body).unwrap();
    assert!(matches!(answered, Repetition::Answered { status: 202, .. }), "{answered:?}");
    let run = store.find_run("last").unwrap();
    assert_eq!(store.job_of(&run).unwrap().unwrap().state, JobState::Done);
    assert_eq!(store.file_bytes().unwrap(), 0);
    let used = KeyUse { requests: 1, tokens: 2 };
    store.add_key_use(&[(keys[1].id.clone(), 20_000, used)]).unwrap();
    assert_eq!(store.key_use(&keys[1].id, 20_000).unwrap(), used);
    store.on_behalf_of(&keys[1].id).enqueue(&run, &json!({}), 10).unwrap();
    assert_eq!(store.claim("worker", TTL).unwrap().unwrap().key, Some(keys[1].id.clone()));
}

/// A store of version 6, made by that version, in which documents were indexed and answers judged: what is looked up by
/// the indexes of version 7 is found in what was there before.
#[test]
fn promise_7_a_service_of_version_6_goes_on() {
    let dir = memory_dir();
    fs_err::copy(fixture("v6_service"), dir.path().join("evalign.db")).unwrap();
    let store = TestClock::default().open(dir.path());
    assert_eq!(store.keys().unwrap()[0].limits.requests_per_day, Some(7));
    let run = store.find_run("last").unwrap();
    let judged = |status| store.runs_of_procedure("judge", None, 10, status).unwrap();
    let ids: Vec<_> = judged(Some(RunStatus::Completed)).into_iter().map(|run| run.id).collect();
    assert_eq!(ids, std::slice::from_ref(&run));
    assert!(judged(Some(RunStatus::Queued)).is_empty());
    assert!(store.runs_of_procedure("judge", Some(&run), 10, None).unwrap().is_empty());
    assert!(store.runs_of_procedure("train", None, 10, None).unwrap().is_empty());
    assert_eq!(store.tenant_of(&run).unwrap(), Some(Tenant::default()));
    // Two of the three documents have one text.
    let (index, tenant) = ("docs", "default");
    let documents = store.indexed_documents(index, tenant).unwrap();
    let texts = || {
        let texts = documents.iter().filter_map(|document| document.text.as_ref());
        texts.filter(|text| store.text(text).unwrap().is_some()).collect::<BTreeSet<_>>().len()
    };
    assert_eq!((documents.len(), texts(), store.drop_unused_texts().unwrap()), (3, 2, 0));
    for (place, left) in [(0, 2), (1, 1)] {
        let deleted = vec![documents[place].document.clone()];
        store.commit_documents(index, tenant, IndexCommit { deleted, ..IndexCommit::default() }).unwrap();
        assert_eq!(texts(), left);
    }
}

#[test]
fn a_page_of_what_runs_do_is_read_without_the_others() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let (other, mut made) = (store.for_tenant(&"other".parse().unwrap()), Vec::new());
    for seed in 0..6 {
        let mut new = new_run(seed);
        if seed % 2 == 0 {
            new.request = json!({"procedure": "train"});
            other.create_run(&new).unwrap();
        }
        made.push(store.create_run(&new).unwrap().id);
    }
    let page = |after, limit| {
        let runs = store.runs_of_procedure("train", after, limit, None).unwrap();
        runs.into_iter().map(|run| run.id).collect::<Vec<_>>()
    };
    assert_eq!(page(None, 2), [made[4].clone(), made[2].clone()]);
    assert_eq!(page(Some(&made[2]), 2), [made[0].clone()]);
    assert_eq!(store.runs_asked_for("procedure", "train").unwrap().len(), 3);
    let none = store.for_tenant(&"none".parse().unwrap());
    assert!(none.runs_of_procedure("train", None, 9, None).unwrap().is_empty());
    assert!(matches!(
        none.runs_of_procedure("train", Some(&made[0]), 9, None),
        Err(StoreError::NoSuchRun { .. })
    ));
    let removed = store.lease(&made[0], "test", TTL).unwrap();
    store.remove_run(removed).unwrap();
    assert_eq!((page(None, 9).len(), store.tenant_of(&made[0]).unwrap()), (2, None));
    assert_eq!(store.tenant_of(&made[1]).unwrap(), Some(Tenant::default()));
}

#[test]
fn what_a_key_may_use_can_be_changed() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let limits =
        KeyLimits { requests_per_day: Some(5), tokens_per_day: Some(u64::MAX), max_active_runs: None };
    with_key(&store, "a", KeyLimits { max_active_runs: Some(1), ..KeyLimits::default() });
    with_key(&store, "b", KeyLimits::default());
    assert!(store.limit_key("a", limits).unwrap() && !store.limit_key("c", limits).unwrap());
    let kept = |id: &str| store.key(id).unwrap().unwrap().limits;
    assert_eq!(kept("a"), KeyLimits { tokens_per_day: Some(i64::MAX as u64), ..limits });
    assert_eq!(kept("b"), KeyLimits::default());
}

#[test]
fn what_a_key_has_used_adds_up_by_day_and_outlives_the_process() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let used = |requests, tokens| KeyUse { requests, tokens };
    let store = clock.open(dir.path());
    let limits =
        KeyLimits { requests_per_day: Some(5), tokens_per_day: Some(u64::MAX), max_active_runs: Some(1) };
    with_key(&store, "a", limits);
    store.add_key_use(&[("a".to_owned(), 100, used(1, 10)), ("b".to_owned(), 100, used(7, 0))]).unwrap();
    store.add_key_use(&[("a".to_owned(), 100, used(2, 5)), ("a".to_owned(), 101, used(1, 1))]).unwrap();
    drop(store);
    let store = clock.open(dir.path());
    let kept = store.key("a").unwrap().unwrap().limits;
    // More than the database can count is what it can count.
    assert_eq!(kept, KeyLimits { tokens_per_day: Some(i64::MAX as u64), ..limits });
    assert_eq!(store.key_use("a", 100).unwrap(), used(3, 15));
    assert_eq!(store.key_use("a", 101).unwrap(), used(1, 1));
    assert_eq!(store.key_use("b", 100).unwrap(), used(7, 0));
    assert_eq!(store.key_use("b", 101).unwrap(), KeyUse::default());
    store.add_key_use(&[("a".to_owned(), 200, used(1, 1))]).unwrap();
    assert_eq!(store.key_use("a", 100).unwrap(), KeyUse::default(), "days long ago are forgotten");
}

#[test]
fn a_key_has_as_many_active_jobs_as_it_may() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let (one, any) = (KeyLimits { max_active_runs: Some(1), ..KeyLimits::default() }, KeyLimits::default());
    let (limited, free) = (with_key(&store, "limited", one), with_key(&store, "free", any));
    let runs: Vec<_> = (0..4).map(|seed| store.create_run(&new_run(seed)).unwrap().id).collect();
    let enqueue = |store: &Store, run: usize| store.enqueue(&runs[run], &json!({}), 3).unwrap();
    assert_eq!(enqueue(&limited, 0), Enqueued::Queued);
    assert_eq!(enqueue(&limited, 0), Enqueued::WasActive);
    assert_eq!(
        (enqueue(&limited, 1), limited.jobs_full(3).unwrap()),
        (Enqueued::KeyFull, Some(Enqueued::KeyFull))
    );
    assert_eq!((enqueue(&free, 1), free.jobs_full(3).unwrap()), (Enqueued::Queued, None));
    assert_eq!(enqueue(&store, 2), Enqueued::Queued);
    assert_eq!((enqueue(&free, 3), store.jobs_full(3).unwrap()), (Enqueued::Full, Some(Enqueued::Full)));
    // Being worked on counts as waiting does; what has ended does not.
    let claim = store.claim("worker", TTL).unwrap().unwrap();
    assert_eq!((claim.key.as_deref(), &claim.run), (Some("limited"), &runs[0]));
    assert_eq!(limited.jobs_full(10).unwrap(), Some(Enqueued::KeyFull));
    store.settle(&claim, JobState::Done, None).unwrap();
    assert_eq!(limited.jobs_full(10).unwrap(), None);
}

/// Promise 20: however long a request takes, its key is not forgotten meanwhile; its answer is kept for a day more.
#[test]
fn promise_20_a_request_that_takes_long_keeps_its_key() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let (body, other) = (Digest::of("body"), Digest::of("other"));
    assert_eq!(store.begin_request("key", &body).unwrap(), Repetition::First);
    clock.advance(100 * IDEMPOTENCY_TTL);
    assert_eq!(store.begin_request("key", &body).unwrap(), Repetition::Running);
    assert_eq!(store.begin_request("key", &other).unwrap(), Repetition::Differs);
    store.finish_request("key", 202, "{}").unwrap();
    clock.advance(IDEMPOTENCY_TTL - TTL);
    let answered = Repetition::Answered { status: 202, response: "{}".to_owned() };
    assert_eq!(store.begin_request("key", &body).unwrap(), answered);
    clock.advance(TTL);
    assert_eq!(store.begin_request("key", &other).unwrap(), Repetition::First);
}

/// Promise 20: a server that died between making a run and answering leaves the run to the request's repetition.
#[test]
fn promise_20_what_a_dead_server_made_of_a_request_is_what_its_repetition_makes() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let mut new = new_run(1);
    new.fork = true;
    let store = clock.open(dir.path()).for_request("key");
    assert_eq!(store.begin_request("key", &Digest::of("body")).unwrap(), Repetition::First);
    assert_eq!(store.begin_request("none", &Digest::of("body")).unwrap(), Repetition::First);
    let made = store.create_run(&new).unwrap();
    drop(store);
    let store = clock.open(dir.path());
    store.abandon_requests().unwrap();
    assert_eq!(
        store.begin_request("none", &Digest::of("other")).unwrap(),
        Repetition::First,
        "nothing was made"
    );
    assert_eq!(store.begin_request("key", &Digest::of("other")).unwrap(), Repetition::Differs);
    assert_eq!(store.begin_request("key", &Digest::of("body")).unwrap(), Repetition::First);
    assert_eq!(store.begin_request("key", &Digest::of("body")).unwrap(), Repetition::Running);
    assert_ne!(store.create_run(&new).unwrap().id, made.id, "a fork that this request did not ask for");
    let again = store.for_request("key").create_run(&new).unwrap();
    assert!(again.existed);
    assert_eq!(again.id, made.id);
    let tenant: Tenant = "other".parse().unwrap();
    assert!(!store.for_tenant(&tenant).for_request("key").create_run(&new).unwrap().existed);
}

#[test]
fn a_run_that_was_removed_is_nobodys_and_never_another() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let stale = store.lease(&run, "stale", TTL).unwrap();
    clock.advance(2 * TTL);
    store.enqueue(&run, &json!({}), 10).unwrap();
    assert_eq!(store.kept_bytes(run.as_str()).unwrap(), None);
    store.keep_bytes(run.as_str(), 7).unwrap();
    assert_eq!((store.kept_bytes(run.as_str()).unwrap(), store.file_bytes().unwrap()), (Some(7), 7));
    store.remove_run(store.lease(&run, "test", TTL).unwrap()).unwrap();
    store.keep_bytes(run.as_str(), 0).unwrap();
    assert_eq!(store.file_bytes().unwrap(), 0);
    assert!(matches!(store.run(&run), Err(StoreError::NoSuchRun { .. })));
    assert!(store.runs(10).unwrap().is_empty());
    assert_eq!((store.job_of(&run).unwrap(), store.claim("worker", TTL).unwrap()), (None, None));
    let lost = store.renew(&stale, TTL);
    assert!(matches!(lost, Err(StoreError::LeaseLost { .. })), "{lost:?}");
    // The same specification is a new run, also a second time.
    for _ in 0..2 {
        let next = store.create_run(&new_run(1)).unwrap();
        assert!(!next.existed && next.id != run);
        assert!(store.renew(&stale, TTL).is_err());
        store.remove_run(store.lease(&next.id, "test", TTL).unwrap()).unwrap();
    }
}
