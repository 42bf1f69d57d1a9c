use super::*;
use crate::settings::{Layer, settings};

#[tokio::test]
async fn an_index_that_is_being_filled_stays_and_others_do_not_wait_for_it() {
    let home = tempfile::tempdir().unwrap();
    let (settings, _) = settings(home.path(), None, &|_| None, Layer::default()).unwrap();
    let store = Store::open(home.path()).unwrap();
    let app = App::new(home.path(), store.clone(), settings).unwrap();
    for index in ["docs", "notes"] {
        store.put_index(index, &json!({})).unwrap();
    }
    let filling = app.retrieval.filling("docs");
    let held = filling.lock().await;
    assert_eq!(app.remove_index(&store, "docs").await.unwrap_err().code, Code::RunActive);
    app.remove_index(&store, "notes").await.unwrap();
    assert_eq!(store.indexes().unwrap(), ["docs"]);
    drop(held);
    app.remove_index(&store, "docs").await.unwrap();
    assert_eq!(store.indexes().unwrap(), [""; 0]);
    drop(filling);
    let _other = app.retrieval.filling("other");
    assert_eq!(app.retrieval.filling.lock().unwrap().len(), 1, "locks that nobody has are not kept");
}
