use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use evalign_core::{Outcome, RunId};
use evalign_store::{Store, StoreError};

use crate::common::{Rng, TTL, block_on, from_env, key, memory_dir, new_run, record};

const CHILD_DIR: &str = "EVALIGN_TEST_STORE_CHILD_DIR";

/// Not a test of its own: the process that the next test kills. Commits samples four at a time and
/// prints each once it is acknowledged.
#[test]
fn child() {
    let Ok(dir) = std::env::var(CHILD_DIR) else { return };
    let store = Store::open(dir.as_ref()).unwrap();
    let run = store.create_run(&new_run(1)).unwrap().id;
    // A dead predecessor must not make this one wait for its lease.
    let lease = store.lease(&run, "child", TTL).unwrap();
    let done = store.finished(&run).unwrap();
    let todo: Vec<_> = (0..100_000).filter(|doc| !done.contains(&key("t", *doc, 0))).collect();
    println!("ready");
    for group in todo.chunks(4) {
        let commits: Vec<_> = group
            .iter()
            .map(|doc| store.commit_sample(&lease, &record(key("t", *doc, 0), Outcome::Correct, "text")))
            .collect();
        for (doc, commit) in group.iter().zip(commits) {
            block_on(commit).unwrap();
            println!("acknowledged {doc}");
        }
    }
}

#[test]
fn promise_1_killed_processes_lose_no_acknowledged_sample() {
    let seed = from_env("EVALIGN_TEST_SEED", 1);
    let kills = from_env("EVALIGN_TEST_KILLS", 12);
    println!("seed {seed}, {kills} kills");
    let mut rng = Rng(seed);
    let dir = memory_dir();
    let mut acknowledged = BTreeSet::new();
    for _ in 0..kills {
        let mut process = Command::new(std::env::current_exe().unwrap())
            .args(["kills::child", "--exact", "--nocapture"])
            .env(CHILD_DIR, dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        assert!(lines.by_ref().any(|line| line.unwrap() == "ready"), "the child did not get its lease");
        std::thread::sleep(Duration::from_millis(rng.below(40)));
        process.kill().unwrap();
        let heard =
            |line: std::io::Result<String>| line.ok()?.strip_prefix("acknowledged ")?.parse::<u64>().ok();
        acknowledged.extend(lines.filter_map(heard));
        process.wait().unwrap();

        let store = Store::open(dir.path()).unwrap();
        let run = store.find_run("last").unwrap();
        let stored: BTreeSet<u64> = store.finished(&run).unwrap().iter().map(|key| key.doc).collect();
        assert!(acknowledged.is_subset(&stored), "seed {seed}: lost {:?}", acknowledged.difference(&stored));
        consistent(&store, &run, stored.len()).unwrap();
    }
    println!("{} samples acknowledged", acknowledged.len());
    assert!(!acknowledged.is_empty());
}

/// A sample, its usage and its event are there together or not at all.
fn consistent(store: &Store, run: &RunId, samples: usize) -> Result<(), StoreError> {
    let stored = store.run(run)?;
    let events = store.events(run, 0, u32::MAX)?;
    assert_eq!(stored.samples_done, samples as u64);
    assert_eq!(stored.usage.prompt_tokens, 10 * samples as u64);
    assert_eq!(events.iter().filter(|event| event.kind == "sample.completed").count(), samples);
    assert!(events.iter().zip(1..).all(|(event, id)| event.id == id));
    Ok(())
}
