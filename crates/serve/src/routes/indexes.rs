use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde::Deserialize;
use tokio::runtime::Handle;

use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{IdPath, JsonBody, Query, Tenanted};
use crate::indexes::{
    AnswerBody, DocumentObject, DocumentsBody, FoundObject, IndexObject, NewIndexBody, SearchBody,
    StreamedAnswer, answer_object,
};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::once::{IdempotencyKey, Lane, Made, Order};
use crate::routes::{List, PageQuery, page_length};
use crate::runs::RunObject;

/// Where an index is made or opened: what waits for its embedder waits alone.
pub(crate) const MAKING: Lane = Lane::Alone(|app| &app.retrieval.making);

/// Makes an index, empty. Its name is its id.
#[utoipa::path(post, path = "/v1/indexes", tag = "indexes", request_body = NewIndexBody,
    params(IdempotencyKey),
    responses((status = 201, description = "Made; `Location` names it", body = IndexObject), ErrorAnswers, Refusals))]
pub(crate) async fn create(order: Order<NewIndexBody>) -> ApiResult<Response> {
    order
        .makes(MAKING, |app, store, body| {
            let index = Handle::current().block_on(app.create_index(store, body))?;
            Made::new(StatusCode::CREATED, format!("/v1/indexes/{}", index.id), &index)
        })
        .await
}

/// Lists indexes, by name.
#[utoipa::path(get, path = "/v1/indexes", tag = "indexes", params(PageQuery),
    responses((status = 200, description = "A page of indexes", body = List<IndexObject>), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<List<IndexObject>>> {
    let (limit, after) = (page_length(query.limit)?, query.after.unwrap_or_default());
    app.blocking(move |app| {
        let indexes = app.list_indexes(&tenanted.store, &after, limit + 1)?;
        Ok(Json(List::page(indexes, limit as usize, |index: &IndexObject| index.id.clone())))
    })
    .await
}

/// One index.
#[utoipa::path(get, path = "/v1/indexes/{id}", tag = "indexes", params(("id" = String, Path, description = "The index")),
    responses((status = 200, description = "The index", body = IndexObject), ErrorAnswers))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<Json<IndexObject>> {
    app.blocking(move |app| app.index(&tenanted.store, &id).map(Json)).await
}

/// Removes an index with its documents.
#[utoipa::path(delete, path = "/v1/indexes/{id}", tag = "indexes", params(("id" = String, Path, description = "The index")),
    responses((status = 204, description = "Removed"), ErrorAnswers,
        (status = 409, description = "Others have documents in it, or some are being added", body = crate::openapi::ErrorBody)))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<StatusCode> {
    app.blocking_alone(&app.retrieval.removing, move |app| {
        Handle::current().block_on(app.remove_index(&tenanted.store, &id))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Adds uploaded files to an index: a run that reads, cuts and embeds them. A file takes the place of an earlier
/// one of its name.
#[utoipa::path(post, path = "/v1/indexes/{id}/documents", tag = "indexes", request_body = DocumentsBody,
    params(("id" = String, Path, description = "The index"),
        IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn fill(IdPath(id): IdPath, order: Order<DocumentsBody>) -> ApiResult<Response> {
    order.starts(Lane::Free, move |app, store, body| app.fill_index(store, &id, body)).await
}

/// The documents of an index, by name.
#[utoipa::path(get, path = "/v1/indexes/{id}/documents", tag = "indexes",
    params(("id" = String, Path, description = "The index"), PageQuery),
    responses((status = 200, description = "A page of its documents", body = List<DocumentObject>), ErrorAnswers))]
pub(crate) async fn documents(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<List<DocumentObject>>> {
    let (limit, after) = (page_length(query.limit)?, query.after.unwrap_or_default());
    app.blocking(move |app| {
        let documents = app.index_documents(&tenanted.store, &id, &after, limit + 1)?;
        let documents = documents.into_iter().map(DocumentObject::from).collect();
        Ok(Json(List::page(documents, limit as usize, |document: &DocumentObject| document.id.clone())))
    })
    .await
}

/// Which document of an index.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DocumentQuery {
    /// Its id: the name of its file.
    name: String,
}

/// Removes a document from an index.
#[utoipa::path(delete, path = "/v1/indexes/{id}/documents", tag = "indexes",
    params(("id" = String, Path, description = "The index"), DocumentQuery),
    responses((status = 204, description = "Removed"), ErrorAnswers,
        (status = 409, description = "Documents are being added", body = crate::openapi::ErrorBody)))]
pub(crate) async fn remove_document(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    Query(query): Query<DocumentQuery>,
) -> ApiResult<StatusCode> {
    app.blocking_alone(&app.retrieval.removing, move |app| {
        Handle::current().block_on(app.remove_document(&tenanted.store, &id, &query.name))?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}

/// Chunks that fit a query, best first, with what they come from, what else was looked for, and what came to nothing.
#[utoipa::path(post, path = "/v1/indexes/{id}/query", tag = "indexes", request_body = SearchBody,
    params(("id" = String, Path, description = "The index")),
    responses((status = 200, description = "What was found", body = FoundObject), ErrorAnswers, Refusals))]
pub(crate) async fn query(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    body: JsonBody<SearchBody>,
) -> ApiResult<Json<FoundObject>> {
    FoundObject::of(app.search_index(&tenanted.store, &id, &body.value).await?).map(Json)
}

/// An answer from an index: quotes that were verified against its documents, or what a model writes, each claim
/// held against them; or nothing, where they do not say it. With `stream` each claim is told as soon as it is verified.
#[utoipa::path(post, path = "/v1/indexes/{id}/answer", tag = "indexes", request_body = AnswerBody,
    params(("id" = String, Path, description = "The index")),
    responses((status = 200, description = "As `evalign rag query --json` prints it, or with `stream` its claims, and then it",
        content((Object = "application/json"), (StreamedAnswer = "text/event-stream"))), ErrorAnswers, Refusals))]
pub(crate) async fn answer(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    JsonBody { value: body, .. }: JsonBody<AnswerBody>,
) -> ApiResult<Response> {
    if body.stream {
        return app.tell_from_index(&tenanted.store, &id, &body).await;
    }
    let answer = app.answer_from_index(&tenanted.store, &id, &body).await?;
    Ok(Json(answer_object(&answer)).into_response())
}
