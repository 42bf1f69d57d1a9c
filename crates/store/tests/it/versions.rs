use std::path::{Path, PathBuf};

use evalign_core::{Digest, Hint as _, Outcome, RunStatus, Seconds};
use evalign_store::{SCHEMA_VERSION, SampleFilter, Store, StoreError};
use serde_json::json;

use crate::common::{TTL, TestClock, block_on, key, memory_dir, new_run, record, spec};

pub(crate) fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/{name}.db"))
}

fn of_version(version: i64) -> PathBuf {
    fixture(&format!("v{version}"))
}

/// What every fixture holds, as this version sees it.
fn check(store: &Store) {
    let run = store.find_run("last").unwrap();
    let stored = store.run(&run).unwrap();
    assert_eq!(stored.spec, spec(7));
    assert_eq!(stored.status, RunStatus::Running);
    assert_eq!(stored.results, Some(json!({"acc": 0.5})));
    assert_eq!(stored.seconds.total, 2.5);
    assert_eq!((stored.samples_done, stored.usage.prompt_tokens), (2, 20));
    let samples: Vec<_> = store.samples(&run, SampleFilter::default()).unwrap().map(Result::unwrap).collect();
    let expected =
        [record(key("t", 0, 0), Outcome::Correct, "one"), record(key("t", 1, 2), Outcome::Wrong, "two")];
    assert_eq!(samples, expected);
    assert_eq!(store.events(&run, 0, 100).unwrap().len(), 5);
    assert_eq!(store.cache_get(&Digest::of("absent")).unwrap(), None);
    let lease = store.lease(&run, "test", TTL).unwrap();
    block_on(store.commit_sample(&lease, &record(key("t", 2, 0), Outcome::Wrong, "three"))).unwrap();
    assert!(store.create_run(&new_run(7)).unwrap().existed, "a spec keeps its digest over versions");
}

#[test]
fn promise_7_stores_of_every_version_open() {
    for version in 1..=SCHEMA_VERSION {
        let dir = memory_dir();
        fs_err::copy(of_version(version), dir.path().join("evalign.db")).unwrap();
        check(&TestClock::default().open(dir.path()));
    }
}

#[test]
fn promise_7_a_newer_store_is_refused_unchanged() {
    let dir = memory_dir();
    let file = dir.path().join("evalign.db");
    fs_err::copy(of_version(1), &file).unwrap();
    let db = rusqlite::Connection::open(&file).unwrap();
    db.pragma_update(None, "user_version", 99).unwrap();
    drop(db);
    let before = fs_err::read(&file).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { found: 99, .. }));
    assert!(error.hint().unwrap().contains("update evalign"));
    assert_eq!(fs_err::read(&file).unwrap(), before);
}

/// Writes the fixture of the current version; run once when a version is released:
/// `cargo test -p evalign-store write_fixture -- --ignored`.
#[test]
#[ignore = "writes a file into the repository"]
fn write_fixture() {
    let dir = memory_dir();
    let store = TestClock::default().open(dir.path());
    let run = store.create_run(&new_run(7)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    store.set_status(&lease, RunStatus::Running).unwrap();
    store.add_session(&lease, Seconds { load: 1.0, prefill: 1.0, decode: 0.5, total: 2.5 }).unwrap();
    let samples =
        [record(key("t", 0, 0), Outcome::Correct, "one"), record(key("t", 1, 2), Outcome::Wrong, "two")];
    store.commit_samples(&lease, &samples).unwrap();
    store.save_results(&lease, &json!({"acc": 0.5})).unwrap();
    store.release(lease).unwrap();
    drop(store);
    fs_err::copy(dir.path().join("evalign.db"), of_version(SCHEMA_VERSION)).unwrap();
}
