use std::sync::Arc;

use axum::extract::State;
use evalign_bench::{ArenaRequest, CritiqueRequest, PairsRequest};
use evalign_core::{Outcome, RunStatus};
use http::StatusCode;
use minijinja::context;
use serde::Deserialize;
use serde_json::Value;

use super::facts::Facts;
use super::{ON_A_PAGE, Page, page, serialized, view};
use crate::app::App;
use crate::error::ApiError;
use crate::extract::{Query, RunPath, Tenanted};
use crate::runs::RunObject;
use crate::training::TrainRequest;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RunsPage {
    after: Option<String>,
}

pub(super) async fn runs(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<RunsPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let after = query.after.map(|id| id.parse().map_err(|_| ApiError::not_found("run", &id))).transpose()?;
    let mut runs = app
        .blocking(move |app| {
            let store = &tenanted.store;
            let runs = store.runs_after(after.as_ref(), ON_A_PAGE + 1, None)?;
            runs.iter().map(|run| RunObject::of(app, store, run)).collect::<Result<Vec<_>, _>>()
        })
        .await?;
    let has_more = runs.len() > ON_A_PAGE as usize;
    runs.truncate(ON_A_PAGE as usize);
    let next = runs.last().filter(|_| has_more).map(|run| run.id.clone());
    let content = context! { title => "Runs", runs => serialized(&runs), next };
    Ok(page(StatusCode::OK, "runs", Some(&caller), content))
}

pub(super) async fn run(State(app): State<Arc<App>>, tenanted: Tenanted, RunPath(id): RunPath) -> Page {
    let caller = tenanted.caller.clone();
    let (object, stored, counts) = app
        .blocking(move |app| {
            let store = &tenanted.store;
            let stored = store.run(&id)?;
            let mut counts = Vec::new();
            for outcome in Outcome::ALL {
                counts.push((outcome.name(), store.count_samples(&id, outcome)?));
            }
            Ok((RunObject::of(app, store, &stored)?, stored, counts))
        })
        .await?;
    let is_active = matches!(object.status, "queued" | "running");
    let can_run = caller.scope >= evalign_store::KeyScope::Run;
    let procedure = stored.request.get("procedure").and_then(Value::as_str);
    let lines = stored.results.as_ref().map(view::results).unwrap_or_default();
    let other = stored.results.as_ref().filter(|_| lines.is_empty());
    let facts = other.map(|results| Facts::of(&app.placeless_document(results)));
    let content = context! {
        title => format!("Run {}", object.id),
        run => serialized(&object),
        results => serialized(&lines),
        facts => serialized(&facts),
        counts => serialized(&counts),
        procedure,
        has_pairs => matches!(procedure, Some(PairsRequest::PROCEDURE | CritiqueRequest::PROCEDURE)),
        is_votable => procedure == Some(ArenaRequest::PROCEDURE) && stored.status == RunStatus::Completed,
        is_training => procedure == Some(TrainRequest::PROCEDURE),
        is_active,
        can_run,
    };
    Ok(page(StatusCode::OK, "run", Some(&caller), content))
}
