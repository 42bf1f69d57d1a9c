use std::collections::BTreeSet;

use evalign_core::{Hint as _, Outcome};
use evalign_store::{Fault, Store, StoreError, StoreOptions};

use crate::common::{TTL, TestClock, block_on, key, memory_dir, new_run, record};

#[test]
fn promise_6_a_full_disk_stops_the_run_and_loses_nothing() {
    let dir = memory_dir();
    let limited = StoreOptions { max_bytes: Some(400_000), ..StoreOptions::default() };
    let store = Store::open_with(dir.path(), limited).unwrap();
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let long = "x".repeat(3000);
    let sample = |doc| record(key("t", doc, 0), Outcome::Correct, &long);
    let mut acknowledged = BTreeSet::new();
    let mut refused = None;
    for group in 0..100 {
        let commits: Vec<_> = (0..8)
            .map(|i| sample(group * 8 + i))
            .map(|s| (s.key.clone(), store.commit_sample(&lease, &s)))
            .collect();
        for (key, commit) in commits {
            match block_on(commit) {
                Ok(()) => drop(acknowledged.insert(key)),
                Err(error) => refused = Some(error),
            }
        }
        if refused.is_some() {
            break;
        }
    }
    let refused = refused.unwrap();
    assert_eq!(refused.fault(), Some(Fault::Full), "{refused}");
    assert!(refused.hint().unwrap().contains("resume"));
    assert!(acknowledged.len() > 5);
    assert_eq!(store.finished(&run).unwrap(), acknowledged, "still readable");
    drop((lease, store));

    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.finished(&run).unwrap(), acknowledged);
    assert_eq!(store.run(&run).unwrap().samples_done, acknowledged.len() as u64);
    let lease = store.lease(&run, "test", TTL).unwrap();
    for doc in 0..50 {
        if !acknowledged.contains(&key("t", doc, 0)) {
            block_on(store.commit_sample(&lease, &sample(doc))).unwrap();
        }
    }
}

#[test]
fn promise_6_a_read_only_store_says_so() {
    let dir = memory_dir();
    drop(TestClock::default().open(dir.path()).create_run(&new_run(1)).unwrap());
    let file = dir.path().join("evalign.db");
    let mut permissions = fs_err::metadata(&file).unwrap().permissions();
    permissions.set_readonly(true);
    fs_err::set_permissions(&file, permissions).unwrap();
    if fs_err::OpenOptions::new().append(true).open(&file).is_ok() {
        println!("skipped: this user may write read-only files");
        return;
    }
    let outcome = Store::open(dir.path()).and_then(|store| store.create_run(&new_run(2)).map(drop));
    let error = outcome.unwrap_err();
    assert_eq!(error.fault(), Some(Fault::ReadOnly), "{error}");
    assert!(error.hint().unwrap().contains("EVALIGN_HOME"));
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let dir = memory_dir();
    fs_err::write(dir.path().join("file"), "").unwrap();
    let error = Store::open(&dir.path().join("file").join("home")).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::CannotOpen));
    assert!(error.to_string().contains("file"), "{error}");
    fs_err::create_dir_all(dir.path().join("home").join("evalign.db")).unwrap();
    let error = Store::open(&dir.path().join("home")).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::CannotOpen));
    assert!(error.hint().unwrap().contains("EVALIGN_HOME"));
}

#[test]
fn files_that_are_no_store_are_left_alone() {
    let dir = memory_dir();
    let file = dir.path().join("evalign.db");
    let garbage =
        b"this is a text file and not a database at all, long enough to have a header .......".repeat(40);
    fs_err::write(&file, &garbage).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::NotAStore), "{error}");
    assert_eq!(fs_err::read(&file).unwrap(), garbage);
    fs_err::remove_file(&file).unwrap();

    let other = rusqlite::Connection::open(&file).unwrap();
    other.execute_batch("CREATE TABLE recipes (name TEXT); PRAGMA user_version = 1;").unwrap();
    drop(other);
    let before = fs_err::read(&file).unwrap();
    let error = Store::open(dir.path()).unwrap_err();
    assert_eq!(error.fault(), Some(Fault::NotAStore), "{error}");
    assert_eq!(fs_err::read(&file).unwrap(), before);
}

#[test]
fn a_damaged_store_says_so() {
    let (dir, clock) = (memory_dir(), TestClock::default());
    let store = clock.open(dir.path());
    let run = store.create_run(&new_run(1)).unwrap().id;
    let lease = store.lease(&run, "test", TTL).unwrap();
    let long = "x".repeat(2000);
    let records: Vec<_> = (0..200).map(|doc| record(key("t", doc, 0), Outcome::Correct, &long)).collect();
    store.commit_samples(&lease, &records).unwrap();
    drop((lease, store));
    let file = fs_err::OpenOptions::new().write(true).open(dir.path().join("evalign.db")).unwrap();
    file.set_len(200_000).unwrap();
    drop(file);
    let read = Store::open(dir.path()).and_then(|store| {
        store.samples(&run, evalign_store::SampleFilter::default())?.collect::<Result<Vec<_>, StoreError>>()
    });
    let error = read.unwrap_err();
    assert_eq!(error.fault(), Some(Fault::Corrupt), "{error}");
    assert!(error.hint().unwrap().contains("aside"));
}
