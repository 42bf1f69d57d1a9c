use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::Response;
use evalign_bench::{Board, BoardQuery, CompareOptions, compare, leaderboard};
use evalign_store::Store;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{Query, TaggedBody, Tenanted, tagged};
use crate::openapi::ErrorAnswers;
use crate::routes::List;

/// What of the leaderboard.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LeaderboardQuery {
    /// Only this task or group.
    task: Option<String>,
    /// Also the members of groups.
    #[serde(default)]
    #[param(required = false)]
    all: bool,
}

/// All finished runs in blocks of what may be compared, each with the ranks that the samples support.
#[utoipa::path(get, path = "/v1/leaderboard", tag = "leaderboard", params(LeaderboardQuery),
    responses((status = 200, description = "As `evalign leaderboard --format json` prints it, with models by the names they are served by", body = Object),
        (status = 304, description = "Unchanged since the `If-None-Match`"), ErrorAnswers))]
pub(crate) async fn board(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<LeaderboardQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let query = BoardQuery { task: query.task, all: query.all, run: None };
    Ok(app.board(&tenanted.store, query).await?.document.answer(&headers))
}

/// A leaderboard, and how this route tells it.
#[derive(Debug)]
pub(crate) struct ShownBoard {
    pub(crate) board: Board,
    document: TaggedBody,
}

impl App {
    /// The leaderboard, computed anew only where completed runs have changed: it takes a test for each two rows.
    pub(crate) async fn board(
        self: &Arc<Self>,
        store: &Store,
        query: BoardQuery,
    ) -> ApiResult<Arc<ShownBoard>> {
        let completed = self.completed_runs(store).await?;
        let question = (store.tenant().clone(), format!("{} {:?}", query.all, query.task));
        let store = store.clone();
        let compute = self.blocking(move |app| {
            let mut board = leaderboard(&store, &query)?;
            // Models are called as they are served here, not by where they lie.
            for row in board.blocks.iter_mut().flat_map(|block| &mut block.rows) {
                row.model.reference = app.shown_name(std::mem::take(&mut row.model.reference));
            }
            let document = TaggedBody::json(&json!({
                "object": "leaderboard",
                "data": board.blocks,
                "runs": board.runs,
                "without_results": board.without_results,
            }))?;
            Ok(ShownBoard { board, document })
        });
        self.known_boards.get(question, || Some(completed), compute).await
    }
}

/// Two runs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct CompareQuery {
    a: String,
    b: String,
    /// Only this metric.
    metric: Option<String>,
    /// What makes documents dependent: a column of theirs, or `subject` for the tasks of a group.
    cluster: Option<String>,
    /// Compare tasks that were measured in different ways all the same, and mark them.
    #[serde(default)]
    #[param(required = false)]
    allow_different_protocols: bool,
}

/// Two runs document by document: is the difference real?
#[utoipa::path(get, path = "/v1/compare", tag = "leaderboard", params(CompareQuery),
    responses((status = 200, description = "As `evalign compare --json` prints it, with models by the names they are served by", body = Object),
        (status = 304, description = "Unchanged since the `If-None-Match`"), ErrorAnswers))]
pub(crate) async fn comparison(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<CompareQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    app.blocking(move |app| {
        let run = |id: &str| id.parse().map_err(|_| ApiError::not_found("run", id));
        let (a, b) = (run(&query.a)?, run(&query.b)?);
        if a == b {
            return Err(ApiError::new(Code::InvalidRequest, "these are the same run").about("b"));
        }
        let options = CompareOptions {
            metric: query.metric,
            cluster: query.cluster,
            allow_different_protocols: query.allow_different_protocols,
        };
        let comparison = compare(&tenanted.store, &a, &b, &options)?;
        tagged(&headers, &app.placeless_document(&json!(comparison)))
    })
    .await
}

/// A task that can be run.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct TaskObject {
    object: &'static str,
    id: String,
    version: String,
    summary: String,
}

/// The tasks there are.
#[utoipa::path(get, path = "/v1/tasks", tag = "leaderboard",
    responses((status = 200, description = "All tasks and groups", body = List<TaskObject>), ErrorAnswers))]
pub(crate) async fn tasks(State(app): State<Arc<App>>, _: Tenanted) -> ApiResult<Json<List<TaskObject>>> {
    let object = |id: &str, version: &str, summary: &str| TaskObject {
        object: "task",
        id: id.to_owned(),
        version: version.to_owned(),
        summary: summary.to_owned(),
    };
    let tasks = app.catalog.tasks().map(|task| object(&task.name, &task.version, &task.summary));
    let groups = app.catalog.groups().map(|group| object(&group.name, &group.version, &group.summary));
    Ok(Json(List::whole(groups.chain(tasks).collect(), |task: &TaskObject| task.id.clone())))
}
