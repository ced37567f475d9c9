//! The socket for those on this machine who are the node's own user (`client::neighbour`): directories that they hand over to
//! be committed, and where epochs lie.
//!
//! **Guarantees.** One caller is heard at a time, for a second at each step at most, and of other users none: a directory that
//! is kept is one that a process of the node's own user had open. At most [`HANDED_MAX`] are kept, each for
//! [`KEPT`] or until the commit that it is for names its ticket.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use checkpoint::CommitId;
use client::neighbour::{self, Answer, Asked, Ticket};

use crate::node::Node;

/// Directories that wait for their commits; another one takes the place of the oldest.
const HANDED_MAX: usize = 64;
/// A commit names its ticket at once.
const KEPT: Duration = Duration::from_secs(60);
/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Pause before the socket's name is asked for again.
const LISTEN_PAUSE: Duration = Duration::from_secs(3);

/// Directories that were handed over.
#[derive(Debug, Default)]
pub struct Neighbours {
    handed: Mutex<BTreeMap<Ticket, Handed>>,
}

/// One of them.
#[derive(Debug)]
struct Handed {
    since: Instant,
    commit: CommitId,
    dir: OwnedFd,
}

impl Neighbours {
    fn handed(&self) -> MutexGuard<'_, BTreeMap<Ticket, Handed>> {
        self.handed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a directory for a commit.
    fn keep(&self, ticket: Ticket, commit: CommitId, dir: OwnedFd, now: Instant) {
        let mut handed = self.handed();
        handed.retain(|_, kept| now.saturating_duration_since(kept.since) < KEPT);
        if handed.len() >= HANDED_MAX {
            let oldest = handed.iter().min_by_key(|(_, kept)| kept.since).map(|(ticket, _)| *ticket);
            oldest.map(|oldest| handed.remove(&oldest));
        }
        handed.insert(ticket, Handed { since: now, commit, dir });
    }

    /// The directory that was handed over for this commit under a ticket, once. For any other commit there is none, and it
    /// stays for the one that it is for.
    pub fn take(&self, ticket: &[u8], commit: &[u8]) -> Option<OwnedFd> {
        let ticket = Ticket::try_from(ticket).ok()?;
        let mut handed = self.handed();
        if handed.get(&ticket)?.commit.as_bytes()[..] != *commit {
            return None;
        }
        handed.remove(&ticket).map(|kept| kept.dir)
    }

    /// Closes what nobody has come for.
    pub fn look(&self) {
        self.handed().retain(|_, kept| kept.since.elapsed() < KEPT);
    }
}

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
            node.neighbours.keep(ticket, commit, dir, Instant::now());
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

    fn dir() -> OwnedFd {
        std::fs::File::open("/").unwrap().into()
    }

    fn of(commit: u8) -> CommitId {
        CommitId::from_bytes([commit; 16])
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_ever() {
        let (neighbours, now) = (Neighbours::default(), Instant::now());
        let take = |ticket: &[u8]| neighbours.take(ticket, &[9; 16]);
        neighbours.keep([1; 16], of(9), dir(), now);
        assert!(take(&[2; 16]).is_none() && take(&[1; 15]).is_none());
        assert!(take(&[1; 16]).is_some());
        assert!(take(&[1; 16]).is_none());
        neighbours.keep([3; 16], of(9), dir(), now);
        neighbours.keep([4; 16], of(9), dir(), now + KEPT);
        assert!(take(&[3; 16]).is_none() && take(&[4; 16]).is_some());
    }

    #[test]
    fn a_ticket_is_good_for_its_own_commit_alone() {
        let (neighbours, now) = (Neighbours::default(), Instant::now());
        neighbours.keep([1; 16], of(9), dir(), now);
        for other in [&[8; 16][..], &[9; 15], &[]] {
            assert!(neighbours.take(&[1; 16], other).is_none(), "{other:?}");
        }
        assert!(neighbours.take(&[1; 16], &[9; 16]).is_some(), "it is still there");
    }

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

    #[test]
    fn only_so_many_directories_are_kept() {
        let (neighbours, now) = (Neighbours::default(), Instant::now());
        let ticket = |n: usize| [u8::try_from(n).unwrap(); 16];
        for n in 0..HANDED_MAX + 5 {
            neighbours.keep(ticket(n), of(9), dir(), now + Duration::from_millis(n as u64));
        }
        assert_eq!(neighbours.handed().len(), HANDED_MAX);
        let take = |n| neighbours.take(&ticket(n), &[9; 16]);
        assert!(take(4).is_none() && take(5).is_some());
    }
}
