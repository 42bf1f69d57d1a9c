use std::io::{Error, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Accepts connections whose end a handler can decide.
#[derive(Debug)]
pub(super) struct Wires(pub(super) TcpListener);

/// How a connection goes on.
#[derive(Debug, Default)]
enum Fate {
    #[default]
    Http,
    /// Nothing more is written, and the peer gets RST.
    Reset,
    /// These bytes are written instead of HTTP, then the connection is closed.
    Bytes { bytes: Vec<u8>, written: usize },
}

/// A handler's hold on its connection.
#[derive(Clone, Debug)]
pub(super) struct Hold(Arc<Mutex<Fate>>);

impl Hold {
    pub(super) fn reset(&self) {
        self.set(Fate::Reset);
    }

    pub(super) fn write_instead(&self, bytes: &str) {
        self.set(Fate::Bytes { bytes: bytes.as_bytes().to_vec(), written: 0 });
    }

    fn set(&self, fate: Fate) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = fate;
    }
}

impl Connected<IncomingStream<'_, Wires>> for Hold {
    fn connect_info(stream: IncomingStream<'_, Wires>) -> Self {
        stream.io().hold.clone()
    }
}

impl Listener for Wires {
    type Io = Wire;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Wire, SocketAddr) {
        loop {
            match self.0.accept().await {
                Ok((stream, address)) => {
                    // Without it a body in two writes waits for the peer's delayed acknowledgement. Where
                    // it cannot be set the connection is broken, and reading from it will say so.
                    let _ = stream.set_nodelay(true);
                    return (Wire { stream, hold: Hold(Arc::default()) }, address);
                }
                // Out of file descriptors, most likely: some will be free again.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.0.local_addr()
    }
}

#[derive(Debug)]
pub(super) struct Wire {
    stream: TcpStream,
    hold: Hold,
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let Self { stream, hold } = self.get_mut();
        let mut fate = hold.0.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *fate {
            Fate::Http => Pin::new(stream).poll_write(context, buffer),
            Fate::Reset => Poll::Ready(Err(Error::from(ErrorKind::ConnectionReset))),
            Fate::Bytes { bytes, written } => {
                while let Some(rest) = bytes.get(*written..).filter(|rest| !rest.is_empty()) {
                    match Pin::new(&mut *stream).poll_write(context, rest) {
                        Poll::Ready(Ok(count)) => *written += count,
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                        Poll::Pending => return Poll::Pending,
                    }
                }
                // The HTTP side is told that it is over.
                Poll::Ready(Err(Error::from(ErrorKind::BrokenPipe)))
            }
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        // In-order closing would come before the reset.
        if matches!(*self.hold.0.lock().unwrap_or_else(PoisonError::into_inner), Fate::Reset) {
            return Poll::Ready(Err(Error::from(ErrorKind::ConnectionReset)));
        }
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        if matches!(*self.hold.0.lock().unwrap_or_else(PoisonError::into_inner), Fate::Reset) {
            // Closing with a zero linger time sends RST. Where it cannot be set the peer has gone already.
            let _ = self.stream.set_zero_linger();
        }
    }
}
