use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use evalign_store::Store;
use http::{HeaderMap, StatusCode};

use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{JsonBody, RunPath, Tenanted, tagged};
use crate::judging::{CritiqueBody, InjectionsBody, JudgmentBody, PreferencesBody, RubricObject};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::preferences::{CheckBody, CheckObject, ImportBody, PairsExportBody, PairsObject};
use crate::routes::List;
use crate::routes::once::{IdempotencyKey, Lane, Made, Order};
use crate::routes::scoring::SCORING;
use crate::runs::RunObject;

/// Has something judged: rows of a file, the answers of a run, or models that answer the same prompts. It is a run;
/// its results are the report that `evalign judge --json` prints.
#[utoipa::path(post, path = "/v1/judgments", tag = "judging", request_body = JudgmentBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn judge(order: Order<JudgmentBody>) -> ApiResult<Response> {
    let start = |app: &App, store: &Store, body: &JudgmentBody| {
        app.start_procedure(store, app.judgment(store, body)?)
    };
    order.starts(Lane::Planning, start).await
}

/// The rubrics that judges can go by.
#[utoipa::path(get, path = "/v1/rubrics", tag = "judging",
    responses((status = 200, description = "All rubrics", body = List<RubricObject>),
        (status = 304, description = "Unchanged since the `If-None-Match`"), ErrorAnswers))]
pub(crate) async fn rubrics(
    State(app): State<Arc<App>>,
    _: Tenanted,
    headers: HeaderMap,
) -> ApiResult<Response> {
    app.blocking(move |app| {
        tagged(&headers, &List::whole(app.rubrics()?, |rubric: &RubricObject| rubric.id.clone()))
    })
    .await
}

/// Has a judge compare answers of which the worse one tries to talk it round: how often it changes its mind. It is a
/// run; its results are the report that `evalign judge injections --json` prints.
#[utoipa::path(post, path = "/v1/judgments/injections", tag = "judging", request_body = InjectionsBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn attack(order: Order<InjectionsBody>) -> ApiResult<Response> {
    let start = |app: &App, store: &Store, body: &InjectionsBody| {
        app.start_procedure(store, app.injections(store, body)?)
    };
    order.starts(Lane::Planning, start).await
}

/// Has answers criticised and revised by the principles of a constitution, each revision held against what it revises.
/// It is a run; its pairs become files by `POST /v1/preferences/{id}/files`.
#[utoipa::path(post, path = "/v1/critiques", tag = "judging", request_body = CritiqueBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn criticise(order: Order<CritiqueBody>) -> ApiResult<Response> {
    let start = |app: &App, store: &Store, body: &CritiqueBody| {
        app.start_procedure(store, app.critique(store, body)?)
    };
    order.starts(Lane::Planning, start).await
}

/// Builds preference pairs: answers are drawn, and compared by a judge or scored by their task. It is a run; its pairs
/// become files by `POST /v1/preferences/{id}/files`.
#[utoipa::path(post, path = "/v1/preferences", tag = "preferences", request_body = PreferencesBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn build(order: Order<PreferencesBody>) -> ApiResult<Response> {
    let start = |app: &App, store: &Store, body: &PreferencesBody| {
        app.start_procedure(store, app.preferences(store, body)?)
    };
    order.starts(Lane::Planning, start).await
}

/// Writes the pairs of a run into files, which can be downloaded and trained on.
#[utoipa::path(post, path = "/v1/preferences/{id}/files", tag = "preferences", request_body = PairsExportBody,
    params(("id" = String, Path, description = "A run that built pairs or criticised"),
        IdempotencyKey),
    responses((status = 201, description = "Written; `Location` names the first file", body = PairsObject), ErrorAnswers, Refusals))]
pub(crate) async fn export(RunPath(id): RunPath, order: Order<PairsExportBody>) -> ApiResult<Response> {
    order.makes(SCORING, move |app, store, body| made(&app.export_pairs(store, &id, body)?)).await
}

fn made(pairs: &PairsObject) -> ApiResult<Made> {
    let first = pairs.files.first().map_or("", |pairs| pairs.file.id.as_str());
    Made::new(StatusCode::CREATED, format!("/v1/files/{first}"), pairs)
}

/// Looks for what is wrong with an uploaded file of preferences, row by row and as a whole.
#[utoipa::path(post, path = "/v1/preferences/check", tag = "preferences", request_body = CheckBody,
    responses((status = 200, description = "What `evalign pairs check --json` finds", body = CheckObject), ErrorAnswers, Refusals))]
pub(crate) async fn check(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    body: JsonBody<CheckBody>,
) -> ApiResult<Json<CheckObject>> {
    app.blocking_alone(&app.scoring, move |app| app.check_pairs(&tenanted.store, &body.value).map(Json)).await
}

/// Takes over an uploaded file of preferences: rows that would teach the wrong thing are left out and told, the others
/// become a file in the layout that is asked for.
#[utoipa::path(post, path = "/v1/preferences/import", tag = "preferences", request_body = ImportBody,
    params(IdempotencyKey),
    responses((status = 201, description = "Written; `Location` names the file", body = PairsObject), ErrorAnswers, Refusals))]
pub(crate) async fn import(order: Order<ImportBody>) -> ApiResult<Response> {
    order.makes(SCORING, |app, store, body| made(&app.import_pairs(store, body)?)).await
}
