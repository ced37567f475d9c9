//! The door for peers: connections come in here, and only those that have proved the secret (`greeting`) go on to HTTP/2.
//!
//! **Guarantees.** What has not proved it costs a socket and a few KiB, for [`GREETING`] at most; at most
//! [`UNPROVEN_MAX`] of them are there, and when more come the oldest goes. So whoever fills the door has to come faster
//! than a peer needs for its greeting, and proved connections are out of his reach.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{AbortHandle, JoinSet};
use tonic::transport::server::Connected;

use super::greeting::{self, Unheard};
use crate::identity::Known;

/// A greeting takes at most so long.
const GREETING: Duration = Duration::from_secs(5);
/// Connections that have not proved anything yet, where the process may open many files; at most an eighth of those.
const UNPROVEN_MAX: usize = 256;
/// Pause after a connection could not be accepted: the process may have no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The node that a connection is of, as it was proved; an extension of every request that comes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(pub u64);

/// A connection whose other side has proved the secret.
#[derive(Debug)]
pub struct Proven {
    stream: TcpStream,
    caller: Caller,
}

/// What may go on, of the connections that come.
pub fn proven<S>(known: Arc<Known>, incoming: S) -> impl Stream<Item = io::Result<Proven>> + Send
where
    S: Stream<Item = io::Result<TcpStream>> + Send,
{
    async_stream::stream! {
        let mut incoming = std::pin::pin!(incoming);
        let mut greetings = Greetings::default();
        loop {
            let came = tokio::select! {
                came = incoming.next() => Came::New(came),
                proven = greetings.next() => Came::Greeted(proven),
            };
            match came {
                Came::New(Some(Ok(stream))) => greetings.begin(known.clone(), stream),
                Came::New(Some(Err(error))) => {
                    tracing::warn!(%error, "a peer's connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                Came::New(None) => return,
                Came::Greeted(Some(proven)) => yield Ok(proven),
                Came::Greeted(None) => {}
            }
        }
    }
}

/// What happens at the door.
enum Came {
    New(Option<io::Result<TcpStream>>),
    Greeted(Option<Proven>),
}

/// How many connections may be there that have proved nothing.
fn unproven_max() -> usize {
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(files / 8).unwrap_or(usize::MAX).clamp(16, UNPROVEN_MAX)
}

/// Greetings that go on; they end with this.
#[derive(Default)]
struct Greetings {
    tasks: JoinSet<Option<Proven>>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Greetings {
    fn begin(&mut self, known: Arc<Known>, stream: TcpStream) {
        self.oldest_first.retain(|greeting| !greeting.is_finished());
        if self.oldest_first.len() >= unproven_max()
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        self.oldest_first.push_back(self.tasks.spawn(greet(known, stream)));
    }

    /// One that has ended, with the connection when that may go on. Waits for ever while there is none.
    async fn next(&mut self) -> Option<Proven> {
        match self.tasks.join_next().await {
            Some(ended) => ended.ok().flatten(),
            None => std::future::pending().await,
        }
    }
}

async fn greet(known: Arc<Known>, mut stream: TcpStream) -> Option<Proven> {
    let from = stream.peer_addr().map_or_else(|_| "?".to_owned(), |from| from.to_string());
    // Small answers must not wait for each other. A socket that does not take it is gone.
    stream.set_nodelay(true).ok()?;
    match tokio::time::timeout(GREETING, greeting::answer(&known, &mut stream)).await {
        Ok(Ok(node)) => return Some(Proven { stream, caller: Caller(node) }),
        Ok(Err(Unheard::Io(error))) => tracing::debug!(from, %error, "a connection brought no greeting"),
        Ok(Err(unheard @ (Unheard::Unproven | Unheard::Refused(_)))) => {
            known.not_let_in(&from, &unheard.to_string());
        }
        Err(_) => tracing::debug!(from, "a connection brought no greeting in time"),
    }
    // At once, whoever else may hold the socket.
    drop(stream.shutdown().await);
    None
}

impl Connected for Proven {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller
    }
}

impl AsyncRead for Proven {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Proven {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;
    use crate::config::ReplicaConfig;
    use crate::network::greeting::knock;
    use crate::secret::Secret;

    fn known(node: u64) -> Arc<Known> {
        let secret = Secret::of(&"secret ".repeat(8)).unwrap();
        Known::new(&ReplicaConfig { secret, ..ReplicaConfig::new(node, [node as u8; 16], "c", vec![]) })
    }

    #[tokio::test]
    async fn a_peer_gets_in_past_any_number_of_silent_connections() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = tokio::spawn(async move {
            let mut door = std::pin::pin!(proven(known(2), TcpListenerStream::new(listener)));
            door.next().await.unwrap().unwrap()
        });
        let mut silent = Vec::new();
        for _ in 0..UNPROVEN_MAX + 40 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        let mut peer = TcpStream::connect(address).await.unwrap();
        knock(&known(1), 2, &mut peer).await.unwrap();
        let let_in = door.await.unwrap();
        assert_eq!(let_in.connect_info(), Caller(1));
        // The first of them had to go: it has had the opening, and then the end.
        let mut told = Vec::new();
        let ended = silent[0].read_to_end(&mut told).await;
        assert!(ended.is_err() || told.len() <= 40, "{told:?}");
    }
}
