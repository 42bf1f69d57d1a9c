use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult};
use crate::extract::{Query, RunPath, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::once::{IdempotencyKey, Lane, Made, Order};
use crate::routes::{List, PageQuery, page_length};
use crate::training::{TrainingBody, TrainingObject};
use crate::uploads;

/// Trains an adapter (SFT, a reward model, DPO) on a file that was uploaded or built. The job is a run: its events,
/// cancelling and resuming are those of `/v1/runs/{id}`.
#[utoipa::path(post, path = "/v1/training/jobs", tag = "training", request_body = TrainingBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the job", body = TrainingObject), ErrorAnswers, Refusals))]
pub(crate) async fn create(order: Order<TrainingBody>) -> ApiResult<Response> {
    order
        .makes(Lane::Free, |app, store, body| {
            let job = app.start_training(store, body)?;
            let place = format!("/v1/training/jobs/{}", job.id);
            Made::new(StatusCode::ACCEPTED, place, &app.training(store, &job.id)?)
        })
        .await
}

/// Lists training jobs, the newest first.
#[utoipa::path(get, path = "/v1/training/jobs", tag = "training", params(PageQuery),
    responses((status = 200, description = "A page of training jobs", body = List<TrainingObject>), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<List<TrainingObject>>> {
    let limit = page_length(query.limit)?;
    let none = |id: &str| ApiError::not_found("training job", id);
    let after = query.after.map(|id| id.parse().map_err(|_| none(&id))).transpose()?;
    app.blocking(move |app| {
        let jobs = app.trainings(&tenanted.store, after.as_ref(), limit + 1)?;
        Ok(Json(List::page(jobs, limit as usize, |job: &TrainingObject| job.id.clone())))
    })
    .await
}

/// Removes a training job that has ended, with its adapter.
#[utoipa::path(delete, path = "/v1/training/jobs/{id}", tag = "training", params(("id" = String, Path, description = "The job")),
    responses((status = 204, description = "Removed"), ErrorAnswers,
        (status = 409, description = "It has not ended", body = crate::openapi::ErrorBody)))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
) -> ApiResult<StatusCode> {
    app.blocking(move |app| {
        app.remove_training(&tenanted.store, &id)?;
        Ok(StatusCode::NO_CONTENT)
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

/// Most lines of metrics in an answer.
const MOST_LINES: usize = 10_000;

/// Which lines.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LinesQuery {
    /// `last_id` of the page before: the number of its last line.
    after: Option<usize>,
}

/// The metrics of a job over its updates, by TRL's names: at most 10,000 lines.
#[utoipa::path(get, path = "/v1/training/jobs/{id}/metrics", tag = "training", 
    params(("id" = String, Path, description = "The job"), LinesQuery),
    responses((status = 200, description = "A line for each update that was logged", body = List<Object>), ErrorAnswers))]
pub(crate) async fn metrics(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<LinesQuery>,
) -> ApiResult<Json<List<Value>>> {
    app.blocking(move |app| {
        app.training(&tenanted.store, &id)?;
        let lines = app.training_metrics(&id)?.into_iter().map(Value::Object).enumerate();
        // An update may have several lines: they are known by their number.
        let lines = lines.map(|(index, line)| (index + 1, line)).skip(query.after.unwrap_or(0));
        let lines = List::page(lines.take(MOST_LINES + 1).collect(), MOST_LINES, |line| line.0.to_string());
        Ok(Json(lines.map(|(_, line)| line)))
    })
    .await
}

/// Files in which a model is named by where it lies. All others go out byte for byte: a token may look like a place.
const NAME_PLACES: [&str; 3] = ["adapter_config.json", "config.json", "report.html"];

/// Which file of a job.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FileQuery {
    /// `adapter_model.safetensors` and `adapter_config.json` (an adapter as PEFT has them), `metrics.jsonl`, `report.html`; of
    /// a whole model `model.safetensors`, `config.json`, `tokenizer.json` and the like.
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
    let names_places = NAME_PLACES.contains(&query.name.as_str());
    let read = move |app: &App| {
        let path = app.training_file(&tenanted.store, &id, &query.name)?;
        let text =
            names_places.then(|| fs_err::read_to_string(&path)).transpose().map_err(ApiError::internal)?;
        Ok((text.map(|text| app.without_places(&text)), path))
    };
    let body = match app.blocking(read).await? {
        (Some(text), _) => axum::body::Body::from(text),
        (None, path) => uploads::stream_file(&path, ()).await?,
    };
    let kind = "application/octet-stream".to_owned();
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, attachment)], body).into_response())
}
