use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use evalign_store::AuditEntry;
use http::header;
use serde::Serialize;

use crate::app::App;
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{Query, Tenanted};
use crate::openapi::{ErrorAnswers, Overload};
use crate::routes::{List, PageQuery, page_length};

/// How the service is.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Health {
    status: &'static str,
    version: &'static str,
}

impl Health {
    fn told(status: &'static str) -> Json<Self> {
        Json(Self { status, version: env!("CARGO_PKG_VERSION") })
    }
}

/// The process lives. Needs no key.
#[utoipa::path(get, path = "/healthz", tag = "operations", security(()),
    responses((status = 200, description = "It lives", body = Health)))]
pub(crate) async fn healthz() -> Json<Health> {
    Health::told("ok")
}

/// How long the store has to be written for the server to be ready.
const PROBE: Duration = Duration::from_secs(2);

/// The process can work: it is not ending, and its store can be written. Needs no key.
#[utoipa::path(get, path = "/readyz", tag = "operations", security(()),
    responses((status = 200, description = "It can work", body = Health), Overload))]
pub(crate) async fn readyz(State(app): State<Arc<App>>) -> ApiResult<Json<Health>> {
    if app.ending.is_cancelled() {
        return Err(ApiError::new(Code::Unavailable, "the server is ending").retry_after(5));
    }
    // Anybody may ask: one thread at a time waits for a database that another process has locked, whoever asks.
    let probe = app.blocking_alone(&app.probing, |app| Ok(app.store.check_writable()?));
    match tokio::time::timeout(PROBE, probe).await {
        Ok(done) => done.map(|()| Health::told("ready")),
        Err(_) => {
            Err(ApiError::new(Code::Unavailable, "the store does not answer at the moment").retry_after(5))
        }
    }
}

/// What the service counts, for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "operations",
    responses((status = 200, description = "Text format 0.0.4", content_type = "text/plain", body = String), ErrorAnswers))]
pub(crate) async fn metrics(State(app): State<Arc<App>>) -> ApiResult<Response> {
    let (queued, running) = app.blocking(|app| Ok(app.store.queue_depth()?)).await?;
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    Ok((kind, app.metrics.text(queued, running, &app.models.engine_loads())).into_response())
}

/// Something a client changed, or was refused.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct AuditObject {
    object: &'static str,
    id: String,
    /// Unix time in milliseconds.
    at_ms: u64,
    tenant: Option<String>,
    key: Option<String>,
    action: String,
    target: String,
    outcome: String,
    address: String,
    request_id: String,
}

impl From<AuditEntry> for AuditObject {
    fn from(entry: AuditEntry) -> Self {
        Self {
            object: "audit_entry",
            id: format!("{ENTRY}{}", entry.number),
            at_ms: entry.at_ms,
            tenant: entry.tenant,
            key: entry.key,
            action: entry.action,
            target: entry.target,
            outcome: entry.outcome,
            address: entry.address,
            request_id: entry.request_id,
        }
    }
}

/// How ids of entries begin.
const ENTRY: &str = "audit_";

/// The newest entries of the audit log, newest first: those of the key's tenant and those of nobody.
#[utoipa::path(get, path = "/v1/audit", tag = "operations", params(PageQuery),
    responses((status = 200, description = "A page of entries", body = List<AuditObject>), ErrorAnswers))]
pub(crate) async fn audit(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    Query(query): Query<PageQuery>,
) -> ApiResult<Json<List<AuditObject>>> {
    let limit = page_length(query.limit)?;
    let number = |id: String| {
        let number = id.strip_prefix(ENTRY).and_then(|number| number.parse().ok());
        number.ok_or_else(|| ApiError::not_found("entry", &id))
    };
    let before = query.after.map(number).transpose()?;
    app.blocking(move |_| {
        let entries = tenanted.store.audit_entries(before, limit + 1)?;
        let objects = entries.into_iter().map(AuditObject::from).collect();
        Ok(Json(List::page(objects, limit as usize, |entry: &AuditObject| entry.id.clone())))
    })
    .await
}
