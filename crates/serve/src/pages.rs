//! Pages for people: the same numbers as over REST, rendered here, usable without scripts.

mod login;
mod sample;
mod view;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use evalign_bench::{BoardQuery, leaderboard};
use evalign_core::Outcome;
use evalign_store::SampleFilter;
use http::{HeaderMap, StatusCode};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::credentials::Caller;
use crate::error::{ApiError, Code};
use crate::extract::{Query, RunPath, Tenanted};
use crate::openapi::{fixed, openapi};
use crate::routes::runs::{parse_sample_id, sample_id};
use crate::runs::RunObject;

pub(crate) use login::login_page;

/// Runs or samples on a page.
const ON_A_PAGE: u32 = 50;

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(board))
        .route("/runs", get(runs))
        .route("/runs/{id}", get(run))
        .route("/runs/{id}/samples", get(samples))
        .route("/runs/{id}/cancel", post(login::cancel_run))
        .route("/docs", get(docs))
        .route("/login", get(login::ask).post(login::with_key))
        .route("/login/{secret}", get(login::ask_link).post(login::with_link))
        .route("/logout", post(login::logout))
        .route("/static/style.css", get(style))
        .route("/static/live.js", get(script))
}

async fn style(headers: HeaderMap) -> Response {
    fixed(&headers, include_str!("../static/style.css"), "text/css; charset=utf-8")
}

async fn script(headers: HeaderMap) -> Response {
    fixed(&headers, include_str!("../static/live.js"), "text/javascript; charset=utf-8")
}

fn templates() -> &'static Environment<'static> {
    static TEMPLATES: OnceLock<Environment<'static>> = OnceLock::new();
    TEMPLATES.get_or_init(|| {
        let mut environment = Environment::new();
        environment.set_undefined_behavior(UndefinedBehavior::Strict);
        // Whatever is shown may come from a model or a client.
        environment.set_auto_escape_callback(|_| AutoEscape::Html);
        environment.add_filter("urlencode", |text: String| view::urlencode(&text));
        environment.add_filter("time", view::time);
        for (name, source) in TEMPLATES_OF_PAGES {
            if let Err(error) = environment.add_template(name, source) {
                tracing::error!(%error, name, "a page cannot be read");
            }
        }
        environment
    })
}

const TEMPLATES_OF_PAGES: [(&str, &str); 8] = [
    ("base", include_str!("../templates/base.html")),
    ("board", include_str!("../templates/board.html")),
    ("runs", include_str!("../templates/runs.html")),
    ("run", include_str!("../templates/run.html")),
    ("samples", include_str!("../templates/samples.html")),
    ("docs", include_str!("../templates/docs.html")),
    ("login", include_str!("../templates/login.html")),
    ("error", include_str!("../templates/error.html")),
];

/// What a view is to a template.
fn serialized(view: impl Serialize) -> Value {
    // Views are texts, numbers and lists of them: all of it JSON.
    serde_json::to_value(view).map_or_else(|_| Value::from(()), |json| from_json(&json))
}

fn from_json(json: &serde_json::Value) -> Value {
    match json {
        serde_json::Value::Null => Value::from(()),
        serde_json::Value::Bool(value) => Value::from(*value),
        serde_json::Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Value::from(whole),
            (None, Some(float)) => Value::from(float),
            (None, None) => Value::from(number.to_string()),
        },
        serde_json::Value::String(text) => Value::from(text.as_str()),
        serde_json::Value::Array(items) => Value::from_iter(items.iter().map(from_json)),
        serde_json::Value::Object(fields) => {
            Value::from_pairs(fields.iter().map(|(name, value)| (name.clone(), from_json(value))))
        }
    }
}

/// A page for whoever is logged in, or for nobody.
fn page(status: StatusCode, name: &str, caller: Option<&Caller>, content: Value) -> Response {
    let csrf = caller.and_then(|caller| caller.csrf.as_deref());
    let tenant = caller.map(|caller| caller.tenant.as_str());
    let rendered = templates()
        .get_template(name)
        .and_then(|template| template.render(context! { csrf, tenant, ..content }));
    match rendered {
        Ok(text) => (status, Html(text)).into_response(),
        Err(error) => ApiError::internal(format!("page {name}: {error:#}")).into_response(),
    }
}

/// An error as a page.
pub(crate) struct PageError(ApiError);

impl<E: Into<ApiError>> From<E> for PageError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let (status, message) = (self.0.code.status(), self.0.message);
        page(status, "error", None, context! { title => "Error", status => status.as_u16(), message })
    }
}

type Page = Result<Response, PageError>;

/// What of the leaderboard.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BoardPage {
    task: Option<String>,
    all: Option<String>,
}

async fn board(State(app): State<Arc<App>>, tenanted: Tenanted, Query(query): Query<BoardPage>) -> Page {
    let caller = tenanted.caller.clone();
    let task = query.task.filter(|task| !task.is_empty());
    let all = query.all.is_some();
    let wanted = BoardQuery { task: task.clone(), all, run: None };
    let board = app.blocking(move |_| Ok(leaderboard(&tenanted.store, &wanted)?)).await?;
    let blocks = serialized(board.blocks.iter().map(view::block).collect::<Vec<_>>());
    let without_results: Vec<_> = board.without_results.iter().map(ToString::to_string).collect();
    let content = context! { title => "Leaderboard", blocks, task, all, runs => board.runs, without_results };
    Ok(page(StatusCode::OK, "board", Some(&caller), content))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsPage {
    after: Option<String>,
}

async fn runs(State(app): State<Arc<App>>, tenanted: Tenanted, Query(query): Query<RunsPage>) -> Page {
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

async fn run(State(app): State<Arc<App>>, tenanted: Tenanted, RunPath(id): RunPath) -> Page {
    let caller = tenanted.caller.clone();
    let (object, results, counts) = app
        .blocking(move |app| {
            let store = &tenanted.store;
            let stored = store.run(&id)?;
            let mut counts = Vec::new();
            for outcome in Outcome::ALL {
                counts.push((outcome.name(), store.count_samples(&id, outcome)?));
            }
            let object = RunObject::of(app, store, &stored)?;
            Ok((object, stored.results.as_ref().map(view::results), counts))
        })
        .await?;
    let is_active = matches!(object.status, "queued" | "running");
    let can_run = caller.scope >= evalign_store::KeyScope::Run;
    let content = context! {
        title => format!("Run {}", object.id),
        run => serialized(&object),
        results => serialized(&results),
        counts => serialized(&counts),
        is_active,
        can_run,
    };
    Ok(page(StatusCode::OK, "run", Some(&caller), content))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SamplesPage {
    after: Option<String>,
    task: Option<String>,
    outcome: Option<String>,
}

/// A sample with its permanent name.
#[derive(Serialize)]
struct Shown {
    id: String,
    sample: sample::SampleView,
}

async fn samples(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    Query(query): Query<SamplesPage>,
) -> Page {
    let caller = tenanted.caller.clone();
    let wrong = |field: &str| ApiError::new(Code::InvalidRequest, format!("`{field}` is none")).about(field);
    let given = |text: Option<String>| text.filter(|text| !text.is_empty());
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
    let mut shown = app
        .blocking(move |_| {
            let limit = Some(u64::from(ON_A_PAGE) + 1);
            let filter = SampleFilter { task: filter_task, outcome: wanted, after, limit };
            let mut shown = Vec::new();
            for record in tenanted.store.samples(&id, filter)? {
                let record = record?;
                shown.push(Shown { id: sample_id(&record.key), sample: sample::SampleView::of(&record) });
            }
            Ok(shown)
        })
        .await?;
    let has_more = shown.len() > ON_A_PAGE as usize;
    shown.truncate(ON_A_PAGE as usize);
    let next = shown.last().filter(|_| has_more).map(|shown| shown.id.clone());
    let outcomes: Vec<_> = Outcome::ALL.into_iter().map(Outcome::name).collect();
    let content =
        context! { title => "Samples", run, samples => serialized(&shown), next, task, outcome, outcomes };
    Ok(page(StatusCode::OK, "samples", Some(&caller), content))
}

async fn docs(State(_): State<Arc<App>>, tenanted: Tenanted) -> Page {
    let document = serde_json::to_value(openapi()).map_err(ApiError::internal)?;
    let content = context! { title => "Interface", routes => serialized(view::routes(&document)) };
    Ok(page(StatusCode::OK, "docs", Some(&tenanted.caller), content))
}

#[cfg(test)]
mod tests;
