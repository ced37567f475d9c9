//! The performer: carries out the ledger's effects on this node's disk, in log order.
//!
//! Apply hands over and never waits for it: how far it is [behind](Performer::behind) is told to leaders, which let
//! less in. What waits takes little memory: the trees of epochs lie in files (`waiting`) when there are many.
//!
//! One thread. It acts only on entries that this node has flushed, so that the disk never runs
//! ahead of the log. Every effect is idempotent: after a crash those above the newest snapshot are
//! simply done again, and an epoch that is published already costs one look at its manifest. What
//! became of each it reports to the [`Dues`]: what cannot be done is owed, and no start forgets it.
//!
//! **Never.** It has no say in what is accepted, and an effect that cannot be done here never stops
//! the node: the epoch is *unpublished here*, with its reason, and is tried again.

mod shelver;
mod waiting;
mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use checkpoint::JobName;
use checkpoint::store::Store;
use rustix::process::setpriority_process;
use tokio::sync::watch;

use crate::dues::{Dues, EpochKey};
use crate::ledger::Effect;
use crate::store::LogStore;

use waiting::{Shelf, Shelved};
use worker::Worker;

pub use crate::dues::Publication;

/// Trees of epochs that wait take at most about so many bytes of memory; those of more lie in files.
const TREES_BYTES_MAX: usize = 8 << 20;
/// About what an entry of a tree takes in memory, in bytes.
const ENTRY_BYTES: usize = 256;

/// Niceness of the threads: a thread of the log that wants the same core gets nine times as much of it.
const NICE: i32 = 10;

/// One thing to do.
enum Task {
    Effect(Effect),
    /// An epoch to publish, whose tree lies in a file.
    Shelved(Shelved),
}

/// Effects of one entry.
struct Work {
    index: u64,
    tasks: Vec<Task>,
    /// About how much there is to do, in bytes: of what is written, and of what tells of it.
    weight: u64,
}

/// What is asked of the thread, under one lock that is never held over a disk.
struct Orders {
    queue: VecDeque<Work>,
    /// About what the trees in the queue take in memory, in bytes.
    trees: usize,
    stop: bool,
    retry_now: bool,
}

fn tree_bytes(task: &Task) -> usize {
    match task {
        Task::Effect(Effect::Publish(epoch)) => ENTRY_BYTES * epoch.manifest.entries.len(),
        Task::Effect(_) | Task::Shelved(_) => 0,
    }
}

fn weight(effects: &[Effect]) -> u64 {
    let of = |effect: &Effect| match effect {
        Effect::Unpack { files, .. } => files.iter().map(|(_, _, _, len)| 128 + u64::from(*len)).sum(),
        Effect::Publish(epoch) => (ENTRY_BYTES * epoch.manifest.entries.len()) as u64,
        Effect::Latest { avoid, .. } => 8 * avoid.len() as u64,
        Effect::RemoveJob { .. } => 128,
        Effect::Expire { released, .. } | Effect::Discard { released, .. } => 48 * released.len() as u64,
    };
    64 + effects.iter().map(of).sum::<u64>()
}

/// What the handle and the thread share.
struct Shared {
    dues: Arc<Dues>,
    orders: Mutex<Orders>,
    /// Woken when there is something to do.
    wake: Condvar,
    /// Woken, with the orders locked, when `performed` moves or the thread ends.
    progress: Condvar,
    /// Held by the thread while it works on the disk: who holds it has stopped the performer.
    working: Mutex<()>,
    /// All effects below this index are done.
    performed: watch::Sender<u64>,
    /// Woken when trees may have to be put into files.
    crowded: Condvar,
    /// Weight of what is not done yet.
    behind: AtomicU64,
}

impl Shared {
    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn retry_now(&self) {
        self.orders().retry_now = true;
        self.wake.notify_one();
    }

    fn move_to(&self, performed: u64) {
        let _orders = self.orders();
        self.performed.send_replace(performed);
        self.progress.notify_all();
    }

    /// So much of what was queued is done. Nothing is, once another ledger has taken over.
    fn done(&self, weight: u64) {
        let _orders = self.orders();
        let behind = self.behind.load(Ordering::Relaxed);
        self.behind.store(behind.saturating_sub(weight), Ordering::Relaxed);
    }

    fn end(&self) {
        self.orders().stop = true;
        self.progress.notify_all();
        self.crowded.notify_all();
        self.behind.store(0, Ordering::Relaxed);
    }
}

/// Commits go first: this thread gets what they leave of the processors, and a tenth at least where they want all.
fn give_way() {
    if let Err(error) = setpriority_process(None, NICE) {
        tracing::debug!(%error, "a thread in the background has the priority of all others");
    }
}

/// The handle to the performer's thread.
pub struct Performer {
    shared: Arc<Shared>,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
}

/// The directory of an epoch stays while this lives, also when the epoch expires.
pub struct Reader {
    shared: Arc<Shared>,
    key: EpochKey,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.shared.dues.reader_left(&self.key) {
            self.shared.retry_now();
        }
    }
}

/// The performer stands still while this lives.
pub struct Paused<'a>(#[allow(dead_code, reason = "held, not read")] MutexGuard<'a, ()>);

impl Performer {
    /// Starts the threads; everything below `performed` is done already, but for what is due. What is above comes again:
    /// of the attempts that are `earlier` the epochs are directories here, so that nothing has to be unpacked for them.
    ///
    /// # Errors
    /// When the system gives no thread, or what a process before this one left cannot be removed.
    pub(crate) fn start(
        store: Arc<Store>,
        log: LogStore,
        performed: u64,
        dues: Arc<Dues>,
        earlier: BTreeSet<u64>,
    ) -> std::io::Result<Performer> {
        let shelf = Shelf::open(store.disk().clone(), store.layout().waiting_dir())?;
        // What was owed before this start, and nothing else: what fails later is not tried again at once.
        let retry_now = dues.has_to_try();
        let shared = Arc::new(Shared {
            dues,
            orders: Mutex::new(Orders { queue: VecDeque::new(), trees: 0, stop: false, retry_now }),
            wake: Condvar::new(),
            progress: Condvar::new(),
            working: Mutex::new(()),
            performed: watch::Sender::new(performed),
            crowded: Condvar::new(),
            behind: AtomicU64::new(0),
        });
        let worker = Worker::new(shared.clone(), store, log.clone(), earlier);
        let ended = shared.clone();
        let shelving = shared.clone();
        let shelver = std::thread::Builder::new().name("epochs-waiting".into()).spawn(move || {
            give_way();
            shelver::run(&shelving, &shelf);
        })?;
        let thread = std::thread::Builder::new().name("performer".into()).spawn(move || {
            give_way();
            if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                log.fail("the performer panicked");
            }
            ended.end();
        })?;
        Ok(Performer { shared, threads: Mutex::new(vec![thread, shelver]) })
    }

    /// Hands over the effects of the entry at `index`; indexes ascend. Never waits.
    pub(crate) fn submit(&self, index: u64, effects: Vec<Effect>) {
        let weight = weight(&effects);
        let mut orders = self.shared.orders();
        if orders.stop {
            return;
        }
        for effect in &effects {
            match effect {
                Effect::Publish(epoch) => self.shared.dues.sealed(epoch),
                Effect::Expire { job, epoch, .. } => self.shared.dues.expired(&(job.clone(), *epoch)),
                _ => {}
            }
        }
        self.shared.behind.fetch_add(weight, Ordering::Relaxed);
        let tasks: Vec<Task> = effects.into_iter().map(Task::Effect).collect();
        orders.trees += tasks.iter().map(tree_bytes).sum::<usize>();
        if orders.trees > TREES_BYTES_MAX {
            self.shared.crowded.notify_one();
        }
        orders.queue.push_back(Work { index, tasks, weight });
        self.shared.wake.notify_one();
    }

    /// About how much is applied and not performed, in bytes: of content to write, and of what tells of it.
    pub fn behind(&self) -> u64 {
        self.shared.behind.load(Ordering::Relaxed)
    }

    /// The index below which all effects are done.
    pub fn performed(&self) -> watch::Receiver<u64> {
        self.shared.performed.subscribe()
    }

    /// Waits until the effects of the entry at `index` are done. False when the thread ends before.
    pub(crate) fn wait_performed(&self, index: u64) -> bool {
        let waiting = |orders: &mut Orders| *self.shared.performed.borrow() <= index && !orders.stop;
        let orders = self.shared.orders();
        drop(self.shared.progress.wait_while(orders, waiting).unwrap_or_else(PoisonError::into_inner));
        *self.shared.performed.borrow() > index
    }

    /// Tries now what could not be done before.
    pub(crate) fn retry_now(&self) {
        self.shared.retry_now();
    }

    /// Keeps the directory of an epoch, if it is there; whether it is, the caller sees afterwards.
    pub(crate) fn reader(&self, job: &JobName, epoch: u64) -> Reader {
        let key = (job.clone(), epoch);
        self.shared.dues.reader_came(&key);
        Reader { shared: self.shared.clone(), key }
    }

    /// Waits until the thread has done what it is at, and holds it there.
    pub(crate) fn pause(&self) -> Paused<'_> {
        Paused(self.shared.working.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets what is queued and goes on at `performed`: another ledger has taken over, and the dues with it.
    pub(crate) fn reset(&self, _paused: &Paused<'_>, performed: u64) {
        let forgotten = {
            let mut orders = self.shared.orders();
            orders.retry_now = true;
            orders.trees = 0;
            self.shared.behind.store(0, Ordering::Relaxed);
            std::mem::take(&mut orders.queue)
        };
        // Files go with it, and not under the lock.
        drop(forgotten);
        self.shared.move_to(performed);
        self.shared.wake.notify_one();
    }

    /// Ends the threads after what they are doing now, and waits for them.
    pub fn shutdown(&self) {
        self.shared.orders().stop = true;
        self.shared.wake.notify_all();
        self.shared.progress.notify_all();
        self.shared.crowded.notify_all();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                tracing::error!("a thread of the performer panicked");
            }
        }
    }
}
