//! Blind votes: two answers without names, which is better? What `evalign judge vote` asks, on a page.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Redirect};
use evalign_bench::{Vote, VoteQuestion};
use evalign_store::KeyScope;
use http::StatusCode;
use minijinja::context;
use serde::de::IntoDeserializer;
use serde::{Deserialize, Serialize};

use super::login::{Checked, own_form};
use super::{Page, page, serialized};
use crate::app::App;
use crate::error::{ApiError, Code};
use crate::extract::{Query, RunPath, Tenanted};
use crate::votes::ballot_of;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BallotPage {
    /// The question that was just voted on.
    voted: Option<String>,
}

#[derive(Serialize)]
struct QuestionView {
    id: String,
    prompt: String,
    first: String,
    second: String,
}

impl QuestionView {
    fn of(question: &VoteQuestion) -> Self {
        let VoteQuestion { prompt, first, second, .. } = question.clone();
        Self { id: question.id(), prompt, first, second }
    }
}

/// A vote that was cast, with the names that were hidden before.
#[derive(Serialize)]
struct CastView {
    prompt: String,
    first: String,
    second: String,
    vote: &'static str,
}

pub(super) async fn ballot(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<BallotPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let voter = caller.key.clone();
    let ballot = app.blocking(move |_| ballot_of(&tenanted.store, &id, &voter)).await?;
    let voted = query.voted.and_then(|voted| {
        let (question, vote, [first, second]) = ballot.cast(&voted)?;
        let vote = match vote {
            Vote::First => "the first",
            Vote::Second => "the second",
            Vote::Tie => "both alike",
        };
        let (first, second) = (app.shown_name(first.clone()), app.shown_name(second.clone()));
        Some(CastView { prompt: question.prompt.clone(), first, second, vote })
    });
    let content = context! {
        title => "Which answer is better?",
        arena => ballot.arena.to_string(),
        question => serialized(ballot.open.first().map(QuestionView::of)),
        done => ballot.total() - ballot.open.len(),
        total => ballot.total(),
        voted => serialized(voted),
        can_vote => caller.scope >= KeyScope::Run,
    };
    Ok(page(StatusCode::OK, "vote", Some(&caller), content))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct VoteForm {
    csrf: String,
    question: String,
    vote: String,
}

impl Checked for VoteForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

pub(super) async fn vote(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    request: Request,
) -> Page {
    let form: VoteForm = own_form(&tenanted, &app, request).await?;
    let vote: Result<Vote, serde::de::value::Error> =
        Vote::deserialize(form.vote.as_str().into_deserializer());
    let wrong = |_| ApiError::new(Code::InvalidRequest, "`vote` is first, second or tie").about("vote");
    let vote = vote.map_err(wrong)?;
    let (page, question) = (format!("/runs/{id}/vote"), form.question.clone());
    let cast = move |app: &App| app.vote(&tenanted.store, (&id, &tenanted.caller.key), &form.question, vote);
    // Sent twice, or from an old page: the vote that is there stays.
    let is_cast = app.blocking(cast).await?;
    Ok(Redirect::to(&if is_cast { format!("{page}?voted={question}") } else { page }).into_response())
}
