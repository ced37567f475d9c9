//! The performer's thread: takes effects that are flushed, and does them.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::JobName;
use checkpoint::disk::lacks_room;
use checkpoint::store::{Publish, Store, Unpacked, Unpublished};

use super::again::{Again, Outlook};
use super::waiting::Shelved;
use super::{Shared, Task, Work, tree_bytes};
use crate::dues::Pack;
use crate::ledger::{Effect, PublishEpoch, Released};
use crate::store::LogStore;

/// At most this many entries are performed before their marks move.
const BATCH_ENTRIES_MAX: usize = 512;
/// And not more than about so much work, unless it is that of one entry.
const BATCH_WEIGHT_MAX: u64 = 32 << 20;

pub struct Worker {
    shared: Arc<Shared>,
    store: Arc<Store>,
    log: LogStore,
    again: Again,
    earlier: BTreeSet<u64>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, store: Arc<Store>, log: LogStore, earlier: BTreeSet<u64>) -> Worker {
        Worker { shared, store, log, again: Again::default(), earlier }
    }

    pub fn run(mut self) {
        let shared = self.shared.clone();
        while self.wait() {
            let _working = shared.working.lock().unwrap_or_else(PoisonError::into_inner);
            let batch = self.next_batch();
            if let Some(last) = batch.last().map(|work| work.index) {
                let weight: u64 = batch.iter().map(|work| work.weight).sum();
                self.perform(batch);
                shared.done(weight);
                shared.move_to(last + 1);
            }
            let asked = std::mem::take(&mut shared.orders().retry_now);
            let now = Instant::now();
            if asked || self.again.next().is_some_and(|at| at <= now) {
                self.retry(asked, now);
            }
        }
    }

    /// Waits for flushed work or for the time to retry; false when it is time to stop.
    fn wait(&self) -> bool {
        let mut orders = self.shared.orders();
        let first = loop {
            if orders.stop {
                return false;
            }
            if orders.retry_now {
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
        orders.trees -= batch.iter().flat_map(|work| &work.tasks).map(tree_bytes).sum::<usize>();
        batch
    }

    fn perform(&mut self, batch: Vec<Work>) {
        let done = self.published_already(&batch);
        let mut publishing = Vec::new();
        for Work { index, tasks, .. } in batch {
            for task in tasks {
                let effect = match task {
                    Task::Effect(effect) => effect,
                    Task::Shelved(shelved) => match shelved.read() {
                        Ok(epoch) => Effect::Publish(epoch),
                        Err(why) => {
                            self.lost(&shelved, index, why, done.contains(&shelved.attempt));
                            continue;
                        }
                    },
                };
                match effect {
                    Effect::Unpack { attempt, index, files } => {
                        if !done.contains(&attempt) {
                            self.unpack(attempt, Pack { index, files });
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
                    Effect::Expire { job, epoch, released } => {
                        self.publish(std::mem::take(&mut publishing));
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
                        self.discard(attempt);
                        self.release(index, &released);
                    }
                }
            }
        }
        self.publish(publishing);
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
            if let Ok(Some(there)) = self.store.envelope(job, epoch)
                && (there.root, there.attempt) == (root, attempt)
            {
                done.insert(attempt);
            }
        }
        done
    }

    /// The tree of an epoch that waited is gone: peers have it. Nobody needs it when the epoch is `there` already.
    fn lost(&self, shelved: &Shelved, index: u64, why: String, there: bool) {
        let (job, epoch) = (&shelved.job, shelved.epoch);
        tracing::warn!(%job, epoch, why, "the tree of an epoch that waited to be published does not read back; it is fetched");
        let why = format!("its tree did not read back: {why}");
        self.shared.dues.lost(job, epoch, shelved.attempt, shelved.root, index, why);
        if there {
            self.shared.dues.adopted(job, epoch);
        }
    }

    fn unpack(&self, attempt: u64, pack: Pack) {
        if self.earlier.contains(&attempt) {
            // Should the directory be gone when its Seal comes, it is unpacked then.
            let why = "its epoch was a directory here before the start".to_owned();
            return self.shared.dues.unpacked(attempt, pack, Err(why));
        }
        let old = self.shared.dues.has_old_tree(attempt);
        // Where it stays, this is written over it.
        let clean = if old { self.store.discard(attempt).map_err(|error| error.to_string()) } else { Ok(()) };
        let result = clean.and_then(|()| self.unpack_one(attempt, &pack));
        if let Err(why) = &result {
            tracing::warn!(attempt, why, "small files cannot be unpacked on this node yet");
        }
        self.shared.dues.unpacked(attempt, pack, result);
    }

    fn unpack_one(&self, attempt: u64, pack: &Pack) -> Result<(), String> {
        let payload = self.log.payload(pack.index).map_err(|error| error.to_string())?;
        let slice = |offset: u32, len: u32| {
            let start = offset as usize;
            payload.get(start..start + len as usize)
        };
        let mut files = Vec::with_capacity(pack.files.len());
        for (path, mode, offset, len) in &pack.files {
            let data = slice(*offset, *len).ok_or("the pack is shorter than what it holds")?;
            files.push(Unpacked { path, mode: *mode, data });
        }
        self.store.unpack(attempt, &files).map_err(|error| error.to_string())
    }

    /// Unpacks again what the log still has, after something went wrong. What lies below the purge point was unpacked
    /// and synced before it was purged; and whatever is not in the tree may still be a blob.
    fn unpack_again(&self, attempt: u64, packs: &[Pack]) -> Result<(), String> {
        let purged = self.log.log_state().0;
        for pack in packs.iter().filter(|pack| purged.is_none_or(|purged| pack.index > purged.index)) {
            self.unpack_one(attempt, pack)?;
        }
        self.shared.dues.unpacked_again(attempt);
        Ok(())
    }

    fn publish(&mut self, epochs: Vec<PublishEpoch>) {
        let mut ready = Vec::with_capacity(epochs.len());
        for epoch in epochs {
            let half = self.shared.dues.half_unpacked(epoch.attempt);
            match half.map_or(Ok(()), |packs| self.unpack_again(epoch.attempt, &packs)) {
                Ok(()) => ready.push(epoch),
                // These hold the log: they are let go of when that becomes too long.
                Err(why) => self.unpublished(epoch, why, Outlook::Passes),
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
                Err(why) => self.unpublished(epoch, why.to_string(), outlook(&why)),
            }
        }
    }

    fn published(&mut self, epoch: &PublishEpoch) {
        let expired = self.shared.dues.published(epoch);
        if self.again.done(epoch.attempt) {
            self.shared.retry_now();
        }
        if let Some(index) = expired {
            self.remove(epoch.job.clone(), epoch.epoch, index);
        }
    }

    fn unpublished(&mut self, epoch: PublishEpoch, why: String, outlook: Outlook) {
        tracing::warn!(job = %epoch.job, epoch = epoch.epoch, why, "the epoch is committed, but cannot be published on this node yet");
        self.again.failed(epoch.attempt, outlook, Instant::now());
        self.shared.dues.unpublished(epoch, why);
    }

    /// Tries again what is due, or all when it was asked for.
    fn retry(&mut self, asked: bool, now: Instant) {
        let (mut failed, expiring) = (self.shared.dues.failed(), self.shared.dues.take_expiring());
        let owed: BTreeSet<u64> = failed.iter().map(|epoch| epoch.attempt).collect();
        self.again.begin(|attempt| owed.contains(&attempt));
        failed.retain(|epoch| asked || self.again.is_due(epoch.attempt, now));
        self.publish(failed);
        for ((job, epoch), index) in expiring {
            self.remove(job, epoch, index);
        }
    }

    fn expire(&mut self, job: JobName, epoch: u64, index: u64, released: &[Released]) {
        let key = (job, epoch);
        let failed = self.shared.dues.expire_failed(&key, index);
        self.release(index, released);
        if !failed {
            self.remove(key.0, epoch, index);
        }
    }

    /// Content was released: epochs that could not be published and hold nothing that anybody needs are forgotten.
    fn release(&mut self, index: u64, released: &[Released]) {
        let forgotten = self.shared.dues.release(index, released);
        for epoch in forgotten {
            tracing::info!(job = %epoch.job, epoch = epoch.epoch, "an epoch has expired that was never published here");
            self.discard(epoch.attempt);
            self.remove(epoch.job, epoch.epoch, index);
        }
    }

    /// Where `latest` points is a convenience: it is set right at every start and with every epoch.
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

    /// Removes the folder of an epoch that has expired, or notes it for when its last reader has left.
    fn remove(&mut self, job: JobName, epoch: u64, index: u64) {
        // The job may have been removed since and made anew: the number is another epoch's then.
        if let Ok(Some(there)) = self.store.envelope(&job, epoch)
            && there.position.index > index
        {
            return;
        }
        if self.shared.dues.owe_folder_that_is_read(&(job.clone(), epoch), index) {
            return;
        }
        if let Err(error) = self.store.expire(&job, epoch) {
            tracing::warn!(%job, epoch, %error, "the epoch has expired, but its directory cannot be removed yet");
            self.shared.dues.owe_folder((job, epoch), index);
            self.again.folder_stays(Instant::now());
        }
    }
}

fn outlook(why: &Unpublished) -> Outlook {
    match why {
        Unpublished::Io(error) if lacks_room(&error.source) => Outlook::Passes,
        _ => Outlook::Lasts,
    }
}
