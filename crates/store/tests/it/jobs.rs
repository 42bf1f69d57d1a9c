use std::time::Duration;

use evalign_core::{RunStatus, Tenant};
use evalign_store::{Enqueued, INTERRUPTED, JobState, Orphans};
use serde_json::json;

use crate::common::{TTL, TestClock, memory_dir, new_run};

#[test]
fn a_job_that_ends_every_server_is_given_up() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    assert_eq!(store.enqueue(&run, &json!({}), 10).unwrap(), Enqueued::Queued);
    // A server that is told to end has not failed at it.
    for _ in 0..5 {
        store.hand_back(&store.claim("worker", TTL).unwrap().unwrap()).unwrap();
    }
    for _ in 0..2 {
        assert!(store.claim("worker", TTL).unwrap().is_some());
        let left = store.requeue_orphans().unwrap();
        assert_eq!(left, Orphans { requeued: 1, given_up: Vec::new() });
    }
    assert!(store.claim("worker", TTL).unwrap().is_some());
    let left = store.requeue_orphans().unwrap();
    assert_eq!(left, Orphans { requeued: 0, given_up: vec![(Tenant::default(), run.clone())] });
    assert!(store.claim("worker", TTL).unwrap().is_none());
    let job = store.job_of(&run).unwrap().unwrap();
    assert_eq!(job.state, JobState::Failed);
    assert!(job.error.unwrap().contains("3 times"));
    // Who asks for it again means it.
    assert_eq!(store.enqueue(&run, &json!({}), 10).unwrap(), Enqueued::Queued);
    assert!(store.claim("worker", TTL).unwrap().is_some());
    assert_eq!(store.requeue_orphans().unwrap().requeued, 1);
}

#[test]
fn who_lost_a_claim_stays_fenced_off_when_the_next_one_hands_back() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    store.enqueue(&run, &json!({}), 10).unwrap();
    let lost = store.claim("first", TTL).unwrap().unwrap();
    clock.advance(TTL + Duration::from_secs(1));
    let second = store.claim("second", TTL).unwrap().unwrap();
    store.hand_back(&second).unwrap();
    let third = store.claim("third", TTL).unwrap().unwrap();
    assert_eq!(store.renew_claim(&lost, TTL).unwrap(), None);
    store.settle(&lost, JobState::Failed, Some("late")).unwrap();
    store.hand_back(&lost).unwrap();
    assert_eq!(store.job_of(&run).unwrap().unwrap().state, JobState::Running);
    assert_eq!(store.renew_claim(&third, TTL).unwrap(), Some(false));
}

/// Whatever a run came to: while a job of it waits or is worked on, it says so, wherever it is shown or looked for.
#[test]
fn a_run_is_shown_and_listed_by_what_becomes_of_it_next() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let mark = |status| {
        let lease = store.lease(&run, "worker", TTL).unwrap();
        store.set_status(&lease, status).unwrap();
        store.release(lease).unwrap();
    };
    let check = |shown: &str| {
        assert_eq!(store.status_name(&run).unwrap(), shown);
        for name in ["queued", "running", "completed", "failed", "cancelled", "budget_exhausted", INTERRUPTED]
        {
            let listed = store.runs_after(None, 9, Some(name)).unwrap().len();
            assert_eq!(listed, usize::from(name == shown), "{name}");
        }
    };
    check("queued");
    // The server is told to end in the middle of it.
    store.enqueue(&run, &json!({}), 10).unwrap();
    let claim = store.claim("worker", TTL).unwrap().unwrap();
    check("running");
    mark(RunStatus::Cancelled);
    check("running");
    store.hand_back(&claim).unwrap();
    check("queued");
    // The next one is killed: it is nobody's when its time is over, until another server has it.
    store.claim("worker", TTL).unwrap().unwrap();
    mark(RunStatus::Running);
    check("running");
    clock.advance(TTL);
    check(INTERRUPTED);
    store.requeue_orphans().unwrap();
    check("queued");
    let claim = store.claim("worker", TTL).unwrap().unwrap();
    mark(RunStatus::Completed);
    check("running");
    store.settle(&claim, JobState::Done, None).unwrap();
    check("completed");
    let other = store.for_tenant(&"other".parse().unwrap());
    assert!(other.status_name(&run).is_err());
    assert!(other.runs_after(None, 9, Some("completed")).unwrap().is_empty());
}
