//! The two stores as the tests use them: embedded, and through a client to a server in this process.

use std::sync::Arc;

use evalign_rag::{EdgeStore, QdrantOptions, QdrantServer, QdrantStore, VectorStore};
use tempfile::TempDir;

/// A store with what keeps it alive.
pub(crate) struct Place {
    pub(crate) store: Arc<dyn VectorStore>,
    // Both end with the place.
    _server: Option<Server>,
    _directory: TempDir,
}

struct Server(tokio::task::JoinHandle<()>);

impl Drop for Server {
    fn drop(&mut self) {
        self.0.abort();
    }
}

pub(crate) fn edge() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(EdgeStore::new(directory.path().join("vectors")));
    Place { store, _server: None, _directory: directory }
}

pub(crate) async fn qdrant() -> Place {
    let directory = tempfile::tempdir().unwrap();
    let engine = Arc::new(EdgeStore::new(directory.path().join("vectors")));
    let (url, server) = serve(engine).await;
    let store = QdrantStore::connect(&QdrantOptions::new(&url, None)).await.unwrap();
    Place { store: Arc::new(store), _server: Some(Server(server)), _directory: directory }
}

/// Serves until the handle is aborted.
pub(crate) async fn serve(engine: Arc<EdgeStore>) -> (String, tokio::task::JoinHandle<()>) {
    let (tell, told) = tokio::sync::oneshot::channel();
    let handle = tokio::spawn(async move {
        let bound = |address| tell.send(address).unwrap();
        let server = QdrantServer::new(engine);
        server.serve("127.0.0.1:0".parse().unwrap(), None, bound, std::future::pending()).await.unwrap();
    });
    (format!("http://{}", told.await.unwrap()), handle)
}
