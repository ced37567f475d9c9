//! What is asked of the performer's threads, and what they share with the handle.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;
use tokio::sync::watch;

use super::waiting::Shelved;
use crate::dues::Dues;
use crate::ledger::{Effect, Released};

/// Trees of epochs that wait take at most about so many bytes of memory; those of more lie in files.
pub const TREES_BYTES_MAX: usize = 8 << 20;
/// About what an entry of a tree takes in memory, in bytes.
const ENTRY_BYTES: usize = 256;

/// One thing to do.
pub enum Task {
    Effect(Effect),
    /// An epoch to publish, whose tree lies in a file.
    Shelved(Shelved),
}

/// Effects of one entry.
pub struct Work {
    pub index: u64,
    pub tasks: Vec<Task>,
    /// About how much there is to do, in bytes: of what is written, and of what tells of it.
    pub weight: u64,
}

/// What work lets go of: neither the ledger nor, before it is done, the dues know it.
#[derive(Default)]
pub struct LetGo {
    pub contents: Vec<Digest>,
    /// Attempts that have ended.
    pub attempts: Vec<u64>,
}

impl LetGo {
    pub fn add(&mut self, work: &Work) {
        for task in &work.tasks {
            match task {
                Task::Effect(Effect::Expire { released, .. }) => self.release(released),
                Task::Effect(Effect::Discard { attempt, released }) => {
                    self.attempts.push(*attempt);
                    self.release(released);
                }
                Task::Effect(Effect::Publish(epoch)) => self.attempts.push(epoch.attempt),
                Task::Shelved(shelved) => self.attempts.push(shelved.attempt),
                Task::Effect(
                    Effect::Unpack { .. }
                    | Effect::Latest { .. }
                    | Effect::Distrust { .. }
                    | Effect::Heal { .. }
                    | Effect::RemoveJob { .. },
                ) => {}
            }
        }
    }

    pub fn release(&mut self, released: &[Released]) {
        self.contents.extend(released.iter().map(|content| content.digest));
    }
}

/// What is asked of the thread, under one lock that is never held over a disk.
pub struct Orders {
    pub queue: VecDeque<Work>,
    /// Of what was taken from the queue and is being done.
    pub doing: LetGo,
    /// About what the trees in the queue take in memory, in bytes.
    pub trees: usize,
    pub stop: bool,
    pub retry_now: bool,
}

pub fn tree_bytes(task: &Task) -> usize {
    match task {
        Task::Effect(Effect::Publish(epoch)) => ENTRY_BYTES * epoch.manifest.entries.len(),
        Task::Effect(_) | Task::Shelved(_) => 0,
    }
}

pub fn weight(effects: &[Effect]) -> u64 {
    let of = |effect: &Effect| match effect {
        Effect::Unpack { files, .. } => files.iter().map(|(_, _, len)| 128 + u64::from(*len)).sum(),
        Effect::Publish(epoch) => (ENTRY_BYTES * epoch.manifest.entries.len()) as u64,
        Effect::Latest { avoid, .. } => 8 * avoid.len() as u64,
        Effect::RemoveJob { .. } | Effect::Distrust { .. } | Effect::Heal { .. } => 128,
        Effect::Expire { released, .. } | Effect::Discard { released, .. } => 48 * released.len() as u64,
    };
    64 + effects.iter().map(of).sum::<u64>()
}

/// What the handle and the thread share.
pub struct Shared {
    pub dues: Arc<Dues>,
    pub orders: Mutex<Orders>,
    /// Woken when there is something to do.
    pub wake: Condvar,
    /// Woken, with the orders locked, when `performed` moves or the thread ends.
    pub progress: Condvar,
    /// Held by the thread while it works on the disk: who holds it has stopped the performer.
    pub working: Mutex<()>,
    /// All effects below this index are done.
    pub performed: watch::Sender<u64>,
    /// Woken when trees may have to be put into files.
    pub crowded: Condvar,
    /// Weight of what is not done yet.
    pub behind: AtomicU64,
}

impl Shared {
    pub fn orders(&self) -> MutexGuard<'_, Orders> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn retry_now(&self) {
        self.orders().retry_now = true;
        self.wake.notify_one();
    }

    pub fn move_to(&self, performed: u64) {
        let mut orders = self.orders();
        orders.doing = LetGo::default();
        self.performed.send_replace(performed);
        self.progress.notify_all();
    }

    /// So much of what was queued is done. Nothing is, once another ledger has taken over.
    pub fn done(&self, weight: u64) {
        let _orders = self.orders();
        let behind = self.behind.load(Ordering::Relaxed);
        self.behind.store(behind.saturating_sub(weight), Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.orders().stop = true;
        self.progress.notify_all();
        self.crowded.notify_all();
        self.behind.store(0, Ordering::Relaxed);
    }
}
