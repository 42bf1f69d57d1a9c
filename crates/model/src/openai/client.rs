//! The one place that knows the crate `async-openai`. It builds requests, names the routes, and reads
//! event streams; below it is our own HTTP service ([`transport`]) instead of its client with a retry
//! layer of its own, and above it are our own types, because servers differ from OpenAI's in what they
//! take and leave out.

mod transport;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_openai::config::Config;
use async_openai::error::OpenAIError;
use async_openai::traits::RequestOptionsBuilder;
use futures::StreamExt;
use futures::stream::BoxStream;
use reqwest::header::{ACCEPT, HeaderMap};
use secrecy::SecretString;
use serde::Serialize;
use serde_json::value::RawValue;

use super::endpoint::Endpoint;
use crate::error::{ModelError, TransportFailure};
use transport::{EVENTS, Transport};

/// A JSON document that came whole.
pub(super) type Document = Box<RawValue>;

/// Requests to one server.
pub(super) struct Client {
    endpoint: Arc<Endpoint>,
    transport: Transport,
    inner: async_openai::Client<Route>,
}

impl Client {
    /// # Errors
    /// The system's certificates cannot be read.
    pub(super) fn new(endpoint: Arc<Endpoint>) -> Result<Self, ModelError> {
        let http = endpoint.base.client(endpoint.deadlines.connect, endpoint.deadlines.idle)?;
        let transport = Transport::new(endpoint.clone(), http.clone());
        let inner =
            async_openai::Client::build(http, Route::of(&endpoint)).with_http_service(transport.clone());
        Ok(Self { endpoint, transport, inner })
    }

    pub(super) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Whether this server has ever answered as it should.
    pub(super) fn is_proven(&self) -> bool {
        self.transport.is_proven()
    }

    /// From now on, an odd answer is an accident and not the wrong address.
    pub(super) fn prove(&self) {
        self.transport.prove();
    }

    pub(super) async fn models(&self) -> Result<Document, ModelError> {
        self.inner.models().list_byot().await.map_err(|error| self.error(error))
    }

    pub(super) async fn chat(&self, body: &impl Serialize) -> Result<Document, ModelError> {
        self.inner.chat().create_byot(body).await.map_err(|error| self.error(error))
    }

    pub(super) async fn completion(&self, body: &impl Serialize) -> Result<Document, ModelError> {
        self.inner.completions().create_byot(body).await.map_err(|error| self.error(error))
    }

    pub(super) async fn embeddings(&self, body: &impl Serialize) -> Result<Document, ModelError> {
        self.inner.embeddings().create_byot(body).await.map_err(|error| self.error(error))
    }

    /// The documents of a streamed chat; it ends at `[DONE]` or where the server ends it.
    pub(super) async fn chat_stream(
        &self,
        body: &impl Serialize,
    ) -> Result<BoxStream<'_, Result<Document, ModelError>>, ModelError> {
        let chat = self.inner.chat().header(ACCEPT, EVENTS).map_err(|error| self.error(error))?;
        let stream = chat.create_stream_byot(body).await.map_err(|error| self.error(error))?;
        Ok(stream.map(|document| document.map_err(|error| self.error(error))).boxed())
    }

    /// As [`Client::chat_stream`], of a completion.
    pub(super) async fn completion_stream(
        &self,
        body: &impl Serialize,
    ) -> Result<BoxStream<'_, Result<Document, ModelError>>, ModelError> {
        let completions =
            self.inner.completions().header(ACCEPT, EVENTS).map_err(|error| self.error(error))?;
        let stream = completions.create_stream_byot(body).await.map_err(|error| self.error(error))?;
        Ok(stream.map(|document| document.map_err(|error| self.error(error))).boxed())
    }

    /// Errors of the transport come through as they are; the others never repeat a body.
    fn error(&self, error: OpenAIError) -> ModelError {
        let transport = |failure, detail: String| ModelError::Transport {
            server: self.endpoint.place.clone(),
            failure,
            detail: self.endpoint.shown(&detail),
        };
        match error {
            OpenAIError::Boxed(error) => match error.downcast::<ModelError>() {
                Ok(error) => *error,
                Err(error) => transport(TransportFailure::Reset, error.to_string()),
            },
            OpenAIError::StreamError(error) => {
                transport(TransportFailure::Truncated, transport::stream_error(&error.to_string()))
            }
            OpenAIError::Reqwest(error) => transport::broken(&self.endpoint, error, TransportFailure::Reset),
            OpenAIError::JSONDeserialize(error, _) => {
                transport(TransportFailure::Malformed, error.to_string())
            }
            OpenAIError::InvalidArgument(what) => ModelError::Request(self.endpoint.shown(&what)),
            other => transport(TransportFailure::Malformed, other.to_string()),
        }
    }
}

/// Addresses and headers of an endpoint, as the library asks for them. Its own configurations would read
/// the environment, print the key in their headers, and panic on a key that no header can carry.
#[derive(Clone, Debug)]
struct Route {
    base: String,
    headers: HeaderMap,
    query: BTreeMap<String, String>,
    /// The library wants one for what we do not use; ours is among the headers.
    no_key: SecretString,
}

impl Route {
    fn of(endpoint: &Endpoint) -> Self {
        Self {
            base: endpoint.base.as_str().to_owned(),
            headers: endpoint.headers.clone(),
            query: endpoint.query.clone(),
            no_key: SecretString::default(),
        }
    }
}

impl Config for Route {
    fn headers(&self) -> HeaderMap {
        self.headers.clone()
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn query(&self) -> Vec<(&str, &str)> {
        self.query.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }

    fn api_base(&self) -> &str {
        &self.base
    }

    fn api_key(&self) -> &SecretString {
        &self.no_key
    }
}
