use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use evalign_core::{Hint as _, Outcome, RunStatus, Seconds};
use evalign_store::{INTERRUPTED, Store, StoreError, StoreOptions};
use serde_json::json;

use crate::common::{TTL, TestClock, block_on, key, memory_dir, new_run, record};

#[test]
fn a_living_owner_is_respected_and_named() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let (first, second) = (clock.open(dir.path()), clock.open(dir.path()));
    let run = first.create_run(&new_run(1)).unwrap().id;
    let lease = first.lease(&run, "process one", TTL).unwrap();
    first.set_status(&lease, RunStatus::Running).unwrap();
    clock.advance(Duration::from_millis(28_500));
    assert_eq!(second.status_name(&run).unwrap(), "running");
    let refused = second.lease(&run, "process two", TTL).unwrap_err();
    assert!(
        matches!(&refused, StoreError::LeaseHeld { owner, seconds_left: 2, .. } if owner == "process one")
    );
    assert!(refused.hint().unwrap().contains("2 s"));
    first.renew(&lease, TTL).unwrap();
    clock.advance(Duration::from_secs(29));
    assert!(second.lease(&run, "process two", TTL).is_err());
    first.release(lease).unwrap();
    assert_eq!(second.status_name(&run).unwrap(), INTERRUPTED);
    assert_eq!(second.lease(&run, "process two", TTL).unwrap().token(), 2);
    assert_eq!(first.status_name(&run).unwrap(), "running");
    clock.advance(TTL);
    assert_eq!(first.status_name(&run).unwrap(), INTERRUPTED, "its term is over");
}

#[test]
fn promise_5_a_suspended_owner_is_fenced_off() {
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

const OWNER_DIR: &str = "EVALIGN_TEST_STORE_OWNER_DIR";

/// Not a test of its own: the process that the next test suspends. Commits one sample, and another when it is told to.
#[test]
fn owner() {
    let Ok(dir) = std::env::var(OWNER_DIR) else { return };
    let store = Store::open(dir.as_ref()).unwrap();
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "suspended", TTL).unwrap();
    for (doc, told) in
        [0, 1].into_iter().zip(std::iter::once(Ok(String::new())).chain(std::io::stdin().lines()))
    {
        told.unwrap();
        let commit = store.commit_sample(&lease, &record(key("t", doc, 0), Outcome::Correct, "text"));
        match block_on(commit) {
            Ok(()) => println!("committed {doc}"),
            Err(StoreError::LeaseLost { .. }) => println!("lost its lease before {doc}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// A process that does not outlive its test, suspended or not.
struct Owner(std::process::Child);

impl Drop for Owner {
    fn drop(&mut self) {
        // It may have ended.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The process is real and so is its suspension; that its term is over is the other's clock.
#[cfg(unix)]
#[test]
fn promise_5_a_process_that_was_suspended_past_its_lease_commits_nothing_more() {
    let dir = memory_dir();
    let process = Command::new(std::env::current_exe().unwrap())
        .args(["leases::owner", "--exact", "--nocapture"])
        .env(OWNER_DIR, dir.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut owner = Owner(process);
    let mut said = BufReader::new(owner.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    // With one thread, the name of the test stands before it.
    assert!(said.any(|line| line.ends_with("committed 0")), "the owner did not get its lease");
    let id = owner.0.id().to_string();
    let signal = |name: &str| Command::new("kill").args([name, &id]).status().unwrap();
    assert!(signal("-STOP").success());

    let at = |later: Duration| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap() + later;
        let clock: evalign_store::Clock = Arc::new(move || u64::try_from(now.as_millis()).unwrap());
        Store::open_with(dir.path(), StoreOptions { clock, ..StoreOptions::default() }).unwrap()
    };
    let run = at(Duration::ZERO).find_run("last").unwrap();
    let early = at(Duration::ZERO).lease(&run, "other", TTL);
    assert!(matches!(early, Err(StoreError::LeaseHeld { .. })), "{early:?}");
    let other = at(TTL);
    let lease = other.lease(&run, "other", TTL).unwrap();

    assert!(signal("-CONT").success());
    owner.0.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert_eq!(said.find(|line| line.ends_with('1')).as_deref(), Some("lost its lease before 1"));
    assert!(owner.0.wait().unwrap().success());
    assert_eq!(other.finished(&run).unwrap().len(), 1);
    block_on(other.commit_sample(&lease, &record(key("t", 1, 0), Outcome::Correct, "text"))).unwrap();
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
