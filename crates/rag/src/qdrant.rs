//! A Qdrant server or cluster over gRPC.
//!
//! Every write waits until the server has applied it, so that what was written is searched at once, and
//! is idempotent, so that whatever failed for a reason that passes (not reached, gone in the middle,
//! overloaded) is sent again. A batch follows when the one before it is through: the server's pace is ours.

mod call;
mod convert;

use async_trait::async_trait;
use evalign_fetch::{RetryPolicy, Secret};
use qdrant_client::qdrant as api;
use serde_json::{Map, Value};
use std::time::Duration;
use uuid::Uuid;

use crate::vector_store::{check_dimension, check_name, check_payload};
use crate::{CollectionInfo, CollectionSpec, Leg, Page, Point, RagError, Record, Scope, Scored};
use crate::{SparseVector, StoreFault, TENANT_FIELD, VectorStore, With};

/// Where the server is and how to talk to it.
#[derive(Clone, Debug)]
pub struct QdrantOptions {
    /// `http://HOST:6334`, or `https://` for TLS (with the certificates of this system).
    pub url: String,
    pub api_key: Option<Secret>,
    /// For one call; a search is given up after it, a write is sent again.
    pub timeout: Duration,
    pub retry: RetryPolicy,
    /// Points sent at once.
    pub batch_points: usize,
}

impl QdrantOptions {
    #[must_use]
    pub fn new(url: &str, api_key: Option<Secret>) -> Self {
        Self {
            url: url.to_owned(),
            api_key,
            timeout: Duration::from_secs(30),
            retry: RetryPolicy::default(),
            batch_points: 128,
        }
    }
}

/// The first version whose BM25 statistics can be taken per tenant. An older server would ignore the wish
/// and let one tenant's words change another's scores.
const FIRST_VERSION: (u64, u64) = (1, 19);

/// Vectors on a server.
pub struct QdrantStore {
    client: qdrant_client::Qdrant,
    place: String,
    retry: RetryPolicy,
    batch_points: usize,
}

impl std::fmt::Debug for QdrantStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("QdrantStore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl QdrantStore {
    /// # Errors
    /// [`RagError::Invalid`] for a URL that is none, [`RagError::Store`] for a server that cannot be
    /// reached, does not accept the key, or is older than 1.19.
    pub async fn connect(options: &QdrantOptions) -> Result<Self, RagError> {
        let mut config = qdrant_client::Qdrant::from_url(&options.url)
            .timeout(options.timeout)
            .connect_timeout(options.timeout.min(Duration::from_secs(10)))
            .skip_compatibility_check();
        if let Some(key) = &options.api_key {
            let header = key.header("");
            let text = header.as_ref().and_then(|header| header.to_str().ok());
            config.set_api_key(text.ok_or_else(|| {
                RagError::invalid(
                    "QDRANT_API_KEY",
                    "holds characters that no key has",
                    "set it to the key alone",
                )
            })?);
        }
        let place = place(&options.url)?;
        let client = config.build().map_err(|error| call::fault(&place, &error))?;
        let store =
            Self { client, place, retry: options.retry.clone(), batch_points: options.batch_points.max(1) };
        let version = store.call(|| store.client.health_check()).await?.version;
        store.check_version(&version)?;
        Ok(store)
    }

    fn check_version(&self, version: &str) -> Result<(), RagError> {
        let mut numbers = version.trim_start_matches('v').split('.').map(|part| part.parse::<u64>().ok());
        let found = numbers.next().flatten().zip(numbers.next().flatten());
        if found.is_some_and(|found| found >= FIRST_VERSION) {
            return Ok(());
        }
        Err(RagError::Store {
            place: self.place.clone(),
            message: format!(
                "it has version {version}; {}.{} is the first that keeps the statistics of tenants apart",
                FIRST_VERSION.0, FIRST_VERSION.1
            ),
            kind: StoreFault::Refused,
        })
    }

    async fn index_field(
        &self,
        collection: &str,
        field: &str,
        index: (api::FieldType, Option<api::PayloadIndexParams>),
    ) -> Result<(), RagError> {
        let request = api::CreateFieldIndexCollection {
            collection_name: collection.to_owned(),
            wait: Some(true),
            field_name: field.to_owned(),
            field_type: Some(index.0.into()),
            field_index_params: index.1,
            ..Default::default()
        };
        self.call(|| self.client.create_field_index(request.clone())).await?;
        Ok(())
    }
}

/// The URL as messages show it: whatever it carries besides host and port stays out.
fn place(url: &str) -> Result<String, RagError> {
    let invalid =
        || RagError::invalid("QDRANT_URL", "is not the address of a server", "write `http://HOST:6334`");
    let (scheme, rest) = url.split_once("://").ok_or_else(invalid)?;
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    if !matches!(scheme, "http" | "https") || host.is_empty() {
        return Err(invalid());
    }
    Ok(format!("at {scheme}://{host}"))
}

#[async_trait]
impl VectorStore for QdrantStore {
    fn place(&self) -> String {
        self.place.clone()
    }

    async fn ensure(&self, collection: &str, spec: &CollectionSpec) -> Result<(), RagError> {
        check_name(collection)?;
        if !self.call(|| self.client.collection_exists(collection)).await? {
            let request = convert::create(collection, spec);
            let created = self.call(|| self.client.create_collection(request.clone())).await;
            // Somebody else may have made it meanwhile; what it is like is checked below.
            if let Err(error) = created
                && !self.call(|| self.client.collection_exists(collection)).await?
            {
                return Err(error);
            }
        }
        let info = self.call(|| self.client.collection_info(collection)).await?.result.unwrap_or_default();
        check_dimension(collection, convert::dimension(&info), spec.dimension)?;
        // What is indexed stays as it is: another tenant's field of the same name may hold other values.
        let is_missing = |field: &str| !info.payload_schema.contains_key(field);
        for (field, kind) in spec.indexed_fields.iter().filter(|(field, _)| is_missing(field)) {
            self.index_field(collection, field, convert::field_index(*kind)).await?;
        }
        if is_missing(TENANT_FIELD) {
            self.index_field(collection, TENANT_FIELD, convert::tenant_index()).await?;
        }
        Ok(())
    }

    async fn collections(&self) -> Result<Vec<String>, RagError> {
        let listed = self.call(|| self.client.list_collections()).await?;
        let mut names: Vec<String> = listed.collections.into_iter().map(|one| one.name).collect();
        names.sort();
        Ok(names)
    }

    async fn drop_collection(&self, collection: &str) -> Result<(), RagError> {
        check_name(collection)?;
        if self.call(|| self.client.collection_exists(collection)).await? {
            self.call(|| self.client.delete_collection(collection)).await?;
        }
        Ok(())
    }

    async fn upsert(&self, collection: &str, points: Vec<Point>) -> Result<(), RagError> {
        for point in &points {
            check_payload(&point.payload)?;
        }
        let mut points = points.into_iter().map(convert::point);
        loop {
            let batch: Vec<api::PointStruct> = points.by_ref().take(self.batch_points).collect();
            if batch.is_empty() {
                return Ok(());
            }
            let request = api::UpsertPoints {
                collection_name: collection.to_owned(),
                wait: Some(true),
                points: batch,
                ..Default::default()
            };
            self.call(|| self.client.upsert_points(request.clone())).await?;
        }
    }

    async fn update_sparse(
        &self,
        collection: &str,
        scope: &Scope,
        vectors: Vec<(Uuid, SparseVector)>,
    ) -> Result<(), RagError> {
        for batch in vectors.chunks(self.batch_points) {
            // The server refuses to update a point that is not there.
            let ids: Vec<Uuid> = batch.iter().map(|(id, _)| *id).collect();
            let there = self.retrieve(collection, scope, &ids, With::default()).await?;
            let points = batch
                .iter()
                .filter(|(id, _)| there.iter().any(|record| record.id == *id))
                .map(|(id, vector)| convert::sparse_update(*id, vector))
                .collect();
            let request = api::UpdatePointVectors {
                collection_name: collection.to_owned(),
                wait: Some(true),
                points,
                ..Default::default()
            };
            self.call(|| self.client.update_vectors(request.clone())).await?;
        }
        Ok(())
    }

    async fn set_payload(
        &self,
        collection: &str,
        scope: &Scope,
        payload: Map<String, Value>,
    ) -> Result<(), RagError> {
        check_payload(&payload)?;
        let request = api::SetPayloadPoints {
            collection_name: collection.to_owned(),
            wait: Some(true),
            payload: convert::payload(payload),
            points_selector: Some(convert::selector(scope)?),
            ..Default::default()
        };
        self.call(|| self.client.set_payload(request.clone())).await?;
        Ok(())
    }

    async fn delete(&self, collection: &str, scope: &Scope) -> Result<(), RagError> {
        let request = api::DeletePoints {
            collection_name: collection.to_owned(),
            wait: Some(true),
            points: Some(convert::selector(scope)?),
            ..Default::default()
        };
        self.call(|| self.client.delete_points(request.clone())).await?;
        Ok(())
    }

    async fn legs(
        &self,
        collection: &str,
        scope: &Scope,
        legs: Vec<Leg>,
    ) -> Result<Vec<Vec<Scored>>, RagError> {
        let filter = convert::filter(&scope.all())?;
        let corpus = convert::filter(&scope.corpus())?;
        let query_points =
            legs.into_iter().map(|leg| convert::query(collection, leg, &filter, &corpus)).collect();
        let request = api::QueryBatchPoints {
            collection_name: collection.to_owned(),
            query_points,
            ..Default::default()
        };
        let response = self.call(|| self.client.query_batch(request.clone())).await?;
        response
            .result
            .into_iter()
            .map(|leg| {
                let hits = leg.result.into_iter().map(|hit| convert::scored(&self.place, hit));
                let mut hits = hits.collect::<Result<Vec<_>, _>>()?;
                Scored::sort(&mut hits);
                Ok(hits)
            })
            .collect()
    }

    async fn retrieve(
        &self,
        collection: &str,
        scope: &Scope,
        ids: &[Uuid],
        with: With,
    ) -> Result<Vec<Record>, RagError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let scope = scope.clone().filter(crate::Filter::ids(ids.to_vec()));
        let page = self.scroll(collection, &scope, None, ids.len(), with).await?;
        Ok(Record::in_order(page.records, ids))
    }

    async fn scroll(
        &self,
        collection: &str,
        scope: &Scope,
        from: Option<Uuid>,
        limit: usize,
        with: With,
    ) -> Result<Page, RagError> {
        let request = api::ScrollPoints {
            collection_name: collection.to_owned(),
            filter: Some(convert::filter(&scope.all())?),
            offset: from.map(convert::id),
            limit: Some(u32::try_from(limit).unwrap_or(u32::MAX)),
            with_payload: Some(with.payload.into()),
            with_vectors: Some(with.vectors.into()),
            ..Default::default()
        };
        let response = self.call(|| self.client.scroll(request.clone())).await?;
        let records = response.result.into_iter().map(|point| convert::record(&self.place, point));
        Ok(Page {
            records: records.collect::<Result<_, _>>()?,
            next: response.next_page_offset.map(|id| convert::uuid(&self.place, Some(id))).transpose()?,
        })
    }

    async fn count(&self, collection: &str, scope: &Scope) -> Result<u64, RagError> {
        let request = api::CountPoints {
            collection_name: collection.to_owned(),
            filter: Some(convert::filter(&scope.all())?),
            exact: Some(true),
            ..Default::default()
        };
        let response = self.call(|| self.client.count(request.clone())).await?;
        Ok(response.result.map_or(0, |result| result.count))
    }

    async fn facet(
        &self,
        collection: &str,
        scope: &Scope,
        field: &str,
        limit: usize,
    ) -> Result<Vec<(String, u64)>, RagError> {
        let request = api::FacetCounts {
            collection_name: collection.to_owned(),
            key: field.to_owned(),
            filter: Some(convert::filter(&scope.all())?),
            limit: Some(limit as u64),
            exact: Some(true),
            ..Default::default()
        };
        let response = self.call(|| self.client.facet(request.clone())).await?;
        let mut counts: Vec<(String, u64)> =
            response.hits.into_iter().filter_map(convert::keyword_count).collect();
        counts.sort_by(|(a, count_a), (b, count_b)| count_b.cmp(count_a).then_with(|| a.cmp(b)));
        Ok(counts)
    }

    /// The server has acknowledged each write, and keeps a log that it replays.
    async fn flush(&self, _collection: &str) -> Result<(), RagError> {
        Ok(())
    }

    /// The server indexes in the background by itself.
    async fn optimise(&self, _collection: &str) -> Result<(), RagError> {
        Ok(())
    }

    async fn info(&self, collection: &str) -> Result<CollectionInfo, RagError> {
        let response = self.call(|| self.client.collection_info(collection)).await?;
        let info = response.result.unwrap_or_default();
        let mut indexed_fields: Vec<String> = info.payload_schema.keys().cloned().collect();
        indexed_fields.sort();
        Ok(CollectionInfo {
            points: info.points_count.unwrap_or(0),
            indexed: info.indexed_vectors_count.unwrap_or(0),
            dimension: convert::dimension(&info),
            indexed_fields,
        })
    }
}
