//! Directories that clients of the same machine and user have handed over, until their commits name them.
//!
//! At most [`HANDED_MAX`] are kept, each for [`KEPT`] or until a commit names its ticket.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::neighbour::Ticket;

use crate::limits::HANDED_MAX;

/// A commit names its ticket at once.
const KEPT: Duration = Duration::from_secs(60);

/// Directories that were handed over.
#[derive(Debug, Default)]
pub struct Handed {
    dirs: Mutex<BTreeMap<Ticket, (Instant, OwnedFd)>>,
}

impl Handed {
    fn dirs(&self) -> MutexGuard<'_, BTreeMap<Ticket, (Instant, OwnedFd)>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a directory.
    pub fn keep(&self, ticket: Ticket, dir: OwnedFd, now: Instant) {
        let mut dirs = self.dirs();
        dirs.retain(|_, (since, _)| now.saturating_duration_since(*since) < KEPT);
        if dirs.len() >= HANDED_MAX {
            let oldest = dirs.iter().min_by_key(|(_, (since, _))| *since).map(|(ticket, _)| *ticket);
            oldest.map(|oldest| dirs.remove(&oldest));
        }
        dirs.insert(ticket, (now, dir));
    }

    /// The directory that was handed over under a ticket, once.
    pub fn take(&self, ticket: &[u8]) -> Option<OwnedFd> {
        let ticket = Ticket::try_from(ticket).ok()?;
        self.dirs().remove(&ticket).map(|(_, dir)| dir)
    }

    /// Closes what nobody has come for.
    pub fn look(&self) {
        self.dirs().retain(|_, (since, _)| since.elapsed() < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dir() -> OwnedFd {
        std::fs::File::open("/").unwrap().into()
    }

    #[test]
    fn a_ticket_is_good_once_and_not_for_ever() {
        let (handed, now) = (Handed::default(), Instant::now());
        handed.keep([1; 16], dir(), now);
        assert!(handed.take(&[2; 16]).is_none() && handed.take(&[1; 15]).is_none());
        assert!(handed.take(&[1; 16]).is_some());
        assert!(handed.take(&[1; 16]).is_none());
        handed.keep([3; 16], dir(), now);
        handed.keep([4; 16], dir(), now + KEPT);
        assert!(handed.take(&[3; 16]).is_none() && handed.take(&[4; 16]).is_some());
    }

    #[test]
    fn only_so_many_directories_are_kept() {
        let (handed, now) = (Handed::default(), Instant::now());
        let ticket = |n: usize| [u8::try_from(n).unwrap(); 16];
        for n in 0..HANDED_MAX + 5 {
            handed.keep(ticket(n), dir(), now + Duration::from_millis(n as u64));
        }
        assert_eq!(handed.dirs().len(), HANDED_MAX);
        assert!(handed.take(&ticket(4)).is_none() && handed.take(&ticket(5)).is_some());
    }
}
