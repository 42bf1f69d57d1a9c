use std::time::{Duration, Instant};

use evalign_core::Outcome;
use evalign_store::Store;

use crate::common::{TTL, block_on, key, memory_dir, new_run, record};

#[test]
fn many_openers_create_one_store_and_one_run() {
    let dir = memory_dir();
    let ids: Vec<_> = std::thread::scope(|scope| {
        let start = || Store::open(dir.path()).unwrap().create_run(&new_run(1)).unwrap();
        let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(ids.iter().filter(|created| !created.existed).count(), 1);
    assert!(ids.iter().all(|created| created.id == ids[0].id));
}

#[test]
fn what_was_submitted_before_the_end_is_stored() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    for doc in 0..300 {
        drop(store.commit_sample(&lease, &record(key("t", doc, 0), Outcome::Correct, "x")));
    }
    drop((lease, store));
    assert_eq!(Store::open(dir.path()).unwrap().finished(&run).unwrap().len(), 300);
}

/// Samples that come together share a transaction. One that is refused there is refused alone: the others
/// are stored once, and are counted once.
#[test]
fn a_refused_sample_costs_its_neighbours_nothing() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let commit = |doc| store.commit_sample(&lease, &record(key("t", doc, 0), Outcome::Correct, "x"));
    block_on(commit(7)).unwrap();
    let before = store.run(&run).unwrap();
    // Every seventh is there already.
    let commits: Vec<_> = (0..100).map(|doc| (doc, commit(if doc % 7 == 0 { 7 } else { doc }))).collect();
    let mut stored = 1;
    for (doc, commit) in commits {
        match (doc % 7, block_on(commit)) {
            (0, Err(error)) => assert!(error.to_string().contains("already stored"), "{error}"),
            (0, Ok(())) => panic!("sample 7 was stored twice"),
            (_, result) => {
                result.unwrap();
                stored += 1;
            }
        }
    }
    let after = store.run(&run).unwrap();
    assert_eq!((after.samples_done, store.finished(&run).unwrap().len() as u64), (stored, stored));
    assert_eq!(after.usage.prompt_tokens, before.usage.prompt_tokens * stored);
    let events = store.events(&run, 0, 1000).unwrap();
    let told = events.iter().filter(|event| event.kind == "sample.completed").count() as u64;
    assert_eq!(told, stored);
    assert!(events.iter().zip(1..).all(|(event, id)| event.id == id), "events are numbered without gaps");
}

/// Not a benchmark with a threshold (disks differ): prints what group commit gains here.
#[test]
fn commits_of_many_samples_share_a_flush() {
    let dir = tempfile::tempdir().unwrap();
    let opened = Instant::now();
    let store = Store::open(dir.path()).unwrap();
    let create = opened.elapsed();
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let text = "word ".repeat(800);
    let records: Vec<_> = (0..3100).map(|doc| record(key("t", doc, 0), Outcome::Correct, &text)).collect();
    let (one_by_one, rest) = records.split_at(100);
    let timed = |work: &dyn Fn()| {
        let start = Instant::now();
        work();
        start.elapsed()
    };
    let alone = timed(&|| {
        for record in one_by_one {
            block_on(store.commit_sample(&lease, record)).unwrap();
        }
    });
    let together = timed(&|| {
        for group in rest.chunks(64) {
            let commits: Vec<_> = group.iter().map(|record| store.commit_sample(&lease, record)).collect();
            for commit in commits {
                block_on(commit).unwrap();
            }
        }
    });
    let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64();
    println!(
        "samples of {} bytes: {:.0} commits/s one by one, {:.0} commits/s 64 at a time; store created in {:.1} ms",
        text.len(),
        rate(one_by_one.len(), alone),
        rate(rest.len(), together),
        create.as_secs_f64() * 1e3,
    );
    drop((lease, store));
    let reopened = Instant::now();
    let store = Store::open(dir.path()).unwrap();
    println!("store with 3100 samples opened in {:.1} ms", reopened.elapsed().as_secs_f64() * 1e3);
    assert_eq!(store.finished(&run).unwrap().len(), 3100);
}
