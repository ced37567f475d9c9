//! What the callers of a log store and its writer thread share.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use tokio::sync::watch;

use super::index::Index;
use super::owner::Identity;
use super::payload::PayloadFiles;
use super::queue::Queue;
use super::room::Room;
use super::rotten::Rotten;
use super::wal::SegmentReader;

/// All of it.
pub struct Shared {
    pub disk: Arc<dyn Disk>,
    pub layout: Layout,
    pub owner: Identity,
    pub index: Mutex<Index>,
    pub queue: Queue,
    pub files: PayloadFiles,
    pub segments: SegmentReader,
    pub flushed: watch::Sender<u64>,
    /// Woken, with the index locked, whenever `flushed` grows or the store stops.
    pub flush_wake: Condvar,
    /// The first index that is not durably purged.
    pub purged: watch::Sender<u64>,
    pub wal_bytes: AtomicU64,
    pub room: Room,
    pub rotten: Rotten,
    /// Held by who repairs a staged file.
    pub repairing: Mutex<()>,
    pub fatal: watch::Sender<Option<String>>,
    pub stopping: AtomicBool,
}

impl Shared {
    /// A poisoned lock means that a thread of ours panicked: the index is still consistent, because
    /// every change under it is made of infallible steps.
    pub fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is promised: whoever watches `fatal` stops the node.
    pub fn fail(&self, why: String) {
        let _index = self.index();
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(why);
            first
        });
        self.flush_wake.notify_all();
    }

    /// Whoever waits for something of this store waits no longer.
    pub fn stop(&self) {
        let _index = self.index();
        self.stopping.store(true, Ordering::Relaxed);
        self.flush_wake.notify_all();
        self.rotten.changed();
        self.room.stop();
    }
}
