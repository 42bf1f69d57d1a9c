use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use evalign_core::{NAME_FORM, is_name};
use evalign_store::StoredFile;
use http::{HeaderMap, StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{IdPath, Query, Tenanted};
use crate::openapi::{ErrorAnswers, Refusals};
use crate::routes::{List, page_length};
use crate::uploads;

/// What uploaded files are for.
const PURPOSES: [&str; 3] = ["dataset", "preferences", "documents"];

/// An uploaded file.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct FileObject {
    object: &'static str,
    pub(crate) id: String,
    filename: String,
    purpose: String,
    bytes: u64,
    sha256: String,
    /// Unix time in seconds.
    created_at: u64,
}

impl From<StoredFile> for FileObject {
    fn from(file: StoredFile) -> Self {
        Self {
            object: "file",
            id: file.id,
            filename: file.name,
            purpose: file.purpose,
            bytes: file.bytes,
            sha256: file.digest.as_str().to_owned(),
            created_at: file.created_ms / 1000,
        }
    }
}

/// What is uploaded.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct UploadQuery {
    /// What it is called: a name, never a path.
    #[param(pattern = "^[a-z0-9][a-z0-9._-]{0,63}$")]
    name: String,
    /// `dataset`, `preferences` or `documents`.
    #[param(pattern = "^(dataset|preferences|documents)$")]
    purpose: String,
}

/// Uploads a file: the body is its bytes, at least one, which go to the disk as they come.
#[utoipa::path(post, path = "/v1/files", tag = "files", params(UploadQuery),
    request_body(content = String, content_type = "application/octet-stream"),
    responses((status = 201, description = "Stored", body = FileObject), ErrorAnswers, Refusals))]
pub(crate) async fn upload(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<UploadQuery>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult<Response> {
    if !is_name(&query.name) {
        let message = format!("`name` is not a name: {NAME_FORM}");
        return Err(ApiError::new(Code::InvalidRequest, message).about("name"));
    }
    if !PURPOSES.contains(&query.purpose.as_str()) {
        let message = format!("`purpose` is one of {}", PURPOSES.join(", "));
        return Err(ApiError::new(Code::InvalidRequest, message).about("purpose"));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let file = uploads::receive(&app, &tenanted.store, query.name, query.purpose, announced, body).await?;
    Ok((StatusCode::CREATED, Json(FileObject::from(file))).into_response())
}

/// Which files.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct FilesQuery {
    #[param(minimum = 1, maximum = 100)]
    limit: Option<u32>,
    /// The last file of the page before.
    after: Option<String>,
}

/// Lists files, the newest first.
#[utoipa::path(get, path = "/v1/files", tag = "files", params(FilesQuery),
    responses((status = 200, description = "A page of files", body = List<FileObject>), ErrorAnswers))]
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<FilesQuery>,
) -> ApiResult<Json<List<FileObject>>> {
    let limit = page_length(query.limit)?;
    app.blocking(move |_| {
        if let Some(id) = &query.after {
            found(&tenanted, id)?;
        }
        let files = tenanted.store.files_after(query.after.as_deref(), limit + 1)?;
        let objects = files.into_iter().map(FileObject::from).collect();
        Ok(Json(List::page(objects, limit as usize, |file: &FileObject| file.id.clone())))
    })
    .await
}

fn found(tenanted: &Tenanted, id: &str) -> ApiResult<StoredFile> {
    tenanted.store.file(id)?.ok_or_else(|| ApiError::not_found("file", id))
}

/// What is known of a file.
#[utoipa::path(get, path = "/v1/files/{id}", tag = "files", params(("id" = String, Path, description = "The file")),
    responses((status = 200, description = "The file", body = FileObject), ErrorAnswers))]
pub(crate) async fn read(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<Json<FileObject>> {
    app.blocking(move |_| Ok(Json(found(&tenanted, &id)?.into()))).await
}

/// The bytes of a file.
#[utoipa::path(get, path = "/v1/files/{id}/content", tag = "files", params(("id" = String, Path, description = "The file")),
    responses((status = 200, description = "Its bytes", content_type = "application/octet-stream", body = String), ErrorAnswers))]
pub(crate) async fn content(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<Response> {
    let file = app.blocking(move |_| found(&tenanted, &id)).await?;
    let body = uploads::stream_file(&uploads::place(&app.home, &file.id), ()).await?;
    let attachment = format!("attachment; filename=\"{}\"", file.name);
    let kind = "application/octet-stream".to_owned();
    Ok(([(header::CONTENT_TYPE, kind), (header::CONTENT_DISPOSITION, attachment)], body).into_response())
}

/// Removes a file.
#[utoipa::path(delete, path = "/v1/files/{id}", tag = "files", params(("id" = String, Path, description = "The file")),
    responses((status = 204, description = "Removed"), ErrorAnswers))]
pub(crate) async fn remove(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    IdPath(id): IdPath,
) -> ApiResult<StatusCode> {
    app.blocking(move |app| {
        if !tenanted.store.remove_file(&id)? {
            return Err(ApiError::not_found("file", &id));
        }
        uploads::remove(&app.home, &id);
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
