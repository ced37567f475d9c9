//! Whether the ledger is again where this node was before its start.
//!
//! A start begins at a snapshot and applies the log again as somebody says how far it is committed. Until then the
//! ledger knows less than the disk: an epoch that was sealed above it is a directory here, and is not published a
//! second time, so that nobody would put back a blob that it holds and the ledger does not know of yet.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::ledger::Ledger;
use crate::store::LogStore;

/// How far this node had come, at most.
#[derive(Debug, Default)]
pub struct Replay {
    /// Entries of the log at the start: whatever was performed is among them, unless a repair made the log anew.
    in_log: u64,
    /// Entries up to the newest that sealed a directory found here.
    published: u64,
    over: AtomicBool,
}

impl Replay {
    /// Of a start with this log, and with directories above the ledger that were sealed at these log indexes.
    pub fn of(log: &LogStore, sealed_at: impl IntoIterator<Item = u64>) -> Replay {
        let published = sealed_at.into_iter().max().map_or(0, |index| index.saturating_add(1));
        Replay { in_log: entries(log), published, over: AtomicBool::new(false) }
    }

    /// Once true, always true.
    pub fn is_over(&self, log: &LogStore, ledger: &Ledger) -> bool {
        if self.over.load(Ordering::Relaxed) {
            return true;
        }
        let applied = ledger.applied().map_or(0, |id| id.index + 1);
        // What was cut off since was never committed, so that nothing of it was performed.
        let over = applied >= self.in_log.min(entries(log)) && applied >= self.published;
        self.over.fetch_or(over, Ordering::Relaxed);
        over
    }
}

fn entries(log: &LogStore) -> u64 {
    log.log_state().1.map_or(0, |last| last.index + 1)
}
