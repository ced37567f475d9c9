//! What is asked of the performer's threads, and what they share with the handle.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use checkpoint::Digest;
use tokio::sync::watch;

use super::waiting::Shelved;
use crate::dues::Dues;
use crate::ledger::{Effect, Released};

/// Trees of epochs that wait take at most about so many bytes of memory; those of more lie in files.
const TREES_BYTES_MAX: usize = 8 << 20;
/// A smaller tree is not worth a file.
const TREE_BYTES_MIN: usize = 64 << 10;
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
    pub trees: Trees,
    pub stop: bool,
    pub retry: Retry,
}

/// What could not be done before and is to be tried at once.
#[derive(Debug, Default)]
pub struct Retry {
    /// All of it.
    pub all: bool,
    /// All but epochs that wait for bytes from a store: whoever brings those names the one that has them.
    pub unstored: bool,
    /// The epochs of these attempts.
    pub attempts: BTreeSet<u64>,
}

impl Retry {
    pub fn is_nothing(&self) -> bool {
        !self.all && !self.unstored && self.attempts.is_empty()
    }

    /// Whether the epoch of this attempt is to be tried.
    pub fn asks(&self, attempt: u64, waits_for_store: bool) -> bool {
        self.all || self.unstored && !waits_for_store || self.attempts.contains(&attempt)
    }
}

/// The trees that are in the queue and in memory.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Trees {
    /// About what they take, in bytes.
    bytes: usize,
    /// Where those are that are worth a file, so that none is looked for in a long queue: index of the work, and which of
    /// its tasks.
    large: BTreeSet<(u64, usize)>,
}

impl Trees {
    /// The work is in the queue.
    pub fn add(&mut self, work: &Work) {
        for (at, task) in work.tasks.iter().enumerate() {
            let bytes = tree_bytes(task);
            self.bytes += bytes;
            if bytes >= TREE_BYTES_MIN {
                self.large.insert((work.index, at));
            }
        }
    }

    /// The work is not in the queue any more.
    pub fn remove(&mut self, work: &Work) {
        for (at, task) in work.tasks.iter().enumerate() {
            self.remove_one(work.index, at, task);
        }
    }

    /// One of its tasks is not.
    pub fn remove_one(&mut self, index: u64, at: usize, task: &Task) {
        self.bytes -= tree_bytes(task);
        self.large.remove(&(index, at));
    }

    /// Where the last one is that is worth a file, while all of them take too much memory.
    pub fn to_shelve(&self) -> Option<(u64, usize)> {
        if self.bytes > TREES_BYTES_MAX { self.large.last().copied() } else { None }
    }
}

fn tree_bytes(task: &Task) -> usize {
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
        self.orders().retry.all = true;
        self.wake.notify_one();
    }

    /// One epoch, of which something has come.
    pub fn retry(&self, attempt: u64) {
        self.orders().retry.attempts.insert(attempt);
        self.wake.notify_one();
    }

    /// One that is there now, and those that may have waited for what it holds.
    pub fn retry_behind(&self, attempt: u64) {
        let mut orders = self.orders();
        orders.retry.unstored = true;
        orders.retry.attempts.insert(attempt);
        drop(orders);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use checkpoint::store::Source;
    use checkpoint::{EntryKind, Envelope, JobName, Manifest, ManifestEntry, Position, RelPath};
    use proptest::prelude::*;

    use super::*;
    use crate::ledger::PublishEpoch;

    fn publish(entries: usize) -> Task {
        let job: JobName = "job".parse().unwrap();
        let entry = ManifestEntry {
            path: RelPath::root(),
            kind: EntryKind::Directory,
            mode: 0o755,
            size: 0,
            digest: Digest::NONE,
            target: Vec::new(),
        };
        let envelope = Envelope {
            job: job.clone(),
            epoch: 1,
            attempt: 1,
            position: Position { term: 1, node: 1, index: 1 },
            root: Digest::NONE,
            labels: Vec::new(),
            depends_on: Vec::new(),
            base: None,
            sealed_log_ms: 0,
        };
        Task::Effect(Effect::Publish(PublishEpoch {
            attempt: 1,
            job,
            epoch: 1,
            envelope,
            manifest: Arc::new(Manifest { entries: vec![entry; entries] }),
            sources: Arc::new(vec![Source::None; entries]),
        }))
    }

    fn heal() -> Task {
        Task::Effect(Effect::Heal { digest: Digest::NONE, bytes: 1 })
    }

    /// What is to be shelved, looked for in all of the queue.
    fn looked_for(queue: &VecDeque<Work>) -> Option<(u64, usize)> {
        let all =
            || queue.iter().flat_map(|work| work.tasks.iter().enumerate().map(|task| (work.index, task)));
        let bytes: usize = all().map(|(_, (_, task))| tree_bytes(task)).sum();
        let large = all().filter(|(_, (_, task))| tree_bytes(task) >= TREE_BYTES_MIN);
        let last = large.map(|(index, (at, _))| (index, at)).next_back();
        last.filter(|_| bytes > TREES_BYTES_MAX)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn the_last_large_tree_is_known_without_a_look(
            steps in prop::collection::vec((0u8..4, 0usize..3), 1..40),
        ) {
            // A few entries, as many as are worth a file, and most of what all may take.
            let sizes = [3, TREE_BYTES_MIN / ENTRY_BYTES, TREES_BYTES_MAX / ENTRY_BYTES / 2 + 1];
            let (mut queue, mut trees) = (VecDeque::new(), Trees::default());
            for (index, (step, size)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        if let Some(work) = queue.pop_front() {
                            trees.remove(&work);
                        }
                    }
                    1 => {
                        if let Some((index, at)) = trees.to_shelve() {
                            let work: Option<&mut Work> = queue.iter_mut().find(|work: &&mut Work| work.index == index);
                            let task = &mut work.expect("it is in the queue").tasks[at];
                            trees.remove_one(index, at, task);
                            *task = heal();
                        }
                    }
                    _ => {
                        let work = Work { index: index as u64, tasks: vec![heal(), publish(sizes[size])], weight: 1 };
                        trees.add(&work);
                        queue.push_back(work);
                    }
                }
                prop_assert_eq!(trees.to_shelve(), looked_for(&queue));
            }
            queue.drain(..).for_each(|work| trees.remove(&work));
            prop_assert_eq!(trees, Trees::default());
        }
    }
}
