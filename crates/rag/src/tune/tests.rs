use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

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

fn document(n: usize, text: String) -> BeirDocument {
    BeirDocument { id: format!("d{n}"), title: String::new(), text }
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
        documents: (0..12).map(|n| document(n, text(n))).collect(),
        queries: (0..16).map(query).collect(),
        judgements: (0..16).map(|n| (format!("q{n}"), judged.clone())).collect(),
    }
}

/// Finds what holds `GOLD` relevant, and nothing else.
fn reranker(directory: &std::path::Path) -> Reranker {
    let script = directory.join("script.json");
    let rule = |part: &str, yes: f64, no: f64| json!({"match": part, "log_likelihoods": [yes, no]});
    let rules = [rule("GOLD", -0.1, -9.0), rule("Does it answer", -9.0, -0.1)];
    fs_err::write(&script, json!({ "rules": rules, "count_file": "asked.txt" }).to_string()).unwrap();
    Reranker::language_model(Arc::new(evalign_model::Scripted::load(&script).unwrap())).unwrap()
}

#[tokio::test]
async fn cutting_and_judging_again_are_tried_and_the_best_is_shown_on_the_other_half() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = EdgeStore::new(directory.path().join("vectors"));
    let (collection, reranker, embedder) = (collection(), reranker(directory.path()), Words::new());
    let chunking =
        ChunkSettings { strategy: Strategy::Recursive, max_tokens: 20, overlap_tokens: 0, prefix: false };
    let request = TuneRequest {
        metric: "ndcg@10",
        chunkings: vec![chunking],
        reranker: Some(&reranker),
        rerank_depths: &[3, 12],
    };
    let steps = std::sync::Mutex::new(TimeLeft::new(request.steps(&collection)));
    let advance = |step, more| steps.lock().unwrap().advance(step, more, Duration::from_secs(1));
    let report = tune(&collection, (&vectors, &embedder), &request, &advance).await.unwrap();
    let steps = steps.into_inner().unwrap();
    assert_eq!((steps.done(), steps.left()), (request.steps(&collection).total(), Some(Duration::ZERO)));
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
    assert!([Some(3), Some(12)].iter().all(|depth| depths.contains(depth)), "{depths:?}");
    assert_eq!(report.n_tuned + report.n_held_out, 16);
    let gain = report.gain.iter().find(|found| found.metric == "ndcg@10").unwrap();
    assert_eq!(gain.n, report.n_held_out);
    assert!((gain.b - gain.a - (best.held_out.ndcg_at_10 - plain(false).held_out.ndcg_at_10)).abs() < 1e-9);
    assert!(vectors.collections().await.unwrap().is_empty());
    let too_long = ChunkSettings { max_tokens: 24, ..chunking };
    let request = TuneRequest { chunkings: vec![too_long], ..request };
    let refused = tune(&collection, (&vectors, &embedder), &request, &|_, _| {}).await.unwrap_err();
    assert!(refused.to_string().contains("24 tokens"), "{refused}");
    let titled = ChunkSettings { prefix: true, ..chunking };
    let request = TuneRequest { chunkings: vec![titled], ..request };
    let refused = request.check(&collection, &embedder).unwrap_err();
    assert!(refused.to_string().contains("no document of this collection has a title"), "{refused}");
}

/// Each document speaks twice of the next one, and of itself only in its first words.
#[tokio::test]
async fn a_chunk_is_found_by_its_documents_title_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let (vectors, embedder) = (EdgeStore::new(directory.path().join("vectors")), Words::new());
    let titled = |n: usize| {
        let (title, next) = (format!("pump{n}"), (n + 1) % 16);
        let text = format!(
            "{title} has a hull of steel plates.\n\nBeside pump{next} stands pump{next} in the harbour.\n\n\
             It is emptied by turning the lever."
        );
        BeirDocument { id: format!("d{n}"), title, text }
    };
    let query = |n: usize| BeirQuery { id: format!("q{n}"), text: format!("lever pump{n}") };
    let judged = |n: usize| (format!("q{n}"), BTreeMap::from([(format!("d{n}"), 1)]));
    let collection = BeirCollection {
        documents: (0..16).map(titled).collect(),
        queries: (0..16).map(query).collect(),
        judgements: (0..16).map(judged).collect(),
    };
    let chunking = |prefix| BeirCollection::chunks(8, 0, prefix);
    let request = TuneRequest {
        metric: "ndcg@10",
        chunkings: vec![chunking(false), chunking(true)],
        reranker: None,
        rerank_depths: &[],
    };
    let report = tune(&collection, (&vectors, &embedder), &request, &|_, _| {}).await.unwrap();
    let by_words = |prefix| {
        let is_wanted = |found: &&TuneCandidate| {
            found.way.chunking == Some(chunking(prefix)) && found.way.options.mode == SearchMode::Bm25
        };
        report.candidates.iter().find(is_wanted).unwrap().tuned.mrr_at_10
    };
    assert_eq!((by_words(false), by_words(true)), (0.5, 1.0));
    let parts: Vec<TunePart> = report.parts.iter().map(|tuned| tuned.part).collect();
    assert_eq!(parts, [TunePart::Fusion, TunePart::Chunks, TunePart::Prefix]);
    for TunedPart { way, gain, .. } in &report.parts {
        assert_eq!((way.rerank_depth, gain[0].n), (None, report.n_held_out));
    }
}

#[tokio::test]
async fn what_was_judged_before_is_not_judged_again() {
    let directory = tempfile::tempdir().unwrap();
    let vectors = EdgeStore::new(directory.path().join("vectors"));
    let store = evalign_store::Store::open(&directory.path().join("home")).unwrap();
    let (collection, embedder) = (collection().with_queries(8), Words::new());
    assert_eq!(collection.queries.len(), 8);
    let sweep = async |depths: &[usize]| {
        let reranker = reranker(directory.path()).keeping(store.clone());
        let request = TuneRequest {
            metric: "ndcg@10",
            chunkings: Vec::new(),
            reranker: Some(&reranker),
            rerank_depths: depths,
        };
        let report = tune(&collection, (&vectors, &embedder), &request, &|_, _| {}).await.unwrap();
        let asked = fs_err::read_to_string(directory.path().join("asked.txt")).unwrap();
        (report, asked.lines().map(str::to_owned).collect::<Vec<_>>())
    };
    let judged = |report: &TuneReport| {
        let is_judged = |found: &&TuneCandidate| found.way.rerank_depth == Some(12);
        report.candidates.iter().find(is_judged).map(|found| (found.tuned, found.held_out)).unwrap()
    };
    let (first, asked) = sweep(&[12]).await;
    // Every document of every query, once.
    assert_eq!(asked.iter().collect::<std::collections::BTreeSet<_>>().len(), 8 * 12);
    assert_eq!(asked.len(), 8 * 12);
    let (second, asked_again) = sweep(&[3, 12]).await;
    assert_eq!(asked_again, asked);
    assert_eq!(judged(&second), judged(&first));
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
    let documents = (0..12).map(|n| document(n, text.clone())).collect();
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
