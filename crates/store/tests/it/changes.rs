use evalign_core::{RunStatus, Tenant};
use evalign_store::Store;
use serde_json::json;

use crate::common::{TTL, memory_dir, new_run};

#[test]
fn the_version_changes_with_every_commit_whoever_makes_it_and_with_nothing_else() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    let first = store.version().unwrap();
    store.runs(10).unwrap();
    assert_eq!(store.version().unwrap(), first, "reading changes nothing");
    store.create_run(&new_run(1)).unwrap();
    let second = store.version().unwrap();
    assert_ne!(second, first);
    let other_process = Store::open(dir.path()).unwrap();
    other_process.create_run(&new_run(2)).unwrap();
    assert_ne!(store.version().unwrap(), second);
}

#[test]
fn completed_runs_change_with_what_happens_to_them_and_with_no_other_run() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    let none = store.completed_runs().unwrap();
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    store.set_status(&lease, RunStatus::Running).unwrap();
    assert_eq!(store.completed_runs().unwrap(), none, "it is not completed");
    store.set_status(&lease, RunStatus::Completed).unwrap();
    let completed = store.completed_runs().unwrap();
    assert_ne!(completed, none);
    let running = store.create_run(&new_run(2)).unwrap().id;
    let other = store.lease(&running, "test", TTL).unwrap();
    store.note_progress(&other, &json!({"step": 1})).unwrap();
    assert_eq!(store.completed_runs().unwrap(), completed);
    store.save_results(&lease, &json!({"results": []})).unwrap();
    let saved = store.completed_runs().unwrap();
    assert_ne!(saved, completed, "results were computed again");
    let tenant: Tenant = "other".parse().unwrap();
    assert_eq!(store.for_tenant(&tenant).completed_runs().unwrap(), none, "a tenant sees its own");
    store.set_status(&lease, RunStatus::Running).unwrap();
    assert_eq!(store.completed_runs().unwrap(), none);
}
