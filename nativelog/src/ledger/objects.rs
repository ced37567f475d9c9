//! Objects in stores, by name: what a record calls them, and where in one of them content lies. Knows no table.

use checkpoint::Digest;

/// An object's name. It is written once and never again: the attempt's number is a log index, and the nonce is whose
/// upload it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey {
    /// The store: log index of the record that named it.
    pub store: u64,
    /// The attempt that brought it.
    pub attempt: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Random.
    pub nonce: u64,
}

/// Where in an object content begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    /// The object's number, see `homes.rs`.
    pub object: u32,
    /// In bytes.
    pub offset: u64,
}

/// An object that a record names for the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NewObject {
    pub key: ObjectKey,
    pub bytes: u64,
}

/// An object that a record names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Named {
    /// Its attempt has named it before: its number.
    Known(u32),
    New(NewObject),
}

/// How bytes came that an epoch holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Came {
    /// Through the log, so that they are on a quorum.
    pub logged: bool,
    /// Into an object.
    pub linked: bool,
}

impl Came {
    /// With the epoch; else they were sealed before.
    pub fn with_it(self) -> bool {
        self.logged || self.linked
    }

    /// This way, too.
    pub fn and(&mut self, other: Came) {
        self.logged |= other.logged;
        self.linked |= other.linked;
    }
}
