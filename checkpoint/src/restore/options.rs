//! How to restore, what came of it, and how to end it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::error::RestoreError;
use super::others::Others;
use crate::pattern::Pattern;

/// How to restore.
#[derive(Clone, Debug, Default)]
pub struct RestoreOptions {
    /// Replace what an earlier restore has written to the target.
    pub force: bool,
    /// With `force`: replace whatever else is there too.
    pub delete_others: bool,
    /// With `force`: replace this too, which [`RestoreError::Others`] has told, and nothing that is more than it.
    pub accepted: Option<Others>,
    /// Share the blocks of local content instead of copying them (reflink), or refuse. Another name for the same inode
    /// would let whoever writes to it damage every epoch that shares it.
    pub link: bool,
    /// Restore only entries that match one of these (and the directories above them); `None`: everything.
    pub only: Option<Vec<Pattern>>,
    /// Ends the restore when it is set.
    pub stop: Stop,
}

impl RestoreOptions {
    pub(super) fn may_lose(&self, found: &Others) -> bool {
        let accepts = |accepted: &Others| accepted.covers(found);
        found.entries == 0 || self.delete_others || self.accepted.as_ref().is_some_and(accepts)
    }
}

/// Tells a restore from another thread to end. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// The restore ends soon, and leaves nothing.
    pub fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether it was set.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub(super) fn check(&self) -> Result<(), RestoreError> {
        if self.is_set() { Err(RestoreError::Stopped) } else { Ok(()) }
    }
}

/// What was restored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Regular files at the target.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Bytes that came from [`ContentSource::fetch`](super::ContentSource::fetch); the rest lay on this machine.
    pub fetched_bytes: u64,
    /// What was there before and went.
    pub replaced: Option<Replaced>,
    /// What should have been removed and could not be, of the old directory or of a restore that was killed; and what
    /// such a one may have left that somebody may want.
    pub left: Vec<PathBuf>,
}

/// What a restore has taken the place of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Replaced {
    /// Entries that an earlier restore wrote, unchanged since.
    pub restored: u64,
    /// Everything else.
    pub others: Others,
}
