//! The socket for those on this machine who are the node's own user (`client::neighbour`): directories that they hand over to
//! be committed, and where epochs lie.
//!
//! **Guarantees.** One caller is heard at a time, for a second at each step at most, and of other users none: a directory that
//! is kept ([`crate::handed`]) is one that a process of the node's own user had open.

use std::io;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use client::neighbour::{self, Answer, Asked};

use crate::node::Node;

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the socket's name is asked for again.
const LISTEN_PAUSE: Duration = Duration::from_secs(3);

/// Opens the socket and answers on a thread of its own, as long as the process lives. Without it everything is streamed; a
/// name that another process has, such as this node's last one on its way out, is asked for again.
pub fn serve(node: &Arc<Node>) {
    let port = node.config.grpc.port();
    let first = neighbour::listen(port);
    let node = Arc::downgrade(node);
    let answer = move || {
        let is_needed = || node.strong_count() > 0;
        if let Some(listener) = listening(first, || neighbour::listen(port), is_needed, LISTEN_PAUSE) {
            accept(&listener, &node);
        }
    };
    let thread = std::thread::Builder::new().name("neighbours".into());
    if let Err(error) = thread.spawn(answer) {
        tracing::warn!(%error, "no thread for this machine's socket: clients here stream like all others");
    }
}

/// The socket, as soon as it can be had; nothing when it is no more needed.
fn listening<T>(
    first: io::Result<T>,
    again: impl Fn() -> io::Result<T>,
    is_needed: impl Fn() -> bool,
    pause: Duration,
) -> Option<T> {
    match first {
        Ok(listener) => return Some(listener),
        Err(error) => {
            tracing::warn!(%error, "no socket for this machine yet: clients here stream like all others");
        }
    }
    while is_needed() {
        std::thread::sleep(pause);
        match again() {
            Ok(listener) => {
                tracing::info!("there is a socket for this machine now");
                return Some(listener);
            }
            Err(error) => tracing::debug!(%error, "still no socket for this machine"),
        }
    }
    None
}

fn accept(listener: &UnixListener, node: &Weak<Node>) {
    loop {
        let accepted = listener.accept();
        let Some(node) = node.upgrade() else { return };
        match accepted {
            Ok((stream, _)) => hear(&node, stream),
            Err(error) => {
                tracing::warn!(%error, "a connection of this machine could not be accepted");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn hear(node: &Node, stream: UnixStream) {
    let heard = neighbour::serve(stream, |asked| match asked {
        Asked::Hand { ticket, commit, dir } => {
            node.handed.keep(ticket, commit, dir, Instant::now());
            Answer::Kept
        }
        Asked::Find { job, epoch, root } => lies(node, &job, epoch, &root).map_or(Answer::No, Answer::Lies),
    });
    if let Err(error) = heard {
        tracing::debug!(%error, "somebody on this machine is not heard");
    }
}

/// Where an epoch is published here.
fn lies(node: &Node, job: &str, epoch: u64, root: &[u8]) -> Option<PathBuf> {
    let job = job.parse().ok()?;
    node.published(&job, epoch, root).ok()?;
    std::fs::canonicalize(node.store.layout().files_dir(&job, epoch)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_taken_is_asked_for_until_it_is_free() {
        let taken = || Err::<u8, _>(io::Error::from(io::ErrorKind::AddrInUse));
        let asked = std::cell::Cell::new(0);
        let again = || {
            asked.set(asked.get() + 1);
            if asked.get() < 3 { taken() } else { Ok(7) }
        };
        assert_eq!(listening(taken(), again, || true, Duration::ZERO), Some(7));
        assert_eq!(asked.get(), 3);
        assert_eq!(listening(taken(), again, || false, Duration::ZERO), None);
        assert_eq!(listening(Ok(1), taken, || false, Duration::ZERO), Some(1));
    }
}
