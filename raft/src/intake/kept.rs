//! The room that a disk which is short keeps for what is on its way to it: content that is let in from a leader, and bytes
//! of open attempts that come with a snapshot. Both take from one allowance, which is there anew when there is room again:
//! however many requests, snapshots and tries come in one shortage, they take it once.

use std::sync::atomic::{AtomicU64, Ordering};

/// How much of it was taken in this shortage.
#[derive(Debug, Default)]
pub(crate) struct Kept(AtomicU64);

impl Kept {
    /// Whether so many more bytes stay within `most`.
    pub fn fits(&self, bytes: u64, most: u64) -> bool {
        self.0.load(Ordering::Relaxed).saturating_add(bytes) <= most
    }

    /// So many bytes come.
    pub fn take(&self, bytes: u64) {
        let _ =
            self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |had| Some(had.saturating_add(bytes)));
    }

    /// There is room again.
    pub fn is_whole_again(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
