use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{JsonBody, Query, RunPath, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::List;
use crate::routes::once::{Made, Repeatable};
use crate::training::{TrainingBody, TrainingObject};
use crate::uploads;

/// Trains an adapter (SFT, a reward model, DPO) on a file that was uploaded or built. The job is a run: its events,
/// cancelling and resuming are those of `/v1/runs/{id}`.
#[utoipa::path(post, path = "/v1/training/jobs", tag = "training", request_body = TrainingBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 202, description = "Queued; `Location` names the job", body = TrainingObject), ErrorAnswers, Refusals))]
pub(crate) async fn create(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<TrainingBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/training/jobs", &body.digest)?;
    app.blocking(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let job = app.start_training(store, &body.value)?;
            let place = format!("/v1/training/jobs/{}", job.id);
            Made::new(StatusCode::ACCEPTED, place, &app.training(store, &job.id)?)
        })
    })
    .await
}

/// Lists training jobs, the newest first.
#[utoipa::path(get, path = "/v1/training/jobs", tag = "training",
    responses((status = 200, description = "All training jobs", body = List<TrainingObject>), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
) -> ApiResult<Json<List<TrainingObject>>> {
    app.blocking(move |app| {
        let jobs = app.trainings(&tenanted.store)?;
        Ok(Json(List::whole(jobs, |job: &TrainingObject| job.id.clone())))
    })
    .await
}

/// One training job, with how far it is.
#[utoipa::path(get, path = "/v1/training/jobs/{id}", tag = "training", params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "The job", body = TrainingObject), ErrorAnswers))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
) -> ApiResult<Json<TrainingObject>> {
    app.blocking(move |app| app.training(&tenanted.store, &id).map(Json)).await
}

/// The metrics of a job over its updates, by TRL's names.
#[utoipa::path(get, path = "/v1/training/jobs/{id}/metrics", tag = "training", params(("id" = String, Path, description = "The job")),
    responses((status = 200, description = "A line for each update that was logged", body = List<Object>), ErrorAnswers))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
) -> ApiResult<Json<List<Value>>> {
    app.blocking(move |app| {
        app.training(&tenanted.store, &id)?;
        let lines = app.training_metrics(&id)?.into_iter().map(Value::Object).collect();
        Ok(Json(List::whole(lines, |line: &Value| line["step"].to_string())))
    })
    .await
}

/// Which file of a job.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FileQuery {
    /// `adapter_model.safetensors` and `adapter_config.json` (an adapter as PEFT has them), `metrics.jsonl`, `report.html`.
    name: String,
}

/// A file that a job has made.
#[utoipa::path(get, path = "/v1/training/jobs/{id}/content", tag = "training",
    params(("id" = String, Path, description = "The job"), FileQuery),
    responses((status = 200, description = "Its bytes", content_type = "application/octet-stream", body = String), ErrorAnswers))]
pub(crate) async fn content(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<FileQuery>,
) -> ApiResult<Response> {
    let attachment = format!("attachment; filename=\"{}\"", query.name);
    let path = app.blocking(move |app| app.training_file(&tenanted.store, &id, &query.name)).await?;
    let body = uploads::stream_file(&path, ()).await?;
    let kind = "application/octet-stream".to_owned();
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, attachment)], body).into_response())
}
