//! What a machine is made of, and the way to each part. What is done with them is in the rooms above, each of which
//! imports this one.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use checkpoint::store::Store;
use tokio::sync::watch;

use super::turns::Gatherings;
use crate::catalog::Catalog;
use crate::dues::{Dues, Expected, Ground, Pins, Replay};
use crate::ledger::Ledger;
use crate::performer::Performer;
use crate::plans::Plans;
use crate::snapshot::{Folder, SnapshotMeta};
use crate::store::LogStore;

/// Ledger, performer, snapshots and catalog of one replica.
///
/// Locks, in the order in which they may be taken: the turn of an attempt (`turns`), `snapshots`, the performer's pause
/// (never under the pins), the pins, the store's names, `catalog`, `ledger`, the performer's orders, the dues. Who puts a tree
/// into a file (`dues/trees.rs`) keeps others from that, and takes the last of these alone.
pub struct Machine {
    pub(super) ledger: Arc<RwLock<Ledger>>,
    pub(super) applied: watch::Sender<u64>,
    pub(super) performer: Performer,
    pub(super) dues: Arc<Dues>,
    pub(super) store: Arc<Store>,
    pub(super) log: LogStore,
    pub(super) plans: Arc<Plans>,
    pub(super) gatherings: Arc<Gatherings>,
    pub(super) snapshots: Mutex<Snapshots>,
    /// What the newest and the older snapshot are of; `snapshots` may be held over a disk.
    pub(super) kept: watch::Sender<(Option<SnapshotMeta>, Option<SnapshotMeta>)>,
    /// As long as it works.
    pub(super) catalog: Mutex<Option<Catalog>>,
    pub(super) pins: Arc<Pins>,
    /// What is applied up to here, when it is, has got the room that something else made ([`Machine::give_way`]).
    pub(super) gave_way_to: AtomicU64,
    pub(super) replay: Replay,
}

pub(super) struct Snapshots {
    pub(super) folder: Folder,
    /// Content that a catch-up was about to bring, and may have left on the shelves.
    pub(super) expected: Expected,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Machine {
    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Ledger> {
        self.ledger.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The ledger as of what is applied here. Hold it briefly: apply waits.
    pub fn ledger(&self) -> RwLockReadGuard<'_, Ledger> {
        self.ledger.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log.
    pub fn log(&self) -> &LogStore {
        &self.log
    }

    /// The shelves that epochs are published on.
    pub fn store(&self) -> &Arc<Store> {
        &self.store
    }

    pub(super) fn ground(&self) -> Ground<'_> {
        Ground {
            dues: &self.dues,
            pins: &self.pins,
            store: &self.store,
            log: &self.log,
            ledger: &self.ledger,
            replay: &self.replay,
        }
    }

    pub(super) fn show_kept(&self, folder: &Folder) {
        self.kept.send_replace((folder.newest().cloned(), folder.older().cloned()));
    }

    /// What the newest durable snapshot is of.
    pub fn newest_snapshot(&self) -> Option<SnapshotMeta> {
        self.kept.borrow().0.clone()
    }
}
