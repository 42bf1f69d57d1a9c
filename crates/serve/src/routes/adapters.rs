use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use http::HeaderMap;

use crate::adapters::{MergeBody, ScoreBody};
use crate::app::App;
use crate::error::ApiResult;
use crate::extract::{JsonBody, RunPath, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::once::{IdempotencyKey, Repeatable};
use crate::routes::runs::queued;
use crate::runs::RunObject;

/// Merges the adapter of a training job into the model that it was trained for, and holds the result's logits against
/// theirs. It is a run; its results name the files that came of it.
#[utoipa::path(post, path = "/v1/training/jobs/{id}/merge", tag = "training", request_body = MergeBody,
    params(("id" = String, Path, description = "The job"), IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn merge(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    headers: HeaderMap,
    body: JsonBody<MergeBody>,
) -> ApiResult<Response> {
    let target = format!("POST /v1/training/jobs/{id}/merge");
    let repeatable = Repeatable::of(&headers, &target, &body.digest)?;
    app.blocking(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || queued(app, store, &app.start_merge(store, &id, &body.value)?))
    })
    .await
}

/// Scores a reward model: how often it prefers the chosen side of pairs, over all and by category. It is a run; its
/// results are what `evalign train score --json` prints.
#[utoipa::path(post, path = "/v1/training/scores", tag = "training", request_body = ScoreBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn score(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    body: JsonBody<ScoreBody>,
) -> ApiResult<Response> {
    let repeatable = Repeatable::of(&headers, "POST /v1/training/scores", &body.digest)?;
    app.blocking(move |app| {
        let store = &tenanted.store;
        repeatable.once(store, || queued(app, store, &app.start_score(store, &body.value)?))
    })
    .await
}
