use evalign_core::Digest;
use evalign_store::{IndexCommit, IndexedDocument, Store, TextPlaces};
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

/// Of what goes with a document its own text goes, if no other document of any index has it, and nothing else is looked at.
#[test]
fn a_text_goes_with_the_last_document_that_has_it() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    for index in ["i", "j"] {
        store.put_index(index, &json!({})).unwrap();
    }
    let is_there = |text: &str| store.text(&Digest::of(text)).unwrap().is_some();
    let documents = vec![document("a", Some("shared")), document("b", Some("own")), document("c", None)];
    store.commit_documents("i", "one", commit(documents, &["shared", "own", "unused"])).unwrap();
    store.commit_documents("j", "two", commit(vec![document("d", Some("shared"))], &[])).unwrap();
    let deleted = IndexCommit { deleted: vec!["a".to_owned(), "b".to_owned()], ..commit(vec![], &[]) };
    store.commit_documents("i", "one", deleted).unwrap();
    assert_eq!(["shared", "own", "unused"].map(is_there), [true, false, true]);
    // More of them than one transaction takes.
    let names: Vec<String> = (0..600).map(|n: u32| n.to_string()).collect();
    let texts: Vec<&str> = names.iter().map(String::as_str).collect();
    let documents = names.iter().map(|name| document(name, Some(name))).collect();
    store.commit_documents("j", "one", commit(documents, &texts)).unwrap();
    assert_eq!((store.drop_index("j").unwrap(), is_there("shared"), is_there("unused")), (601, false, true));
    assert_eq!(store.drop_unused_texts().unwrap(), 1);
}

/// A document that comes again under its name, with other words or the same ones.
#[test]
fn a_text_goes_when_its_document_is_replaced() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    store.put_index("i", &json!({})).unwrap();
    let is_there = |text: &str| store.text(&Digest::of(text)).unwrap().is_some();
    let put = |name: &str, text: &str| {
        store.commit_documents("i", "one", commit(vec![document(name, Some(text))], &[text])).unwrap();
    };
    put("a", "old");
    put("b", "old");
    put("a", "new");
    assert!(is_there("old") && is_there("new"), "another document has the old one");
    put("b", "new");
    put("b", "new");
    assert!(!is_there("old") && is_there("new"));
    // What one document loses another gets, together.
    let moved =
        IndexCommit { deleted: vec!["b".to_owned()], ..commit(vec![document("a", Some("old"))], &["old"]) };
    let renamed =
        IndexCommit { deleted: vec!["a".to_owned()], ..commit(vec![document("c", Some("old"))], &["old"]) };
    for together in [moved, renamed] {
        store.commit_documents("i", "one", together).unwrap();
    }
    assert!(is_there("old") && !is_there("new"));
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

#[test]
fn places_of_a_text_are_found_by_its_bytes_and_go_with_the_document() {
    let dir = memory_dir();
    let store = Store::open(dir.path()).unwrap();
    store.put_index("i", &json!({})).unwrap();
    let block = |document: &str, start_byte, places: &str| {
        let (document, places) = (document.to_owned(), places.to_owned());
        TextPlaces { document, start_byte, places }
    };
    let of_tenant = |tenant: &str, places: Vec<TextPlaces>| {
        let documents = vec![document("a", None), document("b", None)];
        store.commit_documents("i", tenant, IndexCommit { places, ..commit(documents, &[]) }).unwrap();
    };
    of_tenant(
        "one",
        vec![block("a", 0, "x"), block("a", 100, "y"), block("a", 250, "z"), block("b", 7, "b")],
    );
    of_tenant("two", vec![block("a", 0, "theirs")]);
    let found = |document: &str, bytes| store.text_places("i", "one", document, bytes).unwrap();
    for (bytes, expected) in [
        (0..1, &["x"][..]),
        (99..100, &["x"]),
        (99..101, &["x", "y"]),
        (100..250, &["y"]),
        (30..251, &["x", "y", "z"]),
        (900..901, &["z"]),
    ] {
        assert_eq!(found("a", bytes.clone()), expected, "{bytes:?}");
    }
    assert!(found("b", 0..7).is_empty() && found("c", 0..9).is_empty());
    // A new version of one document, the other goes.
    let again = IndexCommit {
        places: vec![block("a", 0, "new")],
        deleted: vec!["b".to_owned()],
        ..commit(vec![document("a", None)], &[])
    };
    store.commit_documents("i", "one", again).unwrap();
    assert_eq!((found("a", 0..900), found("b", 0..900)), (vec!["new".to_owned()], vec![]));
    assert_eq!(store.text_places("i", "two", "a", 0..9).unwrap(), ["theirs"]);
}
