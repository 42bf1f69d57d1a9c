//! The embedded store as a Qdrant server (gRPC), so that any Qdrant SDK can talk to it.
//!
//! What is answered: making, listing, describing and dropping collections with dense and sparse vectors
//! (named or not) and scalar quantisation; upserting, reading, deleting points; setting, overwriting and
//! deleting payload; payload indexes; `query` and `query_batch` (nearest by vector or by point, prefetches,
//! reciprocal rank and distribution-based fusion), `search`, `scroll`, `count`, `facet`. Everything else,
//! and every option that would change a result and is not known here, answers `Unimplemented` instead of
//! something similar. Settings that only tune (HNSW, optimisers, log, replication) are taken and ignored.
//!
//! A write is acknowledged when it is on disk. Indexing runs in the background.

mod collections;
mod decode;
mod encode;
mod points;
mod query;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use evalign_core::Digest;
use evalign_fetch::Secret;
use qdrant_client::qdrant as api;
use qdrant_client::qdrant::collections_server::CollectionsServer;
use qdrant_client::qdrant::points_server::PointsServer;
use qdrant_client::qdrant::qdrant_server::{Qdrant, QdrantServer as HealthServer};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

use crate::edge::Collection;
use crate::{EdgeStore, RagError, StoreFault};

/// The version of the protocol that is spoken, which SDKs compare with their own.
const PROTOCOL_VERSION: &str = "1.19.0";

/// Largest request, as a Qdrant server takes it: 32 MiB.
const MAX_REQUEST_BYTES: usize = 32 * 1024 * 1024;

/// Points written to a collection after which it is indexed again.
const INDEX_AFTER_POINTS: usize = 20_000;

type Reply<T> = Result<Response<T>, Status>;

/// Serves one [`EdgeStore`].
#[derive(Clone, Debug)]
pub struct QdrantServer {
    store: Arc<EdgeStore>,
    background: Arc<Mutex<Background>>,
}

#[derive(Debug, Default)]
struct Background {
    /// Points written since a collection was last indexed.
    written: BTreeMap<String, usize>,
    /// Collections being indexed now.
    busy: BTreeSet<String>,
}

impl QdrantServer {
    #[must_use]
    pub fn new(store: Arc<EdgeStore>) -> Self {
        Self { store, background: Arc::default() }
    }

    /// Answers until `shutdown` is ready, then finishes what is under way. `bound` hears the address, whose
    /// port the system has chosen where `address` has port 0. Without a key everybody who reaches the
    /// address may read and write, so then only this machine may.
    ///
    /// # Errors
    /// [`RagError::Invalid`] for an address that others reach without a key, or that cannot be listened at;
    /// [`RagError::Store`] where serving fails.
    pub async fn serve(
        self,
        address: SocketAddr,
        key: Option<Secret>,
        bound: impl FnOnce(SocketAddr),
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), RagError> {
        if key.is_none() && !address.ip().is_loopback() {
            return Err(RagError::invalid(
                format!("address {address}"),
                "is reachable by others, and no key is set",
                "set `QDRANT_API_KEY`, or listen at 127.0.0.1",
            ));
        }
        let failed = |error: &dyn std::fmt::Display| RagError::Store {
            place: format!("at {address}"),
            message: error.to_string(),
            kind: StoreFault::Broken,
        };
        let incoming = TcpIncoming::bind(address).map_err(|error| {
            let hint = "choose another with `--listen`; with port 0 the system does";
            RagError::invalid(format!("address {address}"), error.to_string(), hint)
        })?;
        let incoming = incoming.with_nodelay(Some(true));
        bound(incoming.local_addr().map_err(|error| failed(&error))?);
        let expected = key.as_ref().map(Secret::digest);
        let guard = move |request: Request<()>| authorised(request, expected.as_ref());
        let collections = CollectionsServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
        let points = PointsServer::new(self.clone()).max_decoding_message_size(MAX_REQUEST_BYTES);
        let served = Server::builder()
            .layer(tonic::service::InterceptorLayer::new(guard))
            .add_service(HealthServer::new(self))
            .add_service(collections)
            .add_service(points)
            .serve_with_incoming_shutdown(incoming, shutdown)
            .await;
        served.map_err(|error| failed(&error))
    }

    /// Runs a call of the engine where blocking is allowed.
    async fn run<T: Send + 'static>(
        &self,
        name: String,
        work: impl FnOnce(&Collection) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let store = Arc::clone(&self.store);
        let done = tokio::task::spawn_blocking(move || {
            let collection = open(&store, &name)?;
            work(&collection)
        });
        done.await.unwrap_or_else(|error| Err(Status::internal(error.to_string())))
    }

    /// The same for a write: it is on disk when this returns.
    async fn write(
        &self,
        name: String,
        points: usize,
        work: impl FnOnce(&Collection) -> Result<(), Status> + Send + 'static,
    ) -> Reply<api::PointsOperationResponse> {
        let start = std::time::Instant::now();
        self.run(name.clone(), move |collection| {
            work(collection)?;
            collection.flush().map_err(|error| encode::refusal(&error))
        })
        .await?;
        self.index_in_background(&name, points);
        let result =
            api::UpdateResult { status: api::UpdateStatus::Completed.into(), ..api::UpdateResult::default() };
        Ok(Response::new(api::PointsOperationResponse {
            result: Some(result),
            time: start.elapsed().as_secs_f64(),
            usage: None,
        }))
    }

    fn index_in_background(&self, name: &str, points: usize) {
        let mut background = self.background.lock().unwrap_or_else(PoisonError::into_inner);
        let written = background.written.entry(name.to_owned()).or_default();
        *written += points;
        if *written < INDEX_AFTER_POINTS || background.busy.contains(name) {
            return;
        }
        background.written.remove(name);
        background.busy.insert(name.to_owned());
        drop(background);
        let (server, name) = (self.clone(), name.to_owned());
        tokio::task::spawn_blocking(move || {
            let optimised = server.store.collection(&name).and_then(|collection| collection.optimise());
            if let Err(error) = optimised {
                tracing::warn!(collection = name, %error, "indexing failed");
            }
            server.background.lock().unwrap_or_else(PoisonError::into_inner).busy.remove(&name);
        });
    }
}

fn open(store: &EdgeStore, name: &str) -> Result<Arc<Collection>, Status> {
    if !store.exists(name) {
        return Err(Status::not_found(format!("Collection `{}` doesn't exist!", name.escape_debug())));
    }
    store.collection(name).map_err(|error| encode::refusal(&error))
}

/// The key travels as Qdrant's SDKs send it. Digests are compared: how long that takes says nothing about
/// the key.
fn authorised(request: Request<()>, expected: Option<&Digest>) -> Result<Request<()>, Status> {
    let Some(expected) = expected else { return Ok(request) };
    let given = request.metadata().get("api-key").and_then(|value| value.to_str().ok());
    match given.and_then(Secret::new) {
        Some(key) if key.digest() == *expected => Ok(request),
        Some(_) => Err(Status::permission_denied("the api-key is wrong")),
        None => Err(Status::unauthenticated("an api-key is needed")),
    }
}

#[tonic::async_trait]
impl Qdrant for QdrantServer {
    async fn health_check(&self, _: Request<api::HealthCheckRequest>) -> Reply<api::HealthCheckReply> {
        Ok(Response::new(api::HealthCheckReply {
            title: "evalign, embedded Qdrant engine".to_owned(),
            version: PROTOCOL_VERSION.to_owned(),
            commit: None,
        }))
    }
}

/// Calls that are not answered. Written out as `async_trait` would: it does not see into macros.
macro_rules! unimplemented_calls {
    ($($name:ident($request:ty) -> $response:ty;)*) => {$(
        fn $name<'server, 'call>(
            &'server self,
            _: tonic::Request<$request>,
        ) -> std::pin::Pin<Box<dyn Future<Output = Reply<$response>> + Send + 'call>>
        where
            'server: 'call,
            Self: 'call,
        {
            let call = concat!("the embedded store does not answer `", stringify!($name), "`");
            Box::pin(std::future::ready(Err(tonic::Status::unimplemented(call))))
        }
    )*};
}
use unimplemented_calls;
