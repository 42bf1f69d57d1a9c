use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::Value;

use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{JsonBody, RunPath, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::List;
use crate::routes::once::{IdempotencyKey, Lane, Made, Order};
use crate::scoring::{RescoreBody, RescoreObject, RunImportBody, RunImportObject, VerifyBody};

/// Where all answers of a run, or all rows of a file, are read while a request waits.
pub(crate) const SCORING: Lane = Lane::Alone(|app| &app.scoring);

/// Scores the stored answers of a run again, by the task files as they are now; no model is asked. Its results are the
/// new ones from then on.
#[utoipa::path(post, path = "/v1/runs/{id}/rescore", tag = "runs", request_body = RescoreBody,
    params(("id" = String, Path, description = "The run")),
    responses((status = 200, description = "What changed", body = RescoreObject), ErrorAnswers, Refusals))]
pub(crate) async fn again(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    body: JsonBody<RescoreBody>,
) -> ApiResult<Json<RescoreObject>> {
    let work = move |app: &App| app.rescore_run(&tenanted.store, &id, &body.value).map(Json);
    app.blocking_alone(&app.scoring, work).await
}

/// Compares a run with logs of lm-evaluation-harness, item by item: how many are equal, and where the others part.
#[utoipa::path(post, path = "/v1/runs/{id}/verify", tag = "runs", request_body = VerifyBody,
    params(("id" = String, Path, description = "The run")),
    responses((status = 200, description = "For each file what `evalign verify --json` prints", body = List<Object>), ErrorAnswers, Refusals))]
pub(crate) async fn against(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    body: JsonBody<VerifyBody>,
) -> ApiResult<Json<List<Value>>> {
    let work = move |app: &App| app.verify_run(&tenanted.store, &id, &body.value);
    let found = app.blocking_alone(&app.scoring, work).await?;
    Ok(Json(List::whole(found, |one: &Value| one["file"].as_str().unwrap_or_default().to_owned())))
}

/// Takes uploaded files over as a run: what `evalign export` wrote on another machine, or a log of
/// lm-evaluation-harness. To a run of the same specification, samples that it lacks are added.
#[utoipa::path(post, path = "/v1/runs/import", tag = "runs", request_body = RunImportBody,
    params(IdempotencyKey),
    responses((status = 201, description = "Taken over; `Location` names the run", body = RunImportObject), ErrorAnswers, Refusals))]
pub(crate) async fn import(order: Order<RunImportBody>) -> ApiResult<Response> {
    order
        .makes(SCORING, |app, store, body| {
            let imported = app.import_files(store, body)?;
            Made::new(StatusCode::CREATED, format!("/v1/runs/{}", imported.run.id), &imported)
        })
        .await
}
