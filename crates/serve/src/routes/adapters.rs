use axum::response::Response;

use crate::adapters::{MergeBody, ScoreBody};
use crate::error::ApiResult;
use crate::extract::RunPath;
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::once::{IdempotencyKey, Lane, Order};
use crate::runs::RunObject;

/// Merges the adapter of a training job into the model that it was trained for, and holds the result's logits against
/// theirs. It is a run; its results name the files that came of it.
#[utoipa::path(post, path = "/v1/training/jobs/{id}/merge", tag = "training", request_body = MergeBody,
    params(("id" = String, Path, description = "The job"), IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn merge(RunPath(id): RunPath, order: Order<MergeBody>) -> ApiResult<Response> {
    order.starts(Lane::Free, move |app, store, body| app.start_merge(store, &id, body)).await
}

/// Scores a reward model: how often it prefers the chosen side of pairs, over all and by category. It is a run; its
/// results are what `evalign train score --json` prints.
#[utoipa::path(post, path = "/v1/training/scores", tag = "training", request_body = ScoreBody,
    params(IdempotencyKey),
    responses((status = 202, description = "Queued; `Location` names the run", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn score(order: Order<ScoreBody>) -> ApiResult<Response> {
    order.starts(Lane::Free, |app, store, body| app.start_score(store, body)).await
}
