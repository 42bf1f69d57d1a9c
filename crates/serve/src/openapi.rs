//! The routes, and the document that says what they take and give: one list makes both.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use axum::routing::get;
use http::HeaderMap;
use serde::Serialize;
use utoipa::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::app::App;
use crate::error::{ApiError, Code};
use crate::extract::{tagged, tagged_bytes};
use crate::gate::gate;
use crate::openai::{chat, completions, embeddings, models};
use crate::pages;
use crate::routes::{
    adapters, board, events, files, indexes, operations, preferences, retrieval, runs, scoring, training,
    votes,
};

/// What every failed request is answered.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ErrorDetail {
    message: String,
    r#type: String,
    /// The field that is at fault.
    param: Option<String>,
    /// Stable; docs/service.md lists all.
    code: String,
}

/// What every route may answer.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum ErrorAnswers {
    /// It makes no sense as it is
    #[response(status = 400)]
    Invalid(ErrorBody),
    /// No key, or no good one
    #[response(status = 401)]
    Unauthenticated(ErrorBody),
    /// The key's scope does not cover it
    #[response(status = 403)]
    Forbidden(ErrorBody),
    /// There is nothing, or it belongs to another tenant
    #[response(status = 404)]
    NotFound(ErrorBody),
    /// Too many requests
    #[response(status = 429)]
    TooMany(ErrorBody),
    /// A fault of the server
    #[response(status = 500)]
    Internal(ErrorBody),
    /// Busy, starting or ending
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

/// What routes that take a body, or change something, may answer besides.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum Refusals {
    /// The body did not come in time
    #[response(status = 408)]
    Timeout(ErrorBody),
    /// The state of things does not allow it
    #[response(status = 409)]
    Conflict(ErrorBody),
    /// The body is too large
    #[response(status = 413)]
    TooLarge(ErrorBody),
    /// The body is not JSON
    #[response(status = 415)]
    UnsupportedMedia(ErrorBody),
    /// It is understood and cannot be done
    #[response(status = 422)]
    Unprocessable(ErrorBody),
}

/// What routes may answer that need no key, or hold a connection.
#[derive(utoipa::IntoResponses)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) enum Overload {
    /// A fault of the server
    #[response(status = 500)]
    Internal(ErrorBody),
    /// Busy, starting or ending
    #[response(status = 503)]
    Unavailable(ErrorBody),
}

#[derive(OpenApi)]
#[openapi(
    info(title = "evalign", description = "Measure language models on real benchmarks; OpenAI's conventions throughout."),
    tags(
        (name = "runs", description = "Measuring a model on tasks"),
        (name = "leaderboard", description = "What was measured, side by side"),
        (name = "models", description = "Local models, as OpenAI's API has them"),
        (name = "indexes", description = "Documents that answers are found in"),
        (name = "judging", description = "What models write, judged by models and people"),
        (name = "preferences", description = "Pairs to train on"),
        (name = "training", description = "Adapters for local models"),
        (name = "files", description = "Uploads"),
        (name = "operations", description = "The service itself"),
    ),
    security(("key" = [])),
    modifiers(&Keys)
)]
struct Document;

struct Keys;

impl utoipa::Modify for Keys {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let mut http = Http::new(HttpAuthScheme::Bearer);
        http.bearer_format = Some("evk_ID_SECRET".to_owned());
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(http));
    }
}

fn documented() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(runs::list, runs::create))
        .routes(routes!(runs::read))
        .routes(routes!(runs::results))
        .routes(routes!(runs::samples))
        .routes(routes!(runs::cancel))
        .routes(routes!(runs::resume))
        .routes(routes!(runs::export))
        .routes(routes!(scoring::again))
        .routes(routes!(scoring::against))
        .routes(routes!(scoring::import))
        .routes(routes!(events::events))
        .routes(routes!(board::board))
        .routes(routes!(board::comparison))
        .routes(routes!(board::tasks))
        .routes(routes!(models::list))
        .routes(routes!(models::read))
        .routes(routes!(chat::create))
        .routes(routes!(completions::create))
        .routes(routes!(embeddings::create))
        .routes(routes!(files::list, files::upload))
        .routes(routes!(files::read, files::remove))
        .routes(routes!(files::content))
        .routes(routes!(indexes::list, indexes::create))
        .routes(routes!(indexes::read, indexes::remove))
        .routes(routes!(indexes::documents, indexes::fill, indexes::remove_document))
        .routes(routes!(indexes::query))
        .routes(routes!(indexes::answer))
        .routes(routes!(retrieval::tests))
        .routes(routes!(retrieval::answers))
        .routes(routes!(retrieval::evaluate))
        .routes(routes!(retrieval::tune))
        .routes(routes!(retrieval::differences))
        .routes(routes!(preferences::rubrics))
        .routes(routes!(preferences::judge))
        .routes(routes!(preferences::attack))
        .routes(routes!(votes::ballot, votes::cast))
        .routes(routes!(preferences::criticise))
        .routes(routes!(preferences::build))
        .routes(routes!(preferences::export))
        .routes(routes!(preferences::check))
        .routes(routes!(preferences::import))
        .routes(routes!(training::list, training::create))
        .routes(routes!(training::read, training::remove))
        .routes(routes!(training::metrics))
        .routes(routes!(training::content))
        .routes(routes!(adapters::merge))
        .routes(routes!(adapters::score))
        .routes(routes!(operations::audit))
        .routes(routes!(operations::healthz))
        .routes(routes!(operations::readyz))
        .routes(routes!(operations::metrics))
}

/// The OpenAPI document, as committed in docs/openapi.json.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

/// Everything that the server answers, behind the gate.
pub fn service(app: Arc<App>) -> Router {
    let (router, _) = documented().split_for_parts();
    router
        .route("/openapi.json", get(document))
        .merge(pages::router())
        .fallback(nothing)
        .method_not_allowed_fallback(wrong_method)
        .layer(axum::extract::DefaultBodyLimit::disable())
        .layer(from_fn_with_state(app.clone(), gate))
        .with_state(app)
}

async fn document(State(_): State<Arc<App>>, headers: HeaderMap) -> Result<Response, ApiError> {
    tagged(&headers, &openapi())
}

async fn nothing() -> ApiError {
    ApiError::new(Code::NotFound, "there is nothing here; /openapi.json lists what there is")
}

async fn wrong_method() -> ApiError {
    ApiError::new(Code::MethodNotAllowed, "this path has other methods; /openapi.json lists them")
}

/// A text of ours that does not change while the server runs.
pub(crate) fn fixed(headers: &HeaderMap, text: &'static str, kind: &'static str) -> Response {
    tagged_bytes(headers, text.as_bytes().to_vec(), kind)
}
