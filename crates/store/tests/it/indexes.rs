use evalign_core::Digest;
use evalign_store::{IndexCommit, IndexedDocument, Store};
use serde_json::json;

use crate::common::memory_dir;

fn document(name: &str, text: Option<&str>) -> IndexedDocument {
    IndexedDocument {
        document: name.to_owned(),
        root: "/docs".to_owned(),
        revision: Digest::of(name),
        version: Digest::of(format!("{name} 1")),
        text: text.map(Digest::of),
        chunks: 3,
        duplicate_of: None,
        details: json!({"terms": 12}),
    }
}

fn commit(indexed: Vec<IndexedDocument>, texts: &[&str]) -> IndexCommit {
    let texts = texts.iter().map(|text| (Digest::of(text), (*text).to_owned())).collect();
    IndexCommit { indexed, texts, statistics: json!({"n": 1}), ..IndexCommit::default() }
}

#[test]
fn documents_and_their_texts_are_kept_for_each_tenant() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.index_settings("i").unwrap(), None);
    store.put_index("i", &json!({"a": 1})).unwrap();
    store.commit_documents("i", "one", commit(vec![document("a", Some("text"))], &["text"])).unwrap();
    store.commit_documents("i", "two", commit(vec![document("b", None)], &["unused"])).unwrap();
    drop(store);
    let store = Store::open(dir.path()).unwrap();
    assert_eq!(store.indexes().unwrap(), ["i"]);
    assert_eq!(store.index_settings("i").unwrap(), Some(json!({"a": 1})));
    assert_eq!(store.index_tenants("i").unwrap(), ["one", "two"]);
    assert_eq!(store.indexed_documents("i", "one").unwrap(), [document("a", Some("text"))]);
    assert_eq!(store.indexed_document("i", "two", "a").unwrap(), None);
    assert_eq!(store.drop_unused_texts().unwrap(), 1);
    assert_eq!(store.text(&Digest::of("text")).unwrap().as_deref(), Some("text"));
    let gone = IndexCommit { deleted: vec!["a".to_owned()], ..commit(vec![], &[]) };
    store.commit_documents("i", "one", gone).unwrap();
    assert!(store.indexed_documents("i", "one").unwrap().is_empty());
    store.drop_index("i").unwrap();
    assert!(store.indexed_documents("i", "two").unwrap().is_empty(), "documents go with their index");
    assert!(
        store.commit_documents("i", "one", commit(vec![], &[])).is_err(),
        "no documents without an index"
    );
}

#[test]
fn vectors_come_back_bit_for_bit() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    let vector = vec![1.5, -0.0, f32::MIN_POSITIVE, 3.0e38];
    store.put_vectors(vec![(Digest::of("k"), vector.clone())]).unwrap();
    let found = store.vectors(&[Digest::of("none"), Digest::of("k")]).unwrap();
    assert_eq!(found[0], None);
    let bits = |vector: &[f32]| vector.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(found[1].as_ref().unwrap()), bits(&vector));
}

#[test]
fn vectors_that_nobody_uses_go() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    let keys = ["a", "b", "c"].map(Digest::of);
    store.put_vectors(keys.iter().map(|key| (key.clone(), vec![1.0])).collect()).unwrap();
    let used = [keys[1].clone(), Digest::of("never kept")];
    assert_eq!(store.drop_vectors_but(used.into_iter().collect()).unwrap(), 2);
    assert_eq!(store.vectors(&keys).unwrap(), [None, Some(vec![1.0]), None]);
}
