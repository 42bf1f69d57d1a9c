//! Pages for people: the same numbers as over REST, rendered here, usable without scripts.

mod board;
mod diff;
mod facts;
mod indexes;
mod login;
mod pairs;
mod runs;
mod sample;
mod samples;
mod training;
mod view;
mod vote;

use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::extract::State;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use evalign_bench::BOARD_STYLE;
use evalign_core::sanitize;
use http::{HeaderMap, StatusCode, header};
use minijinja::{AutoEscape, Environment, UndefinedBehavior, Value, context};
use serde::Serialize;

use crate::app::App;
use crate::credentials::Caller;
use crate::error::{ApiError, ApiResult};
use crate::extract::Tenanted;
use crate::openapi::{fixed, openapi};

pub(crate) use login::login_page;

/// Runs or samples on a page.
const ON_A_PAGE: u32 = 50;

/// So many of a list and no more, and after which of them the next page begins, if there is one.
fn first<T>(mut items: Vec<T>, id: impl Fn(&T) -> &str) -> (Vec<T>, Option<String>) {
    let has_more = items.len() > ON_A_PAGE as usize;
    items.truncate(ON_A_PAGE as usize);
    let next = items.last().filter(|_| has_more).map(|last| id(last).to_owned());
    (items, next)
}

pub(crate) fn router() -> Router<Arc<App>> {
    Router::new()
        .route("/", get(board::board))
        .route("/runs", get(runs::runs))
        .route("/runs/{id}", get(runs::run))
        .route("/runs/{id}/samples", get(samples::samples))
        .route("/runs/{id}/samples/{sample}", get(samples::sample))
        .route("/runs/{id}/pairs", get(pairs::pairs))
        .route("/runs/{id}/vote", get(vote::ballot).post(vote::vote))
        .route("/diff", get(diff::diff))
        .route("/indexes", get(indexes::list))
        .route("/indexes/{id}", get(indexes::index))
        .route("/indexes/{id}/document", get(indexes::document))
        .route("/indexes/{id}/ask", get(indexes::ask))
        .route("/training", get(training::list))
        .route("/training/{id}", get(training::training))
        .route("/runs/{id}/cancel", post(login::cancel_run))
        .route("/docs", get(docs))
        .route("/login", get(login::ask).post(login::with_key))
        .route("/login/{secret}", get(login::ask_link).post(login::with_link))
        .route("/logout", post(login::logout))
        .route("/static/board.css", get(board_style))
        .route("/static/style.css", get(style))
        .route("/static/icon.svg", get(icon))
        .route("/static/live.js", get(script))
}

async fn style(headers: HeaderMap) -> Response {
    fixed(&headers, include_str!("../static/style.css"), "text/css; charset=utf-8")
}

/// What the leaderboard looks like everywhere.
async fn board_style(headers: HeaderMap) -> Response {
    fixed(&headers, BOARD_STYLE, "text/css; charset=utf-8")
}

async fn icon(headers: HeaderMap) -> Response {
    fixed(&headers, include_str!("../static/icon.svg"), "image/svg+xml")
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

const TEMPLATES_OF_PAGES: [(&str, &str); 19] = [
    ("messages", include_str!("../templates/messages.html")),
    ("ask", include_str!("../templates/ask.html")),
    ("document", include_str!("../templates/document.html")),
    ("index", include_str!("../templates/index.html")),
    ("indexes", include_str!("../templates/indexes.html")),
    ("pairs", include_str!("../templates/pairs.html")),
    ("training", include_str!("../templates/training.html")),
    ("trainings", include_str!("../templates/trainings.html")),
    ("diff", include_str!("../templates/diff.html")),
    ("sample", include_str!("../templates/sample.html")),
    ("vote", include_str!("../templates/vote.html")),
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
        // What turns the direction of text could show one thing and mean another.
        Ok(text) => (status, Html(sanitize(&text))).into_response(),
        Err(error) => ApiError::internal(format!("page {name}: {error:#}")).into_response(),
    }
}

/// A refusal as a page, with the headers that it has.
pub(crate) fn error_page(refused: Response, error: &ApiError) -> Response {
    let status = refused.status();
    let content = context! { title => "Error", status => status.as_u16(), message => &error.message };
    let mut shown = page(status, "error", None, content);
    let mut headers = refused.into_parts().0.headers;
    headers.remove(header::CONTENT_LENGTH);
    headers.extend(std::mem::take(shown.headers_mut()));
    *shown.headers_mut() = headers;
    shown
}

/// The gate shows errors to browsers, wherever they come from.
type Page = ApiResult<Response>;

/// What a field of a form holds, if anything.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

async fn docs(State(_): State<Arc<App>>, tenanted: Tenanted) -> Page {
    let document = serde_json::to_value(openapi()).map_err(ApiError::internal)?;
    let content = context! { title => "Interface", routes => serialized(view::routes(&document)) };
    Ok(page(StatusCode::OK, "docs", Some(&tenanted.caller), content))
}

#[cfg(test)]
mod tests;
