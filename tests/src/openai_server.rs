//! A server that speaks the OpenAI API over real TCP and fails as told: what the promises about models
//! are tested against.
//!
//! Its answers depend on nothing but its [`Behaviour`] and a request's content, by the rules of the
//! `scripted` model, so that both can be compared. What goes wrong is a list of [`Fault`]s, each of them
//! a condition ([`When`]) and an event ([`What`]); everything that came in is in its [`Requests`]. It runs
//! on a thread of its own, so that tests need not be async; `scripted-server` is the same as a process.

mod answer;
mod ask;
mod behaviour;
mod completion;
mod delivery;
mod fault;
mod form;
mod ledger;
mod route;
mod serve;
#[cfg(test)]
mod tests;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::net::TcpSocket;
use tokio::sync::oneshot;

pub use behaviour::{Behaviour, Capabilities, MaxTokens, Reasoning, Rule, Support};
pub use fault::{ErrorBody, Fault, RetryAfter, What, When};
pub use ledger::{Entry, Outcome, Requests};
pub use route::Route;
use serve::{Shared, router};
use wire::{Hold, Wires};

/// Connections that may wait to be accepted: more than any test opens at once.
const BACKLOG: u32 = 4096;

/// A running server. Dropped, it is gone, and so are its connections.
#[derive(Debug)]
pub struct ScriptedServer {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedServer {
    /// Starts on a free port.
    ///
    /// # Panics
    /// When this machine lets nobody listen.
    #[must_use]
    #[expect(clippy::expect_used, reason = "no test without its server")]
    pub fn start(behaviour: Behaviour) -> Self {
        Self::start_at(behaviour, 0).expect("a server on the loopback address")
    }

    /// Starts on a port of 127.0.0.1; 0 is any free one.
    ///
    /// # Errors
    /// The port is taken, or no thread can be started.
    pub fn start_at(behaviour: Behaviour, port: u16) -> std::io::Result<Self> {
        let shared = Arc::new(Shared::new(behaviour));
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let app = router(Arc::clone(&shared)).into_make_service_with_connect_info::<Hold>();
        let serve = async move {
            let listener = listen(port, BACKLOG);
            let address = listener.as_ref().map_err(|e| e.kind().into()).and_then(|l| l.local_addr());
            let heard = tell.send(address).is_ok();
            if let (Ok(listener), true) = (listener, heard) {
                tokio::select! {
                    _ = axum::serve(Wires(listener), app) => {}
                    _ = stopped => {}
                }
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = std::thread::Builder::new().name("scripted-server".to_owned()).spawn(move || {
            runtime.block_on(serve);
            runtime.shutdown_background();
        })?;
        let gone = |_| std::io::Error::other("the server's thread ended before it began");
        let address = told.recv().map_err(gone)??;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What `OPENAI_BASE_URL` is set to.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Changes how it behaves from the next request on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.behave(behaviour);
    }

    /// What came in so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.shared.ledger.requests()
    }

    /// Empties the list of requests. Attempts are counted on.
    pub fn forget(&self) {
        self.shared.ledger.forget();
    }

    /// An address where connections are never taken: connecting hangs until somebody gives up.
    ///
    /// # Panics
    /// When this machine lets nobody listen.
    #[must_use]
    #[expect(clippy::expect_used, reason = "no test without a port")]
    pub fn deaf() -> Deaf {
        Deaf::new().expect("a port nobody accepts on")
    }

    /// An address of this machine that nobody listens on, as a base URL.
    ///
    /// # Panics
    /// When this machine lets nobody listen.
    #[must_use]
    #[expect(clippy::expect_used, reason = "no test without a port")]
    pub fn nobody() -> String {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        format!("http://{}/v1", listener.local_addr().expect("its address"))
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // The thread may have ended by itself.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A port whose queue of waiting connections is full, so that the system ignores further ones.
#[derive(Debug)]
pub struct Deaf {
    listener: std::net::TcpListener,
    /// Those that fill the queue.
    _waiting: Vec<std::net::TcpStream>,
}

impl Deaf {
    /// More than the shortest queue holds.
    const FILL: usize = 64;

    fn new() -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { listen(0, 1)?.into_std() })?;
        let address = listener.local_addr()?;
        let connect = |_| std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
        // Ends with the first that is not let in.
        let waiting = (0..Self::FILL).map_while(connect).collect();
        Ok(Self { listener, _waiting: waiting })
    }

    /// What `OPENAI_BASE_URL` is set to.
    #[must_use]
    #[expect(clippy::expect_used, reason = "a listener has an address")]
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.listener.local_addr().expect("its address"))
    }
}

fn listen(port: u16, backlog: u32) -> std::io::Result<tokio::net::TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind((Ipv4Addr::LOCALHOST, port).into())?;
    socket.listen(backlog)
}
