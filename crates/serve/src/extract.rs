//! What handlers take from a request. Every refusal here has OpenAI's shape and names the field.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use evalign_core::{Digest, RunId};
use evalign_store::Store;
use futures::StreamExt;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::app::App;
use crate::credentials::Caller;
use crate::error::{ApiError, ApiResult, Code, shown};

/// Whom the request is from, and the store as its tenant sees it.
#[derive(Clone, Debug)]
pub(crate) struct Tenanted {
    pub(crate) caller: Caller,
    pub(crate) store: Store,
}

impl FromRequestParts<Arc<App>> for Tenanted {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        // The gate has put it there; a route that it does not guard gets nothing.
        let caller = parts.extensions.get::<Caller>().cloned();
        let caller = caller.ok_or_else(|| ApiError::new(Code::Unauthenticated, "a key is needed"))?;
        let store = app.store.for_tenant(&caller.tenant).on_behalf_of(&caller.key);
        Ok(Self { caller, store })
    }
}

/// A JSON body: within the cap, in time, of the right type, without unknown fields.
#[derive(Debug)]
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    /// Of the bytes as they came.
    pub(crate) digest: Digest,
}

impl<T: DeserializeOwned> FromRequest<Arc<App>> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, app: &Arc<App>) -> ApiResult<Self> {
        if !is_json(request.headers()) {
            let message = "the body has to be JSON, with `content-type: application/json`";
            return Err(ApiError::new(Code::UnsupportedMedia, message));
        }
        let most = app.settings.max_body_kib.saturating_mul(1024);
        let patience = Duration::from_secs(app.settings.read_timeout_secs);
        let bytes = read_body(request.into_body(), most, patience).await?;
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| wrong_field(&error))?;
        reader.end().map_err(|error| ApiError::new(Code::InvalidRequest, format!("the body: {error}")))?;
        Ok(Self { value, digest: Digest::of(&bytes) })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// All of a body, of at most `most` bytes, each piece within `patience`.
async fn read_body(body: Body, most: u64, patience: Duration) -> ApiResult<Bytes> {
    let too_large = || ApiError::new(Code::TooLarge, format!("the body has more than {most} bytes"));
    let mut pieces = body.into_data_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = next_piece(&mut pieces, patience).await? {
        if (bytes.len() + piece.len()) as u64 > most {
            return Err(too_large());
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

/// The next piece of a body, unless it takes longer than `patience` or the client has gone.
pub(crate) async fn next_piece(
    pieces: &mut axum::body::BodyDataStream,
    patience: Duration,
) -> ApiResult<Option<Bytes>> {
    match tokio::time::timeout(patience, pieces.next()).await {
        Ok(piece) => {
            let broken = |_| ApiError::new(Code::InvalidRequest, "the body ended before it was complete");
            piece.transpose().map_err(broken)
        }
        Err(_) => Err(ApiError::new(Code::Timeout, "the body did not come in time")),
    }
}

/// The field by its path, and what is wrong with it. Text of the body is not repeated at length.
fn wrong_field(error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let path = error.path().to_string();
    let message = shown_detail(&error.inner().to_string());
    let unknown = message.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let param = match (unknown, path.as_str()) {
        (Some(field), "." | "" | "?") => field.to_owned(),
        (Some(field), path) if path != field && !path.ends_with(&format!(".{field}")) => {
            format!("{path}.{field}")
        }
        (_, "." | "" | "?") => return ApiError::new(Code::InvalidRequest, format!("the body: {message}")),
        (_, path) => path.to_owned(),
    };
    ApiError::new(Code::InvalidRequest, format!("`{}`: {message}", shown(&param))).about(shown(&param))
}

fn shown_detail(text: &str) -> String {
    text.chars().take(300).filter(|c| !c.is_control()).collect()
}

/// The query, without unknown names.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned> FromRequestParts<Arc<App>> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &Arc<App>) -> ApiResult<Self> {
        match axum::extract::Query::<T>::try_from_uri(&parts.uri) {
            Ok(query) => Ok(Self(query.0)),
            Err(error) => {
                let source = std::error::Error::source(&error).map(ToString::to_string);
                let message = shown_detail(&source.unwrap_or_else(|| error.to_string()));
                let refused = ApiError::new(Code::InvalidRequest, format!("the query: {message}"));
                Err(match field_of_query(&message) {
                    Some(field) => refused.about(field),
                    None => refused,
                })
            }
        }
    }
}

/// The field that a message is about: `NAME: what is wrong with it`, or one that is not known or not there.
fn field_of_query(message: &str) -> Option<String> {
    let is_name = |text: &&str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let quoted = |start: &str| message.split_once(start)?.1.split('`').next();
    let known = quoted("unknown field `").or_else(|| quoted("missing field `"));
    known.or_else(|| message.split(':').next().filter(is_name)).map(shown)
}

/// The run that a path names. What is no id of a run is a run that is not there.
#[derive(Debug)]
pub(crate) struct RunPath(pub(crate) RunId);

impl FromRequestParts<Arc<App>> for RunPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        let id = path_id(parts, app).await?;
        let run = id.parse().map_err(|_| ApiError::not_found("run", &id))?;
        Ok(Self(run))
    }
}

/// The one id in a path.
#[derive(Debug)]
pub(crate) struct IdPath(pub(crate) String);

impl FromRequestParts<Arc<App>> for IdPath {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &Arc<App>) -> ApiResult<Self> {
        path_id(parts, app).await.map(Self)
    }
}

async fn path_id(parts: &mut Parts, app: &Arc<App>) -> ApiResult<String> {
    let path = axum::extract::Path::<String>::from_request_parts(parts, app).await;
    path.map(|path| path.0).map_err(|_| ApiError::new(Code::NotFound, "there is nothing here"))
}

/// An answer with its `ETag`; `304` where the client has it.
pub(crate) fn tagged(headers: &HeaderMap, value: &impl Serialize) -> ApiResult<Response> {
    Ok(TaggedBody::json(value)?.answer(headers))
}

pub(crate) fn tagged_bytes(headers: &HeaderMap, body: Vec<u8>, kind: &'static str) -> Response {
    TaggedBody::new(body, kind).answer(headers)
}

/// The body of an answer and its `ETag`.
#[derive(Debug)]
pub(crate) struct TaggedBody {
    body: Bytes,
    tag: String,
    kind: &'static str,
}

impl TaggedBody {
    pub(crate) fn new(body: Vec<u8>, kind: &'static str) -> Self {
        let tag = format!("\"{}\"", Digest::of(&body).as_str().get(..32).unwrap_or_default());
        Self { body: body.into(), tag, kind }
    }

    pub(crate) fn json(value: &impl Serialize) -> ApiResult<Self> {
        let body = serde_json::to_vec(value).map_err(ApiError::internal)?;
        Ok(Self::new(body, "application/json"))
    }

    pub(crate) fn answer(&self, headers: &HeaderMap) -> Response {
        let known = headers.get_all(header::IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
        let known = known.flat_map(|value| value.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
        let unchanged = known.into_iter().any(|known| known == self.tag || known == "*");
        let mut response = if unchanged {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.kind)], self.body.clone()).into_response()
        };
        // Digits and quotes.
        if let Ok(tag) = HeaderValue::from_str(&self.tag) {
            response.headers_mut().insert(header::ETAG, tag);
        }
        response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
        response
    }
}
