//! The performer: carries out the ledger's effects on this node's disk, in log order.
//!
//! One thread. It acts only on entries that this node has flushed, so that the disk never runs
//! ahead of the log. Every effect is idempotent: after a crash those above the newest snapshot are
//! simply done again, and an epoch that is published already costs one look at its manifest. What
//! became of each it reports to the [`Dues`]: what cannot be done is owed, and no start forgets it.
//!
//! **Never.** It has no say in what is accepted, and an effect that cannot be done here never stops
//! the node: the epoch is *unpublished here*, with its reason, and is tried again.

mod worker;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use checkpoint::JobName;
use checkpoint::store::Store;
use tokio::sync::watch;

use crate::dues::{Dues, EpochKey};
use crate::ledger::Effect;
use crate::store::LogStore;

use worker::Worker;

pub use crate::dues::Publication;

/// Apply waits while the effects that are queued take more than about this many bytes.
const BACKLOG_BYTES_MAX: usize = 32 << 20;

/// Effects of one entry.
struct Work {
    index: u64,
    effects: Vec<Effect>,
    /// About what the effects take in memory, in bytes.
    weight: usize,
}

/// What is asked of the thread, under one lock that is never held over a disk.
struct Orders {
    queue: VecDeque<Work>,
    stop: bool,
    retry_now: bool,
}

fn weight(effects: &[Effect]) -> usize {
    let of = |effect: &Effect| match effect {
        Effect::Unpack { files, .. } => 128 * files.len(),
        Effect::Publish(epoch) => 256 * epoch.manifest.entries.len(),
        Effect::RemoveJob { .. } => 128,
        Effect::Expire { released, .. } | Effect::Discard { released, .. } => 48 * released.len(),
    };
    64 + effects.iter().map(of).sum::<usize>()
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
    /// Weight of what is queued.
    backlog: watch::Sender<usize>,
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

    fn end(&self) {
        self.orders().stop = true;
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
    /// Starts the thread; everything below `performed` is done already, but for what is due.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(crate) fn start(
        store: Arc<Store>,
        log: LogStore,
        performed: u64,
        dues: Arc<Dues>,
    ) -> std::io::Result<Performer> {
        let shared = Arc::new(Shared {
            dues,
            // What was owed before this start.
            orders: Mutex::new(Orders { queue: VecDeque::new(), stop: false, retry_now: true }),
            wake: Condvar::new(),
            progress: Condvar::new(),
            working: Mutex::new(()),
            performed: watch::Sender::new(performed),
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
        self.shared.backlog.send_modify(|backlog| *backlog += weight);
        orders.queue.push_back(Work { index, effects, weight });
        self.shared.wake.notify_one();
    }

    /// Waits until the queue is short enough to take more.
    pub async fn room(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.backlog.subscribe().wait_for(|backlog| *backlog <= BACKLOG_BYTES_MAX).await;
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
        {
            let mut orders = self.shared.orders();
            orders.queue.clear();
            orders.retry_now = true;
        }
        self.shared.backlog.send_replace(0);
        self.shared.move_to(performed);
        self.shared.wake.notify_one();
    }

    /// Ends the thread after what it is doing now, and waits for it.
    pub fn shutdown(&self) {
        self.shared.orders().stop = true;
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
