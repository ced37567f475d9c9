//! Entries whose payload does not verify, and the readers that wait for their repair.
//!
//! A damaged payload is not a storage error (that would stop the whole node): its index is shown here for whoever
//! can fetch it from a peer, and its reader sleeps until something has changed.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

/// A reader looks again at least this often: a read may have failed for a reason that goes away by itself.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What waits for a repair.
pub struct Rotten {
    indexes: watch::Sender<BTreeSet<u64>>,
    changes: Mutex<u64>,
    wake: Condvar,
}

impl Rotten {
    /// Nothing is rotten.
    pub fn new() -> Self {
        Rotten { indexes: watch::Sender::default(), changes: Mutex::new(0), wake: Condvar::new() }
    }

    /// The indexes, as they come and go.
    pub fn indexes(&self) -> watch::Receiver<BTreeSet<u64>> {
        self.indexes.subscribe()
    }

    /// Somebody waits for the payload of this entry.
    pub fn add(&self, index: u64) {
        self.indexes.send_if_modified(|indexes| indexes.insert(index));
    }

    /// It verifies again, or is gone.
    pub fn remove(&self, index: u64) {
        self.indexes.send_if_modified(|indexes| indexes.remove(&index));
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
