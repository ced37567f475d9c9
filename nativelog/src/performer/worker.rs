//! The performer's thread: takes effects that are flushed, and does them.

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use checkpoint::disk::is_rot;
use checkpoint::store::{Publish, Source, Store, Unpacked, Unpublished};
use checkpoint::{Digest, JobName};

use super::again::{Again, Outlook};
use super::names::Names;
use super::orders::{LetGo, Retry, Shared, Task, Work};
use super::waiting::Shelved;
use crate::dues::{self, Origin, Pack, aside};
use crate::ledger::{Effect, Ledger, Page, PublishEpoch, Released};
use crate::plans::Plans;
use crate::store::LogStore;

/// A tree that waits in a file and cannot be read is read again after this long,
const READ_AGAIN_AFTER: Duration = Duration::from_millis(200);
/// for so long at most.
const READ_PATIENCE: Duration = Duration::from_secs(10);
/// At most this many entries are performed before their marks move.
const BATCH_ENTRIES_MAX: usize = 512;
/// And not more than about so much work, unless it is that of one entry.
const BATCH_WEIGHT_MAX: u64 = 32 << 20;
/// Trees of so many entries are tried again at a time: they are read for it.
const RETRY_ENTRIES: usize = 32 << 10;

pub struct Worker {
    shared: Arc<Shared>,
    store: Arc<Store>,
    log: LogStore,
    plans: Arc<Plans>,
    ledger: Arc<RwLock<Ledger>>,
    again: Again,
    earlier: BTreeSet<u64>,
}

impl Worker {
    pub fn new(
        shared: Arc<Shared>,
        store: Arc<Store>,
        log: LogStore,
        plans: Arc<Plans>,
        ledger: Arc<RwLock<Ledger>>,
        earlier: BTreeSet<u64>,
    ) -> Worker {
        let mut worker = Worker { shared, store, log, plans, ledger, again: Again::default(), earlier };
        worker.look_at_latest();
        worker
    }

    pub fn run(mut self) {
        let shared = self.shared.clone();
        while self.wait() {
            let _working = shared.working.lock().unwrap_or_else(PoisonError::into_inner);
            let batch = self.next_batch();
            if let Some(last) = batch.last().map(|work| work.index) {
                let weight: u64 = batch.iter().map(|work| work.weight).sum();
                if !self.perform(batch) {
                    return;
                }
                shared.done(weight);
                shared.move_to(last + 1);
            }
            let asked = std::mem::take(&mut shared.orders().retry);
            let now = Instant::now();
            if !asked.is_nothing() || self.again.next().is_some_and(|at| at <= now) {
                self.retry(&asked, now);
            }
            self.look_at_latest();
        }
    }

    /// Nobody waits for where it points, and no other record may come to move it.
    fn look_at_latest(&mut self) {
        if self.store.is_latest_behind() {
            self.again.latest_stays(Instant::now());
        }
    }

    /// Waits for flushed work or for the time to retry; false when it is time to stop.
    fn wait(&self) -> bool {
        let mut orders = self.shared.orders();
        let first = loop {
            if orders.stop {
                return false;
            }
            if !orders.retry.is_nothing() {
                return true;
            }
            if let Some(work) = orders.queue.front() {
                break work.index;
            }
            let patience = self
                .again
                .next()
                .map_or(Duration::from_secs(3600), |at| at.saturating_duration_since(Instant::now()));
            if patience.is_zero() {
                return true;
            }
            orders =
                self.shared.wake.wait_timeout(orders, patience).unwrap_or_else(PoisonError::into_inner).0;
        };
        drop(orders);
        self.log.wait_flushed(first)
    }

    fn next_batch(&self) -> Vec<Work> {
        let flushed = *self.log.flushed().borrow();
        let mut orders = self.shared.orders();
        let mut weight = 0;
        let fits = |work: &&Work| {
            weight += work.weight;
            work.index < flushed && (weight == work.weight || weight <= BATCH_WEIGHT_MAX)
        };
        let ready = orders.queue.iter().take(BATCH_ENTRIES_MAX).take_while(fits).count();
        let batch: Vec<Work> = orders.queue.drain(..ready).collect();
        batch.iter().for_each(|work| orders.trees.remove(work));
        let mut doing = LetGo::default();
        batch.iter().for_each(|work| doing.add(work));
        orders.doing = doing;
        batch
    }

    /// False when it is not all done: it is time to stop.
    fn perform(&mut self, batch: Vec<Work>) -> bool {
        let done = self.published_already(&batch);
        let mut publishing = Vec::new();
        for Work { index, tasks, .. } in batch {
            for task in tasks {
                let effect = match task {
                    Task::Effect(effect) => effect,
                    Task::Shelved(shelved) => match self.read(&shelved) {
                        Some(epoch) => Effect::Publish(epoch),
                        None => return false,
                    },
                };
                match effect {
                    Effect::Unpack { attempt, index, files, pages } => {
                        if !done.contains(&attempt) {
                            self.unpack(attempt, Pack { index, files }, &pages);
                        }
                    }
                    // Also when it is there already: that makes sure of its name, and clears what was built again.
                    Effect::Publish(epoch) => {
                        if done.contains(&epoch.attempt) {
                            self.shared.dues.forget_tree(epoch.attempt);
                        }
                        publishing.push(epoch);
                    }
                    Effect::Latest { job, avoid } => {
                        self.publish(std::mem::take(&mut publishing));
                        self.point_latest(&job, avoid);
                    }
                    Effect::Distrust { digest } => {
                        // In order: what was sealed before would read a copy that is not doubted yet.
                        self.publish(std::mem::take(&mut publishing));
                        self.store.distrust(digest);
                    }
                    // It is owed since it was submitted. Its bytes may come with what was sealed before.
                    Effect::Heal { .. } => self.publish(std::mem::take(&mut publishing)),
                    Effect::Expire { job, epoch, released } => {
                        self.publish(std::mem::take(&mut publishing));
                        self.store.avoid_no_more(&job, epoch);
                        self.expire(job, epoch, index, &released);
                    }
                    Effect::RemoveJob { job } => {
                        self.publish(std::mem::take(&mut publishing));
                        if let Err(error) = self.store.remove_job(&job) {
                            tracing::warn!(%job, %error, "the empty folder of a job that was removed stays");
                        }
                    }
                    Effect::Discard { attempt, released } => {
                        self.publish(std::mem::take(&mut publishing));
                        self.shared.dues.discard(attempt, index);
                        self.shared.dues.weigh(attempt, self.store.staged_bytes(attempt));
                        self.discard(attempt);
                        self.release(index, &released);
                    }
                }
            }
        }
        self.publish(publishing);
        true
    }

    /// Attempts of the batch whose epoch is a directory here already (a restart redoes what is above its snapshot).
    fn published_already(&self, batch: &[Work]) -> BTreeSet<u64> {
        let mut done = BTreeSet::new();
        for task in batch.iter().flat_map(|work| &work.tasks) {
            let (job, epoch, attempt, root) = match task {
                Task::Effect(Effect::Publish(epoch)) => {
                    (&epoch.job, epoch.epoch, epoch.attempt, epoch.envelope.root)
                }
                Task::Shelved(shelved) => (&shelved.job, shelved.epoch, shelved.attempt, shelved.root),
                Task::Effect(_) => continue,
            };
            if self.is_published(job, epoch, attempt, root) {
                done.insert(attempt);
            }
        }
        done
    }

    fn is_published(&self, job: &JobName, epoch: u64, attempt: u64, root: Digest) -> bool {
        let there = self.store.envelope(job, epoch);
        matches!(there, Ok(Some(there)) if (there.root, there.attempt) == (root, attempt))
    }

    /// An epoch that waited, with its tree. `None` when it is time to stop: when the tree does not read back, too. No other
    /// node has to have it, so that the node stops here, and the log says it anew to the next start.
    fn read(&self, shelved: &Shelved) -> Option<PublishEpoch> {
        let begun = Instant::now();
        loop {
            let error = match shelved.read() {
                Ok(epoch) => return Some(epoch),
                Err(error) => error,
            };
            let (job, epoch) = (&shelved.job, shelved.epoch);
            if error.kind() == io::ErrorKind::InvalidData || begun.elapsed() >= READ_PATIENCE {
                self.log.fail(format!(
                    "the tree of {job}@{epoch} waited to be published and does not read back: {error}"
                ));
                return None;
            }
            tracing::warn!(%job, epoch, %error, "the tree of an epoch that waited cannot be read; it is tried again");
            let (wake, orders) = (&self.shared.wake, self.shared.orders());
            let waited = wake.wait_timeout_while(orders, READ_AGAIN_AFTER, |orders| !orders.stop);
            if waited.unwrap_or_else(PoisonError::into_inner).0.stop {
                return None;
            }
        }
    }

    fn unpack(&self, attempt: u64, pack: Pack, pages: &[Page]) {
        if self.earlier.contains(&attempt) {
            // Should the directory be gone when its Seal comes, it is unpacked then.
            let why = "its epoch was a directory here before the start".to_owned();
            return self.shared.dues.unpacked(attempt, pack, Err(why));
        }
        let old = self.shared.dues.has_old_tree(attempt);
        // Where it stays, this is written over it.
        let clean = if old { self.store.discard(attempt).map_err(|error| error.to_string()) } else { Ok(()) };
        let result = clean.and_then(|()| {
            let names = match pages {
                [] => Names::of_whole(&self.log, pack.index),
                pages => Names::of_pages(&self.plans, pages),
            };
            match self.unpack_one(attempt, &pack, &names?)? {
                true => Ok(()),
                false => Err("the log does not hold them any more".to_owned()),
            }
        });
        if let Err(why) = &result {
            tracing::warn!(attempt, why, "small files cannot be unpacked on this node yet");
        }
        self.shared.dues.unpacked(attempt, pack, result);
    }

    /// False when the pack is neither in the log nor set aside.
    fn unpack_one(&self, attempt: u64, pack: &Pack, names: &Names) -> Result<bool, String> {
        let payload = aside::payload(&self.store, &self.log, attempt, pack.index);
        let Some(payload) = payload.map_err(|error| error.to_string())? else { return Ok(false) };
        let slice = |offset: u32, len: u32| {
            let start = offset as usize;
            payload.get(start..start + len as usize)
        };
        let mut files = Vec::with_capacity(pack.files.len());
        for (file, offset, len) in &pack.files {
            let data = slice(*offset, *len).ok_or("the pack is shorter than what it holds")?;
            let (path, mode) = names.get(*file).ok_or("the pack holds a file that the plan does not have")?;
            files.push(Unpacked { path, mode, data });
        }
        self.store.unpack(attempt, &files).map_err(|error| error.to_string())?;
        Ok(true)
    }

    /// Unpacks again what is in the log or was set aside, after something went wrong. What is in neither was unpacked
    /// and synced before it was purged; and whatever is not in the tree may still be a blob.
    fn unpack_again(&self, epoch: &PublishEpoch, packs: &[Arc<Pack>]) -> Result<(), String> {
        let (attempt, names) = (epoch.attempt, Names::Tree(epoch.manifest.clone()));
        for pack in packs {
            self.unpack_one(attempt, pack, &names)?;
        }
        self.shared.dues.unpacked_again(attempt);
        Ok(())
    }

    fn publish(&mut self, epochs: Vec<PublishEpoch>) {
        let mut ready = Vec::with_capacity(epochs.len());
        for epoch in epochs {
            let half = self.shared.dues.half_unpacked(epoch.attempt);
            match half.map_or(Ok(()), |packs| self.unpack_again(&epoch, &packs)) {
                Ok(()) => ready.push(epoch),
                // Its content came from peers meanwhile: no pack is needed.
                Err(_) if self.is_published(&epoch.job, epoch.epoch, epoch.attempt, epoch.envelope.root) => {
                    ready.push(epoch)
                }
                // These hold the log: their packs are set aside when that becomes too long.
                Err(why) => {
                    self.store.verified_in_vain(epoch.attempt);
                    self.unpublished(epoch, why, Outlook::Passes);
                }
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
                Err(why) => match self.in_store(&why) {
                    Some(lies) => self.without_bytes(epoch, lies),
                    None => self.unpublished(epoch, why.to_string(), Outlook::of(&why)),
                },
            }
        }
    }

    fn published(&mut self, epoch: &PublishEpoch) {
        let expired = self.shared.dues.published(epoch);
        if self.again.done(epoch.attempt) {
            self.shared.retry_behind(epoch.attempt);
        }
        if let Some(index) = expired {
            self.remove(epoch.job.clone(), epoch.epoch, index);
        }
    }

    /// Where what is missing lies, when that is a store and nowhere else.
    fn in_store(&self, why: &Unpublished) -> Option<String> {
        let Unpublished::Missing { path, content, .. } = why else { return None };
        let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner);
        let store = ledger.only_in_store(content)?;
        Some(format!("{path}: the bytes, which lie in the store {}, are not here yet", store.name))
    }

    /// Whoever brings the bytes asks for another try.
    fn without_bytes(&mut self, epoch: PublishEpoch, why: String) {
        tracing::info!(job = %epoch.job, epoch = epoch.epoch, why, "the epoch is committed, and waits for its bytes");
        let attempt = epoch.attempt;
        self.again.failed(attempt, Outlook::Stored, Instant::now());
        self.shared.dues.to_hydrate(epoch, why);
        self.file_tree(attempt);
    }

    fn unpublished(&mut self, epoch: PublishEpoch, why: String, outlook: Outlook) {
        tracing::warn!(job = %epoch.job, epoch = epoch.epoch, why, "the epoch is committed, but cannot be published on this node yet");
        let attempt = epoch.attempt;
        self.again.failed(attempt, outlook, Instant::now());
        self.shared.dues.unpublished(epoch, why);
        self.file_tree(attempt);
    }

    fn file_tree(&self, attempt: u64) {
        if let Err(error) = self.shared.dues.file_tree(&self.store, attempt) {
            tracing::warn!(attempt, %error, "the tree of an epoch that cannot be published stays in memory");
        }
    }

    /// Tries again what is due or asked for, some trees at a time.
    fn retry(&mut self, asked: &Retry, now: Instant) {
        let mut failed = self.shared.dues.failed();
        let owed: BTreeSet<u64> = failed.iter().map(|owed| owed.origin.attempt).collect();
        self.again.begin(|attempt| owed.contains(&attempt));
        failed.retain(|owed| {
            let attempt = owed.origin.attempt;
            asked.asks(attempt, self.again.is_stored(attempt)) || self.again.is_due(attempt, now)
        });
        let (mut some, mut entries) = (Vec::new(), 0);
        for owed in failed {
            if let Some(why) = self.store.still_verifying(owed.origin.attempt) {
                // Its tree may be in a file: not read only to hear this.
                self.again.failed(owed.origin.attempt, Outlook::of(&why), now);
                self.shared.dues.still_read(owed.origin.attempt, why.to_string());
                continue;
            }
            let Some(epoch) = self.tree_of(&owed) else { continue };
            entries += epoch.manifest.entries.len();
            some.push(epoch);
            if entries >= RETRY_ENTRIES {
                self.publish(std::mem::take(&mut some));
                entries = 0;
            }
        }
        self.publish(some);
        self.store.point_latest_again();
        // Asked afterwards: an epoch that was published just now has taken the place of an earlier one of its number.
        for ((job, epoch), index) in self.shared.dues.take_expiring() {
            self.remove(job, epoch, index);
        }
    }

    /// An epoch that could not be published, with its tree; `None` when that cannot be had now. One whose tree is lost or
    /// cannot be read is what its directory says, once somebody else has published it: that comes from a peer.
    fn tree_of(&mut self, owed: &dues::Unpublished) -> Option<PublishEpoch> {
        let attempt = owed.origin.attempt;
        let (why, outlook) = match self.shared.dues.tree(&self.store, attempt) {
            Ok(Some(epoch)) => return Some(epoch),
            Ok(None) => ("its tree is lost here: it has to come from a peer".to_owned(), Outlook::Lasts),
            Err(error) => {
                let outlook = if is_rot(&error) { Outlook::Lasts } else { Outlook::Passes };
                (format!("its tree cannot be read: {error}"), outlook)
            }
        };
        if let Some(epoch) = self.as_published(owed) {
            return Some(epoch);
        }
        self.store.verified_in_vain(attempt);
        self.again.failed(attempt, outlook, Instant::now());
        self.shared.dues.still_fails(attempt, why);
        None
    }

    fn as_published(&self, owed: &dues::Unpublished) -> Option<PublishEpoch> {
        let (envelope, manifest) = self.store.manifest(&owed.job, owed.epoch).ok()??;
        let sources = Arc::new(vec![Source::Reused; manifest.entries.len()]);
        let (attempt, job, epoch) = (owed.origin.attempt, owed.job.clone(), owed.epoch);
        let is_it = Origin::of(&envelope) == owed.origin;
        let manifest = Arc::new(manifest);
        is_it.then_some(PublishEpoch { attempt, job, epoch, envelope, manifest, sources })
    }

    fn expire(&mut self, job: JobName, epoch: u64, index: u64, released: &[Released]) {
        let key = (job, epoch);
        let failed = self.shared.dues.has_failed(&key);
        if let Some(attempt) = failed {
            let tree = self.shared.dues.tree(&self.store, attempt);
            self.shared.dues.expire_failed(attempt, index, tree);
        }
        self.release(index, released);
        if failed.is_none() {
            self.remove(key.0, epoch, index);
        }
    }

    /// Content was released: epochs that could not be published and have brought nothing that anybody needs are forgotten.
    fn release(&mut self, index: u64, released: &[Released]) {
        let forgotten = self.shared.dues.release(index, released);
        for dues::Unpublished { job, epoch, origin, expired, .. } in forgotten {
            tracing::info!(%job, epoch, "an epoch has expired that was never published here");
            self.discard(origin.attempt);
            // Not with the index of this record: the number may be another epoch's since.
            self.remove(job, epoch, expired.unwrap_or(index));
        }
    }

    /// Where `latest` points is a convenience: it is set right at every start, with every epoch, and with what is tried
    /// again.
    fn point_latest(&self, job: &JobName, avoid: BTreeSet<u64>) {
        if let Err(error) = self.store.avoid(job, avoid) {
            tracing::warn!(%job, %error, "`latest` cannot be moved yet");
        }
    }

    fn discard(&self, attempt: u64) {
        if let Err(error) = self.store.discard(attempt) {
            tracing::warn!(attempt, %error, "cannot remove what was built for an ended attempt; it goes with its staged files");
        }
    }

    /// Removes the folder of an epoch that has expired by the record at `index`, or notes it for when its last reader
    /// has left. The job may have been removed since and made anew: what was sealed later stays.
    fn remove(&mut self, job: JobName, epoch: u64, index: u64) {
        if self.shared.dues.owe_folder_that_is_read(&(job.clone(), epoch), index) {
            return;
        }
        let is_later = || {
            let ledger = self.ledger.read().unwrap_or_else(PoisonError::into_inner);
            ledger.epoch(&job, epoch).is_some_and(|info| info.sealed.position.index > index)
        };
        if let Err(error) = self.store.expire_until(&job, epoch, index, &is_later) {
            tracing::warn!(%job, epoch, %error, "the epoch has expired, but its directory cannot be removed yet");
            self.shared.dues.owe_folder((job, epoch), index);
            self.again.folder_stays(Instant::now());
        }
    }
}
