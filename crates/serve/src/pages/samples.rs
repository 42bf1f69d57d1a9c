use std::sync::Arc;

use axum::extract::{FromRequestParts, Path, State};
use evalign_bench::verdicts_on;
use evalign_core::{Outcome, RunId, SampleKey, SampleRecord};
use evalign_store::{SampleFilter, Store};
use http::StatusCode;
use http::request::Parts;
use minijinja::context;
use serde::Deserialize;

use super::sample::{SampleView, VerdictView, shared_prefix};
use super::{ON_A_PAGE, Page, given, page, serialized};
use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{Query, RunPath, Tenanted};
use crate::routes::runs::parse_sample_id;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SamplesPage {
    after: Option<String>,
    task: Option<String>,
    outcome: Option<String>,
}

/// With what prompts share folded, and what judges said.
fn views(store: &Store, run: &RunId, records: &[SampleRecord]) -> ApiResult<Vec<SampleView>> {
    let mut views = Vec::with_capacity(records.len());
    for record in records {
        let alike = records.iter().filter(|other| other.key.task == record.key.task);
        let mut view = SampleView::of(record, &shared_prefix(alike));
        view.verdicts = verdicts_on(store, run, record)?.iter().map(VerdictView::of).collect();
        views.push(view);
    }
    Ok(views)
}

pub(super) async fn samples(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<SamplesPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let wrong = |field: &str| ApiError::new(Code::InvalidRequest, format!("`{field}` is none")).about(field);
    let (task, outcome) = (given(query.task), given(query.outcome));
    let after = match given(query.after) {
        None => None,
        Some(text) => Some(parse_sample_id(&text).ok_or_else(|| wrong("after"))?),
    };
    let known = |name: &String| Outcome::ALL.into_iter().find(|outcome| outcome.name() == name.as_str());
    let wanted = match &outcome {
        None => None,
        Some(name) => Some(known(name).ok_or_else(|| wrong("outcome"))?),
    };
    let (run, filter_task) = (id.to_string(), task.clone());
    let (mut shown, tasks) = app
        .blocking(move |_| {
            let store = &tenanted.store;
            let limit = Some(u64::from(ON_A_PAGE) + 1);
            let filter = SampleFilter { task: filter_task, outcome: wanted, after, limit };
            let records: Vec<SampleRecord> = store.samples(&id, filter)?.collect::<Result<_, _>>()?;
            let tasks = store.run(&id)?.spec.tasks;
            let tasks: Vec<String> = tasks.into_iter().map(|task| task.task).collect();
            Ok((views(store, &id, &records)?, tasks))
        })
        .await?;
    let has_more = shown.len() > ON_A_PAGE as usize;
    shown.truncate(ON_A_PAGE as usize);
    let next = shown.last().filter(|_| has_more).map(|shown| shown.id().to_owned());
    let outcomes: Vec<_> = Outcome::ALL.into_iter().map(Outcome::name).collect();
    let content = context! {
        title => "Samples", run, samples => serialized(&shown), next, task, tasks, outcome, outcomes,
        is_one => false,
    };
    Ok(page(StatusCode::OK, "samples", Some(&caller), content))
}

/// The run and the sample that a path names.
#[derive(Debug)]
pub(super) struct SamplePath {
    run: RunId,
    key: SampleKey,
}

impl FromRequestParts<Arc<App>> for SamplePath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let none = || ApiError::new(Code::NotFound, "there is nothing here");
        let path = Path::<(String, String)>::from_request_parts(parts, app).await;
        let Path((run, sample)) = path.map_err(|_| none())?;
        let run = run.parse().map_err(|_| ApiError::not_found("run", &run))?;
        Ok(Self { run, key: parse_sample_id(&sample).ok_or_else(none)? })
    }
}

/// One sample under an address of its own.
pub(super) async fn sample(State(app): State<Arc<App>>, tenanted: Tenanted, path: SamplePath) -> Page {
    let caller = tenanted.caller.clone();
    let SamplePath { run, key } = path;
    let (name, title) = (run.to_string(), format!("Sample {key}"));
    let shown = app
        .blocking(move |_| {
            let store = &tenanted.store;
            let record = store.sample(&run, &key)?;
            let record = record.ok_or_else(|| ApiError::new(Code::NotFound, "there is no such sample"))?;
            // Its neighbours say what of the prompt is not its own.
            let filter =
                SampleFilter { task: Some(key.task.clone()), limit: Some(2), ..SampleFilter::default() };
            let mut records: Vec<SampleRecord> = store.samples(&run, filter)?.collect::<Result<_, _>>()?;
            records.insert(0, record);
            let mut views = views(store, &run, &records)?;
            views.truncate(1);
            Ok(views)
        })
        .await?;
    let none = None::<&str>;
    let content = context! {
        title, run => name, samples => serialized(&shown), next => none, task => none,
        tasks => Vec::<String>::new(), outcome => none, outcomes => Vec::<String>::new(), is_one => true,
    };
    Ok(page(StatusCode::OK, "samples", Some(&caller), content))
}
