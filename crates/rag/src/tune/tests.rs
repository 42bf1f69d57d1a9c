use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use evalign_core::Digest;
use serde_json::json;

use super::*;
use crate::chunker::Strategy;
use crate::{
    BeirDocument, BeirQuery, EdgeStore, EmbedderIdentity, Fusion, Pooling, SearchMode, SearchOptions,
    TextRole,
};

/// Counts of words, by their hash, of the first words of a text.
struct Words(EmbedderIdentity);

impl Words {
    fn new() -> Self {
        Self(EmbedderIdentity {
            name: "words".to_owned(),
            digest: None,
            dimension: 32,
            pooling: Pooling::Mean,
            query_prefix: String::new(),
            passage_prefix: String::new(),
            max_tokens: 24,
            probe: None,
        })
    }
}

#[async_trait]
impl Embedder for Words {
    fn identity(&self) -> &EmbedderIdentity {
        &self.0
    }

    async fn embed(&self, texts: &[String], _: TextRole) -> Result<Vec<Vec<f32>>, RagError> {
        let vector = |text: &String| {
            let mut counts = vec![0.01f32; self.0.dimension];
            for word in text.split_whitespace().take(self.0.max_tokens) {
                counts[usize::from(Digest::of(word).as_str().as_bytes()[5]) % 32] += 1.0;
            }
            let length = counts.iter().map(|count| count * count).sum::<f32>().sqrt();
            counts.into_iter().map(|count| count / length).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }

    fn count_tokens(&self, text: &str) -> usize {
        text.split_whitespace().count()
    }
}

/// Twelve documents, of which the one that every query wants says so behind what an embedder reads.
fn collection() -> BeirCollection {
    let text = |n: usize| match n {
        7 => format!("{} The harbour gate shuts at dusk, says the GOLD board.", "tide ".repeat(60)),
        n => format!("The harbour gate number {n} was painted {}", "again ".repeat(n)),
    };
    let query =
        |n: usize| BeirQuery { id: format!("q{n}"), text: format!("when does harbour gate {n} shut") };
    let judged = BTreeMap::from([("d7".to_owned(), 1)]);
    BeirCollection {
        documents: (0..12).map(|n| BeirDocument { id: format!("d{n}"), text: text(n) }).collect(),
        queries: (0..16).map(query).collect(),
        judgements: (0..16).map(|n| (format!("q{n}"), judged.clone())).collect(),
    }
}

/// Finds what holds `GOLD` relevant, and nothing else.
fn reranker(directory: &std::path::Path) -> Reranker {
    let script = directory.join("script.json");
    let rule = |part: &str, yes: f64, no: f64| json!({"match": part, "log_likelihoods": [yes, no]});
    let rules = [rule("GOLD", -0.1, -9.0), rule("Does it answer", -9.0, -0.1)];
    fs_err::write(&script, json!({ "rules": rules }).to_string()).unwrap();
    Reranker::language_model(Arc::new(evalign_model::Scripted::load(&script).unwrap())).unwrap()
}

#[tokio::test]
async fn cutting_and_judging_again_are_tried_and_the_best_is_shown_on_the_other_half() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = EdgeStore::new(directory.path().join("vectors"));
    let (collection, reranker, embedder) = (collection(), reranker(directory.path()), Words::new());
    let chunking =
        ChunkSettings { strategy: Strategy::Recursive, max_tokens: 20, overlap_tokens: 0, prefix: false };
    let request = TuneRequest { metric: "ndcg@10", chunkings: vec![chunking], reranker: Some(&reranker) };
    let steps = std::sync::atomic::AtomicU64::new(0);
    let advance = |more| {
        steps.fetch_add(more, std::sync::atomic::Ordering::Relaxed);
    };
    let report = tune(&collection, (&vectors, &embedder), &request, &advance).await.unwrap();
    assert_eq!(steps.into_inner(), request.steps(&collection));
    let best = &report.candidates[0];
    assert!(best.way.rerank_depth.is_some() && best.tuned.ndcg_at_10 > 0.99, "{best:?}");
    let plain = |cut: bool| {
        let is_plain = |candidate: &&TuneCandidate| {
            let way = &candidate.way;
            way.chunking.is_some() == cut && way.rerank_depth.is_none() && way.options == candidates()[0]
        };
        report.candidates.iter().find(is_plain).unwrap()
    };
    // A document is found by any of its chunks, and once.
    assert!(plain(true).tuned.recall_at_100 > 0.99, "{:?}", plain(true));
    let depths: Vec<Option<usize>> = report.candidates.iter().map(|found| found.way.rerank_depth).collect();
    assert!([Some(10), Some(20), Some(50)].iter().all(|depth| depths.contains(depth)), "{depths:?}");
    assert_eq!(report.n_tuned + report.n_held_out, 16);
    let gain = report.gain.iter().find(|found| found.metric == "ndcg@10").unwrap();
    assert_eq!(gain.n, report.n_held_out);
    assert!((gain.b - gain.a - (best.held_out.ndcg_at_10 - plain(false).held_out.ndcg_at_10)).abs() < 1e-9);
    assert!(vectors.collections().await.unwrap().is_empty());
    let too_long = ChunkSettings { max_tokens: 24, ..chunking };
    let request = TuneRequest { chunkings: vec![too_long], ..request };
    let refused = tune(&collection, (&vectors, &embedder), &request, &|_| {}).await.unwrap_err();
    assert!(refused.to_string().contains("24 tokens"), "{refused}");
}

/// The legs of both are asked at once.
#[test]
fn hybrid_search_is_charged_what_it_took() {
    let mut seconds = stages::LegSeconds::default();
    for (mode, taken) in [(SearchMode::Bm25, 1.0), (SearchMode::Dense, 2.0), (SearchMode::Hybrid, 2.5)] {
        seconds.set(mode, 100, taken);
    }
    assert_eq!([51, 100].map(|depth| seconds.of(SearchMode::Hybrid, depth)), [2.5, 2.5]);
    assert_eq!((seconds.of(SearchMode::Bm25, 100), seconds.of(SearchMode::Dense, 100)), (1.0, 2.0));
    assert_eq!([50, 200].map(|depth| seconds.of(SearchMode::Hybrid, depth)), [0.0, 0.0]);
}

/// Each document has several chunks, which are found together.
#[tokio::test]
async fn as_many_documents_are_found_by_their_chunks_as_whole() {
    let directory = tempfile::tempdir().unwrap();
    let (store, embedder) = (EdgeStore::new(directory.path().join("vectors")), Words::new());
    let text = "The harbour gate shuts at dusk. ".repeat(12);
    let documents = (0..12).map(|n| BeirDocument { id: format!("d{n}"), text: text.clone() }).collect();
    let collection = BeirCollection { documents, ..collection() };
    let chunking =
        ChunkSettings { strategy: Strategy::Recursive, max_tokens: 8, overlap_tokens: 0, prefix: false };
    let cut =
        BeirEvaluation::new(&collection, (&store, "cut"), Some(&embedder)).cut(chunking, &embedder).unwrap();
    let whole = BeirEvaluation::new(&collection, (&store, "whole"), Some(&embedder));
    let feedback = Some(crate::Feedback { hits: 2, weight: 0.3 });
    let of = |mode, feedback| SearchOptions {
        mode,
        depth: 5,
        limit: 1,
        exact: true,
        feedback,
        ..SearchOptions::default()
    };
    let ways = [
        of(SearchMode::Bm25, None),
        of(SearchMode::Dense, None),
        of(SearchMode::Hybrid, None),
        of(SearchMode::Hybrid, feedback),
    ];
    for evaluation in [&cut, &whole] {
        evaluation.ingest(&|_| {}).await.unwrap();
        for options in &ways {
            let found = evaluation.ranking("harbour gate", options).await.unwrap();
            assert_eq!(found.len(), 5, "{options:?}: {found:?}");
        }
        // More than there are: every document, and an end.
        let all = SearchOptions { depth: 50, ..ways[3].clone() };
        assert_eq!(evaluation.ranking("harbour gate", &all).await.unwrap().len(), 12);
    }
}

#[test]
fn the_front_is_what_nothing_beats_in_both() {
    let of = |value, seconds_p50| TuneCandidate {
        way: SearchWay { chunking: None, options: SearchOptions::default(), rerank_depth: None },
        tuned: RetrievalMetrics { map: value, ..RetrievalMetrics::default() },
        held_out: RetrievalMetrics::default(),
        seconds_p50,
        on_front: false,
    };
    let mut candidates = [of(0.9, 4.0), of(0.9, 3.0), of(0.8, 3.5), of(0.7, 1.0), of(0.6, 2.0), of(0.5, 0.5)];
    mark_front(&mut candidates, "map");
    let front: Vec<bool> = candidates.iter().map(|candidate| candidate.on_front).collect();
    assert_eq!(front, [false, true, false, true, false, true]);
}

#[test]
fn the_first_candidate_is_plain_hybrid_search_and_halves_are_about_even() {
    let first = &candidates()[0];
    assert_eq!(
        (first.mode, first.fusion, first.bm25_weight),
        (SearchMode::Hybrid, Fusion::Rrf { k: 60.0 }, 1.0)
    );
    let even = (0..1000).filter(|query| is_tuned_on(&query.to_string())).count();
    assert!((430..570).contains(&even), "{even}");
}
