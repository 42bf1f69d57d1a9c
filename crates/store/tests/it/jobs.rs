use std::time::Duration;

use evalign_core::Tenant;
use evalign_store::{Enqueued, JobState, Orphans};
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
