//! The log store: where a node keeps its part of the replicated log.
//!
//! ```text
//!   append ──> index + cache (memory) ──> queue ──> writer thread (one)
//!                                                    1 payload  pwrite into staging/<attempt>/f<file>
//!                                                    2 payload  fdatasync, new names fsynced
//!                                                    3 headers  one WAL frame
//!                                                    4 WAL      fdatasync
//!                                                    5 report flushed
//! ```
//!
//! **Guarantees.** A header on disk means that its payload is durable. A completion covers
//! everything queued before it. `save_vote` completes when the vote and everything before it are
//! fsynced. A truncation is fsynced before the next payload byte is written. A failed fsync is
//! final: nothing is acknowledged after it and [`LogStore::fatal`] says why.
//!
//! **Never.** `append`, `truncate_after`, `purge` and `save_committed` do no IO and never wait for
//! the writer: they run inside the consensus loop. No staged file is deleted here: folders of ended attempts move
//! to `trash/` when they are told to and no entry names them. Segments are deleted below a durable purge only.
//!
//! `asks.rs` holds the promises that keep the log small and good, `reading.rs` those to readers, `recover.rs` what is
//! done with the log that is found at start.
//!
//! Chunks lie in place; every other payload (packs and whole epochs, at most 1 MiB) lies inline in
//! the WAL next to its header: one sequential write and one fdatasync instead of two.

mod asks;
mod batch;
mod brought;
mod cache;
mod chores;
mod claims;
mod copied;
mod failed;
mod frame;
mod index;
mod mark;
mod notes;
mod options;
mod owner;
mod payload;
mod pen;
mod queue;
mod reading;
mod recover;
mod repair;
mod room;
mod rotten;
mod shared;
mod spare;
mod wal;
mod writer;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use tokio::sync::watch;

use crate::record::{Entry, LogId};

use index::Index;
use payload::PayloadFiles;
use queue::{Command, Queue};
use room::Room;
use rotten::Rotten;
use shared::Shared;

pub use brought::{Brought, Placed};
pub use options::Options;
pub use owner::{Identity, Vote};
pub use queue::{Done, Swept};
pub use recover::{OpenError, Recovered, Seen, replacement_dir};

/// The log of one Raft group on one node. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl LogStore {
    /// Opens the log of `owner` below `layout`, making it when there is none.
    ///
    /// # Errors
    /// [`OpenError`] when the log is damaged, belongs to somebody else, or cannot be read. Nothing
    /// is changed on disk then, except that an unacknowledged torn tail may have been cut.
    pub fn open(
        disk: Arc<dyn Disk>,
        layout: &Layout,
        owner: Identity,
        options: Options,
    ) -> Result<(LogStore, Recovered), OpenError> {
        let opened = recover::open(&disk, layout, owner, &options)?;
        let recovered = opened.report.clone();
        let shared = Arc::new(Shared {
            disk: disk.clone(),
            layout: layout.clone(),
            owner,
            flushed: watch::Sender::new(opened.index.next_index()),
            flush_wake: Condvar::new(),
            purged: watch::Sender::new(opened.index.purged().map_or(0, |purged| purged.index + 1)),
            wal_bytes: AtomicU64::new(opened.wal.bytes()),
            room: Room::patient(),
            rotten: Rotten::new(),
            repairing: Mutex::new(()),
            fatal: watch::Sender::new(None),
            index: Mutex::new(opened.index),
            queue: Queue::default(),
            files: PayloadFiles::new(disk.clone(), layout.clone()),
            segments: wal::SegmentReader::new(disk, layout.log_dir()),
            stopping: AtomicBool::new(false),
        });
        let writer = writer::Writer::new(shared.clone(), opened.wal, opened.mark, options);
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn(move || {
                let shared = writer.shared();
                if catch_unwind(AssertUnwindSafe(|| writer.run())).is_err() {
                    let why = "the log writer panicked";
                    shared.fail(why.into());
                    shared.queue.close(why);
                }
            })
            .map_err(|source| OpenError::Io { what: "start the log writer thread".into(), source })?;
        Ok((LogStore { inner: Arc::new(Inner { shared, writer: Mutex::new(Some(thread)) }) }, recovered))
    }

    /// Who made the log below `layout`, if there is one.
    ///
    /// # Errors
    /// [`OpenError`] when there is a log whose owner cannot be read.
    pub fn owner_of(disk: &Arc<dyn Disk>, layout: &Layout) -> Result<Option<Identity>, OpenError> {
        recover::owner_of(disk, layout)
    }

    /// What the log of `owner` below `layout` says, without opening it: nothing on disk is changed. `None` when there is
    /// none, or one that a repair made is yet to take its place.
    ///
    /// # Errors
    /// [`OpenError`], as opening it would say it.
    pub fn look(disk: &Arc<dyn Disk>, layout: &Layout, owner: Identity) -> Result<Option<Seen>, OpenError> {
        recover::look(disk, layout, owner)
    }

    fn shared(&self) -> &Shared {
        &self.inner.shared
    }

    /// Who owns this log.
    pub fn owner(&self) -> Identity {
        self.shared().owner
    }

    /// Last purged and last present position (the purged one when nothing is left).
    pub fn log_state(&self) -> (Option<LogId>, Option<LogId>) {
        let index = self.shared().index();
        (index.purged(), index.last())
    }

    /// The position at `index`, if the log holds it or just purged it.
    pub fn log_id_at(&self, index: u64) -> Option<LogId> {
        self.shared().index().log_id(index)
    }

    /// The last saved vote.
    pub fn vote(&self) -> Option<Vote> {
        self.shared().index().vote
    }

    /// The last saved committed position; it may lag behind the cluster's.
    pub fn committed(&self) -> Option<LogId> {
        self.shared().index().committed
    }

    /// Appends `entries`, which must follow the last one. They are readable when this returns;
    /// `done` is called by the writer thread when they are durable.
    ///
    /// # Panics
    /// When the entries leave a hole: that would be a bug of ours or of the consensus library.
    pub fn append(&self, entries: Vec<Entry>, done: Done) {
        let shared = self.shared();
        {
            let mut index = shared.index();
            for entry in &entries {
                index.push(entry);
            }
        }
        shared.queue.push(Command::Append { entries, done });
    }

    /// Saves the vote; `done` is called when it and everything before it are durable.
    pub fn save_vote(&self, vote: Vote, done: Done) {
        self.shared().index().set_vote(vote);
        self.shared().queue.push(Command::Vote { vote, done });
    }

    /// Drops everything above `after`, or everything when `None`.
    pub fn truncate_after(&self, after: Option<LogId>) {
        let shared = self.shared();
        let next = after.map_or(0, |id| id.index + 1);
        shared.index().truncate(next);
        shared.flushed.send_if_modified(|flushed| {
            let lower = *flushed > next;
            *flushed = (*flushed).min(next);
            lower
        });
        shared.rotten.forget(next..);
        shared.rotten.changed();
        shared.queue.push(Command::Truncate { after });
    }

    /// Drops everything up to and including `upto`, which lies above the last entry when a snapshot from elsewhere
    /// takes its place. Durable, and the space given back, when [`LogStore::purged`] says so.
    pub fn purge(&self, upto: LogId) {
        let shared = self.shared();
        shared.index().purge(upto);
        shared.rotten.forget(..=upto.index);
        shared.rotten.changed();
        shared.queue.push(Command::Purge { upto });
    }

    /// Remembers the committed position; written behind the entries, never fsynced on its own.
    pub fn save_committed(&self, committed: Option<LogId>) {
        self.shared().index().committed = committed;
        self.shared().queue.push(Command::Committed { committed });
    }

    /// The first index that is not durable yet.
    pub fn flushed(&self) -> watch::Receiver<u64> {
        self.shared().flushed.subscribe()
    }

    /// Waits until the entry at `index` is durable here. False when the store stops before.
    pub fn wait_flushed(&self, index: u64) -> bool {
        let shared = self.shared();
        let waiting = |_: &mut Index| {
            *shared.flushed.borrow() <= index
                && !shared.stopping.load(Ordering::Relaxed)
                && shared.fatal.borrow().is_none()
        };
        drop(shared.flush_wake.wait_while(shared.index(), waiting).unwrap_or_else(PoisonError::into_inner));
        *shared.flushed.borrow() > index
    }

    /// The store stops, or has stopped.
    pub(crate) fn stops(&self) -> bool {
        self.shared().stopping.load(Ordering::Relaxed)
    }

    /// Set once, when the store can no longer promise anything: the node must stop.
    pub fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.shared().fatal.subscribe()
    }

    /// Stops the node by [`LogStore::fatal`]: something that must not fail did.
    pub fn fail(&self, why: impl Into<String>) {
        self.shared().fail(why.into());
    }

    /// Writes what is queued, ends the writer thread and waits for it.
    pub fn shutdown(&self) {
        self.shared().stop();
        self.shared().queue.push(Command::Stop);
        let thread = self.inner.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the log writer thread panicked");
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.shared.stop();
        self.shared.queue.push(Command::Stop);
    }
}
