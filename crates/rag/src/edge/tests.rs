use std::time::Duration;

use super::*;

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
    loaded.send(()).unwrap();
    loading.join().unwrap();
}

#[tokio::test]
async fn what_cannot_be_flushed_any_more_closes_without_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("a", &spec).await.unwrap();
    let point = Point {
        id: Uuid::from_u128(1),
        tenant: "a".to_owned(),
        dense: Some(vec![1.0, 0.0]),
        sparse: SparseVector { indices: vec![1], values: vec![1.0] },
        payload: Map::new(),
    };
    store.upsert("a", vec![point]).await.unwrap();
    // A search that is under way holds it for longer than the store and than its files are there.
    let searched = store.collection("a").unwrap();
    std::fs::remove_dir_all(directory.path()).unwrap();
    drop(store);
    drop(searched);
}
