use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};

use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{JsonBody, RunPath, Tenanted};
use crate::judging::{CritiqueBody, InjectionsBody, JudgmentBody, PreferencesBody};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::preferences::{CheckBody, CheckObject, ImportBody, PairsExportBody, PairsObject};
use crate::routes::once::{Made, Repeatable};
use crate::routes::runs::queued;
use crate::runs::RunObject;

/// Has something judged: rows of a file, the answers of a run, or models that answer the same prompts. It is a run;
/// its results are the report that `evalign judge --json` prints.
#[utoipa::path(post, path = "/v1/judgments", tag = "judging", request_body = JudgmentBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]*$", description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn judge(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<JudgmentBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/judgments", &body.digest)?;
    app.plan(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let procedure = app.judgment(store, &body.value)?;
            queued(app, store, &app.start_procedure(store, procedure)?)
        })
    })
    .await
}

/// Has a judge compare answers of which the worse one tries to talk it round: how often it changes its mind. It is a
/// run; its results are the report that `evalign judge injections --json` prints.
#[utoipa::path(post, path = "/v1/judgments/injections", tag = "judging", request_body = InjectionsBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]*$", description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn attack(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<InjectionsBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/judgments/injections", &body.digest)?;
    app.plan(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let procedure = app.injections(store, &body.value)?;
            queued(app, store, &app.start_procedure(store, procedure)?)
        })
    })
    .await
}

/// Has answers criticised and revised by the principles of a constitution, each revision held against what it revises.
/// It is a run; its pairs become files by `POST /v1/preferences/{id}/files`.
#[utoipa::path(post, path = "/v1/critiques", tag = "judging", request_body = CritiqueBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]*$", description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn criticise(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<CritiqueBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/critiques", &body.digest)?;
    app.plan(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let procedure = app.critique(store, &body.value)?;
            queued(app, store, &app.start_procedure(store, procedure)?)
        })
    })
    .await
}

/// Builds preference pairs: answers are drawn, and compared by a judge or scored by their task. It is a run; its pairs
/// become files by `POST /v1/preferences/{id}/files`.
#[utoipa::path(post, path = "/v1/preferences", tag = "preferences", request_body = PreferencesBody,
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]*$", description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn build(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<PreferencesBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/preferences", &body.digest)?;
    app.plan(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || {
            let procedure = app.preferences(store, &body.value)?;
            queued(app, store, &app.start_procedure(store, procedure)?)
        })
    })
    .await
}

/// Writes the pairs of a run into files, which can be downloaded and trained on.
#[utoipa::path(post, path = "/v1/preferences/{id}/files", tag = "preferences", request_body = PairsExportBody,
    params(("id" = String, Path, description = "A run that built pairs or criticised"),
        ("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]*$", description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 201, description = "Written; `Location` names the first file", body = PairsObject), ErrorAnswers, Refusals))]
pub(crate) async fn export(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    headers: HeaderMap,
    body: JsonBody<PairsExportBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, &format!("POST /v1/preferences/{id}/files"), &body.digest)?;
    app.blocking_alone(&app.scoring, move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || made(&app.export_pairs(store, &id, &body.value)?))
    })
    .await
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
    params(("Idempotency-Key" = Option<String>, Header, min_length = 1, max_length = 255, pattern = "^[!-~]*$", description = "1 to 255 visible ASCII characters; kept for 24 hours")),
    responses((status = 201, description = "Written; `Location` names the file", body = PairsObject), ErrorAnswers, Refusals))]
pub(crate) async fn import(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<ImportBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/preferences/import", &body.digest)?;
    app.blocking_alone(&app.scoring, move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || made(&app.import_pairs(store, &body.value)?))
    })
    .await
}
