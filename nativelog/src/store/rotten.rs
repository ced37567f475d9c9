//! Entries whose payload does not verify, and the readers that wait for their repair.
//!
//! A damaged payload is not a storage error (that would stop the whole node): its index is shown here for whoever
//! can fetch it from a peer, and its reader sleeps until something has changed. One that lies inline in the WAL cannot
//! be put back there: it is served from memory until its entry is purged or the process ends, so that a follower that
//! needs it does not wait for ever. One that nobody has is *given up*: its readers are told so at once, so that whoever
//! sends the log can go around the entry with a snapshot; it stays shown, and is asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeBounds;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;

use crate::record::LogId;

/// A reader looks again at least this often: a read may have failed for a reason that goes away by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Bytes of refetched inline payloads that are kept in memory; the oldest go first.
const KEPT_BYTES_MAX: usize = 32 << 20;

/// What waits for a repair.
pub struct Rotten {
    indexes: watch::Sender<BTreeSet<u64>>,
    /// Good payloads of entries whose own, inline in the WAL, are not.
    kept: Mutex<BTreeMap<LogId, Bytes>>,
    given_up: Mutex<BTreeSet<LogId>>,
    changes: Mutex<u64>,
    wake: Condvar,
}

impl Rotten {
    /// Nothing is rotten.
    pub fn new() -> Self {
        Rotten {
            indexes: watch::Sender::default(),
            kept: Mutex::default(),
            given_up: Mutex::default(),
            changes: Mutex::new(0),
            wake: Condvar::new(),
        }
    }

    /// The indexes, as they come and go.
    pub fn indexes(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.indexes.subscribe()
    }

    /// Somebody waits for the payload of this entry.
    pub fn add(&self, index: u64) {
        self.indexes.send_if_modified(|indexes| indexes.insert(index));
    }

    /// Whether somebody waits for it, or had to do without.
    pub fn is_shown(&self, index: u64) -> bool {
        self.indexes.borrow().contains(&index)
    }

    /// It verifies again, or is gone.
    pub fn remove(&self, index: u64) {
        self.forget(index..=index);
    }

    /// These are purged, or truncated.
    pub fn forget(&self, range: impl RangeBounds<u64>) {
        self.given_up().retain(|id| !range.contains(&id.index));
        self.indexes.send_if_modified(|indexes| {
            let before = indexes.len();
            indexes.retain(|index| !range.contains(index));
            indexes.len() < before
        });
    }

    /// Nobody has the payload of this entry: its readers wait no longer.
    pub fn give_up(&self, id: LogId) {
        self.given_up().insert(id);
        self.changed();
    }

    /// Whether nobody had the payload of this entry.
    pub fn is_given_up(&self, id: LogId) -> bool {
        self.given_up().contains(&id)
    }

    fn given_up(&self) -> MutexGuard<'_, BTreeSet<LogId>> {
        self.given_up.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a good payload in memory. Those of entries below `first` go: they are purged.
    pub fn keep(&self, id: LogId, payload: Bytes, first: u64) {
        {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.retain(|id, _| id.index >= first);
            kept.insert(id, payload);
            while kept.len() > 1 && kept.values().map(Bytes::len).sum::<usize>() > KEPT_BYTES_MAX {
                kept.pop_first();
            }
        }
        self.changed();
    }

    /// A good payload of this entry that was refetched.
    pub fn kept(&self, id: LogId) -> Option<Bytes> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// How often something has changed: to be asked before a payload is read.
    pub fn changes(&self) -> u64 {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was repaired, truncated or purged, or the store stops.
    pub fn changed(&self) {
        *self.changes.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.wake.notify_all();
    }

    /// Waits until something has changed since `seen`, but not for long.
    pub fn wait(&self, seen: u64) {
        let changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.wake.wait_timeout_while(changes, LOOK_AGAIN, |changes| *changes == seen);
        drop(waiting.unwrap_or_else(PoisonError::into_inner));
    }
}
