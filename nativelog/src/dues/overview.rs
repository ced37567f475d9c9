//! What a ledger says of epochs, compared with what lies on this disk.

use std::collections::{BTreeMap, BTreeSet};

use checkpoint::store::StoreError;
use checkpoint::{Digest, EntryKind, JobName, Manifest, Store};

use super::book::EpochKey;
use crate::ledger::Ledger;

/// What a ledger says of epochs.
pub struct Overview {
    /// By job the high-water mark, and attempt and root of each sealed epoch.
    jobs: BTreeMap<JobName, (u64, Sealed)>,
    /// Index of the last record that it knows.
    applied: Option<u64>,
}

/// By epoch: attempt and root.
type Sealed = BTreeMap<u64, (u64, Digest)>;

/// An epoch with a directory here that has expired.
pub struct Surplus {
    pub job: JobName,
    pub epoch: u64,
    /// Its content, as far as its manifest can be read.
    pub contents: Vec<(Digest, u64)>,
}

impl Overview {
    pub fn of(ledger: &Ledger) -> Overview {
        let jobs = ledger.jobs().filter_map(|job| {
            let sealed = ledger.sealed(job).map(|sealed| (sealed.epoch, (sealed.attempt, sealed.root)));
            Some((job.clone(), (ledger.high_water(job)?, sealed.collect())))
        });
        Overview { jobs: jobs.collect(), applied: ledger.applied().map(|id| id.index) }
    }

    /// Whether a directory is of an epoch that the ledger had and has no more: at or below the mark a number is spent,
    /// so that a record has decided it. So it is when a record that the ledger knows has sealed it, of a job that was
    /// removed since. What was sealed later is none of its business.
    fn has_expired(&self, store: &Store, job: &JobName, epoch: u64) -> bool {
        match self.jobs.get(job) {
            Some((_, sealed)) if sealed.contains_key(&epoch) => false,
            Some((mark, _)) if epoch <= *mark => true,
            _ => match store.envelope(job, epoch) {
                Ok(Some(envelope)) => self.applied.is_some_and(|applied| envelope.position.index <= applied),
                Ok(None) | Err(_) => false,
            },
        }
    }

    /// Directories of epochs that the ledger does not have any more.
    pub fn surplus(&self, store: &Store, there: &BTreeSet<EpochKey>) -> Vec<Surplus> {
        let expired = there.iter().filter(|(job, epoch)| self.has_expired(store, job, *epoch));
        expired
            .map(|(job, epoch)| {
                let (job, epoch) = (job.clone(), *epoch);
                let contents = match store.manifest(&job, epoch) {
                    Ok(Some((_, manifest))) => contents(&manifest),
                    Ok(None) => Vec::new(),
                    Err(error) => {
                        tracing::warn!(%job, epoch, %error, "an expired epoch does not say what it holds");
                        Vec::new()
                    }
                };
                Surplus { job, epoch, contents }
            })
            .collect()
    }

    /// What lies on the shelves, is not `known` to the ledger whose overview this is, and is in no directory above its
    /// marks: content that records up to the ledger's position let go of, or that came for an earlier ledger. With its
    /// bytes. `None` while such a directory has a manifest that cannot be read: what it holds is unknown.
    pub fn strays(
        &self,
        store: &Store,
        there: &BTreeSet<EpochKey>,
        known: &dyn Fn(&Digest) -> bool,
    ) -> Result<Option<BTreeMap<Digest, u64>>, StoreError> {
        let mut strays = store.shelved_besides(known)?;
        let above = there.iter().filter(|(job, epoch)| {
            self.jobs.get(job).is_none_or(|(mark, _)| epoch > mark) && !self.has_expired(store, job, *epoch)
        });
        for (job, epoch) in above {
            match store.manifest(job, *epoch) {
                Ok(None) => {}
                Ok(Some((_, manifest))) => {
                    for (digest, _) in contents(&manifest) {
                        strays.remove(&digest);
                    }
                }
                Err(error) => {
                    tracing::warn!(%job, epoch, %error, "a manifest cannot be read; nothing on the shelves is looked through");
                    return Ok(None);
                }
            }
        }
        Ok(Some(strays))
    }

    /// Sealed epochs without a directory.
    pub fn absent(&self, there: &BTreeSet<EpochKey>) -> Vec<(JobName, u64, u64, Digest)> {
        let sealed = self.jobs.iter().flat_map(|(job, (_, sealed))| {
            sealed.iter().map(move |(epoch, (attempt, root))| (job.clone(), *epoch, *attempt, *root))
        });
        sealed.filter(|(job, epoch, ..)| !there.contains(&(job.clone(), *epoch))).collect()
    }
}

/// What a tree holds: digest and bytes of every file that is not empty.
fn contents(manifest: &Manifest) -> Vec<(Digest, u64)> {
    let files = manifest.entries.iter().filter(|entry| entry.kind == EntryKind::File && entry.size > 0);
    files.map(|entry| (entry.digest, entry.size)).collect()
}

/// Everything in `epochs/`.
pub fn directories(store: &Store) -> Result<BTreeSet<EpochKey>, StoreError> {
    Ok(store.published_epochs()?.into_iter().collect())
}
