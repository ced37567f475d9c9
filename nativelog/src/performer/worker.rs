//! The performer's thread: takes effects that are flushed, and does them.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use checkpoint::JobName;
use checkpoint::store::{Publish, Store, Unpacked};

use super::{Shared, Work};
use crate::dues::Pack;
use crate::ledger::{Effect, PublishEpoch, Released};
use crate::store::LogStore;

/// What could not be done here is tried again after this long.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// At most this many entries are performed before their marks move.
const BATCH_ENTRIES_MAX: usize = 512;

pub struct Worker {
    shared: Arc<Shared>,
    store: Arc<Store>,
    log: LogStore,
    retry_at: Option<Instant>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, store: Arc<Store>, log: LogStore) -> Worker {
        Worker { shared, store, log, retry_at: None }
    }

    pub fn run(mut self) {
        let shared = self.shared.clone();
        while self.wait() {
            let _working = shared.working.lock().unwrap_or_else(PoisonError::into_inner);
            let batch = self.next_batch();
            if let Some(last) = batch.last().map(|work| work.index) {
                let weight: usize = batch.iter().map(|work| work.weight).sum();
                self.perform(batch);
                shared.backlog.send_modify(|backlog| *backlog = backlog.saturating_sub(weight));
                shared.move_to(last + 1);
            }
            if self.is_time_to_retry() {
                self.retry();
            }
        }
    }

    fn is_time_to_retry(&self) -> bool {
        let asked = std::mem::take(&mut self.shared.orders().retry_now);
        asked || self.retry_at.is_some_and(|at| at <= Instant::now())
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
                .retry_at
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
        let queue = &mut orders.queue;
        let ready = queue.iter().take(BATCH_ENTRIES_MAX).take_while(|work| work.index < flushed).count();
        queue.drain(..ready).collect()
    }

    fn perform(&mut self, batch: Vec<Work>) {
        let done = self.published_already(&batch);
        let mut publishing = Vec::new();
        for Work { index, effects, .. } in batch {
            for effect in effects {
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
        for effect in batch.iter().flat_map(|work| &work.effects) {
            if let Effect::Publish(epoch) = effect
                && let Ok(Some(there)) = self.store.envelope(&epoch.job, epoch.epoch)
                && (there.root, there.attempt) == (epoch.envelope.root, epoch.attempt)
            {
                done.insert(epoch.attempt);
            }
        }
        done
    }

    fn unpack(&self, attempt: u64, pack: Pack) {
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
        let expired = self.shared.dues.published(epoch);
        if let Some(index) = expired {
            self.remove(epoch.job.clone(), epoch.epoch, index);
        }
    }

    fn unpublished(&mut self, epoch: PublishEpoch, why: String) {
        tracing::warn!(job = %epoch.job, epoch = epoch.epoch, why, "the epoch is committed, but cannot be published on this node yet");
        self.shared.dues.unpublished(epoch, why);
        self.retry_at = Some(Instant::now() + RETRY_AFTER);
    }

    fn retry(&mut self) {
        self.retry_at = None;
        let (failed, expiring) = (self.shared.dues.failed(), self.shared.dues.take_expiring());
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
            self.retry_at = Some(Instant::now() + RETRY_AFTER);
        }
    }
}
