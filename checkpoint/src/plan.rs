//! The plan: what a source directory looks like, entry by entry, before a byte
//! of it is read. Refuses by name whatever cannot be reproduced on a replica,
//! and never opens anything but directories.

mod check;
mod encoding;
mod scan;

pub use crate::error::PlanError;
pub use check::{PlanChecker, check_entries};
pub use encoding::{Encoded, Entries, EntryError, encode, entries};
pub(crate) use encoding::{put_head, put_short};

use std::path::Path;

use crate::digest::{self, Digest};
use crate::epoch::{EntryKind, PathRef, RelPath};
use crate::limits::Limits;

/// One entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanEntry {
    /// Where; empty for the root directory.
    pub path: RelPath,
    /// What.
    pub kind: EntryKind,
    /// Permission bits, 0 to 0o777; 0o777 for symlinks.
    pub mode: u32,
    /// Length, bytes; 0 for what is no file.
    pub size: u64,
    /// A symlink's target, verbatim; empty for the rest.
    pub target: Vec<u8>,
}

impl PlanEntry {
    /// The same entry where it lies.
    pub fn borrowed(&self) -> EntryRef<'_> {
        let PlanEntry { path, kind, mode, size, target } = self;
        EntryRef { path: path.borrowed(), kind: *kind, mode: *mode, size: *size, target }
    }
}

/// A [`PlanEntry`] whose bytes lie elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryRef<'a> {
    /// Where; empty for the root directory.
    pub path: PathRef<'a>,
    /// What.
    pub kind: EntryKind,
    /// Permission bits, 0 to 0o777; 0o777 for symlinks.
    pub mode: u32,
    /// Length, bytes; 0 for what is no file.
    pub size: u64,
    /// A symlink's target, verbatim; empty for the rest.
    pub target: &'a [u8],
}

impl EntryRef<'_> {
    /// A copy of its own.
    pub fn to_entry(self) -> PlanEntry {
        let EntryRef { path, kind, mode, size, target } = self;
        PlanEntry { path: path.to_rel_path(), kind, mode, size, target: target.to_vec() }
    }
}

/// What identifies the state of a file of the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stamp {
    pub(crate) dev: u64,
    pub(crate) ino: u64,
    pub(crate) len: u64,
    pub(crate) mode: u32,
    pub(crate) mtime: (i64, i64),
    // None where links may come and go while the content stays.
    pub(crate) ctime: Option<(i64, i64)>,
}

impl Stamp {
    /// Whether `now` is still the state that was planned.
    pub(crate) fn allows(&self, now: &Stamp) -> bool {
        let now = Stamp { ctime: self.ctime.and(now.ctime), ..*now };
        *self == now
    }

    /// The same inode with the same content, as far as length and mtime tell.
    fn same_content(&self, other: &Stamp) -> bool {
        (self.dev, self.ino, self.len, self.mtime) == (other.dev, other.ino, other.len, other.mtime)
    }
}

/// A scanned directory. Entry 0 is the root; entries are sorted bytewise by path and every parent is among them.
/// An entry's place is its file id.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The entries.
    pub entries: Vec<PlanEntry>,
    pub(crate) stamps: Vec<Stamp>,
}

impl Plan {
    /// Walks `dir`. Sockets, fifos and devices are refused by name without being opened; so are setuid, setgid
    /// and sticky bits, files that their owner may not read and directories that their owner may not list.
    pub fn scan(dir: &Path, limits: &Limits) -> Result<Plan, PlanError> {
        scan::scan(dir, limits)
    }

    /// Whether the directory was in the very same state at both scans: the same entries, and for each the same
    /// inode, length, mode, mtime and ctime.
    pub fn same_state(&self, other: &Plan) -> bool {
        self.entries == other.entries && self.stamps == other.stamps
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

    /// The same plan for a capture by hard links: other names of its files may come and go, which changes their
    /// ctime, while it is read.
    #[must_use]
    pub fn ignoring_links(mut self) -> Plan {
        self.stamps.iter_mut().for_each(|stamp| stamp.ctime = None);
        self
    }

    /// The digest of all entries: equal digests, equal plans.
    pub fn digest(&self) -> Digest {
        plan_digest(&self.entries)
    }

    /// Sum of the files' sizes, bytes.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|e| e.size).sum()
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
        self.link(|bytes| encoding::put(bytes, entry));
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
