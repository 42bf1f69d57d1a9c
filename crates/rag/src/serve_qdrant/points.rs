use qdrant_client::qdrant as api;
use qdrant_client::qdrant::points_server::Points;
use qdrant_edge as qe;
use tonic::{Request, Response, Status};

use super::decode::{self, Selected, none};
use super::query::{self, to_usize};
use super::{QdrantServer, Reply, encode, unimplemented_calls};
use crate::edge::Collection;

fn update(collection: &Collection, operation: qe::UpdateOperation) -> Result<(), Status> {
    collection.update(operation).map_err(|error| encode::refusal(&error))
}

/// A payload operation on ids or on what a filter matches.
fn payload_op(
    payload: qe::Payload,
    selected: Selected,
    key: Option<&str>,
) -> Result<qe::SetPayloadOp, Status> {
    let (points, filter) = match selected {
        Selected::Ids(ids) => (Some(ids), None),
        Selected::Filter(filter) => (None, Some(filter)),
    };
    Ok(qe::SetPayloadOp { payload, points, filter, key: key.map(decode::path).transpose()? })
}

#[tonic::async_trait]
impl Points for QdrantServer {
    async fn upsert(&self, request: Request<api::UpsertPoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        none(request.update_filter, "conditional upserts")?;
        none(request.update_mode.filter(|mode| *mode != 0), "upserts that only insert or only update")?;
        let points: Vec<_> = request.points.into_iter().map(decode::point).collect::<Result<_, _>>()?;
        self.write(request.collection_name, points.len(), |collection| {
            update(
                collection,
                qe::UpdateOperation::PointOperation(qe::PointOperations::UpsertPoints(
                    qe::PointInsertOperations::PointsList(points),
                )),
            )
        })
        .await
    }

    async fn delete(&self, request: Request<api::DeletePoints>) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let operation = match decode::selector(request.points)? {
            Selected::Ids(ids) => qe::PointOperations::DeletePoints { ids },
            Selected::Filter(filter) => qe::PointOperations::DeletePointsByFilter(filter),
        };
        let operation = qe::UpdateOperation::PointOperation(operation);
        self.write(request.collection_name, 0, |collection| update(collection, operation)).await
    }

    async fn get(&self, request: Request<api::GetPoints>) -> Reply<api::GetResponse> {
        let request = request.into_inner();
        let ids = decode::ids(request.ids)?;
        let with_payload = Some(decode::with_payload(request.with_payload)?);
        let with_vector = Some(decode::with_vectors(request.with_vectors));
        let found = self
            .run(request.collection_name, move |collection| {
                let found = collection.shard().retrieve(&ids, with_payload, with_vector);
                found.map_err(|error| encode::status(&error))
            })
            .await?;
        let result = found.into_iter().map(encode::record).collect();
        Ok(Response::new(api::GetResponse { result, time: 0.0, usage: None }))
    }

    async fn update_vectors(
        &self,
        request: Request<api::UpdatePointVectors>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        none(request.update_filter, "conditional updates")?;
        let points: Vec<_> =
            request.points.into_iter().map(decode::point_vectors).collect::<Result<_, _>>()?;
        let changed = points.len();
        let operation =
            qe::VectorOperations::UpdateVectors(qe::UpdateVectorsOp { points, update_filter: None });
        let operation = qe::UpdateOperation::VectorOperation(operation);
        self.write(request.collection_name, changed, |collection| update(collection, operation)).await
    }

    async fn set_payload(
        &self,
        request: Request<api::SetPayloadPoints>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let selected = decode::selector(request.points_selector)?;
        let payload = decode::payload(request.payload);
        let operation = qe::PayloadOps::SetPayload(payload_op(payload, selected, request.key.as_deref())?);
        let operation = qe::UpdateOperation::PayloadOperation(operation);
        self.write(request.collection_name, 0, |collection| update(collection, operation)).await
    }

    async fn overwrite_payload(
        &self,
        request: Request<api::SetPayloadPoints>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let selected = decode::selector(request.points_selector)?;
        let payload = decode::payload(request.payload);
        let operation =
            qe::PayloadOps::OverwritePayload(payload_op(payload, selected, request.key.as_deref())?);
        let operation = qe::UpdateOperation::PayloadOperation(operation);
        self.write(request.collection_name, 0, |collection| update(collection, operation)).await
    }

    async fn delete_payload(
        &self,
        request: Request<api::DeletePayloadPoints>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let (points, filter) = match decode::selector(request.points_selector)? {
            Selected::Ids(ids) => (Some(ids), None),
            Selected::Filter(filter) => (None, Some(filter)),
        };
        let keys = request.keys.iter().map(|key| decode::path(key)).collect::<Result<_, _>>()?;
        let operation = qe::PayloadOps::DeletePayload(qe::DeletePayloadOp { keys, points, filter });
        let operation = qe::UpdateOperation::PayloadOperation(operation);
        self.write(request.collection_name, 0, |collection| update(collection, operation)).await
    }

    async fn create_field_index(
        &self,
        request: Request<api::CreateFieldIndexCollection>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let kind = request.field_type.map(api::FieldType::try_from).transpose();
        let kind = kind.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let operation = qe::FieldIndexOperations::CreateIndex(qe::CreateIndex {
            field_name: decode::path(&request.field_name)?,
            field_schema: decode::field_schema(kind, request.field_index_params)?,
        });
        let operation = qe::UpdateOperation::FieldIndexOperation(operation);
        self.write(request.collection_name, 0, |collection| update(collection, operation)).await
    }

    async fn delete_field_index(
        &self,
        request: Request<api::DeleteFieldIndexCollection>,
    ) -> Reply<api::PointsOperationResponse> {
        let request = request.into_inner();
        let operation = qe::FieldIndexOperations::DeleteIndex(decode::path(&request.field_name)?);
        let operation = qe::UpdateOperation::FieldIndexOperation(operation);
        self.write(request.collection_name, 0, |collection| update(collection, operation)).await
    }

    async fn search(&self, request: Request<api::SearchPoints>) -> Reply<api::SearchResponse> {
        let request = query::from_search(request.into_inner());
        let name = request.collection_name.clone();
        let result = self.run(name, |collection| query::query(collection, request)).await?;
        Ok(Response::new(api::SearchResponse { result, time: 0.0, usage: None }))
    }

    async fn query(&self, request: Request<api::QueryPoints>) -> Reply<api::QueryResponse> {
        let request = request.into_inner();
        let name = request.collection_name.clone();
        let result = self.run(name, |collection| query::query(collection, request)).await?;
        Ok(Response::new(api::QueryResponse { result, time: 0.0, usage: None }))
    }

    async fn query_batch(&self, request: Request<api::QueryBatchPoints>) -> Reply<api::QueryBatchResponse> {
        let request = request.into_inner();
        let result = self
            .run(request.collection_name, |collection| {
                let answer = |one| {
                    let result = query::query(collection, one)?;
                    Ok(api::BatchResult { result })
                };
                request.query_points.into_iter().map(answer).collect::<Result<Vec<_>, Status>>()
            })
            .await?;
        Ok(Response::new(api::QueryBatchResponse { result, time: 0.0, usage: None }))
    }

    async fn scroll(&self, request: Request<api::ScrollPoints>) -> Reply<api::ScrollResponse> {
        let request = request.into_inner();
        none(request.order_by, "scrolling in the order of a field")?;
        let wanted = qe::ScrollRequest {
            offset: request.offset.map(|id| decode::id(Some(id))).transpose()?,
            limit: request.limit.map(|limit| to_usize(limit.into())).transpose()?,
            filter: decode::optional_filter(request.filter)?,
            with_payload: Some(decode::with_payload(request.with_payload)?),
            with_vector: decode::with_vectors(request.with_vectors),
            order_by: None,
        };
        let (records, next) = self
            .run(request.collection_name, |collection| {
                collection.shard().scroll(wanted).map_err(|error| encode::status(&error))
            })
            .await?;
        Ok(Response::new(api::ScrollResponse {
            next_page_offset: next.map(encode::id),
            result: records.into_iter().map(encode::record).collect(),
            time: 0.0,
            usage: None,
        }))
    }

    async fn count(&self, request: Request<api::CountPoints>) -> Reply<api::CountResponse> {
        let request = request.into_inner();
        let wanted = qe::CountRequest {
            filter: decode::optional_filter(request.filter)?,
            exact: request.exact.unwrap_or(true),
        };
        let count = self
            .run(request.collection_name, |collection| {
                collection.shard().count(wanted).map_err(|error| encode::status(&error))
            })
            .await?;
        let result = Some(api::CountResult { count: count as u64 });
        Ok(Response::new(api::CountResponse { result, time: 0.0, usage: None }))
    }

    async fn facet(&self, request: Request<api::FacetCounts>) -> Reply<api::FacetResponse> {
        let request = request.into_inner();
        let wanted = qe::FacetRequest {
            filter: decode::optional_filter(request.filter)?,
            limit: to_usize(request.limit.unwrap_or(10))?,
            exact: request.exact.unwrap_or(false),
            key: decode::path(&request.key)?,
        };
        let response = self
            .run(request.collection_name, |collection| {
                collection.shard().facet(wanted).map_err(|error| encode::status(&error))
            })
            .await?;
        let hits = response.hits.into_iter().map(encode::facet).collect();
        Ok(Response::new(api::FacetResponse { hits, time: 0.0, usage: None }))
    }

    unimplemented_calls! {
        delete_vectors(api::DeletePointVectors) -> api::PointsOperationResponse;
        clear_payload(api::ClearPayloadPoints) -> api::PointsOperationResponse;
        create_vector_name(api::CreateVectorNameRequest) -> api::PointsOperationResponse;
        delete_vector_name(api::DeleteVectorNameRequest) -> api::PointsOperationResponse;
        search_batch(api::SearchBatchPoints) -> api::SearchBatchResponse;
        search_groups(api::SearchPointGroups) -> api::SearchGroupsResponse;
        recommend(api::RecommendPoints) -> api::RecommendResponse;
        recommend_batch(api::RecommendBatchPoints) -> api::RecommendBatchResponse;
        recommend_groups(api::RecommendPointGroups) -> api::RecommendGroupsResponse;
        discover(api::DiscoverPoints) -> api::DiscoverResponse;
        discover_batch(api::DiscoverBatchPoints) -> api::DiscoverBatchResponse;
        update_batch(api::UpdateBatchPoints) -> api::UpdateBatchResponse;
        query_groups(api::QueryPointGroups) -> api::QueryGroupsResponse;
        search_matrix_pairs(api::SearchMatrixPoints) -> api::SearchMatrixPairsResponse;
        search_matrix_offsets(api::SearchMatrixPoints) -> api::SearchMatrixOffsetsResponse;
    }
}
