//! How guests come in: accepted as long as there is a socket for them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::extract::connect_info::Connected;
use axum::serve::{IncomingStream, Listener};
use futures::Stream;
use tokio::net::TcpListener;

use super::connection::{Connection, Guest};
use super::port::Guests;

/// Pause after a connection could not be accepted: the process may have no more files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Who is on the way out has so long before the door looks again.
const LEAVING: Duration = Duration::from_millis(100);
/// Pause between two looks for who has been silent for too long.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A port and its guests.
pub struct Door {
    listener: TcpListener,
    guests: Arc<Guests>,
}

impl Door {
    /// Opens the port for these guests; who is silent is looked for as long as it or one of them is there.
    pub fn new(listener: TcpListener, guests: Arc<Guests>) -> Door {
        tokio::spawn(look(Arc::downgrade(&guests)));
        Door { listener, guests }
    }

    /// The next who is let in.
    async fn next(&mut self) -> Connection {
        loop {
            // Those who were told to go still have their sockets: a flood must not be faster than they are.
            while !self.guests.house().has_a_socket_left() {
                let _ = tokio::time::timeout(LEAVING, self.guests.left.notified()).await;
            }
            match self.listener.accept().await {
                Ok((stream, _)) => match self.guests.enter(stream) {
                    Some(connection) => return connection,
                    // All are at work: they are given a moment, and so is whoever comes again and again.
                    None => tokio::task::yield_now().await,
                },
                Err(error) if is_of_one(&error) => {}
                Err(error) => {
                    tracing::warn!(port = self.guests.port, %error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// All who are let in, one after the other.
    pub fn incoming(mut self) -> impl Stream<Item = io::Result<Connection>> + Send {
        async_stream::stream! {
            loop {
                yield Ok(self.next().await);
            }
        }
    }
}

/// Whether an accept failed for the one that came, and the next may well be accepted.
fn is_of_one(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

async fn look(guests: Weak<Guests>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(guests) = guests.upgrade() else { return };
        guests.look(Instant::now());
    }
}

impl Listener for Door {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let connection = self.next().await;
        let from = connection.from();
        (connection, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connected<IncomingStream<'_, Door>> for Guest {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Guest {
        stream.io().guest
    }
}
