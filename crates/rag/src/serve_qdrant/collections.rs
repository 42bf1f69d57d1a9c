use std::collections::HashMap;

use qdrant_client::qdrant as api;
use qdrant_client::qdrant::collections_server::Collections;
use qdrant_edge as qe;
use tonic::{Request, Response, Status};

use crate::edge::Collection;

use super::{QdrantServer, Reply, decode, encode, open, unimplemented_calls};

fn done(result: bool) -> Reply<api::CollectionOperationResponse> {
    Ok(Response::new(api::CollectionOperationResponse { result, time: 0.0 }))
}

#[tonic::async_trait]
impl Collections for QdrantServer {
    async fn get(
        &self,
        request: Request<api::GetCollectionInfoRequest>,
    ) -> Reply<api::GetCollectionInfoResponse> {
        let name = request.into_inner().collection_name;
        let info = self.run(name, |collection| Ok(describe(collection))).await?;
        Ok(Response::new(api::GetCollectionInfoResponse { result: Some(info), time: 0.0 }))
    }

    async fn list(&self, _: Request<api::ListCollectionsRequest>) -> Reply<api::ListCollectionsResponse> {
        let names = self.store.names().map_err(|error| encode::refusal(&error))?;
        let collections = names.into_iter().map(|name| api::CollectionDescription { name }).collect();
        Ok(Response::new(api::ListCollectionsResponse { collections, time: 0.0 }))
    }

    async fn create(
        &self,
        request: Request<api::CreateCollection>,
    ) -> Reply<api::CollectionOperationResponse> {
        let request = request.into_inner();
        let name = request.collection_name.clone();
        if self.store.exists(&name) {
            return Err(Status::already_exists(format!("Collection `{name}` already exists!")));
        }
        let idf = decode::idf(&request);
        let config = decode::config(request)?;
        let store = std::sync::Arc::clone(&self.store);
        let created = tokio::task::spawn_blocking(move || store.create(&name, config, idf).map(drop)).await;
        created.map_err(|error| Status::internal(error.to_string()))?.map_err(|e| encode::refusal(&e))?;
        done(true)
    }

    async fn delete(
        &self,
        request: Request<api::DeleteCollection>,
    ) -> Reply<api::CollectionOperationResponse> {
        let name = request.into_inner().collection_name;
        let there = self.store.exists(&name);
        let store = std::sync::Arc::clone(&self.store);
        let removed = tokio::task::spawn_blocking(move || store.remove(&name)).await;
        removed.map_err(|error| Status::internal(error.to_string()))?.map_err(|e| encode::refusal(&e))?;
        done(there)
    }

    async fn collection_exists(
        &self,
        request: Request<api::CollectionExistsRequest>,
    ) -> Reply<api::CollectionExistsResponse> {
        let exists = self.store.exists(&request.into_inner().collection_name);
        let result = Some(api::CollectionExists { exists });
        Ok(Response::new(api::CollectionExistsResponse { result, time: 0.0 }))
    }

    /// There are no aliases, which is also an answer.
    async fn list_aliases(&self, _: Request<api::ListAliasesRequest>) -> Reply<api::ListAliasesResponse> {
        Ok(Response::new(api::ListAliasesResponse { aliases: Vec::new(), time: 0.0 }))
    }

    async fn list_collection_aliases(
        &self,
        request: Request<api::ListCollectionAliasesRequest>,
    ) -> Reply<api::ListAliasesResponse> {
        open(&self.store, &request.into_inner().collection_name)?;
        Ok(Response::new(api::ListAliasesResponse { aliases: Vec::new(), time: 0.0 }))
    }

    unimplemented_calls! {
        update(api::UpdateCollection) -> api::CollectionOperationResponse;
        update_aliases(api::ChangeAliases) -> api::CollectionOperationResponse;
        collection_cluster_info(api::CollectionClusterInfoRequest) -> api::CollectionClusterInfoResponse;
        update_collection_cluster_setup(api::UpdateCollectionClusterSetupRequest)
            -> api::UpdateCollectionClusterSetupResponse;
        create_shard_key(api::CreateShardKeyRequest) -> api::CreateShardKeyResponse;
        delete_shard_key(api::DeleteShardKeyRequest) -> api::DeleteShardKeyResponse;
        list_shard_keys(api::ListShardKeysRequest) -> api::ListShardKeysResponse;
    }
}

fn describe(collection: &Collection) -> api::CollectionInfo {
    let info = collection.shard().info();
    let config = collection.shard().config();
    let params = |params: &qe::EdgeVectorParams| api::VectorParams {
        size: params.size as u64,
        distance: encode::distance(params.distance).into(),
        ..api::VectorParams::default()
    };
    let vectors = match config.vectors.get(qe::DEFAULT_VECTOR_NAME) {
        Some(vectors) => api::vectors_config::Config::Params(params(vectors)),
        None => {
            let map = config.vectors.iter().map(|(name, vectors)| (name.clone(), params(vectors)));
            api::vectors_config::Config::ParamsMap(api::VectorParamsMap { map: map.collect() })
        }
    };
    let sparse: HashMap<String, api::SparseVectorParams> = config
        .sparse_vectors
        .keys()
        .map(|name| {
            let idf = collection.idf().contains(name);
            let modifier = if idf { api::Modifier::Idf } else { api::Modifier::None };
            (name.clone(), api::SparseVectorParams { index: None, modifier: Some(modifier.into()) })
        })
        .collect();
    let params = api::CollectionParams {
        shard_number: 1,
        vectors_config: Some(api::VectorsConfig { config: Some(vectors) }),
        sparse_vectors_config: (!sparse.is_empty()).then_some(api::SparseVectorConfig { map: sparse }),
        ..api::CollectionParams::default()
    };
    let schema = info.payload_schema.into_iter().map(|(field, index)| {
        let described = api::PayloadSchemaInfo {
            data_type: encode::schema_type(index.data_type).into(),
            params: None,
            points: Some(index.points as u64),
        };
        (field.to_string(), described)
    });
    api::CollectionInfo {
        status: api::CollectionStatus::Green.into(),
        optimizer_status: Some(api::OptimizerStatus { ok: true, error: String::new() }),
        segments_count: info.segments_count as u64,
        config: Some(api::CollectionConfig { params: Some(params), ..settings(&config) }),
        payload_schema: schema.collect(),
        points_count: Some(info.points_count as u64),
        indexed_vectors_count: Some(info.indexed_vectors_count as u64),
        ..api::CollectionInfo::default()
    }
}

/// What the shard does: clients read these as numbers that are always there.
fn settings(config: &qe::EdgeConfig) -> api::CollectionConfig {
    let (hnsw, optimizers) = (&config.hnsw_config, &config.optimizers);
    let wal = config.wal_options.clone().unwrap_or_default();
    api::CollectionConfig {
        hnsw_config: Some(api::HnswConfigDiff {
            m: Some(hnsw.m as u64),
            ef_construct: Some(hnsw.ef_construct as u64),
            full_scan_threshold: Some(hnsw.full_scan_threshold as u64),
            max_indexing_threads: Some(hnsw.max_indexing_threads as u64),
            payload_m: hnsw.payload_m.map(|m| m as u64),
            inline_storage: hnsw.inline_storage,
            ..api::HnswConfigDiff::default()
        }),
        optimizer_config: Some(api::OptimizersConfigDiff {
            deleted_threshold: optimizers.deleted_threshold,
            vacuum_min_vector_number: optimizers.vacuum_min_vector_number.map(|vectors| vectors as u64),
            default_segment_number: Some(optimizers.get_number_segments() as u64),
            max_segment_size: optimizers.max_segment_size.map(|kilobytes| kilobytes as u64),
            indexing_threshold: Some(optimizers.get_indexing_threshold_kb() as u64),
            // Every write is on the disk before it is answered.
            flush_interval_sec: Some(0),
            ..api::OptimizersConfigDiff::default()
        }),
        wal_config: Some(api::WalConfigDiff {
            wal_capacity_mb: Some((wal.segment_capacity >> 20) as u64),
            wal_segments_ahead: Some(wal.segment_queue_len as u64),
            wal_retain_closed: Some(wal.retain_closed.get() as u64),
        }),
        ..api::CollectionConfig::default()
    }
}
