//! The embedded store as a server: who may call it, what it does not answer, and a server that goes away.

use std::sync::Arc;
use std::time::Duration;

use evalign_core::Hint;
use evalign_fetch::{RetryPolicy, Secret};
use evalign_rag::{
    CollectionSpec, EdgeStore, Point, QdrantOptions, QdrantServer, QdrantStore, RagError, Scope,
    SparseVector, StoreFault, VectorStore,
};
use qdrant_client::Qdrant;
use qdrant_client::qdrant as api;
use uuid::Uuid;

const SPEC: CollectionSpec =
    CollectionSpec { dimension: None, indexed_fields: Vec::new(), scalar_quantisation: false };

fn point(number: u128) -> Point {
    Point {
        id: Uuid::from_u128(number),
        tenant: "a".to_owned(),
        dense: None,
        sparse: SparseVector { indices: vec![1], values: vec![0.5] },
        payload: serde_json::Map::new(),
    }
}

fn options(url: &str) -> QdrantOptions {
    let retry = RetryPolicy { base: Duration::from_millis(20), ..RetryPolicy::default() };
    QdrantOptions { retry, batch_points: 10, ..QdrantOptions::new(url, None) }
}

fn engine() -> (tempfile::TempDir, Arc<EdgeStore>) {
    let directory = tempfile::tempdir().unwrap();
    let engine = Arc::new(EdgeStore::new(directory.path().to_owned()));
    (directory, engine)
}

async fn serve_with(key: &str) -> (tempfile::TempDir, String) {
    let (directory, engine) = engine();
    let (tell, told) = tokio::sync::oneshot::channel();
    let key = Secret::new(key);
    tokio::spawn(async move {
        let bound = |address| tell.send(address).unwrap();
        let address = "127.0.0.1:0".parse().unwrap();
        QdrantServer::new(engine).serve(address, key, bound, std::future::pending()).await.unwrap();
    });
    (directory, format!("http://{}", told.await.unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_key_opens_it_and_no_message_shows_it() {
    let (_keep, url) = serve_with("canary-key").await;
    let right = QdrantOptions { api_key: Secret::new("canary-key"), ..options(&url) };
    QdrantStore::connect(&right).await.unwrap().ensure("c", &SPEC).await.unwrap();
    for key in [None, Secret::new("canary-kez")] {
        let error = QdrantStore::connect(&QdrantOptions { api_key: key, ..options(&url) }).await.unwrap_err();
        assert!(matches!(error, RagError::Store { kind: StoreFault::Denied, .. }), "{error}");
        assert!(error.hint().unwrap().contains("QDRANT_API_KEY"));
        assert!(!format!("{error} {error:?} {right:?}").contains("canary"), "{error:?}");
    }
}

#[tokio::test]
async fn without_a_key_it_stays_on_this_machine() {
    let (_keep, engine) = engine();
    let address = "0.0.0.0:0".parse().unwrap();
    let served = QdrantServer::new(engine).serve(address, None, |_| (), std::future::ready(())).await;
    assert!(matches!(served, Err(RagError::Invalid { .. })), "{served:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_does_not_know_it_says() {
    let (_keep, engine) = engine();
    let (url, server) = crate::stores::serve(engine).await;
    let client = Qdrant::from_url(&url).build().unwrap();
    let params = api::VectorParamsBuilder::new(2, api::Distance::Dot);
    client.create_collection(api::CreateCollectionBuilder::new("c").vectors_config(params)).await.unwrap();
    let code = |error: qdrant_client::QdrantError| match error {
        qdrant_client::QdrantError::ResponseError { status } => status.code(),
        other => panic!("{other}"),
    };
    let aliased = client.create_alias(api::CreateAliasBuilder::new("c", "d")).await;
    assert_eq!(code(aliased.unwrap_err()), tonic::Code::Unimplemented);
    let sampled = client
        .query(api::QueryPointsBuilder::new("c").query(api::Query::new_sample(api::Sample::Random)))
        .await;
    assert_eq!(code(sampled.unwrap_err()), tonic::Code::Unimplemented);
    let nowhere = client.count(api::CountPointsBuilder::new("nowhere")).await;
    assert_eq!(code(nowhere.unwrap_err()), tonic::Code::NotFound);
    server.abort();
}

/// As somebody would use it who has never heard of us: numbers as ids, one vector without a name, fusion.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_client_is_at_home() {
    let (_keep, engine) = engine();
    let (url, server) = crate::stores::serve(engine).await;
    let client = Qdrant::from_url(&url).build().unwrap();
    let params = api::VectorParamsBuilder::new(2, api::Distance::Dot);
    client.create_collection(api::CreateCollectionBuilder::new("c").vectors_config(params)).await.unwrap();
    let payload =
        |colour: &str| qdrant_client::Payload::try_from(serde_json::json!({"colour": colour})).unwrap();
    let points = vec![
        api::PointStruct::new(1u64, vec![1.0, 0.0], payload("red")),
        api::PointStruct::new(2u64, vec![0.8, 0.6], payload("red")),
        api::PointStruct::new(3u64, vec![0.0, 1.0], payload("blue")),
    ];
    client.upsert_points(api::UpsertPointsBuilder::new("c", points).wait(true)).await.unwrap();
    let nearest = |vector: Vec<f32>| api::Query::new_nearest(vector);
    let near = |limit: u64| api::QueryPointsBuilder::new("c").query(nearest(vec![1.0, 0.1])).limit(limit);
    let ids = |response: api::QueryResponse| {
        response.result.into_iter().map(|hit| hit.id.unwrap()).collect::<Vec<_>>()
    };
    let numbers = |numbers: &[u64]| numbers.iter().map(|one| api::PointId::from(*one)).collect::<Vec<_>>();
    assert_eq!(ids(client.query(near(2)).await.unwrap()), numbers(&[1, 2]));
    let red = api::Filter::must([api::Condition::matches("colour", "blue".to_owned())]);
    assert_eq!(ids(client.query(near(9).filter(red)).await.unwrap()), numbers(&[3]));
    let like_one = api::QueryPointsBuilder::new("c").query(api::Query::new_nearest(api::PointId::from(1u64)));
    assert_eq!(ids(client.query(like_one).await.unwrap()), numbers(&[2, 3]));
    let leg = |vector: Vec<f32>| api::PrefetchQueryBuilder::default().query(nearest(vector)).limit(3u64);
    let fused = api::QueryPointsBuilder::new("c")
        .add_prefetch(leg(vec![1.0, 0.0]))
        .add_prefetch(leg(vec![0.6, 0.8]))
        .query(api::Query::new_fusion(api::Fusion::Rrf));
    assert_eq!(ids(client.query(fused).await.unwrap())[0], api::PointId::from(2u64));
    let info = client.collection_info("c").await.unwrap().result.unwrap();
    assert_eq!(info.points_count, Some(3));
    // What the SDKs of other languages read as numbers that are always there.
    let config = info.config.unwrap();
    let (hnsw, optimizer) = (config.hnsw_config.unwrap(), config.optimizer_config.unwrap());
    assert_eq!((hnsw.m, hnsw.ef_construct), (Some(16), Some(100)));
    assert!(hnsw.full_scan_threshold > Some(0) && optimizer.indexing_threshold > Some(0), "{hnsw:?}");
    assert!(optimizer.default_segment_number > Some(0) && optimizer.flush_interval_sec.is_some());
    assert_eq!(config.wal_config.unwrap().wal_capacity_mb, Some(4));
    server.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_ends_in_an_error_that_says_so_and_what_was_written_stays() {
    let (_keep, engine) = engine();
    let (url, server) = crate::stores::serve(Arc::clone(&engine)).await;
    let store = QdrantStore::connect(&options(&url)).await.unwrap();
    store.ensure("c", &SPEC).await.unwrap();
    store.upsert("c", (1..=50).map(point).collect()).await.unwrap();
    server.abort();
    let _ = server.await;
    let error = store.upsert("c", (51..=99).map(point).collect()).await.unwrap_err();
    assert!(matches!(error, RagError::Store { kind: StoreFault::Unavailable, .. }), "{error}");
    assert!(error.hint().unwrap().contains("run the same command again"), "{error}");
    let (again, server) = crate::stores::serve(engine).await;
    let store = QdrantStore::connect(&options(&again)).await.unwrap();
    store.upsert("c", (1..=99).map(point).collect()).await.unwrap();
    assert_eq!(store.count("c", &Scope::of("a")).await.unwrap(), 99);
    server.abort();
}

#[tokio::test]
async fn addresses_that_are_none_are_refused() {
    for url in ["localhost:6334", "ftp://host:1", "http://", ""] {
        let error = QdrantStore::connect(&options(url)).await.unwrap_err();
        assert!(matches!(error, RagError::Invalid { .. }), "{url}: {error}");
    }
    let nobody = QdrantOptions {
        retry: RetryPolicy::default().once(),
        timeout: Duration::from_millis(300),
        ..options("http://user:canary@127.0.0.1:1")
    };
    let error = QdrantStore::connect(&nobody).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("canary"), "{error:?}");
}
