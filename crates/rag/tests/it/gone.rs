//! A server that goes away in the middle of an ingest, and comes back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use evalign_core::{Digest, Hint};
use evalign_fetch::RetryPolicy;
use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::ingest::{IndexSettings, Ingest, IngestReport, IngestRequest, shown};
use evalign_rag::{
    EdgeStore, Embedder, EmbedderIdentity, Pooling, QdrantOptions, QdrantStore, RagError, Scope, StoreFault,
    TextRole, VectorStore,
};
use evalign_store::Store;
use hashing::Hashing;

#[path = "../../src/ingest/tests/hashing.rs"]
mod hashing;

fn request(documents: &std::path::Path) -> IngestRequest {
    IngestRequest {
        index: "i".to_owned(),
        tenant: "t".to_owned(),
        inputs: vec![documents.display().to_string()],
        named: Vec::new(),
        allow_urls: false,
        settings: IndexSettings {
            embedder: Hashing::new().identity().clone(),
            chunking: ChunkSettings {
                strategy: Strategy::Auto,
                max_tokens: 32,
                overlap_tokens: 0,
                prefix: false,
            },
            scalar_quantisation: false,
        },
        delete_missing: true,
    }
}

async fn connect(url: &str) -> QdrantStore {
    let retry = RetryPolicy { base: Duration::from_millis(5), ..RetryPolicy::default() };
    QdrantStore::connect(&QdrantOptions { retry, ..QdrantOptions::new(url, None) }).await.unwrap()
}

/// Ends the server as soon as a batch is acknowledged.
async fn ingest(
    state: &Store,
    engine: &Arc<EdgeStore>,
    documents: &std::path::Path,
    ends: bool,
) -> Result<IngestReport, RagError> {
    let (url, server) = crate::stores::serve(Arc::clone(engine)).await;
    let store = connect(&url).await;
    let server = Mutex::new(Some(server));
    let progress = |progress: evalign_rag::ingest::IngestProgress| {
        if let Some(server) = server.lock().unwrap().take_if(|_| ends && progress.chunks > 0) {
            server.abort();
            while !server.is_finished() {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    };
    let report =
        Ingest::new(state, &store, Arc::new(Hashing::new()), &progress).run(&request(documents)).await;
    if let Some(server) = server.into_inner().unwrap() {
        server.abort();
    }
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_server_that_goes_away_in_the_middle_of_an_ingest_costs_what_was_not_acknowledged() {
    let directory = tempfile::tempdir().unwrap();
    let documents = directory.path().join("docs");
    fs_err::create_dir(&documents).unwrap();
    for number in 0..600 {
        let text = format!("The lamp number {number} stands on the pier.");
        fs_err::write(documents.join(format!("{number:03}.txt")), text).unwrap();
    }
    let state = Store::open(&directory.path().join("home")).unwrap();
    let engine = Arc::new(EdgeStore::new(directory.path().join("vectors")));
    let error = ingest(&state, &engine, &documents, true).await.unwrap_err();
    assert!(matches!(error, RagError::Store { kind: StoreFault::Unavailable, .. }), "{error}");
    assert!(error.hint().unwrap().contains("goes on where it stopped"), "{error}");
    let recorded = state.indexed_documents("i", "t").unwrap().len();
    assert!(recorded > 0 && recorded < 600, "{recorded}");
    let found = || async { engine.count("i", &Scope::of("t").visible(shown())).await.unwrap() };
    assert!(found().await >= recorded as u64, "what was acknowledged is found while the rest is missing");

    let report = ingest(&state, &engine, &documents, false).await.unwrap();
    assert_eq!((report.unchanged as usize, report.added as usize), (recorded, 600 - recorded));
    assert_eq!(found().await, 600);
    assert_eq!(engine.count("i", &Scope::of("t")).await.unwrap(), 600, "nothing hidden is left");
}
