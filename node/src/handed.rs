//! Directories that clients of the same machine and user have handed over, until their commits name them.
//!
//! At most [`HANDED_MAX`] are kept, each for [`KEPT`] or until the commit that it is for names its ticket.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::CommitId;
use client::neighbour::Ticket;

use crate::limits::HANDED_MAX;

/// A commit names its ticket at once.
const KEPT: Duration = Duration::from_secs(60);

/// Directories that were handed over.
#[derive(Debug, Default)]
pub struct Handed {
    dirs: Mutex<BTreeMap<Ticket, Kept>>,
}

/// One of them.
#[derive(Debug)]
struct Kept {
    since: Instant,
    commit: CommitId,
    dir: OwnedFd,
}

impl Handed {
    fn dirs(&self) -> MutexGuard<'_, BTreeMap<Ticket, Kept>> {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a directory for a commit.
    pub fn keep(&self, ticket: Ticket, commit: CommitId, dir: OwnedFd, now: Instant) {
        let mut dirs = self.dirs();
        dirs.retain(|_, kept| now.saturating_duration_since(kept.since) < KEPT);
        if dirs.len() >= HANDED_MAX {
            let oldest = dirs.iter().min_by_key(|(_, kept)| kept.since).map(|(ticket, _)| *ticket);
            oldest.map(|oldest| dirs.remove(&oldest));
        }
        dirs.insert(ticket, Kept { since: now, commit, dir });
    }

    /// The directory that was handed over for this commit under a ticket, once. For any other commit there is none, and it
    /// stays for the one that it is for.
    pub fn take(&self, ticket: &[u8], commit: &[u8]) -> Option<OwnedFd> {
        let ticket = Ticket::try_from(ticket).ok()?;
        let mut dirs = self.dirs();
        if dirs.get(&ticket)?.commit.as_bytes()[..] != *commit {
            return None;
        }
        dirs.remove(&ticket).map(|kept| kept.dir)
    }

    /// Closes what nobody has come for.
    pub fn look(&self) {
        self.dirs().retain(|_, kept| kept.since.elapsed() < KEPT);
    }
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
        let (handed, now) = (Handed::default(), Instant::now());
        let take = |ticket: &[u8]| handed.take(ticket, &[9; 16]);
        handed.keep([1; 16], of(9), dir(), now);
        assert!(take(&[2; 16]).is_none() && take(&[1; 15]).is_none());
        assert!(take(&[1; 16]).is_some());
        assert!(take(&[1; 16]).is_none());
        handed.keep([3; 16], of(9), dir(), now);
        handed.keep([4; 16], of(9), dir(), now + KEPT);
        assert!(take(&[3; 16]).is_none() && take(&[4; 16]).is_some());
    }

    #[test]
    fn a_ticket_is_good_for_its_own_commit_alone() {
        let (handed, now) = (Handed::default(), Instant::now());
        handed.keep([1; 16], of(9), dir(), now);
        for other in [&[8; 16][..], &[9; 15], &[]] {
            assert!(handed.take(&[1; 16], other).is_none(), "{other:?}");
        }
        assert!(handed.take(&[1; 16], &[9; 16]).is_some(), "it is still there");
    }

    #[test]
    fn only_so_many_directories_are_kept() {
        let (handed, now) = (Handed::default(), Instant::now());
        let ticket = |n: usize| [u8::try_from(n).unwrap(); 16];
        for n in 0..HANDED_MAX + 5 {
            handed.keep(ticket(n), of(9), dir(), now + Duration::from_millis(n as u64));
        }
        assert_eq!(handed.dirs().len(), HANDED_MAX);
        let take = |n| handed.take(&ticket(n), &[9; 16]);
        assert!(take(4).is_none() && take(5).is_some());
    }
}
