//! A guest's socket, which the house can end from outside.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use rustix::net::Shutdown;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tonic::transport::server::Connected;

use super::port::Guests;
use super::turn::End;

/// Whose connection a call came over; an extension of every request.
#[derive(Debug, Clone, Copy)]
pub struct Guest {
    pub(super) id: u64,
}

/// A connection that came in; dropping it makes room.
pub struct Connection {
    stream: TcpStream,
    from: SocketAddr,
    pub(super) guest: Guest,
    end: Arc<End>,
    guests: Arc<Guests>,
}

impl Guests {
    /// Lets a connection in, if there is a place for it or somebody who makes one.
    pub(super) fn enter(self: &Arc<Self>, stream: TcpStream) -> Option<Connection> {
        let from = stream.peer_addr().ok()?;
        // Small answers must not wait for each other. A socket that does not take it is gone.
        stream.set_nodelay(true).ok()?;
        let entered = self.house().came(from.ip(), Instant::now());
        if entered.as_ref().is_none_or(|entered| entered.ended_another) {
            self.metrics.client_refused("connection");
        }
        let Some(entered) = entered else {
            tracing::debug!(port = self.port, "a connection was turned away: all that are there are at work");
            return None;
        };
        self.metrics.client_connection(self.port, 1);
        let guest = Guest { id: entered.id };
        Some(Connection { stream, from, guest, end: entered.end, guests: self.clone() })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // At once, whoever else may hold the socket; one that is closed already needs it not.
        let _ = rustix::net::shutdown(&self.stream, Shutdown::Both);
        self.guests.metrics.client_connection(self.guests.port, -1);
        self.guests.house().left(self.guest.id);
        self.guests.left.notify_one();
    }
}

impl Connected for Connection {
    type ConnectInfo = Guest;

    fn connect_info(&self) -> Guest {
        self.guest
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.end.has_come(context.waker()) {
            // The end of the stream: whoever serves it closes.
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Connection {
    /// Where it comes from.
    pub(super) fn from(&self) -> SocketAddr {
        self.from
    }

    /// Writes are polled by the task that reads, too, which `poll_read` has named.
    fn broken(&self) -> Option<io::Error> {
        self.end.is_said().then(|| io::ErrorKind::BrokenPipe.into())
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.broken() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write(context, bytes),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.broken() {
            Some(error) => Poll::Ready(Err(error)),
            None => Pin::new(&mut self.stream).poll_write_vectored(context, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
