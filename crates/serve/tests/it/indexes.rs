//! Indexes over REST: documents in, cited answers out, each tenant its own.

use std::time::Duration;

use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::ingest::IndexSettings;
use evalign_rag::{CollectionSpec, EdgeStore, EmbedderIdentity, Pooling, VectorStore};
use evalign_serve::{Layer, ServedModels};
use evalign_testkit::embedding_model;
use futures::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Listening, Service};

const HANDBOOK: &str = "# Power\n\nThe lamp runs for nine hours on one charge of its battery.\n\n# Cleaning\n\nWipe \
                        the glass with a dry cloth once a week.\n";

fn with_embedder(test: &str) -> Option<Service> {
    let model = embedding_model(test)?;
    let reference = format!("local/{}", model.display()).parse().unwrap();
    let embedders = ServedModels([("minilm".to_owned(), reference)].into());
    Some(Service::with(&json!({"seed": 1}), Layer { embedders: Some(embedders), ..Layer::default() }))
}

async fn fill(listening: &Listening, index: &str, files: Value) -> Value {
    let service = &listening.service;
    let posted = service.post(&format!("/v1/indexes/{index}/documents"), &json!({"files": files})).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{}", posted.text());
    let run = posted.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(posted.headers["location"], format!("/v1/runs/{run}").as_str());
    listening.until(&run, "completed").await;
    service.get(&format!("/v1/runs/{run}/results")).await.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn uploaded_documents_are_searched_quoted_replaced_and_removed() {
    let Some(service) = with_embedder("uploaded_documents_are_searched_quoted_replaced_and_removed") else {
        return;
    };
    let listening = service.listening().await;
    let service = &listening.service;
    let made = service.post("/v1/indexes", &json!({"name": "docs", "embedder": "minilm"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    assert_eq!(
        (made.json()["embedder"].as_str(), made.json()["documents"].as_u64()),
        (Some("minilm"), Some(0))
    );
    assert_eq!(service.post("/v1/indexes", &json!({"name": "docs"})).await.code(), "index_exists");

    refuses_what_is_no_upload(service).await;
    let first = service.upload("handbook.md", "documents", HANDBOOK).await;
    let report = fill(&listening, "docs", json!([first])).await;
    assert_eq!((&report["added"], &report["failed"]), (&json!(1), &json!([])), "{report}");
    assert!(!report.to_string().contains(service.home.path().to_str().unwrap()), "{report}");

    let ask = json!({"question": "How long does the lamp run on one charge?"});
    let answer = service.post("/v1/indexes/docs/answer", &ask).await.json();
    let citation = &answer["claims"][0]["citations"][0];
    assert_eq!(citation["document"], "handbook.md", "{answer}");
    assert!(citation["quote"].as_str().unwrap().contains("nine hours"), "{answer}");
    for mode in ["feedback", "hybrid", "bm25", "dense"] {
        let body = json!({"query": "clean the glass", "limit": 1, "search": {"mode": mode}});
        let hits = service.post("/v1/indexes/docs/query", &body).await.json();
        let text = hits["data"][0]["payload"]["text"].as_str().unwrap().to_owned();
        assert!(text.contains("dry cloth"), "{mode}: {hits}");
    }

    is_asked_in_other_ways(service).await;

    // The same name is the same document, with what it says now.
    let second = service.upload("handbook.md", "documents", HANDBOOK.replace("nine", "eleven")).await;
    assert_eq!(fill(&listening, "docs", json!([second])).await["updated"], 1);
    let answer = service.post("/v1/indexes/docs/answer", &ask).await.text();
    assert!(answer.contains("eleven hours") && !answer.contains("nine hours"), "{answer}");
    let documents = service.get("/v1/indexes/docs/documents").await.json();
    assert_eq!(
        (documents["data"].as_array().unwrap().len(), &documents["data"][0]["id"]),
        (1, &json!("handbook.md"))
    );

    // Another tenant has another index of that name, and sees nothing of this one.
    let other = |method, path: &str, body: Option<Value>| {
        let path = path.to_owned();
        async move { service.ask(method, &path, &service.other, body.as_ref()).await }
    };
    assert_eq!(other(Method::GET, "/v1/indexes", None).await.json()["data"], json!([]));
    let theirs = json!({"name": "docs", "embedder": "minilm", "chunk_tokens": 64});
    assert_eq!(other(Method::POST, "/v1/indexes", Some(theirs)).await.status, StatusCode::CREATED);
    let stolen = other(Method::POST, "/v1/indexes/docs/documents", Some(json!({"files": [first]}))).await;
    assert_eq!(stolen.status, StatusCode::NOT_FOUND, "{}", stolen.text());
    let answer = other(Method::POST, "/v1/indexes/docs/answer", Some(ask.clone())).await.json();
    assert_eq!(answer["text"], Value::Null, "{answer}");
    assert_eq!(other(Method::DELETE, "/v1/indexes/docs", None).await.status, StatusCode::NO_CONTENT);

    // One document goes, with what it says and what it counts.
    let third = service.upload("notes.md", "documents", "# Weight\n\nThe lamp weighs two kilograms.\n").await;
    fill(&listening, "docs", json!([third])).await;
    let (before, files) = (service.get("/v1/indexes/docs").await.json(), service.store.file_bytes().unwrap());
    let remove = async |name: &str, key: &str| {
        let path = format!("/v1/indexes/docs/documents?name={name}");
        service.ask(Method::DELETE, &path, key, None).await.status
    };
    assert_eq!(remove("notes.md", &service.other).await, StatusCode::NOT_FOUND);
    assert_eq!(remove("notes.md", &service.run).await, StatusCode::NO_CONTENT);
    assert_eq!(remove("notes.md", &service.run).await, StatusCode::NOT_FOUND);
    let weight = json!({"question": "What does the lamp weigh?"});
    let answer = service.post("/v1/indexes/docs/answer", &weight).await.text();
    assert!(!answer.contains("kilograms"), "{answer}");
    let bytes = |index: &Value| index["bytes"].as_u64().unwrap();
    let after = service.get("/v1/indexes/docs").await.json();
    assert!(bytes(&after) < bytes(&before), "{before} {after}");
    assert_eq!(files - service.store.file_bytes().unwrap(), bytes(&before) - bytes(&after));
    let page = service.get("/v1/indexes/docs/documents?after=handbook.md").await.json();
    assert_eq!((&page["data"], &page["has_more"]), (&json!([]), &json!(false)));

    assert_eq!(service.get("/v1/indexes/docs").await.json()["documents"], 1);
    let removed = service.ask(Method::DELETE, "/v1/indexes/docs", &service.run, None).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT, "{}", removed.text());
    assert_eq!(service.get("/v1/indexes/docs").await.status, StatusCode::NOT_FOUND);
    let files = service.get("/v1/files").await.json();
    let uploaded: u64 =
        files["data"].as_array().unwrap().iter().map(|file| file["bytes"].as_u64().unwrap()).sum();
    assert_eq!(service.store.file_bytes().unwrap(), uploaded, "an index that is gone takes nothing");
    listening.end().await;
}

/// Chunks that a filter leaves, in other words too, and judged again.
async fn is_asked_in_other_ways(service: &Service) {
    let query = async |change: Value| {
        let mut body = json!({"query": "clean the glass"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        service.post("/v1/indexes/docs/query", &body).await.json()
    };
    assert_eq!(query(json!({"filters": ["document!=handbook.md"]})).await["data"], json!([]));
    let judged = query(json!({"rerank": {"model": "small", "depth": 2}, "limit": 1, "mmr": 0.5})).await;
    assert_eq!(judged["data"].as_array().unwrap().len(), 1, "{judged}");
    assert!(judged["data"][0]["rerank"]["relevance"].is_number(), "{judged}");
    let expanded = query(json!({"expand": ["multi-query"], "model": "small"})).await;
    assert!(!expanded["data"].as_array().unwrap().is_empty(), "{expanded}");
    for (change, param) in [
        (json!({"expand": ["hyde"]}), "expand"),
        (json!({"rerank": {"model": "nobody"}}), "rerank.model"),
        (json!({"rerank": {"model": "small", "depth": 0}}), "rerank.depth"),
        (json!({"filters": ["="]}), "filters"),
        (json!({"search": {"depth": 0}}), "search.depth"),
        (json!({"limit": 101}), "limit"),
    ] {
        assert_eq!(query(change.clone()).await["error"]["param"], param, "{change}");
    }
    let ask = json!({"question": "How long does the lamp run on one charge?", "search": {"mode": "bm25"},
                     "filters": ["document=handbook.md"], "rerank": "small", "explain": true});
    let answer = service.post("/v1/indexes/docs/answer", &ask).await.json();
    assert_eq!(answer["claims"][0]["citations"][0]["document"], "handbook.md", "{answer}");
    assert!(answer["hits"][0]["rerank"]["relevance"].is_number(), "{answer}");
}

/// Promise 25 and 26: neither a path nor an address of a client is opened.
async fn refuses_what_is_no_upload(service: &Service) {
    for file in ["/etc/passwd", "../files", "http://169.254.169.254/latest", "file_0", "docs/*.md"] {
        let answer = service.post("/v1/indexes/docs/documents", &json!({"files": [file]})).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{file}: {}", answer.text());
    }
}

#[tokio::test]
async fn promise_26_an_index_and_its_embedder_are_names() {
    let service = Service::new();
    for name in ["../x", "A", "", "a..other", "a.", "x/y"] {
        let answer = service.post("/v1/indexes", &json!({"name": name})).await;
        assert_eq!(answer.json()["error"]["param"], "name", "{name}: {}", answer.text());
    }
    let unknown = service.post("/v1/indexes", &json!({"name": "b", "embedder": "local//etc"})).await;
    assert_eq!(unknown.json()["error"]["param"], "embedder", "{}", unknown.text());
    assert_eq!(service.get("/v1/indexes").await.json()["data"], json!([]));
}

/// An index without documents, of an embedder that nobody needs: it is searched by words.
pub(crate) async fn empty_index(service: &Service) {
    let settings = settings_of_nobody();
    let spec = CollectionSpec {
        dimension: Some(settings.embedder.dimension),
        indexed_fields: Vec::new(),
        scalar_quantisation: false,
    };
    let vectors = EdgeStore::new(service.home.path().join("vectors"));
    vectors.ensure("docs", &spec).await.unwrap();
    service.store.put_index("docs", &json!(settings)).unwrap();
}

/// Of an index whose embedder nobody needs.
pub(crate) fn settings_of_nobody() -> IndexSettings {
    let embedder = EmbedderIdentity {
        name: "none".to_owned(),
        digest: None,
        dimension: 4,
        pooling: Pooling::Mean,
        query_prefix: String::new(),
        passage_prefix: String::new(),
        max_tokens: 128,
        probe: None,
    };
    let chunking =
        ChunkSettings { strategy: Strategy::Auto, max_tokens: 64, overlap_tokens: 0, prefix: false };
    IndexSettings { embedder, chunking, scalar_quantisation: false }
}

/// Each search is blocking work, for which a thread of the pool is needed: none may hold one while it waits for another.
#[test]
fn more_searches_at_once_than_threads_are_all_answered() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(4)
        .enable_all()
        .build()
        .unwrap();
    let work = async {
        let service = Service::new();
        empty_index(&service).await;
        let body = json!({"query": "lamp", "search": {"mode": "bm25"}});
        let searches = join_all((0..64).map(|_| service.post("/v1/indexes/docs/query", &body))).await;
        for found in searches {
            assert_eq!((found.status, &found.json()["data"]), (StatusCode::OK, &json!([])));
        }
        let remove = || service.ask(Method::DELETE, "/v1/indexes/docs", &service.run, None);
        let removals = join_all((0..16).map(|_| remove())).await;
        let removed = removals.iter().filter(|answer| answer.status == StatusCode::NO_CONTENT).count();
        let gone = removals.iter().filter(|answer| answer.status == StatusCode::NOT_FOUND).count();
        assert_eq!((removed, gone), (1, 15));
        assert_eq!(service.get("/v1/indexes").await.json()["data"], json!([]));
    };
    let answered = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(60), work).await });
    // Whoever waits for ever must not be waited for.
    runtime.shutdown_background();
    answered.unwrap();
}

#[tokio::test]
async fn an_index_whose_vectors_cannot_be_removed_is_still_there_to_be_removed() {
    let service = Service::new();
    empty_index(&service).await;
    let remove = || service.ask(Method::DELETE, "/v1/indexes/docs", &service.run, None);
    // In the way of the directory, which is first renamed to this.
    let vectors = service.home.path().join("vectors");
    fs_err::write(vectors.join(".removed-docs"), "").unwrap();
    assert!(!remove().await.status.is_success());
    assert_eq!(service.get("/v1/indexes/docs").await.status, StatusCode::OK);
    fs_err::remove_file(vectors.join(".removed-docs")).unwrap();
    assert_eq!(remove().await.status, StatusCode::NO_CONTENT);
    assert!(!vectors.join("docs").exists());
    assert_eq!(service.get("/v1/indexes/docs").await.status, StatusCode::NOT_FOUND);
}
