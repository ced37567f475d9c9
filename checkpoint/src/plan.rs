//! The plan: what a source directory looks like, entry by entry, before a byte
//! of it is read. Refuses by name whatever cannot be reproduced on a replica,
//! and never opens anything but directories, and files that have holes.

mod entries;
mod error;
mod scan;
mod stamp;
mod stored;

pub use crate::entry::{EntryRef, PlanEntry};
pub use crate::tree_rules::{PlanChecker, RuleError, check_entries};
pub use entries::{Encoded, Entries, EntryError, encode, entries};
pub use error::PlanError;
pub(crate) use stamp::Stamp;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::SystemTime;

use crate::digest::{self, Digest};
use crate::epoch::{EntryKind, RelPath};
use crate::pattern::Choice;

/// A scanned directory. Entry 0 is the root; entries are sorted bytewise by path and every parent is among them.
/// An entry's place is its file id.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The entries.
    pub entries: Vec<PlanEntry>,
    /// Directories that lose a bit of their mode; `None` when none does.
    pub bits_lost: Option<BitsLost>,
    pub(crate) stamps: Vec<Stamp>,
    pub(crate) stored: u64,
    // Open since the scan: the directory may get another name, or its name another directory.
    pub(crate) root: Arc<OwnedFd>,
    // When the scan began.
    pub(crate) began: SystemTime,
    pub(crate) choice: Choice,
}

/// Directories with set-gid or sticky bits, which no replica keeps: they say who may write there, not what is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BitsLost {
    /// How many.
    pub directories: u64,
    /// The first of them, bytewise.
    pub first: RelPath,
}

impl Plan {
    /// What has certainly changed from this scan to a later one of the same directory: the path, and how. Links that
    /// came and went are no change, see [`Plan::touched`].
    pub fn change(&self, later: &Plan) -> Option<(String, String)> {
        let both = self.entries.iter().zip(&self.stamps).zip(later.entries.iter().zip(&later.stamps));
        for ((entry, stamp), (other, now)) in both {
            if entry.path < other.path {
                return Some((entry.path.to_string(), "it vanished".to_owned()));
            }
            if entry.path > other.path {
                return Some((other.path.to_string(), "it is new".to_owned()));
            }
            if let Some(why) = stamp.change(now) {
                return Some((entry.path.to_string(), why));
            }
            if entry != other {
                return Some((entry.path.to_string(), "it is something else now".to_owned()));
            }
        }
        let (had, has) = (self.entries.len(), later.entries.len());
        let gone = self.entries.get(has).map(|entry| (entry.path.to_string(), "it vanished".to_owned()));
        gone.or_else(|| later.entries.get(had).map(|entry| (entry.path.to_string(), "it is new".to_owned())))
    }

    /// The files that a later scan without a [change](Plan::change) does not prove to be the same, by place: nothing
    /// but the ctime moved (a link came or went, or content was written and the mtime put back), or the stamp is too
    /// fresh to tell. Only their content does.
    pub fn touched(&self, later: &Plan) -> Vec<usize> {
        let stamps = self.stamps.iter().zip(&later.stamps);
        let files = self.entries.iter().zip(stamps).enumerate();
        let moved = files.filter(|(_, (entry, (before, now)))| {
            let proven = before.is_still(now) && !before.is_fresh_at(self.began, later.began);
            entry.kind == EntryKind::File && entry.size > 0 && !proven
        });
        moved.map(|(place, _)| place).collect()
    }

    /// Whether both have the same entries, and each file of both is the same inode with the same length and mtime:
    /// what holds between a directory and its capture by hard links. The ctime may differ, linking changes it.
    pub fn same_files(&self, other: &Plan) -> bool {
        self.entries == other.entries
            && self
                .entries
                .iter()
                .zip(self.stamps.iter().zip(&other.stamps))
                .all(|(entry, (one, other))| entry.kind != EntryKind::File || one.same_content(other))
    }

    /// The same plan where somebody promises that no content changes in place, or nobody else can reach it: nothing
    /// is read twice when a ctime moves, and nothing is flushed before it is read.
    #[must_use]
    pub fn ignoring_links(mut self) -> Plan {
        self.stamps.iter_mut().for_each(|stamp| stamp.ctime = None);
        self
    }

    pub(crate) fn has(&self, path: &RelPath) -> bool {
        self.entries.binary_search_by(|entry| entry.path.cmp(path)).is_ok()
    }

    /// The digest of all entries: equal digests, equal plans.
    pub fn digest(&self) -> Digest {
        plan_digest(&self.entries)
    }

    /// Sum of the files' sizes, bytes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.size).sum()
    }

    /// Bytes that the files take on a replica, at most: holes of the source take none, in units of 64 KiB. Zeros that are
    /// written out there count like other bytes.
    pub fn stored_bytes(&self) -> u64 {
        self.stored
    }

    /// The number of regular files.
    pub fn files(&self) -> u64 {
        self.entries.iter().filter(|e| e.kind == EntryKind::File).count() as u64
    }
}

/// The digest of a list of entries. Encoding: `docs/format.md`.
pub fn plan_digest(entries: &[PlanEntry]) -> Digest {
    let mut hasher = PlanHasher::default();
    entries.iter().for_each(|entry| hasher.push(entry.borrowed()));
    hasher.finish()
}

/// [`plan_digest`] of entries that come one after the other. Between two of them all there is is a digest: who
/// has read half of a plan can write that down and go on later.
#[derive(Clone, Debug)]
pub struct PlanHasher {
    so_far: Digest,
    /// The digest so far and the next entry.
    bytes: Vec<u8>,
}

impl Default for PlanHasher {
    fn default() -> Self {
        PlanHasher::resume(digest::content(b"epochlog plan 2\n"))
    }
}

impl PlanHasher {
    /// Goes on where another one was when it [`finish`](PlanHasher::finish)ed.
    pub fn resume(so_far: Digest) -> Self {
        PlanHasher { so_far, bytes: Vec::new() }
    }

    /// Takes the next entry.
    pub fn push(&mut self, entry: EntryRef<'_>) {
        self.link(|bytes| entries::put(bytes, entry));
    }

    /// Takes the next entry as it is encoded.
    pub fn push_encoded(&mut self, entry: &[u8]) {
        self.link(|bytes| bytes.extend_from_slice(entry));
    }

    fn link(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.clear();
        self.bytes.extend_from_slice(self.so_far.as_bytes());
        put(&mut self.bytes);
        self.so_far = digest::content(&self.bytes);
    }

    /// The digest of the entries so far.
    pub fn finish(&self) -> Digest {
        self.so_far
    }
}
