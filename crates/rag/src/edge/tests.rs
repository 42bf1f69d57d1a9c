use std::time::Duration;

use super::*;
use crate::StoreFault;

fn point(id: u128, tenant: &str, terms: &[u32]) -> Point {
    Point {
        id: Uuid::from_u128(id),
        tenant: tenant.to_owned(),
        dense: Some(vec![1.0, 0.0]),
        sparse: SparseVector { indices: terms.to_vec(), values: vec![1.0; terms.len()] },
        payload: Map::new(),
    }
}

#[tokio::test]
async fn a_term_is_worth_the_same_however_it_was_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("a", &spec).await.unwrap();
    // Term t is in every t-th point of a tenant that has 2000, more than are read together, and in all of another's.
    let terms = |id: u128| (1..40).filter(|term| id.is_multiple_of(u128::from(*term))).collect::<Vec<u32>>();
    let own = (1..=2000).map(|id| point(id, "own", &terms(id)));
    let others = (3001..3500).map(|id| point(id, "other", &(1..40).collect::<Vec<_>>()));
    store.upsert("a", own.chain(others).collect()).await.unwrap();
    let collection = store.collection("a").unwrap();
    let corpus = convert::filter(&Scope::of("own").corpus()).unwrap();
    let worth = |terms: std::ops::Range<u32>| {
        let query = qe::SparseVector { values: vec![1.0; terms.len()], indices: terms.collect() };
        collection.weigh(SPARSE, query, Some(&corpus)).unwrap().values
    };
    let expected =
        |points: f64, with_term: f64| (1.0 + (points - with_term + 0.5) / (with_term + 0.5)).ln() as f32;
    let all: Vec<f32> =
        (3..90).map(|term| expected(2000.0, if term < 40 { (2000 / term).into() } else { 0.0 })).collect();
    assert_eq!(worth(3..7), all[..4], "one by one");
    assert_eq!(worth(3..90), all, "all together");
    assert_eq!(worth(3..90), all, "remembered");
    store.upsert("a", vec![point(4000, "own", &[3])]).await.unwrap();
    assert_eq!(worth(3..4), [expected(2001.0, 667.0)], "after a write");
}

#[tokio::test]
async fn a_hit_is_scored_by_the_weights_that_it_has_now() {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("a", &spec).await.unwrap();
    store.upsert("a", (1..=4).map(|id| point(id, "a", &[1])).collect()).await.unwrap();
    let scope = Scope::of("a");
    let leg = || Leg::Sparse { vector: SparseVector { indices: vec![1], values: vec![1.0] }, limit: 10 };
    let before = store.legs("a", &scope, vec![leg()]).await.unwrap().remove(0);
    assert_eq!(store.legs("a", &scope, vec![leg()]).await.unwrap().remove(0), before, "remembered");
    let heavier = SparseVector { indices: vec![1], values: vec![2.0] };
    store.update_sparse("a", &scope, vec![(Uuid::from_u128(3), heavier)]).await.unwrap();
    let after = store.legs("a", &scope, vec![leg()]).await.unwrap().remove(0);
    assert_eq!((after[0].id, after[0].score), (Uuid::from_u128(3), 2.0 * before[0].score));
    let others =
        |hits: &[Scored]| hits.iter().filter(|hit| hit.id.as_u128() != 3).copied().collect::<Vec<_>>();
    assert_eq!(others(&after), others(&before));
}

#[tokio::test]
async fn a_collection_that_takes_long_to_load_holds_up_nobody_else() {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let (open, (loaded, wait)) = (Arc::clone(&store.open), std::sync::mpsc::channel::<()>());
    let (locked, is_locked) = std::sync::mpsc::channel();
    let loading = std::thread::spawn(move || {
        let _open = open.lock();
        locked.send(()).unwrap();
        wait.recv().unwrap();
    });
    is_locked.recv().unwrap();
    // This thread is the only one of the runtime: were it to wait for the collection, no time would pass on it.
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    let pause = Duration::from_millis(50);
    assert!(tokio::time::timeout(pause, store.ensure("a", &spec)).await.is_err());
    assert!(tokio::time::timeout(pause, store.flush("a")).await.is_err());
    let leg = Leg::Dense { vector: vec![1.0, 0.0], limit: 1, exact: true };
    assert!(tokio::time::timeout(pause, store.legs("a", &Scope::of("a"), vec![leg])).await.is_err());
    loaded.send(()).unwrap();
    loading.join().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_panics_is_an_error_and_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("a", &spec).await.unwrap();
    let done: Result<(), RagError> = store.with("a", |_| panic!("its data are damaged")).await;
    assert!(matches!(done, Err(RagError::Store { kind: StoreFault::Broken, .. })), "{done:?}");
    store.upsert("a", vec![point(1, "a", &[1])]).await.unwrap();
}

#[tokio::test]
async fn what_cannot_be_flushed_any_more_closes_without_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("a", &spec).await.unwrap();
    store.upsert("a", vec![point(1, "a", &[1])]).await.unwrap();
    // A search that is under way holds it for longer than the store and than its files are there.
    let searched = store.collection("a").unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    drop(store);
    drop(searched);
}

/// A service must not take them for mistakes of its clients.
#[tokio::test]
async fn a_directory_that_cannot_be_used_is_a_fault_of_the_disk_and_a_file_that_is_damaged_one_of_the_engine()
{
    let directory = tempfile::tempdir().unwrap();
    let kind = |error| match error {
        RagError::Store { kind, .. } => kind,
        other => panic!("{other}"),
    };
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    let in_the_way = directory.path().join("file");
    std::fs::write(&in_the_way, "").unwrap();
    let store = EdgeStore::new(in_the_way);
    assert_eq!(kind(store.ensure("a", &spec).await.unwrap_err()), StoreFault::Disk);
    assert_eq!(kind(store.names().unwrap_err()), StoreFault::Disk);

    let vectors = directory.path().join("vectors");
    EdgeStore::new(vectors.clone()).ensure("a", &spec).await.unwrap();
    std::fs::write(vectors.join("a/idf.json"), "[").unwrap();
    assert_eq!(
        kind(EdgeStore::new(vectors).count("a", &Scope::of("a")).await.unwrap_err()),
        StoreFault::Broken
    );
}
