//! What was flushed survives a process that ends in any way; what another process holds is not touched.

use std::sync::Arc;

use evalign_rag::{CollectionSpec, EdgeStore, Point, RagError, Scope, SparseVector, VectorStore, With};
use uuid::Uuid;

const SPEC: CollectionSpec =
    CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };

fn point(number: u128) -> Point {
    Point {
        id: Uuid::from_u128(number),
        tenant: "a".to_owned(),
        dense: Some(vec![1.0, number as f32]),
        sparse: SparseVector { indices: vec![1], values: vec![0.5] },
        payload: [("n".to_owned(), (number as u64).into())].into_iter().collect(),
    }
}

/// A copy of the files as they are on disk at this moment is what a killed process leaves behind.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_flushed_is_there_after_a_crash_and_can_be_written_on() {
    let (live, dead) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let store = EdgeStore::new(live.path().to_owned());
    store.ensure("c", &SPEC).await.unwrap();
    store.upsert("c", (1..=500).map(point).collect()).await.unwrap();
    store.flush("c").await.unwrap();
    store.upsert("c", (501..=700).map(point).collect()).await.unwrap();
    copy(&live.path().join("c"), &dead.path().join("c"));

    let after = EdgeStore::new(dead.path().to_owned());
    after.ensure("c", &SPEC).await.unwrap();
    let survived = after.count("c", &Scope::of("a")).await.unwrap();
    assert!((500..=700).contains(&survived), "{survived}");
    // The lost batch again, under the same ids.
    after.upsert("c", (501..=700).map(point).collect()).await.unwrap();
    after.flush("c").await.unwrap();
    let all = With { payload: true, vectors: true };
    let there = after.scroll("c", &Scope::of("a"), None, 1000, all).await.unwrap();
    assert_eq!(there, store.scroll("c", &Scope::of("a"), None, 1000, all).await.unwrap());
    assert_eq!(there.records.len(), 700);
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    fs_err::create_dir_all(to).unwrap();
    for entry in fs_err::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs_err::copy(entry.path(), target).unwrap();
        }
    }
}

/// Writes some 50 MB; without that the engine's log is not cut, and the number of the next write goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_does_not_keep_what_was_ever_written() {
    let directory = tempfile::tempdir().unwrap();
    let large = |number: u128, fill: &str| {
        let mut point = point(number);
        point.payload.insert("text".to_owned(), fill.repeat(1 << 20).into());
        point
    };
    for fill in ["a", "b"] {
        let store = EdgeStore::new(directory.path().to_owned());
        store.ensure("c", &SPEC).await.unwrap();
        for number in 1..=25 {
            store.upsert("c", vec![large(number, fill)]).await.unwrap();
        }
        store.flush("c").await.unwrap();
    }
    let log = fs_err::read_dir(directory.path().join("c/wal")).unwrap();
    let bytes: u64 = log.map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    assert!(bytes < 16 << 20, "{bytes}");
    let store = EdgeStore::new(directory.path().to_owned());
    let with = With { payload: true, vectors: false };
    let found = store.retrieve("c", &Scope::of("a"), &[Uuid::from_u128(1)], with).await.unwrap();
    assert!(found[0].payload["text"].as_str().unwrap().starts_with('b'));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_is_opened_once() {
    let directory = tempfile::tempdir().unwrap();
    let first = EdgeStore::new(directory.path().to_owned());
    first.ensure("c", &SPEC).await.unwrap();
    let second = EdgeStore::new(directory.path().to_owned());
    let error = second.count("c", &Scope::of("a")).await.unwrap_err();
    assert!(matches!(&error, RagError::Index { .. }), "{error}");
    assert!(error.to_string().contains("another process has it open"), "{error}");
    second.drop_collection("c").await.unwrap_err();
    first.upsert("c", vec![point(1)]).await.unwrap();
    drop(first);
    assert_eq!(second.count("c", &Scope::of("a")).await.unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn searching_goes_on_while_writing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(EdgeStore::new(directory.path().to_owned()));
    store.ensure("c", &SPEC).await.unwrap();
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for batch in 0..20u128 {
                store.upsert("c", (1..=100).map(|n| point(batch * 100 + n)).collect()).await.unwrap();
            }
            store.optimise("c").await.unwrap();
        }
    });
    let mut before = 0;
    while !writer.is_finished() {
        let now = store.count("c", &Scope::of("a")).await.unwrap();
        assert!(now >= before && now <= 2000, "{before} {now}");
        before = now;
    }
    writer.await.unwrap();
    assert_eq!(store.count("c", &Scope::of("a")).await.unwrap(), 2000);
}
