//! Dense and hybrid search against the published figures, on both stores. Needs the weights of all-MiniLM-L6-v2.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use evalign_rag::embed::{EmbedOptions, LocalEmbedder};
use evalign_rag::{
    BeirCollection, BeirEvaluation, BeirMeasured, BeirReport, Embedder, EmbedderIdentity, RagError,
    SearchMode, SearchOptions, TextRole, VectorStore,
};
use evalign_testkit::{embedding_model, shared};
use serde_json::Value;

/// Embeds each text once: both stores are given the same vectors, and the test the time to end.
struct Once {
    inner: LocalEmbedder,
    known: Mutex<std::collections::BTreeMap<String, Vec<f32>>>,
}

#[async_trait]
impl Embedder for Once {
    fn identity(&self) -> &EmbedderIdentity {
        self.inner.identity()
    }

    async fn embed(&self, texts: &[String], role: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let mut missing = texts.to_vec();
        missing.retain(|text| !self.known.lock().unwrap().contains_key(text));
        let vectors = self.inner.embed(&missing, role).await?;
        let mut known = self.known.lock().unwrap();
        known.extend(missing.into_iter().zip(vectors));
        Ok(texts.iter().map(|text| known[text].clone()).collect())
    }

    fn count_tokens(&self, text: &str) -> usize {
        self.inner.count_tokens(text)
    }
}

async fn reports(
    collection: &BeirCollection,
    store: &dyn VectorStore,
    embedder: &dyn Embedder,
) -> Vec<BeirReport> {
    let evaluation = BeirEvaluation::new(collection, (store, "c"), Some(embedder));
    evaluation.ingest(&|_| ()).await.unwrap();
    let plain = SearchOptions { exact: true, ..SearchOptions::default() };
    let dense = SearchOptions { mode: SearchMode::Dense, depth: 1000, ..plain.clone() };
    let recommended = SearchOptions { exact: true, ..SearchOptions::recommended() };
    let mut reports = Vec::new();
    for options in [dense, plain, recommended] {
        let mut measured = BeirMeasured::default();
        for query in evaluation.queries() {
            let answer = evaluation.answer(query, &options).await.unwrap();
            measured.per_query.insert(query.id.clone(), answer.metrics.unwrap());
        }
        reports.push(evaluation.report("test", &options, measured));
    }
    evaluation.clean_up().await.unwrap();
    reports
}

#[tokio::test(flavor = "multi_thread")]
async fn published_figures_on_both_stores() {
    let Some(root) = shared("published figures of dense and hybrid search") else { return };
    let Some(weights) = embedding_model("published figures of dense and hybrid search") else { return };
    let golden = std::fs::read_to_string(root.join("golden/retrieval/baselines.json")).unwrap();
    let golden: Value = serde_json::from_str(&golden).unwrap();
    let inner = LocalEmbedder::load("all-minilm-l6-v2", weights, &EmbedOptions::default()).unwrap();
    let embedder: Arc<dyn Embedder> = Arc::new(Once { inner, known: Mutex::default() });
    // The smallest: 240 documents, 1190 queries.
    let name = "xquad-en";
    let collection = BeirCollection::open(&root.join("data/retrieval").join(name), "test").unwrap();
    let (edge, server) = (crate::stores::edge(), crate::stores::qdrant().await);
    let here = reports(&collection, edge.store.as_ref(), embedder.as_ref()).await;
    let there = reports(&collection, server.store.as_ref(), embedder.as_ref()).await;
    assert!(here.iter().zip(&there).all(|(a, b)| a.per_query == b.per_query), "the stores rank otherwise");
    for (report, run) in here.iter().zip(["dense-minilm", "rrf60"]) {
        for (ours, theirs) in
            [("ndcg@10", "nDCG@10"), ("recall@100", "Recall@100"), ("map", "MAP"), ("mrr@10", "MRR@10")]
        {
            let (value, wanted) =
                (report.metrics.get(ours).unwrap(), golden["sets"][name][run][theirs].as_f64().unwrap());
            assert!((value - wanted).abs() <= 0.002, "{run}: {ours} {value}, published {wanted}");
        }
    }
    let [plain, recommended] = [&here[1], &here[2]].map(|report| report.metrics.ndcg_at_10);
    assert!(recommended > plain, "{recommended} is no better than {plain}");
}
