use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Form, FromRequest, Request, State};
use axum::response::{IntoResponse, Redirect, Response};
use evalign_core::Digest;
use evalign_store::{Session, StoredKey, WebToken};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use minijinja::context;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use subtle::ConstantTimeEq;

use super::{Page, page};
use crate::app::{App, now_ms};
use crate::credentials::{parse_key, proves, random_hex};
use crate::error::{ApiError, ApiResult, Code};
use crate::extract::{IdPath, RunPath, Tenanted};
use crate::gate::{COOKIE, cookie};

/// The page that asks for a key.
pub(crate) fn login_page(_: &App, status: StatusCode, message: Option<&str>) -> Response {
    page(status, "login", None, context! { title => "Log in", message, link => None::<String> })
}

pub(super) async fn ask(State(app): State<Arc<App>>) -> Response {
    login_page(&app, StatusCode::OK, None)
}

/// A form of our own pages, small.
struct Fields<T>(T);

impl<T: DeserializeOwned + Send> FromRequest<Arc<App>> for Fields<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        let (parts, body) = request.into_parts();
        let limited = http_body_util::Limited::new(body, 16 * 1024);
        let request = Request::from_parts(parts, Body::new(limited));
        let form = Form::<T>::from_request(request, app).await;
        form.map(|form| Self(form.0)).map_err(|_| ApiError::new(Code::InvalidRequest, "this is not our form"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyForm {
    key: String,
}

pub(super) async fn with_key(State(app): State<Arc<App>>, request: Request) -> Page {
    let Fields(form) = Fields::<KeyForm>::from_request(request, &app).await?;
    let key = match parse_key(form.key.trim()) {
        Some((id, secret)) => app.key(id)?.filter(|key| proves(secret, Some(key))),
        None => None,
    };
    match key.filter(|key| key.is_good(now_ms())) {
        Some(key) => logged_in(&app, key).await,
        None => Ok(login_page(
            &app,
            StatusCode::UNAUTHORIZED,
            Some("This key is not known, or not good any more."),
        )),
    }
}

/// A link is used up by a form, not by looking: previews of links look.
pub(super) async fn ask_link(IdPath(secret): IdPath) -> Response {
    let content = context! { title => "Log in", message => None::<String>, link => Some(secret) };
    page(StatusCode::OK, "login", None, content)
}

pub(super) async fn with_link(State(app): State<Arc<App>>, IdPath(secret): IdPath) -> Page {
    let digest = Digest::of(&secret);
    let key = app.blocking(move |app| Ok(app.store.take_login(&digest)?)).await?;
    let key = match key {
        Some(id) => app.key(&id)?.filter(|key| key.is_good(now_ms())),
        None => None,
    };
    match key {
        Some(key) => logged_in(&app, key).await,
        None => Ok(login_page(&app, StatusCode::UNAUTHORIZED, Some("This link was used, or is too old."))),
    }
}

async fn logged_in(app: &Arc<App>, key: StoredKey) -> ApiResult<Response> {
    let secret = random_hex::<32>().map_err(ApiError::internal)?;
    let csrf = random_hex::<32>().map_err(ApiError::internal)?;
    let hours = app.settings.session_hours;
    let digest = Digest::of(&secret);
    let ttl = Duration::from_secs(hours.saturating_mul(3600));
    app.blocking(move |app| {
        let session = Session { key: key.id, csrf };
        Ok(app.store.put_web_token(WebToken::Session, &digest, &session, ttl)?)
    })
    .await?;
    // Without TLS on a port that others reach, a cookie marked secure would not come back; browsers treat this
    // machine as secure in any case.
    let secure = if app.settings.is_loopback() { "" } else { "; Secure" };
    let value =
        format!("{COOKIE}={secret}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}{secure}", ttl.as_secs());
    let mut response = Redirect::to("/").into_response();
    let value = HeaderValue::from_str(&value).map_err(ApiError::internal)?;
    response.headers_mut().insert(header::SET_COOKIE, value);
    Ok(response)
}

/// A form that carries the token of its session.
pub(super) trait Checked: DeserializeOwned + Send {
    fn csrf(&self) -> &str;
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnForm {
    csrf: String,
}

impl Checked for OwnForm {
    fn csrf(&self) -> &str {
        &self.csrf
    }
}

/// A form of a page of this session, and of no other page.
pub(super) async fn own_form<T: Checked>(
    tenanted: &Tenanted,
    app: &Arc<App>,
    request: Request,
) -> ApiResult<T> {
    let wrong = || ApiError::new(Code::CrossSite, "this form is not of a page of this session");
    let Fields(form) = Fields::<T>::from_request(request, app).await.map_err(|_| wrong())?;
    let csrf = tenanted.caller.csrf.as_deref().ok_or_else(wrong)?;
    if bool::from(form.csrf().as_bytes().ct_eq(csrf.as_bytes())) { Ok(form) } else { Err(wrong()) }
}

/// Whether a form comes from a page of this session. Callers with a key need none: no page sends theirs.
async fn check_form(tenanted: &Tenanted, app: &Arc<App>, request: Request) -> ApiResult<()> {
    if tenanted.caller.csrf.is_some() {
        own_form::<OwnForm>(tenanted, app, request).await?;
    }
    Ok(())
}

pub(super) async fn logout(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    headers: HeaderMap,
    request: Request,
) -> Page {
    check_form(&tenanted, &app, request).await?;
    if let Some(secret) = cookie(&headers) {
        let digest = Digest::of(secret);
        app.blocking(move |app| Ok(app.store.end_session(&digest)?)).await?;
    }
    let mut response = Redirect::to("/login").into_response();
    let gone = HeaderValue::from_static("evalign_session=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    response.headers_mut().insert(header::SET_COOKIE, gone);
    Ok(response)
}

pub(super) async fn cancel_run(
    State(app): State<Arc<App>>,
    tenanted: Tenanted,
    RunPath(id): RunPath,
    request: Request,
) -> Page {
    check_form(&tenanted, &app, request).await?;
    let back = format!("/runs/{id}");
    app.blocking(move |app| app.cancel_run(&tenanted.store, &id)).await?;
    Ok(Redirect::to(&back).into_response())
}
