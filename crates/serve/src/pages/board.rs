use std::sync::Arc;

use axum::extract::State;
use evalign_bench::{BoardQuery, board_sections};
use evalign_core::RunId;
use http::StatusCode;
use minijinja::{Value, context};
use serde::Deserialize;

use super::{Page, page};
use crate::app::App;
use crate::extract::{Query, Tenanted};

/// What of the leaderboard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct BoardPage {
    task: Option<String>,
    all: Option<String>,
}

/// Where a run is shown.
fn run_page(run: &RunId) -> Option<String> {
    Some(format!("/runs/{run}"))
}

pub(super) async fn board(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<BoardPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let task = query.task.filter(|task| !task.is_empty());
    let all = query.all.is_some();
    let wanted = BoardQuery { task: task.clone(), all, run: None };
    let shown = app.board(&tenanted.store, wanted).await?;
    let board = &shown.board;
    // Names in it are escaped where it is made.
    let sections = Value::from_safe_string(board_sections(&board.blocks, &run_page));
    let without_results: Vec<_> = board.without_results.iter().map(ToString::to_string).collect();
    let content =
        context! { title => "Leaderboard", sections, task, all, runs => board.runs, without_results };
    Ok(page(StatusCode::OK, "board", Some(&caller), content))
}
