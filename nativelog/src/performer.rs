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
//! the node: the epoch is *unpublished here*, with its reason, and is tried again, by its tree in a file (`dues/tree_file.rs`).
//! Only an effect that is not known here any more does (`waiting`): it does not count as performed, and the log says it to
//! the next start.

mod again;
mod names;
mod orders;
mod shelver;
mod waiting;
mod worker;

use std::collections::{BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};

use checkpoint::store::Store;
use checkpoint::{Digest, JobName};
use tokio::sync::watch;

use crate::background::{UPKEEP, give_way};
use crate::dues::{Dues, EpochKey, Owed};
use crate::ledger::{Effect, Ledger};
use crate::plans::Plans;
use crate::store::LogStore;

use orders::{LetGo, Orders, Retry, Shared, Task, Trees, Work, weight};
use waiting::Shelf;
use worker::Worker;

pub use crate::dues::Publication;

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

/// What was queued and is not done any more. Trees that lie in files go with it.
#[must_use = "it may take long to drop"]
pub(crate) struct Forgotten(#[allow(dead_code, reason = "held, not read")] VecDeque<Work>);

impl Performer {
    /// Starts the threads; everything below `performed` is done already, but for what is due. What is above comes again:
    /// of the attempts that are `earlier` the epochs are directories here, so that nothing has to be unpacked for them.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        store: Arc<Store>,
        log: LogStore,
        plans: Arc<Plans>,
        ledger: Arc<RwLock<Ledger>>,
        performed: u64,
        dues: Arc<Dues>,
        earlier: BTreeSet<u64>,
    ) -> std::io::Result<Performer> {
        let shelf = Shelf::open(store.disk().clone(), store.layout().waiting_dir());
        // What was owed before this start, and nothing else: what fails later is not tried again at once.
        let retry_now = dues.has_to_try();
        let shared = Arc::new(Shared {
            dues,
            orders: Mutex::new(Orders {
                queue: VecDeque::new(),
                doing: LetGo::default(),
                trees: Trees::default(),
                stop: false,
                retry: Retry { all: retry_now, ..Retry::default() },
            }),
            wake: Condvar::new(),
            progress: Condvar::new(),
            working: Mutex::new(()),
            performed: watch::Sender::new(performed),
            crowded: Condvar::new(),
            behind: AtomicU64::new(0),
        });
        let worker = Worker::new(shared.clone(), store, log.clone(), plans, ledger, earlier);
        let ended = shared.clone();
        let shelving = shared.clone();
        let shelver = std::thread::Builder::new().name("epochs-waiting".into()).spawn(move || {
            give_way(UPKEEP);
            shelver::run(&shelving, &shelf);
        })?;
        let thread = std::thread::Builder::new().name("performer".into()).spawn(move || {
            give_way(UPKEEP);
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
                // Now: a snapshot that is installed takes the place of what is not performed yet.
                Effect::Heal { digest, bytes } => {
                    self.shared.dues.heal(*digest, Owed { index, bytes: *bytes });
                }
                _ => {}
            }
        }
        self.shared.behind.fetch_add(weight, Ordering::Relaxed);
        let work = Work { index, tasks: effects.into_iter().map(Task::Effect).collect(), weight };
        orders.trees.add(&work);
        if orders.trees.to_shelve().is_some() {
            self.shared.crowded.notify_one();
        }
        orders.queue.push_back(work);
        self.shared.wake.notify_one();
    }

    /// About how much is applied and not performed, in bytes: of content to write, and of what tells of it.
    pub fn behind(&self) -> u64 {
        self.shared.behind.load(Ordering::Relaxed)
    }

    /// Contents that nobody holds and attempts that have ended, by what is applied and not performed.
    pub(crate) fn lets_go(&self) -> (Vec<Digest>, Vec<u64>) {
        let orders = self.shared.orders();
        let LetGo { contents, attempts } = &orders.doing;
        let mut all = LetGo { contents: contents.clone(), attempts: attempts.clone() };
        orders.queue.iter().for_each(|work| all.add(work));
        (all.contents, all.attempts)
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

    /// The same, of the epoch of this attempt alone.
    pub(crate) fn retry(&self, attempt: u64) {
        self.shared.retry(attempt);
    }

    /// The same, of all that may have waited for what this epoch holds.
    pub(crate) fn retry_behind(&self, attempt: u64) {
        self.shared.retry_behind(attempt);
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

    /// Forgets what is queued and goes on at `performed`: another ledger has taken over, and the dues with it. Files
    /// go with the answer: drop it where nobody waits.
    pub(crate) fn reset(&self, _paused: &Paused<'_>, performed: u64) -> Forgotten {
        let forgotten = {
            let mut orders = self.shared.orders();
            orders.retry.all = true;
            orders.trees = Trees::default();
            self.shared.behind.store(0, Ordering::Relaxed);
            std::mem::take(&mut orders.queue)
        };
        self.shared.move_to(performed);
        self.shared.wake.notify_one();
        Forgotten(forgotten)
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
