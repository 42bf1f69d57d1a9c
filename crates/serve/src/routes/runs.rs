use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use evalign_bench::{BreakdownOptions, ExportFormat, MeasuresWanted, Scoreboard, export_run, export_steps};
use evalign_core::{Outcome, RunId, SampleKey};
use evalign_store::{SampleFilter, Store, StoredRun, shown_status};
use http::{HeaderMap, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{Query, RunPath, TaggedBody, Tenanted, tagged_bytes};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::once::{IdempotencyKey, Lane, Made, Order};
use crate::routes::{List, page_length};
use crate::runs::{NewRunBody, RunObject};

/// Which runs.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct RunsQuery {
    /// Runs of a page, 1 to 100; 20 where absent.
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The last run of the page before.
    after: Option<String>,
    /// Only runs of this status, as the list shows it: `queued`, `running`, `completed`, `failed`, `cancelled`,
    /// `budget_exhausted`, `interrupted`.
    status: Option<String>,
}

/// Lists runs, the newest first.
#[utoipa::path(get, path = "/v1/runs", tag = "runs", params(RunsQuery),
    responses((status = 200, description = "A page of runs", body = List<RunObject>),
        (status = 304, description = "Unchanged since the `If-None-Match`"), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<RunsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let limit = page_length(query.limit)?;
    let run = |id: String| id.parse::<RunId>().map_err(|_| ApiError::not_found("run", &id));
    let after = query.after.map(run).transpose()?;
    let known = |name: String| {
        let none = || ApiError::new(Code::InvalidRequest, "`status` is no status of a run").about("status");
        shown_status(&name).ok_or_else(none)
    };
    let status = query.status.map(known).transpose()?;
    // Who watches all runs asks this again and again.
    let question = (tenanted.store.tenant().clone(), format!("{limit} {status:?} {after:?}"));
    let compute = app.blocking(move |app| {
        let store = &tenanted.store;
        let runs = store.runs_after(after.as_ref(), limit + 1, status)?;
        let objects = runs.iter().map(|run| RunObject::of(app, store, run)).collect::<ApiResult<_>>()?;
        TaggedBody::json(&List::page(objects, limit as usize, |run: &RunObject| run.id.clone()))
    });
    Ok(app.known_lists.get(question, || app.version_of_runs(), compute).await?.answer(&headers))
}

/// Starts a run: plans it, stores it and queues it. The answer comes at once and says where to look. A request
/// with the `Idempotency-Key` of an earlier one is answered as that was; without one, equal requests are still
/// the same run.
#[utoipa::path(post, path = "/v1/runs", tag = "runs", request_body = NewRunBody,
    params(IdempotencyKey),
    responses(
        (status = 202, description = "Queued; `Location` names it", body = RunObject),
        ErrorAnswers, Refusals))]
pub(crate) async fn create(order: Order<NewRunBody>) -> ApiResult<Response> {
    order.starts(Lane::Planning, |app, store, body| app.start_run(store, body)).await
}

/// `202`, with where to look.
pub(crate) fn queued(app: &App, store: &Store, run: &StoredRun) -> ApiResult<Made> {
    let place = format!("/v1/runs/{}", run.id);
    Made::new(StatusCode::ACCEPTED, place, &RunObject::of(app, store, run)?)
}

/// One run.
#[utoipa::path(get, path = "/v1/runs/{id}", tag = "runs", params(("id" = String, Path, description = "The run")),
    responses((status = 200, description = "The run", body = RunObject),
        (status = 304, description = "Unchanged since the `If-None-Match`"), ErrorAnswers))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    headers: HeaderMap,
) -> ApiResult<Response> {
    // Who waits for a run asks this again and again.
    let question = (tenanted.store.tenant().clone(), id.to_string());
    let compute = app.blocking(move |app| {
        let run = tenanted.store.run(&id)?;
        TaggedBody::json(&RunObject::of(app, &tenanted.store, &run)?)
    });
    Ok(app.known_runs.get(question, || app.version_of_runs(), compute).await?.answer(&headers))
}

/// What to tell of a run's results, and what besides. Without any of it: the results as they are kept.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResultsQuery {
    /// Only this task or group.
    task: Option<String>,
    /// Also scores by the value of a column of the dataset (`subject`, `level`, `meta.source`): `breakdown`.
    by: Option<String>,
    /// With `by`: items with the same value in this column are no independent evidence.
    cluster: Option<String>,
    /// Also how often choices of a given confidence are right, in bins: `equal-width:10`, `equal-mass:15`.
    #[param(pattern = "^equal-(width|mass)(:[1-9][0-9]{0,2})?$")]
    calibration: Option<String>,
    /// Also the same items about different groups (columns `item` and `group`): paired differences.
    #[serde(default)]
    #[param(required = false)]
    swaps: bool,
}

/// The results of a run: estimates with their intervals and counts. With a query as `evalign show --json` prints them: of
/// one task, with scores by a column, with calibration, with paired differences of groups.
#[utoipa::path(get, path = "/v1/runs/{id}/results", tag = "runs",
    params(("id" = String, Path, description = "The run"), ResultsQuery),
    responses((status = 200, description = "As `evalign eval --json` prints them, with models by the names they are served by", body = Object),
        (status = 304, description = "Unchanged since the `If-None-Match`"), ErrorAnswers,
        (status = 409, description = "The run was scored by other rules than there are now, which only a query with more than `task` needs", body = crate::openapi::ErrorBody)))]
pub(crate) async fn results(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<ResultsQuery>,
    headers: HeaderMap,
) -> ApiResult<Response> {
    let wrong = |field: &str, message: String| ApiError::new(Code::InvalidRequest, message).about(field);
    let calibration = query.calibration.as_deref().map(str::parse).transpose();
    let calibration = calibration.map_err(|message| wrong("calibration", message))?;
    if query.cluster.is_some() && query.by.is_none() {
        return Err(wrong("cluster", "`cluster` goes with `by`".to_owned()));
    }
    let is_read_whole = query.by.is_some() || calibration.is_some() || query.swaps;
    let work = move |app: &App| {
        let by = query.by.map(|by| BreakdownOptions { by, cluster: query.cluster });
        let task = query.task.as_deref();
        let wanted = MeasuresWanted { task, by, calibration, swaps: query.swaps, corpus: None };
        let results = app.results_of(&tenanted.store, &id, &wanted)?.to_string();
        Ok(tagged_bytes(&headers, results.into_bytes(), "application/json"))
    };
    // All samples are read for them.
    if is_read_whole { app.blocking_alone(&app.scoring, work).await } else { app.blocking(work).await }
}

/// Which samples.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct SamplesQuery {
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The last sample of the page before: `TASK:DOC:REPEAT`.
    after: Option<String>,
    /// Only samples of this leaf task.
    task: Option<String>,
    /// Only samples with a score of this outcome: `correct`, `wrong`, `truncated`, `refused`, `unparsed`,
    /// `error`, `unscored`.
    outcome: Option<String>,
}

/// `TASK:DOC:REPEAT`.
pub(crate) fn sample_id(key: &SampleKey) -> String {
    format!("{}:{}:{}", key.task, key.doc, key.repeat)
}

pub(crate) fn parse_sample_id(text: &str) -> Option<SampleKey> {
    let mut parts = text.rsplitn(3, ':');
    let repeat = parts.next()?.parse().ok()?;
    let doc = parts.next()?.parse().ok().filter(|doc| i64::try_from(*doc).is_ok())?;
    Some(SampleKey { task: parts.next()?.to_owned(), doc, repeat })
}

/// The samples of a run: prompt, answer and scores, in the order of tasks and documents.
#[utoipa::path(get, path = "/v1/runs/{id}/samples", tag = "runs",
    params(("id" = String, Path, description = "The run"), SamplesQuery),
    responses((status = 200, description = "A page of samples", body = List<Object>), ErrorAnswers))]
pub(crate) async fn samples(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<SamplesQuery>,
) -> ApiResult<Json<List<Value>>> {
    let limit = page_length(query.limit)?;
    let wrong = |field: &str| ApiError::new(Code::InvalidRequest, format!("`{field}` is none")).about(field);
    let outcome = match query.outcome.as_deref() {
        None => None,
        Some(name) => {
            let known = Outcome::ALL.into_iter().find(|outcome| outcome.name() == name);
            Some(known.ok_or_else(|| wrong("outcome"))?)
        }
    };
    let after = match query.after.as_deref() {
        None => None,
        Some(text) => Some(parse_sample_id(text).ok_or_else(|| wrong("after"))?),
    };
    app.blocking(move |_| {
        let filter = SampleFilter { task: query.task, outcome, after, limit: Some(u64::from(limit) + 1) };
        let mut page = Vec::new();
        for sample in tenanted.store.samples(&id, filter)? {
            let sample = sample?;
            let name = sample_id(&sample.key);
            let mut value = serde_json::to_value(sample).map_err(ApiError::internal)?;
            if let Some(fields) = value.as_object_mut() {
                fields.shift_insert(0, "object".to_owned(), "sample".into());
                fields.shift_insert(1, "id".to_owned(), name.into());
            }
            page.push(value);
        }
        let name = |value: &Value| value["id"].as_str().unwrap_or_default().to_owned();
        Ok(Json(List::page(page, limit as usize, name)))
    })
    .await
}

/// Ends a run. One that waits ends at once; one that is worked on keeps what it has, and can be resumed.
#[utoipa::path(post, path = "/v1/runs/{id}/cancel", tag = "runs",
    params(("id" = String, Path, description = "The run")),
    responses((status = 202, description = "It ends", body = RunObject), ErrorAnswers,
        (status = 409, description = "It is neither queued nor being worked on", body = crate::openapi::ErrorBody)))]
pub(crate) async fn cancel(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
) -> ApiResult<Response> {
    app.blocking(move |app| {
        let run = app.cancel_run(&tenanted.store, &id)?;
        queued(app, &tenanted.store, &run)?.answer()
    })
    .await
}

/// How a run goes on.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ResumeQuery {
    /// Ask again where a call failed and a sample has no answer, of a completed run too. Those samples and the results go
    /// once the run has been planned again; one that cannot be stays completed, with `error`.
    #[serde(default)]
    #[param(required = false)]
    retry_errors: bool,
}

/// Goes on with a run that stopped before its end. Nothing finished is asked again.
#[utoipa::path(post, path = "/v1/runs/{id}/resume", tag = "runs",
    params(("id" = String, Path, description = "The run"), ResumeQuery),
    responses((status = 202, description = "Queued", body = RunObject), ErrorAnswers, Refusals))]
pub(crate) async fn resume(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<ResumeQuery>,
) -> ApiResult<Response> {
    app.blocking(move |app| {
        let run = app.resume_run(&tenanted.store, &id, query.retry_errors)?;
        queued(app, &tenanted.store, &run)?.answer()
    })
    .await
}

/// Which file of a run.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ExportQuery {
    /// `jsonl` (every sample with everything), `parquet` (one row for each score), or `lm-eval` (as
    /// lm-evaluation-harness logs the samples of one task).
    format: Option<String>,
    /// Which task, with `lm-eval`.
    task: Option<String>,
}

/// The samples of a run as one file, as `evalign export` writes it.
#[utoipa::path(get, path = "/v1/runs/{id}/export", tag = "runs",
    params(("id" = String, Path, description = "The run"), ExportQuery),
    responses((status = 200, description = "The file", content((String = "application/jsonl"), (String = "application/vnd.apache.parquet"))), ErrorAnswers,
        (status = 409, description = "The run was scored by other rules than there are now", body = crate::openapi::ErrorBody)))]
pub(crate) async fn export(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<ExportQuery>,
) -> ApiResult<Response> {
    let wrong = |field: &str, message: &str| Err(ApiError::new(Code::InvalidRequest, message).about(field));
    // As documented above.
    let (jsonl, parquet) = ("application/jsonl", "application/vnd.apache.parquet");
    let (format, kind, name) = match (query.format.as_deref(), query.task) {
        (None | Some("jsonl"), None) => (ExportFormat::Jsonl, jsonl, "samples.jsonl".to_owned()),
        (Some("parquet"), None) => (ExportFormat::Parquet, parquet, "samples.parquet".to_owned()),
        (Some("lm-eval"), Some(task)) => (ExportFormat::LmEval, jsonl, format!("samples_{task}.jsonl")),
        (Some("lm-eval"), None) => return wrong("task", "`lm-eval` logs one task: name it by `task`"),
        (None | Some("jsonl" | "parquet"), Some(_)) => return wrong("task", "`task` goes with `lm-eval`"),
        (Some(_), _) => return wrong("format", "`format` is `jsonl`, `parquet` or `lm-eval`"),
    };
    let ending = if format == ExportFormat::Parquet { "parquet" } else { "jsonl" };
    let attachment = format!("attachment; filename=\"{id}-samples.{ending}\"");
    let (dir, path) = app
        .blocking(move |app| {
            let run = tenanted.store.run(&id)?;
            let dir = crate::uploads::partial(&app.home)?;
            let files = if run.request.get("procedure").is_some() {
                export_steps(&tenanted.store, &id, format, dir.path())?
            } else {
                let board = Scoreboard::of_run(&run, &app.catalog, true)?;
                export_run(&tenanted.store, &id, &board, format, dir.path())?
            };
            let file = files.into_iter().find(|file| file.ends_with(&name));
            let path =
                file.ok_or_else(|| ApiError::not_found("task in this run that has", &name).about("task"))?;
            Ok((dir, path))
        })
        .await?;
    let body = crate::uploads::stream_file(&path, dir).await?;
    Ok(([(header::CONTENT_TYPE, kind.to_owned()), (header::CONTENT_DISPOSITION, attachment)], body)
        .into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_samples_come_back_as_they_went() {
        let key = SampleKey { task: "mmlu_anatomy:typos".to_owned(), doc: 12, repeat: 3 };
        assert_eq!(parse_sample_id(&sample_id(&key)), Some(key));
        for bad in ["", "a", "a:1", "a:1:x", "a:-1:0", "a:99999999999999999999:0"] {
            assert_eq!(parse_sample_id(bad), None, "{bad}");
        }
    }
}
