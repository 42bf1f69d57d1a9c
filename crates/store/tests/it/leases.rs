use std::time::Duration;

use evalign_core::{Hint as _, Outcome, RunStatus, Seconds};
use evalign_store::StoreError;
use serde_json::json;

use crate::common::{TTL, TestClock, block_on, key, memory_dir, new_run, record};

#[test]
fn a_living_owner_is_respected_and_named() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let (first, second) = (clock.open(dir.path()), clock.open(dir.path()));
    let run = first.create_run(&new_run(1)).unwrap().id;
    assert!(!second.is_leased(&run).unwrap());
    let lease = first.lease(&run, "process one", TTL).unwrap();
    clock.advance(Duration::from_millis(28_500));
    assert!(second.is_leased(&run).unwrap());
    let refused = second.lease(&run, "process two", TTL).unwrap_err();
    assert!(
        matches!(&refused, StoreError::LeaseHeld { owner, seconds_left: 2, .. } if owner == "process one")
    );
    assert!(refused.hint().unwrap().contains("2 s"));
    first.renew(&lease, TTL).unwrap();
    clock.advance(Duration::from_secs(29));
    assert!(second.lease(&run, "process two", TTL).is_err());
    first.release(lease).unwrap();
    assert!(!second.is_leased(&run).unwrap());
    assert_eq!(second.lease(&run, "process two", TTL).unwrap().token(), 2);
    clock.advance(TTL);
    assert!(!first.is_leased(&run).unwrap(), "its term is over");
}

#[test]
fn a_suspended_owner_is_fenced_off() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let (paused, other) = (clock.open(dir.path()), clock.open(dir.path()));
    let run = paused.create_run(&new_run(1)).unwrap().id;
    let old = paused.lease(&run, "paused", TTL).unwrap();
    let sample = |doc| record(key("t", doc, 0), Outcome::Correct, "x");
    block_on(paused.commit_sample(&old, &sample(0))).unwrap();
    clock.advance(TTL);
    let new = other.lease(&run, "other", TTL).unwrap();
    assert!(new.token() > old.token());

    let lost = |result: Result<(), StoreError>| assert!(matches!(result, Err(StoreError::LeaseLost { .. })));
    lost(block_on(paused.commit_sample(&old, &sample(1))));
    lost(paused.commit_samples(&old, &[sample(1)]));
    lost(paused.set_status(&old, RunStatus::Failed));
    lost(paused.add_session(&old, Seconds::default()));
    lost(paused.save_results(&old, &json!({})));
    lost(paused.replace_scores(&old, vec![], None));
    lost(paused.renew(&old, TTL));
    lost(paused.release(old));
    block_on(other.commit_sample(&new, &sample(1))).unwrap();
    assert_eq!(other.finished(&run).unwrap().len(), 2);
    assert_eq!(other.run(&run).unwrap().status, RunStatus::Queued);
}

#[test]
fn an_owner_that_vanished_is_replaced_at_once() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "will vanish", TTL).unwrap();
    let copy = lease.clone();
    drop(lease);
    assert!(store.lease(&run, "next", TTL).is_err(), "a copy still lives");
    drop(copy);
    assert_eq!(store.lease(&run, "next", TTL).unwrap().token(), 2);
}

#[test]
fn without_a_lock_file_only_time_frees_a_run() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    // The directory for lock files cannot be made.
    fs_err::write(dir.path().join("locks"), "").unwrap();
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    drop(store.lease(&run, "vanished", TTL).unwrap());
    assert!(store.lease(&run, "next", TTL).is_err());
    clock.advance(TTL);
    store.lease(&run, "next", TTL).unwrap();
}

#[test]
fn a_released_lease_is_of_no_use() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "one", TTL).unwrap();
    store.release(lease.clone()).unwrap();
    let late = block_on(store.commit_sample(&lease, &record(key("t", 0, 0), Outcome::Correct, "x")));
    assert!(matches!(late, Err(StoreError::LeaseLost { .. })));
}
