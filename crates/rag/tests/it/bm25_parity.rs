//! Our BM25 against the published figures, on both stores.

use std::collections::BTreeMap;
use std::path::Path;

use evalign_rag::{
    Analyzer, BeirCollection, BeirEvaluation, BeirMeasured, BeirReport, RetrievalMetrics, SearchMode,
    SearchOptions, VectorStore,
};
use evalign_testkit::shared;
use serde_json::Value;

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn by_words() -> SearchOptions {
    SearchOptions { mode: SearchMode::Bm25, depth: RetrievalMetrics::DEPTH, ..SearchOptions::default() }
}

fn collection(root: &Path, name: &str) -> BeirCollection {
    BeirCollection::open(&root.join("data/retrieval").join(name), "test").unwrap()
}

/// Counts that show a difference in tokens before any score does.
fn same_terms(collection: &BeirCollection, baseline: &Value, name: &str) {
    let analyzer = Analyzer::english();
    let mut vocabulary = std::collections::BTreeSet::new();
    let mut total = 0;
    for document in &collection.documents {
        let terms = analyzer.terms(&document.text);
        total += terms.len();
        vocabulary.extend(terms);
    }
    let mean = total as f64 / collection.documents.len() as f64;
    assert!((mean - baseline["bm25_avgdl"].as_f64().unwrap()).abs() < 1e-6, "{name}: mean length {mean}");
    assert_eq!(vocabulary.len() as u64, baseline["bm25_vocabulary"].as_u64().unwrap(), "{name}");
}

async fn evaluated(collection: &BeirCollection, store: &dyn VectorStore) -> BeirReport {
    let evaluation = BeirEvaluation::new(collection, (store, "c"), None);
    evaluation.ingest(&|_| ()).await.unwrap();
    let mut measured = BeirMeasured::default();
    for query in evaluation.queries() {
        let answer = evaluation.answer(query, &by_words()).await.unwrap();
        measured.per_query.insert(query.id.clone(), answer.metrics.unwrap());
    }
    evaluation.clean_up().await.unwrap();
    evaluation.report("test", &by_words(), measured)
}

async fn figures(store: &dyn VectorStore) {
    let Some(root) = shared("published figures of BM25") else { return };
    let golden = json(&root.join("golden/retrieval/baselines.json"));
    let per_query = json(&root.join("golden/retrieval/per-query-ndcg10.json"));
    for name in ["cranfield", "cisi", "xquad-en", "code-chunks"] {
        let collection = collection(&root, name);
        let baseline = &golden["sets"][name];
        same_terms(&collection, baseline, name);
        let report = evaluated(&collection, store).await;
        assert_eq!(report.n_queries, baseline["queries"].as_u64().unwrap());
        for (ours, theirs) in
            RetrievalMetrics::NAMES.iter().zip(["nDCG@10", "Recall@10", "Recall@100", "MAP", "MRR@10"])
        {
            let (value, wanted) =
                (report.metrics.get(ours).unwrap(), baseline["bm25"][theirs].as_f64().unwrap());
            assert!((value - wanted).abs() <= 0.0005, "{name}: {ours} {value}, published {wanted}");
        }
        let wanted: BTreeMap<String, f64> =
            serde_json::from_value(per_query[name]["bm25"].clone()).expect("per query");
        for (query, metrics) in &report.per_query {
            let (value, wanted) = (metrics.ndcg_at_10, wanted[query]);
            assert!((value - wanted).abs() < 1e-4, "{name}, query {query}: {value}, published {wanted}");
        }
    }
    assert_eq!(store.collections().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn published_figures_on_the_embedded_store() {
    let place = crate::stores::edge();
    figures(place.store.as_ref()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn published_figures_on_a_server() {
    let place = crate::stores::qdrant().await;
    figures(place.store.as_ref()).await;
}

/// Every query's terms and its ten best with their scores.
#[tokio::test(flavor = "multi_thread")]
async fn scores_of_cranfield() {
    let Some(root) = shared("scores_of_cranfield") else { return };
    let golden = json(&root.join("golden/retrieval/bm25-cranfield.json"));
    let collection = collection(&root, "cranfield");
    let (edge, server) = (crate::stores::edge(), crate::stores::qdrant().await);
    let evaluations =
        [&edge, &server].map(|place| BeirEvaluation::new(&collection, (place.store.as_ref(), "c"), None));
    for evaluation in &evaluations {
        evaluation.ingest(&|_| ()).await.unwrap();
    }
    let analyzer = Analyzer::english();
    for query in &collection.queries {
        let wanted = &golden["queries"][&query.id];
        let tokens: Vec<String> = serde_json::from_value(wanted["tokens"].clone()).unwrap();
        assert_eq!(analyzer.terms(&query.text), tokens, "query {}", query.id);
        let wanted: Vec<(String, f64)> = serde_json::from_value(wanted["top10"].clone()).unwrap();
        let found = evaluations[0].ranking(&query.text, &by_words()).await.unwrap();
        assert!(
            found.len() >= wanted.len() && !wanted.is_empty(),
            "query {}: {} hits",
            query.id,
            found.len()
        );
        for ((id, score), (wanted, value)) in found.iter().zip(&wanted) {
            assert!(
                (score - value).abs() <= 1e-5,
                "query {}: {id} {score}, published {wanted} {value}",
                query.id
            );
        }
        // To 1000 places the same on both stores, bit for bit.
        let served = evaluations[1].ranking(&query.text, &by_words()).await.unwrap();
        assert_eq!(found, served, "query {}", query.id);
    }
}
