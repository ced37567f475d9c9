//! The performer: carries out the ledger's effects on this node's disk, in log order.
//!
//! One thread. It acts only on entries that this node has flushed, so that the disk never runs
//! ahead of the log. Every effect is idempotent: after a crash those above the newest snapshot are
//! simply done again, and an epoch that is published already costs one look at its manifest. What
//! cannot be done is owed, and written into every snapshot ([`Debts`]), so that no start forgets it.
//!
//! **Never.** It has no say in what is accepted, and an effect that cannot be done here never stops
//! the node: the epoch is *unpublished here*, with its reason, and is tried again.

mod books;
mod worker;

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use checkpoint::store::Store;
use checkpoint::{Digest, JobName};
use tokio::sync::watch;

use crate::ledger::{Effect, Ledger, PublishEpoch};
use crate::snapshot::{Debts, Owed};
use crate::store::LogStore;

use books::{Absent, Books, Work};
use worker::Worker;

/// Apply waits while the effects that are queued take more than about this many bytes.
const BACKLOG_BYTES_MAX: usize = 32 << 20;

/// What became of a sealed epoch on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// Nobody has looked yet, since the start, whether its directory is still here.
    NotLooked,
    /// Sealed, not yet a directory here.
    Pending,
    /// A directory here.
    Published,
    /// It could not be made a directory here, and why; it is tried again.
    Unpublished(String),
}

fn weight(effects: &[Effect]) -> usize {
    let of = |effect: &Effect| match effect {
        Effect::Unpack { files, .. } => 128 * files.len(),
        Effect::Publish(epoch) => 256 * epoch.manifest.entries.len(),
        Effect::Expire { released, .. } | Effect::Discard { released, .. } => 48 * released.len(),
    };
    64 + effects.iter().map(of).sum::<usize>()
}

/// What the handle and the thread share.
struct Shared {
    books: Mutex<Books>,
    /// Woken when there is something to do.
    wake: Condvar,
    /// Woken, with the books locked, when `performed` moves or the thread ends.
    progress: Condvar,
    /// Held by the thread while it works on the disk: who holds it has stopped the performer.
    working: Mutex<()>,
    /// All effects below this index are done.
    performed: watch::Sender<u64>,
    /// Counts publications and failures to publish.
    changed: watch::Sender<u64>,
    /// Weight of what is queued.
    backlog: watch::Sender<usize>,
}

impl Shared {
    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn move_to(&self, performed: u64) {
        let _books = self.books();
        self.performed.send_replace(performed);
        self.progress.notify_all();
    }

    fn end(&self) {
        self.books().stop = true;
        self.progress.notify_all();
        // Nobody waits for what is not done any more.
        self.backlog.send_replace(0);
    }
}

/// The handle to the performer's thread.
pub struct Performer {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

/// The directory of an epoch stays while this lives, also when the epoch expires.
pub struct Reader {
    shared: Arc<Shared>,
    key: (JobName, u64),
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut books = self.shared.books();
        if books.reader_left(&self.key) {
            books.retry_now = true;
            self.shared.wake.notify_one();
        }
    }
}

/// The performer stands still while this lives.
pub struct Paused<'a>(#[allow(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl Performer {
    /// Starts the thread; everything below `performed`, which is where `ledger` stands, is done already, but for the
    /// `debts`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        store: Arc<Store>,
        log: LogStore,
        performed: u64,
        debts: Debts,
        ledger: &Ledger,
    ) -> std::io::Result<Performer> {
        let shared = Arc::new(Shared {
            books: Mutex::new(Books::new(performed, debts, ledger)),
            wake: Condvar::new(),
            progress: Condvar::new(),
            working: Mutex::new(()),
            performed: watch::Sender::new(performed),
            changed: watch::Sender::new(0),
            backlog: watch::Sender::new(0),
        });
        let worker = Worker::new(shared.clone(), store, log.clone());
        let ended = shared.clone();
        let thread = std::thread::Builder::new().name("performer".into()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                log.fail("the performer panicked");
            }
            ended.end();
        })?;
        Ok(Performer { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Hands over the effects of the entry at `index`; indexes ascend. Never waits.
    pub(crate) fn submit(&self, index: u64, effects: Vec<Effect>) {
        let weight = weight(&effects);
        let mut books = self.shared.books();
        if books.stop {
            return;
        }
        for effect in &effects {
            match effect {
                Effect::Publish(epoch) => books.wait_for(epoch),
                Effect::Expire { job, epoch, .. } => books.wait_no_more(&(job.clone(), *epoch)),
                _ => {}
            }
        }
        self.shared.backlog.send_modify(|backlog| *backlog += weight);
        books.queue.push_back(Work { index, effects, weight });
        self.shared.wake.notify_one();
    }

    /// Waits until the queue is short enough to take more.
    pub async fn room(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.backlog.subscribe().wait_for(|backlog| *backlog <= BACKLOG_BYTES_MAX).await;
    }

    /// What became of an epoch that the ledger has sealed.
    pub fn publication(&self, job: &JobName, epoch: u64) -> Publication {
        self.shared.books().publication(&(job.clone(), epoch))
    }

    /// Changes whenever an epoch was published or could not be.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// The index below which all effects are done.
    pub fn performed(&self) -> watch::Receiver<u64> {
        self.shared.performed.subscribe()
    }

    /// Waits until the effects of the entry at `index` are done. False when the thread ends before.
    pub(crate) fn wait_performed(&self, index: u64) -> bool {
        let waiting = |books: &mut Books| *self.shared.performed.borrow() <= index && !books.stop;
        let books = self.shared.books();
        drop(self.shared.progress.wait_while(books, waiting).unwrap_or_else(PoisonError::into_inner));
        *self.shared.performed.borrow() > index
    }

    /// What is owed of the records up to and including `index`, all of which were performed.
    pub(crate) fn debts(&self, index: u64) -> Debts {
        self.shared.books().debts(index)
    }

    /// Owes more: content whose blobs may be here without anybody referring to it, and folders of epochs that have
    /// expired.
    pub(crate) fn owe(
        &self,
        index: u64,
        contents: impl IntoIterator<Item = (Digest, u64)>,
        expired: impl IntoIterator<Item = (JobName, u64)>,
    ) {
        let mut books = self.shared.books();
        for (digest, bytes) in contents {
            books.owe(digest, Owed { index, bytes });
        }
        books.expiring.extend(expired.into_iter().map(|epoch| (epoch, index)));
        if !books.expiring.is_empty() {
            books.retry_now = true;
            self.shared.wake.notify_one();
        }
    }

    /// True once after files were unpacked since it was last asked: nobody has synced them.
    pub(crate) fn take_unsynced(&self) -> bool {
        std::mem::take(&mut self.shared.books().unsynced)
    }

    /// The attempt below which alone the log may be purged: its packs are needed and nowhere else.
    pub(crate) fn needs_log_from(&self) -> Option<u64> {
        self.shared.books().needs_log_from()
    }

    /// Content that nobody holds since a record below `purged`: what [`Performer::paid`] takes off, each with the index
    /// that released it.
    pub(crate) fn ripe(&self, purged: u64) -> Vec<(Digest, u64)> {
        let books = self.shared.books();
        let ripe = books.released.iter().filter(|(_, owed)| owed.index < purged);
        ripe.map(|(digest, owed)| (*digest, owed.index)).collect()
    }

    /// Contents, their bytes, and ended attempts that wait to be given back.
    pub(crate) fn owed_summary(&self) -> (u64, u64, u64) {
        let books = self.shared.books();
        let bytes = books.released.values().map(|owed| owed.bytes).sum();
        (books.released.len() as u64, bytes, books.ended.len() as u64)
    }

    /// This content is not owed any more, unless it was released again since `index`.
    pub(crate) fn paid(&self, digest: &Digest, index: u64) {
        let mut books = self.shared.books();
        if books.released.get(digest).is_some_and(|owed| owed.index == index) {
            books.released.remove(digest);
        }
    }

    /// Takes note of the attempts that have a folder in staging: one that is not open (`is_open`), begun before
    /// `applied` and not waiting here has ended, at the latest by the last applied record.
    pub(crate) fn note_staging(&self, found: &BTreeSet<u64>, applied: u64, is_open: &dyn Fn(u64) -> bool) {
        self.shared.books().note_staging(found, applied, is_open);
    }

    /// Ended attempts whose Begin and end both lie below `purged`.
    pub(crate) fn sweepable(&self, purged: u64) -> Vec<u64> {
        let books = self.shared.books();
        let busy = books.busy_attempts();
        let ended =
            books.ended.iter().filter(|(id, at)| **id < purged && **at < purged && !busy.contains(id));
        ended.map(|(id, _)| *id).collect()
    }

    /// These folders are gone.
    pub(crate) fn swept(&self, attempts: &[u64]) {
        let mut books = self.shared.books();
        books.ended.retain(|id, _| !attempts.contains(id));
    }

    /// All that was sealed before was looked for: what is not noted as missing is a directory here.
    pub(crate) fn looked(&self) {
        self.shared.books().looked();
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// The log is long: what could not be published here holds it for its packs no longer. Such epochs are missing
    /// from now on, and come from peers.
    pub(crate) fn let_go(&self) {
        if self.shared.books().let_go() {
            self.shared.changed.send_modify(|count| *count += 1);
        }
    }

    /// Takes note that a sealed epoch has no directory here, unless it is just waiting for it.
    pub(crate) fn note_missing(&self, job: JobName, epoch: u64, attempt: u64, root: Digest, why: &str) {
        let mut books = self.shared.books();
        let key = (job, epoch);
        if !books.waits(&key) {
            books.missing.insert(key, Absent { attempt, root, why: why.to_owned() });
            self.shared.changed.send_modify(|count| *count += 1);
        }
    }

    /// Sealed epochs that are noted as missing.
    pub(crate) fn missing(&self) -> Vec<((JobName, u64), u64, Digest, String)> {
        let books = self.shared.books();
        let each = books.missing.iter();
        each.map(|(key, absent)| (key.clone(), absent.attempt, absent.root, absent.why.clone())).collect()
    }

    /// Epochs that could not be published and have not expired, each with the reason.
    pub(crate) fn unpublished(&self) -> Vec<(PublishEpoch, String)> {
        let books = self.shared.books();
        let kept = books.failed.values().filter(|failed| failed.expired.is_none());
        kept.map(|failed| (failed.epoch.clone(), failed.why.clone())).collect()
    }

    /// The epoch was published by somebody else.
    pub(crate) fn adopted(&self, job: &JobName, epoch: u64) {
        let mut books = self.shared.books();
        books.found(&(job.clone(), epoch));
        // Whoever failed before finds it there, and settles its own accounts.
        books.retry_now = true;
        self.shared.wake.notify_one();
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Tries now what could not be done before.
    pub(crate) fn retry_now(&self) {
        self.shared.books().retry_now = true;
        self.shared.wake.notify_one();
    }

    /// Keeps the directory of an epoch, if it is there; whether it is, the caller sees afterwards.
    pub(crate) fn reader(&self, job: &JobName, epoch: u64) -> Reader {
        let key = (job.clone(), epoch);
        *self.shared.books().readers.entry(key.clone()).or_default() += 1;
        Reader { shared: self.shared.clone(), key }
    }

    /// Whether somebody reads this epoch.
    pub(crate) fn is_read(&self, job: &JobName, epoch: u64) -> bool {
        self.shared.books().readers.contains_key(&(job.clone(), epoch))
    }

    /// Waits until the thread has done what it is at, and holds it there.
    pub(crate) fn pause(&self) -> Paused<'_> {
        Paused(self.shared.working.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether what is in the tree of this attempt is from another life.
    pub(crate) fn has_old_tree(&self, attempt: u64) -> bool {
        self.shared.books().has_old_tree(attempt)
    }

    /// What is in the tree of this attempt stays from now on.
    pub(crate) fn begin_tree(&self, _paused: &Paused<'_>, attempt: u64) {
        self.shared.books().trees.entry(attempt).or_default();
    }

    /// Forgets everything and goes on behind another ledger, which stands right below `performed`.
    pub(crate) fn reset(&self, _paused: &Paused<'_>, performed: u64, debts: Debts, ledger: &Ledger) {
        let mut books = self.shared.books();
        let (stop, readers) = (books.stop, std::mem::take(&mut books.readers));
        *books = Books::new(performed, debts, ledger);
        (books.stop, books.readers) = (stop, readers);
        drop(books);
        self.shared.backlog.send_replace(0);
        self.shared.move_to(performed);
        self.shared.changed.send_modify(|count| *count += 1);
        self.shared.wake.notify_one();
    }

    /// Ends the thread after what it is doing now, and waits for it.
    pub fn shutdown(&self) {
        self.shared.books().stop = true;
        self.shared.wake.notify_all();
        self.shared.progress.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the performer thread panicked");
        }
    }
}
