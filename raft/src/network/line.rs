//! The connections below gRPC: made soon, watched, and given up when the other side's kernel is silent.
//!
//! TCP repeats what was lost more and more rarely: after a cut of two seconds the next try may come seconds after
//! the link is up again. So a connection that has bytes out, of which the other side's kernel has acknowledged none for
//! [`Links::silence`], is shut, and whoever needs it makes it anew; while one is made, a fresh first packet leaves every
//! [`Links::again`], so that a link which is up for a second is used. What is made is greeted (`greeting`) before
//! anything else uses it.
//!
//! **Guarantees.** A slow process is not silence: its kernel acknowledges for it, as long as its window is open; and a
//! closed window is not silence either. A call that failed because no connection came about is told apart from all
//! others ([`never_sent`](super::peers::never_sent)).

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio::sync::oneshot;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;

use super::forward::write_to_its_stream;
use super::greeting;
use super::wire::{Wire, wire};
use crate::identity::Known;

/// A connection is looked at so often within the time that makes silence of it.
const LOOKS: u32 = 4;
/// A connection that acknowledged so many round trips late is silent; less may be a long way.
const ROUND_TRIPS: u32 = 4;
/// The first bytes of a connection are a greeting, HTTP/2's own and a call's headers. They fit into a small packet, and say
/// nothing about payloads.
const OPENING_BYTES: u64 = 4 << 10;

/// How connections are made and watched; shared by all of a node.
#[derive(Debug)]
pub struct Links {
    /// Bytes out and none acknowledged for so long: the connection is shut.
    pub silence: Duration,
    /// Connecting and greeting take at most so long.
    pub connect_timeout: Duration,
    /// Pause between two tries to connect, while the earlier ones go on.
    pub again: Duration,
    /// Bytes that the kernels at these addresses acknowledged on bulk connections, beyond what opens a connection.
    carried: Mutex<HashMap<String, Arc<AtomicU64>>>,
}

impl Links {
    /// No connection yet.
    pub fn new(silence: Duration, connect_timeout: Duration) -> Arc<Links> {
        Arc::new(Links { silence, connect_timeout, again: silence / 4, carried: Mutex::default() })
    }

    /// Bytes of payloads that the kernel at `address` has acknowledged so far, over all bulk connections.
    pub fn carried(&self, address: &str) -> u64 {
        self.counter(address).load(Ordering::Relaxed)
    }

    fn counter(&self, address: &str) -> Arc<AtomicU64> {
        let mut carried = self.carried.lock().unwrap_or_else(PoisonError::into_inner);
        carried.entry(address.to_owned()).or_default().clone()
    }
}

/// Makes the connections of one channel.
#[derive(Clone)]
pub struct Dialer {
    links: Arc<Links>,
    known: Arc<Known>,
    /// The node that is called.
    to: u64,
    /// Where to count what is carried.
    carried: Option<Arc<AtomicU64>>,
}

impl Dialer {
    /// A dialer of `links` that calls node `to`; with `counted`, of a bulk connection to that address.
    pub fn new(links: Arc<Links>, known: Arc<Known>, to: u64, counted: Option<&str>) -> Dialer {
        let carried = counted.map(|address| links.counter(address));
        Dialer { links, known, to, carried }
    }
}

impl Service<Uri> for Dialer {
    type Response = TokioIo<Line>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<Line>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Dialer { links, known, to, carried } = self.clone();
        async move {
            let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
            let port = uri.port_u16().unwrap_or(80);
            let made = async {
                let stream = dial(&host, port, links.again).await?;
                stream.set_nodelay(true)?;
                let mut line = Line::watched(stream, links.silence, carried)?;
                greeting::knock(&known, to, &mut line).await?;
                Ok::<_, io::Error>(line)
            };
            let made = tokio::time::timeout(links.connect_timeout, made).await;
            let late = || {
                io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("no connection for {:?}", links.connect_timeout),
                )
            };
            Ok(TokioIo::new(made.map_err(|_| late())??))
        }
        .boxed()
    }
}

/// Connects to one of the addresses of `host`. Every `again` another try begins, and the first that gets through wins;
/// ends early when all addresses have refused.
async fn dial(host: &str, port: u16, again: Duration) -> io::Result<TcpStream> {
    let addresses: Vec<_> = lookup_host((host, port)).await?.collect();
    let mut tries = FuturesUnordered::new();
    let mut begun = 0;
    let mut refused = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    loop {
        let Some(address) = addresses.get(begun % addresses.len().max(1)) else { return Err(refused) };
        tries.push(TcpStream::connect(*address));
        begun += 1;
        let pause = tokio::time::sleep(again);
        tokio::pin!(pause);
        loop {
            tokio::select! {
                Some(tried) = tries.next() => match tried {
                    Ok(stream) => return Ok(stream),
                    Err(error) => {
                        refused = error;
                        if begun < addresses.len() {
                            break;
                        }
                        if tries.is_empty() {
                            return Err(refused);
                        }
                    }
                },
                () = &mut pause => break,
            }
        }
    }
}

/// One connection. A task of its own looks at it as long as it lives.
#[derive(Debug)]
pub struct Line {
    stream: TcpStream,
    #[expect(dead_code, reason = "its end tells the task that looks")]
    ended: oneshot::Sender<()>,
}

impl Line {
    fn watched(stream: TcpStream, silence: Duration, carried: Option<Arc<AtomicU64>>) -> io::Result<Line> {
        use std::os::fd::AsFd;
        // A twin: the socket is looked at and shut here, read and written there.
        let twin = stream.as_fd().try_clone_to_owned()?;
        let peer = stream.peer_addr()?;
        let (ended, mut over) = oneshot::channel::<()>();
        tokio::spawn(async move {
            let mut seen = Seen::default();
            loop {
                tokio::select! {
                    _ = &mut over => return,
                    () = tokio::time::sleep(silence / LOOKS) => {}
                }
                // A socket that cannot be asked is not given up: the calls on it have limits of their own.
                let Ok(now) = wire(&twin) else { return };
                let (more, silent) = seen.look(Instant::now(), now, silence);
                if let Some(carried) = &carried {
                    carried.fetch_add(more, Ordering::Relaxed);
                }
                if silent {
                    tracing::info!(%peer, ?silence, "bytes are out and nothing is acknowledged: the connection is made anew");
                    // A socket that is gone already is as it should be.
                    let _gone = rustix::net::shutdown(&twin, rustix::net::Shutdown::Both);
                    return;
                }
            }
        });
        Ok(Line { stream, ended })
    }
}

/// What was seen of one connection.
#[derive(Debug, Default)]
struct Seen {
    acked: u64,
    /// Since when something is out and nothing is acknowledged.
    since: Option<Instant>,
}

impl Seen {
    /// How many bytes of payloads were acknowledged since the last look, and whether the connection is silent.
    fn look(&mut self, at: Instant, now: Wire, silence: Duration) -> (u64, bool) {
        let beyond = |acked: u64| acked.saturating_sub(OPENING_BYTES);
        let more = beyond(now.acked_bytes).saturating_sub(beyond(self.acked));
        let moved = now.acked_bytes > self.acked;
        self.acked = self.acked.max(now.acked_bytes);
        if moved || now.unacked_segments == 0 {
            self.since = None;
        }
        if now.unacked_segments == 0 {
            return (more, false);
        }
        let since = *self.since.get_or_insert(at);
        (more, at.saturating_duration_since(since) >= silence.max(now.round_trip * ROUND_TRIPS))
    }
}

impl AsyncRead for Line {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

write_to_its_stream!(Line);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const SILENCE: Duration = Duration::from_millis(800);

    fn out(acked_bytes: u64, unacked_segments: u32) -> Wire {
        Wire { acked_bytes, unacked_segments, round_trip: Duration::from_millis(1) }
    }

    #[test]
    fn silence_is_bytes_out_and_none_acknowledged() {
        let mut seen = Seen::default();
        let began = Instant::now();
        let mut look = |ms, wire| seen.look(began + Duration::from_millis(ms), wire, SILENCE).1;
        assert!(!look(0, out(10, 3)));
        assert!(!look(700, out(10, 3)));
        assert!(!look(900, out(11, 3)), "a byte was acknowledged");
        assert!(!look(1600, out(11, 3)));
        assert!(!look(1650, out(11, 0)), "nothing is out: a closed window, or all is there");
        assert!(!look(5000, out(11, 1)), "it counts from now");
        assert!(!look(5700, out(11, 1)));
        assert!(look(5800, out(11, 1)));
    }

    #[test]
    fn a_long_way_is_not_silence() {
        let mut seen = Seen::default();
        let began = Instant::now();
        let far = Wire { round_trip: Duration::from_millis(600), ..out(10, 3) };
        assert!(!seen.look(began, far, SILENCE).1);
        assert!(!seen.look(began + Duration::from_secs(2), far, SILENCE).1);
        assert!(seen.look(began + Duration::from_secs(3), far, SILENCE).1);
    }

    #[test]
    fn what_opens_a_connection_is_no_payload() {
        let mut seen = Seen::default();
        let mut more = |acked| seen.look(Instant::now(), out(acked, 1), SILENCE).0;
        assert_eq!(more(800), 0);
        assert_eq!(more(OPENING_BYTES + 5), 5);
        assert_eq!(more(OPENING_BYTES + 105), 100);
    }

    #[tokio::test]
    async fn the_kernel_tells_what_was_acknowledged() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut there, _) = listener.accept().await.unwrap();
        let before = wire(&here).unwrap().acked_bytes;
        here.write_all(&[7; 1000]).await.unwrap();
        let mut all = [0; 1000];
        there.read_exact(&mut all).await.unwrap();
        let until = Instant::now() + Duration::from_secs(10);
        while wire(&here).unwrap().acked_bytes < before + 1000 {
            assert!(Instant::now() < until, "{:?}", wire(&here));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(wire(&here).unwrap().unacked_segments, 0);
    }

    #[tokio::test]
    async fn a_process_that_reads_nothing_keeps_its_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (_there, _) = listener.accept().await.unwrap();
        let mut line = Line::watched(here, Duration::from_millis(100), None).unwrap();
        let writing = async {
            loop {
                line.write_all(&[7; 64 << 10]).await?;
            }
        };
        // The window closes soon, and the kernel there goes on to answer.
        let ended: Result<io::Result<()>, _> = tokio::time::timeout(Duration::from_secs(2), writing).await;
        assert!(ended.is_err(), "{ended:?}");
    }

    #[tokio::test]
    async fn nobody_there_is_told_at_once() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let began = Instant::now();
        assert!(dial("127.0.0.1", port, Duration::from_secs(60)).await.is_err());
        assert!(began.elapsed() < Duration::from_secs(10));
    }
}
