//! The door for peers: connections come in here, and only those that have proved the secret (`greeting`) go on to HTTP/2.
//!
//! **Guarantees.** What has not proved it costs a socket and a few KiB, for [`GREETING`] at most; at most
//! [`UNPROVEN_MAX`] of them are there. When more come, the oldest goes of the address that has the most: whoever fills
//! the door from one address pushes out himself, however fast he comes. Proved connections are out of his reach. One that
//! is proved and says nothing more, as when it broke just then, goes after [`FIRST_WORDS`]; from then on HTTP/2's own
//! pings tell.

mod sources;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{Stream, StreamExt};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, sleep_until};
use tonic::transport::server::Connected;

use super::forward::write_to_its_stream;
use super::greeting::{self, Unheard};
use crate::identity::Known;
pub use sources::source;
use sources::{Source, Sources};

/// A greeting takes at most so long.
const GREETING: Duration = Duration::from_secs(5);
/// Connections that have not proved anything yet, where the process may open many files; at most an eighth of those.
const UNPROVEN_MAX: usize = 256;
/// Pause after a connection could not be accepted: the process may have no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// What is proved has to say so much within this time, which is what HTTP/2 begins with.
const FIRST_WORDS: Duration = Duration::from_secs(5);
const FIRST_WORDS_BYTES: usize = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".len();

/// The node that a connection is of, as it was proved; an extension of every request that comes over it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller(pub u64);

/// A connection whose other side has proved the secret.
#[derive(Debug)]
pub struct Proven {
    stream: TcpStream,
    caller: Caller,
    first_words: Option<FirstWords>,
}

/// The other side has not begun yet.
#[derive(Debug)]
struct FirstWords {
    lacking: usize,
    until: Pin<Box<Sleep>>,
}

impl Proven {
    fn new(stream: TcpStream, caller: Caller, time: Duration) -> Proven {
        let until = Box::pin(sleep(time));
        let first_words = FirstWords { lacking: FIRST_WORDS_BYTES, until };
        Proven { stream, caller, first_words: Some(first_words) }
    }
}

/// What may go on, of the connections that come.
pub fn proven<S>(known: Arc<Known>, incoming: S) -> impl Stream<Item = io::Result<Proven>> + Send
where
    S: Stream<Item = io::Result<TcpStream>> + Send,
{
    pausing(known, incoming, ACCEPT_PAUSE)
}

/// As [`proven`], with another pause.
fn pausing<S>(
    known: Arc<Known>,
    incoming: S,
    pause: Duration,
) -> impl Stream<Item = io::Result<Proven>> + Send
where
    S: Stream<Item = io::Result<TcpStream>> + Send,
{
    async_stream::stream! {
        let mut incoming = std::pin::pin!(incoming);
        let mut greetings = Greetings::default();
        // Greetings go on while nothing is accepted: each that ends gives a file back.
        let mut paused: Option<Instant> = None;
        loop {
            let came = tokio::select! {
                came = async {
                    if let Some(until) = paused {
                        sleep_until(until).await;
                    }
                    incoming.next().await
                } => Came::New(came),
                proven = greetings.next() => Came::Greeted(proven),
            };
            match came {
                Came::New(Some(Ok(stream))) => {
                    paused = None;
                    greetings.begin(known.clone(), stream);
                }
                Came::New(Some(Err(error))) => {
                    tracing::warn!(%error, "a peer's connection could not be accepted");
                    paused = Some(Instant::now() + pause);
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
    sources: Sources,
}

impl Greetings {
    fn begin(&mut self, known: Arc<Known>, stream: TcpStream) {
        let source = Source::of(stream.peer_addr().ok());
        self.sources.make_room(unproven_max());
        self.sources.push(source, self.tasks.spawn(greet(known, stream)));
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
        Ok(Ok(node)) => return Some(Proven::new(stream, Caller(node), FIRST_WORDS)),
        Ok(Err(Unheard::Io(error))) => tracing::debug!(from, %error, "a connection brought no greeting"),
        Ok(Err(unheard @ Unheard::Unproven)) => known.not_let_in(&from, None, &unheard.to_string()),
        Ok(Err(Unheard::Refused { node, why })) => known.not_let_in(&from, Some(node), &why),
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
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let Some(first) = &mut self.first_words else { return read };
        first.lacking = first.lacking.saturating_sub(buffer.filled().len() - before);
        if first.lacking == 0 {
            self.first_words = None;
        } else if read.is_pending() && first.until.as_mut().poll(context).is_ready() {
            let why = "a connection that was proved, and on which nothing came then";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, why)));
        }
        read
    }
}

write_to_its_stream!(Proven);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::net::SocketAddr;

    use tokio::io::AsyncReadExt;
    use tokio::net::{TcpListener, TcpSocket};
    use tokio_stream::wrappers::TcpListenerStream;

    use super::*;
    use crate::config::ReplicaConfig;
    use crate::network::greeting::knock;
    use crate::secret::Secret;

    fn known(node: u64) -> Arc<Known> {
        let secret = Secret::of(&"secret ".repeat(8)).unwrap();
        Known::new(&ReplicaConfig { secret, ..ReplicaConfig::new(node, [node as u8; 16], "c", vec![]) })
    }

    /// A connection to `address` from another address of this machine.
    async fn connect_from(from: [u8; 4], address: SocketAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::from((from, 0)))?;
        socket.connect(address).await
    }

    /// One more silent connection, which the door has seen: it has had the opening.
    async fn one_more(silent: &mut VecDeque<TcpStream>, address: SocketAddr) -> io::Result<()> {
        let mut stream = connect_from([127, 0, 0, 1], address).await?;
        stream.read_exact(&mut [0; 40]).await?;
        silent.push_back(stream);
        if silent.len() > unproven_max() {
            silent.pop_front();
        }
        Ok(())
    }

    #[tokio::test]
    async fn a_peer_gets_in_past_any_number_of_silent_connections_however_slow_it_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = tokio::spawn(async move {
            let mut door = std::pin::pin!(proven(known(2), TcpListenerStream::new(listener)));
            door.next().await.unwrap().unwrap()
        });
        let mut silent = VecDeque::new();
        for _ in 0..unproven_max() {
            one_more(&mut silent, address).await.unwrap();
        }
        let mut peer = connect_from([127, 0, 0, 2], address).await.unwrap();
        // A long way: the whole door is filled anew before a word of the peer is there, and while it speaks.
        for _ in 0..unproven_max() + 40 {
            one_more(&mut silent, address).await.unwrap();
        }
        let flood = async {
            // It ends with the door, when the peer is in.
            while one_more(&mut silent, address).await.is_ok() {}
            std::future::pending::<()>().await;
        };
        let one = known(1);
        tokio::select! {
            knocked = knock(&one, 2, &mut peer) => knocked.unwrap(),
            () = flood => unreachable!(),
        }
        assert_eq!(door.await.unwrap().connect_info(), Caller(1));
    }

    #[tokio::test]
    async fn where_all_are_silent_the_oldest_goes() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let door = tokio::spawn(async move {
            let mut door = std::pin::pin!(proven(known(2), TcpListenerStream::new(listener)));
            door.next().await
        });
        let mut first = connect_from([127, 0, 0, 1], address).await.unwrap();
        first.read_exact(&mut [0; 40]).await.unwrap();
        let mut silent = VecDeque::new();
        for _ in 0..unproven_max() {
            one_more(&mut silent, address).await.unwrap();
        }
        let mut told = Vec::new();
        let ended = first.read_to_end(&mut told).await;
        assert!(ended.is_err() || told.is_empty(), "{told:?}");
        door.abort();
    }

    #[tokio::test]
    async fn greetings_go_on_while_nothing_can_be_accepted() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (there, _) = listener.accept().await.unwrap();
        let no_files = || io::Error::from_raw_os_error(24);
        let incoming = tokio_stream::iter([Ok(there), Err(no_files())]).chain(tokio_stream::pending());
        let mut door = std::pin::pin!(pausing(known(2), incoming, Duration::from_secs(3600)));
        let one = known(1);
        let (let_in, knocked) = tokio::join!(
            tokio::time::timeout(Duration::from_secs(60), door.next()),
            knock(&one, 2, &mut peer),
        );
        knocked.unwrap();
        assert_eq!(let_in.unwrap().unwrap().unwrap().connect_info(), Caller(1));
    }

    #[tokio::test]
    async fn a_proved_connection_that_says_nothing_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (there, _) = listener.accept().await.unwrap();
        peer.write_all(&[7; FIRST_WORDS_BYTES - 1]).await.unwrap();
        let mut proven = Proven::new(there, Caller(1), Duration::from_millis(500));
        let mut came = [0; FIRST_WORDS_BYTES];
        proven.read_exact(&mut came[1..]).await.unwrap();
        let late = tokio::time::timeout(Duration::from_secs(60), proven.read(&mut came)).await;
        let late = late.unwrap().unwrap_err();
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn what_has_begun_may_be_silent_for_long() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (there, _) = listener.accept().await.unwrap();
        peer.write_all(&[7; FIRST_WORDS_BYTES]).await.unwrap();
        let mut proven = Proven::new(there, Caller(1), Duration::from_millis(500));
        proven.read_exact(&mut [0; FIRST_WORDS_BYTES]).await.unwrap();
        let silent = tokio::time::timeout(Duration::from_secs(1), proven.read(&mut [0; 1])).await;
        assert!(silent.is_err(), "{silent:?}");
    }
}
