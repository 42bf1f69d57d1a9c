use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use evalign_core::RunId;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::Value;
use tokio::runtime::Handle;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{IdPath, JsonBody, Query, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::retrieval::{AnswersBody, EvaluationBody, TestsBody, TuningBody};
use crate::routes::List;
use crate::routes::once::{IdempotencyKey, Repeatable};
use crate::routes::runs::queued;
use crate::runs::RunObject;

/// Measures a way of searching on a collection with judged queries. It is a run: its queries are its samples.
#[utoipa::path(post, path = "/v1/retrieval/evaluations", tag = "indexes", request_body = EvaluationBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn evaluate(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<EvaluationBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/retrieval/evaluations", &body.digest)?;
    app.blocking_alone(&app.retrieval.making, move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let run = Handle::current().block_on(app.start_evaluation(store, &body.value))?;
            queued(app, store, &run)
        })
    })
    .await
}

/// Compares ways of searching on a collection: found on half of its queries, shown on the other half. It is a run; its
/// results are what `evalign rag tune --json` prints.
#[utoipa::path(post, path = "/v1/retrieval/tunings", tag = "indexes", request_body = TuningBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn tune(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<TuningBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/retrieval/tunings", &body.digest)?;
    app.blocking_alone(&app.retrieval.making, move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let run = Handle::current().block_on(app.start_tuning(store, &body.value))?;
            queued(app, store, &run)
        })
    })
    .await
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
pub(crate) async fn tests(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    headers: HeaderMap,
    body: JsonBody<TestsBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, &format!("POST /v1/indexes/{id}/tests"), &body.digest)?;
    app.blocking(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || queued(app, store, &app.start_tests(store, &id, &body.value)?))
    })
    .await
}

/// Measures how well an index answers questions of which it is known where their answers stand. It is a run: its
/// questions are its samples.
#[utoipa::path(post, path = "/v1/indexes/{id}/evaluations", tag = "indexes", request_body = AnswersBody,
    params(("id" = String, Path, description = "The index"), IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn answers(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
    headers: HeaderMap,
    body: JsonBody<AnswersBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, &format!("POST /v1/indexes/{id}/evaluations"), &body.digest)?;
    app.blocking_alone(&app.retrieval.making, move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let run = Handle::current().block_on(app.start_answers(store, &id, &body.value))?;
            queued(app, store, &run)
        })
    })
    .await
}
