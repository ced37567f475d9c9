//! A ledger as it was at a position, and why there may be none.

use bytes::Bytes;
use checkpoint::disk::lacks_room;

use crate::ledger::Page;
use crate::record::LogId;

/// What a snapshot is of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotMeta {
    /// The last entry in it.
    pub position: LogId,
    /// The newest membership at that position, and the entry that brought it, as the `raft` crate encoded it.
    pub membership: Option<(LogId, Bytes)>,
}

/// A ledger as it was at a position, not encoded yet.
#[derive(Debug, Clone)]
pub struct Frozen {
    pub(crate) meta: SnapshotMeta,
    pub(crate) ledger: crate::ledger::Frozen,
}

impl Frozen {
    /// Encodes it: this takes long, and nobody has to wait.
    pub fn capture(self) -> Capture {
        let Frozen { meta, ledger } = self;
        Capture { meta, pages: ledger.pages().collect(), ledger: ledger.encode().into() }
    }
}

/// A ledger as it was at a position, not on disk yet.
#[derive(Debug, Clone)]
pub struct Capture {
    /// What it is of.
    pub meta: SnapshotMeta,
    /// `Ledger::encode`.
    pub ledger: Bytes,
    /// Pages of the plans that are open in it, of a ledger of this node: before it is kept they are in their files. Of one
    /// from elsewhere they were brought.
    pub pages: Vec<Page>,
}

impl Capture {
    /// A ledger that came from elsewhere or from a file.
    pub fn brought(meta: SnapshotMeta, ledger: Bytes) -> Capture {
        Capture { meta, ledger, pages: Vec::new() }
    }
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It does not decode, or its digest is not the one it names.
    #[error("the snapshot {name} is damaged: {why}")]
    Damaged {
        /// Its file name, or where it came from.
        name: String,
        /// What was found.
        why: String,
    },
    /// The node stops, or the effects below it cannot be shown on disk.
    #[error("no snapshot was taken: {0}")]
    NotNow(String),
    /// The disk refused.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

impl SnapshotError {
    /// Whether it goes away when somebody makes room, or closes files.
    pub fn lacks_room(&self) -> bool {
        matches!(self, SnapshotError::Io { source, .. } if lacks_room(source))
    }
}
