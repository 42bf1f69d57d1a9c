//! No tenant finds, changes or is changed by another's points.

use std::collections::{BTreeMap, BTreeSet};

use evalign_rag::{
    Analyzer, Bm25, Chunk, CollectionSpec, Condition, FieldKind, Filter, Fusion, Leg, LengthStatistics,
    Point, QueryPlan, Scope, SearchMode, SearchOptions, Searcher, VectorStore, With,
};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::stores::Place;

const TENANTS: [&str; 3] = ["a", "b", "a.b"];
const WORDS: [&str; 6] = ["wing", "flow", "heat", "shock", "layer", "mach"];

#[derive(Clone, Debug)]
struct Document {
    tenant: usize,
    words: Vec<usize>,
    angle: f32,
    kind: u8,
}

fn document() -> impl Strategy<Value = Document> {
    (0..TENANTS.len(), prop::collection::vec(0..WORDS.len(), 0..8), 0.0f32..6.0, 0u8..3)
        .prop_map(|(tenant, words, angle, kind)| Document { tenant, words, angle, kind })
}

fn text(words: &[usize]) -> String {
    words.iter().map(|word| WORDS[*word]).collect::<Vec<_>>().join(" ")
}

/// Each tenant's weights are made for its own mean length.
fn points(documents: &[Document], only: Option<usize>) -> Vec<Point> {
    let analyzer = Analyzer::english();
    let mut points = Vec::new();
    for tenant in (0..TENANTS.len()).filter(|tenant| only.is_none_or(|only| only == *tenant)) {
        let own = || documents.iter().enumerate().filter(|(_, document)| document.tenant == tenant);
        let mut lengths = LengthStatistics::default();
        own().for_each(|(_, document)| lengths.add(document.words.len() as u64));
        let bm25 = Bm25::new(lengths.mean().unwrap_or_default());
        points.extend(own().map(|(number, document)| Point {
            id: Uuid::from_u128(number as u128 + 1),
            tenant: TENANTS[tenant].to_owned(),
            dense: Some(vec![document.angle.cos(), document.angle.sin()]),
            sparse: bm25.document(&analyzer.terms(&text(&document.words))),
            payload: payload(document),
        }));
    }
    points
}

/// Metadata has the names that fields of the store have, and says that it is another's.
fn payload(document: &Document) -> Map<String, Value> {
    let carried = json!({
        "kind": document.kind, "tenant": TENANTS[(document.tenant + 1) % TENANTS.len()], "text": ["a", "b"],
    });
    [("kind".to_owned(), json!(document.kind.to_string())), ("meta".to_owned(), carried)]
        .into_iter()
        .collect()
}

/// On the embedded store, or through a client on a server.
async fn store(documents: &[Document], only: Option<usize>, served: bool) -> Place {
    let place = if served { crate::stores::qdrant().await } else { crate::stores::edge() };
    let indexed = [("meta.kind", FieldKind::Float), ("meta.tenant", FieldKind::Keyword)];
    let indexed_fields = indexed.map(|(field, kind)| (field.to_owned(), kind)).to_vec();
    let spec = CollectionSpec { dimension: Some(2), indexed_fields, scalar_quantisation: false };
    place.store.ensure("c", &spec).await.unwrap();
    place.store.upsert("c", points(documents, only)).await.unwrap();
    place
}

/// Everything a tenant can ask for: hits with their scores, by words and by vector.
async fn answers(store: &dyn VectorStore, scope: &Scope, query: &str) -> Vec<BTreeMap<Uuid, f32>> {
    let legs = vec![
        Leg::Sparse { vector: Analyzer::english().query(query), limit: 50 },
        Leg::Dense { vector: vec![0.6, 0.8], limit: 50, exact: true },
    ];
    let lists = store.legs("c", scope, legs).await.unwrap();
    lists.into_iter().map(|list| list.iter().map(|hit| (hit.id, hit.score)).collect()).collect()
}

async fn no_leak(
    documents: &[Document],
    query: &[usize],
    kind: u8,
    served: bool,
) -> Result<(), TestCaseError> {
    let query = text(query);
    let place = store(documents, None, served).await;
    let shared = place.store.as_ref();
    for (tenant, name) in TENANTS.iter().enumerate() {
        let own: BTreeSet<Uuid> = points(documents, Some(tenant)).iter().map(|point| point.id).collect();
        let mut filters = vec![Filter::default(), Filter::equals("kind", kind.to_string()), not_kind(kind)];
        filters.extend(of_metadata(kind));
        let alone = store(documents, Some(tenant), served).await;
        for filter in filters {
            let scope = Scope::of(name).filter(filter);
            let found = answers(shared, &scope, &query).await;
            for found in &found {
                prop_assert!(found.keys().all(|id| own.contains(id)), "{name} found {found:?}");
            }
            // As if nobody else were there, bit for bit.
            prop_assert_eq!(found, answers(alone.store.as_ref(), &scope, &query).await);
        }
        let all: Vec<Uuid> = (1..=documents.len() as u128).map(Uuid::from_u128).collect();
        let read = shared.retrieve("c", &Scope::of(name), &all, With::default()).await.unwrap();
        prop_assert_eq!(read.iter().map(|record| record.id).collect::<BTreeSet<_>>(), own.clone());
        prop_assert_eq!(shared.count("c", &Scope::of(name)).await.unwrap(), own.len() as u64);
    }
    Ok(())
}

/// What a user can type, also to reach into another tenant.
fn of_metadata(kind: u8) -> Vec<Filter> {
    let typed = [
        format!("meta.kind={kind},a"),
        format!("meta.kind!={kind}"),
        format!("meta.tenant={}", TENANTS.join(",")),
        "meta.tenant!=a".to_owned(),
    ];
    typed.iter().map(|text| Chunk::filter(text).unwrap()).collect()
}

fn not_kind(kind: u8) -> Filter {
    Filter::default().and_not(Condition::Equals { key: "kind".to_owned(), value: json!(kind.to_string()) })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn promise_31_a_tenant_is_alone(
        documents in prop::collection::vec(document(), 0..16),
        query in prop::collection::vec(0..WORDS.len(), 1..5),
        kind in 0u8..3,
        served: bool,
    ) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(no_leak(&documents, &query, kind, served))?;
    }
}

/// The same through search, with everything switched on.
#[tokio::test(flavor = "multi_thread")]
async fn search_stays_within_the_tenant() {
    let documents: Vec<Document> = (0..30)
        .map(|n| Document { tenant: n % 3, words: vec![n % 6, n / 5], angle: n as f32, kind: 0 })
        .collect();
    let place = store(&documents, None, false).await;
    let searcher = Searcher::new(place.store.as_ref(), None);
    for fusion in [Fusion::default(), Fusion::MinMax, Fusion::Dbsf] {
        let options = SearchOptions {
            mode: SearchMode::Bm25,
            mmr: Some(0.5),
            explain: true,
            fusion,
            ..SearchOptions::default()
        };
        let plan = QueryPlan::of("wing flow heat shock layer mach");
        let hits = searcher.search("c", &Scope::of("b"), &plan, &options).await.unwrap();
        assert_eq!(hits.len(), 10);
        for hit in &hits {
            assert_eq!((hit.id.as_u128() - 1) % 3, 1, "{hit:?}");
            let explained: f64 = hit.terms.iter().map(|term| term.contribution).sum();
            assert!((explained - hit.score).abs() < 1e-5, "{hit:?}");
        }
    }
}
