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
//! the writer: they run inside the consensus loop. Nothing here deletes a staged file.
//!
//! Chunks lie in place; every other payload (packs and whole epochs, at most 1 MiB) lies inline in
//! the WAL next to its header: one sequential write and one fdatasync instead of two.

mod cache;
mod frame;
mod index;
mod mark;
mod payload;
mod recover;
mod wal;
mod writer;

use std::io;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use checkpoint::disk::Disk;
use checkpoint::store::layout::Layout;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::record::{Body, Entry, LogId, LogRecord};
use crate::shape;

use index::{Index, Place, Slot};
use payload::PayloadFiles;
use writer::{Command, Queue};

pub use recover::{OpenError, Recovered};

/// Who owns a data folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Node id.
    pub node: u64,
    /// Random, made once when the data folder was made.
    pub incarnation: [u8; 16],
}

/// A Raft vote, in this crate's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Vote {
    /// Term.
    pub term: u64,
    /// The candidate that was voted for.
    pub node: u64,
    /// A quorum granted it.
    pub committed: bool,
}

/// Sizes of a log store.
#[derive(Debug, Clone)]
pub struct Options {
    /// A WAL segment is closed when it reaches this many bytes.
    pub segment_bytes: u64,
    /// Durable payloads kept in memory for replication, in bytes.
    pub cache_bytes: usize,
    /// The durable mark is written at least this often while there are writes.
    pub mark_interval: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options { segment_bytes: 64 << 20, cache_bytes: 32 << 20, mark_interval: Duration::from_secs(1) }
    }
}

/// Called once when everything up to and including the call that it came with is durable.
pub type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The log of one Raft group on one node. Clones share it.
#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// What the callers and the writer thread share.
struct Shared {
    disk: Arc<dyn Disk>,
    layout: Layout,
    owner: Identity,
    index: Mutex<Index>,
    queue: Queue,
    files: PayloadFiles,
    segments: wal::SegmentReader,
    flushed: watch::Sender<u64>,
    /// Woken, with the index locked, whenever `flushed` grows or the store stops.
    flush_wake: Condvar,
    fatal: watch::Sender<Option<String>>,
    stopping: AtomicBool,
}

impl Shared {
    /// A poisoned lock means that a thread of ours panicked: the index is still consistent, because
    /// every change under it is made of infallible steps.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing more is promised: whoever watches [`LogStore::fatal`] stops the node.
    fn fail(&self, why: String) {
        let _index = self.index();
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            fatal.get_or_insert(why);
            first
        });
        self.flush_wake.notify_all();
    }

    fn stop(&self) {
        let _index = self.index();
        self.stopping.store(true, Ordering::Relaxed);
        self.flush_wake.notify_all();
    }
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
                    shared.fail("the log writer panicked".into());
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

    /// The newest membership at or below `upto`, as the `raft` crate encoded it.
    ///
    /// # Errors
    /// When its header cannot be read back.
    pub fn last_membership(&self, upto: u64) -> io::Result<Option<(LogId, Bytes)>> {
        let Some(at) = self.shared().index().last_membership(upto) else { return Ok(None) };
        for entry in self.headers(at..at + 1)? {
            if let Body::Membership(bytes) = entry.body {
                return Ok(Some((entry.id, bytes)));
            }
        }
        Ok(None)
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
        self.shared().index().vote = Some(vote);
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
        shared.queue.push(Command::Truncate { after });
    }

    /// Drops everything up to and including `upto`.
    pub fn purge(&self, upto: LogId) {
        self.shared().index().purge(upto);
        self.shared().queue.push(Command::Purge { upto });
    }

    /// Remembers the committed position; written behind the entries, never fsynced on its own.
    pub fn save_committed(&self, committed: Option<LogId>) {
        self.shared().index().committed = committed;
        self.shared().queue.push(Command::Committed { committed });
    }

    /// The entries in `range` that the log holds, without payloads that lie outside the header.
    ///
    /// # Errors
    /// When a header cannot be read back or does not decode.
    pub fn headers(&self, range: Range<u64>) -> io::Result<Vec<Entry>> {
        let mut out = Vec::new();
        let mut next = range.start;
        while next < range.end {
            let slots = self.shared().index().slots(next..range.end.min(next + 256));
            let Some(last) = slots.last() else { break };
            next = last.id.index + 1;
            for slot in slots {
                out.push(self.header(slot)?);
            }
        }
        Ok(out)
    }

    fn header(&self, slot: Slot) -> io::Result<Entry> {
        let body = match slot.body {
            Some(body) => body,
            None => self.shared().segments.body(&slot)?,
        };
        Ok(Entry { id: slot.id, body })
    }

    /// Entries from `start` to below `end` with their payloads, at most about `max_bytes` of them
    /// but never fewer than one while `start` is held. Every payload read back from disk is checked
    /// against its digest before it is returned.
    ///
    /// # Errors
    /// When a header cannot be read back, or the store is shutting down while a damaged payload
    /// waits for its repair.
    pub fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let slots = self.shared().index().slots(start..end.min(start + 256));
        let mut out = Vec::with_capacity(slots.len());
        let mut bytes = 0usize;
        for slot in slots {
            let size = slot.payload_len as usize + slot.header_len as usize;
            if !out.is_empty() && bytes + size > max_bytes {
                break;
            }
            bytes += size;
            out.push(self.whole(slot, true)?);
        }
        Ok(out)
    }

    /// True when [`LogStore::read`] of `start..end` would not touch the disk.
    pub fn is_cached(&self, start: u64, end: u64, max_bytes: usize) -> bool {
        self.shared().index().is_cached(start..end, max_bytes)
    }

    fn whole(&self, slot: Slot, patient: bool) -> io::Result<Entry> {
        let payload_len = slot.payload_len;
        let cached = slot.payload.clone();
        let (id, place) = (slot.id, slot.place);
        let entry = self.header(slot)?;
        let Body::Record(record) = &entry.body else { return Ok(entry) };
        if payload_len == 0 {
            return Ok(entry);
        }
        let payload = match cached {
            Some(payload) => payload,
            None => self.read_back(id, place, record, patient)?,
        };
        let record = LogRecord::from_parts(record.header.clone(), payload);
        Ok(Entry { id, body: Body::Record(record) })
    }

    /// Reads a payload from disk and checks it. A damaged one is not a storage error (that would
    /// stop the whole node): a patient reader waits until the range is repaired.
    fn read_back(&self, id: LogId, place: Place, record: &LogRecord, patient: bool) -> io::Result<Bytes> {
        let shared = self.shared();
        let mut said = false;
        loop {
            let read = match place {
                Place::Inline { position } => shared.segments.inline(position, record.header.payload_bytes),
                Place::Staged | Place::Aside => shared.files.read(id.index, place, &record.header),
                Place::Pending => Err(io::Error::other("payload is neither cached nor placed")),
            };
            let why = match read {
                Ok(payload) => match shape::check_shape(&record.header, Some(&payload)) {
                    Ok(()) => return Ok(payload),
                    Err(why) => why.to_string(),
                },
                Err(why) => why.to_string(),
            };
            if !said {
                tracing::error!(position = %id, record = %record, why, "payload does not verify; nothing is served from it until it is repaired");
                said = true;
            }
            if !shared.index().holds(id) {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    format!("entry {id} is gone from the log"),
                ));
            }
            if !patient || shared.stopping.load(Ordering::Relaxed) {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("payload of {id}: {why}")));
            }
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    /// The payload of the record at `index`, checked.
    ///
    /// # Errors
    /// At once when the log does not hold it, or it does not verify.
    pub fn payload(&self, index: u64) -> io::Result<Bytes> {
        let slot = self.shared().index().slots(index..index + 1).pop();
        let slot =
            slot.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no log entry {index}")))?;
        match self.whole(slot, false)?.body {
            Body::Record(record) => Ok(record.payload),
            _ => Ok(Bytes::new()),
        }
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

/// Path of the folder that is renamed to `log/` once it is complete.
fn new_log_dir(layout: &Layout) -> std::path::PathBuf {
    let log: &Path = &layout.log_dir();
    log.with_extension("new")
}
