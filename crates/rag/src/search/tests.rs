use evalign_core::Digest;
use serde_json::{Map, json};

use super::*;
use crate::chunk::STAGED_FIELD;
use crate::ingest::shown;
use crate::{Bm25, CollectionSpec, EdgeStore, EmbedderIdentity, Filter, Point, Pooling, TextRole};

/// Puts a text at the angle that it names.
struct Angles(EmbedderIdentity);

impl Angles {
    fn new() -> Self {
        Self(EmbedderIdentity {
            name: "angles".to_owned(),
            digest: None,
            dimension: 2,
            pooling: Pooling::Mean,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            max_tokens: 100,
            probe: None,
        })
    }
}

#[async_trait::async_trait]
impl Embedder for Angles {
    fn identity(&self) -> &EmbedderIdentity {
        &self.0
    }

    async fn embed(&self, texts: &[String], _: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let angle =
            |text: &String| text.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0.0f32);
        Ok(texts.iter().map(angle).map(|angle| vec![angle.cos(), angle.sin()]).collect())
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }
}

async fn indexed(texts: &[&str]) -> (tempfile::TempDir, EdgeStore) {
    let directory = tempfile::tempdir().unwrap();
    let store = EdgeStore::new(directory.path().to_owned());
    let spec = CollectionSpec { dimension: Some(2), indexed_fields: Vec::new(), scalar_quantisation: false };
    store.ensure("c", &spec).await.unwrap();
    let owned: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    let vectors = Angles::new().embed(&owned, TextRole::Passage).await.unwrap();
    let points = (1u128..).zip(texts).zip(vectors).map(|((number, text), vector)| Point {
        id: Uuid::from_u128(number),
        tenant: "t".to_owned(),
        dense: Some(vector),
        sparse: Bm25::new(3.0).document(&Analyzer::english().terms(text)),
        payload: Map::from_iter([("text".to_owned(), json!(text))]),
    });
    store.upsert("c", points.collect()).await.unwrap();
    (directory, store)
}

async fn search(texts: &[&str], question: &str, options: &SearchOptions) -> Vec<Hit> {
    let (_keep, store) = indexed(texts).await;
    let embedder = Angles::new();
    let searcher = Searcher::new(&store, Some(&embedder));
    searcher.search("c", &Scope::of("t"), &QueryPlan::of(question), options).await.unwrap()
}

fn texts(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.payload["text"].as_str().unwrap()).collect()
}

const TEXTS: [&str; 4] = ["wing 0.1", "wing wing 2.0", "flow 0.2", "flow shock 1.5"];

#[tokio::test]
async fn both_legs_find_and_each_hit_says_why() {
    let options = SearchOptions { explain: true, ..SearchOptions::default() };
    let hits = search(&TEXTS, "wing wing flow 0.15", &options).await;
    assert_eq!(texts(&hits)[0], "wing 0.1");
    for (position, hit) in hits.iter().enumerate() {
        assert_eq!(hit.rank, position + 1);
        let shares: f64 = hit.legs.iter().map(|leg| leg.share).sum();
        assert!((shares - hit.score).abs() < 1e-12);
        let words = hit.legs.iter().find(|leg| leg.leg == LegKind::Bm25).unwrap();
        let explained: f64 = hit.terms.iter().map(|term| term.contribution).sum();
        assert!((explained - words.score).abs() < 1e-6, "{hit:?}");
        assert!((1.0 / (60.0 + words.rank as f64) - words.share).abs() < 1e-12);
    }
    let wing = hits.iter().find(|hit| hit.payload["text"] == "wing 0.1").unwrap();
    assert_eq!((wing.terms[0].term.as_str(), wing.terms[0].count), ("wing", 2));
}

#[tokio::test]
async fn a_single_leg_keeps_its_scores() {
    let dense = SearchOptions { mode: SearchMode::Dense, limit: 2, ..SearchOptions::default() };
    let hits = search(&TEXTS, "0.1", &dense).await;
    assert_eq!(texts(&hits), ["wing 0.1", "flow 0.2"]);
    assert!((hits[0].score - 1.0).abs() < 1e-6);
    let words = SearchOptions { mode: SearchMode::Bm25, ..SearchOptions::default() };
    assert_eq!(texts(&search(&TEXTS, "shock", &words).await), ["flow shock 1.5"]);
    assert!(search(&TEXTS, "of Mars", &words).await.is_empty());
}

#[tokio::test]
async fn a_query_without_words_is_refused() {
    let (_keep, store) = indexed(&TEXTS).await;
    let embedder = Angles::new();
    let searcher = Searcher::new(&store, Some(&embedder));
    for (query, mode, is_refused) in [
        ("", SearchMode::Hybrid, true),
        (" \t?! ", SearchMode::Dense, true),
        ("the of", SearchMode::Bm25, true),
        ("the of", SearchMode::Hybrid, false),
        ("7", SearchMode::Bm25, true),
        ("77", SearchMode::Bm25, false),
    ] {
        let options = SearchOptions { mode, ..SearchOptions::default() };
        let found = searcher.search("c", &Scope::of("t"), &QueryPlan::of(query), &options).await;
        assert_eq!(found.is_err(), is_refused, "{query:?}");
        let has_hint = |error: &RagError| evalign_core::Hint::hint(error).is_some();
        assert!(found.err().as_ref().is_none_or(has_hint), "{query:?}");
    }
}

#[tokio::test]
async fn diversity_moves_copies_back() {
    let copies = ["wing 0.1", "wing 0.1", "wing 0.1", "flow 1.6"];
    let plain = SearchOptions { limit: 2, mode: SearchMode::Dense, ..SearchOptions::default() };
    assert_eq!(texts(&search(&copies, "0.4", &plain).await), ["wing 0.1", "wing 0.1"]);
    let diverse = SearchOptions { mmr: Some(0.3), ..plain };
    assert_eq!(texts(&search(&copies, "0.4", &diverse).await), ["wing 0.1", "flow 1.6"]);
}

/// The question lies between two groups; the words of one of them pull it over.
#[tokio::test]
async fn feedback_looks_again_from_nearer_to_the_first_hits() {
    let groups = ["wing 0.0", "wing 0.05", "flow 1.0", "flow 1.05", "shock 0.12", "mach 0.9"];
    let plain = SearchOptions { limit: 6, ..SearchOptions::default() };
    let feedback = Some(Feedback { hits: 2, weight: 3.0 });
    let before = search(&groups, "wing 0.55", &plain).await;
    let after = search(&groups, "wing 0.55", &SearchOptions { feedback, ..plain.clone() }).await;
    let place = |hits: &[Hit], text: &str| hits.iter().position(|hit| hit.payload["text"] == text).unwrap();
    assert!(place(&before, "mach 0.9") < place(&before, "shock 0.12"));
    assert!(place(&after, "shock 0.12") < place(&after, "mach 0.9"));
    // Without vectors there is nothing to move.
    let words = SearchOptions { mode: SearchMode::Bm25, feedback, ..plain };
    assert_eq!(texts(&search(&groups, "shock", &words).await), ["shock 0.12"]);
}

/// A copy carries the name of its document: it belongs to the tenant, is shown, and fits the filter, as hits do.
#[tokio::test]
async fn copies_are_found_where_hits_are_and_nowhere_else() {
    let (_keep, store) = indexed(&TEXTS).await;
    let text = "The gate closes.";
    let place = |(number, tenant, kind, staged): (u128, &str, &str, bool)| {
        let payload = json!({
            "document": format!("{number}.md"), "revision": Digest::of(text), "start_byte": 0,
            "end_byte": text.len(), "page": null, "section": [], "text": text, "kind": kind, STAGED_FIELD: staged,
        });
        Point {
            id: Uuid::from_u128(number),
            tenant: tenant.to_owned(),
            dense: Some(vec![1.0, 0.0]),
            sparse: Bm25::new(3.0).document(&Analyzer::english().terms(text)),
            payload: payload.as_object().unwrap().clone(),
        }
    };
    let places = [
        (11, "t", "rule", false),
        (12, "t", "rule", false),
        (13, "t", "draft", false),
        (14, "t", "rule", true),
        (15, "other", "rule", false),
    ];
    store.upsert("c", places.into_iter().map(place).collect()).await.unwrap();
    let embedder = Angles::new();
    let searcher = Searcher::new(&store, Some(&embedder));
    let scope = Scope::of("t").visible(shown()).filter(Filter::equals("kind", "rule"));
    for mmr in [None, Some(0.5)] {
        let options = SearchOptions { mmr, ..SearchOptions::default() };
        let hits = searcher.search("c", &scope, &QueryPlan::of("gate"), &options).await.unwrap();
        let copies: Vec<u128> = hits[0].copies.iter().map(|copy| copy.id.as_u128()).collect();
        assert_eq!((hits.len(), hits[0].id.as_u128(), copies), (1, 11, vec![12]), "{hits:?}");
    }
}

/// More ties than the margin: whatever the engine returns first, the smallest ids are the hits.
#[tokio::test]
async fn ties_at_the_cut_are_all_seen() {
    let copies = vec!["wing 0.1"; 150];
    let options = SearchOptions { limit: 5, depth: 5, ..SearchOptions::default() };
    let hits = search(&copies, "wing 0.1", &options).await;
    let ids: Vec<u128> = hits.iter().map(|hit| hit.id.as_u128()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn several_queries_are_fused_and_vectors_need_an_embedder() {
    let (_keep, store) = indexed(&TEXTS).await;
    let embedder = Angles::new();
    let passage = DenseText { text: "1.5".to_owned(), role: TextRole::Passage };
    let mut plan = QueryPlan::of("shock 1.5");
    plan.vectors.push(passage);
    plan.words.push("flow".to_owned());
    let options = SearchOptions::default();
    let scope = Scope::of("t");
    let hits = Searcher::new(&store, Some(&embedder)).search("c", &scope, &plan, &options).await.unwrap();
    assert_eq!(texts(&hits)[0], "flow shock 1.5");
    let legs: Vec<(LegKind, usize)> = hits[0].legs.iter().map(|leg| (leg.leg, leg.query)).collect();
    assert_eq!(legs, [(LegKind::Bm25, 0), (LegKind::Bm25, 1), (LegKind::Dense, 0), (LegKind::Dense, 1)]);
    let error = Searcher::new(&store, None).search("c", &scope, &plan, &options).await.unwrap_err();
    assert!(matches!(error, RagError::Invalid { .. }), "{error}");
}
