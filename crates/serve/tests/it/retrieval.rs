//! Search and answers measured over REST, on uploaded collections and questions.

use evalign_serve::{Layer, ServedModels};
use evalign_testkit::embedding_model;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{Listening, Service};

const THINGS: [(&str, &str); 6] = [
    ("lamp", "The lamp runs for nine hours on one charge of its battery."),
    ("kettle", "The kettle boils one litre of water in three minutes."),
    ("radio", "The radio receives stations between 87 and 108 megahertz."),
    ("drill", "The drill turns at two thousand rounds in a minute."),
    ("clock", "The clock loses one second in a hundred years."),
    ("heater", "The heater warms a room of twenty square metres."),
];

/// The collection's files, uploaded: every query is about one document.
pub(crate) async fn collection(service: &Service) -> Value {
    let row = |id: &str, text: &str| json!({"_id": id, "title": "", "text": text}).to_string() + "\n";
    let corpus: String = THINGS.iter().map(|(name, text)| row(name, text)).collect();
    let queries: String =
        THINGS.iter().map(|(name, _)| row(&format!("q-{name}"), &format!("what about the {name}"))).collect();
    let grades: String = THINGS.iter().map(|(name, _)| format!("q-{name}\t{name}\t1\n")).collect();
    json!({
        "name": "things",
        "corpus": service.upload("corpus.jsonl", "dataset", corpus).await,
        "queries": service.upload("queries.jsonl", "dataset", queries).await,
        "qrels": service.upload("test.tsv", "dataset", format!("query-id\tcorpus-id\tscore\n{grades}")).await,
    })
}

async fn done(listening: &Listening, path: &str, body: &Value) -> String {
    let posted = listening.service.post(path, body).await;
    assert_eq!(posted.status, StatusCode::ACCEPTED, "{path}: {}", posted.text());
    let id = posted.json()["id"].as_str().unwrap().to_owned();
    listening.until(&id, "completed").await;
    id
}

pub(crate) fn with_embedder(test: &str, script: &Value) -> Option<Service> {
    let reference = format!("local/{}", embedding_model(test)?.display()).parse().unwrap();
    let embedders = ServedModels([("minilm".to_owned(), reference)].into());
    Some(Service::with(script, Layer { embedders: Some(embedders), ..Layer::default() }))
}

#[tokio::test(flavor = "multi_thread")]
async fn search_is_measured_on_an_uploaded_collection_and_compared() {
    let listening = Service::new().listening().await;
    let service = &listening.service;
    let collection = collection(service).await;
    let body = json!({"collection": collection, "search": {"mode": "bm25"}});
    let first = done(&listening, "/v1/retrieval/evaluations", &body).await;
    let run = service.get(&format!("/v1/runs/{first}")).await.json();
    assert_eq!((&run["procedure"], &run["samples_done"]), (&json!("retrieval"), &json!(6)), "{run}");
    let results = service.get(&format!("/v1/runs/{first}/results")).await;
    let metrics = results.json()["results"][0]["metrics"].as_array().unwrap().clone();
    let ndcg = metrics.iter().find(|metric| metric["name"] == "ndcg@10").unwrap();
    assert_eq!((&ndcg["value"], &ndcg["n"]), (&json!(1.0), &json!(6)), "{ndcg}");
    assert_eq!(results.json()["results"][0]["task"], "retrieval/things");
    assert!(!results.text().contains(service.home.path().to_str().unwrap()), "{}", results.text());
    // The same again is that run; with `fork` it is another.
    assert_eq!(service.post("/v1/retrieval/evaluations", &body).await.json()["id"], first.as_str());
    let body = json!({"collection": collection, "search": {"mode": "bm25"}, "fork": true});
    let second = done(&listening, "/v1/retrieval/evaluations", &body).await;
    assert_ne!(first, second);
    let differences = format!("/v1/retrieval/differences?a={first}&b={second}");
    let found = service.get(&differences).await.json();
    assert_eq!(
        (&found["data"][0]["difference"], &found["data"][0]["n"]),
        (&json!(0.0), &json!(6)),
        "{found}"
    );
    refused_to_others(service, &collection, &differences).await;
    listening.end().await;
}

async fn refused_to_others(service: &Service, collection: &Value, differences: &str) {
    let body = json!({"collection": collection, "search": {"mode": "bm25"}});
    for path in ["/v1/retrieval/evaluations", "/v1/retrieval/tunings"] {
        let body = if path.ends_with("tunings") { json!({"collection": collection}) } else { body.clone() };
        let theirs = service.ask(Method::POST, path, &service.other, Some(&body)).await;
        assert_eq!(theirs.status, StatusCode::NOT_FOUND, "{path}: {}", theirs.text());
    }
    let theirs = service.ask(Method::GET, differences, &service.other, None).await;
    assert_eq!(theirs.status, StatusCode::NOT_FOUND);
    let broken = service.upload("qrels.tsv", "dataset", "nothing\n").await;
    let mut other = collection.clone();
    other["qrels"] = json!(broken);
    let mut named = collection.clone();
    named["name"] = json!("../x");
    for (collection, param) in [(other, "collection"), (named, "collection.name")] {
        let body = json!({"collection": collection, "search": {"mode": "bm25"}});
        let refused = service.post("/v1/retrieval/evaluations", &body).await;
        assert_eq!(refused.status, StatusCode::BAD_REQUEST, "{}", refused.text());
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text());
        assert!(!refused.text().contains(service.home.path().to_str().unwrap()), "{}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ways_of_searching_are_tuned_over_rest() {
    let test = "ways_of_searching_are_tuned_over_rest";
    let Some(service) = with_embedder(test, &json!({"seed": 1})) else { return };
    let listening = service.listening().await;
    let service = &listening.service;
    let collection = collection(service).await;
    let body = json!({"collection": collection, "embedder": "minilm", "chunk_tokens": [16]});
    let sweep = done(&listening, "/v1/retrieval/tunings", &body).await;
    let results = service.get(&format!("/v1/runs/{sweep}/results")).await.json();
    let queries = results["n_tuned"].as_u64().unwrap() + results["n_held_out"].as_u64().unwrap();
    assert_eq!(queries, 6, "{results}");
    assert!(results["candidates"].as_array().unwrap().iter().any(|way| way["on_front"] == true), "{results}");
    let events = service.get(&format!("/v1/runs/{sweep}/events")).await.text();
    assert!(events.contains("event: run.progress"), "{events}");
    for (change, param) in [
        (json!({"metric": "beauty"}), Value::Null),
        (json!({"embedder": "local//etc"}), json!("embedder")),
        (json!({"rerank": "none"}), json!("rerank")),
        (json!({"rerank_depths": [10]}), json!("rerank_depths")),
        (json!({"rerank": "small", "rerank_depths": [0]}), json!("rerank_depths")),
        (json!({"queries": 0}), json!("queries")),
        (json!({"prefix": true, "chunk_tokens": []}), json!("prefix")),
        // Its documents have no titles.
        (json!({"prefix": true}), Value::Null),
    ] {
        let mut body = body.clone();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = service.post("/v1/retrieval/tunings", &body).await;
        assert!(refused.status.is_client_error(), "{change}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text());
    }
    listening.end().await;
}

/// All that the command line has of finding evidence; what is the default anyway makes no other run.
async fn is_measured_as_it_is_asked(listening: &Listening, questions: &str, plain: &str) {
    let (service, path) = (&listening.service, "/v1/indexes/docs/evaluations");
    let said = json!({"questions": questions, "search": {"mode": "feedback", "depth": 100}, "limit": 10});
    assert_eq!(service.post(path, &said).await.json()["id"], plain);
    let body = json!({
        "questions": questions, "model": "small", "limit": 5, "min_confidence": 0.1, "rerank": "small",
        "search": {"mode": "hybrid", "bm25_weight": 0.5, "rrf_k": 10, "depth": 20, "exact": true, "mmr": 0.7,
                   "filters": ["document=handbook.md"], "expand": ["hyde", "multi-query"]},
    });
    let run = done(listening, path, &body).await;
    assert_ne!(run, plain);
    let results = service.get(&format!("/v1/runs/{run}/results")).await.json();
    let metrics = results["results"][0]["metrics"].as_array().unwrap();
    let recall = metrics.iter().find(|metric| metric["name"] == "context_recall").unwrap();
    assert_eq!(recall["value"], 1.0, "{results}");
    let elsewhere = json!({"questions": questions, "search": {"filters": ["document!=handbook.md"]}});
    let elsewhere = done(listening, path, &elsewhere).await;
    let results = service.get(&format!("/v1/runs/{elsewhere}/results")).await.json();
    let metrics = results["results"][0]["metrics"].as_array().unwrap();
    let recall = metrics.iter().find(|metric| metric["name"] == "context_recall").unwrap();
    assert_eq!(recall["value"], 0.0, "what is filtered out is not found: {results}");
    for (change, param) in [
        (json!({"search": {"filters": ["what"]}}), "search.filters"),
        (json!({"search": {"expand": ["hyde"]}}), "search.expand"),
        (json!({"rerank": "nobody"}), "rerank"),
        (json!({"search": {"mmr": 2}}), "search.mmr"),
        (json!({"search": {"mode": "bm25", "fusion": "rrf"}}), "search.fusion"),
        (json!({"search": {"mode": "magic"}}), "search.mode"),
    ] {
        let mut body = json!({"questions": questions});
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let refused = service.post(path, &body).await;
        assert!(refused.status.is_client_error(), "{change}: {}", refused.text());
        assert_eq!(refused.json()["error"]["param"], param, "{}", refused.text());
    }
}

const HANDBOOK: &str = "# Power\n\nThe lamp runs for nine hours on one charge of its battery, which is more than any \
                        other lamp of its size and enough for a long winter night outdoors.\n";

#[tokio::test(flavor = "multi_thread")]
async fn an_index_makes_questions_and_is_measured_on_them() {
    let test = "an_index_makes_questions_and_is_measured_on_them";
    let written = json!({"quote": "nine hours", "question": "How long does the lamp run on one charge?"});
    let script = json!({"seed": 1, "rules": [{"match": "winter night", "text": written.to_string()}]});
    let Some(service) = with_embedder(test, &script) else { return };
    let listening = service.listening().await;
    let service = &listening.service;
    let made = service.post("/v1/indexes", &json!({"name": "docs", "embedder": "minilm"})).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let file = service.upload("handbook.md", "documents", HANDBOOK).await;
    done(&listening, "/v1/indexes/docs/documents", &json!({"files": [file]})).await;

    let tests = done(&listening, "/v1/indexes/docs/tests", &json!({"model": "small", "count": 1})).await;
    let results = service.get(&format!("/v1/runs/{tests}/results")).await.json();
    assert_eq!((&results["questions"], &results["asked"]), (&json!(1), &json!(1)), "{results}");
    let questions = results["file"].as_str().unwrap();
    let content = service.get(&format!("/v1/files/{questions}/content")).await.text();
    let question: Value = serde_json::from_str(content.trim()).unwrap();
    assert_eq!(question["answers"], json!(["nine hours"]), "{question}");

    let body = json!({"questions": questions});
    let measured = done(&listening, "/v1/indexes/docs/evaluations", &body).await;
    let run = service.get(&format!("/v1/runs/{measured}")).await.json();
    assert_eq!((&run["procedure"], &run["samples_done"]), (&json!("answering"), &json!(1)), "{run}");
    let results = service.get(&format!("/v1/runs/{measured}/results")).await.json();
    let metrics = results["results"][0]["metrics"].as_array().unwrap();
    let recall = metrics.iter().find(|metric| metric["name"] == "context_recall").unwrap();
    assert_eq!(recall["value"], 1.0, "{results}");

    is_measured_as_it_is_asked(&listening, questions, &measured).await;
    let theirs = async |path: &str, body: Value| {
        let answer = service.ask(Method::POST, path, &service.other, Some(&body)).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND, "{path}: {}", answer.text());
    };
    theirs("/v1/indexes/docs/tests", json!({"model": "small", "count": 1})).await;
    theirs("/v1/indexes/docs/evaluations", body).await;
    let none = service.post("/v1/indexes/docs/tests", &json!({"model": "small", "count": 0})).await;
    assert_eq!(none.json()["error"]["param"], "count", "{}", none.text());
    listening.end().await;
}
