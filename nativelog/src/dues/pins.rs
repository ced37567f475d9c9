//! What keeps things where they are while somebody needs them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::record::LogId;

/// What is pinned, by number.
#[derive(Debug, Default)]
pub struct Pins {
    next: AtomicU64,
    /// Where the log may not be purged past; `None` holds all of it. Held by `reclaim` while it unlinks a few.
    held: Mutex<BTreeMap<u64, Option<LogId>>>,
}

/// While it lives, nothing is unlinked here and the log is not purged past where it was taken.
#[derive(Debug)]
pub struct Pin {
    pins: Arc<Pins>,
    number: u64,
}

impl Pin {
    pub(super) fn number(&self) -> u64 {
        self.number
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.held().remove(&self.number);
    }
}

impl Pins {
    pub(super) fn held(&self) -> MutexGuard<'_, BTreeMap<u64, Option<LogId>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lives(&self, number: u64) -> bool {
        self.held().contains_key(&number)
    }

    /// A pin from where `newest` says, which is asked under the lock.
    pub fn take(self: &Arc<Self>, newest: impl FnOnce() -> Option<LogId>) -> Pin {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut held = self.held();
        held.insert(number, newest());
        Pin { pins: self.clone(), number }
    }

    /// Up to where the log may be purged, at most up to `limit`; `None` when nothing of it may go.
    pub fn lower(&self, limit: LogId) -> Option<LogId> {
        let mut limit = limit;
        for held in self.held().values() {
            let held = (*held)?;
            if held.index < limit.index {
                limit = held;
            }
        }
        Some(limit)
    }
}
