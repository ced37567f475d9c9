//! One entry of a directory, as plans list it and manifests seal it.

use crate::epoch::{EntryKind, PathRef, RelPath};

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
