use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use evalign_bench::Vote;
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{JsonBody, Query, RunPath, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::page_length;
use crate::votes::ballot_of;

/// Two answers to one prompt, without their writers' names.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct QuestionObject {
    id: String,
    prompt: String,
    first: String,
    second: String,
}

/// What the owner of a key can vote on, and has.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct BallotObject {
    #[schema(pattern = "^ballot$")]
    object: &'static str,
    /// The comparison that is voted on.
    run: String,
    total: u64,
    /// How many are open.
    open_total: u64,
    /// The next of them.
    open: Vec<QuestionObject>,
}

/// How much of a ballot.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct BallotQuery {
    /// Open questions to be shown.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
}

/// A vote.
#[derive(Debug, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct VoteBody {
    /// Id of an open question.
    question: String,
    /// Which answer is better: `first`, `second`, `tie`.
    #[schema(value_type = String, pattern = "^(first|second|tie)$")]
    vote: Vote,
}

/// What was voted, and whose the answers are.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct CastObject {
    #[schema(pattern = "^vote$")]
    object: &'static str,
    question: String,
    /// Who wrote the first and the second answer.
    #[schema(value_type = Vec<String>)]
    names: [String; 2],
    /// Questions that are still open.
    open: u64,
}

/// The open questions of a comparison of models, blind: the same pairs for everybody, in an order of each key's own.
#[utoipa::path(get, path = "/v1/judgments/{id}/votes", tag = "judging",
    params(("id" = String, Path, description = "A run that compared models"), BallotQuery),
    responses((status = 200, description = "What is open", body = BallotObject), ErrorAnswers,
        (status = 409, description = "The comparison is still being worked on", body = crate::openapi::ErrorBody)))]
pub(crate) async fn ballot(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<BallotQuery>,
) -> ApiResult<Json<BallotObject>> {
    let limit = page_length(query.limit)?;
    app.blocking(move |_| {
        let ballot = ballot_of(&tenanted.store, &id, &tenanted.caller.key)?;
        Ok(Json(BallotObject {
            object: "ballot",
            run: ballot.arena.to_string(),
            total: ballot.total() as u64,
            open_total: ballot.open.len() as u64,
            open: ballot
                .open
                .iter()
                .take(limit as usize)
                .map(|question| QuestionObject {
                    id: question.id(),
                    prompt: question.prompt.clone(),
                    first: question.first.clone(),
                    second: question.second.clone(),
                })
                .collect(),
        }))
    })
    .await
}

/// Votes on one question. The answer says whose the answers are; the vote counts like a judge's.
#[utoipa::path(post, path = "/v1/judgments/{id}/votes", tag = "judging", request_body = VoteBody,
    params(("id" = String, Path, description = "A run that compared models")),
    responses((status = 200, description = "The vote is kept", body = CastObject), ErrorAnswers, Refusals))]
pub(crate) async fn cast(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    body: JsonBody<VoteBody>,
) -> ApiResult<Json<CastObject>> {
    app.blocking(move |app| {
        let (store, key) = (&tenanted.store, &tenanted.caller.key);
        if !app.vote(store, (&id, key), &body.value.question, body.value.vote)? {
            let message = "this question is not open: it was voted on, or is none";
            return Err(ApiError::new(Code::InvalidRequest, message).about("question"));
        }
        let ballot = ballot_of(store, &id, key)?;
        let none = || ApiError::internal("a vote that was kept is not there");
        let (_, _, names) = ballot.cast(&body.value.question).ok_or_else(none)?;
        Ok(Json(CastObject {
            object: "vote",
            question: body.value.question.clone(),
            names: names.clone().map(|name| app.shown_name(name)),
            open: ballot.open.len() as u64,
        }))
    })
    .await
}
