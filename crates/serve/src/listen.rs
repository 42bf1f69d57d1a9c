//! The socket: so many connections at once, each with deadlines, and an end that loses nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use crate::app::App;
use crate::gate::Peer;
use crate::worker::Workers;

/// Tells a server to end. The first call drains, the second ends at once.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    drain: tokio_util::sync::CancellationToken,
    now: tokio_util::sync::CancellationToken,
}

impl Shutdown {
    /// One step more urgent.
    pub fn raise(&self) {
        if self.drain.is_cancelled() {
            self.now.cancel();
        }
        self.drain.cancel();
    }
}

/// What is left of the grace period, at most, for answers that break off to say so.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Largest head of a request, in bytes.
const MOST_HEAD_BYTES: usize = 64 * 1024;

/// Serves until told to end: then no connection is accepted any more, streams close, what is being answered
/// is answered, runs that are worked on commit what they have and are queued for the next server. All of that
/// takes at most the grace period of the settings; answers that are still being written shortly before its end
/// break off with an error.
pub async fn listen(app: Arc<App>, router: Router, listener: TcpListener, shutdown: &Shutdown) {
    let workers = Workers::start(&app);
    let saving = app.save_use();
    tokio::spawn(note_missing(app.clone()));
    let connections = Arc::new(Semaphore::new(app.settings.max_connections as usize));
    let graceful = GracefulShutdown::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.drain.cancelled() => break,
            accepted = accept(&listener, &connections) => accepted,
        };
        let Some((stream, peer, permit)) = accepted else { continue };
        let router = router.clone();
        let service = tower::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            tower::ServiceExt::oneshot(router.clone(), request)
        });
        let connection =
            builder(&app).serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let watched = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = watched.await {
                tracing::debug!(%error, %peer, "a connection ended badly");
            }
            drop(permit);
        });
    }
    drop(listener);
    tracing::info!("ending: what is being answered is still answered");
    app.ending.cancel();
    let grace = Duration::from_secs(app.settings.grace_secs);
    let last_words = LAST_WORDS.min(grace / 2);
    let mut drained = std::pin::pin!(async {
        tokio::join!(graceful.shutdown(), workers.end());
    });
    let is_drained = tokio::select! {
        () = &mut drained => true,
        () = tokio::time::sleep(grace - last_words) => false,
        () = shutdown.now.cancelled() => false,
    };
    if is_drained {
        tracing::info!("everything is answered and committed");
    } else {
        tracing::warn!("not everything is answered: it breaks off");
        app.closing.cancel();
        let _cut = tokio::time::timeout(last_words, drained).await;
    }
    saving.abort();
    if app.blocking(|app| app.daily.save()).await.is_err() {
        tracing::error!("what keys have used since a moment ago is forgotten");
    }
}

/// Notes what tenants keep that nobody has noted yet, beside everything else: until then they may keep that much more.
async fn note_missing(app: Arc<App>) {
    let noted = app.blocking(|app| app.note_trainings().and(app.note_indexes())).await;
    if let Err(error) = noted {
        tracing::error!(error = error.message, "what tenants keep is not all noted");
    }
    // A server was killed while it removed an index.
    if let Err(error) = app.blocking(|app| Ok(app.store.drop_unused_texts()?)).await {
        tracing::error!(error = error.message, "texts of documents that are gone stay");
    }
}

/// A slow client cannot hold a connection without saying anything: its head has a deadline, also the next one
/// on a connection that is kept.
fn builder(app: &App) -> Builder {
    let mut builder = Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(app.settings.read_timeout_secs))
        .max_buf_size(MOST_HEAD_BYTES);
    builder
}

type Accepted = (tokio::net::TcpStream, std::net::SocketAddr, tokio::sync::OwnedSemaphorePermit);

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> Option<Accepted> {
    let permit = room.clone().acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Answers are small and written whole: waiting for more to send only delays them.
            let _ = stream.set_nodelay(true);
            Some((stream, peer, permit))
        }
        Err(error) => {
            // Out of descriptors, or the client was gone already: trying at once would spin.
            tracing::warn!(%error, "a connection was not accepted");
            tokio::time::sleep(Duration::from_millis(50)).await;
            None
        }
    }
}
