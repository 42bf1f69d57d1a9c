//! Indexes over REST: documents in, cited answers out, each tenant its own.

use std::time::Duration;

use evalign_rag::chunker::{ChunkSettings, Strategy};
use evalign_rag::ingest::IndexSettings;
use evalign_rag::{CollectionSpec, EdgeStore, EmbedderIdentity, Pooling, VectorStore};
use evalign_serve::Layer;
use evalign_store::KeyLimits;
use futures::future::join_all;
use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::common::{Listening, Service};
use crate::limits::{check_used_up, limited, long_before_midnight};
use crate::retrieval::with_embedder;

const HANDBOOK: &str = "# Power\n\nThe lamp runs for nine hours on one charge of its battery.\n\n# Cleaning\n\nWipe \
                        the glass with a dry cloth once a week.\n";

const NOTES: &str = "---\nauthor: Jane Doe\nyear: 2001\n---\n# Weight\n\nThe lamp weighs two kilograms.\n";

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
    let test = "uploaded_documents_are_searched_quoted_replaced_and_removed";
    let Some(service) = with_embedder(test, &json!({"seed": 1})) else { return };
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
    let third = service.upload("notes.md", "documents", NOTES).await;
    fill(&listening, "docs", json!([third])).await;
    goes_by_what_documents_carry(service).await;
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

/// Front matter of one document of the index.
async fn goes_by_what_documents_carry(service: &Service) {
    let query = async |condition: &str, key: &str| {
        let body = json!({"query": "lamp", "search": {"mode": "bm25", "filters": [condition]}});
        service.ask(Method::POST, "/v1/indexes/docs/query", key, Some(&body)).await.json()
    };
    let found = query("meta.author=\"Jane Doe\"", &service.run).await;
    let payload = &found["data"][0]["payload"];
    assert_eq!(
        (&payload["document"], &payload["meta"]["year"]),
        (&json!("notes.md"), &json!(2001)),
        "{found}"
    );
    assert_eq!(query("meta.year<2001", &service.run).await["data"], json!([]));
    let refused = query("meta.autor=Li", &service.run).await["error"].clone();
    assert!(refused["message"].as_str().unwrap().contains("there are meta.author, meta.year"), "{refused}");
}

/// Chunks that a filter leaves, in other words too, and judged again.
async fn is_asked_in_other_ways(service: &Service) {
    let query = async |change: Value| {
        let mut body = json!({"query": "clean the glass"});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        service.post("/v1/indexes/docs/query", &body).await.json()
    };
    assert_eq!(query(json!({"search": {"filters": ["document!=handbook.md"]}})).await["data"], json!([]));
    let judged =
        query(json!({"rerank": {"model": "small", "depth": 2}, "limit": 1, "search": {"mmr": 0.5}})).await;
    assert_eq!(judged["data"].as_array().unwrap().len(), 1, "{judged}");
    assert!(judged["data"][0]["rerank"]["relevance"].is_number(), "{judged}");
    let expanded = query(json!({"search": {"expand": ["multi-query"]}, "model": "small"})).await;
    assert!(!expanded["data"].as_array().unwrap().is_empty(), "{expanded}");
    for (change, param) in [
        (json!({"search": {"expand": ["hyde"]}}), "search.expand"),
        (json!({"rerank": {"model": "nobody"}}), "rerank.model"),
        (json!({"rerank": {"model": "small", "depth": 0}}), "rerank.depth"),
        (json!({"search": {"filters": ["="]}}), "search.filters"),
        (json!({"filters": ["kind=markdown"]}), "filters"),
        (json!({"search": {"depth": 0}}), "search.depth"),
        (json!({"limit": 101}), "limit"),
    ] {
        assert_eq!(query(change.clone()).await["error"]["param"], param, "{change}");
    }
    let search = json!({"mode": "bm25", "filters": ["document=handbook.md"]});
    let ask = json!({"question": "How long does the lamp run on one charge?", "search": search, "rerank": "small",
                     "explain": true});
    let answer = service.post("/v1/indexes/docs/answer", &ask).await.json();
    assert_eq!(answer["claims"][0]["citations"][0]["document"], "handbook.md", "{answer}");
    assert!(answer["hits"][0]["rerank"]["relevance"].is_number(), "{answer}");
}

/// What was asked of a model besides is told, and what it was no help with.
#[tokio::test]
async fn a_query_says_what_else_was_looked_for() {
    let rules = json!([{"match": "lamp", "text": "the lantern on the pier"}]);
    let service = Service::with(&json!({"rules": rules}), Layer::default());
    empty_index(&service).await;
    let search = json!({"mode": "bm25", "expand": ["multi-query", "decompose"]});
    let body = json!({"query": "lamp", "model": "small", "search": search});
    let found = service.post("/v1/indexes/docs/query", &body).await.json();
    assert_eq!(found["added"], json!(["query 1 of bm25: the lantern on the pier"]), "{found}");
    let notes = found["notes"].as_array().unwrap();
    assert!(notes.len() == 1 && notes[0].as_str().unwrap().contains("Decompose"), "{found}");
    let plain =
        service.post("/v1/indexes/docs/query", &json!({"query": "lamp", "search": {"mode": "bm25"}})).await;
    let empty = json!([]);
    let told = ["data", "added", "notes"].map(|field| plain.json()[field].clone());
    assert_eq!(told, [empty.clone(), empty.clone(), empty], "{}", plain.text());
}

/// A service with the handbook in an index, and a model that answers as the script says.
async fn with_handbook(test: &str, script: &Value) -> Option<Listening> {
    let listening = with_embedder(test, script)?.listening().await;
    let service = &listening.service;
    let made = service.post("/v1/indexes", &json!({"name": "docs", "embedder": "minilm"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let file = service.upload("handbook.md", "documents", HANDBOOK).await;
    fill(&listening, "docs", json!([file])).await;
    Some(listening)
}

/// What is asked without and with `stream`: the answer, and the events by their names.
async fn both_ways(listening: &Listening, mut ask: Value) -> (Value, Vec<(String, Value)>) {
    let path = "/v1/indexes/docs/answer";
    let whole = listening.service.post(path, &ask).await.json();
    ask["stream"] = true.into();
    let mut text = String::new();
    listening.post(path, &ask).await.read_to_string(&mut text).await.unwrap();
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    let of =
        |prefix: &str| -> Vec<&str> { text.lines().filter_map(|line| line.strip_prefix(prefix)).collect() };
    let data = of("data: ").into_iter().map(|data| serde_json::from_str(data).unwrap());
    (whole, of("event: ").into_iter().map(str::to_owned).zip(data).collect())
}

fn names(events: &[(String, Value)]) -> Vec<&str> {
    events.iter().map(|(name, _)| name.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_told_claim_by_claim() {
    long_before_midnight().await;
    let rules = json!([
        {"match": "does the lamp run", "text": "The lamp runs for nine hours on one charge of its battery. It is blue."},
        {"match": "is the glass cleaned", "text": "Wipe the glass with a dry cloth once a week. The sources do not say."},
        {"match": "Who made the lamp", "error": "no more today"},
    ]);
    let test = "an_answer_is_told_claim_by_claim";
    let Some(listening) = with_handbook(test, &json!({"rules": rules})).await else { return };
    let ask = |question: &str| json!({"question": question, "model": "small", "min_confidence": 0});

    let (whole, told) = both_ways(&listening, ask("How long does the lamp run on one charge?")).await;
    assert_eq!(names(&told), ["answer.claim", "answer"], "{told:?}");
    assert_eq!(told[1].1, whole);
    let (claim, written) = (&told[0].1, &whole["claims"]);
    assert_eq!((&claim["text"], &claim["citations"]), (&written[0]["text"], &written[0]["citations"]));
    assert!(claim["citations"][0]["quote"].as_str().unwrap().contains("nine hours"), "{claim}");
    assert_eq!((&claim["index"], &written[1]["supported"]), (&json!(0), &json!(false)), "{whole}");

    let (whole, told) = both_ways(&listening, ask("How is the glass cleaned?")).await;
    assert_eq!(names(&told), ["answer.claim", "answer.withdrawn", "answer"], "{told:?}");
    assert_eq!((&told[1].1["index"], &told[2].1, &whole["text"]), (&json!(0), &whole, &Value::Null));

    let (whole, told) = both_ways(&listening, ask("Who made the lamp?")).await;
    assert_eq!((names(&told), &told[0].1), (vec!["error"], &whole));
    assert_eq!(whole["error"]["code"], "invalid_request", "{whole}");

    // Quotes are claims too.
    let quoting = json!({"question": "How long does the lamp run on one charge?"});
    let (whole, told) = both_ways(&listening, quoting).await;
    let (name, last) = told.last().unwrap();
    assert_eq!((name.as_str(), last), ("answer", &whole));
    let quoted: Vec<&Value> = told[..told.len() - 1].iter().map(|(_, claim)| &claim["text"]).collect();
    let expected: Vec<&Value> =
        whole["claims"].as_array().unwrap().iter().map(|claim| &claim["text"]).collect();
    assert_eq!((quoted.is_empty(), quoted), (false, expected));

    refuses_before_anything_is_told(&listening.service).await;
    counts_for_its_key(&listening.service).await;
    listening.end().await;
}

async fn refuses_before_anything_is_told(service: &Service) {
    let body = json!({"question": "How long does the lamp run?", "stream": true});
    for (field, value) in [("model", json!("nobody")), ("limit", json!(0)), ("question", json!(" "))] {
        let mut body = body.clone();
        body[field] = value;
        let refused = service.post("/v1/indexes/docs/answer", &body).await;
        assert!(refused.status.is_client_error(), "{field}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], field, "{}", refused.text());
    }
    let missing = service.post("/v1/indexes/none/answer", &body).await;
    assert_eq!((missing.status, missing.code().as_str()), (StatusCode::NOT_FOUND, "not_found"));
}

async fn counts_for_its_key(service: &Service) {
    let (key, _) = limited(service, KeyLimits { tokens_per_day: Some(1), ..KeyLimits::default() });
    let question = "How long does the lamp run on one charge?";
    let body = json!({"question": question, "model": "small", "min_confidence": 0, "stream": true});
    let ask = || service.ask(Method::POST, "/v1/indexes/docs/answer", &key, Some(&body));
    let first = ask().await;
    assert!(first.text().contains("event: answer\n"), "{}", first.text());
    check_used_up(&ask().await);
}

/// Promise 18: an answer of minutes does not keep a server from ending, nor does its reader see it break off without a word.
#[tokio::test(flavor = "multi_thread")]
async fn promise_18_an_answer_that_the_end_of_the_server_breaks_off_says_so() {
    let test = "promise_18_an_answer_that_the_end_of_the_server_breaks_off_says_so";
    let Some(listening) = with_handbook(test, &json!({"delay_ms": 600_000})).await else { return };
    let question = "How long does the lamp run on one charge?";
    let ask = json!({"question": question, "model": "small", "min_confidence": 0, "stream": true});
    let mut client = listening.post("/v1/indexes/docs/answer", &ask).await;
    let mut told = Vec::new();
    let read = async {
        while !told.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
            assert_ne!(client.read_buf(&mut told).await.unwrap(), 0, "no stream");
        }
        // Draining leaves it be; the second signal is at once.
        listening.shutdown.raise();
        listening.shutdown.raise();
        client.read_to_end(&mut told).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.expect("the stream does not end");
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("event: error\n") && told.contains("the server is ending"), "{told}");
    assert!(told.ends_with("0\r\n\r\n"), "the body is whole: {told:?}");
    listening.task.await.unwrap();
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
    assert_eq!(remove().await.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(service.get("/v1/indexes/docs").await.status, StatusCode::OK);
    fs_err::remove_file(vectors.join(".removed-docs")).unwrap();
    assert_eq!(remove().await.status, StatusCode::NO_CONTENT);
    assert!(!vectors.join("docs").exists());
    assert_eq!(service.get("/v1/indexes/docs").await.status, StatusCode::NOT_FOUND);
}
