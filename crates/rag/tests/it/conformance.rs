//! What every store must do, run against each.

use evalign_rag::{
    Bounds, Chunk, CollectionSpec, Condition, FieldKind, Filter, Leg, Point, RagError, Scope, SparseVector,
    VectorStore, With,
};
use serde_json::{Map, Value, json};
use uuid::Uuid;

const ALL: With = With { payload: true, vectors: true };

macro_rules! conformance {
    ($($case:ident)*) => {
        mod edge {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::stores::edge().store.as_ref()).await;
            })*
        }
        mod qdrant {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(crate::stores::qdrant().await.store.as_ref()).await;
            })*
        }
    };
}

conformance! {
    what_is_written_is_read_back
    writing_again_replaces
    hits_are_nearest_first_and_ties_in_the_order_of_ids
    words_score_as_bm25
    a_document_without_words_counts_as_a_document
    statistics_are_of_what_is_visible
    filters_select
    metadata_is_found_by_what_is_typed_with_an_index_or_without
    pages_go_through_everything_once
    nothing_reaches_into_another_tenant
    payload_and_weights_can_be_changed_in_place
    vectors_of_another_length_are_refused
    what_is_not_there_is_said
    the_tenant_field_is_reserved
    collections_come_and_go
    optimising_changes_no_result
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn words(weights: &[(u32, f32)]) -> SparseVector {
    let (indices, values) = weights.iter().copied().unzip();
    SparseVector { indices, values }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => panic!("{other} is no object"),
    }
}

/// A point of tenant `a` with a direction in the plane.
fn point(number: u128, angle: f32, sparse: &[(u32, f32)], payload: Value) -> Point {
    Point {
        id: id(number),
        tenant: "a".to_owned(),
        dense: Some(vec![angle.cos(), angle.sin()]),
        sparse: words(sparse),
        payload: object(payload),
    }
}

fn spec() -> CollectionSpec {
    CollectionSpec {
        dimension: Some(2),
        indexed_fields: vec![
            ("kind".to_owned(), FieldKind::Keyword),
            ("year".to_owned(), FieldKind::Integer),
        ],
        scalar_quantisation: false,
    }
}

async fn filled(store: &dyn VectorStore, points: Vec<Point>) {
    store.ensure("c", &spec()).await.unwrap();
    store.upsert("c", points).await.unwrap();
    store.flush("c").await.unwrap();
}

fn a() -> Scope {
    Scope::of("a")
}

async fn sparse_hits(store: &dyn VectorStore, scope: &Scope, query: &[(u32, f32)]) -> Vec<(u128, f32)> {
    let leg = Leg::Sparse { vector: words(query), limit: 10 };
    let lists = store.legs("c", scope, vec![leg]).await.unwrap();
    lists[0].iter().map(|hit| (hit.id.as_u128(), hit.score)).collect()
}

async fn selected(store: &dyn VectorStore, filter: Filter) -> Vec<u128> {
    let page = store.scroll("c", &a().filter(filter), None, 100, With::default()).await.unwrap();
    page.records.iter().map(|record| record.id.as_u128()).collect()
}

async fn what_is_written_is_read_back(store: &dyn VectorStore) {
    let payload = json!({"text": "Grüße \u{1F600}\n", "page": 7, "score": 0.1, "tags": ["x", "y"], "no": null,
        "deep": {"er": [1, {"est": true}]}, "big": 9_007_199_254_740_993_i64});
    let points =
        (1..=300).map(|number| point(number, 0.0, &[(7, 0.5), (9, 0.25)], payload.clone())).collect();
    filled(store, points).await;
    assert_eq!(store.count("c", &a()).await.unwrap(), 300);
    let ids = [id(300), id(999), id(2)];
    let records = store.retrieve("c", &a(), &ids, ALL).await.unwrap();
    assert_eq!(records.iter().map(|record| record.id).collect::<Vec<_>>(), [id(300), id(2)]);
    assert_eq!(Value::Object(records[0].payload.clone()), payload);
    assert_eq!(records[0].dense.as_deref(), Some(&[1.0, 0.0][..]));
    assert_eq!(records[0].sparse, Some(words(&[(7, 0.5), (9, 0.25)])));
    let bare = store.retrieve("c", &a(), &ids, With::default()).await.unwrap();
    assert!(bare[0].payload.is_empty() && bare[0].dense.is_none() && bare[0].sparse.is_none());
    let info = store.info("c").await.unwrap();
    assert_eq!((info.points, info.dimension), (300, Some(2)));
}

async fn writing_again_replaces(store: &dyn VectorStore) {
    filled(store, vec![point(1, 0.0, &[(7, 1.0)], json!({"kind": "old", "left": 1}))]).await;
    for _ in 0..2 {
        store.upsert("c", vec![point(1, 1.0, &[(8, 1.0)], json!({"kind": "new"}))]).await.unwrap();
    }
    let records = store.retrieve("c", &a(), &[id(1)], ALL).await.unwrap();
    assert_eq!(Value::Object(records[0].payload.clone()), json!({"kind": "new"}));
    assert_eq!(store.count("c", &a()).await.unwrap(), 1);
    assert_eq!(sparse_hits(store, &a(), &[(7, 1.0)]).await, []);
}

async fn hits_are_nearest_first_and_ties_in_the_order_of_ids(store: &dyn VectorStore) {
    let angles = [(5, 0.5), (4, 0.0), (3, 0.5), (2, 1.0), (1, 0.5)];
    filled(store, angles.iter().map(|(n, angle)| point(*n, *angle, &[(1, 1.0)], json!({}))).collect()).await;
    let near = Leg::Dense { vector: vec![1.0, 0.0], limit: 4, exact: true };
    let both = vec![near, Leg::Sparse { vector: words(&[(1, 1.0)]), limit: 10 }];
    let lists = store.legs("c", &a(), both).await.unwrap();
    let order = |list: &[evalign_rag::Scored]| list.iter().map(|hit| hit.id.as_u128()).collect::<Vec<_>>();
    assert_eq!(order(&lists[0]), [4, 1, 3, 5]);
    assert_eq!(order(&lists[1]), [1, 2, 3, 4, 5]);
    assert!((lists[0][1].score - 0.5f32.cos()).abs() < 1e-6);
    assert_eq!(store.legs("c", &a(), Vec::new()).await.unwrap().len(), 0);
}

fn idf(documents: f64, with_term: f64) -> f64 {
    (1.0 + (documents - with_term + 0.5) / (with_term + 0.5)).ln()
}

async fn words_score_as_bm25(store: &dyn VectorStore) {
    let rows: [&[(u32, f32)]; 3] = [&[(1, 0.5), (2, 0.25)], &[(1, 0.4)], &[(3, 0.3)]];
    let points = (1..).zip(rows).map(|(number, row)| point(number, 0.0, row, json!({}))).collect();
    filled(store, points).await;
    let hits = sparse_hits(store, &a(), &[(1, 2.0), (2, 1.0), (99, 1.0)]).await;
    let expected = [(1, 2.0 * 0.5 * idf(3.0, 2.0) + 0.25 * idf(3.0, 1.0)), (2, 2.0 * 0.4 * idf(3.0, 2.0))];
    assert_eq!(hits.len(), 2, "{hits:?}");
    for ((found, score), (wanted, value)) in hits.iter().zip(expected) {
        assert_eq!(*found, wanted);
        assert!((f64::from(*score) - value).abs() < 1e-6, "{score} {value}");
    }
}

async fn a_document_without_words_counts_as_a_document(store: &dyn VectorStore) {
    let points = vec![point(1, 0.0, &[(1, 0.5)], json!({})), point(2, 0.0, &[], json!({}))];
    filled(store, points).await;
    let hits = sparse_hits(store, &a(), &[(1, 1.0)]).await;
    assert!((f64::from(hits[0].1) - 0.5 * idf(2.0, 1.0)).abs() < 1e-6, "{hits:?}");
}

async fn statistics_are_of_what_is_visible(store: &dyn VectorStore) {
    let row = |number, staged| {
        point(number, 0.0, &[(1, 0.5)], json!({"staged": staged, "kind": number.to_string()}))
    };
    filled(store, vec![row(1, false), row(2, false), row(3, true), row(4, true)]).await;
    let visible = Filter::default().and_not(Condition::Equals { key: "staged".into(), value: true.into() });
    let scope = a().visible(visible);
    let hits = sparse_hits(store, &scope, &[(1, 1.0)]).await;
    assert_eq!(hits.iter().map(|hit| hit.0).collect::<Vec<_>>(), [1, 2]);
    assert!((f64::from(hits[0].1) - 0.5 * idf(2.0, 2.0)).abs() < 1e-6);
    // The user's own filter narrows the hits and leaves the scores.
    let narrowed = sparse_hits(store, &scope.filter(Filter::equals("kind", "2")), &[(1, 1.0)]).await;
    assert_eq!(narrowed, [(2, hits[1].1)]);
}

async fn filters_select(store: &dyn VectorStore) {
    let rows = [
        json!({"kind": "book", "year": 1990, "price": 1.5, "open": true, "tags": ["a", "b"]}),
        json!({"kind": "paper", "year": 2001, "price": 2.5, "open": false, "tags": []}),
        json!({"kind": "note", "year": 2020, "more": {"author": "Li"}}),
    ];
    filled(store, (1..).zip(rows).map(|(n, row)| point(n, 0.0, &[], row)).collect()).await;
    let equals = |key: &str, value: Value| Filter::equals(key, value);
    let must = |condition| Filter { must: vec![condition], must_not: Vec::new() };
    let range = |key: &str, bounds| must(Condition::Range { key: key.into(), bounds });
    let any = |key: &str, values: Vec<Value>| must(Condition::AnyOf { key: key.into(), values });
    let exists = |key: &str| Condition::Exists { key: key.into() };
    let bounds = Bounds::default();
    assert_eq!(selected(store, Filter::default()).await, [1, 2, 3]);
    assert_eq!(selected(store, equals("kind", json!("book"))).await, [1]);
    assert_eq!(selected(store, equals("year", json!(2001))).await, [2]);
    assert_eq!(selected(store, equals("open", json!(true))).await, [1]);
    assert_eq!(selected(store, equals("tags", json!("b"))).await, [1]);
    assert_eq!(selected(store, equals("more.author", json!("Li"))).await, [3]);
    assert_eq!(selected(store, any("kind", vec![json!("book"), json!("note")])).await, [1, 3]);
    assert_eq!(selected(store, any("year", vec![json!(2001), json!(2020)])).await, [2, 3]);
    assert_eq!(selected(store, range("year", Bounds { gte: Some(2001.0), ..bounds })).await, [2, 3]);
    assert_eq!(selected(store, range("price", Bounds { gt: Some(1.5), lt: Some(9.0), ..bounds })).await, [2]);
    assert_eq!(selected(store, must(exists("price"))).await, [1, 2]);
    assert_eq!(selected(store, must(exists("tags"))).await, [1]);
    assert_eq!(selected(store, Filter::default().and_not(exists("price"))).await, [3]);
    assert_eq!(selected(store, Filter::ids(vec![id(3), id(8)])).await, [3]);
    let fraction = store.count("c", &a().filter(equals("price", json!(1.5)))).await;
    assert!(matches!(fraction, Err(RagError::Invalid { .. })), "{fraction:?}");
}

async fn typed(store: &dyn VectorStore, text: &str) -> Vec<u128> {
    selected(store, Chunk::filter(text).unwrap()).await
}

/// Also where a field has values of several kinds, or names that a path has to quote.
async fn metadata_is_found_by_what_is_typed_with_an_index_or_without(store: &dyn VectorStore) {
    let rows = [
        json!({"meta": {"author": "Jane Doe", "year": 2001, "price": 1.5, "open": true, "tags": ["a, b", "c"]}}),
        json!({"meta": {"author": "a=b", "year": 2001.0, "price": 2, "open": false, "zip": "00123"}}),
        json!({"meta": {"author": "2001", "year": "n.d.", "price >= 2": 1, "a.b": {"c": 1}, "Größe": 7}}),
        json!({"author": "Jane Doe", "year": 2001}),
    ];
    filled(store, (1..).zip(rows).map(|(n, row)| point(n, 0.0, &[], row)).collect()).await;
    let kinds = [
        ("author", FieldKind::Keyword),
        ("year", FieldKind::Float),
        ("price", FieldKind::Keyword),
        ("open", FieldKind::Bool),
        ("tags", FieldKind::Float),
        ("\"price >= 2\"", FieldKind::Float),
    ];
    let indexed: Vec<(String, FieldKind)> =
        kinds.iter().map(|(name, kind)| (format!("meta.{name}"), *kind)).collect();
    for indexed_fields in [Vec::new(), indexed] {
        store.ensure("c", &CollectionSpec { indexed_fields, ..spec() }).await.unwrap();
        for (text, found) in [
            ("meta.author=Jane Doe", &[1][..]),
            ("meta.author=\"Jane Doe\",a=b", &[1, 2]),
            ("meta.author=2001", &[3]),
            ("meta.year=2001", &[1, 2]),
            ("meta.year=\"2001\"", &[]),
            ("meta.year=n.d.", &[3]),
            ("meta.year>2000", &[1, 2]),
            ("meta.year!=2001", &[3, 4]),
            ("meta.price=1.50", &[1]),
            ("meta.price<2", &[1]),
            ("meta.open=true", &[1]),
            ("meta.open!=true", &[2, 3, 4]),
            ("meta.tags=\"a, b\"", &[1]),
            ("meta.tags=c,d", &[1]),
            ("meta.zip=00123", &[2]),
            ("meta.zip=123", &[]),
            ("meta.\"price >= 2\"=1", &[3]),
            ("meta.a.b=?", &[3]),
            ("meta.Größe>=7", &[3]),
            ("meta.price=?", &[1, 2]),
            ("meta.price!=?", &[3, 4]),
        ] {
            assert_eq!(typed(store, text).await, found, "{text}");
        }
    }
    let nothing = Filter { must: vec![Condition::Either(Vec::new())], must_not: Vec::new() };
    store.count("c", &a().filter(nothing)).await.unwrap_err();
}

async fn pages_go_through_everything_once(store: &dyn VectorStore) {
    filled(store, (1..=25).map(|number| point(number * 7919 % 101, 0.0, &[], json!({}))).collect()).await;
    let (mut from, mut seen) = (None, Vec::new());
    loop {
        let page = store.scroll("c", &a(), from, 10, With::default()).await.unwrap();
        seen.extend(page.records.iter().map(|record| record.id));
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted());
}

async fn nothing_reaches_into_another_tenant(store: &dyn VectorStore) {
    let mut points = vec![point(1, 0.0, &[(1, 0.5)], json!({"kind": "x"}))];
    let mut other = point(2, 0.0, &[(1, 0.5)], json!({"kind": "x"}));
    other.tenant = "b".to_owned();
    points.push(other);
    filled(store, points).await;
    let (b, both) = (Scope::of("b"), [id(1), id(2)]);
    let alone = sparse_hits(store, &a(), &[(1, 1.0)]).await;
    assert_eq!(alone.len(), 1);
    assert!((f64::from(alone[0].1) - 0.5 * idf(1.0, 1.0)).abs() < 1e-6, "{alone:?}");
    assert_eq!(store.retrieve("c", &b, &both, ALL).await.unwrap().len(), 1);
    assert_eq!(store.facet("c", &b, "kind", 10).await.unwrap(), [("x".to_owned(), 1)]);
    store.set_payload("c", &b, object(json!({"kind": "y"}))).await.unwrap();
    store.update_sparse("c", &b, both.iter().map(|id| (*id, words(&[(2, 1.0)]))).collect()).await.unwrap();
    store.delete("c", &b).await.unwrap();
    let mine = store.retrieve("c", &a(), &both, ALL).await.unwrap();
    assert_eq!(mine.len(), 1);
    assert_eq!(mine[0].payload["kind"], "x");
    assert_eq!(mine[0].sparse, Some(words(&[(1, 0.5)])));
    assert_eq!(store.count("c", &b).await.unwrap(), 0);
}

async fn payload_and_weights_can_be_changed_in_place(store: &dyn VectorStore) {
    filled(
        store,
        (1..=3).map(|n| point(n, 0.0, &[(1, 0.5)], json!({"kind": "x", "keep": n as u64}))).collect(),
    )
    .await;
    let some = a().filter(Filter::ids(vec![id(1), id(3)]));
    store.set_payload("c", &some, object(json!({"kind": "y"}))).await.unwrap();
    let kinds = store.facet("c", &a(), "kind", 10).await.unwrap();
    assert_eq!(kinds, [("y".to_owned(), 2), ("x".to_owned(), 1)]);
    let new = words(&[(1, 0.125), (4, 2.0)]);
    store.update_sparse("c", &a(), vec![(id(2), new.clone()), (id(77), new.clone())]).await.unwrap();
    let records = store.retrieve("c", &a(), &[id(2), id(3), id(77)], ALL).await.unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[0].sparse, Some(new));
    assert_eq!(records[0].dense.as_deref(), Some(&[1.0, 0.0][..]));
    assert_eq!(Value::Object(records[1].payload.clone()), json!({"kind": "y", "keep": 3}));
    assert_eq!(sparse_hits(store, &a(), &[(4, 1.0)]).await.len(), 1);
}

async fn vectors_of_another_length_are_refused(store: &dyn VectorStore) {
    filled(store, vec![point(1, 0.0, &[], json!({}))]).await;
    let longer = CollectionSpec { dimension: Some(3), ..spec() };
    let error = store.ensure("c", &longer).await.unwrap_err();
    assert!(matches!(&error, RagError::Index { .. }), "{error}");
    assert!(
        error.to_string().contains("vectors of 2 numbers, and these points have vectors of 3"),
        "{error}"
    );
    let mut wrong = point(2, 0.0, &[], json!({}));
    wrong.dense = Some(vec![1.0; 3]);
    store.upsert("c", vec![wrong]).await.unwrap_err();
    assert_eq!(store.count("c", &a()).await.unwrap(), 1);
}

async fn what_is_not_there_is_said(store: &dyn VectorStore) {
    store.count("nowhere", &a()).await.unwrap_err();
    store.drop_collection("nowhere").await.unwrap();
    for name in ["", "../up", "A b", "-x", &"x".repeat(65)] {
        let error = store.ensure(name, &spec()).await.unwrap_err();
        assert!(matches!(error, RagError::Invalid { .. }), "{name}: {error}");
    }
}

async fn the_tenant_field_is_reserved(store: &dyn VectorStore) {
    store.ensure("c", &spec()).await.unwrap();
    let error = store.upsert("c", vec![point(1, 0.0, &[], json!({"tenant": "b"}))]).await.unwrap_err();
    assert!(matches!(error, RagError::Invalid { .. }), "{error}");
    assert_eq!(store.count("c", &Scope::of("b")).await.unwrap(), 0);
    let error = store.set_payload("c", &a(), object(json!({"tenant": "b"}))).await.unwrap_err();
    assert!(matches!(error, RagError::Invalid { .. }), "{error}");
}

async fn collections_come_and_go(store: &dyn VectorStore) {
    assert_eq!(store.collections().await.unwrap(), Vec::<String>::new());
    for name in ["d", "c"] {
        store.ensure(name, &spec()).await.unwrap();
        store.ensure(name, &spec()).await.unwrap();
    }
    store.upsert("c", vec![point(1, 0.0, &[], json!({}))]).await.unwrap();
    assert_eq!(store.collections().await.unwrap(), ["c", "d"]);
    store.drop_collection("c").await.unwrap();
    assert_eq!(store.collections().await.unwrap(), ["d"]);
    let words_only = CollectionSpec { dimension: None, ..spec() };
    store.ensure("c", &words_only).await.unwrap();
    let point = Point { dense: None, ..point(2, 0.0, &[(1, 1.0)], json!({})) };
    store.upsert("c", vec![point]).await.unwrap();
    assert_eq!(store.info("c").await.unwrap().dimension, None);
    assert_eq!(sparse_hits(store, &a(), &[(1, 1.0)]).await.len(), 1);
}

async fn optimising_changes_no_result(store: &dyn VectorStore) {
    let weight = |n: u128| 0.5 + n as f32 / 10_000.0;
    let row = |n: u128| point(n, n as f32, &[(n as u32 % 5, weight(n)), (9, 0.1)], json!({}));
    filled(store, (1..=1500).map(row).collect()).await;
    store.delete("c", &a().filter(Filter::ids((1..=900).map(id).collect()))).await.unwrap();
    let query = [(2u32, 1.0f32), (9, 1.0)];
    let before = sparse_hits(store, &a(), &query).await;
    store.optimise("c").await.unwrap();
    assert_eq!(sparse_hits(store, &a(), &query).await, before);
    assert_eq!(store.count("c", &a()).await.unwrap(), 600);
    // Of the 600 that are left, 120 have the first term and all have the second.
    let best = f64::from(weight(1497)) * idf(600.0, 120.0) + 0.1 * idf(600.0, 600.0);
    assert_eq!(before[0].0, 1497);
    assert!((f64::from(before[0].1) - best).abs() < 1e-5, "{} {best}", before[0].1);
}
