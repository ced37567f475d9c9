//! The performer: carries out the ledger's effects on this node's disk, in log order.
//!
//! One thread. It acts only on entries that this node has flushed, so that the disk never runs
//! ahead of the log. Every effect is idempotent: after a crash all of them are simply done again,
//! and an epoch that is published already costs one look at its manifest.
//!
//! **Never.** It has no say in what is accepted, and an effect that cannot be done here never stops
//! the node: the epoch is *unpublished here*, with its reason, and is tried again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::store::{Publish, Store, Unpacked};
use checkpoint::{JobName, RelPath};
use tokio::sync::watch;

use crate::ledger::{Effect, PublishEpoch};
use crate::store::LogStore;

/// An epoch that could not be published here is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Apply waits while the effects that are queued take more than about this many bytes.
const BACKLOG_BYTES_MAX: usize = 32 << 20;
/// At most this many entries are performed before their marks move.
const BATCH_ENTRIES_MAX: usize = 512;

/// What became of a sealed epoch on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Publication {
    /// Sealed, not yet a directory here.
    Pending,
    /// A directory here.
    Published,
    /// It could not be made a directory here, and why; it is tried again.
    Unpublished(String),
}

struct Work {
    index: u64,
    effects: Vec<Effect>,
    /// About what the effects take in memory, in bytes.
    weight: usize,
}

fn weight(effects: &[Effect]) -> usize {
    let of = |effect: &Effect| match effect {
        Effect::Unpack { files, .. } => 128 * files.len(),
        Effect::Publish(epoch) => 256 * epoch.manifest.entries.len(),
        Effect::Expire { .. } | Effect::Discard { .. } => 0,
    };
    64 + effects.iter().map(of).sum::<usize>()
}

#[derive(Default)]
struct State {
    queue: VecDeque<Work>,
    stop: bool,
    /// Sealed epochs that are no directory yet.
    waiting: BTreeMap<(JobName, u64), Publication>,
    /// Attempts whose unpacked files nobody has fsynced.
    unpacking: usize,
}

struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    /// All effects below this index are done.
    performed: watch::Sender<u64>,
    /// Counts publications and failures to publish.
    changed: watch::Sender<u64>,
    /// Weight of what is queued.
    backlog: watch::Sender<usize>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The handle to the performer's thread.
pub struct Performer {
    shared: Arc<Shared>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl Performer {
    /// Starts the thread; everything below `performed` is done already.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(store: Arc<Store>, log: LogStore, performed: u64) -> std::io::Result<Performer> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            wake: Condvar::new(),
            performed: watch::Sender::new(performed),
            changed: watch::Sender::new(0),
            backlog: watch::Sender::new(0),
        });
        let worker = Worker {
            shared: shared.clone(),
            store,
            log,
            attempts: BTreeMap::new(),
            failed: Vec::new(),
            expired: BTreeSet::new(),
            retry_at: None,
        };
        let (ended, log) = (shared.clone(), worker.log.clone());
        let thread = std::thread::Builder::new().name("performer".into()).spawn(move || {
            if catch_unwind(AssertUnwindSafe(|| worker.run())).is_err() {
                log.fail("the performer panicked");
            }
            // Nobody waits for what is not done any more.
            ended.backlog.send_replace(0);
        })?;
        Ok(Performer { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Hands over the effects of the entry at `index`; indexes ascend. Never waits.
    pub fn submit(&self, index: u64, effects: Vec<Effect>) {
        let mut state = self.shared.state();
        for effect in &effects {
            match effect {
                Effect::Publish(epoch) => {
                    state.waiting.insert((epoch.job.clone(), epoch.epoch), Publication::Pending);
                }
                Effect::Expire { job, epoch } => {
                    state.waiting.remove(&(job.clone(), *epoch));
                }
                _ => {}
            }
        }
        let weight = weight(&effects);
        self.shared.backlog.send_modify(|backlog| *backlog += weight);
        state.queue.push_back(Work { index, effects, weight });
        self.shared.wake.notify_one();
    }

    /// Waits until the queue is short enough to take more.
    pub async fn room(&self) {
        // The sender lives as long as this handle.
        let _ = self.shared.backlog.subscribe().wait_for(|backlog| *backlog <= BACKLOG_BYTES_MAX).await;
    }

    /// What became of an epoch that the ledger has sealed.
    pub fn publication(&self, job: &JobName, epoch: u64) -> Publication {
        let state = self.shared.state();
        state.waiting.get(&(job.clone(), epoch)).cloned().unwrap_or(Publication::Published)
    }

    /// Changes whenever an epoch was published or could not be.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    /// The index below which all effects are done.
    pub fn performed(&self) -> watch::Receiver<u64> {
        self.shared.performed.subscribe()
    }

    /// True when nothing is queued, unpublished or half unpacked: the disk shows all of the ledger.
    pub fn is_idle(&self) -> bool {
        let state = self.shared.state();
        state.queue.is_empty() && state.waiting.is_empty() && state.unpacking == 0
    }

    /// Ends the thread after what it is doing now, and waits for it.
    pub fn shutdown(&self) {
        self.shared.state().stop = true;
        self.shared.wake.notify_all();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the performer thread panicked");
        }
    }
}

/// A payload in the log that holds small files of an attempt.
struct Packed {
    index: u64,
    files: Vec<(RelPath, u32, u32, u32)>,
}

#[derive(Default)]
struct Attempt {
    packs: Vec<Packed>,
    /// The first thing that went wrong while unpacking.
    failed: Option<String>,
}

struct Worker {
    shared: Arc<Shared>,
    store: Arc<Store>,
    log: LogStore,
    attempts: BTreeMap<u64, Attempt>,
    failed: Vec<PublishEpoch>,
    /// Of `failed`, those that have expired since: they go as soon as they were published.
    expired: BTreeSet<(JobName, u64)>,
    retry_at: Option<Instant>,
}

impl Worker {
    fn run(mut self) {
        while let Some(batch) = self.next_batch() {
            if let Some(last) = batch.last().map(|work| work.index) {
                let weight: usize = batch.iter().map(|work| work.weight).sum();
                self.perform(batch);
                self.shared.backlog.send_modify(|backlog| *backlog = backlog.saturating_sub(weight));
                self.shared.state().unpacking = self.attempts.len();
                self.shared.performed.send_replace(last + 1);
            }
            if self.retry_at.is_some_and(|at| at <= Instant::now()) {
                self.retry();
            }
        }
    }

    /// Waits for flushed work; empty when it is time to retry, `None` when it is time to stop.
    fn next_batch(&self) -> Option<Vec<Work>> {
        let mut state = self.shared.state();
        let first = loop {
            if state.stop {
                return None;
            }
            if let Some(work) = state.queue.front() {
                break work.index;
            }
            let patience = self
                .retry_at
                .map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            if patience.is_zero() {
                return Some(Vec::new());
            }
            state = self.shared.wake.wait_timeout(state, patience).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(state);
        if !self.log.wait_flushed(first) {
            return None;
        }
        let flushed = *self.log.flushed().borrow();
        let mut state = self.shared.state();
        let ready =
            state.queue.iter().take(BATCH_ENTRIES_MAX).take_while(|work| work.index < flushed).count();
        Some(state.queue.drain(..ready).collect())
    }

    fn perform(&mut self, batch: Vec<Work>) {
        let done = self.published_already(&batch);
        let mut publishing = Vec::new();
        for Work { effects, .. } in batch {
            for effect in effects {
                match effect {
                    Effect::Unpack { attempt, index, files } => {
                        if !done.contains(&attempt) {
                            self.unpack(attempt, Packed { index, files });
                        }
                    }
                    // Also when it is there already: that makes sure of its name, and clears what was built again.
                    Effect::Publish(epoch) => {
                        if done.contains(&epoch.attempt) {
                            self.attempts.remove(&epoch.attempt);
                        }
                        publishing.push(epoch);
                    }
                    Effect::Expire { job, epoch } => {
                        self.publish(std::mem::take(&mut publishing));
                        self.expire(&job, epoch);
                    }
                    Effect::Discard { attempt } => {
                        self.publish(std::mem::take(&mut publishing));
                        self.attempts.remove(&attempt);
                        if let Err(error) = self.store.discard(attempt) {
                            tracing::warn!(attempt, %error, "cannot remove what was built for an ended attempt; it stays until the next start");
                        }
                    }
                }
            }
        }
        self.publish(publishing);
    }

    /// Attempts of the batch whose epoch is a directory here already (a restart redoes everything).
    fn published_already(&self, batch: &[Work]) -> BTreeSet<u64> {
        let mut done = BTreeSet::new();
        for effect in batch.iter().flat_map(|work| &work.effects) {
            if let Effect::Publish(epoch) = effect
                && let Ok(Some(root)) = self.store.published(&epoch.job, epoch.epoch)
                && root == epoch.envelope.root
            {
                done.insert(epoch.attempt);
            }
        }
        done
    }

    fn unpack(&mut self, attempt: u64, packed: Packed) {
        let first = !self.attempts.contains_key(&attempt);
        let result =
            if first { self.store.discard(attempt).map_err(|error| error.to_string()) } else { Ok(()) };
        let result = result.and_then(|()| self.unpack_one(attempt, &packed));
        let state = self.attempts.entry(attempt).or_default();
        state.packs.push(packed);
        if let Err(why) = result {
            state.failed.get_or_insert(why);
        }
    }

    fn unpack_one(&self, attempt: u64, packed: &Packed) -> Result<(), String> {
        let payload = self.log.payload(packed.index).map_err(|error| error.to_string())?;
        let files: Vec<Unpacked<'_>> = packed
            .files
            .iter()
            .map(|(path, mode, offset, len)| {
                let data = &payload[*offset as usize..*offset as usize + *len as usize];
                Unpacked { path, mode: *mode, data }
            })
            .collect();
        self.store.unpack(attempt, &files).map_err(|error| error.to_string())
    }

    /// Builds an attempt's tree anew, after something went wrong.
    fn unpack_again(&mut self, attempt: u64) -> Result<(), String> {
        self.store.discard(attempt).map_err(|error| error.to_string())?;
        let Some(state) = self.attempts.get(&attempt) else { return Ok(()) };
        for packed in &state.packs {
            self.unpack_one(attempt, packed)?;
        }
        if let Some(state) = self.attempts.get_mut(&attempt) {
            state.failed = None;
        }
        Ok(())
    }

    fn publish(&mut self, epochs: Vec<PublishEpoch>) {
        let mut ready = Vec::with_capacity(epochs.len());
        for epoch in epochs {
            let half_built = self.attempts.get(&epoch.attempt).is_some_and(|state| state.failed.is_some());
            match if half_built { self.unpack_again(epoch.attempt) } else { Ok(()) } {
                Ok(()) => ready.push(epoch),
                Err(why) => self.unpublished(epoch, why),
            }
        }
        if ready.is_empty() {
            return;
        }
        let batch: Vec<Publish> = ready
            .iter()
            .map(|epoch| Publish {
                attempt: epoch.attempt,
                envelope: epoch.envelope.clone(),
                manifest: epoch.manifest.clone(),
                sources: epoch.sources.clone(),
            })
            .collect();
        let results = self.store.publish(&batch);
        assert_eq!(results.len(), ready.len(), "publish answers for every epoch");
        for (epoch, result) in ready.into_iter().zip(results) {
            match result {
                Ok(()) => self.published(&epoch),
                Err(why) => self.unpublished(epoch, why.to_string()),
            }
        }
    }

    fn published(&mut self, epoch: &PublishEpoch) {
        self.attempts.remove(&epoch.attempt);
        self.shared.state().waiting.remove(&(epoch.job.clone(), epoch.epoch));
        self.shared.changed.send_modify(|count| *count += 1);
        if self.expired.remove(&(epoch.job.clone(), epoch.epoch)) {
            self.expire(&epoch.job, epoch.epoch);
        }
    }

    fn unpublished(&mut self, epoch: PublishEpoch, why: String) {
        tracing::warn!(job = %epoch.job, epoch = epoch.epoch, why, "the epoch is committed, but cannot be published on this node yet");
        if let Some(waiting) = self.shared.state().waiting.get_mut(&(epoch.job.clone(), epoch.epoch)) {
            *waiting = Publication::Unpublished(why.clone());
        }
        self.attempts.entry(epoch.attempt).or_default().failed.get_or_insert(why);
        self.failed.push(epoch);
        self.retry_at = Some(Instant::now() + RETRY_AFTER);
        self.shared.changed.send_modify(|count| *count += 1);
    }

    fn retry(&mut self) {
        self.retry_at = None;
        let again = std::mem::take(&mut self.failed);
        self.publish(again);
        self.shared.state().unpacking = self.attempts.len();
    }

    fn expire(&mut self, job: &JobName, epoch: u64) {
        // Later epochs may reuse what it holds: its blobs must still be made, then it goes.
        if self.failed.iter().any(|failed| failed.job == *job && failed.epoch == epoch) {
            self.expired.insert((job.clone(), epoch));
            return;
        }
        if let Err(error) = self.store.expire(job, epoch) {
            tracing::warn!(%job, epoch, %error, "the epoch has expired, but its directory cannot be removed yet");
        }
    }
}
