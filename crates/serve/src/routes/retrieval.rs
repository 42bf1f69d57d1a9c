use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use evalign_core::RunId;
use evalign_store::Store;
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{IdPath, Query, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::retrieval::{AnswersBody, EvaluationBody, TestsBody, TuningBody};
use crate::routes::List;
use crate::routes::indexes::MAKING;
use crate::routes::once::{IdempotencyKey, Lane, Order};
use crate::runs::RunObject;

/// Measures a way of searching on a collection with judged queries. It is a run: its queries are its samples.
#[utoipa::path(post, path = "/v1/retrieval/evaluations", tag = "indexes", request_body = EvaluationBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn evaluate(order: Order<EvaluationBody>) -> ApiResult<Response> {
    order
        .starts(MAKING, |app, store, body| Handle::current().block_on(app.start_evaluation(store, body)))
        .await
}

/// Compares ways of searching on a collection: found on half of its queries, shown on the other half. It is a run; its
/// results are what `evalign rag tune --json` prints.
#[utoipa::path(post, path = "/v1/retrieval/tunings", tag = "indexes", request_body = TuningBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn tune(order: Order<TuningBody>) -> ApiResult<Response> {
    order.starts(MAKING, |app, store, body| Handle::current().block_on(app.start_tuning(store, body))).await
}

/// Which two evaluations of search.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct DifferenceQuery {
    /// A completed run of `POST /v1/retrieval/evaluations`: what there was.
    a: String,
    /// The same of what is new.
    b: String,
}

/// Every metric of one evaluation of search against another of the same collection: paired tests, query by query.
#[utoipa::path(get, path = "/v1/retrieval/differences", tag = "indexes", params(DifferenceQuery),
    responses((status = 200, description = "What `evalign rag diff --json` prints", body = List<Object>), ErrorAnswers))]
pub(crate) async fn differences(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<DifferenceQuery>,
) -> ApiResult<Json<List<Value>>> {
    let run = |id: &str, field: &str| -> ApiResult<RunId> {
        id.parse().map_err(|_| ApiError::not_found("run", id).about(field))
    };
    let (a, b) = (run(&query.a, "a")?, run(&query.b, "b")?);
    let found = app.blocking(move |app| app.search_difference(&tenanted.store, [&a, &b])).await?;
    let found = found.iter().map(serde_json::to_value).collect::<Result<Vec<_>, _>>();
    let name = |one: &Value| one["metric"].as_str().unwrap_or_default().to_owned();
    Ok(Json(List::whole(found.map_err(ApiError::internal)?, name)))
}

/// Makes questions from the documents of an index, each with where its answer stands, verified byte for byte. It is a
/// run; its results name the file with them.
#[utoipa::path(post, path = "/v1/indexes/{id}/tests", tag = "indexes", request_body = TestsBody,
    params(("id" = String, Path, description = "The index"), IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn tests(IdPath(id): IdPath, order: Order<TestsBody>) -> ApiResult<Response> {
    order.starts(Lane::Free, move |app, store, body| app.start_tests(store, &id, body)).await
}

/// Measures how well an index answers questions of which it is known where their answers stand. It is a run: its
/// questions are its samples.
#[utoipa::path(post, path = "/v1/indexes/{id}/evaluations", tag = "indexes", request_body = AnswersBody,
    params(("id" = String, Path, description = "The index"), IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn answers(IdPath(id): IdPath, order: Order<AnswersBody>) -> ApiResult<Response> {
    let start = move |app: &App, store: &Store, body: &AnswersBody| {
        Handle::current().block_on(app.start_answers(store, &id, body))
    };
    order.starts(MAKING, start).await
}
