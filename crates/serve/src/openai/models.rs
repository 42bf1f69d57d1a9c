use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use evalign_store::Store;
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

fn objects(app: &App, store: &Store) -> ApiResult<Vec<ModelObject>> {
    let object =
        |(id, created): (String, u64)| ModelObject { object: "model", id, created, owned_by: "evalign" };
    let served = app.models.talking().map(|(name, since_ms)| (name.to_owned(), since_ms / 1000));
    Ok(served.chain(app.trained_names(store)?).map(object).collect())
}

/// The models that answer here: those that are served, and those with adapters of the tenant's training jobs.
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "All models", body = List<ModelObject>), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
) -> ApiResult<Json<List<ModelObject>>> {
    let models = app.blocking(move |app| objects(app, &tenanted.store)).await?;
    Ok(Json(List::whole(models, |model: &ModelObject| model.id.clone())))
}

/// One model.
#[utoipa::path(get, path = "/v1/models/{id}", tag = "models", params(("id" = String, Path, description = "Its name")),
    responses((status = 200, description = "The model", body = ModelObject), ErrorAnswers))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<Json<ModelObject>> {
    let models = app.blocking(move |app| objects(app, &tenanted.store)).await?;
    let none = || ApiError::new(Code::ModelNotFound, format!("no model `{}` is served here", shown(&id)));
    models.into_iter().find(|model| model.id == id).map(Json).ok_or_else(none)
}
