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

impl App {
    async fn model_objects(self: &Arc<Self>, store: &Store) -> ApiResult<Vec<ModelObject>> {
        // Only what is completed has trained a model.
        let completed = self.completed_runs(store).await?;
        let (question, view) = ((store.tenant().clone(), String::new()), store.clone());
        let compute = self.blocking(move |app| app.trained_names(&view));
        let trained = self.known_models.get(question, || Some(completed), compute).await?;
        let served = self.models.talking().map(|(name, since_ms)| (name.to_owned(), since_ms / 1000));
        Ok(served.chain(trained.iter().cloned()).map(|(id, created)| object(id, created)).collect())
    }
}

fn object(id: String, created: u64) -> ModelObject {
    ModelObject { object: "model", id, created, owned_by: "evalign" }
}

/// The models that answer here: those that are served, and those with adapters of the tenant's training jobs.
#[utoipa::path(get, path = "/v1/models", tag = "models",
    responses((status = 200, description = "All models", body = List<ModelObject>), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
) -> ApiResult<Json<List<ModelObject>>> {
    let models = app.model_objects(&tenanted.store).await?;
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
    let models = app.model_objects(&tenanted.store).await?;
    if let Some(listed) = models.into_iter().find(|model| model.id == id) {
        return Ok(Json(listed));
    }
    // Not all trained models are listed.
    let find = move |app: &App| {
        let found = app.trained_name(&tenanted.store, &id);
        let none = || ApiError::new(Code::ModelNotFound, format!("no model `{}` is served here", shown(&id)));
        found.map(|(id, created)| Json(object(id, created))).ok_or_else(none)
    };
    app.blocking(find).await
}
