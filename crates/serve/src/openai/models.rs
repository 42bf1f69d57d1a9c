use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code, shown};
use crate::extract::{IdPath, Tenanted};
use crate::openapi::ErrorAnswers;
use crate::routes::List;

/// A model that is served.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct ModelObject {
    object: &'static str,
    id: String,
    /// Unix time in seconds.
    created: u64,
    owned_by: &'static str,
}

fn objects(app: &App) -> Vec<ModelObject> {
    let object = |(id, since_ms): (&str, u64)| ModelObject {
        object: "model",
        id: id.to_owned(),
        created: since_ms / 1000,
        owned_by: "evalign",
    };
    app.models.talking().map(object).collect()
}

/// The models that answer here.
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "All models", body = List<ModelObject>), ErrorAnswers))]
pub(crate) async fn list(State(app): State<Arc<App>>, _: Tenanted) -> Json<List<ModelObject>> {
    Json(List::whole(objects(&app), |model: &ModelObject| model.id.clone()))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model", body = ModelObject), ErrorAnswers))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    _: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<Json<ModelObject>> {
    let found = objects(&app).into_iter().find(|model| model.id == id);
    let none = || ApiError::new(Code::ModelNotFound, format!("no model `{}` is served here", shown(&id)));
    found.map(Json).ok_or_else(none)
}
